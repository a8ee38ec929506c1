"""A request that was not answered: how its call is settled, and how the job goes on.

In: what the model's adapter raised. Out: the call's settlement, and what to raise. Invariant: only
a refusal, and a request that certainly was not sent, is settled at nothing; anything else may have
been billed.

Three refusals for a rate limit fail the job at once, because waiting cannot help: the provider says
that the request asks for more than the limit is (OpenAI: "Request too large … Limit 30000,
Requested 36278"), its headers say that the limit was whole and the request may be larger than it
(Anthropic), or they say that it should not be sent again (`x-should-retry: false`).
"""

import re
from collections.abc import Sequence
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelConnectionError,
    ModelHTTPError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRateLimitError,
)
from pydantic_ai.messages import ModelMessage, ModelResponse, UserPromptPart

from worker.llm.plain_answers import PlainAnswer
from worker.llm.usage import Estimate, Told, usage_so_far
from worker.masking import MASK, mask
from worker.money.paid_call import PROVIDER_WAIT_SECONDS_MAX, PaidCall
from worker.outcomes import Fail, Retry
from worker.retry_after import reset_seconds, retry_after_seconds, said_seconds

SAID_CHARACTERS_MAX = 300
QUOTE_CHARACTERS_MIN = 8

# The request or the key is at fault: sending it again cannot help.
FINAL = {
    HTTPStatus.BAD_REQUEST: "change the agent's prompt, tools or settings, and retry the job",
    HTTPStatus.UNAUTHORIZED: "give the provider's key to the worker, and retry the job",
    HTTPStatus.FORBIDDEN: "let this key use the model, and retry the job",
    HTTPStatus.NOT_FOUND: "name a model that the provider has, and retry the job",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "send less, and retry the job",
    HTTPStatus.UNPROCESSABLE_ENTITY: "change what is sent, and retry the job",
}
NEVER_MET = "send less, or raise the limit of this key, and retry the job"
QUOTA = "pay for more there, or raise the limit of this key, and retry the job"
_LIMIT_AND_REQUESTED = re.compile(r"\bLimit:? ([\d,]{1,20})\b.*?\bRequested:? ([\d,]{1,20})", re.S)
_COUNTED_TOKENS = re.compile(r"\b(input|output)? ?tokens\b")
_CATEGORIES = {402: ModelQuotaExceededError, 429: ModelRateLimitError, 529: ModelOverloadedError}
_REFUSING = {"rate_limit_error": 429, "rate_limit_exceeded": 429, "overloaded_error": 529}
# The status of errors that come without one (platform.claude.com/docs/en/api/errors, and OpenAI's).
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "insufficient_quota": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
}
_KEY = re.compile(r"\b(?:sk|pk|key|org|proj)[-_][\w*.-]{4,}")


class Unanswered(NamedTuple):
    """A request to a model that failed; `says` describes it without prompt or key.

    `ending`: how the job goes on, where that is decided already.
    """

    error: BaseException
    says: str
    ending: BaseException | None = None


async def settle(
    call: PaidCall,
    error: BaseException,
    says: str,
    estimate: Estimate,
    told: Told,
    partial: ModelResponse | None = None,
    *,
    thinks: bool = False,
) -> Unanswered:
    """Settle the call by its error; `partial`: what had come of the answer when its stream failed.

    `told`: what the provider had said besides. `thinks`: the model may have thought without showing
    it.
    """
    limited = isinstance(error, ModelRateLimitError | ModelOverloadedError)
    if limited:
        usage = None if partial is None else usage_so_far(partial, estimate, told, thinks=thinks)
        if usage is None and never_met(error, estimate):
            await call.refused(says)
            return Unanswered(error, says, Fail(f"{says}; {NEVER_MET}"))
        return Unanswered(error, says, await call.limited(_asked_pause(error), says, usage))
    if partial is not None:
        await call.cut(says)
    elif _is_refusal(error):
        await call.refused(says)
    elif isinstance(error, ModelConnectionError) and error.phase in ("pool", "connect"):
        await call.unsent(says)
    else:
        await call.lost(says)
    return Unanswered(error, says)


