"""Feeding, watching and killing, on a real database."""

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
import pytest
from rich.console import Console

from db.approvals import approvals
from db.pool import Database
from db.queue import jobs
from db.queue.jobs import Job, JobStatus
from db.steps import steps
from worker.demo import daemons as daemons_module
from worker.demo import inbox, play
from worker.demo.daemons import DaemonEnded, Daemons, daemons_of
from worker.demo.feed import Feeder
from worker.demo.kill import HeldJob, Kill, cost_of
from worker.demo.provider.model import ServedModel
from worker.demo.show import WIDTH_PIPED, Show
from worker.demo.stage import Stage
from worker.demo.watch import Stalled, Watch
from worker.settings import Settings

LINE = {"user": "Ada", "text": "Is it raining?"}


@pytest.fixture
def daemons(database_url: str, tmp_path: Path) -> Iterator[Daemons]:
    """Daemons of which none is started yet."""
    values: dict[str, Any] = {"data_dir": tmp_path, "database_url": database_url}
    stage = Stage(tmp_path, database_url, "jobsworth", embedded=False)
    with daemons_of(
        Settings(**values), stage, tmp_path / "deploy.toml", ServedModel("offline")
    ) as none:
        yield none


@pytest.fixture
def watch(database: Database, daemons: Daemons) -> Watch:
    return Watch(database, daemons, silent(), stall_seconds=0.5)


@pytest.fixture
def patient_watch(database: Database, daemons: Daemons) -> Watch:
    """A watch for what does happen, however long a busy machine takes."""
    return Watch(database, daemons, silent(), stall_seconds=30)


def silent() -> Show:
    return Show(Console(file=io.StringIO()))


def script(*lines: dict[str, Any]) -> list[inbox.InboxMessage]:
    return [
        inbox.InboxMessage.model_validate(LINE | line).model_copy(update={"line": number})
        for number, line in enumerate(lines, 1)
    ]


async def finish(database: Database, job_id: UUID) -> None:
    await database.execute("select jobsworth.cancel(%(id)s)", {"id": job_id})


async def test_a_message_and_its_job_come_in_together(database: Database, watch: Watch) -> None:
    feeder = Feeder(database, watch, silent(), script({"thread": "a", "payload": {"text": "x"}}))
    await feeder.feed()
    [fed] = feeder.fed
    async with database.connection() as connection:
        [job] = await jobs.list_jobs(connection)
    assert job.trigger_message_id == fed.received.message.id
    assert (job.mode, job.payload) == ("classify", {"text": "x"})


async def test_a_busy_message_finds_its_lane_taken(database: Database, watch: Watch) -> None:
    feeder = Feeder(
        database, watch, silent(), script({"thread": "a"}, {"thread": "a", "when": "busy"})
    )
    await feeder.feed()
    assert [one.received.job and one.received.job.waiting_for for one in feeder.fed] == [
        None,
        "lane",
    ]
    assert watch.waits.keys() == {"lane"}


async def test_a_redelivered_message_changes_nothing(database: Database, watch: Watch) -> None:
    line = {"thread": "a", "platform_message_id": "7"}
    feeder = Feeder(database, watch, silent(), script(line, line))
    await feeder.feed()
    first, again = (one.received for one in feeder.fed)
    assert (first.duplicate, again.duplicate) == (False, True)
    assert first.message.id == again.message.id
    async with database.connection() as connection:
        assert len(await jobs.list_jobs(connection)) == 1


async def test_a_message_that_waits_for_its_thread_delays_no_other_thread(
    database: Database, watch: Watch
) -> None:
    lines = ({"thread": "a"}, {"thread": "a", "when": "settled"}, {"thread": "a"}, {"thread": "b"})
    feeder = Feeder(database, watch, silent(), script(*lines))
    with pytest.raises(Stalled, match="feeding the conversation: nothing has changed"):
        await feeder.feed()
    assert [one.message.line for one in feeder.fed] == [1, 4]
    job = feeder.fed[0].received.job
    assert job
    await finish(database, job.id)
    await feeder.feed()
    assert [one.message.line for one in feeder.fed] == [1, 4, 2, 3]


async def test_feeding_stops_at_the_given_number_of_messages(
    database: Database, watch: Watch
) -> None:
    feeder = Feeder(database, watch, silent(), script(*({"thread": name} for name in "abcd")))
    await feeder.feed(most=2)
    assert [one.message.line for one in feeder.fed] == [1, 2]


@pytest.mark.parametrize(
    ("decide", "chosen", "comment"),
    [
        ("approve", "approve", None),
        ({"option": "reject", "comment": "no"}, "reject", "no"),
        ({"option": "next year", "comment": "?"}, "reject", "?"),
        (None, "reject", "the inbox does not decide"),
    ],
)
async def test_an_approval_is_decided_as_the_script_says(
    database: Database, patient_watch: Watch, decide: object, chosen: str, comment: str | None
) -> None:
    feeder = Feeder(database, patient_watch, silent(), script({"thread": "a", "decide": decide}))
    await feeder.feed()
    job = feeder.fed[0].received.job
    assert job
    async with database.connection() as connection:
        approval = await approvals.create(connection, "Do it?", job_id=job.id)
        assert not await feeder.finished()
        await patient_watch.until("deciding", lambda: _decided(feeder, database, approval.id))
        decided = await approvals.get_by_id(connection, approval.id)
    assert (decided.chosen_option, decided.comment) == (chosen, comment)
    assert decided.decided_by == "Ada"


