"""What a job does within a run: it reads its parents, starts children, sends messages to other
agents, and writes numbers down."""

from __future__ import annotations

import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, LiteralString, cast
from uuid import UUID, uuid4

import pytest

from db.people import agents, teams, users
from db.pool import Connection
from db.queue import effects
from db.queue.effects import JobEffect, Origin
from db.queue.jobs import JobStatus
from db.runs import runs, view
from db.runs.runs import After, Node, Run
from db.steps import artifacts
from jobsworth import Fail, Job, handler
from tests.support import Workers, connect, until_sync
from tests.worker.job_api import JobApi, new_thread
from worker import effects as effects_module

THREAD: LiteralString = """
insert into jobsworth.chat_threads (platform, chat_id) values ('test', %(chat)s) returning id
"""

SENT: LiteralString = """
select m.role::text as role, m.text, m.author_agent_id, m.recipient_agent_id, m.thread_id,
  j.mode, j.agent_id, j.lane, j.thread_id as job_thread_id, j.run_id, j.node
from jobsworth.chat_messages m
join jobsworth.reactive_jobs j on j.trigger_message_id = m.id
"""


async def run_through(api: JobApi, nodes: Sequence[Node], **options: Any) -> Run:
    """Start a run, work until nothing moves, and return how it stands."""
    async with api.database.connection() as connection:
        started = await runs.start(connection, nodes, **options)
        await api.work(60)
        return await runs.get(connection, started.run_id)


# Parents.


async def test_a_node_reads_what_its_parents_came_to(api: JobApi) -> None:
    @handler("double")
    async def double(job: Job, n: int) -> int:
        return 2 * n

    @handler("add")
    async def add(job: Job) -> dict[str, Any]:
        return {"sum": sum((await job.parents()).values()), "of": list(await job.parents())}

    run = await run_through(
        api,
        [
            Node("one", "double", {"n": 1}),
            Node("two", "double", {"n": 2}),
            Node("sum", "add", after=["one", "two"]),
        ],
    )
    assert (run.status, run.result) == ("done", {"sum": 6, "of": ["one", "two"]})


async def test_a_node_that_runs_all_the_same_sees_which_parent_failed(api: JobApi) -> None:
    @handler("break_down")
    async def break_down(job: Job) -> None:
        raise Fail("no luck")

    @handler("cope")
    async def cope(job: Job) -> list[Any]:
        parents = await job.parents()
        return [dict(parents), {name: list(how) for name, how in parents.failed.items()}]

    run = await run_through(
        api, [Node("bad", "break_down"), Node("cope", "cope", after=[After("bad", "run")])]
    )
    assert run.status == "done"
    results, failed = run.result
    assert results == {"bad": None}
    assert failed["bad"][0] == "failed"
    assert "no luck" in failed["bad"][1]


async def test_a_job_outside_a_run_has_its_parents_by_id(api: JobApi) -> None:
    @handler("one")
    async def one(job: Job) -> int:
        return 1

    @handler("after_it")
    async def after_it(job: Job) -> dict[str, Any]:
        return await job.parents()

    first = await api.enqueue("one")
    last = await api.run("after_it", after=[first])
    assert last.result == {str(first): 1}


# Children.


async def test_a_thousand_children_gather_within_a_run(api: JobApi) -> None:
    @handler("part")
    async def part(job: Job, n: int) -> int:
        return n

    @handler("whole")
    async def whole(job: Job) -> int:
        children = [job.spawn("part", {"n": n}, name=str(n)) for n in range(1_000)]
        return sum(await job.gather(*children))

    @handler("last")
    async def last(job: Job) -> int:
        return (await job.parents())["whole"]

    began = time.monotonic()
    run = await run_through(api, [Node("whole", "whole"), Node("last", "last", after=["whole"])])
    assert (run.status, run.result) == ("done", 499_500)
    assert time.monotonic() - began < 60
    async with api.database.connection() as connection:
        stats = await runs.stats(connection, run.id)
        nodes = {job.node for job in await runs.get_jobs(connection, run.id)}
    assert stats.jobs == {"done": 1_002}
    assert "whole/child:999" in nodes
    assert await api.violations() == []


