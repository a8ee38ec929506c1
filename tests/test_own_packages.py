"""Jobsworth beside a user's own modules that are called `worker`, `db` or `migrations`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import run, run_one_job_of_each_mode, surroundings, write_handlers

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


def warned_of(stderr: str, folder: Path) -> bool:
    return all(f"{folder / name}" in stderr for name in NAMES) and "rename it" in stderr


@pytest.mark.parametrize("on_path", [False, True], ids=["in cwd", "on PYTHONPATH"])
def test_the_command_works_and_names_the_files_that_are_passed_over(
    folder: Path, layout: str, on_path: bool
):
    env = surroundings(None, path=folder if on_path else None)
    ended = run(COMMAND, "doctor", "--settings", "--json", folder=folder, env=env)
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
    env = surroundings(None, path=folder if on_path else None)
    ended = run(sys.executable, *command, folder=folder, env=env)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert warned_of(ended.stderr, folder) == (layout != "folders")


@pytest.mark.parametrize("name", NAMES)
def test_a_module_that_was_imported_before_is_named_by_an_import_error(tmp_path: Path, name: str):
    file = tmp_path / f"{name}.py"
    file.touch()
    ended = run(
        sys.executable, "-c", f"import {name}, jobsworth", folder=tmp_path, env=surroundings(None)
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        f"ImportError: Jobsworth has a package {name!r} of its own, but {file} was imported "
        "under that name: rename it"
    )


@pytest.mark.parametrize("layout", ["modules", "packages"], indirect=True)
def test_a_worker_runs_handlers_from_the_folder_also_in_processes_of_their_own(
    database_url: str, folder: Path
):
    write_handlers(folder)
    env = surroundings(database_url, path=folder)
    log = run_one_job_of_each_mode(COMMAND, database_url, folder, env)
    assert "Traceback" not in log


def test_the_command_starts_without_importing_what_its_commands_need():
    script = (
        "import json, sys, jobsworth.__main__\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(ended.stdout) == []