async def test_approvals_of_other_modes_are_not_decided(database: Database, watch: Watch) -> None:
    line = {"thread": "a", "mode": "order", "decide": "approve"}
    feeder = Feeder(database, watch, silent(), script(line), others=("order",))
    await feeder.feed()
    job = feeder.fed[0].received.job
    assert job
    async with database.connection() as connection:
        approval = await approvals.create(connection, "Do it?", job_id=job.id)
        with pytest.raises(Stalled):
            await watch.until("deciding", lambda: _decided(feeder, database, approval.id))


async def _decided(feeder: Feeder, database: Database, approval_id: UUID) -> bool:
    await feeder.finished()
    async with database.connection() as connection:
        return (await approvals.get_by_id(connection, approval_id)).closed_at is not None


async def test_a_job_that_hangs_is_named_with_its_reason_and_remedy(
    database: Database, watch: Watch
) -> None:
    feeder = Feeder(database, watch, silent(), script({"thread": "a", "mode": "nonsense"}))
    await feeder.feed()
    with pytest.raises(Stalled) as stalled:
        await watch.until("waiting for the end", feeder.finished)
    assert "waiting for the end: nothing has changed for" in stalled.value.message
    assert "nonsense job" in stalled.value.message
    assert "no worker" in stalled.value.message
    assert stalled.value.remedy == "start one: jobsworth worker"


async def test_jobs_are_listed_oldest_first(database: Database, watch: Watch) -> None:
    async with database.connection() as connection:
        ids = [(await jobs.enqueue(connection, "answer")).job_id for _ in range(3)]
    await watch.look()
    assert [job.id for job in watch.jobs] == ids


def test_a_daemon_that_ends_by_itself_is_reported_with_its_last_lines(daemons: Daemons) -> None:
    daemon = daemons.start()
    daemon.log.write_text("I have had enough\n")
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    with pytest.raises(DaemonEnded, match=r"(?s)exit code -9:.*I have had enough"):
        daemons.require_alive()


def test_a_daemon_that_was_killed_on_purpose_is_not_reported(daemons: Daemons) -> None:
    daemons.start().kill()
    daemons.require_alive()
    assert daemons.living == []


def test_the_stage_names_the_files_that_the_handlers_write() -> None:
    stage = Stage(Path(), "", "jobsworth", embedded=False)
    handlers = (Path(daemons_module.__file__).with_name("handlers.py")).read_text()
    for name, path in (
        ("READING_LOG", stage.reading_log),
        ("DIARY", stage.diary),
        ("WANTED", stage.wanted),
    ):
        assert f'{name} = Path("{path.name}")' in handlers


def test_a_long_line_is_wrapped_and_indented() -> None:
    output = io.StringIO()
    show = Show(Console(file=output))
    show.say("tea " * 40)
    first, second = output.getvalue().rstrip().split("\n")
    assert first.startswith("   0.0 s  tea")
    assert second.startswith(" " * 10 + "tea")
    assert len(first) <= WIDTH_PIPED


def running(job_id: UUID, lease_no: int) -> Job:
    values: dict[str, Any] = {
        name: None if NoneType in get_args(field.annotation) else 0
        for name, field in Job.model_fields.items()
    }
    return Job.model_validate(
        values
        | {
            "id": job_id,
            "mode": "digest",
            "queue": "default",
            "payload": {},
            "status": "running",
            "worker_id": uuid4(),
            "lease_no": lease_no,
            "created_at": "2026-01-01T12:00:00Z",
        }
    )


def test_a_held_job_runs_again_once_it_has_another_lease(daemons: Daemons) -> None:
    job = running(uuid4(), 7)
    kill = Kill(daemons.start(), 0.0, (HeldJob(job, ()),))
    kill.note_reruns([job, running(uuid4(), 8)])
    assert kill.again == {}
    kill.note_reruns([job.model_copy(update={"status": JobStatus.QUEUED})])
    assert kill.again == {}
    kill.note_reruns([job.model_copy(update={"lease_no": 8})])
    assert kill.again.keys() == {job.id}


async def test_a_recorded_step_that_was_done_again_is_found(
    database: Database, daemons: Daemons, tmp_path: Path
) -> None:
    async with database.connection() as connection:
        job_id = (await jobs.enqueue(connection, "digest")).job_id
        for name in ("chapter 1", "chapter 2", "chapter 3"):
            await database.execute(
                "insert into jobsworth.steps (job_id, name, output, attempt, finished_at) "
                "values (%(job_id)s, %(name)s, '1', 1, now())",
                {"job_id": job_id, "name": name},
            )
        recorded = tuple(await steps.list_for_job(connection, job_id))
        # A later attempt recorded the second step again; the third chapter was read twice.
        await database.execute(
            "update jobsworth.steps set attempt = 2 where name = 'chapter 2'", {}
        )
        (tmp_path / "reading.log").write_text(f"{job_id} chapter 3\n" * 2 + f"{job_id} chapter 1\n")
        kill = Kill(daemons.start(), 0.0, (HeldJob(running(job_id, 7), recorded),))
        cost = await cost_of(connection, kill, tmp_path / "reading.log")
    assert (cost.held, cost.ran_again, cost.steps_kept) == (1, 0, 1)
    assert [step.rpartition(" ")[2] for step in cost.steps_repeated] == ["2", "3"]


async def test_a_second_signal_does_not_interrupt_the_cleanup() -> None:
    cleared: list[bool] = []

    async def work() -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep_forever()
            return play.OK
        finally:
            with anyio.CancelScope(shield=True):
                os.kill(os.getpid(), signal.SIGINT)
                await anyio.lowlevel.checkpoint()
                cleared.append(True)

    assert await play.interruptible(work) == play.INTERRUPTED
    assert cleared == [True]
