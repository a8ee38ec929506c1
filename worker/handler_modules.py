"""Loading handlers: the shipped modes, and the user's modules.

In: the names of modules, out of JOBSWORTH_HANDLERS. Out: the registry, filled by their decorators.
"""

import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from worker.declared import HandlerError
from worker.handlers import Handler, find_resources, registry, shadowing_files


def load(modules: Iterable[str]) -> Mapping[str, Handler]:
    """Import the shipped modes, then these modules; returns the registry of handlers.

    The current directory joins `sys.path` at its end, so that no file there shadows our own
    packages. Raises `HandlerError` with the module, the reason and the remedy.
    """
    importlib.import_module("worker.modes")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    for name in modules:
        _import(name)
    find_resources()
    return registry


def _import(name: str) -> None:
    if name.split(".")[0] in ("jobsworth", "worker", "db", "migrations"):
        in_the_way = shadowing_files(Path.cwd())
        raise HandlerError(
            f"JOBSWORTH_HANDLERS names {name!r}, which is a package of Jobsworth itself",
            f"rename {in_the_way[0]}" if in_the_way else "name your own module, like myapp.jobs",
        )
    try:
        importlib.import_module(name)
    except HandlerError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(missing + "."):
            raise HandlerError(
                f"JOBSWORTH_HANDLERS names {name!r}, but there is no module {missing!r}",
                f"start the worker in the folder that holds it ({Path.cwd()}), or install it",
            ) from error
        raise HandlerError(
            f"importing {name!r} failed: it needs {missing!r}, which is not installed",
            f"install {missing} in {sys.prefix}",
        ) from error
    # A script without a main guard may call sys.exit, which must not end the worker.
    except (Exception, SystemExit) as error:
        raise HandlerError(
            f"importing {name!r} failed: {type(error).__name__}: {error}",
            "the module must be importable by itself: python -c 'import " + name + "'",
        ) from error
