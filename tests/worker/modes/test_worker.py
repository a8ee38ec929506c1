"""`jobsworth worker` with a model of a provider: from its start to the end of a conversation."""

from __future__ import annotations

import pytest

from tests.providers.openai_stub import OpenAIStub
from tests.support import Workers, connect, run_cli
from tests.worker.cli.support import cli_json
from tests.worker.modes.brain import Brain, calls
from tests.worker.modes.test_flow import Chat
from worker.daemon.daemon import REFUSED

PLAN = {
    "title": "a newsletter",
    "steps": [{"kind": "save", "name": "draft.md", "text": "Draft of the newsletter"}],
}


def test_a_conversation_runs_from_its_message_to_the_approved_plans_end(
    database_url: str, workers: Workers
) -> None:
    brain = Brain(mode="plan", plan=PLAN)
    brain.doing = [
        calls(("save_artifact", {"name": "draft.md", "content": "# Sale"})),
        calls(("carried_out", {"remarks": ""})),
    ]
    with OpenAIStub(reply=brain.reply, key="sk-own") as provider, connect(database_url) as conn:
        worker = workers.start(
            database_url,
            {
                "JOBSWORTH_MODEL": "openai:chat-1",
                "JOBSWORTH_MODEL_URL": provider.url,
                "JOBSWORTH_MODEL_KEY": "sk-own",
                "JOBSWORTH_INSTRUCTIONS": "Be brief.",
            },
        )
        chat = Chat(conn, worker)
        message = chat.say("Draft a newsletter")
        assert chat.until_asked()["shown"] == PLAN
        chat.decide("approve")
        chat.until_finished()
        billed = sum(charge.input_tokens + charge.output_tokens for charge in provider.bill)
        assert chat.modes(message) == [("classify", "done"), ("plan", "done"), ("execute", "done")]
        written, done = chat.answers()
        assert (written["model"], done["model"]) == ("openai:chat-1", "openai:chat-1")
        assert done["text"] == (
            "Done: a newsletter\n1. Save draft.md: Draft of the newsletter: saved 6 bytes"
        )
        booked = chat.one("select sum(input_tokens + output_tokens) from jobsworth.llm_calls")
        assert booked == billed
    assert "sk-own" not in "\n".join(worker.lines)


@pytest.mark.parametrize("model", ["openai:gpt-5.1", "anthropic:claude-sonnet-4-5"])
def test_a_model_without_its_key_keeps_the_worker_from_starting(
    database_url: str, workers: Workers, model: str
) -> None:
    env = {"JOBSWORTH_MODEL": model, "OPENAI_API_KEY": "", "ANTHROPIC_API_KEY": ""}
    worker = workers.start(database_url, env)
    assert worker.wait() == REFUSED
    [told] = worker.events("daemon.failed")
    assert told["error"] == f"there is no key for '{model}'"
    assert told["remedy"].startswith("set JOBSWORTH_MODEL_KEY or ")


def test_the_doctor_says_which_model_there_is_and_what_it_lacks(database_url: str) -> None:
    [offline] = _of_model(cli_json(database_url, "doctor"))
    assert (offline["mark"], offline["text"].split(":")[0]) == ("ok", "offline rules")
    env = {"JOBSWORTH_MODEL": "openai:m", "OPENAI_API_KEY": ""}
    [found] = _of_model(cli_json(database_url, "doctor", code=1, env=env))
    assert (found["mark"], found["text"]) == ("problem", "there is no key for 'openai:m'")
    env["JOBSWORTH_MODEL_URL"] = "http://127.0.0.1:1/v1"
    [found] = _of_model(cli_json(database_url, "doctor", env=env))
    assert found["text"] == "openai:m, at http://127.0.0.1:1/v1; not asked"


def test_a_name_that_is_no_model_is_one_line(database_url: str) -> None:
    ended = run_cli("worker", url=database_url, env={"JOBSWORTH_MODEL": "gpt-5"})
    assert ended.returncode == REFUSED
    assert "JOBSWORTH_MODEL=gpt-5" in ended.stderr
    assert "Traceback" not in ended.stderr


def _of_model(report: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    return [each for each in report["findings"] if each["subject"] == "model"]
