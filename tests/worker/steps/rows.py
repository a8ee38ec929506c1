"""The rows of steps that several tests look at."""

STEPS = """
select name, effect::text, input_hash, output, attempt, finished_at is not null as recorded, error,
  begun_by
from jobsworth.steps
order by started_at, name
"""
