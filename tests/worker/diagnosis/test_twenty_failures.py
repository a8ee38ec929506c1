"""An operator who knows only the command line: for twenty failures, `why` and `job show` name the
cause, and what they say to do works when it is pasted.

The transcript is one story in one database. Each failure is made on purpose; then its job's `why`
must name the cause, its remedy is pasted into a shell, and the job must go on from there.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import anyio
import click
import psycopg

from db.money import budgets
from db.money.calls import Usage
from jobsworth import Answer, Fail, Job, handler
from tests.db import protocol
from tests.support import run_cli, until
from tests.worker.job_api import JobApi
from worker.cli.program import Program

# What a remedy offers to paste: up to the next clause.
END = r", | \(|; | \[|\)|$"
QUOTED = r"""(?:"[^"]*"|'[^']*')"""
COMMAND = re.compile(rf"jobsworth (?:{QUOTED}|(?!{END}).)+?(?={END})")
SCHEMA = Path("migrations/schema").absolute()
SILENT: LiteralString = """
update jobsworth.workers set beaten_at = now() - interval '40 seconds' returning id
"""


def commands_in(remedy: str) -> list[list[str]]:
    """The commands of a remedy, as a shell would split them, without the program's name."""
    return [shlex.split(found)[1:] for found in COMMAND.findall(remedy)]


class Operator:
    """Types commands, and keeps what was typed and shown."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.transcript: list[str] = []

    def type(self, *words: str) -> str:
        ended: subprocess.CompletedProcess[str] = run_cli(*words, url=self._url)
        shown = ended.stdout + ended.stderr
        self.transcript.append(f"$ jobsworth {shlex.join(words)}\n{shown}")
        assert ended.returncode == 0, self.transcript[-1]
        return shown

    def why(self, job_id: UUID, *causes: str) -> str:
        """The remedy, once `why` and `job show` have named all these causes."""
        said = self.type("why", str(job_id))
        shown = " ".join(self.type("job", "show", str(job_id)).split())
        for cause in causes:
            assert cause in " ".join(said.split()), said
            assert cause in shown, shown
        return said.partition("→ ")[2].strip()

    def paste(self, remedy: str, n: int = 0) -> str:
        """Paste the n-th command that a remedy offers."""
        return self.type(*commands_in(remedy)[n])


class Switch:
    """What is broken in the operator's world until it is mended."""

    mended = False


