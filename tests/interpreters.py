"""The Python versions of this machine, and empty environments made with them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
INSTALL_SECONDS = 300.0


def find_interpreters() -> dict[str, Path]:
    """The interpreters of `VERSIONS` on this machine, by version, oldest first."""
    found: dict[str, Path] = {}
    for version in VERSIONS:
        path = next((path for path in _candidates(version) if _is_version(path, version)), None)
        if path is not None:
            found[version] = path
    return found


def make_environment(interpreter: Path, folder: Path, requirement: str) -> Path:
    """Install `requirement`, at the locked versions, in a new environment; return its bin folder.

    By uv, which takes a tenth of pip's time; by pip where uv fails, as with a mirror that only
    pip's configuration names.
    """
    lock = ROOT / "requirements.lock"
    python = folder / "bin" / "python"
    uv = Path(sys.executable).with_name("uv")
    try:
        _run(uv, "venv", "--quiet", "--no-project", "--python", interpreter, folder)
        _run(uv, "pip", "install", "--quiet", "--python", python, "-c", lock, requirement)
    except AssertionError:
        shutil.rmtree(folder, ignore_errors=True)
        _run(interpreter, "-m", "venv", folder)
        _run(python, "-m", "pip", "install", "--quiet", "-c", lock, requirement)
    return folder / "bin"


def _candidates(version: str) -> Iterator[Path]:
    name = f"python{version}"
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        yield Path(sys.executable)
    for folder in map(Path, os.get_exec_path()):
        yield folder / name
        # A shim of pyenv only starts the versions that are switched on.
        if folder.name == "shims":
            yield from sorted((folder.parent / "versions").glob(f"{version}.*/bin/{name}"))


def _is_version(path: Path, version: str) -> bool:
    if not os.access(path, os.X_OK):
        return False
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    ended = subprocess.run([path, "-c", script], capture_output=True, text=True, check=False)
    return ended.stdout.strip() == version


def _run(*command: object) -> None:
    ended = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, f"{command}: {ended.stderr}"
