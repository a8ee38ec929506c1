"""What a paid call's `send` gets, and what it may raise."""

from dataclasses import dataclass

from worker import crash_points


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
    `retry_after_seconds` (None: 10 s), the job with them, and no failure is counted.
    """

    def __init__(self, reason: object, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds
