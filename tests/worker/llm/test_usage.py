"""What a request may take, and what is believed of what a provider says."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai import ModelRequest, ModelResponse
from pydantic_ai.messages import ModelMessage, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage

from db.money.calls import Usage, UsageSource
from worker.llm.recorded import asked_of, changed, document_of, response_of, with_unique_ids
from worker.llm.usage import Estimate, Told, upper_estimate, usage_of
from worker.money.pricing import Pricing

ESTIMATE = Estimate(1000, 100)


def said(**usage: Any) -> ModelResponse:
    return ModelResponse([TextPart("x")], usage=RequestUsage(**usage))


def total(tokens: int | None) -> Told:
    told = Told()
    told.tokens = tokens
    return told


def asking(*content: Any) -> list[ModelMessage]:
    return [ModelRequest([UserPromptPart(content)])]


@given(st.text(), st.binary(max_size=200))
def test_the_estimate_is_never_below_the_bytes_of_what_is_told(text: str, tools: bytes) -> None:
    estimate = upper_estimate(asking(text), tools, 7, TestModel())
    assert estimate.input_tokens >= len(json.dumps(text, ensure_ascii=False).encode()) + len(tools)
    assert estimate.output_tokens == 7


def test_usage_is_taken_as_the_provider_says_with_all_its_shares() -> None:
    response = said(
        input_tokens=10,
        output_tokens=5,
        cache_read_tokens=3,
        cache_write_tokens=2,
        details={"reasoning_tokens": 4},
    )
    usage = usage_of(response, ESTIMATE, total(15))
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (10, 5, 15)
    assert (usage.cache_read_tokens, usage.cache_write_tokens) == (3, 2)
    assert (usage.reasoning_tokens, usage.source) == (4, UsageSource.PROVIDER)


def test_thinking_searches_and_what_is_kept_for_an_hour_are_told_apart() -> None:
    counts: Any = {"cache_write_tokens": 4, "cache_write_1h_tokens": 3, "web_searches": 2}
    response = said(input_tokens=10, output_tokens=5, output_reasoning_tokens=4, **counts)
    usage = usage_of(response, ESTIMATE, Told())
    assert usage is not None
    assert usage.reasoning_tokens == 4
    assert usage.others == {"cache_write_1h_tokens": 3, "web_searches": 2}


def test_searches_of_the_web_cost_what_the_provider_takes_for_each_and_are_never_free() -> None:
    def cost(model: str, searches: int) -> Decimal | None:
        usage = Usage(1000, 100, others={"web_searches": searches})
        priced = Pricing().price_of("openai", model, usage)
        return priced and priced.cost

    without = cost("gpt-5-mini", 0)
    assert without is not None
    assert cost("gpt-5-mini", 3) == without + Decimal("0.03")
    assert cost("gpt-3.5-turbo", 0) is not None
    assert cost("gpt-3.5-turbo", 3) is None, "nobody knows what it takes for a search"


@pytest.mark.parametrize(
    ("usage", "stated"),
    [
        ({}, None),
        ({"input_tokens": 1, "output_tokens": 1, "unmeasured_requests": 1}, None),
        ({"input_tokens": -1, "output_tokens": 5}, None),
        ({"input_tokens": 1, "output_tokens": 1}, 50),
    ],
    ids=["none", "unmeasured", "negative", "contradicts its total"],
)
def test_usage_that_cannot_be_is_not_believed(usage: Any, stated: int | None) -> None:
    assert usage_of(said(**usage), ESTIMATE, total(stated)) is None


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_what_is_booked_is_never_below_what_is_said_nor_without_need_above(
    read: int, written: int
) -> None:
    usage = usage_of(said(input_tokens=read, output_tokens=written), ESTIMATE, Told())
    if usage is None:
        assert read + written == 0
    elif usage.source is UsageSource.PROVIDER:
        assert (usage.input_tokens, usage.output_tokens) == (read, written)
    else:
        assert read > ESTIMATE.input_tokens or written > ESTIMATE.output_tokens
        assert usage.input_tokens >= min(read, 2**31 - 1)
        assert usage.output_tokens >= min(written, 2**31 - 1)


# What a replay reads.


def test_a_response_comes_out_of_its_document_as_it_went_in() -> None:
    response = ModelResponse(
        [TextPart("x"), ToolCallPart("f", '{"b": 1, "a": 2}', "id")],
        usage=RequestUsage(input_tokens=1, details={"reasoning_tokens": 2}),
        model_name="m",
        finish_reason="stop",
    )
    document = json.loads(json.dumps(document_of({"messages": "hash"}, response)))
    assert response_of(document) == response


def test_ids_are_unique_in_the_answer_and_in_the_conversation() -> None:
    before: list[ModelMessage] = [ModelResponse([ToolCallPart("f", "{}", "a")])]
    answer = ModelResponse([ToolCallPart("f", "{}", wanted) for wanted in ("a", "a", "b", "a-2")])
    parts = with_unique_ids(answer, before).parts
    ids = [part.tool_call_id for part in parts if isinstance(part, ToolCallPart)]
    assert ids == ["a-2", "a-3", "b", "a-2-2"]
    assert answer.parts[0] == ToolCallPart("f", "{}", "a")


def test_what_is_asked_does_not_change_with_the_time_and_does_with_the_words() -> None:
    from pydantic_ai.models import ModelRequestParameters

    def hashed(text: str, **settings: Any) -> dict[str, str]:
        asked = asked_of(asking(text), settings, ModelRequestParameters())  # pyright: ignore[reportArgumentType]
        return asked.hashes

    assert hashed("a") == hashed("a")
    assert hashed("a") == hashed("a", timeout=3, extra_headers={"x": "y"})
    document = document_of(hashed("a"), ModelResponse([]))
    assert changed(document, hashed("a")) == []
    assert changed(document, hashed("b")) == ["messages"]
    assert changed(document, hashed("b", temperature=0.5)) == ["messages", "settings"]
