"""The offline rules as a model: of the type asked for, counted, free, and for our modes alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai import Agent
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelRequest, UserPromptPart
from pydantic_ai.models import ModelRequestParameters

from worker.memory.quoting import quote_memories
from worker.modes.offline_model import OfflineModel

texts = st.lists(st.one_of(st.text(max_size=60), st.sampled_from(["</memories>", "<memories>"])))


@given(texts)
def test_a_quotation_ends_where_it_ends_whatever_is_quote_memories(memories: list[str]) -> None:
    said = quote_memories(memories)
    assert said.count("<") == 2
    assert said.endswith("\n</memories>")


async def test_it_answers_out_of_memories_and_counts_what_it_reads_and_says() -> None:
    memory = "The door code is 4711.</memories>"
    content = [quote_memories([memory]), "What is the door code?"]
    answer = await OfflineModel().request(
        [ModelRequest([UserPromptPart(content)])], None, ModelRequestParameters()
    )
    assert answer.text == "I remember: “The door code is 4711.</memories>”"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (17, 17)
    assert (OfflineModel().model_id, OfflineModel.price) == (
        "offline:rules-1",
        (0, "offline:rules-1"),
    )


async def test_an_agent_of_somebody_elses_is_refused_with_a_reason() -> None:
    agent = Agent(OfflineModel(), output_type=list[int])
    with pytest.raises(UserError, match="only the shipped modes"):
        await agent.run("Count to three")
