"""Jobsworth's other packages, told from a user's modules of the same names.

`db`, `worker` and `migrations` are common names: a user's db.py in the working directory or on
PYTHONPATH comes before ours on `sys.path`. In: nothing. Out: our three packages in `sys.modules`,
where every later import finds them. Only the standard library is imported here, so that a name that
is taken is reported before anything can fail of it.
"""

import importlib
import sys
import warnings
from importlib.machinery import PathFinder
from pathlib import Path

NAMES = ("db", "migrations", "worker")
FOLDER = Path(__file__).resolve().parents[1]


def load_own_packages() -> None:
    """Import our packages from beside this one, wherever it stands on `sys.path`.

    Raises `ImportError` if this process has already imported another module under one of the names,
    and warns of a file that the name would otherwise have meant.
    """
    missing = [name for name in NAMES if not _loaded(name)]
    for name in missing:
        file = _found(name)
        if file is not None and not _is_own(name, file):
            warnings.warn(
                f"{file} cannot be imported beside Jobsworth, which has a package {name!r} of its "
                "own: rename it",
                RuntimeWarning,
                stacklevel=3,
            )
    sys.path.insert(0, str(FOLDER))
    try:
        for name in missing:
            importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


def _loaded(name: str) -> bool:
    module = sys.modules.get(name)
    if module is None:
        return False
    file = getattr(module, "__file__", None)
    if file is None or not _is_own(name, Path(file)):
        place = file or "a module without a file"
        raise ImportError(
            f"Jobsworth has a package {name!r} of its own, but {place} was imported under that "
            "name: rename it",
            name=name,
        )
    return True


def _found(name: str) -> Path | None:
    spec = PathFinder.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _is_own(name: str, file: Path) -> bool:
    return file.resolve() == FOLDER / name / "__init__.py"
