"""The stub provider answers like a real one, fails as scripted, and bills what it computed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.providers.openai_stub import (
    CUT,
    DUPLICATE_TOOL_IDS,
    INCONSISTENT_USAGE,
    MALFORMED,
    MALFORMED_TOOL_JSON,
    MISSING_USAGE,
    SERVER_ERROR,
    OpenAIStub,
    bill_of,
    slow,
    too_many,
)
from tests.support import ROOT


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


# Chats: scripts, streams, faults of their own.


def asked(provider: OpenAIStub, *messages: dict[str, Any], **fields: object) -> dict[str, Any]:
    answer = httpx.post(
        f"{provider.url}/chat/completions",
        json={"model": "m", "messages": messages, **fields},
        trust_env=False,
    )
    return answer.json()


SCRIPT = {
    "role": "user",
    "content": '[[call f {"n": 1} + call#x g {} ;; raw f {"n" ;; say got {results}]]',
}


def test_a_prompt_scripts_the_answers_turn_by_turn(provider: OpenAIStub) -> None:
    message = asked(provider, SCRIPT)["choices"][0]["message"]
    calls = [
        (c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]
    ]
    assert calls == [("call_0_0", "f", '{"n": 1}'), ("x", "g", "{}")]
    first = {"role": "assistant", "content": None, "tool_calls": message["tool_calls"]}
    told = [first, {"role": "tool", "tool_call_id": "x", "content": "one"}]
    again = asked(provider, SCRIPT, *told)["choices"][0]["message"]
    assert again["tool_calls"][0]["function"]["arguments"] == '{"n"'
    told += [{"role": "assistant", "content": "hm"}, {"role": "tool", "content": "two"}]
    last = asked(provider, SCRIPT, *told)
    assert last["choices"][0]["message"]["content"] == "got two"
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_an_answer_is_cut_to_the_limit_that_the_request_sets(provider: OpenAIStub) -> None:
    answer = complete(provider, "x" * 100, max_completion_tokens=3).json()
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"


def streamed(provider: OpenAIStub, **fields: Any) -> list[dict[str, Any]]:
    text = complete(provider, stream=True, **fields).text
    events = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def test_a_stream_says_the_same_in_pieces_with_usage_if_asked(provider: OpenAIStub) -> None:
    chunks = streamed(provider)
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(deltas) == "You said: 12345678"
    assert len(deltas) > 2
    assert not any("usage" in chunk for chunk in chunks)
    [*_, last] = streamed(provider, stream_options={"include_usage": True})
    assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}
    assert provider.billed_tokens() == {"chat-1": (4, 10)}


def test_a_stream_that_is_cut_is_billed(provider: OpenAIStub) -> None:
    provider.script(CUT)
    with pytest.raises(httpx.RemoteProtocolError):
        complete(provider, stream=True)
    assert len(provider.bill) == 1


def test_usage_and_tool_calls_can_be_spoilt(provider: OpenAIStub) -> None:
    provider.script(MISSING_USAGE, INCONSISTENT_USAGE, MALFORMED_TOOL_JSON, DUPLICATE_TOOL_IDS)
    assert "usage" not in asked(provider, SCRIPT)
    usage = asked(provider, SCRIPT)["usage"]
    assert usage["total_tokens"] != usage["prompt_tokens"] + usage["completion_tokens"]
    broken = asked(provider, SCRIPT)["choices"][0]["message"]["tool_calls"]
    with pytest.raises(ValueError, match=r"."):
        json.loads(broken[0]["function"]["arguments"])
    same = asked(provider, SCRIPT)["choices"][0]["message"]["tool_calls"]
    assert len({call["id"] for call in same}) == 1


def test_a_process_of_its_own_appends_to_its_bill_before_it_answers(tmp_path: Path) -> None:
    bill = tmp_path / "bill.jsonl"
    command = [
        sys.executable,
        "-m",
        "tests.providers.openai_stub",
        "--bill",
        str(bill),
        "--seed",
        "1",
    ]
    command += ["--faults", "500=0.3,missing_usage=0.2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            statuses = [
                httpx.post(
                    f"{url}/chat/completions",
                    json=ask,
                    headers={"X-Request-Id": f"r-{n}"},
                    trust_env=False,
                ).status_code
                for n in range(20)
            ]
        finally:
            process.kill()
    lines = bill_of(bill)
    assert [line.charge.request_id for line in lines] == [f"r-{n}" for n in range(20)]
    assert [200 if line.computed else 500 for line in lines] == statuses
    assert set(statuses) == {200, 500}
