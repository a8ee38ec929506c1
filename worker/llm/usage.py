"""Tokens of a request: how many it may take at most, and how many the provider says it took.

In: a request, and its response. Out: tokens for the books. Invariant: as far as can be known, the
books never hold less than what was billed: usage that is missing or contradicts itself is replaced
by the upper estimate, not by zero. The size of text is known: no token is less than a byte. That of
a file is estimated by its kind (`worker.llm.media`), so more than that is believed.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from decimal import Decimal
from inspect import ismethod
from typing import Any, NamedTuple
from weakref import WeakMethod

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.models import Model, StreamedResponse
from pydantic_ai.usage import RequestUsage

from db.money.calls import TOKENS_MAX, Usage, UsageSource
from worker import events
from worker.llm import classes, media
from worker.log import get_logger
from worker.money.pricing import STANDARD, Terms

log = get_logger()

# Bytes that the API adds around each message or tool.
FRAME_BYTES = 128
# Above every context window: input of unknown size is believed up to here.
CONTEXT_TOKENS_MAX = 10_000_000
# The provider then reads a conversation that it keeps.
_CONTINUES = ("openai_previous_response_id", "openai_conversation_id")


class Estimate(NamedTuple):
    """The most tokens that a request may take.

    More input than `input_believed` (None: than `input_tokens`) cannot have been read. It is more
    than the estimate where the size of something is not known here: of a file, of what the
    provider's own tools find, or of a conversation that the provider keeps. `terms`: what its price
    depends on besides.
    """

    input_tokens: int
    output_tokens: int
    input_believed: int | None = None
    terms: Terms = STANDARD


def upper_estimate(
    messages: Sequence[ModelMessage],
    tools: bytes,
    max_tokens: int,
    model: Model,
    *,
    native_tools: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Estimate:
    """The most tokens that this request may take, because no token is less than a byte.

    `tools` is all that is sent besides the messages: tool definitions, instructions, output
    schemas. `native_tools`: the provider runs tools of its own. Files count by their kind.
    """
    told = ModelMessagesTypeAdapter.dump_json(list(messages))
    parts = sum(len(message.parts) + 1 for message in messages)
    files = list(media.files_of(messages))
    text = len(told) - sum(map(media.base64_bytes, files))
    sent = text + len(tools) + FRAME_BYTES * (parts + 1)
    read = min(sent + sum(media.tokens_of(file, model) for file in files), TOKENS_MAX)
    unknown = files or native_tools or any((settings or {}).get(name) for name in _CONTINUES)
    believed = max(read, CONTEXT_TOKENS_MAX) if unknown else None
    terms = Terms(classes.asked_tier(model.system, settings or {}), media.kinds_of(files))
    return Estimate(read, min(max_tokens, TOKENS_MAX), believed, terms)


def usage_of(response: ModelResponse, estimate: Estimate, told: "Told") -> Usage | None:
    """The usage that the response states; None if it states none, or one that cannot be right.

    `told` is what the provider said besides. If one of the counts is above the estimate, the other
    is raised to the estimate, and the usage counts as estimated.
    """
    said = response.usage
    counts = (said.input_tokens, said.output_tokens, said.cache_read_tokens)
    if said.unmeasured_requests or min(*counts, said.cache_write_tokens) < 0:
        return None
    if said.input_tokens + said.output_tokens == 0:
        return None
    if told.tokens is not None and told.tokens != said.input_tokens + said.output_tokens:
        return None
    usage = Usage(
        min(said.input_tokens, TOKENS_MAX),
        min(said.output_tokens, TOKENS_MAX),
        cache_read_tokens=min(said.cache_read_tokens, TOKENS_MAX),
        cache_write_tokens=min(said.cache_write_tokens, TOKENS_MAX),
        reasoning_tokens=min(_reasoning_tokens(said), TOKENS_MAX),
        total_tokens=told.tokens,
        others=classes.others_of(said, told.others),
        tier=classes.tier_of(told.terms | (response.provider_details or {})),
    )
    believed = estimate.input_believed or estimate.input_tokens
    if said.input_tokens <= believed and said.output_tokens <= estimate.output_tokens:
        return usage
    return replace(
        usage,
        input_tokens=max(usage.input_tokens, estimate.input_tokens),
        output_tokens=max(usage.output_tokens, estimate.output_tokens),
        total_tokens=None,
        source=UsageSource.ESTIMATED,
    )


def usage_so_far(
    partial: ModelResponse, estimate: Estimate, told: "Told", *, thinks: bool
) -> Usage | None:
    """What an answer took that its provider broke off; None if nothing of it had been made.

    Classes and tier are those that the provider had `told`. The input is the provider's own count,
    if it came; the output no more than what was shown, because no token is less than a byte. A
    model that `thinks` may have made more than it showed.
    """
    said = partial.usage
    if not partial.parts and said.input_tokens + said.output_tokens == 0:
        return None
    shown = len(ModelMessagesTypeAdapter.dump_json([partial])) if partial.parts else 0
    made = estimate.output_tokens if thinks and partial.parts else shown
    return Usage(
        min(said.input_tokens or estimate.input_tokens, TOKENS_MAX),
        min(max(said.output_tokens, min(made, estimate.output_tokens)), TOKENS_MAX),
        cache_read_tokens=min(max(said.cache_read_tokens, 0), TOKENS_MAX),
        cache_write_tokens=min(max(said.cache_write_tokens, 0), TOKENS_MAX),
        others=classes.others_of(said, told.others),
        tier=classes.tier_of(told.terms | (partial.provider_details or {})),
        source=UsageSource.ESTIMATED,
    )


def _reasoning_tokens(said: RequestUsage) -> int:
    """The reasoning tokens; some adapters report them in a field, others in `details`."""
    return max(said.output_reasoning_tokens, said.details.get("reasoning_tokens", 0), 0)


def price_of(model: Model) -> tuple[Decimal | None, str | None]:
    """(cost, price version) of an answer, if the model itself tells them; providers' do not."""
    return getattr(model, "price", None) or (None, None)


