"""The demo's provider answers by the offline rules over HTTP, and charges for each answer."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from db.errors import InvalidInput
from worker.demo.provider.bill import Charge, read_bill
from worker.demo.provider.completions import Body
from worker.demo.provider.model import OFFLINE, PRICED, check_model, serve
from worker.demo.provider.server import Provider


@pytest.fixture
def bill(tmp_path: Path) -> Path:
    return tmp_path / "bill.jsonl"


@pytest.fixture
def url(bill: Path) -> Iterator[str]:
    with Provider(bill) as provider:
        thread = threading.Thread(target=provider.serve_forever, args=(0.02,))
        thread.start()
        yield provider.url
        provider.shutdown()
        thread.join()


def post(url: str, body: Body, request_id: str | None = "one") -> tuple[int, Body]:
    at = urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=30)
    headers = {} if request_id is None else {"X-Request-Id": request_id}
    connection.request("POST", f"{at.path}/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    found: Body = json.loads(answer.read())
    connection.close()
    return answer.status, found


def asking(text: Any, *tools: str, earlier: tuple[Body, ...] = ()) -> Body:
    offered = [{"type": "function", "function": {"name": name}} for name in tools]
    messages = [*earlier, {"role": "user", "content": text}]
    return {"model": "gpt-5-mini", "messages": messages, "tools": offered}


def said(answer: Body) -> Body:
    return answer["choices"][0]["message"]


def test_it_answers_by_the_rules_and_bills_the_usage_that_it_reports(url: str, bill: Path) -> None:
    earlier: Body = {"role": "user", "content": "The shop is open from nine to six."}
    status, answer = post(url, asking("When is the shop open?", earlier=(earlier,)))
    assert status == 200
    assert "nine to six" in said(answer)["content"]
    usage = answer["usage"]
    assert read_bill(bill) == [
        Charge("one", "gpt-5-mini", usage["prompt_tokens"], usage["completion_tokens"])
    ]


def test_a_typed_output_comes_as_a_call_of_its_tool(url: str) -> None:
    _, answer = post(url, asking("Please draft a letter.", "classified"))
    [call] = said(answer)["tool_calls"]
    assert call["function"]["name"] == "classified"
    assert json.loads(call["function"]["arguments"])["mode"] == "plan"


def test_memories_in_front_of_a_message_are_read(url: str) -> None:
    parts = ['<memories>\n["The back door sticks when it rains."]\n</memories>', "The back door?"]
    _, answer = post(url, asking([{"type": "text", "text": part} for part in parts]))
    assert "sticks when it rains" in said(answer)["content"]


def test_a_plan_is_carried_out_step_by_step(url: str) -> None:
    plan = {"title": "t", "steps": [{"kind": "note", "text": "tea"}]}
    body = asking(json.dumps(plan), "note", "carried_out")
    _, answer = post(url, body)
    [call] = said(answer)["tool_calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == ("note", '{"text":"tea"}')
    returned = json.dumps({"passed": True, "detail": "noted", "found": []})
    body["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": returned},
    ]
    _, answer = post(url, body, "two")
    assert said(answer)["tool_calls"][0]["function"]["name"] == "carried_out"


def test_a_request_that_it_cannot_read_is_refused_and_not_billed(url: str, bill: Path) -> None:
    assert post(url, asking("x"), request_id=None)[0] == 400
    assert post(url, {**asking("x"), "stream": True})[0] == 400
    assert post(url, {"messages": 7})[0] == 500
    assert read_bill(bill) == []


def test_it_is_a_process_that_ends_with_the_block(tmp_path: Path) -> None:
    with serve(PRICED, tmp_path) as served:
        url = served.environment["JOBSWORTH_MODEL_URL"]
        assert post(url, asking("Hello!"))[0] == 200
        assert [charge.request_id for charge in served.bill()] == ["one"]
    with pytest.raises(OSError):
        post(url, asking("Hello!"))


def test_the_offline_model_has_no_provider_and_no_bill(tmp_path: Path) -> None:
    with serve(OFFLINE, tmp_path) as served:
        assert served.environment == {"JOBSWORTH_MODEL": "offline"}
        assert (served.priced, served.bill()) == (False, [])


def test_the_demo_uses_no_real_provider() -> None:
    with pytest.raises(InvalidInput, match="uses no real provider"):
        check_model("anthropic:claude-sonnet-4-5")
