"""Help, version, what is imported, and what a user's own files may look like."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, environment, run_cli
from worker.cli.program import TABLE
from worker.cli.terminal.exit_codes import MEANINGS, ExitCode

# Modules that take most of the time to import: the help must not wait for them.
HEAVY = (
    *("alembic", "anyio", "db", "fastapi", "httpx", "importlib.metadata", "psycopg", "pydantic"),
    *("rich", "structlog", "worker.job", "worker.settings"),
)
# What a list of jobs needs no part of.
OF_OTHERS = (
    *("alembic", "email.mime", "fastapi", "genai_prices", "httpx", "jinja2", "numpy", "openai"),
    *("prometheus_client", "pydantic_ai", "structlog", "uvicorn", "yaml", "rich.markdown"),
    *("db.approvals", "db.deployments", "db.memory", "db.money", "db.runs", "db.server"),
    *("worker.daemon", "worker.deployments", "worker.job", "worker.llm", "worker.modes"),
    *("worker.cli.nouns.run", "worker.cli.views.job_view"),
)


def loaded(arguments: list[str], names: tuple[str, ...], url: str | None = None) -> list[str]:
    """Which of these modules a run of the command line imports."""
    script = (
        f"import json, sys; from worker.cli.run import run; run({arguments!r})\n"
        f"print(json.dumps([name for name in {names!r} if name in sys.modules]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(url),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ended.stdout.splitlines()[-1])


def test_help_lists_every_command_by_chapter_and_every_exit_code() -> None:
    ended = run_cli("--help")
    assert ended.returncode == 0
    assert ended.stderr == ""
    for entry in TABLE:
        assert f"\n  {entry.name} " in ended.stdout
        assert f"\n{entry.chapter}:\n" in ended.stdout
    for code, meaning in MEANINGS.items():
        assert f" {int(code)}  {meaning[:20]}" in ended.stdout


def test_every_exit_code_has_its_meaning() -> None:
    assert set(MEANINGS) == set(ExitCode)


@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["jbos"]], ids=" ".join)
def test_help_and_usage_errors_import_none_of_what_commands_need(arguments: list[str]) -> None:
    assert loaded(arguments, HEAVY) == []


def test_the_version_imports_nothing_but_the_metadata() -> None:
    assert loaded(["--version"], HEAVY) == ["importlib.metadata"]


def test_a_list_of_jobs_imports_no_other_part(database_url: str) -> None:
    assert loaded(["jobs"], OF_OTHERS, database_url) == []


@pytest.mark.parametrize(
    "words", ["job", "job list", "enqueue", "worker", "run start", "price set", "completion"]
)
def test_the_help_of_each_command_has_three_ways_and_fits_80_columns(words: str) -> None:
    long = run_cli(*words.split(), "--help")
    assert (long.returncode, long.stderr) == (0, "")
    assert max(map(len, long.stdout.splitlines())) <= 80
    assert run_cli(*words.split(), "-h").stdout == long.stdout
    assert run_cli("help", *words.split()).stdout == long.stdout


def test_version_is_that_of_the_package() -> None:
    ended = run_cli("--version")
    assert ended.returncode == 0
    assert ended.stdout.startswith("jobsworth ")
    assert run_cli("-V").stdout == ended.stdout


@pytest.mark.parametrize("arguments", [[], ["step"]], ids=["jobsworth", "step"])
def test_no_command_is_a_usage_error_that_shows_the_help(arguments: list[str]) -> None:
    ended = run_cli(*arguments)
    assert ended.returncode == 2
    assert "Usage: jobsworth" in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["jbos"], "there is no command jobsworth jbos\n  → did you mean: jobsworth jobs"),
        (["job", "lst"], "jobsworth job lst\n  → did you mean: jobsworth job list"),
        (["job", "019a9d3e5b1c"], "show one: jobsworth job show ID"),
        (["jobs", "--stauts", "done"], "has no option --stauts\n  → did you mean: --status"),
        (["job", "show"], "ID is missing\n  → see how it is used: jobsworth job show --help"),
        (["price", "set", "a", "b", "--output", "1"], "--input is missing"),
        (["why", "a", "b"], "has no use for: b"),
        (["budget", "set", "x", "--money", "1", "--warn-at", "2"], "is not a number from 0 to 1"),
    ],
)
def test_a_wrong_command_line_is_told_with_the_remedy(arguments: list[str], message: str) -> None:
    ended = run_cli(*arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.startswith("error: ")


def test_an_unexpected_error_is_one_line_and_says_how_to_see_more() -> None:
    script = (
        "import sys; from worker.cli.installation.migrate import migrate\n"
        "def broken(**_): raise RuntimeError('the \\x1b[31mflux')\n"
        "migrate.callback = broken\n"
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


def test_a_closed_pipe_ends_the_command_quietly() -> None:
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


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_standard_streams_are_closed_does_its_work(
    database_url: str, closed: str
) -> None:
    """As `>&-` and some schedulers leave them; the event loop would end the process."""
    ended = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m worker.cli queue pause default {closed}"],
        env=environment(database_url),
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == ExitCode.OK
