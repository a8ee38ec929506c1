"""The pause that an HTTP server asks for.

In: the headers of a response, or what it says. Out: seconds from now, within the caller's bound.
Invariant: whatever the text contains, the result is None or a finite number from 0.
"""

import math
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# What counts requests or tokens, in the headers of OpenAI (and those who follow it) and Anthropic.
_COUNTED = ("requests", "tokens", "input-tokens", "output-tokens")
_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_PART = r"(\d{1,12}(?:\.\d{1,12})?)(ms|us|µs|d|h|m|s)"
_DURATION = re.compile(_PART)
_SAID = re.compile(rf"(?:try again|retry) in ((?:{_PART})+)", re.I)
# A bare number above it is a time of the Unix clock, in seconds; above the other, in milliseconds.
_CLOCK_FROM = 1e9
_CLOCK_MILLISECONDS_FROM = 1e11


def retry_after_seconds(headers: Mapping[str, str], most: float) -> float | None:
    """The pause from 0 to `most` that `Retry-After` (RFC 9110) or `retry-after-ms` asks for.

    None without either. `headers` must find names in lower case, as httpx's do.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _within(milliseconds / 1000, most)
    value = headers.get("retry-after")
    if value is None:
        return None
    seconds = _number(value)
    return _within(_until(value) if seconds is None else seconds, most)


def reset_seconds(headers: Mapping[str, str], most: float) -> float | None:
    """The seconds until the limits that are used up are whole again; None if no header says so.

    Read it of a refused request only: providers send these headers with each answer. They are
    durations ("6m0s", OpenAI), times (RFC 3339, Anthropic), or numbers: seconds from now, or a time
    of the Unix clock.
    """
    found = [seconds for value in _resets(headers) if (seconds := _time_to(value)) is not None]
    return _within(max(found), most) if found else None


def said_seconds(text: str, most: float) -> float | None:
    """The seconds of "try again in 1m2.5s" or "retry in 3s" within a message; None without."""
    found = _SAID.search(text)
    return _within(_duration(found[1]), most) if found else None


def _resets(headers: Mapping[str, str]) -> Iterator[str]:
    """The values of those resets whose counts are used up, or not told."""
    pairs = [("x-ratelimit-reset", "x-ratelimit-remaining")]
    pairs += [(f"x-ratelimit-reset-{what}", f"x-ratelimit-remaining-{what}") for what in _COUNTED]
    pairs += [
        (f"anthropic-ratelimit-{what}-reset", f"anthropic-ratelimit-{what}-remaining")
        for what in _COUNTED
    ]
    for reset, remaining in pairs:
        value, left = headers.get(reset), _number(headers.get(remaining))
        if value is not None and (left is None or left <= 0):
            yield value


def _time_to(value: str) -> float | None:
    number = _number(value)
    if number is None:
        return _duration(value) if _DURATION.match(value) else _until(value)
    if number >= _CLOCK_MILLISECONDS_FROM:
        number /= 1000
    return number - time.time() if number >= _CLOCK_FROM else number


def _duration(value: str) -> float:
    return sum(float(count) * _UNITS[unit] for count, unit in _DURATION.findall(value))


def _until(value: str) -> float | None:
    """Seconds until a date of HTTP or of RFC 3339."""
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
    try:
        return (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except OverflowError:
        return None


def _number(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _within(seconds: float | None, most: float) -> float | None:
    if seconds is None or not math.isfinite(seconds):
        return None
    return min(max(seconds, 0.0), most)
