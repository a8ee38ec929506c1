"""The README's own job, in five minutes: its code, its SQL and its commands do what it says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
import pytest
from psycopg.rows import DictRow

from tests.providers.openai_stub import OpenAIStub
from tests.support import ROOT, WorkerProcess, Workers, connect, run_cli, until_sync

README = (ROOT / "README.md").read_text()
ALL_JOBS: LiteralString = """
select id, mode, payload, status::text, waiting_for::text, result, error
from jobsworth.reactive_jobs order by id
"""

OPEN_APPROVAL: LiteralString = """
select id, proposal_text from jobsworth.approvals where status = 'pending'
"""
COST: LiteralString = "select sum(cost) as cost from jobsworth.llm_calls"

Jobs = list[dict[str, Any]]


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def block(language: str, containing: str) -> str:
    """The one fenced block of the README in this language with this in it."""
    [found] = [text for text in blocks(language) if containing in text]
    return found


@pytest.fixture
def worker(database_url: str, tmp_path: Path, workers: Workers) -> WorkerProcess:
    """A worker started in the folder where `myjobs.py` was pasted."""
    (tmp_path / "myjobs.py").write_text(block("python", '@handler("greet"'))
    [setting] = re.findall(r"^(JOBSWORTH_HANDLERS=\S+) jobsworth worker$", README, re.MULTILINE)
    name, _, value = setting.partition("=")
    started = workers.start(database_url, {name: value, "PYTHONPATH": f"{ROOT}:{tmp_path}"})
    started.wait_for("daemon.ready", seconds=30)
    return started


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[DictRow]]:
    with connect(database_url) as conn:
        yield conn


@pytest.mark.usefixtures("worker")
def test_the_first_job_is_done_and_the_second_waits_for_you(
    database_url: str, conn: psycopg.Connection[DictRow]
) -> None:
    conn.execute(cast(LiteralString, block("sql", "jobsworth.enqueue")))

    def jobs() -> Jobs:
        return conn.execute(ALL_JOBS).fetchall()

    def as_promised() -> Jobs:
        found = jobs()
        states = [(job["status"], job["waiting_for"]) for job in found]
        return found if states == [("done", None), ("waiting", "approval")] else []

    ada, bob = until_sync(as_promised, 20)
    assert ada["result"] == "Hello, Ada!"
    assert bob["payload"] == {"name": "Bob", "times": 5}

    listed = run_cli("jobs", url=database_url)
    assert "done" in listed.stdout
    assert "waiting" in listed.stdout
    why = run_cli("why", str(bob["id"]), url=database_url)
    assert "Really greet Bob 5 times?" in why.stdout
    assert "jobsworth approve" in why.stdout

    approval_id = conn.execute("select id from jobsworth.approvals").fetchall()[0]["id"]
    asked = run_cli("approval", url=database_url)
    assert "Really greet Bob 5 times?" in asked.stdout
    approved = run_cli("approve", str(approval_id), url=database_url)
    assert approved.returncode == 0, approved.stderr

    until_sync(lambda: jobs()[1]["status"] == "done", 20)
    assert jobs()[1]["result"] == ("Hello, Bob! " * 5).strip()

    def remembered() -> bool:
        found = run_cli("memory", "search", "hello ada", url=database_url)
        return "Hello, Ada!" in found.stdout

    until_sync(remembered, 20)


@pytest.mark.usefixtures("worker")
def test_a_payload_that_does_not_fit_fails_at_once_with_the_field_and_the_reason(
    conn: psycopg.Connection[DictRow],
) -> None:
    conn.execute("""select jobsworth.enqueue('greet', '{"name": "Ada", "times": "often"}')""")

    def failed() -> dict[str, Any] | None:
        [job] = conn.execute(ALL_JOBS).fetchall()
        return job if job["status"] == "failed" else None

    error = (until_sync(failed, 20) or {})["error"]
    assert "greet(name, times): times: Input should be a valid integer" in error


def test_an_agent_of_your_own_is_durable_metered_and_approvable_as_pasted(
    database_url: str, tmp_path: Path, workers: Workers, conn: psycopg.Connection[DictRow]
) -> None:
    (tmp_path / "newsroom.py").write_text(block("python", "pydantic_ai"))
    budget, start, enqueue, ledger = block("", "jobsworth budget set daily").splitlines()
    assert run_cli(*shlex.split(budget)[1:], url=database_url).returncode == 0
    settings = dict(setting.split("=", 1) for setting in shlex.split(start)[:3])
    command, mode, payload = shlex.split(enqueue)[1:]
    with OpenAIStub() as provider:
        here = {"JOBSWORTH_MODEL_URL": provider.url, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
        workers.start(database_url, settings | here).wait_for("daemon.ready", seconds=30)
        script = (
            '[[call search {"query": "tea"} ;; call publish {"text": "Tea."} ;; say {results}]]'
        )
        payload = json.dumps(json.loads(payload) | {"topic": script})
        job_id = run_cli(command, mode, payload, url=database_url).stdout.strip()
        approval = until_sync(lambda: conn.execute(OPEN_APPROVAL).fetchone(), 60)
        assert (approval or {})["proposal_text"] == 'Let draft call publish({"text":"Tea."})?'
        assert run_cli("approve", str((approval or {})["id"]), url=database_url).returncode == 0
        assert run_cli("job", "show", job_id, url=database_url).returncode == 0
        until_sync(lambda: conn.execute(ALL_JOBS).fetchall()[0]["status"] == "done", 60)
        assert conn.execute(ALL_JOBS).fetchall()[0]["result"] == "published"
        spent = run_cli(*shlex.split(ledger)[1:], url=database_url).stdout
        assert "openai:gpt-5-mini" in spent
        assert len(provider.bill) == 3
    assert run_cli("books", "check", url=database_url).returncode == 0
    assert (conn.execute(COST).fetchone() or {})["cost"] > 0


@pytest.mark.usefixtures("worker")
def test_a_run_is_started_as_pasted(conn: psycopg.Connection[DictRow]) -> None:
    conn.execute(cast(LiteralString, block("sql", "jobsworth.start_run")))

    def done() -> bool:
        return [job["status"] for job in conn.execute(ALL_JOBS).fetchall()] == ["done", "done"]

    until_sync(done, 20)


async def test_an_enqueue_commits_with_what_is_written_beside_it(
    database_url: str, conn: psycopg.Connection[DictRow]
) -> None:
    conn.execute("create table orders (id int generated always as identity)")
    names: dict[str, Any] = {}
    exec(block("python", "async def order"), names)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as own:
        await names["order"](own)
        await names["order"](own)
    assert conn.execute("select count(*) as orders from orders").fetchone() == {"orders": 2}
    [job] = conn.execute(ALL_JOBS).fetchall()
    assert (job["mode"], job["payload"]) == ("greet", {"name": "Ada"})


def test_the_python_of_the_readme_is_typed_for_those_who_install_us(tmp_path: Path) -> None:
    """Checked strictly, in a folder that has nothing of ours."""
    for number, code in enumerate(blocks("python")):
        (tmp_path / f"example_{number}.py").write_text(code)
    strict = {"typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(strict))
    checker = Path(sys.executable).with_name("basedpyright")
    checked = subprocess.run(
        [checker, "--pythonpath", sys.executable, "--project", str(tmp_path), "--outputjson"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    report = json.loads(checked.stdout)
    assert report["generalDiagnostics"] == []
    assert report["summary"]["filesAnalyzed"] == len(blocks("python")) > 2


def test_every_command_of_the_readme_exists() -> None:
    named = set(re.findall(r"jobsworth ([a-z]+)\b", re.sub(r"`|\n```", "\n", README)))
    shown = run_cli("--help").stdout
    words = set(re.findall(r"[a-z]+", shown))
    prose = {"runs", "is", "does", "import"}
    assert named - prose - words == set()


def test_every_make_target_of_the_readme_exists() -> None:
    named = set(re.findall(r"`?\bmake ([a-z]+)\b", README)) - {"a"}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named - targets == set()
