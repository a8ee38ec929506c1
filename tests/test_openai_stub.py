"""The provider under test answers like one, fails as scripted, and bills what it computed."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.openai_stub import CUT, MALFORMED, SERVER_ERROR, OpenAIStub, slow, too_many


@pytest.fixture
def provider() -> Iterator[OpenAIStub]:
    with OpenAIStub() as stub:
        yield stub


def complete(
    provider: OpenAIStub, text: str = "12345678", seconds: float = 5, **fields: object
) -> httpx.Response:
    return httpx.post(
        f"{provider.url}/chat/completions",
        json={"model": "chat-1", "messages": [{"role": "user", "content": text}], **fields},
        headers={"X-Request-Id": "r-1"},
        timeout=seconds,
        trust_env=False,
    )


def test_a_completion_is_answered_and_billed(provider: OpenAIStub) -> None:
    answer = complete(provider).json()
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "You said: 12345678",
    }
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}
    [charge] = provider.bill
    assert (charge.model, charge.request_id) == ("chat-1", "r-1")
    assert provider.billed_tokens() == {"chat-1": (2, 5)}


def test_the_reply_can_be_chosen() -> None:
    with OpenAIStub(reply=lambda body: str(len(body["messages"]))) as provider:
        assert complete(provider).json()["choices"][0]["message"]["content"] == "1"


def test_scripted_faults_come_in_order_and_then_good_answers(provider: OpenAIStub) -> None:
    provider.script(SERVER_ERROR, too_many("3"), MALFORMED)
    assert complete(provider).status_code == 500
    busy = complete(provider)
    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "3")
    with pytest.raises(ValueError, match=r"."):
        complete(provider).json()
    assert complete(provider).status_code == 200


def test_a_cut_or_late_answer_is_billed_though_nobody_got_it(provider: OpenAIStub) -> None:
    provider.script(CUT, slow(30))
    with pytest.raises(httpx.RemoteProtocolError):
        complete(provider)
    with pytest.raises(httpx.ReadTimeout):
        complete(provider, seconds=0.2)
    assert len(provider.bill) == 2


def test_a_lasting_fault_ends_with_recovery(provider: OpenAIStub) -> None:
    provider.always(SERVER_ERROR)
    assert [complete(provider).status_code for _ in range(2)] == [500, 500]
    provider.recover()
    assert complete(provider).status_code == 200


def test_what_it_does_not_know_is_refused_and_not_billed(provider: OpenAIStub) -> None:
    unknown = httpx.post(f"{provider.url}/other", json={"model": "m"}, trust_env=False)
    assert unknown.status_code == 404
    assert provider.bill == []
    with OpenAIStub(key="k") as guarded:
        assert complete(guarded).status_code == 401
