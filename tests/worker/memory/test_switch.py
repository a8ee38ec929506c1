"""A switch of embedders fills a space beside the old one; no text is missed or paid twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, LiteralString

import pytest

from db.memory import memories, outbox, spaces, switch
from db.memory.memories import Text
from db.pool import Connection, Database, fetch_all
from db.server.embedded import Embedded
from tests.providers.openai_stub import SERVER_ERROR, OpenAIStub, slow
from tests.support import WorkerProcess, environment, run_cli, until
from worker.cli.terminal.exit_codes import ExitCode
from worker.memory.embed import embed_due
from worker.memory.embedders import Embedder, HashingEmbedder
from worker.memory.openai_embedder import OpenAIEmbedder

OLD, NEW = HashingEmbedder(16), HashingEmbedder(32)
TEXTS = [f"note {n} of the tower" for n in range(6)]
OUTBOX: LiteralString = """
select m.text, o.space_id, o.tries from jobsworth.embedding_outbox o
join jobsworth.memories m on m.id = o.memory_id order by m.text
"""


async def embed(
    database: Database, embedder: Embedder, *, most: int = 64, fresh: bool = True
) -> int:
    return (await embed_due(database, embedder, most, 0.001, fresh=fresh)).written


async def found(
    conn: Connection, embedder: HashingEmbedder, as_of: datetime | None = None
) -> set[str]:
    space = await spaces.get_or_create(conn, embedder.space)
    [vector] = await embedder.embed(["note of the tower"])
    return {hit.text for hit in await memories.search(conn, space, vector, limit=100, as_of=as_of)}


def switched(
    url: str, dimensions: int, *words: str, env: dict[str, str] | None = None
) -> dict[str, Any]:
    env = {"JOBSWORTH_EMBEDDER_DIMENSIONS": str(dimensions), **(env or {})}
    ended = run_cli("memory", "switch", "--json", *words, url=url, env=env)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


async def test_a_switch_fills_a_space_beside_the_one_in_use(
    database: Database, conn: Connection, database_url: str
) -> None:
    await memories.put(conn, [Text(text) for text in TEXTS])
    assert await embed(database, OLD) == len(TEXTS)
    told = switched(database_url, 32, "--dry-run")
    size = sum(map(len, TEXTS))
    assert (told["texts"], told["tokens_max"], told["cost_max"]) == (len(TEXTS), size, 0)
    assert len(await spaces.list_all(conn)) == 1

    space = await spaces.get_or_create(conn, NEW.space)
    await switch.begin(conn, space)
    assert await switch.queue(conn, space) == len(TEXTS)
    # A worker with the old embedder neither takes these nor misses what is new.
    await memories.put(conn, [Text("a new note of the tower")])
    assert (await outbox.counts(conn)).pending == 1
    assert await embed(database, OLD) == 1
    assert await embed(database, OLD) == 0
    assert await found(conn, OLD) == {*TEXTS, "a new note of the tower"}
    assert (await outbox.counts(conn)).pending == 0
    waiting = await fetch_all(conn, OUTBOX)
    assert len(waiting) == len(TEXTS) + 1
    assert {(row["space_id"], row["tries"]) for row in waiting} == {(space.id, 0)}

    for words in (("status",), ("doctor",), ("memory", "spaces")):
        said = run_cli(*words, url=database_url)
        assert "7 texts wait for the embedder that is switched to" in " ".join(
            (said.stdout + said.stderr).split()
        )
    # A command that was killed after some of them.
    assert await embed(database, NEW, most=2, fresh=False) == 2
    assert (await switch.progress(conn, space)).left == len(TEXTS) - 1
    assert switched(database_url, 32) == {"left": 0, "reason": None, "dead": 0}
    assert await found(conn, NEW) == await found(conn, OLD) == {*TEXTS, "a new note of the tower"}
    old, new = await spaces.list_all(conn)
    assert (old.vectors, old.missing, new.vectors, new.missing) == (7, 0, 7, 0)
    # Once the workers have the new embedder, nothing is embedded twice.
    await memories.put(conn, [Text("the last")])
    assert await embed(database, NEW) == 1
    assert await fetch_all(conn, OUTBOX) == []


async def test_a_switch_that_is_stopped_leaves_what_waits_for_any_embedder(
    database: Database, conn: Connection, database_url: str
) -> None:
    await memories.put(conn, [Text(text) for text in TEXTS[:3]])
    assert await embed(database, OLD) == 3
    space = await spaces.get_or_create(conn, NEW.space)
    await switch.begin(conn, space)
    await memories.put(conn, [Text("fresh")])
    assert await switch.queue(conn, space) == 3
    assert switched(database_url, 32, "--stop") == {"stopped": 3}
    [left] = await fetch_all(conn, OUTBOX)
    assert (left["text"], left["space_id"]) == ("fresh", None)
    assert await embed(database, OLD) == 1
    assert await fetch_all(conn, OUTBOX) == []


@pytest.fixture
def provider() -> Iterator[OpenAIStub]:
    with OpenAIStub(dimensions=8) as stub:
        yield stub


async def test_a_switch_to_an_endpoint_pays_each_text_once(
    database: Database, conn: Connection, database_url: str, provider: OpenAIStub
) -> None:
    await memories.put(conn, [Text(text) for text in TEXTS])
    assert await embed(database, OLD) == len(TEXTS)
    env = {
        "JOBSWORTH_EMBEDDER_URL": provider.url,
        "JOBSWORTH_EMBEDDER_MODEL": "text-embedding-3-small",
        "JOBSWORTH_EMBEDDER_DIMENSIONS": "8",
        "JOBSWORTH_EMBED_BATCH_MAX": "4",
    }
    dry = run_cli("memory", "switch", "--dry-run", url=database_url, env=env)
    assert "6 texts would be embedded" in dry.stderr
    assert "USD" in dry.stderr
    assert provider.requests == []
    embedder = OpenAIEmbedder(provider.url, "text-embedding-3-small", dimensions=8)
    space = await spaces.get_or_create(conn, embedder.space)
    await switch.begin(conn, space)
    await switch.queue(conn, space)
    assert await embed(database, embedder, most=2, fresh=False) == 2
    await embedder.close()
    provider.script(SERVER_ERROR)
    ended = run_cli("memory", "switch", url=database_url, env=env)
    assert "start the workers again" in ended.stderr
    sent = [text for one in provider.bill for text in [one.request_id]]
    assert len(sent) == len(set(sent))
    answered = {one.request_id for one in provider.bill}
    texts = [
        text
        for one in provider.requests
        if one.headers["X-Request-Id"] in answered
        for text in one.body["input"]
    ]
    assert sorted(texts) == TEXTS


# Those of a killed command end after a minute.
END_LEASES: LiteralString = "update jobsworth.embedding_outbox set next_try_at = now()"
IN_SPACE: LiteralString = """
select (select count(*) from jobsworth.embeddings e where e.space_id = %(space_id)s)
  + (select count(*) from jobsworth.past_embeddings p where p.space_id = %(space_id)s)