class Told:
    """What a provider says of a request, and its adapter drops.

    It is read on its way through the adapter. `tokens`: the total that the provider states, which
    some providers' parts contradict; then neither is believed. OpenAI's protocols state a total;
    Anthropic's does not. `others` and `terms`: see `worker.llm.classes`. An error that a provider
    sends as an answer is raised.
    """

    def __init__(self, error_within: Callable[[Any], Exception | None] = lambda _: None) -> None:
        """`error_within` finds the error in an answer; it is raised within the request."""
        self._error_within = error_within
        self.tokens: int | None = None
        self.others: dict[str, int] = {}
        self.terms: dict[str, object] = {}

    def in_requests_of(self, model: Model) -> Model:
        """A copy of the model that notes it in the response to its request."""
        if getattr(model, "_process_response", None) is None:
            return model
        watched = copy(model)
        self._watch(watched, "_process_response", whole=True)
        return watched

    def in_stream(self, stream: StreamedResponse) -> None:
        """Note it in each message with usage that this stream reads."""
        for name in ("_map_usage", "_map_message_start"):
            self._watch(stream, name)

    def note(self, answer: object) -> None:
        """Note what a provider's answer, or a message of its stream, says."""
        answer = getattr(answer, "message", answer)
        usage: object = getattr(answer, "usage", None)
        total = getattr(usage, "total_tokens", None)
        if isinstance(total, int):
            self.tokens = total
        try:
            self.others |= classes.others_in(answer, usage)
            self.terms |= classes.terms_in(answer, usage)
        except Exception as error:  # whatever a provider sends; the answer itself is still good
            self.others[classes.UNREADABLE] = 1
            log.warning(events.CALL_USAGE_DOUBTED, error=f"{type(error).__name__}: {error}")

    def _watch(self, adapter: Any, name: str, *, whole: bool = False) -> None:
        read = getattr(adapter, name, None)
        if not ismethod(read):
            return
        # An adapter that held its own method would be garbage in a circle, after each request.
        method = WeakMethod(read)

        def watched(answer: Any, *args: Any, **kwargs: Any) -> Any:
            self.note(answer)
            if whole and (error := self._error_within(answer)) is not None:
                raise error
            own = method()
            assert own is not None  # it is called by its adapter
            return own(answer, *args, **kwargs)

        setattr(adapter, name, watched)
