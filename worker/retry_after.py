"""The pause that an HTTP server asks for.

In: the header `Retry-After` of a response. Out: seconds from now, within the caller's bound.
Invariant: whatever the header contains, the result is None or a finite number.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_seconds(headers: Mapping[str, str], most: float) -> float | None:
    """The header's seconds or date (RFC 9110) as seconds from 0 to `most`; None without either.

    `headers` must find names in any case, as httpx's do.
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), most) if math.isfinite(seconds) else None
