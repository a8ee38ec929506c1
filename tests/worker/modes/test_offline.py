"""The offline model answers everything, within its bounds, and invents nothing."""

import re

from hypothesis import given
from hypothesis import strategies as st

from worker.modes import offline
from worker.modes.plans import Deploy, Plan, Save, Search
from worker.modes.requests import Classified

WORDS = (
    "please deploy plan write find what when how is the shop tea 0123456 to staging and remember "
    "that . ? ! 🙂 مرحبا"
)
texts = st.one_of(
    st.text(max_size=400),
    st.lists(st.sampled_from(WORDS.split()), max_size=40).map(" ".join),
)
turns = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), texts), min_size=1, max_size=8)
tasks = st.sampled_from(["classify", "answer", "plan"])


def answer(*said: str, memories: tuple[str, ...] = ()) -> str:
    return offline.respond("answer", [("user", text) for text in said], memories)["text"]


def plan(text: str) -> Plan:
    return Plan.model_validate(offline.respond("plan", [("user", text)], ()))


@given(turns, st.lists(texts, max_size=5))
def test_every_conversation_is_classified_answered_and_planned(
    conversation: list[tuple[str, str]], memories: list[str]
) -> None:
    Classified.model_validate(offline.respond("classify", conversation, memories))
    assert offline.respond("answer", conversation, memories)["text"].strip()
    Plan.model_validate(offline.respond("plan", conversation, memories))


@given(tasks, turns, st.lists(texts, max_size=5))
def test_no_answer_takes_more_tokens_than_the_estimate(
    task: str, conversation: list[tuple[str, str]], memories: list[str]
) -> None:
    content = offline.respond(task, conversation, memories)  # pyright: ignore[reportArgumentType]
    assert offline.count_tokens(*offline.words_of(content)) <= offline.OUTPUT_TOKENS_MAX


@given(tasks, turns, st.lists(texts, max_size=5))
def test_the_same_request_gets_the_same_answer(
    task: str, conversation: list[tuple[str, str]], memories: list[str]
) -> None:
    once = offline.respond(task, conversation, memories)  # pyright: ignore[reportArgumentType]
    assert offline.respond(task, conversation, memories) == once  # pyright: ignore[reportArgumentType]


def test_a_question_is_answered_with_a_quote_from_the_thread() -> None:
    said = answer("The shop opens at nine.", "I like tea.", "When does the shop open?")
    assert said == "From this thread: “The shop opens at nine.”"


def test_a_question_is_answered_with_a_quote_from_memory() -> None:
    said = answer("What is the door code?", memories=("The door code is 4711.",))
    assert said == "I remember: “The door code is 4711.”"


def test_what_is_said_and_remembered_is_quoted_once() -> None:
    said = answer(
        "The door code is 4711.", "What is the door code?", memories=("The door code is 4711.",)
    )
    assert said.count("4711") == 1


def test_a_question_without_an_answer_says_so_and_who_says_it() -> None:
    said = answer("I like tea.", "Who won the cup in 1958?")
    assert said == f"{offline.NOTHING} {offline.SELF}"


def test_earlier_answers_and_questions_are_no_source() -> None:
    conversation = [
        ("user", "Is the shop open?"),
        ("assistant", "I found nothing about that, neither in this thread nor in memory."),
        ("user", "Is the shop open now?"),
    ]
    assert "“" not in offline.respond("answer", conversation, ())["text"]


@given(turns, st.lists(texts, max_size=5))
def test_whatever_is_quoted_was_said_or_remembered(
    conversation: list[tuple[str, str]], memories: list[str]
) -> None:
    asked = [*conversation, ("user", "What about the shop and the tea?")]
    said = offline.respond("answer", asked, memories)["text"]
    sources = [
        " ".join(offline.plain(t).split()) for t in [*(t for _, t in conversation), *memories]
    ]
    for quote in re.findall(r"^(?:From this thread|I remember): “(.*)”$", said, re.MULTILINE):
        assert any(quote.removesuffix("…") in source for source in sources)


def test_a_shipping_plan_ships_exactly_what_was_asked_for() -> None:
    steps = plan("Please deploy 0123456 to staging and fedcba9 to production").steps
    assert [step for step in steps if isinstance(step, Deploy)] == [
        Deploy(environment="staging", sha="0123456"),
        Deploy(environment="production", sha="fedcba9"),
    ]


def test_an_order_to_ship_nothing_known_ships_nothing() -> None:
    made = plan("Deploy the new site to staging")
    assert not [step for step in made.steps if isinstance(step, Deploy)]
    assert "names no commit" in made.as_text()


def test_a_writing_plan_searches_first_and_saves_a_draft() -> None:
    steps = plan("Draft a newsletter about the sale").steps
    assert isinstance(steps[0], Search)
    assert [step.name for step in steps if isinstance(step, Save)] == [
        "a-newsletter-about-the-sale.md"
    ]


def test_tokens_are_six_word_characters_or_one_sign() -> None:
    assert offline.count_tokens("Tea!", "abcdefg hi", "🙂 ") == 2 + 3 + 1