async def test_a_failed_child_is_for_its_parent_to_judge(api: JobApi) -> None:
    @handler("part")
    async def part(job: Job) -> None:
        raise Fail("no luck")

    @handler("whole")
    async def whole(job: Job) -> str:
        try:
            await job.gather(job.spawn("part"))
        except Exception as error:
            return str(error)
        return "well"

    run = await run_through(api, [Node("whole", "whole")])
    assert run.status == "done"
    assert "no luck" in run.result


async def test_a_run_ends_with_the_follow_ups_of_its_jobs(api: JobApi) -> None:
    @handler("first")
    async def first(job: Job) -> str:
        job.enqueue("second", name="next")
        return "first"

    @handler("second")
    async def second(job: Job) -> str:
        return f"second of {job.node}"

    run = await run_through(api, [Node("a", "first")])
    assert (run.status, run.result) == ("done", "second of a/job:next")


# Messages to other agents.


async def test_a_message_to_an_agent_comes_with_its_job(api: JobApi) -> None:
    ada, bob, thread_id = await agent(api, "ada"), await agent(api, "bob"), await new_thread(api)
    seen: list[Any] = []

    @handler("ask_bob")
    async def ask_bob(job: Job) -> None:
        job.send(bob, "How many?", mode="count")

    @handler("count")
    async def count(job: Job) -> None:
        seen.append((job.agent_id, job.trigger_message_id is not None))
        job.say("Three.")

    job = await api.run("ask_bob", thread_id=thread_id, agent_id=ada)
    assert job.status is JobStatus.DONE
    assert seen == [(bob, True)]
    [sent] = await api.database.fetch_all(SENT)
    assert (sent["author_agent_id"], sent["recipient_agent_id"]) == (ada, bob)
    assert (sent["role"], sent["text"], sent["thread_id"]) == ("user", "How many?", thread_id)
    assert (sent["mode"], sent["agent_id"], sent["lane"]) == ("count", bob, str(thread_id))
    said = "select m.author_agent_id from jobsworth.chat_messages m where m.role = 'assistant'"
    assert await api.database.fetch_val(said) == bob


async def test_a_message_into_another_thread_goes_into_its_lane_and_stays_in_the_run(
    api: JobApi,
) -> None:
    bob, thread_id = await agent(api, "bob"), await new_thread(api)

    @handler("ask_bob")
    async def ask_bob(job: Job, thread_id: str) -> None:
        job.send(bob, "Hello", mode="hear", thread_id=UUID(thread_id), name="hello")

    @handler("hear")
    async def hear(job: Job) -> str:
        return "heard"

    run = await run_through(api, [Node("a", "ask_bob", {"thread_id": str(thread_id)})])
    assert (run.status, run.result) == ("done", "heard")
    [sent] = await api.database.fetch_all(SENT)
    assert (sent["job_thread_id"], sent["lane"]) == (thread_id, str(thread_id))
    assert (sent["run_id"], sent["node"]) == (run.id, "a/send:hello")


async def test_a_message_needs_a_thread(api: JobApi) -> None:
    @handler("ask_bob")
    async def ask_bob(job: Job) -> None:
        job.send(uuid4(), "Hello")

    error = (await api.run("ask_bob", failures_max=1)).error or ""
    assert "has no thread to send a message in" in error


async def test_agents_of_a_run_without_a_thread_talk_in_one_of_its_own(api: JobApi) -> None:
    bob = await agent(api, "bob")

    @handler("ask_bob")
    async def ask_bob(job: Job) -> None:
        job.send(bob, "How many?", mode="count", name="first")
        job.send(bob, "And how many of these?", mode="count", name="second")

    @handler("count")
    async def count(job: Job) -> str:
        job.say("Three.")
        return "counted"

    run = await run_through(api, [Node("a", "ask_bob"), Node("b", "ask_bob")])
    assert run.status == "done"
    talked = await api.database.fetch_all(
        "select t.id, t.platform, count(*) as said from jobsworth.chat_threads t"
        " join jobsworth.chat_messages m on m.thread_id = t.id group by t.id"
    )
    assert [tuple(row.values()) for row in talked] == [(run.id, "run", 8)]