"""
SYNCHRONOUS: LiteralString = """
do $$ begin
  execute format('alter database %I set synchronous_commit = on', current_database());
end $$
"""


@pytest.mark.own_server
async def test_a_switch_goes_on_after_kills_and_a_stop_of_the_database(
    database_url: str, server: Embedded, provider: OpenAIStub
) -> None:
    """Nothing is stored twice, what was stored is not paid again, and recall has no gap.

    Half of the texts were superseded before it began, and are found as of then in both spaces.
    """
    texts = sorted(f"note {n} of the tower" for n in range(24))
    past, held = texts[:12], set(texts[12:])
    env = {
        "JOBSWORTH_EMBEDDER_URL": provider.url,
        "JOBSWORTH_EMBEDDER_MODEL": "embed-1",
        "JOBSWORTH_EMBEDDER_DIMENSIONS": "8",
        "JOBSWORTH_EMBED_BATCH_MAX": "2",
    }
    embedder = OpenAIEmbedder(provider.url, "embed-1", dimensions=8)
    async with Database(database_url, pool_min=0, pool_max=2) as database:
        await database.execute(SYNCHRONOUS)
        async with database.connection() as conn:
            ids = await memories.put(conn, [Text(text) for text in past])
        assert await embed(database, OLD) == len(past)
        before = await database.fetch_val("select clock_timestamp()")
        async with database.connection() as conn:
            successors = zip(texts[12:], ids, strict=True)
            await memories.put(conn, [Text(text, supersedes=old) for text, old in successors])
        assert await embed(database, OLD) == len(held)
        async with database.connection() as conn:
            space = await spaces.get_or_create(conn, embedder.space)

        async def stored() -> int:
            return await database.fetch_val(IN_SPACE, {"space_id": space.id})

        provider.always(slow(0.2))
        worker_env = {**env, "JOBSWORTH_HTTP_PORT": "off"}
        for ends, most in (("killed", 6), ("worker killed", 10), ("stopped", 16)):
            words = ["worker"] if ends == "worker killed" else ["memory", "switch"]
            command = WorkerProcess(words, environment(database_url, worker_env))

            async def far(most: int = most) -> bool:
                return await stored() >= most

            await until(far, 120, f"{most} texts are in the new space")
            if ends.endswith("killed"):
                command.kill()
            else:
                server.stop()
                assert command.wait(120) == ExitCode.DATABASE
                assert "→" in command.tail(5)
                server.restart()
            command.end()
            await database.execute(END_LEASES)
            assert most <= await stored() < len(texts)
            async with database.connection() as conn:
                assert await found(conn, OLD) == held
                assert await found(conn, OLD, before) == set(past)
        provider.recover()
        # A worker with the new embedder goes on to the end, and the command finds nothing to do.
        command = WorkerProcess(["worker"], environment(database_url, worker_env))

        async def all_stored() -> bool:
            return await stored() == len(texts)

        await until(all_stored, 120, "all texts are in the new space")
        command.end()
        assert switched(database_url, 8, env=env) == {"left": 0, "reason": None, "dead": 0}
        counts = await database.fetch_all(
            "select e.space_id, count(*) as all, count(distinct e.memory_id) as memories"
            " from (select e.space_id, e.memory_id from jobsworth.embeddings e union all"
            " select p.space_id, p.memory_id from jobsworth.past_embeddings p) e"
            " group by e.space_id"
        )
        assert [(row["all"], row["memories"]) for row in counts] == [(len(texts), len(texts))] * 2
        async with database.connection() as conn:
            hits = await memories.search(conn, space, [1.0] * 8, limit=100, as_of=before)
            assert {hit.text for hit in hits} == set(past)
        # At most the request that was on its way at each end is asked again.
        ok = await database.fetch_all(
            "select c.request_id from jobsworth.llm_calls c where c.status = 'ok'"
        )
        answered = {row["request_id"] for row in ok}
        paid = [
            text
            for one in provider.requests
            if one.headers["X-Request-Id"] in answered
            for text in one.body["input"]
        ]
        assert sorted(set(paid)) == texts
        assert len(paid) <= len(texts) + 3 * 2
    await embedder.close()
