"""`job.deploy` and `job.rollback`: consent, the environment's row, and the pipeline that ships."""
