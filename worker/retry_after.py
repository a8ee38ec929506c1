"""When an HTTP server wants to be asked again.

In: the header `Retry-After` of an answer. Out: seconds from now, within the bound that the caller
gives. Invariant: whatever a server writes there, the answer is a number that a clock can wait for.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_seconds(headers: Mapping[str, str], most: float) -> float | None:
    """Seconds or a date, as RFC 9110 has it, from 0 to `most`; None if it is neither.

    `headers` finds names in any case, as httpx's do.
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), most) if math.isfinite(seconds) else None
