"""What a message wants is read from its form, whatever it is about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.modes.intents import SUBJECT_CHARACTERS_MAX, Shipment, plain, read_intent

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("🍵🍵", "empty"),
        ("Hi there!", "greeting"),
        ("Thanks, that helped 🙂", "greeting"),
        ("When does the shop open?", "question"),
        ("when does the shop open", "question"),
        ("The tea is cold? Really", "question"),
        ("هل المتجر مفتوح؟", "question"),
        ("Can you tell me when the shop opens?", "question"),
        ("How do I deploy 0123456 to staging?", "question"),
        ("Remember that I like tea.", "fact"),
        ("Hello. Note: the door sticks.", "fact"),
        ("The shop opens at nine.", "statement"),
        ("Please draft a newsletter.", "request"),
        ("Could you draft a newsletter, please?", "request"),
        ("I'd like you to research venues", "request"),
        ("Hello! I run a shop. Please draft a newsletter.", "request"),
        ("Is it up? Then deploy 0123456 to staging.", "request"),
    ],
)
def test_the_form_of_a_message_tells_its_kind(text: str, kind: str) -> None:
    assert read_intent(text).kind == kind


@pytest.mark.parametrize(
    "text",
    [
        f"deploy {SHA} to staging",
        f"Could you deploy {SHA} to staging, please?",
        f"Please ship the commit {SHA.upper()} to the staging environment.",
        f"Hello Ben.\nRoll out {SHA} onto staging!",
    ],
)
def test_a_shipment_is_a_commit_and_its_environment(text: str) -> None:
    assert read_intent(text).shipments == (Shipment(SHA, "staging"),)


def test_several_shipments_keep_their_order() -> None:
    intent = read_intent("Ship 0123456 to staging and then fedcba9 to production")
    assert intent.shipments == (Shipment("0123456", "staging"), Shipment("fedcba9", "production"))


def test_an_order_without_a_commit_ships_nothing() -> None:
    intent = read_intent("Deploy the site to staging")
    assert (intent.kind, intent.shipments) == ("request", ())


def test_control_and_direction_characters_are_not_read() -> None:
    assert plain("a\u202eb\x07c\u200d \u2028 d") == "abc d"


@given(st.text(max_size=300))
def test_every_text_has_an_intent_with_a_bounded_subject(text: str) -> None:
    intent = read_intent(text)
    assert intent.kind == "fact" or len(intent.subject) <= SUBJECT_CHARACTERS_MAX


@given(st.sampled_from(["x", "é ", "deploy ", "a? ", "\0", "🙂", "0123456 to a ", "@a "]))
def test_a_huge_text_is_read_like_a_long_one(piece: str) -> None:
    assert read_intent(piece * 100_000) == read_intent(piece * 10_000)
