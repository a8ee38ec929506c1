"""The faults of the stub provider: what happens to a request instead of a good answer.

In: nothing, or the details of a fault. Out: values that `OpenAIStub` carries out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tests.providers import openai_chat
from worker.demo.provider.completions import Body


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request instead of a good answer.

    Without a `status`, the answer is computed and billed, and then spoilt: `cut` closes the
    connection half-way through it, `garble` sends broken JSON, `edit` changes it (as a chat
    completion), `breaks` ends its stream with an error of that status, `ends` without one. `at`
    says where: before the first piece (nothing is computed then), half-way, or after the last.
    `within` answers 200 with an error of that code, as gateways do: in a stream as its first event,
    or in place of the stream if it is `plain` (a text: that is the whole answer). `seconds` delays
    the response.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    message: str = "scripted fault"
    seconds: float = 0.0
    cut: bool = False
    garble: bool = False
    breaks: int | None = None
    at: Literal["first", "half", "last"] = "half"
    within: int | None = None
    plain: bool | str = False
    ends: bool = False
    edit: Callable[[Body], Any] | None = None

    @property
    def before_all(self) -> bool:
        """Whether nothing is computed, though the status is 200."""
        return self.within is not None or (self.breaks is not None and self.at == "first")

    @property
    def refuses(self) -> bool:
        """Whether the provider stops because of a limit, and bills what it has shown at most."""
        return self.breaks in (429, 529) or self.within == 429

    def of(self, *, streamed: bool) -> Fault:
        """The same in a stream, or in a whole answer, for a fault that is of the other kind."""
        if streamed and self.within and not self.plain:
            return replace(self, within=None, breaks=self.within, at="first")
        return too_many() if self.breaks in (429, 529) and not streamed else self


GOOD = Fault()
SERVER_ERROR = Fault(500, message="internal error")
CUT = Fault(cut=True)
MALFORMED = Fault(garble=True)
MISSING_USAGE = Fault(edit=openai_chat.missing_usage)
INCONSISTENT_USAGE = Fault(edit=openai_chat.inconsistent_usage)
EXCESSIVE_USAGE = Fault(edit=openai_chat.excessive_usage)
MALFORMED_TOOL_JSON = Fault(edit=openai_chat.malformed_tool_json)
DUPLICATE_TOOL_IDS = Fault(edit=openai_chat.duplicate_tool_ids)


def too_many(retry_after: str | None = None) -> Fault:
    """429, with `Retry-After` if given."""
    return Fault(
        429,
        headers={} if retry_after is None else {"Retry-After": retry_after},
        message="rate limit reached",
    )


def slow(seconds: float) -> Fault:
    return Fault(seconds=seconds)


def wrong_dimensions(dimensions: int) -> Fault:
    def edit(body: Body) -> Body:
        for item in body["data"]:
            item["embedding"] = [0.5] * dimensions
        return body

    return Fault(edit=edit)


def _shorter(body: Body) -> Body:
    """Every second vector has too few numbers."""
    for item in body["data"][::2]:
        item["embedding"] = item["embedding"][:-1]
    return body


def _without_an_index(body: Body) -> Body:
    """An item with the index of another: one text has no vector."""
    body["data"][0]["index"] = len(body["data"])
    return body


def _half(body: Body) -> Body:
    body["data"] = body["data"][len(body["data"]) // 2 :][:-1]
    return body


# Of embeddings.
SHORTER_VECTORS = Fault(edit=_shorter)
MISSING_INDEX = Fault(edit=_without_an_index)
HALF_BATCH = Fault(edit=_half)

# Every way in which a provider refuses for a rate limit.
REFUSALS = {
    "429": too_many("1"),
    "429_none": too_many(),
    "429_zero": too_many("0"),
    "429_past": too_many("Thu, 01 Jan 1998 00:00:00 GMT"),
    "429_absurd": too_many("Tue, 01 Jan 99999999999999999999 00:00:00 GMT"),
    "429_ms": Fault(429, headers={"retry-after-ms": "200"}, message="rate limit reached"),
    "429_said": Fault(429, message="Rate limit reached. Please try again in 250ms."),
    "429_reset": Fault(
        429,
        headers={"x-ratelimit-reset-requests": "0.3s", "x-ratelimit-remaining-requests": "0"},
        message="rate limit reached",
    ),
    "429_within": Fault(within=429, message="rate-limited upstream"),
    "429_plain": Fault(within=429, plain=True, message="rate-limited upstream"),
    "429_first": Fault(breaks=429, at="first", message="rate limit reached"),
    "429_half": Fault(breaks=429, message="rate limit reached"),
    "429_last": Fault(breaks=429, at="last", message="rate limit reached"),
    "529": Fault(529, message="overloaded"),
}

# In `--faults`, one of these after the other.
ANY_REFUSAL = "refused"

# The faults that can happen at random, by their names in `--faults`.
FAULTS = {
    **REFUSALS,
    "500": SERVER_ERROR,
    "slow": slow(0.5),
    "cut": CUT,
    "garbage": MALFORMED,
    "missing_usage": MISSING_USAGE,
    "inconsistent_usage": INCONSISTENT_USAGE,
    "malformed_tool_json": MALFORMED_TOOL_JSON,
    "duplicate_tool_ids": DUPLICATE_TOOL_IDS,
    "shorter_vectors": SHORTER_VECTORS,
    "missing_index": MISSING_INDEX,
    "half_batch": HALF_BATCH,
}
