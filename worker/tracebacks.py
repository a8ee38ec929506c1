"""Where in the user's code an exception was raised, as bounded text without secrets.

In: the exception of a handler. Out: a traceback for the history of attempts, and the frame that an
error's text names. Invariant: nothing here raises, whatever the exception's own methods do.

The first line is the user's own innermost frame: a library's last line rarely says what went wrong.
Then follow the exception with its frames, most recent call last, and its causes, nearest first.
"""

import linecache
import sysconfig
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any, NamedTuple, cast

from db.documents import to_text
from worker.masking import mask

TRACEBACK_CHARACTERS_MAX = 8_000
MESSAGE_CHARACTERS_MAX = 1_000
SOURCE_CHARACTERS_MAX = 200
FRAMES_SHOWN_MAX = 20
FRAMES_WALKED_MAX = 2_000
CAUSES_MAX = 8
MEMBERS_MAX = 5
DEPTH_MAX = 4

_OURS = tuple(
    str(Path(__file__).resolve().parents[1] / name) + "/" for name in ("worker", "db", "jobsworth")
)
_LIBRARIES = tuple(
    {f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


class Place(NamedTuple):
    """A line of code that was being run."""

    file: str
    line: int
    function: str

    @property
    def source(self) -> str:
        """The text of the line; empty if it cannot be read."""
        return linecache.getline(self.file, self.line).strip()[:SOURCE_CHARACTERS_MAX]


def own_place(error: BaseException, function: Callable[..., Any] | None) -> Place | None:
    """The innermost frame of the user's own code, else the innermost one that is not ours, or None.

    `function` is the handler: what lies in its package is the user's own, wherever that is.
    """
    places = _places(error.__traceback__)
    home = _home(function)
    own = next((place for place in reversed(places) if _is_own(place, home)), None)
    foreign = (place for place in reversed(places) if not place.file.startswith(_OURS))
    return own or next(foreign, None)


def traceback_of(error: BaseException, function: Callable[..., Any] | None = None) -> str | None:
    """The traceback as text; None if the exception has no frames."""
    try:
        lines = list(_lines(error, _home(function), set(), 0))
        place = own_place(_innermost(error), function)
        if place is None:
            return None
        head = f"{place.file}:{place.line} in {place.function}"
        source = place.source
        text = "\n".join([f"{head}: {source}" if source else head, *lines])
        # Half of a secret could not be recognised, so it is masked before it is cut.
        text = mask(text[: 2 * TRACEBACK_CHARACTERS_MAX])
        if len(text) > TRACEBACK_CHARACTERS_MAX:
            text = text[: TRACEBACK_CHARACTERS_MAX - 1] + "…"
        return to_text(text)
    except BaseException:
        return None


def _lines(error: BaseException, home: str, seen: set[int], depth: int) -> Iterator[str]:
    """The exception and its causes, nearest first."""
    how, chained = "", error
    for _ in range(CAUSES_MAX):
        if id(chained) in seen:
            return
        seen.add(id(chained))
        yield how + _named(chained)
        yield from _frames(_places(chained.__traceback__), home)
        if isinstance(chained, BaseExceptionGroup):
            yield from _members(
                cast("BaseExceptionGroup[BaseException]", chained), home, seen, depth
            )
        cause = chained.__cause__
        how = "caused by "
        if cause is None and not chained.__suppress_context__:
            cause, how = chained.__context__, "raised while handling "
        if cause is None:
            return
        chained = cause


def _members(
    group: "BaseExceptionGroup[BaseException]", home: str, seen: set[int], depth: int
) -> Iterator[str]:
    if depth >= DEPTH_MAX:
        return
    members = group.exceptions
    for n, member in enumerate(members[:MEMBERS_MAX], start=1):
        first, *rest = list(_lines(member, home, seen, depth + 1)) or ["(as above)"]
        yield f"| {n} of {len(members)}: {first}"
        yield from (f"| {line}" for line in rest)
    if len(members) > MEMBERS_MAX:
        yield f"| … {len(members) - MEMBERS_MAX} more exceptions"


def _named(error: BaseException) -> str:
    try:
        said = str(error)
    except BaseException as broken:
        said = f"(its __str__ raised {type(broken).__name__})"
    said = mask(said[: 2 * MESSAGE_CHARACTERS_MAX])[:MESSAGE_CHARACTERS_MAX]
    name = type(error).__qualname__
    return f"{name}: {said}" if said else name


def _frames(places: list[Place], home: str) -> Iterator[str]:
    """The frames from the handler on: those that lead to it are the same in every attempt."""
    first = next((n for n, place in enumerate(places) if _is_own(place, home)), 0)
    shown = places[first:]
    left_out = len(shown) - FRAMES_SHOWN_MAX
    for n, place in enumerate(shown):
        if left_out > 0 and n == FRAMES_SHOWN_MAX // 2:
            yield f"  … {left_out} more frames"
        if left_out > 0 and FRAMES_SHOWN_MAX // 2 <= n < FRAMES_SHOWN_MAX // 2 + left_out:
            continue
        yield f"  {place.file}:{place.line} in {place.function}"
        if source := place.source:
            yield f"    {source}"


def _places(traceback: TracebackType | None) -> list[Place]:
    places: list[Place] = []
    for frame, line in walk_tb(traceback):
        code = frame.f_code
        places.append(Place(code.co_filename, line, code.co_name))
        if len(places) >= FRAMES_WALKED_MAX:
            break
    return places


def _innermost(error: BaseException) -> BaseException:
    """Of a group that was raised by a task group, the first exception inside."""
    for _ in range(100):
        if not isinstance(error, BaseExceptionGroup):
            break
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def _is_own(place: Place, home: str) -> bool:
    if home and place.file.startswith(home):
        return True
    return not (
        place.file.startswith((*_OURS, *_LIBRARIES, "<frozen ")) or "/site-packages/" in place.file
    )


def _home(function: Callable[..., Any] | None) -> str:
    code = getattr(function, "__code__", None)
    module = getattr(function, "__module__", None) or ""
    return _package(code.co_filename, module.count(".")) if code is not None else ""


@lru_cache(maxsize=256)
def _package(file: str, depth: int) -> str:
    """The folder of the outermost package of a module, or its file if it is in no package."""
    return file if depth == 0 else str(Path(file).parents[depth - 1]) + "/"
