"""Help, versions, speed, and what a user's own files may look like."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

from db.money import ledger
from db.queue import jobs
from tests.support import ROOT, environment, run_cli
from worker.cli.app import Reason, Status
from worker.cli.exit_codes import MEANINGS, ExitCode
from worker.cli.money_app import Dimension

COMMANDS = (
    *("worker", "migrate", "doctor", "demo", "enqueue", "jobs", "job", "why", "cancel", "retry"),
    *("approvals", "approve", "reject", "deploy", "rollback", "deployments", "environments"),
    *("status", "ledger", "search", "psql", "queue", "price", "books"),
)
# What takes most of its time to import: the help must not wait for it.
HEAVY = (
    "psycopg",
    "pydantic",
    "anyio",
    "structlog",
    "alembic",
    "fastapi",
    "httpx",
    "worker.job",
)


def test_help_lists_every_command_and_every_exit_code() -> None:
    ended = run_cli("--help")
    assert ended.returncode == 0
    assert ended.stderr == ""
    for command in COMMANDS:
        assert f"\n  {command} " in ended.stdout
    for code, meaning in MEANINGS.items():
        assert f" {int(code)}  {meaning[:20]}" in ended.stdout


def test_every_exit_code_has_its_meaning() -> None:
    assert set(MEANINGS) == set(ExitCode)


def test_help_imports_none_of_what_commands_need() -> None:
    script = (
        "import json, sys; from worker.cli.run import run; run(['--help'])\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(None),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ended.stdout.splitlines()[-1]) == []


def test_help_of_each_command_fits_80_columns() -> None:
    for command in ("enqueue", "jobs", "approvals", "migrate", "ledger", "queue", "price", "books"):
        ended = run_cli(command, "--help")
        assert ended.returncode == 0
        assert max(map(len, ended.stdout.splitlines())) <= 80


def test_version_is_that_of_the_package() -> None:
    ended = run_cli("--version")
    assert ended.returncode == 0
    assert ended.stdout.startswith("jobsworth ")


def test_no_command_is_a_usage_error_that_shows_the_help() -> None:
    ended = run_cli()
    assert ended.returncode == 2
    assert "Usage: jobsworth" in ended.stderr + ended.stdout


def test_a_mistyped_command_is_named_with_the_nearest_one() -> None:
    ended = run_cli("jbos")
    assert ended.returncode == 2
    assert "Did you mean 'jobs'" in ended.stderr


def test_choices_are_those_of_the_database() -> None:
    assert get_args(Status) == tuple(jobs.JobStatus)
    assert get_args(Reason) == tuple(jobs.WaitReason)
    assert set(get_args(Dimension)) == set(get_args(ledger.Dimension))


def test_an_unexpected_error_is_one_line_and_says_how_to_see_more() -> None:
    script = (
        "import sys; import worker.cli.migrations as m\n"
        "def broken(**_): raise RuntimeError('the \\x1b[31mflux')\n"
        "m.run = broken\n"
        "from worker.cli.run import run; sys.exit(run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script]
    env = environment(None)
    short = subprocess.run(
        [*command, "migrate"], env=env, capture_output=True, text=True, check=False
    )
    assert short.returncode == ExitCode.BUG
    assert (
        short.stderr.splitlines()[0] == "error: RuntimeError: the \N{REPLACEMENT CHARACTER}[31mflux"
    )
    assert "jobsworth --traceback migrate" in short.stderr
    assert "Traceback" not in short.stderr
    long = subprocess.run(
        [*command, "--traceback", "migrate"], env=env, capture_output=True, text=True, check=False
    )
    assert long.returncode == ExitCode.BUG
    assert "Traceback" in long.stderr


def test_a_console_script_works_beside_a_users_own_worker_py(
    database_url: str, tmp_path: Path
) -> None:
    """As installed: the script's folder is on the path, the working directory is not."""
    script = tmp_path / "bin" / "jobsworth"
    script.parent.mkdir()
    script.write_text("import sys\nfrom worker.cli import main\nsys.exit(main())\n")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "worker.py").write_text("raise SystemExit('the wrong worker')\n")
    (mine / "db.py").write_text("raise SystemExit('the wrong db')\n")

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), *args],
            env=environment(database_url, env),
            cwd=mine,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert run("enqueue", "greet").returncode == 0
    report = run("doctor", "--json")
    warned = [each["text"] for each in json.loads(report.stdout)["findings"]]
    assert any(str(mine / "worker.py") in text for text in warned)
    assert any(str(mine / "db.py") in text for text in warned)

    refused = run("worker", JOBSWORTH_HANDLERS="worker", JOBSWORTH_HTTP_PORT="off")
    assert refused.returncode == ExitCode.BAD_INPUT
    assert f"rename {mine / 'worker.py'}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_output_that_nobody_reads_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "worker.cli", "doctor", "--settings"],
        env=environment(None),
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert ended.returncode == ExitCode.PIPE_CLOSED
    assert ended.stderr == ""
