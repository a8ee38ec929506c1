"""After the job: nothing is lost or doubled, a poison text is alone, and jobs do not notice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, LiteralString

import anyio
import pytest
from structlog.testing import capture_logs

from db.memory import memories, outbox, spaces
from db.memory.memories import Text
from db.pool import Connection, Database, execute, fetch_all, fetch_val
from jobsworth import Job, handler
from tests.providers.openai_stub import CUT, SERVER_ERROR, Fault, OpenAIStub, too_many
from tests.support import Workers, run_cli, until
from tests.worker.job_api import JobApi, registered
from worker import events
from worker.memory import embed, recall
from worker.memory.embed import delay_seconds, embed_due
from worker.memory.embedders import Embedder, HashingEmbedder
from worker.memory.openai_embedder import OpenAIEmbedder
from worker.queue.wake import Wake

Logs = Sequence[Mapping[str, Any]]

DIMENSIONS = 32

MAKE_DUE: LiteralString = """
update jobsworth.embedding_outbox set next_try_at = now() - interval '1 second'
"""
OUTBOX: LiteralString = """
select m.text, o.tries, o.last_error,
  extract(epoch from o.next_try_at - now())::float8 as due_in_seconds
from jobsworth.embedding_outbox o join jobsworth.memories m on m.id = o.memory_id
order by m.text
"""
REMEMBERED: LiteralString = """
select m.text from jobsworth.embeddings e join jobsworth.memories m on m.id = e.memory_id
order by m.text
"""


@pytest.fixture
def provider() -> Iterator[OpenAIStub]:
    with OpenAIStub(dimensions=DIMENSIONS) as stub:
        yield stub


@pytest.fixture
async def embedder(provider: OpenAIStub) -> AsyncGenerator[OpenAIEmbedder]:
    embedder = OpenAIEmbedder(provider.url, "embed-1", dimensions=DIMENSIONS, timeout_seconds=10)
    yield embedder
    await embedder.close()


async def remembered(conn: Connection) -> list[str]:
    return [row["text"] for row in await fetch_all(conn, REMEMBERED)]


async def put(conn: Connection, *texts: str) -> None:
    await memories.put(conn, [Text(text) for text in texts])


async def embed_pending(database: Database, embedder: Embedder, batch_max: int = 64) -> int:
    """One round of the loop; returns how many texts were stored."""
    return (await embed_due(database, embedder, batch_max, embed.RETRY_BASE_SECONDS)).written


@asynccontextmanager
async def running(
    database: Database, embedder: Embedder, wake: Wake | None = None, **options: Any
) -> AsyncGenerator[Logs]:
    """The loop at work; yields what it logs."""
    quick: dict[str, Any] = {"retry_base_seconds": 0.02, "poll_seconds": 0.05}
    loop = partial(embed.run, database, embedder, wake=wake or Wake(), **quick | options)
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loop)
            yield logs
            tasks.cancel_scope.cancel()


def named(logs: Logs, event: str) -> list[Mapping[str, Any]]:
    return [record for record in logs if record["event"] == event]


async def test_a_round_embeds_what_is_due(database: Database, conn: Connection) -> None:
    await put(conn, "the cat sleeps", "deployments are rolled back", "lunch is at noon")
    embedder = HashingEmbedder(256)
    assert await embed_pending(database, embedder, batch_max=2) == 2
    assert await embed_pending(database, embedder, batch_max=2) == 1
    assert await embed_pending(database, embedder, batch_max=2) == 0

    space = await spaces.get_or_create(conn, embedder.space)
    [query] = await embedder.embed(["how is a deployment rolled back?"])
    [hit] = await memories.search(conn, space, query, limit=1)
    assert hit.text == "deployments are rolled back"


async def test_the_loop_embeds_what_comes_while_it_runs(
    database: Database, conn: Connection
) -> None:
    counts: list[int] = []
    wake = Wake()
    async with running(
        database, HashingEmbedder(), wake, batch_max=2, poll_seconds=60, embedded=counts.append
    ) as logs:
        await put(conn, "a", "b", "c", "d", "e")
        wake.set()
        await until(lambda: _pending(conn, 0))
        await put(conn, "f")
        wake.set()
        await until(lambda: _pending(conn, 0))
    assert await remembered(conn) == ["a", "b", "c", "d", "e", "f"]
    assert sum(counts) == 6
    written = named(logs, events.EMBEDDINGS_WRITTEN)
    assert sum(record["texts"] for record in written) == 6


async def test_the_loop_finds_texts_that_nobody_announced(
    database: Database, conn: Connection
) -> None:
    async with running(database, HashingEmbedder()):
        await put(conn, "by plain insert")
        await until(lambda: _pending(conn, 0))


async def test_a_poison_text_delays_nobody_but_itself(
    database: Database, conn: Connection, provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    good = [f"text {n:02}" for n in range(15)]
    provider.refuse_texts_with("poison")
    await put(conn, *good, "some poison")
    with capture_logs() as logs:
        assert await embed_pending(database, embedder) == 15
    assert await remembered(conn) == good
    [left] = await fetch_all(conn, OUTBOX)
    assert (left["text"], left["tries"]) == ("some poison", 1)
    assert "not allowed" in left["last_error"]
    assert left["due_in_seconds"] > 0
    [refused] = named(logs, events.EMBEDDER_REFUSED)
    assert "not allowed" in refused["error"]
    assert "poison" not in str(logs)
    # Halving: two requests for each level, not one for each text.
    assert len(provider.requests) <= 2 * 4 + 1


async def test_a_vector_beyond_half_precision_delays_no_other_text(
    database: Database, conn: Connection, provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    """The endpoint answers for the text; what it answers cannot be stored."""

    def grow(body: Any) -> Any:
        for item in body["data"]:
            if sum(item["embedding"]) == 7:  # the text of seven words
                item["embedding"][0] = 1e6
        return body

    provider.always(Fault(edit=grow))
    await put(conn, "a", "b c", "one two three four five six seven", "d e f")
    assert await embed_pending(database, embedder) == 3
    [left] = await fetch_all(conn, OUTBOX)
    assert left["text"].startswith("one two")
    assert "half precision" in left["last_error"]


async def test_a_vector_of_another_length_delays_no_other_text_and_becomes_a_dead_letter(
    database: Database, conn: Connection, provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    def shorten(body: Any) -> Any:
        for item in body["data"]:
            if sum(item["embedding"]) == 7:  # the text of seven words
                item["embedding"].pop()
        return body

    provider.always(Fault(edit=shorten))
    await put(conn, "a", "b c", "one two three four five six seven", "d e f")
    assert await embed_pending(database, embedder) == 3
    for _ in range(embed.REFUSALS_MAX):
        await execute(conn, MAKE_DUE)
        assert await embed_pending(database, embedder) == 0
    counts = await outbox.counts(conn)
    assert (counts.pending, counts.dead) == (0, 1)
    [letter] = await outbox.dead_letters(conn)
    assert "31 numbers, not 32" in (letter.last_error or "")
    provider.recover()
    assert await outbox.revive(conn) == 1
    assert await embed_pending(database, embedder) == 1


async def test_a_content_is_embedded_once_and_a_long_text_in_chunks(
    database: Database, conn: Connection, provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    await put(conn, "same", "same", "other")
    assert await embed_pending(database, embedder) == 3
    long = "".join(f"Sentence {n} has words. " for n in range(200))
    await put(conn, "same", long)
    assert await embed_pending(database, embedder) == 2
    sent = [text for request in provider.requests for text in request.body["input"]]
    assert sorted(sent[:2]) == ["other", "same"]
    assert "same" not in sent[2:]
    assert "".join(sent[2:]) == long
    assert len(sent[2:]) == 3


async def test_memories_of_another_embedder_are_told(
    database: Database, conn: Connection, database_url: str
) -> None:
    """No search finds them: `memory search`, `recall`, `doctor` and `status` say so."""
    await put(conn, "the tower clock is slow", "the shop opens at nine")
    assert await embed_pending(database, HashingEmbedder(16)) == 2
    told = "2 memories were made by another embedder, jobsworth-lexical-1 with 16 dimensions"
    search = run_cli("memory", "search", "tower", url=database_url)
    assert told in search.stderr
    assert "JOBSWORTH_EMBEDDER_URL" in search.stderr
    for command in ("status", "doctor"):
        said = " ".join(run_cli(command, url=database_url).stdout.split())
        assert told in said, command
    env = {"JOBSWORTH_EMBEDDER_DIMENSIONS": "16"}
    for words in (("memory", "search", "tower"), ("status",), ("doctor",)):
        ended = run_cli(*words, url=database_url, env=env)
        assert "another embedder" not in ended.stdout + ended.stderr


async def test_a_recall_logs_what_it_cannot_find(database_url: str) -> None:
    recall.looked.forget()
    with registered():

        @handler("ask")
        async def ask(job: Job) -> list[str]:
            return [hit.text for hit in await job.recall("tower")]

        async with JobApi.open(database_url, HashingEmbedder(64)) as api:
            async with api.database.connection() as connection:
                await put(connection, "the tower clock is slow")
            await embed_pending(api.database, HashingEmbedder(16))
            with capture_logs() as logs:
                assert (await api.run("ask")).result == []
                await api.run("ask")
    [hidden] = named(logs, events.MEMORIES_HIDDEN)
    assert (hidden["dimensions"], hidden["memories"]) == (16, 1)


async def test_when_every_text_is_refused_it_is_the_embedder_that_failed(
    database: Database, conn: Connection, provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    provider.always(Fault(400, message="unknown field"))
    await put(conn, "a", "b")
    async with running(database, embedder) as logs:
        await until(lambda: _true(named(logs, events.EMBEDDER_FAILED)))
    assert "every text was refused" in named(logs, events.EMBEDDER_FAILED)[0]["error"]
    assert await remembered(conn) == []
    provider.recover()
    await execute(conn, MAKE_DUE)
    assert await embed_pending(database, embedder) == 2


@pytest.mark.parametrize("fault", [SERVER_ERROR, CUT, Fault(garble=True)])
async def test_a_failure_keeps_the_texts_and_says_why(
    database: Database,
    conn: Connection,
    provider: OpenAIStub,
    embedder: OpenAIEmbedder,
    fault: Fault,
) -> None:
    await put(conn, "a", "b")
    provider.script(fault)
    assert await embed_pending(database, embedder) == 0
    for row in await fetch_all(conn, OUTBOX):
        assert row["tries"] == 1
        assert provider.url in row["last_error"]
        assert 0 < row["due_in_seconds"] <= 1
    await execute(conn, MAKE_DUE)
    assert await embed_pending(database, embedder) == 2
    assert await remembered(conn) == ["a", "b"]


async def test_what_was_embedded_before_a_failure_is_kept(
    database: Database, conn: Connection, provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    """The first request is refused, its first half succeeds, its second half fails."""
    await put(conn, "a", "b", "c", "d")
    provider.script(Fault(400), Fault(), SERVER_ERROR)
    assert await embed_pending(database, embedder) == 2
    assert len(await remembered(conn)) == 2
    assert [row["tries"] for row in await fetch_all(conn, OUTBOX)] == [1, 1]


async def test_a_busy_embedder_is_left_alone_for_as_long_as_it_asks(
    database: Database, conn: Connection, provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    await put(conn, "a")
    provider.script(too_many("30"))
    wake = Wake()
    async with running(database, embedder, wake) as logs:
        await until(lambda: _true(named(logs, events.EMBEDDER_FAILED)))
        [row] = await fetch_all(conn, OUTBOX)
        await put(conn, "b")
        wake.set()
    assert 25 < row["due_in_seconds"] <= 31
    assert named(logs, events.EMBEDDER_FAILED)[0]["pause_seconds"] >= 30
    assert len(provider.requests) == 1


async def test_the_loop_outlives_an_embedder_that_is_down(
    database: Database, conn: Connection, provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    provider.always(SERVER_ERROR)
    await put(conn, "a", "b")
    async with running(database, embedder) as logs:
        await until(lambda: _true(len(named(logs, events.EMBEDDER_FAILED)) >= 3))
        assert await remembered(conn) == []
        provider.recover()
        await until(lambda: _pending(conn, 0))
    assert await remembered(conn) == ["a", "b"]


async def test_the_loop_outlives_a_database_that_is_away(
    database_url: str, conn: Connection
) -> None:
    async with Database(database_url, pool_min=1, pool_max=1) as scarce:
        async with scarce.connection():
            scarce.pool.timeout = 0.05
            async with running(scarce, HashingEmbedder()) as logs:
                await put(conn, "a")
                await until(lambda: _acquires(scarce, 2))
        assert await remembered(conn) == []
        assert named(logs, events.EMBEDDER_FAILED) == []
        async with running(scarce, HashingEmbedder()):
            await until(lambda: _pending(conn, 0))


async def test_a_bug_in_an_embedder_is_a_failure_like_any_other(
    database: Database, conn: Connection
) -> None:
    class Broken(HashingEmbedder):
        async def embed(self, texts: Sequence[str], account: object = None) -> list[list[float]]:
            raise ZeroDivisionError

    class Short(HashingEmbedder):
        async def embed(self, texts: Sequence[str], account: object = None) -> list[list[float]]:
            return [[1.0]] * len(texts)

    await put(conn, "a")
    assert await embed_pending(database, Broken()) == 0
    [row] = await fetch_all(conn, OUTBOX)
    assert row["last_error"] == "ZeroDivisionError"
    await execute(conn, MAKE_DUE)
    async with running(database, Short()) as logs:
        await until(lambda: _true(named(logs, events.EMBEDDER_FAILED)))
    assert "1 dimensions" in named(logs, events.EMBEDDER_FAILED)[0]["error"]
    await execute(conn, MAKE_DUE)
    assert await embed_pending(database, HashingEmbedder()) == 1


async def test_a_stopped_round_gives_its_texts_back(database: Database, conn: Connection) -> None:
    started = anyio.Event()

    class Slow(HashingEmbedder):
        async def embed(self, texts: Sequence[str], account: object = None) -> list[list[float]]:
            started.set()
            await anyio.sleep_forever()
            raise AssertionError

    await put(conn, "a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(embed_pending, database, Slow())
        await started.wait()
        tasks.cancel_scope.cancel()
    [text] = await outbox.lease_due(conn, 10, 60)
    assert (text.text, text.tries) == ("a", 1)


async def test_no_transaction_is_open_while_the_embedder_works(
    database: Database, conn: Connection
) -> None:
    states: list[int] = []

    class Watching(HashingEmbedder):
        async def embed(self, texts: Sequence[str], account: object = None) -> list[list[float]]:
            states.append(
                await fetch_val(
                    conn,
                    "select count(*) from pg_stat_activity where datname = current_database()"
                    " and state like 'idle in transaction%'",
                )
            )
            return self.vectors(texts)

    await put(conn, "a")
    assert await embed_pending(database, Watching()) == 1
    assert states == [0]


async def test_two_workers_share_the_outbox_and_store_each_text_once(
    database: Database, conn: Connection
) -> None:
    texts = [f"text {n:03}" for n in range(100)]
    await put(conn, *texts)
    async with (
        running(database, HashingEmbedder(), batch_max=7),
        running(database, HashingEmbedder(), batch_max=7),
    ):
        await until(lambda: _pending(conn, 0))
    assert await remembered(conn) == texts


async def test_texts_that_fail_often_are_sent_with_few_others(
    database: Database, conn: Connection
) -> None:
    sent: list[list[str]] = []

    class Recording(HashingEmbedder):
        async def embed(self, texts: Sequence[str], account: object = None) -> list[list[float]]:
            sent.append(sorted(texts))
            return self.vectors(texts)

    await put(conn, *(f"old {n:02}" for n in range(20)))
    await execute(conn, "update jobsworth.embedding_outbox set tries = 9")
    await put(conn, "new 1", "new 2")
    assert await embed_pending(database, Recording()) == 22
    assert sent[0] == ["new 1", "new 2"]
    assert [len(texts) for texts in sent[1:]] == [4, 8, 8]


def test_delays_double_up_to_an_hour_with_jitter() -> None:
    for tries in range(1, 2000):
        longest = min(3600.0, 1.0 * 2 ** min(tries - 1, 20))
        assert longest / 2 <= delay_seconds(tries, 1.0) <= longest
    assert len({delay_seconds(5, 1.0) for _ in range(10)}) > 1


async def test_an_embedder_that_is_down_delays_memories_and_no_job(
    database: Database, conn: Connection, provider: OpenAIStub, workers: Workers, database_url: str
) -> None:
    provider.always(SERVER_ERROR)
    workers.start(
        database_url,
        {
            "JOBSWORTH_HANDLERS": "tests.worker.memory.remembering",
            "JOBSWORTH_EMBEDDER_URL": provider.url,
            "JOBSWORTH_EMBEDDER_MODEL": "embed-1",
            "JOBSWORTH_EMBEDDER_DIMENSIONS": str(DIMENSIONS),
        },
    )
    done: LiteralString = "select count(*) from jobsworth.reactive_jobs where status = 'done'"
    enqueue: LiteralString = """
        select jobsworth.enqueue('remember', jsonb_build_object('text', 'note ' || n))
        from generate_series(1, 5) n"""
    await execute(conn, enqueue)
    await until(lambda: _equals(conn, done, 5), 30)
    await until(lambda: _true(provider.requests))
    assert await remembered(conn) == []
    assert (await outbox.counts(conn)).pending == 5

    provider.recover()
    await until(lambda: _pending(conn, 0), 30)
    assert await remembered(conn) == [f"note {n}" for n in range(1, 6)]
    assert await _equals(conn, "select count(*) from jobsworth.violations", 0)


async def _pending(conn: Connection, count: int) -> bool:
    return (await outbox.counts(conn)).pending == count


async def _equals(conn: Connection, query: LiteralString, count: int) -> bool:
    return await fetch_val(conn, query) == count


async def _acquires(database: Database, count: int) -> bool:
    return database.pool.get_stats().get("requests_errors", 0) >= count


async def _true(value: object) -> bool:
    return bool(value)
