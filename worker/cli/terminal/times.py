"""Times as people type and read them.

In: "90", "1h30m", "2026-02-01T09:00+01:00", "yesterday". Out: seconds and instants; and the other
way, "3 min ago". Pure, but for the clock that is handed in.
"""

import re
from datetime import UTC, datetime, timedelta

from db.errors import InvalidInput

# What a `timedelta` holds.
SECONDS_MAX = 999_999_999 * 86_400.0
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_PARTS = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|s|m|h|d|w)?\s*", re.IGNORECASE)

_AGO = (
    (90, 1, "s"),
    (90 * 60, 60, "min"),
    (36 * 3_600, 3_600, "h"),
    (float("inf"), 86_400, "days"),
)


def parse_duration(text: str, thing: str) -> float:
    """Seconds in "90", "90s", "10m", "1h30m", "2d". Raises `InvalidInput` naming `thing`."""
    position, seconds, parts = 0, 0.0, 0
    stripped = text.strip()
    while position < len(stripped):
        part = _PARTS.match(stripped, position)
        number, unit = part.groups() if part else (None, None)
        if (
            part is None
            or number is None
            or (unit is None and (parts or part.end() < len(stripped)))
        ):
            raise _no_duration(text, thing)
        seconds += float(number) * UNITS[(unit or "s").lower()]
        position, parts = part.end(), parts + 1
    if not parts:
        raise _no_duration(text, thing)
    if seconds > SECONDS_MAX:
        raise InvalidInput(f"{thing} is longer than any date", "give a shorter span, like 90d")
    return seconds


def duration(seconds: float) -> str:
    """ "90s" is "1m30s": what `parse_duration` reads, in its longest units."""
    words, rest = "", seconds
    for unit in ("d", "h", "m"):
        whole, rest = divmod(rest, UNITS[unit])
        words += f"{whole:.0f}{unit}" if whole else ""
    return words + (f"{rest:g}s" if rest or not words else "")


def parse_instant(text: str, thing: str) -> datetime:
    """An ISO 8601 instant with its time zone. Raises `InvalidInput` naming `thing`."""
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise InvalidInput(
            f"{thing} {text!r} is not a time",
            f"write it like {datetime.now().astimezone().isoformat(timespec='minutes')}",
        ) from error
    if instant.utcoffset() is None:
        raise InvalidInput(
            f"{thing} {text!r} has no time zone",
            f"write {instant.astimezone().isoformat()} for the time of this machine, "
            f"or {instant.replace(tzinfo=UTC).isoformat().replace('+00:00', 'Z')} for UTC",
        )
    return instant


def parse_since(text: str, thing: str, now: datetime) -> datetime:
    """The beginning of a span: "today", "7d" (so long ago), "2026-02-01" (UTC) or an instant."""
    word = text.strip().lower()
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if word in ("today", "yesterday"):
        return midnight - timedelta(days=word == "yesterday")
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", word):
            return datetime.fromisoformat(word).replace(tzinfo=UTC)
        if "-" in word:
            return parse_instant(text, thing)
        return now - timedelta(seconds=parse_duration(text, thing))
    except (InvalidInput, OverflowError, ValueError) as error:
        raise InvalidInput(
            f"{thing} {text!r} is neither a time nor a span",
            "write today, yesterday, 12h, 7d, 2026-02-01 or 2026-02-01T09:00Z",
        ) from error


def ago(instant: datetime | None, now: datetime) -> str:
    """ "3 min ago", "in 2 h", "just now"; empty for None."""
    if instant is None:
        return ""
    seconds = (now - instant).total_seconds()
    if abs(seconds) < 1:
        return "just now"
    return f"{_span(seconds)} ago" if seconds > 0 else f"in {_span(-seconds)}"


def age(instant: datetime, now: datetime) -> str:
    """ "3 min" since then, where "ago" is understood."""
    return ago(instant, now).removesuffix(" ago")


def span(seconds: float | None) -> str:
    """ "25 ms", "2.5 s", "12 s", "3 min"; empty for None."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else _span(seconds)


def _span(seconds: float) -> str:
    for limit, unit_seconds, unit in _AGO:
        if seconds < limit:
            return f"{round(seconds / unit_seconds)} {unit}"
    raise AssertionError("unreachable: the last limit is infinite")


def _no_duration(text: str, thing: str) -> InvalidInput:
    return InvalidInput(
        f"{thing} {text!r} is not a time span", "write it like 90s, 10m, 1h30m or 2d"
    )
