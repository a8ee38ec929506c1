"""What models were asked can be read for some days, each text kept once, without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import uuid4

import pytest
from pydantic_ai import Agent, BinaryContent

from db.money import call_texts
from db.money.call_texts import CallTexts, NewText
from db.pool import Connection, execute, fetch_val
from jobsworth import Job, handler
from tests.providers.openai_stub import CUT, OpenAIStub
from tests.support import run_cli
from tests.worker.cli.support import cli_json
from tests.worker.job_api import JobApi, registered
from tests.worker.llm.support import model_at
from worker.money.recording import Recorder

TEXTS: LiteralString = "select count(*) from jobsworth.call_texts"
RECORDS: LiteralString = "select count(*) from jobsworth.call_records"
KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"
SCRIPT = '[[call look {"n": 1} ;; call look {"n": 2} ;; say the end]]'


@pytest.fixture
def provider() -> Iterator[OpenAIStub]:
    with OpenAIStub() as stub:
        yield stub


def working(provider: OpenAIStub, prompt: Any) -> None:
    agent = Agent(model_at(provider), instructions="Be brief.")

    @agent.tool_plain
    def look(n: int) -> str:
        return f"seen {n}"

    @handler("work")
    async def work(job: Job) -> str:
        return await job.agent("draft", agent, prompt)


async def test_each_text_is_kept_once_and_can_be_read_with_its_answer(
    api: JobApi, provider: OpenAIStub
) -> None:
    provider.script(CUT)
    working(provider, f"my key is {KEY} {SCRIPT}")
    first, second = await api.run("work"), await api.run("work")
    assert len(provider.requests) == 7
    assert await api.value(RECORDS) == 7
    # What is sent besides, the prompt, and two answers with their results; the provider's ids of
    # tool calls, which are parts of both, differ by job.
    assert await api.value(TEXTS) == 2 + 2 * (2 + 2)
    shown = run_cli("job", "calls", str(first.id), url=api.url).stdout
    assert shown.count("user-prompt: my key is") == 1
    for said in ("Be brief.", "tool-call look", '"seen 2"', "text: the end"):
        assert said in shown
    assert KEY not in shown
    assert KEY not in str(await api.rows("select text from jobsworth.call_texts"))
    cut, *answered = cli_json(api.url, "job", "calls", str(first.id))
    assert (cut["call"]["status"], cut["answer"]) == ("unknown", None)
    assert [len(one["asked"]) for one in answered] == [2, 4, 6]
    assert run_cli("job", "calls", str(second.id), url=api.url).returncode == 0


async def test_a_file_is_not_kept(api: JobApi, provider: OpenAIStub) -> None:
    working(provider, ["look", BinaryContent(b"x" * 90_000, media_type="image/png")])
    await api.run("work")
    assert await api.value("select max(length(text)) from jobsworth.call_texts") < 2_000
    found = (
        "select count(*) from jobsworth.call_texts where strpos(text, '120000 characters of') > 0"
    )
    assert await api.value(found) == 1


async def test_one_setting_turns_it_off(database_url: str, provider: OpenAIStub) -> None:
    with registered():
        working(provider, SCRIPT)
        async with JobApi.open(database_url, record_calls=0) as api:
            job = await api.run("work")
            assert await api.value(RECORDS) == await api.value(TEXTS) == 0
            shown = run_cli("job", "calls", str(job.id), url=api.url).stdout
    assert "never recorded" in shown
    assert "text: the end" in shown


async def test_what_is_too_old_is_forgotten_slice_by_slice(api: JobApi, conn: Connection) -> None:
    today = datetime.now(UTC).date()
    for age in (0, 6, 7, 8, 9):
        day, key = today - timedelta(days=age), bytes([age])
        call = CallTexts(uuid4(), None, [key])
        await call_texts.keep(conn, day, [call], {key: NewText(None, f"{age} days old")})
    assert await call_texts.forget(conn, days=7, most=1) == 2
    assert await call_texts.forget(conn, days=7, most=5) == 2
    assert await fetch_val(conn, TEXTS) == await fetch_val(conn, RECORDS) == 3
    await execute(conn, "delete from jobsworth.call_records")


@pytest.mark.parametrize("team", [None, uuid4()])
async def test_a_database_that_is_away_delays_nothing_and_is_caught_up_with(
    api: JobApi, team: Any
) -> None:
    recorder = Recorder(api.database, 7)
    await api.database.execute("alter table jobsworth.call_records rename to moved")
    recorder.note(uuid4(), team, [b'"a"', b'"b"'])
    await recorder.write()  # the table is missing: what cannot be written is dropped
    await api.database.execute("alter table jobsworth.moved rename to call_records")
    recorder.note(uuid4(), team, [b'"a"', b'"c"', b'"a"'])
    await recorder.write()
    assert (await api.value(RECORDS), await api.value(TEXTS)) == (1, 2)
    recorder.note(uuid4(), team, [b'"a"'])
    recorder.note(uuid4(), uuid4(), [b'"a"'])
    await recorder.write()
    assert (await api.value(RECORDS), await api.value(TEXTS)) == (3, 3)
