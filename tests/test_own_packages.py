"""Jobsworth beside a user's own modules that are called `worker`, `db` or `migrations`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import connect, environment, until_sync

COMMAND = Path(sys.executable).with_name("jobsworth")
NAMES = ("db", "migrations", "worker")
LAYOUTS = {
    "modules": "{}.py",
    "packages": "{}/__init__.py",
    # Without __init__.py a folder is only a namespace package: any real package comes before it.
    "folders": "{}/notes.py",
}
# What needs several seconds, or much memory, to import.
HEAVY = ("alembic", "anyio", "fastapi", "httpx", "psycopg", "pydantic", "structlog", "worker.job")


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path: Path, layout: str) -> Path:
    """A folder of modules that end the process that imports them."""
    for name in NAMES:
        file = tmp_path / LAYOUTS[layout].format(name)
        file.parent.mkdir(exist_ok=True)
        file.write_text("raise SystemExit('the module of the user was imported')\n")
    return tmp_path


def run(
    *command: object, folder: Path, on_path: bool, url: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, which is also PYTHONPATH if `on_path`."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=surroundings(folder if on_path else None, url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def surroundings(path: Path | None, url: str | None = None) -> dict[str, str]:
    env = environment(url)
    del env["PYTHONPATH"]
    return env | ({} if path is None else {"PYTHONPATH": str(path)})


def warned_of(stderr: str, folder: Path) -> bool:
    return all(f"{folder / name}" in stderr for name in NAMES) and "rename it" in stderr


@pytest.mark.parametrize("on_path", [False, True], ids=["in cwd", "on PYTHONPATH"])
def test_the_command_works_and_names_the_files_that_are_passed_over(
    folder: Path, layout: str, on_path: bool
):
    ended = run(COMMAND, "doctor", "--settings", "--json", folder=folder, on_path=on_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)
    assert "Traceback" not in ended.stderr
    # The working directory is not on the path of a console script.
    assert warned_of(ended.stderr, folder) == (on_path and layout != "folders")


@pytest.mark.parametrize("on_path", [False, True], ids=["in cwd", "on PYTHONPATH"])
@pytest.mark.parametrize("how", ["-m", "-c", "script"])
def test_python_imports_jobsworths_packages_and_names_the_files_that_are_passed_over(
    folder: Path, layout: str, on_path: bool, how: str
):
    program = "import jobsworth, db.migrate, worker.job, migrations.sql"
    (folder / "program.py").write_text(program)
    arguments = {"-m": ("-m", "jobsworth", "--version"), "-c": ("-c", program)}
    command = arguments.get(how, ("program.py",))
    ended = run(sys.executable, *command, folder=folder, on_path=on_path)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert warned_of(ended.stderr, folder) == (layout != "folders")


@pytest.mark.parametrize("name", NAMES)
def test_a_module_that_was_imported_before_is_named_by_an_import_error(tmp_path: Path, name: str):
    file = tmp_path / f"{name}.py"
    file.touch()
    ended = run(sys.executable, "-c", f"import {name}, jobsworth", folder=tmp_path, on_path=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        f"ImportError: Jobsworth has a package {name!r} of its own, but {file} was imported "
        "under that name: rename it"
    )


@pytest.mark.parametrize("layout", ["modules", "packages"], indirect=True)
def test_a_worker_runs_handlers_from_the_folder_also_in_processes_of_their_own(
    database_url: str, folder: Path
):
    (folder / "myapp.py").write_text(
        "from worker.handlers import handler\n"
        "@handler('plain')\n"
        "def plain() -> str: return 'in a thread'\n"
        "@handler('isolated', isolate='process')\n"
        "def isolated() -> str: return 'in a process'\n"
    )
    for mode in ("plain", "isolated"):
        enqueued = run(COMMAND, "enqueue", mode, folder=folder, on_path=True, url=database_url)
        assert enqueued.returncode == 0, enqueued.stderr
    settings = {"JOBSWORTH_HANDLERS": "myapp", "JOBSWORTH_HTTP_PORT": "off"}
    worker = subprocess.Popen(
        [COMMAND, "worker"],
        cwd=folder,
        env=surroundings(folder, database_url) | settings,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with connect(database_url) as conn:
            query = "select mode, status, result from jobsworth.reactive_jobs"

            def results() -> dict[str, object]:
                return {row["mode"]: row["result"] for row in conn.execute(query) if row["result"]}

            wanted = {"plain": "in a thread", "isolated": "in a process"}
            until_sync(lambda: results() == wanted, seconds=30)
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=30)
    finally:
        worker.kill()
    assert worker.returncode == os.EX_OK
    assert "Traceback" not in log


def test_the_command_starts_without_importing_what_its_commands_need():
    script = (
        "import json, sys, jobsworth.__main__\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(ended.stdout) == []
