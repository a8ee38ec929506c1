"""Schedules that handlers declare: kept as the code has them, by real daemons too."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, LiteralString

import pytest
import structlog
from structlog.testing import LogCapture

from db.pool import Connection, Database
from db.schedules import schedules
from db.schedules.schedules import NewSchedule
from tests.chaos.scene import Scene
from tests.support import until_sync
from worker.handlers import Handler, HandlerError, handler, registry
from worker.schedules import declared
from worker.schedules.declared import Declared

TICKS: LiteralString = """
select f.at, f.outcome::text, j.status::text
from jobsworth.schedule_firings f
join jobsworth.schedules s on s.id = f.schedule_id and s.name = 'tick'
left join jobsworth.reactive_jobs j on j.id = f.job_id
order by f.at
"""


def declaring(mode: str, schedule: str | timedelta | None) -> dict[str, Handler]:
    """A registry with one handler."""

    @handler(mode, schedule=schedule)
    async def function() -> None: ...

    return {mode: registry.pop(mode)}


async def sync(database: Database, found: dict[str, Handler]) -> None:
    await Declared(database, found).work()


async def test_a_declaration_is_written_once_and_follows_the_code(
    conn: Connection, database: Database
) -> None:
    for _ in range(3):
        await sync(database, declaring("report", "0 8 * * *"))
    [first] = await schedules.list_all(conn)
    assert (first.name, first.mode, first.cron, first.declared) == (
        *("report", "report", "0 8 * * *"),
        True,
    )
    await sync(database, declaring("report", timedelta(hours=2)))
    [second] = await schedules.list_all(conn)
    assert (second.id, second.cron, second.every_seconds) == (first.id, None, 7200)


async def test_a_handler_that_declares_none_any_more_has_its_schedule_paused(
    conn: Connection, database: Database
) -> None:
    await sync(database, declaring("report", "0 8 * * *"))
    await sync(database, declaring("other", None))  # a worker that does not know the mode
    assert not (await schedules.get(conn, "report")).paused
    await sync(database, declaring("report", None))
    assert (await schedules.get(conn, "report")).paused


async def test_a_pause_of_a_person_outlives_the_restarts_of_workers(
    conn: Connection, database: Database
) -> None:
    await sync(database, declaring("report", "0 8 * * *"))
    await schedules.pause(conn, "report")
    await sync(database, declaring("report", "0 9 * * *"))
    found = await schedules.get(conn, "report")
    assert (found.paused, found.cron) == (True, "0 9 * * *")


async def test_a_schedule_of_that_name_made_by_hand_is_left_alone(
    conn: Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = LogCapture()
    # A logger that has logged before keeps the set-up of then.
    monkeypatch.setattr(declared, "log", structlog.wrap_logger(None, processors=[said]))
    await schedules.add(conn, NewSchedule("report", "other", cron="0 1 * * *"))
    await sync(database, declaring("report", "0 8 * * *"))
    assert (await schedules.get(conn, "report")).mode == "other"
    [entry] = said.entries
    assert "made by hand" in entry["error"]
    assert "jobsworth schedule remove report" in entry["remedy"]


@pytest.mark.parametrize(
    ("schedule", "said"),
    [("0 0 30 2 *", "never fires"), ("hourly", "five fields"), (timedelta(0), "one second")],
)
def test_a_declaration_that_never_fires_is_refused_with_its_handler(
    schedule: str | timedelta, said: str
) -> None:
    with pytest.raises(HandlerError, match=f"the handler of 'report'.*{said}"):
        declaring("report", schedule)


def test_three_daemons_fire_a_declared_schedule_once_a_second(scene: Scene) -> None:
    for _ in range(3):
        scene.start({"JOBSWORTH_HANDLERS": "tests.worker.schedules.handlers"})
    until_sync(lambda: len([tick for tick in _ticks(scene) if tick["status"] == "done"]) >= 4, 60)
    times = [tick["at"] for tick in _ticks(scene)]
    assert len(times) == len({*times})
    begin = times[0]
    assert all((time - begin) % timedelta(seconds=1) == timedelta(0) for time in times)


def _ticks(scene: Scene) -> list[dict[str, Any]]:
    return scene.rows(TICKS)