def never_met(error: BaseException, estimate: Estimate) -> bool:
    """True if the rate limit that refused this request is smaller than the request alone."""
    text = _text_of(error)
    if found := _LIMIT_AND_REQUESTED.search(text):
        limit, requested = (int(number.replace(",", "")) for number in found.groups())
        return requested > limit
    headers = (error.headers or {}) if isinstance(error, ModelHTTPError) else {}
    if headers.get("x-should-retry") == "false" and not _asked_pause(error):
        return True
    counted = _COUNTED_TOKENS.search(text)
    if counted is None or "increase rate" in text:
        return False
    kind = f"{counted[1]}-tokens" if counted[1] else "tokens"
    sent = (
        estimate.output_tokens
        if counted[1] == "output"
        else (estimate.input_tokens + (0 if counted[1] else estimate.output_tokens))
    )
    for limit, remaining in (
        (f"anthropic-ratelimit-{kind}-limit", f"anthropic-ratelimit-{kind}-remaining"),
        (f"x-ratelimit-limit-{kind}", f"x-ratelimit-remaining-{kind}"),
    ):
        most, left = headers.get(limit, ""), headers.get(remaining, "")
        if most.isdecimal() and left.isdecimal() and int(left) >= int(most):
            return sent > int(most)
    return False


def error_within(model_name: str, answer: Any) -> ModelAPIError | None:
    """The error that a provider sent instead of an answer, or as its end, with status 200.

    OpenRouter and other gateways do so when a model fails after they have taken the request. None
    if there is none.
    """
    choices: Any = getattr(answer, "choices", None) or ()
    of_choice: Any = getattr(choices[0], "error", None) if choices else None
    said: Any = getattr(answer, "error", None) or of_choice
    if isinstance(said, str):
        said = {"message": said}
    if not isinstance(said, dict) or not said or getattr(answer, "object", None) == "response":
        return None
    body = cast(dict[str, Any], said)
    code = _status_of(str(body.get("type")), str(body.get("code")))
    began = bool(choices) or bool(getattr(getattr(answer, "usage", None), "total_tokens", 0))
    if code is None:
        return ModelAPIError(model_name, str(body.get("message")), body=body, in_stream=began)
    return ModelHTTPError.for_category(
        _CATEGORIES.get(code),
        status_code=code,
        model_name=model_name,
        body=body,
        in_stream=began,
    )


def _status_of(kind: str, code: str) -> int | None:
    """The HTTP status that an error's type and code stand for; None if for none."""
    if refusing := _REFUSING.get(kind) or _REFUSING.get(code):
        return refusing
    if code.isdecimal() and len(code) == 3 and 400 <= int(code) < 600:
        return int(code)
    return _STATUS.get(code) or _STATUS.get(kind)


def error_instead_of_stream(model_name: str, answer: PlainAnswer) -> ModelAPIError | None:
    """The error in a document that came in place of a stream; None if none came."""
    if not answer.came:
        return None
    found: Any = answer.document
    told = cast(dict[str, Any], found) if isinstance(found, dict) else {}
    listed: Any = told.get("choices")
    first = cast(list[Any], listed)[:1] if isinstance(listed, list) else []
    choices = [SimpleNamespace(**each) for each in first if isinstance(each, dict)]
    error = error_within(model_name, SimpleNamespace(error=told.get("error"), choices=choices))
    untold = "it answered a streamed request with a document that is no stream"
    return error or ModelAPIError(model_name, untold)


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
    error, says, ending = unanswered
    if ending is not None:
        return ending
    if isinstance(error, ModelQuotaExceededError):
        return Fail(f"{says}; {QUOTA}")
    if isinstance(error, ModelHTTPError) and error.status_code in FINAL:
        return Fail(f"{says}; {FINAL[HTTPStatus(error.status_code)]}")
    return Retry(_asked_pause(error) or None, says)


def _asked_pause(error: BaseException) -> float | None:
    """The pause that the provider asks for, in seconds, bounded; None if it does not say."""
    if not isinstance(error, ModelAPIError):
        return None
    most = PROVIDER_WAIT_SECONDS_MAX
    headers = (error.headers or {}) if isinstance(error, ModelHTTPError) else {}
    return (
        retry_after_seconds(headers, most)
        or (None if error.retry_after is None else min(error.retry_after, most))
        or said_seconds(_text_of(error), most)
        or (reset_seconds(headers, most) if isinstance(error, ModelRateLimitError) else None)
    )


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
    said = _text_of(error) or type(error).__name__
    for text in _prompts(messages):
        said = said.replace(text, "[prompt]")
    return bounded(_KEY.sub(MASK, said))


def _text_of(error: BaseException) -> str:
    """What the provider says, as it says it."""
    if not isinstance(error, ModelAPIError):
        return ""
    body: Any = error.body
    while isinstance(body, dict):
        inner = cast(dict[str, Any], body)
        body = inner.get("error") or inner.get("message")
    if body is None and not isinstance(error, ModelHTTPError):
        return error.message
    return body if isinstance(body, str) else ""


def _prompts(messages: Sequence[ModelMessage]) -> list[str]:
    texts = [
        part.content
        for message in messages
        for part in message.parts
        if isinstance(part, UserPromptPart) and isinstance(part.content, str)
    ]
    return [text for text in texts if len(text) >= QUOTE_CHARACTERS_MIN]