async def test_a_message_to_an_unknown_agent_or_one_of_another_team_is_refused(
    api: JobApi,
) -> None:
    async with api.database.connection() as conn:
        team = (await teams.save(conn, "theirs", (await users.save(conn, "ann")).id)).id
        theirs = (await agents.save(conn, "theirs", team_id=team)).id
    thread_id = await new_thread(api)

    @handler("ask")
    async def ask(job: Job, whom: str) -> None:
        job.send(UUID(whom), "Hello")

    for whom in (uuid4(), theirs):
        payload = {"whom": str(whom)}
        job = await api.run("ask", payload, thread_id=thread_id, failures_max=1)
        assert f"there is no agent {whom}" in (job.error or "")
    assert await api.database.fetch_all(SENT) == []


async def agent(api: JobApi, name: str) -> UUID:
    async with api.database.connection() as conn:
        return (await agents.save(conn, name)).id


SENDER = """
from uuid import UUID
from jobsworth import Job, handler

@handler("ask_bob")
async def ask_bob(job: Job, bob: str) -> None:
    job.send(UUID(bob), "How many?", mode="hear")

@handler("hear")
async def hear(job: Job) -> None:
    pass
"""


@pytest.mark.parametrize("point", ["finish.updated", "finish.committed"])
def test_a_worker_that_dies_beside_the_pair_sends_it_once(
    database_url: str, workers: Workers, tmp_path: Path, point: str
) -> None:
    """Message and job are one commit: after the death there is both, once, or neither."""
    (tmp_path / "senders.py").write_text(SENDER)
    env = {"JOBSWORTH_HANDLERS": "senders", "PYTHONPATH": str(tmp_path)}
    env["PYTHONPATH"] += f":{Path(__file__).resolve().parents[3]}"
    with connect(database_url) as conn:
        thread = conn.execute(THREAD, {"chat": "1"}).fetchone()
        assert thread is not None
        bob = uuid4()
        conn.execute("insert into jobsworth.agents (id, name) values (%s, 'bob')", [bob])
        enqueue = "select jobsworth.enqueue('ask_bob', %s::jsonb, thread_id => %s)"
        conn.execute(enqueue, [f'{{"bob": "{bob}"}}', thread["id"]])
        dying = workers.start(database_url, {**env, "JOBSWORTH_CRASH_POINT": point})
        assert dying.wait() == -9
        sent = conn.execute(SENT).fetchall()
        assert len(sent) == (1 if point == "finish.committed" else 0)
        workers.start(database_url, env)
        ended = "select 1 from jobsworth.reactive_jobs where mode = 'hear' and status = 'done'"
        until_sync(lambda: conn.execute(ended).fetchone(), 30, "the message is heard")
        assert len(conn.execute(SENT).fetchall()) == 1
        count = "select count(*) as n from jobsworth.reactive_jobs"
        assert conn.execute(count).fetchone() == {"n": 2}


@pytest.mark.parametrize("count", [1, 2], ids=["first", "last"])
def test_a_run_ends_although_its_worker_died_before_it_looked(
    database_url: str, workers: Workers, tmp_path: Path, count: int
) -> None:
    """The end of a job is committed, and nobody has looked at what it means for the run."""
    (tmp_path / "senders.py").write_text(SENDER)
    env = {"JOBSWORTH_HANDLERS": "senders"}
    env["PYTHONPATH"] = f"{tmp_path}:{Path(__file__).resolve().parents[3]}"
    with connect(database_url) as conn:
        first = Node("a", "hear")
        run_id = runs.start_sync(conn, [first, Node("b", "hear", after=["a"])]).run_id
        point = f"promote.before:{count}"
        dying = workers.start(database_url, {**env, "JOBSWORTH_CRASH_POINT": point})
        assert dying.wait() == -9
        run = "select r.status::text as status from jobsworth.runs r where r.id = %s"
        left = conn.execute(run, [run_id]).fetchone()
        # The sweep may have looked just before.
        assert left in ({"status": "executing"}, {"status": "waiting"})
        workers.start(database_url, env)
        ended = {"status": "done"}
        until_sync(lambda: conn.execute(run, [run_id]).fetchone() == ended, 40, "the run is done")


# Numbers and files.


