"""A daemon dies at each named instant; the next one takes over, and nobody can tell."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from psycopg.sql import SQL, Identifier

from db.migrate import migrate
from db.schema import DEFAULT_SCHEMA
from db.server.embedded import Embedded
from tests.chaos.nursery import Daemon, Nursery
from tests.chaos.scene import Scene, playing
from tests.chaos.verdict import check_everything
from tests.conftest import MAJORS, SharedServers
from tests.support import POLL_SECONDS, connect, until_sync
from worker.crash_points import CRASH_POINTS

pytestmark = pytest.mark.chaos

Away = Callable[[], AbstractContextManager[None]]

AT_ONCE = 5
DIES_SECONDS = 30
ENDS_SECONDS = 60
TEMPLATE = "crash_points"
CREATE = SQL("create database {} template {} strategy file_copy")
CLOSE = SQL("alter database {} allow_connections false")
REOPEN = SQL("alter database {} allow_connections true")
HANG_UP = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
# These are reached once: by a rescue, by a daemon that gives jobs back, over an outage, and by work
# of their own.
STAGED = (
    *("rescue.committed", "release.updated", "spool.written", "spool.drained"),
    *("fair.keyed", "batch.returned", "bulk.applied", "bulk.committed", "retention.removed"),
)
# A command's, whose own test kills it there.
OF_COMMANDS = ("erase.committed",)
# All jobs that park meanwhile reach this together, so it is reached a few times only.
GROUPED = ("park.updated",)


@dataclass(frozen=True)
class Case:
    """Die when the point is reached for the `count`th time."""

    point: str
    count: int

    def __str__(self) -> str:
        return f"{self.point}:{self.count}"


# Old jobs: more than one batch of an operation, or of the removal, which rests long after each.
OLD = """
insert into jobsworth.reactive_jobs (mode, run_at)
select 'chaos.old', now() + interval '1 day' from generate_series(1, %s)
"""
OLD_JOBS, REMOVED_JOBS = 600, 220
OLD_LEFT = "select count(*) from jobsworth.reactive_jobs where mode = 'chaos.old'"
OLD_CANCELED = OLD_LEFT + " and status = 'canceled'"
END_OLD = """
select jobsworth.cancel(j.id) from jobsworth.reactive_jobs j where j.mode = 'chaos.old';
insert into jobsworth.retention (mode, keep_seconds) values ('chaos.old', 0)
"""
RESULT = """
select j.attempt, (j.result ->> 'applied')::int as applied
from jobsworth.reactive_jobs j
where j.mode = 'bulk_operation'
"""
FORGET = "delete from jobsworth.reactive_jobs where mode = 'chaos.old'"
CANCEL_OLD = {"operation": "cancel", "filter": {"mode": "chaos.old"}}
# What is left of the slots that jobs held.
ROOM = "select jobsworth.room_at('works', '')"


def _cases() -> list[Case]:
    points = [point for point in CRASH_POINTS if point not in OF_COMMANDS]
    first = [Case(point, 1) for point in points]
    later = [
        Case(point, 2 if point in GROUPED else random.Random(point).randint(2, 4))
        for point in points
        if point not in STAGED
    ]
    return [*first, *later]


@pytest.fixture(scope="module", params=MAJORS, ids=[f"pg{major}" for major in MAJORS])
def playing_out(
    request: pytest.FixtureRequest,
    shared_servers: SharedServers,
    nursery: Nursery,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[Case, Future[None]]]:
    """All cases, a few at a time: most of a case is waiting for the rescue."""
    server = shared_servers.get(request.param)
    _make_template(server)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        yield {
            case: threads.submit(_play, case, server, tmp_path_factory.mktemp("case"), nursery)
            for case in _cases()
        }


@pytest.mark.parametrize("case", _cases(), ids=str)
def test_a_death_at_this_point_loses_and_doubles_nothing(
    case: Case, playing_out: dict[Case, Future[None]]
) -> None:
    playing_out[case].result()


def _play(case: Case, server: Embedded, directory: Path, nursery: Nursery) -> None:
    name = f"crash_{case}"
    with connect(server.database_url("postgres")) as conn:
        conn.execute(CREATE.format(Identifier(name), Identifier(TEMPLATE)))
    with playing(server.database_url(name), directory, nursery) as scene:
        _give_work(scene, case)
        _die(scene, case, partial(_away, server, name))
        scene.start()
        scene.until_all_ended(ENDS_SECONDS)
        _check_old_jobs(scene, case)
        check_everything(scene)
        assert scene.value(ROOM) in (1, float("inf"))


def _give_work(scene: Scene, case: Case) -> None:
    # The second death at each point comes upon jobs that have to pass limits.
    if case.count > 1 or case.point == "claim.held_up":
        scene.value("select jobsworth.set_job_limit('works', mode => 'chaos.work', slots => 1)")
        scene.value("select jobsworth.set_job_limit('kids', mode => 'chaos.child', rate => 9)")
    if case.point == "batch.returned":
        for n in range(4):
            scene.enqueue("chaos.batch", {"n": n})
    if case.point.startswith(("bulk.", "retention.")):
        bulk = case.point.startswith("bulk.")
        scene.conn.execute(OLD, [OLD_JOBS if bulk else REMOVED_JOBS])
    # Its window must be the sum of its calls, whoever dies.
    scene.value("select jobsworth.set_budget('all', 'tokens', 100000, 'day')")
    for _ in range(2):
        thread = scene.thread()
        for n in range(2):
            work = {"n": n, "children": 2 * n, "ask": n == 0}
            scene.enqueue("chaos.work", work, thread_id=thread)


def _die(scene: Scene, case: Case, away: Away) -> None:
    reached = scene.directory / "reached"
    armed = {"JOBSWORTH_CRASH_POINT": str(case), "JOBSWORTH_CRASH_LOG": str(reached)}
    match case.point:
        case "rescue.committed":
            held = scene.enqueue("chaos.hold")
            victim = scene.start()
            scene.until_noted("began", held, 1)
            victim.kill()
            daemon = scene.start(armed)
        case "release.updated":
            held = scene.enqueue("chaos.hold")
            daemon = scene.start(armed | {"JOBSWORTH_DRAIN_SECONDS": "0.2"})
            scene.until_noted("began", held, 1)
            daemon.terminate()
        case "spool.written":
            daemon = _die_with_an_answer(scene, armed, away)
        case "spool.drained":
            _die_with_an_answer(scene, {"JOBSWORTH_CRASH_POINT": "spool.written"}, away)
            daemon = scene.start(armed)
        case "fair.keyed":
            scene.value("select jobsworth.set_fair('default', true)")
            daemon = scene.start(armed)
        case "bulk.applied" | "bulk.committed":
            scene.enqueue("bulk_operation", CANCEL_OLD)
            daemon = scene.start(armed)
        case "retention.removed":
            scene.conn.execute(END_OLD)
            daemon = scene.start(armed)
        case _:
            daemon = scene.start(armed)

    give_up = time.monotonic() + DIES_SECONDS
    while daemon.running:
        assert time.monotonic() < give_up, f"{case} is not reached\n{daemon.tail()}"
        scene.decide()
        time.sleep(POLL_SECONDS)
    assert daemon.wait() == -signal.SIGKILL, daemon.tail()
    assert case.point in reached.read_text().split()


def _check_old_jobs(scene: Scene, case: Case) -> None:
    if case.point.startswith("bulk."):
        assert scene.value(OLD_CANCELED) == OLD_JOBS
        [result] = scene.rows(RESULT)
        assert result["attempt"] == 2
        assert result["applied"] == OLD_JOBS
        scene.conn.execute(FORGET)
    if case.point == "retention.removed":
        until_sync(lambda: scene.value(OLD_LEFT) == 0, ENDS_SECONDS)


def _die_with_an_answer(scene: Scene, env: Mapping[str, str], away: Away) -> Daemon:
    """A daemon whose database is away when the answer to a call arrives, until it has died."""
    held = scene.enqueue("chaos.work", {"n": 9, "hold": True}, thread_id=scene.thread())
    daemon = scene.start(env)
    scene.until_noted("billed", held, 1)
    scene.conn.close()
    with away():
        scene.open_gate()
        daemon.wait(DIES_SECONDS)
    return daemon


@contextmanager
def _away(server: Embedded, name: str) -> Generator[None]:
    """Nobody reaches this database of the server meanwhile."""
    with connect(server.database_url("postgres")) as conn:
        conn.execute(CLOSE.format(Identifier(name)))
        conn.execute(HANG_UP, [name])
        yield
        conn.execute(REOPEN.format(Identifier(name)))


def _make_template(server: Embedded) -> None:
    with connect(server.database_url("postgres")) as conn:
        conn.execute(SQL("create database {}").format(Identifier(TEMPLATE)))
    migrate(server.database_url(TEMPLATE), DEFAULT_SCHEMA)
