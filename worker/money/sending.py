"""The options of a paid call, what its `send` gets, and what that may raise."""

import math
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from worker import crash_points


class CallOptions(TypedDict):
    """Where a paid call goes, and what it may take."""

    provider: str
    model: str
    estimate: NotRequired[tuple[int, int]]
    """The most tokens that it may take (input, output); by default none."""
    tier: NotRequired[str | None]
    """The tier that the request asks for, like "flex"; by default the provider's standard one."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What `job.call` gives to `send`.

    Put `request_id` into the request, so that the provider's bill can be matched with the books.
    """

    request_id: str

    def sent(self) -> None:
        """Say that the request is on its way; calling it is optional."""
        crash_points.reach("call.sent")


class CallRefused(Exception):
    """Raise it in a call's `send` when the provider refused and billed nothing.

    The call is settled at nothing; the exception then ends the attempt unless the handler catches
    it.
    """


class CallLimited(CallRefused):
    """Raise it in a call's `send` when the provider refused for its rate limit (429).

    The call is settled at nothing. Calls to that model from all workers wait for
    `retry_after_seconds` (None or 0: a second), and longer after each further refusal; the job
    waits with them, and no failure is counted. A job whose call is refused JOBSWORTH_REFUSALS_MAX
    times, or for JOBSWORTH_REFUSED_SECONDS_MAX, fails. A number that is below 0, or not finite,
    counts as None.
    """

    def __init__(self, reason: object, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        said = retry_after_seconds
        self.retry_after_seconds = said if said is not None and 0 <= said < math.inf else None
