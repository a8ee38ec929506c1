"""Three daemons at the default pace, each behind a proxy of its own, on a server that can be hurt.

In: a scene and its server. Out: work that goes on, victims, and how long it took until their jobs
ran again. Each daemon is kept from seeing the others' processes, as if each had a machine of its
own: so a dead one is found by its silence alone.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from db.server.embedded import Embedded
from tests.chaos.nursery import Daemon
from tests.chaos.scene import USUAL, Scene
from tests.chaos.verdict import VIOLATIONS
from tests.faults.clock import Clock
from tests.faults.lanes import overlaps, spans
from tests.proxy import Proxy
from tests.support import POLL_SECONDS, connect, until_sync

PLACES = 3
LANES = 10
OPEN_JOBS = 20
WORK_SECONDS = (0.2, 4.0)
# Far above the promise: what takes longer is lost.
RERUN_SECONDS = 90
DEFAULTS = USUAL | {
    "JOBSWORTH_HANDLERS": "tests.faults.handlers",
    # Deaths are charged to jobs; here they are not the jobs' fault.
    "JOBSWORTH_CRASHES_MAX": "1000",
}

# An immediate stop loses what was committed asynchronously: the tests' servers do that for speed.
SYNCHRONOUS: LiteralString = """
do $$ begin
  execute format('alter database %I set synchronous_commit = on', current_database());
end $$
"""
FOREIGN: LiteralString = """
create function public.hide() returns trigger language plpgsql as $$
begin
  new.pid_space := null;
  return new;
end $$;
create trigger hide before insert on jobsworth.workers
  for each row execute function public.hide()
"""
WORKER: LiteralString = "select id from jobsworth.workers where pid = %(pid)s"
RUNNING: LiteralString = """
select j.id, j.attempt
from jobsworth.reactive_jobs j
where j.status = 'running' and j.worker_id in (
  select w.id from jobsworth.workers w where w.pid = %(pid)s)
"""
OPEN: LiteralString = "select count(*) from jobsworth.reactive_jobs where finished_at is null"
ENDED: LiteralString = """
select j.id, j.status::text, j.attempt, j.error,
  (select count(*) from jobsworth.chat_messages m where m.job_id = j.id) as messages,
  (select count(*) from jobsworth.artifacts a where a.job_id = j.id) as artifacts