async def test_metrics_are_written_once_however_often_the_job_is_run(api: JobApi) -> None:
    @handler("measure")
    async def measure(job: Job) -> None:
        job.metric("loss", 0.5)
        job.metric("loss", 0.25)
        await job.sleep(0.01)
        job.metric("accuracy", 1, key="final")

    run = await run_through(api, [Node("a", "measure")])
    async with api.database.connection() as connection:
        loss = await runs.metrics(connection, run.id, name="loss")
        every = await runs.metrics(connection, run.id)
    assert [one.value for one in loss] == [0.5, 0.25]
    assert [one.name for one in every] == ["accuracy", "loss", "loss"]
    job = await api.run("measure")
    async with api.database.connection() as connection:
        alone = await runs.metrics(connection, job_id=job.id)
    assert [(one.name, one.run_id) for one in alone] == [
        ("accuracy", None),
        ("loss", None),
        ("loss", None),
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, 10**400, "3", None])
async def test_a_metric_is_a_number(api: JobApi, value: Any) -> None:
    @handler("measure")
    async def measure(job: Job) -> None:
        job.metric("loss", value)

    assert "job.metric: value must be a finite number" in (
        (await api.run("measure", failures_max=1)).error or ""
    )


async def test_the_files_of_a_run_have_type_size_and_hash(api: JobApi) -> None:
    @handler("draw")
    async def draw(job: Job) -> None:
        job.save("a.txt", "abc")
        job.save("b.png", uri="https://example.com/b.png")

    run = await run_through(api, [Node("a", "draw")])
    async with api.database.connection() as connection:
        text, image = await runs.get_artifacts(connection, run.id)
    assert (text.media_type, text.bytes) == ("text/plain", 3)
    assert text.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (image.media_type, image.uri) == ("image/png", "https://example.com/b.png")


async def test_files_of_any_size_are_kept_whole_up_to_their_bound(
    api: JobApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go in several messages; one of 100 MiB takes seconds, so the bound is lower here."""
    monkeypatch.setattr(effects, "STATEMENT_CONTENT_BYTES", 1_000)
    monkeypatch.setattr(effects_module, "ARTIFACT_BYTES_MAX", 2_000)
    contents = [b"", bytes(range(256)), b"\0" * 1_500, b"x" * 2_000]

    @handler("draw", failures_max=1)
    async def draw(job: Job, over: bool = False) -> None:
        job.save("a.png", uri="https://example.com/a.png")
        for n, content in enumerate(contents):
            job.save(f"{n}.bin", content + b"x" * over)

    run = await run_through(api, [Node("a", "draw")])
    assert run.status == "done"
    async with api.database.connection() as connection:
        _, *files = await runs.get_artifacts(connection, run.id)
        assert [file.bytes for file in files] == [len(content) for content in contents]
        assert [file.sha256 for file in files] == [sha256(each).hexdigest() for each in contents]
        for file, content in zip(files, contents, strict=True):
            assert await artifacts.content(connection, file.id) == content
    refused = await api.run("draw", {"over": True})
    assert "artifact '3.bin' has 2,001 bytes; at most 2,000" in (refused.error or "")


async def test_a_file_is_bytes_or_text(api: JobApi) -> None:
    @handler("draw", failures_max=1)
    async def draw(job: Job) -> None:
        job.save("a.json", cast(Any, {"a": 1}))

    assert "the content of artifact 'a.json' is a dict" in ((await api.run("draw")).error or "")


async def test_a_run_of_jobs_that_start_each_other_has_no_end_of_names(
    api: JobApi, conn: Connection
) -> None:
    """Their names would not fit into the index at some time: a hash stands for the beginning."""
    async with conn.transaction():
        run_id = (await runs.start(conn, [Node("a" * 900, "never")])).run_id
        [job] = await runs.get_jobs(conn, run_id)
        for n in range(300):
            origin = Origin(job.id, run_id=run_id, node=job.node)
            made = JobEffect(key=f"job:{n:0>500}" if n < 5 else "job#1", mode="never")
            await effects.write(conn, [(origin, made)])
            *_, job = await runs.get_jobs(conn, run_id)
    assert len({job.node for job in await runs.get_jobs(conn, run_id)}) == 301
    assert len(job.node or "") <= 1_000


async def test_the_newest_heartbeat_is_that_of_the_worker_of_an_open_job(api: JobApi) -> None:
    beats: list[Any] = []

    @handler("look")
    async def look(job: Job) -> None:
        assert job.run_id is not None
        async with job.database.connection() as connection:
            beats.append(await view.last_beat(connection, job.run_id))

    run = await run_through(api, [Node("a", "look")])
    async with api.database.connection() as connection:
        beats.append(await runs.last_beat(connection, run.id))
    assert beats[0] is not None
    assert beats[1] is None