async def test_twenty_failures_and_what_the_operator_does(api: JobApi) -> None:
    operator, world = Operator(api.url), Switch()
    held: list[Any] = []

    def broken(do: Callable[[], Any]) -> Any:
        return None if world.mended else do()

    def divide() -> float:
        return 1 / 0

    @handler("raises", failures_max=1)
    async def raises() -> None:
        broken(divide)

    @handler("flaky")
    async def flaky() -> None:
        if not world.mended:
            raise ConnectionError("the shop does not answer")

    @handler("typed")
    async def typed(count: int) -> int:
        return count

    @handler("slow", timeout_seconds=0.05, failures_max=1)
    async def slow() -> None:
        if not world.mended:
            await anyio.sleep_forever()

    @handler("exits", failures_max=1)
    async def exits() -> None:
        broken(lambda: exit(3))

    @handler("odd")
    async def odd() -> object:
        return None if world.mended else object()

    @handler("gives_up")
    async def gives_up() -> None:
        if not world.mended:
            raise Fail("the order does not exist")

    @handler("asks")
    async def asks(job: Job) -> str:
        return str((await job.ask("Really ship it?")).approved)

    @handler("waits")
    async def waits(job: Job) -> Any:
        return (await job.wait("paid")) is not None

    @handler("pays")
    async def pays(job: Job) -> str:
        def charge() -> str:
            if not world.mended:
                raise ConnectionError("cut in the middle")
            return "receipt"

        return await job.step("pay", charge, effect="unsafe")

    @handler("thinks")
    async def thinks(job: Job) -> Any:
        async def send(_: object) -> Answer:
            return Answer("hi", Usage(70, 30))

        return await job.call("think", send, provider="scripted", model="m-1", estimate=(100, 50))

    @handler("parent", failures_max=1)
    async def parent(job: Job) -> None:
        await job.gather(job.spawn("flaky", {}, failures_max=1))

    @handler("family")
    async def family(job: Job) -> None:
        await job.gather(job.spawn("waits", {}))

    @handler("ordinary")
    async def ordinary() -> None: ...

    async def ends(job_id: UUID, status: str) -> None:
        await api.work()
        job = await api.job(job_id)
        assert job.status == status, (job.mode, job.status, job.waiting_for, job.error)

    async def failed(mode: str, payload: dict[str, Any] | None = None) -> UUID:
        job = await api.run(mode, payload)
        return job.id

    # 1 to 6: the handler's own fault. The remedy runs the job again, once the code is mended.
    modes = ("raises", "slow", "exits", "odd", "gives_up", "parent")
    ids = {mode: await failed(mode) for mode in modes}
    remedies = {
        "raises": operator.why(ids["raises"], "ZeroDivisionError", "test_twenty_failures.py:"),
        "slow": operator.why(ids["slow"], "its deadline passed: it may take 0.05 s"),
        "exits": operator.why(ids["exits"], "the handler called sys.exit(3)"),
        "odd": operator.why(ids["odd"], "cannot be written as JSON"),
        "gives_up": operator.why(ids["gives_up"], "the order does not exist"),
        "parent": operator.why(ids["parent"], "ConnectionError: the shop does not answer"),
    }
    assert "in slow: await anyio.sleep_forever()" in operator.type("job", "show", str(ids["slow"]))
    world.mended = True
    for mode, remedy in remedies.items():
        for n in range(len(commands_in(remedy))):  # of a parent two: first its failed child
            operator.paste(remedy, n)
            await api.work()
        await ends(ids[mode], "done")
    world.mended = False

    # 7: a payload that cannot fit.
    misfit = await failed("typed", {"count": "many"})
    remedy = operator.why(misfit, "the payload does not fit typed(count)", "count")
    assert "jobsworth enqueue typed" in remedy
    fitting = operator.type("enqueue", "typed", '{"count": 3}').split()[0]
    await ends(UUID(fitting), "done")

    # 8: it is tried again later, and need not wait for that.
    async with JobApi.open(api.url, retry_base_seconds=3600, retry_max_seconds=7200) as patient:
        retried = (await patient.run("flaky")).id
    remedy = operator.why(retried, "after failure 1", "the shop does not answer")
    world.mended = True
    operator.paste(remedy)
    await ends(retried, "done")
    world.mended = False

    # 9: nobody knows its mode; 10: its queue is paused; 11: no worker serves its queue.
    lost = await api.enqueue("nosuch")
    async with api.working():
        await until(lambda: _waits(api, lost))
        remedy = operator.why(lost, "no living worker knows the mode nosuch")
        operator.paste(remedy)
        elsewhere = await api.enqueue("ordinary", queue="far away")
        operator.why(elsewhere, "serves the queue far away")
    assert (await api.job(lost)).status == "canceled"
    operator.type("queue", "pause", "far away")
    operator.paste(operator.why(elsewhere, "queue far away is paused"))
    operator.type("job", "cancel", str(elsewhere))

    # 12: no worker is alive.
    alone = await api.enqueue("ordinary")
    assert operator.why(alone, "no worker is alive").endswith("jobsworth worker")
    await ends(alone, "done")

    # 13 to 15: it waits for a person, a signal, an unsafe step.
    asking = await failed("asks")
    operator.paste(operator.why(asking, "Really ship it?"))
    await ends(asking, "done")
    waiting = await failed("waits")
    operator.paste(operator.why(waiting, "signal paid"))
    await ends(waiting, "done")
    unsafe = await failed("pays")
    remedy = operator.why(unsafe, "step pay was begun", "cut in the middle", "unsafe to repeat")
    world.mended = True
    operator.paste(remedy, 1)
    await ends(unsafe, "done")
    world.mended = False

    # 16: no room in a budget.
    async with api.database.connection() as connection:
        await budgets.set_budget(connection, "it's all", 120, unit="tokens", period="day")
    poor = await failed("thinks")
    operator.paste(operator.why(poor, "it's all"))
    await ends(poor, "done")

    # 17: behind another job of its lane; 18: behind a job that it needs.
    first = await api.enqueue("waits", lane="L", holds_lane=True)
    await api.work()
    second = await api.enqueue("ordinary", lane="L")
    third = await api.enqueue("ordinary", after=[second])
    await api.work()
    assert str(second) in operator.paste(operator.why(third, f"needs job {second}"))
    head = operator.paste(operator.why(second, "lane L", f"behind job {first}"))
    operator.paste(head.partition("→ ")[2].strip())
    await ends(third, "done")

    # 19: somebody's transaction holds its row.
    row = await api.enqueue("ordinary")
    blocker = psycopg.connect(api.url, application_name="somebody")
    held.append(blocker)
    blocker.execute("select 'secret' from jobsworth.reactive_jobs where id = %s for update", [row])
    await anyio.to_thread.run_sync(time.sleep, 2.1)
    remedy = operator.why(row, "somebody", "its row is held by the transaction of server process")
    assert "secret" not in operator.transcript[-2]
    operator.paste(remedy)
    await ends(row, "done")

    # 20: its worker has died, again and again; 21: it is silent, and nobody else is there.
    doomed = await api.enqueue("waits")
    begun = anyio.Event()

    @handler("kills")
    async def kills() -> None:
        begun.set()
        if not world.mended:
            await anyio.sleep_forever()

    await api.work()
    killer = await api.enqueue("kills", crashes_max=1)
    async with api.dying() as worker:
        await begun.wait()
        worker.kill()
    remedy = operator.why(killer, "its worker died during attempt 1")
    world.mended = True
    operator.paste(remedy)
    await ends(killer, "done")
    world.mended = False
    async with api.database.connection() as connection:
        silent = (await protocol.running(connection)).job_id
        await api.rows(SILENT)
        remedy = operator.why(silent, "its worker has not been heard of for 4")
        assert remedy.endswith("jobsworth worker")
    await api.rescue()
    operator.why(silent, "attempt 1 on here before it: crashed: its worker died (crash 1)")
    operator.type("job", "cancel", str(silent))

    # A parent waits for its child; a job that runs is stopped; a question is answered with no.
    mother = await failed("family")
    child = operator.paste(operator.why(mother, "1 of its children have not ended"))
    operator.paste(child.partition("→ ")[2].strip())
    await ends(mother, "done")
    begun = anyio.Event()
    async with api.working():
        endless = await api.enqueue("kills")
        await begun.wait()
        operator.paste(operator.why(endless, "attempt 1 on"))
        await until(partial(_has_ended, api, endless))
    asking = await failed("asks")
    operator.paste(operator.why(asking, "Really ship it?"), 1)
    await ends(asking, "done")

    # And one that a person stopped, which is run again all the same.
    operator.type("job", "cancel", str(doomed), "--reason", "not needed")
    operator.paste(operator.why(doomed, "not needed"))
    await api.work()
    assert (await api.job(doomed)).waiting_for == "signal"
    operator.type("job", "cancel", str(doomed))
    for connection in held:
        connection.close()
    assert len(operator.transcript) > 60


async def _has_ended(api: JobApi, job_id: UUID) -> bool:
    return (await api.job(job_id)).finished_at is not None


def test_every_command_that_the_schema_names_exists() -> None:
    """The remedies of `why`, and the hints of errors."""
    program = Program()
    context = click.Context(program)
    named = {
        tuple(found.split())
        for path in sorted(SCHEMA.rglob("*.sql"))
        for found in re.findall(r"jobsworth ([a-z]+(?: [a-z][a-z-]+)?)", path.read_text())
    }
    unknown: list[str] = []
    for first, *rest in named:
        command = program.get_command(context, first)
        if command is None:
            unknown.append(first)
        elif isinstance(command, click.Group):
            unknown += [
                f"{first} {word}" for word in rest if not command.get_command(context, word)
            ]
    assert unknown == []


async def _waits(api: JobApi, job_id: UUID) -> bool:
    return (await api.job(job_id)).waiting_for == "handler"
