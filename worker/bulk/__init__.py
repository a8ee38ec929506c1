"""The mode `bulk_operation`: one operation on many jobs, as a job."""
