"""Resources of a worker: open before its first job, closed after its last, given by type."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from jobsworth import HandlerError, Job, handler, worker_lifespan
from tests.support import until
from tests.worker.job_api import JobApi, registered
from worker import handlers
from worker.extensions import resources
from worker.extensions.resources import Resources
from worker.handlers import find_resources
from worker.outcomes import Snooze


class Client:
    """What a lifespan of these tests yields."""

    def __init__(self) -> None:
        self.is_open = True


class Other:
    pass


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    with registered():
        yield


def opened() -> Resources:
    return Resources(tuple(resources.declared.values()))


async def test_handlers_share_what_is_open_from_the_first_job_to_the_last(api: JobApi) -> None:
    said: list[str] = []

    @worker_lifespan
    async def client() -> AsyncIterator[Client]:
        said.append("opened")
        made = Client()
        yield made
        made.is_open = False
        said.append("closed")

    @worker_lifespan
    @asynccontextmanager
    async def other() -> AsyncIterator[Other]:
        yield Other()

    @handler("async")
    async def work(job: Job, client: Client, other: Other, n: int) -> list[object]:
        await anyio.sleep(0.05)
        said.append("worked")
        return [client.is_open, type(other).__name__, n]

    @handler("thread")
    def plain(n: int, client: Client) -> list[object]:
        return [client.is_open, n]

    assert list(handlers.registry["async"].arguments.model_fields) == ["n"]
    ids = [await api.enqueue("async", {"n": 1}), await api.enqueue("thread", {"n": 2})]
    bad = await api.enqueue("thread", {"n": 2, "client": "mine"})
    async with api.working():
        await until(lambda: api.value("select count(*) > 0 from jobsworth.attempt_history"))
    assert [(await api.job(one)).result for one in ids] == [[True, "Other", 1], [True, 2]]
    assert "client: Extra inputs are not permitted" in str((await api.job(bad)).error)
    assert said == ["opened", "worked", "closed"]


async def test_one_that_fails_to_open_refuses_the_start_and_closes_the_others() -> None:
    said: list[str] = []

    @worker_lifespan
    async def client() -> AsyncIterator[Client]:
        yield Client()
        said.append("closed")

    @worker_lifespan
    async def other() -> AsyncIterator[Other]:
        raise OSError("no route to host")
        yield Other()

    with pytest.raises(HandlerError, match=r"other did not open: OSError: no route to host"):
        await opened().open(anyio.Event())
    assert said == ["closed"]


async def test_one_that_does_not_open_in_time_refuses_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resources, "OPEN_SECONDS", 0.05)

    @worker_lifespan
    async def client() -> AsyncIterator[Client]:
        await anyio.sleep_forever()
        yield Client()

    with pytest.raises(HandlerError, match="client was not open after 0.05 s"):
        await opened().open(anyio.Event())


async def test_a_worker_that_is_told_to_stop_does_not_wait_for_one_that_opens() -> None:
    opening, stop = anyio.Event(), anyio.Event()
    said: list[str] = []

    @worker_lifespan
    async def client() -> AsyncIterator[Client]:
        try:
            opening.set()
            await anyio.sleep_forever()
        finally:
            said.append("cleaned up")
        yield Client()

    answers: list[bool] = []

    async def open_it() -> None:
        answers.append(await opened().open(stop))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(open_it)
            await opening.wait()
            stop.set()
    assert (answers, said) == ([False], ["cleaned up"])


async def test_one_that_does_not_close_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "CLOSE_SECONDS", 0.05)

    @worker_lifespan
    async def client() -> AsyncIterator[Client]:
        yield Client()
        await anyio.sleep_forever()

    made = opened()
    assert await made.open(anyio.Event())
    with anyio.fail_after(10):
        await made.close()


async def test_one_that_breaks_is_opened_again_and_attempts_wait_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resources, "REOPEN_SECONDS", 0.01)
    breaks, may_open = anyio.Event(), anyio.Event()
    made: list[Client] = []

    @worker_lifespan
    async def client() -> AsyncIterator[Client]:
        async def fail() -> None:
            await breaks.wait()
            raise ConnectionError("gone")

        if made:
            await may_open.wait()
            made.append(Client())
            yield made[-1]
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            made.append(Client())
            yield made[-1]

    kept = opened()
    assert await kept.open(anyio.Event())
    assert kept.given({"it": Client}) == {"it": made[0]}
    breaks.set()

    async def is_away() -> bool:
        try:
            kept.given({"it": Client})
        except Snooze:
            return True
        return False

    await until(is_away, 10)
    may_open.set()

    async def is_back() -> bool:
        return not await is_away()

    await until(is_back, 10)
    assert kept.given({"it": Client}) == {"it": made[1]}
    await kept.close()


async def test_a_handler_that_was_declared_first_gets_it_too() -> None:
    @handler("work")
    async def work(client: Client, n: int = 1) -> None: ...

    @worker_lifespan
    async def client() -> AsyncIterator[Client]:
        yield Client()

    find_resources()
    found = handlers.registry["work"]
    assert (found.resources, list(found.arguments.model_fields)) == ({"client": Client}, ["n"])


def test_what_no_handler_can_be_given_is_refused_where_it_is_declared() -> None:
    async def untyped():
        yield 1

    async def plain_values() -> AsyncIterator[str]:
        yield "x"

    async def several() -> AsyncIterator[Client | Other]:
        yield Client()

    async def asks(name: Client) -> AsyncIterator[Client]:
        yield name

    async def returns() -> Client:
        return Client()

    wrong: list[tuple[Any, str]] = [
        (untyped, "does not say which class it yields"),
        (plain_values, "does not say which class it yields"),
        (several, "does not say which class it yields"),
        (asks, "not an async generator without parameters"),
        (returns, "not an async generator without parameters"),
    ]
    for function, error in wrong:
        with pytest.raises(HandlerError, match=error):
            worker_lifespan(function)

    @worker_lifespan
    async def one() -> AsyncIterator[Client]:
        yield Client()

    async def another() -> AsyncIterator[Client]:
        yield Client()

    with pytest.raises(HandlerError, match="yields a Client, and so does"):
        worker_lifespan(another)
    with pytest.raises(HandlerError, match="no resource gets into another process"):

        @handler("isolated", isolate="process")
        def isolated(client: Client) -> None: ...
