"""A request that was not answered: how its call is settled, and how the job goes on.

In: what the model's adapter raised. Out: the call's settlement, and what to raise. Invariant: only
a refusal, and a request that certainly was not sent, is settled at nothing; anything else may have
been billed.
"""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, cast

from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelConnectionError,
    ModelHTTPError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRateLimitError,
)
from pydantic_ai.messages import ModelMessage, UserPromptPart

from worker.masking import MASK, mask
from worker.money.paid_call import PaidCall
from worker.outcomes import Fail, ParkSignal, Retry

SAID_CHARACTERS_MAX = 300
QUOTE_CHARACTERS_MIN = 8
RATE_LIMIT_SECONDS_MAX = 3_600.0

# The request or the key is at fault: sending it again cannot help.
FINAL = {
    HTTPStatus.BAD_REQUEST: "change the agent's prompt, tools or settings, and retry the job",
    HTTPStatus.UNAUTHORIZED: "give the provider's key to the worker, and retry the job",
    HTTPStatus.FORBIDDEN: "let this key use the model, and retry the job",
    HTTPStatus.NOT_FOUND: "name a model that the provider has, and retry the job",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "send less, and retry the job",
    HTTPStatus.UNPROCESSABLE_ENTITY: "change what is sent, and retry the job",
}
QUOTA = "pay for more there, or raise the limit of this key, and retry the job"
_KEY = re.compile(r"\b(?:sk|pk|key|org|proj)[-_][\w*.-]{4,}")


class Unanswered(NamedTuple):
    """A request to a model that failed; `says` describes it without prompt or key."""

    error: BaseException
    says: str
    park: ParkSignal | None = None


async def settle(call: PaidCall, error: BaseException, says: str, *, began: bool) -> Unanswered:
    """Settle the call by its error; `began`: a part of the answer had come."""
    if began:
        await call.cut(says)
    elif _is_refusal(error):
        await call.refused(says)
    elif isinstance(error, ModelConnectionError) and error.phase in ("pool", "connect"):
        await call.unsent(says)
    else:
        await call.lost(says)
    if not isinstance(error, ModelRateLimitError | ModelOverloadedError):
        return Unanswered(error, says)
    # All workers wait as long as the provider says, and no failure is counted.
    return Unanswered(error, says, await call.pause_model(_bounded_wait(error), says))


def described(error: BaseException, model: str, messages: Sequence[ModelMessage]) -> str:
    """What happened, in one bounded line without the prompt or a key."""
    match error:
        case ModelHTTPError():
            return f"{model} answered {error.status_code}: {_said(error, messages)}"
        case ModelConnectionError():
            return f"{model} cannot be reached, or its answer broke off: {bounded(error.message)}"
        case ModelAPIError():
            return f"{model} failed: {_said(error, messages)}"
        case Exception():
            return f"{model} gave an answer that cannot be used ({type(error).__name__})"
        case _:
            return f"the request to {model} was stopped ({type(error).__name__})"


def bounded(text: str) -> str:
    """One line that is not too long."""
    return mask(" ".join(text.split()))[:SAID_CHARACTERS_MAX]


def ending_of(unanswered: Unanswered) -> BaseException:
    """How the job goes on: it waits for the provider, is tried again, or fails for good."""
    error, says, park = unanswered
    if park is not None:
        return park
    if isinstance(error, ModelQuotaExceededError):
        return Fail(f"{says}; {QUOTA}")
    if isinstance(error, ModelHTTPError) and error.status_code in FINAL:
        return Fail(f"{says}; {FINAL[HTTPStatus(error.status_code)]}")
    return Retry(_bounded_wait(error), says)


def _bounded_wait(error: BaseException) -> float | None:
    """The pause that the provider asks for, in seconds, bounded; None if it does not say."""
    after = error.retry_after if isinstance(error, ModelAPIError) else None
    return None if after is None else min(after, RATE_LIMIT_SECONDS_MAX)


def _is_refusal(error: BaseException) -> bool:
    """True for an error that says the request was not carried out, and so not billed.

    A timeout of the provider's own does not say so, nor does an error within an answer.
    """
    if not isinstance(error, ModelAPIError) or error.in_stream:
        return False
    if isinstance(error, ModelRateLimitError | ModelOverloadedError):
        return True
    return (
        isinstance(error, ModelHTTPError)
        and 400 <= error.status_code < 500
        and error.status_code not in (HTTPStatus.REQUEST_TIMEOUT, 499)
    )


def _said(error: ModelAPIError, messages: Sequence[ModelMessage]) -> str:
    body: Any = error.body
    while isinstance(body, dict):
        inner = cast(dict[str, Any], body)
        body = inner.get("error") or inner.get("message")
    said = body if isinstance(body, str) else type(error).__name__
    for text in _prompts(messages):
        said = said.replace(text, "[prompt]")
    return bounded(_KEY.sub(MASK, said))


def _prompts(messages: Sequence[ModelMessage]) -> list[str]:
    texts = [
        part.content
        for message in messages
        for part in message.parts
        if isinstance(part, UserPromptPart) and isinstance(part.content, str)
    ]
    return [text for text in texts if len(text) >= QUOTE_CHARACTERS_MIN]
