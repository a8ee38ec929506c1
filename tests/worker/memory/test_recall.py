"""`job.recall` on real PostgreSQL: never too few, recorded, and the same in a replay."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from db.errors import InvalidInput
from db.memory import memories, status
from db.memory.memories import Text
from db.people import agents
from jobsworth import Job, handler
from tests.support import run_cli
from tests.worker.cli.support import cli_json
from tests.worker.job_api import JobApi

TEAM = UUID(int=7)
SAME = 120


async def test_a_recall_is_recorded_by_memory_and_a_replay_gets_the_same(
    api: JobApi, database_url: str
) -> None:
    async with api.database.connection() as conn:
        same = [Text(f"tea is{' the' * n} favourite", team_id=TEAM) for n in range(SAME)]
        others = [
            Text("tea is cheap", team_id=TEAM, type=status.MemoryType.PREFERENCE, importance=1.0),
            Text("tea is old INV-2041", team_id=TEAM),
            Text("tea is dear", team_id=uuid4()),
        ]
        made = await memories.put(conn, [*same, *others])
        writer = await agents.save(conn, "writer", importance_weight=100.0, similarity_weight=1.0)
    cheap, bill = made[SAME : SAME + 2]
    seen: list[list[Any]] = []

    @handler("ask", failures_max=1)
    async def ask(job: Job, change: bool = False) -> list[str]:
        hits = await job.recall("tea is favourite", 5)
        bills = await job.recall("what of inv-2041", 1, types=["fact", "decision"], name="bills")
        seen.append([(hit.id, hit.score, hit.parts, hit.duplicates) for hit in [*hits, *bills]])
        if change and job.attempt == 1:
            # What is remembered, superseded and forgotten meanwhile changes no replay.
            async with api.database.connection() as conn:
                await memories.put(
                    conn, [Text("tea is favourite now", team_id=TEAM, importance=1.0)]
                )
                await status.retract(conn, hits[0].id)
                await memories.put(conn, [Text("tea is dear", team_id=TEAM, supersedes=cheap)])
        await job.sleep(0.01)
        return [hit.text for hit in hits]

    @handler("wrong", failures_max=1)
    async def wrong(job: Job, ways: list[dict[str, Any]]) -> list[str]:
        told: list[str] = []
        for options in ways:
            with pytest.raises(InvalidInput) as refused:
                await job.recall("tea", 1, **options)
            told.append(str(refused.value))
        return told

    await api.work()  # until all is embedded
    plain = await api.run("ask", {"change": True}, team_id=TEAM)
    first, again = seen
    assert first == again
    texts = plain.result
    # Ever so many that say the same are one, and all there is is found.
    assert len(texts) == 3
    assert len(first[0][3]) == SAME - 1
    assert first[-1][0] == bill
    assert first[-1][2].identifiers == 1
    for _, score, parts, _ in first:
        assert score == sum(value for _, value in parts)

    async with api.database.connection() as conn:
        recalled = await status.recalled_by(conn, plain.id)
    assert [one.memory_id for one in recalled] == [one[0] for one in first]
    assert {one.query for one in recalled} == {"tea is favourite", "what of inv-2041"}
    assert {one.status for one in recalled if one.memory_id == cheap} == {"superseded"}

    seen.clear()
    weighed = await api.run("ask", team_id=TEAM, agent_id=writer.id)
    assert weighed.result[0] == "tea is favourite now"

    wrong_ways = {
        "types 'fact' is no list": {"types": "fact"},
        "there is no type of memory 'opinion'": {"types": ["opinion"]},
        "recency_weight -1 is not a number": {"recency_weight": -1},
        "as_of 'yesterday' is not a time with a zone": {"as_of": "yesterday"},
        "recall has no option 'kinds'": {"kinds": "x"},
    }
    told = (await api.run("wrong", {"ways": list(wrong_ways.values())})).result
    for reason, said in zip(wrong_ways, told, strict=True):
        assert reason in said

    # The command line: what went into that job, and single memories by the end of their ids.
    listed = cli_json(database_url, "memory", "recalls", plain.id.hex[-12:])
    assert [UUID(one["memory_id"]) for one in listed] == [one[0] for one in first]
    assert "retracted" in run_cli("memory", "recalls", str(plain.id), url=database_url).stdout
    shown = run_cli("memory", "supersede", str(bill), "tea is new", url=database_url)
    assert "superseded by" in shown.stdout
    refused = run_cli("memory", "supersede", str(bill), "again", url=database_url)
    assert "is superseded already by" in refused.stderr
    [preference] = cli_json(database_url, "memory", "list", "--type", "preference")
    assert preference["status"] == "superseded"
    env = {"JOBSWORTH_EMBEDDER_DIMENSIONS": "64"}  # as here
    found = run_cli("memory", "search", "tea is favourite", url=database_url, env=env)
    assert "similarity" in found.stdout
    assert "says the same" in found.stderr
