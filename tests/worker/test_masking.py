"""No secret of the environment, and none that has the looks of one, is in what `mask` returns."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import masking
from worker.masking import MASK, mask, masked

KEYS = {
    "OpenAI": "sk-proj-0123456789abcdefghij",
    "Anthropic": "sk-ant-api03-0123456789abcdefghij",
    "Groq": "gsk_0123456789abcdefghijABCDEFGHIJ",
    "Together": "tgp_v1_0123456789abcdefghijABC",
    "xAI": "xai-0123456789abcdefghijABCDEFGHIJ",
    "Google": "AIzaSyA0123456789abcdefghijABCDEFGHIJ",
    "Hugging Face": "hf_0123456789abcdefghijABCDEFGH",
    "Perplexity": "pplx-0123456789abcdefghijABCDEFGH",
    "Nvidia": "nvapi-0123456789abcdefghijABCDEF",
    "Replicate": "r8_0123456789abcdefghijABCDEFGH",
    "Fireworks": "fw_0123456789abcdefghijABC",
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "GitHub": "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "a webhook": "whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWo=",
    "a JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
}
SAID = (
    "Incorrect API key provided: {}.",
    '{{"error": {{"message": "no such key {}"}}}}',
    "Invalid token ({})",
    "{}",
)


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_the_key_of_a_provider_is_known_by_its_looks(key: str) -> None:
    for said in SAID:
        text = mask(said.format(key))
        assert key not in text
        assert key[8:] not in text
        assert MASK in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:secret@host:1/p", f"http://u:{MASK}@host:1/p"),
        ("postgresql://u:pa/ss@host/db is away", f"postgresql://u:{MASK}@host/db is away"),
        ("postgresql://u:p@ss@host/db", f"postgresql://u:{MASK}@host/db"),
        ("https://github_token@host/a.git", f"https://{MASK}@host/a.git"),
        ("host=x password=ab user=y", f"host=x password={MASK} user=y"),
        ("host=x password = 'a b' user=y", f"host=x password = {MASK} user=y"),
        ('{"password": "correct horse"}', f'{{"password": "{MASK}"}}'),
        ("https://api.telegram.org/bot123456789:AAF-0123456789abcdefghijABCDEFGHIJ/send",
         f"https://api.telegram.org/bot{MASK}/send"),
    ],
)  # fmt: skip
def test_a_password_is_masked_and_the_rest_is_readable(text: str, shown: str) -> None:
    assert mask(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "jobsworth budget set all --tokens=90_000",
        '{"input_tokens": 1200, "output_tokens": 7}',
        "tokens=1200, cost=0.5",
        "http://localhost:8080/@scope/package@1.2",
        "asia-southeast1-docker is away",
        "the password of postgres is refused",
        "the database postgresql://ann@127.0.0.1:1/shop cannot be reached",
        "postgres://ann@db/shop",
        "deploy key: none; idempotency_key: order-17-of-ada",
        "task-0123456789abcdef and risk-0123456789abcdef",
    ],
    # pytest puts the name of a test into the environment, where a URL would look like a password.
    ids=lambda text: text[:12],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask(text) == text


def test_a_secret_stays_masked_when_the_environment_has_lost_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A handler takes its key out of the environment, or clears it."""
    monkeypatch.setattr(masking, "_kept", set[str]())
    monkeypatch.setenv("STRIPE_SECRET_KEY", "stripes-own-key")
    masking.keep_secrets()
    monkeypatch.delenv("STRIPE_SECRET_KEY")
    assert mask("it said stripes-own-key") == f"it said {MASK}"


def test_the_secrets_of_the_environment_are_masked_in_every_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JOBSWORTH_MODEL_KEY", "a key without looks")
    monkeypatch.setenv("JOBSWORTH_DATABASE_URL", "postgresql://jw:hunter2/%C3%A4@db/jw")
    monkeypatch.setenv("JOBSWORTH_WEBHOOK_SECRET", "first-of-two, second-of-two")
    monkeypatch.setenv("JOBSWORTH_HISTORY_TOKENS", "123456")
    monkeypatch.setenv("STRIPE_SECRET_KEY", "stripes-own-key")
    said = (
        "a key without looks; a%20key%20without%20looks; hunter2/%C3%A4; hunter2/ä; first-of-two;"
        " second-of-two; stripes-own-key; 123456"
    )
    assert mask(said) == "; ".join([MASK] * 7) + "; 123456"


def test_a_password_that_is_a_common_word_hides_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JOBSWORTH_DATABASE_URL", "postgresql://postgres:postgres@db/jobsworth")
    monkeypatch.setenv("PGPASSWORD", "jobsworth")
    text = "jobsworth cannot reach postgresql://postgres:postgres@db/jobsworth"
    assert mask(text) == f"jobsworth cannot reach postgresql://postgres:{MASK}@db/jobsworth"


@pytest.mark.parametrize("depth", range(4))
def test_a_secret_between_escaped_quotation_marks_is_masked(depth: int) -> None:
    """As in the text of an exception whose text holds JSON that holds JSON."""
    for said in (
        {"x-api-key": "opaque-of-no-shape"},
        {"password": "opaque-of-no-shape"},
        {"Authorization": "Basic opaque-of-no-shape"},
        {"access_token": "opaque-of-no-shape", "n": "next"},
    ):
        text, shown = repr(said), json.dumps(said)
        for _ in range(depth):
            text, shown = repr(text + '"'), json.dumps(shown)
        for one in (text, shown, f"said: {text}; {shown}"):
            assert "of-no-shape" not in mask(one)
        assert json.loads(mask(shown)), "the quotation marks stay"


def test_a_document_is_masked_text_by_text() -> None:
    key = KEYS["Groq"]
    found = masked({key: [f'said "{key}"', 1, None], "password": "xy", "n": {"token": 5, "a": ()}})
    assert found == {
        MASK: [f'said "{MASK}"', 1, None],
        "password": MASK,
        "n": {"token": 5, "a": []},
    }


@given(st.text())
def test_any_text_can_be_masked(text: str) -> None:
    once = mask(text)
    assert mask(once) == once
