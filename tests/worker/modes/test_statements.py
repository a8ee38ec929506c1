"""What a person states, by rules: preferences, decisions, procedures, facts; and nothing else."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.modes import offline
from worker.modes.extraction import Extracted, quote_messages, quoted_messages
from worker.modes.statements import read_statements

STATED = {
    "I prefer tea.": ("preference", "tea"),
    "ok, I really don't like tea": ("preference", "tea"),
    "I prefer tea over coffee.": ("preference", "coffee or tea"),
    "We prefer coffee to tea!": ("preference", "coffee or tea"),
    "Remember that my favourite editor is vim.": ("preference", "favourite editor"),
    "We decided to use PostgreSQL for the ledger.": ("decision", "for ledger"),
    "We've agreed on Kafka.": ("decision", "kafka"),
    "Before releasing, we always run the suite.": ("procedure", "before releasing we run suite"),
    "Before releasing, we never run the suite.": ("procedure", "before releasing we run suite"),
    "I never deploy on Fridays": ("procedure", "deploy on fridays"),
    "My name is Ada.": ("fact", "my name"),
    "I now live in Berlin.": ("fact", "live in"),
    "Our office is closed until 2026-12-31.": ("fact", "office"),
}
NOT_STATED = (
    "Do I prefer tea?",
    "I prefer tea?",
    "If I could choose, I prefer tea.",
    "Maybe I like tea.",
    "I'd like a coffee.",
    "I used to like tea.",
    "He said I prefer tea.",
    'My answer was: "I prefer tea."',
    "> I prefer tea.",
    "```\nI prefer tea.\n```",
    "I like it.",
    "My question is how to deploy.",
    "When I was in Rome, I lost my keys.",
    "I never said that.",
    "I am tired.",
    "Our office is closed until 2026-13-40.",
    "I am away from 2026-12-27 to 2026-12-20.",
    "Deploy 4f2a91c to staging.",
    "You prefer tea.",
)


@pytest.mark.parametrize("sentence", STATED)
def test_a_statement_in_the_first_person_is_read(sentence: str) -> None:
    [stated] = read_statements(f"Hello! {sentence}\nWhat do you think?")
    assert (stated.type, stated.subject) == STATED[sentence]
    assert stated.sentence == sentence


@pytest.mark.parametrize("text", NOT_STATED)
def test_questions_hypotheticals_quotations_and_small_talk_state_nothing(text: str) -> None:
    assert read_statements(text) == []


def test_a_fact_has_the_days_on_which_it_holds() -> None:
    [away] = read_statements("I'm on holiday from 2026-12-20 to 2026-12-27.")
    assert (away.type, away.first_day, away.last_day) == (
        "fact",
        date(2026, 12, 20),
        date(2026, 12, 27),
    )


@given(st.lists(st.text(max_size=60) | st.sampled_from([*STATED, *NOT_STATED]), max_size=60))
def test_any_messages_make_an_output_that_is_not_too_long(texts: list[str]) -> None:
    assert quoted_messages(quote_messages(texts)) == texts
    content = offline.extract(texts)
    Extracted.model_validate(content)
    assert offline.count_tokens(*offline.words_of(content)) <= offline.OUTPUT_TOKENS_MAX
