"""Diagnosis: the health of the installation, broken invariants, and all that belongs to a job.

health and violations are read by metrics, checkup by `jobsworth doctor`, lookup and paperwork by
the command line. Why one job does not run is `db.queue.jobs.why`.
"""