from jobsworth.reactive_jobs j
"""
CRASHED: LiteralString = """
select h.job_id, h.attempt, h.worker_id, h.pid
from jobsworth.attempt_history h
where h.outcome = 'crashed' and h.worker_id <> all(%(struck)s)
"""
WORKER_IDS: LiteralString = "select w.id from jobsworth.workers w where w.pid = %(pid)s"
LANE: LiteralString = """
select j.id::text, j.lane from jobsworth.reactive_jobs j where j.lane is not null
"""
TERMINATE: LiteralString = """
select pg_terminate_backend(a.pid) from pg_stat_activity a
where a.datname = current_database() and a.application_name like 'jobsworth%'
"""
LOCK_JOBS: LiteralString = """
select from jobsworth.reactive_jobs j where j.finished_at is null order by j.id limit 5 for update
"""
LOCK_WORKER: LiteralString = "select from jobsworth.workers w where w.pid = %(pid)s for update"


@dataclass
class Place:
    """Where a daemon runs: its proxy stays when the daemon is replaced."""

    proxy: Proxy
    daemon: Daemon


@dataclass(frozen=True)
class Struck:
    """A daemon that is dead to the others, and the attempts it had at that moment."""

    at_ns: int
    pid: int
    attempts: dict[str, int]


class World:
    """The daemons and their work."""

    def __init__(self, scene: Scene, server: Embedded, clock: Clock, draw: random.Random) -> None:
        scene.conn.execute(SYNCHRONOUS)
        scene.conn.execute(FOREIGN)
        scene.conn.close()
        self.scene = scene
        self.server = server
        self.clock = clock
        self.draw = draw
        self.struck: set[UUID] = set()
        self.stops: defaultdict[int, list[int]] = defaultdict(list)
        self.rerun_seconds: dict[str, list[float]] = defaultdict(list)
        self._threads = [scene.thread() for _ in range(LANES)]
        self._numbers = dict.fromkeys(self._threads, 0)
        self.places = [self._placed() for _ in range(PLACES)]

    def feed(self) -> None:
        """Keep the daemons busy, mostly in lanes."""
        for _ in range(OPEN_JOBS - self.scene.value(OPEN)):
            thread = self.draw.choice(self._threads)
            self._numbers[thread] += 1
            work = {"n": self._numbers[thread], "seconds": self.draw.uniform(*WORK_SECONDS)}
            lane = {} if self.draw.random() < 0.7 else {"lane": ""}
            self.scene.enqueue("faults.work", work, thread_id=thread, **lane)

    def rest(self, seconds: float) -> None:
        """Let the work go on for a while; the moment of a fault is what the seed chooses."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.feed()
            time.sleep(POLL_SECONDS)

    def busy(self) -> Place:
        """A place, drawn, whose daemon runs jobs."""
        places = self.draw.sample(self.places, len(self.places))

        def found() -> Place | None:
            self.feed()
            return next((one for one in places if self._running(one.daemon.pid)), None)

        place = until_sync(found, 60, "a daemon that works")
        assert place is not None
        return place

    def kill(self, place: Place) -> Struck:
        """SIGKILL. Its jobs are read after its death: until then it may end or begin one."""
        place.daemon.kill()
        return self._struck(place)

    def freeze(self, place: Place) -> Struck:
        """SIGSTOP."""
        place.daemon.pause()
        stat = Path(f"/proc/{place.daemon.pid}/stat")
        until_sync(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        return self._struck(place)

    def cut_off(self, place: Place) -> Struck:
        """It lives, and none of its messages arrives; it stops its attempts by itself."""
        self._strike(place)
        return Struck(time.monotonic_ns(), place.daemon.pid, self._running(place.daemon.pid))

    def until_rerun(self, kind: str, struck: Struck) -> None:
        """Until whatever it ran has begun again, or had ended; notes how long that took."""
        left = dict(struck.attempts)

        def all_begun() -> bool:
            self.feed()
            for entry in self.scene.diary():
                if entry.what == "began" and entry.attempt > left.get(entry.job, entry.attempt):
                    seconds = (entry.at_ns - struck.at_ns) / 1e9
                    self.rerun_seconds[kind].append(seconds)
                    del left[entry.job]
            for job in list(left):
                if self.scene.job(UUID(job))["status"] == "done":
                    del left[job]  # its commit was on the way
            return not left

        try:
            until_sync(all_begun, RERUN_SECONDS)
        except AssertionError:
            jobs = [self.scene.job(UUID(job)) for job in left]
            raise AssertionError(f"{kind}: not run again: {jobs}\n{self.tails()}") from None

    def replace(self, place: Place) -> None:
        """Another daemon in its place, as a supervisor does."""
        self.stops[place.daemon.pid].append(time.monotonic_ns())
        place.daemon.end()
        place.daemon = self._started(place.proxy)

    def wake(self, place: Place) -> None:
        """SIGCONT, and wait until it works as before."""
        place.daemon.resume()
        self.until_works(place)

    def until_works(self, place: Place) -> None:
        """Until it runs jobs again, under whatever name."""

        def works() -> bool:
            self.feed()
            return bool(self._running(place.daemon.pid))

        until_sync(works, 60, f"{place.daemon.pid} works again\n{place.daemon.tail()}")

    def terminate_backends(self) -> None:
        self.scene.conn.execute(TERMINATE)

    def restart(self, mode: str) -> None:
        self.scene.conn.close()
        self.clock.restart(self.server, mode)

    def holding_locks(self, place: Place) -> psycopg.Connection[Any]:
        """A transaction of somebody's that holds five jobs and the row of a living worker."""
        holder = connect(self.scene.url)
        holder.execute("begin")
        holder.execute(LOCK_JOBS)
        holder.execute(LOCK_WORKER, {"pid": place.daemon.pid})
        return holder

    def others(self, place: Place) -> list[Place]:
        return [one for one in self.places if one is not place]

    def check(self) -> int:
        """Nothing lost, nothing doubled, no lane overlapped, nobody taken for dead in error.

        Returns how many jobs there were.
        """
        self.scene.until_all_ended(120)
        ended = self.scene.rows(ENDED)
        for row in ended:
            once = (row["status"], row["messages"], row["artifacts"])
            assert once == ("done", 1, 1), row
        assert self.scene.rows(CRASHED, {"struck": list(self.struck)}) == []
        until_sync(lambda: self.scene.rows(VIOLATIONS) == [], 60, str(self.scene.rows(VIOLATIONS)))
        lanes = {row["id"]: row["lane"] for row in self.scene.rows(LANE)}
        attempts = spans(self.scene.diary(), self.stops)
        assert overlaps(attempts, lanes) == []
        return len(ended)

    def tails(self) -> str:
        return "\n".join(place.daemon.tail() for place in self.places)

    def close(self) -> None:
        for place in self.places:
            place.daemon.end()
            place.proxy.__exit__()

    def _placed(self) -> Place:
        proxy = Proxy(self.scene.url)
        return Place(proxy, self._started(proxy))

    def _started(self, proxy: Proxy) -> Daemon:
        return self.scene.start(DEFAULTS | {"JOBSWORTH_DATABASE_URL": proxy.url})

    def _struck(self, place: Place) -> Struck:
        at_ns, pid = time.monotonic_ns(), place.daemon.pid
        self.stops[pid].append(at_ns)
        self._strike(place)
        return Struck(at_ns, pid, self._running(pid))

    def _strike(self, place: Place) -> None:
        """Whoever works there may be taken for dead, with all that it ran."""
        rows = self.scene.rows(WORKER_IDS, {"pid": place.daemon.pid})
        self.struck.update(row["id"] for row in rows)

    def _running(self, pid: int) -> dict[str, int]:
        return {str(row["id"]): row["attempt"] for row in self.scene.rows(RUNNING, {"pid": pid})}
