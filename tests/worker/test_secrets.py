"""What a provider, a driver or a handler says with a key in it is stored, logged and printed
without it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import unquote

import httpx
import pytest
from psycopg.sql import SQL, Identifier

from db.money.calls import Answer
from jobsworth import CallRefused, Job, Sending, handler
from tests.chaos.scene import Scene
from tests.providers.openai_stub import Fault, OpenAIStub
from tests.support import Workers, connect, run_cli, until, until_sync
from tests.worker import canaries
from tests.worker.canaries import CANARIES, PASSWORD
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
    async def embed(self, texts: Sequence[str], account: object = None) -> list[list[float]]:
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


# One canary of each shape, through every way that stores, logs or prints.

TOLD: list[tuple[str, dict[str, str]]] = [
    *((mode, {}) for mode in ("tell.raise", "tell.thread", "tell.process", "tell.exit")),
    *(("tell.ending", {"how": how}) for how in ("retry", "snooze", "cancel", "fail")),
    *(("tell.step", {"effect": effect}) for effect in ("idempotent", "unsafe")),
    *((mode, {}) for mode in ("tell.call", "tell.agent", "tell.learn", "tell.log")),
]
COMMANDS = (
    ["jobs"],
    ["jobs", "--json"],
    ["status"],
    ["status", "--json"],
    ["doctor"],
    ["doctor", "--json"],
    ["doctor", "--settings"],
    ["memory", "search", "x"],
    ["books", "check"],
    ["ledger"],
    ["worker", "list", "--json"],
)
OF_A_JOB = (["why"], ["job", "show"], ["job", "show", "--json"], ["step", "list"])

ENDED: LiteralString = """
select bool_and(j.finished_at is not null or j.waiting_for = 'person')
  and exists (select 1 from jobsworth.embedding_outbox o where o.last_error <> '')
  as ended
from jobsworth.reactive_jobs j
"""


def test_a_canary_of_each_shape_is_found_nowhere(
    database_url: str, workers: Workers, tmp_path: Path
) -> None:
    """Every table as text, the log of a worker, its pages, and what commands print."""
    echo = "; ".join(words.format(secret) for secret, words in CANARIES.values())
    with OpenAIStub(dimensions=64) as provider:
        provider.always(Fault(401, message=echo))
        env = canaries.OWN | {
            "JOBSWORTH_HANDLERS": "tests.worker.secret_handlers",
            "JOBSWORTH_MODEL": "openai:gpt-canary",
            "JOBSWORTH_MODEL_URL": provider.url,
            "JOBSWORTH_EMBEDDER_URL": provider.url,
            "JOBSWORTH_EMBEDDER_MODEL": "embed-1",
            "JOBSWORTH_EMBEDDER_DIMENSIONS": "64",
            "JOBSWORTH_UNKNOWN_PRICE": "allow",
            "JOBSWORTH_RETRY_BASE_SECONDS": "0.05",
            "JOBSWORTH_SPOOL_DIR": str(tmp_path / "spool"),
            "JOBSWORTH_LOG_LEVEL": "debug",
            "PYTHONWARNINGS": "always",
        }
        url = with_password(database_url)
        worker = workers.start(url, env)
        with connect(database_url) as conn:
            for mode, payload in TOLD:
                conn.execute("select jobsworth.enqueue(%s, %s::jsonb)", [mode, json.dumps(payload)])
            until_sync(lambda: _ended(conn), 120)
            url_of_health = worker.wait_for("health.listened")["url"]
            pages = {
                page: [httpx.get(f"{url_of_health}/{page}").text]
                for page in ("healthz", "readyz", "metrics")
            }
            worker.terminate()
            worker.wait(60)
            stored = {
                row["name"]: [
                    str(each["row"])
                    for each in conn.execute(
                        SQL("select t::text as row from jobsworth.{} t").format(
                            Identifier(row["name"])
                        )
                    )
                ]
                for row in conn.execute(TABLES).fetchall()
            }
            ids = [str(row["id"]) for row in conn.execute("select id from jobsworth.reactive_jobs")]
        printed = _printed(url, ids, env)
        found = _found({"the log": worker.lines, **stored, **pages, **printed})
        assert found == []
        assert any(MASK in line for line in worker.lines)
        assert any(MASK in row for row in stored["reactive_jobs"])


def with_password(url: str) -> str:
    """The same database, by a URL with a password, which the server does not ask for."""
    return url.replace("://postgres@", f"://postgres:{PASSWORD.replace('/', '%2F')}@")


def _ended(conn: Any) -> bool:
    return conn.execute(ENDED).fetchone()["ended"]


def _printed(url: str, ids: list[str], env: dict[str, str]) -> dict[str, list[str]]:
    """What commands write about these jobs, and about names that are secrets."""
    commands = [*COMMANDS, *([*words, one] for one in ids for words in OF_A_JOB)]
    for secret, words in CANARIES.values():
        name = words.format(secret)
        commands += [["--traceback", "job", "show", name], ["enqueue", "greet", name, "--json"]]
    texts: dict[str, list[str]] = {}
    for command in commands:
        ended = run_cli(*command, url=url, env=env)
        texts[" ".join(command[:3])] = [ended.stdout, ended.stderr]
    return texts


def _found(texts: dict[str, list[str]]) -> list[tuple[str, str, str]]:
    """Where a canary was found: the place, its shape, and what stands around it."""
    secrets = {shape: secret for shape, (secret, _) in CANARIES.items()} | canaries.OWN
    secrets |= {"password": PASSWORD, "password decoded": unquote(PASSWORD)}
    return [
        (place, shape, line[max(0, line.find(secret) - 60) :][:140])
        for place, lines in texts.items()
        for line in lines
        for shape, secret in secrets.items()
        if secret in line
    ]
