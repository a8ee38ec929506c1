"""The time from a job's commit to its start, with an idle worker."""

import time
from collections.abc import Iterator

import psycopg

from bench.contender import Contender, ContenderError, setup, trickle, working
from bench.lab import OURS, Lab, Measured
from bench.results import Figure

NAME = "pickup"
TITLE = "Pick-up: from the enqueue call to the handler's start, worker idle"
METHOD = """
100 jobs, one about every 50 ms (+-20 %), enqueued by another process. A job carries the instant
just before its enqueue call; its handler subtracts that from the instant it starts at. Ours once
more in a database that refuses the session which listens for notifications (by an event trigger on
its login; the heartbeat, on a direct connection as well, gets through): then a job is found by
polling alone. At most three runs.
"""

RUNS_MAX = 3

EVERY_MS = 50
# The time in which a worker connects, listens and finds no job.
SETTLE_SECONDS = 2.0
LISTEN_CUT = "LISTEN cut"

# Not by JOBSWORTH_LISTEN_URL: the heartbeat uses it, too.
REFUSE_LISTENER = """
create function refuse_listener() returns event_trigger language plpgsql as $$
begin
  if current_setting('application_name') = 'jobsworth listen' then
    raise exception 'no notifications here';
  end if;
end $$;
create event trigger refuse_listener on login execute function refuse_listener();
alter event trigger refuse_listener enable always;
"""


def run(lab: Lab) -> Iterator[Figure]:
    """Measure percentiles of every queue, and of Jobsworth without notifications."""

    def measure(contender: Contender) -> Measured:
        normal = pickup(lab, contender, "")
        return normal | pickup(lab, contender, LISTEN_CUT) if contender.name == OURS else normal

    yield from lab.interleaved(NAME, lab.queues, measure, runs_max=RUNS_MAX)


def pickup(lab: Lab, contender: Contender, variant: str) -> dict[tuple[str, str], float]:
    """Measure one trickle of jobs to one idle worker."""
    jobs = lab.size(100, 20)
    url = lab.server.database("pickup")
    setup(contender, url)
    if variant == LISTEN_CUT:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(REFUSE_LISTENER)
    with working(contender, url, jobs=jobs) as work:
        time.sleep(SETTLE_SECONDS)
        trickle(contender, url, jobs, EVERY_MS)
        work.wait_ran(jobs)
        delays: list[int] = sorted(work.stop().get("delays_us", ()))
    if len(delays) != jobs:
        raise ContenderError(f"reported {len(delays)} delays of {jobs} jobs")
    return {
        ("p50 ms", variant): at_percent(delays, 50) / 1000,
        ("p95 ms", variant): at_percent(delays, 95) / 1000,
        ("p99 ms", variant): at_percent(delays, 99) / 1000,
        ("max ms", variant): delays[-1] / 1000,
    }


def at_percent(values: list[int], percent: int) -> int:
    """The nearest-rank percentile of sorted values."""
    return values[max(0, -(-len(values) * percent // 100) - 1)]
