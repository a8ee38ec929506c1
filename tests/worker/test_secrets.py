"""What a provider, a driver or a handler says with a key in it is stored, logged and printed
without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

import pytest

from db.money.calls import Answer
from jobsworth import CallRefused, Job, Sending, handler
from tests.chaos.scene import Scene
from tests.support import run_cli, until
from tests.worker.job_api import JobApi, registered
from worker.masking import MASK
from worker.memory.embedders import Embedder, EmbedderError, HashingEmbedder

KEY = "gsk_0123456789abcdefghijABCDEFGHIJ"
OWN = "no-looks-at-all-17"
SAID = f"provider said: bad key {KEY}; {OWN}; postgresql://me:pa/ss@host/db"

TABLES: LiteralString = """
select c.relname as name
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'jobsworth' and c.relkind = 'r'
"""


ALL_TOLD: LiteralString = """
select count(*) filter (where j.finished_at is null) = 0
  and exists (select 1 from jobsworth.embedding_outbox o where o.last_error <> '')
from jobsworth.reactive_jobs j
"""


class Talkative(HashingEmbedder):
    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise EmbedderError(SAID)


async def test_no_table_holds_a_secret_that_an_error_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_SECRET", OWN)
    embedder: Embedder = Talkative(64)
    with registered():

        @handler("raise", failures_max=1)
        async def raises() -> None:
            raise RuntimeError(SAID)

        @handler("unsafe", failures_max=1)
        async def unsafe(job: Job) -> None:
            def fail() -> None:
                raise RuntimeError(SAID)

            await job.step("fail", fail, effect="unsafe")

        @handler("call", failures_max=1)
        async def call(job: Job) -> None:
            async def send(_: Sending) -> Answer:
                raise CallRefused(SAID)

            await job.call("ask", send, provider="p", model="m")

        @handler("learn")
        async def learn(job: Job) -> None:
            job.remember("a note")

        async with JobApi.open(database_url, embedder) as api:
            for mode in ("raise", "unsafe", "call", "learn"):
                await api.enqueue(mode)
            async with api.working():
                await until(lambda: api.value(ALL_TOLD), 20)
            errors = await api.rows("select error from jobsworth.reactive_jobs where error <> ''")
            assert all(MASK in row["error"] for row in errors)
            assert len(errors) >= 3
            for table in await api.rows(TABLES):
                found = await api.rows(f"select t::text as row from jobsworth.{table['name']} t")  # pyright: ignore[reportArgumentType]
                for row in found:
                    assert KEY not in row["row"], table
                    assert OWN not in row["row"], table
                    assert "pa/ss" not in row["row"], table
    logged = capfd.readouterr()
    assert MASK in logged.out + logged.err
    for secret in (KEY, OWN, "pa/ss"):
        assert secret not in logged.out + logged.err


def test_no_command_prints_a_secret(scene: Scene) -> None:
    """Also one that an older version has stored."""
    job_id = scene.enqueue("nobody.knows")
    scene.conn.execute(
        "update jobsworth.reactive_jobs set waiting_detail = %s, error = %s", [SAID] * 2
    )
    run_cli("job", "cancel", str(job_id), url=scene.url)
    scene.conn.execute("update jobsworth.reactive_jobs set error = %s", [SAID])
    env = {
        "JOBSWORTH_EMBEDDER_URL": "http://u:s3cret@localhost:1/v1",
        "JOBSWORTH_EMBEDDER_MODEL": "m",
        "MY_SECRET": OWN,
    }
    for command in (
        ["jobs"],
        ["jobs", "--json"],
        ["job", "show", str(job_id)],
        ["job", "show", str(job_id), "--json"],
        ["why", str(job_id)],
        ["doctor"],
        ["doctor", "--json"],
        ["status", "--json"],
        ["job", "show", SAID],
        ["job", "show", SAID, "--json"],
        ["--traceback", "job", "show", SAID],
    ):
        ended = run_cli(*command, url=scene.url, env=env)
        for secret in (KEY, OWN, "pa/ss", "s3cret"):
            assert secret not in ended.stdout + ended.stderr, command
        if command[0] in ("jobs", "job"):
            assert MASK in ended.stdout + ended.stderr, (command, ended.stderr)
