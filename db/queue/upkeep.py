"""Which kinds of upkeep have work to do right now.

Out: what is due, in one answer. Invariant: one statement that writes and locks nothing. Finished
jobs and the running jobs of living workers cost it nothing, so a worker without work may ask every
other second.
"""

from dataclasses import dataclass
from typing import LiteralString

from db.pool import Connection, fetch_one
from db.queue.stalled import APPLICATIONS, Stalled


@dataclass(frozen=True, slots=True)
class DueWork:
    """What upkeep has to do. `rescue`: the worker of a running job has no row. `sweep` names what
    to look at again: the reasons that jobs wait for, `orphan` if something open may hang on an
    ended job, and `run` if a run is open. `schedule_in` is in how many seconds a schedule fires or
    has to be planned, `rate_in` in how many a job has its turn at the rate of a limit; None if none
    does. `gates`: jobs may wait at gates (limits of jobs, environments). `fair_queues` are their
    names.
    `stalled` are the workers' server processes that wait for their clients right now, most of them
    for a moment.
    `looked_seconds` is the time the server took to find out.
    """

    rescue: bool
    expire: bool
    expired_jobs: bool
    deployments: bool
    sweep: list[str]
    gates: bool
    schedule_in: float | None
    rate_in: float | None
    fair_queues: list[str]
    stalled: set[Stalled]
    looked_seconds: float


# Stalled are those of this role that have written something. A COPY waits for what its client
# makes, and locks no job.
DUE_WORK: LiteralString = """
select c.rescue, c.expire, c.expired_jobs, c.deployments, c.sweep, c.gates, c.schedule_in,
  c.rate_in, c.fair_queues, c.looked_seconds, array(
  select jsonb_build_array(a.pid, a.query_start::text)
  from pg_stat_activity a
  where a.datname = current_database() and a.usename = current_user
    and a.application_name = any(%(applications)s) and a.state = 'active'
    and a.wait_event_type = 'Client' and a.backend_xid is not null
    and a.query !~* '^\\s*copy'
) as stalled
from jobsworth.due_work() c
"""


async def due_work(conn: Connection) -> DueWork:
    """What is due."""
    found = await fetch_one(conn, DUE_WORK, {"applications": APPLICATIONS})
    assert found is not None
    stalled = {Stalled(*one) for one in found.pop("stalled")}
    return DueWork(**found, stalled=stalled)
