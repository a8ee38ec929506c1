"""Daemons die while a thread is read; the next goes on, and no message is read or paid twice."""

from __future__ import annotations

from collections import Counter
from typing import LiteralString

import anyio

from db.money import settlements
from db.pool import Database
from tests.chaos.scene import Scene
from tests.providers.openai_chat import Body, Reply
from tests.providers.openai_stub import OpenAIStub
from tests.support import until_sync
from tests.worker.modes.brain import calls, said_in
from worker.modes.extraction import quoted_messages

POINTS = [
    *("step.committed:1", "call.before_row:1", "call.after_row:2", "call.sent:2"),
    *("step.committed:2", "step.committed:3", "step.committed:4", "finish.updated:1"),
]
# One request has room for one of these: a character of three bytes takes three quarters of a token.
PADDING = "茶" * 900
SAY: LiteralString = """
insert into jobsworth.chat_messages (thread_id, role, text)
values (%(thread_id)s, 'user', %(text)s)
"""
READ_AND_KEPT: LiteralString = """
select m.text, count(*) filter (where x.kept) as kept,
  (select count(*) from jobsworth.memories y where y.message_ids = array[m.id]) as remembered
from jobsworth.chat_messages m
left join jobsworth.extracted_messages x on x.message_id = m.id
group by m.id
"""
ANSWERED: LiteralString = """
select c.request_id from jobsworth.llm_calls c where c.status = 'ok'
"""


def reply(body: Body) -> Reply:
    """Each message states its first sentence."""
    stated = [
        {
            "message": no,
            "quote": sentence,
            "text": sentence,
            "type": "fact",
            "subject": sentence,
            "confidence": 1,
        }
        for no, text in enumerate(_texts(body), 1)
        for sentence in [text.split(".")[0] + "."]
    ]
    return calls(("extracted", {"statements": stated}))


def test_a_killed_reader_loses_doubles_and_pays_again_for_nothing(scene: Scene) -> None:
    with OpenAIStub(reply=reply) as provider:
        env = {
            "JOBSWORTH_MODEL": "openai:chat-1",
            "JOBSWORTH_MODEL_URL": provider.url,
            "JOBSWORTH_HISTORY_TOKENS": "0",
            "JOBSWORTH_CRASHES_MAX": "100",
        }
        for no, point in enumerate(POINTS):
            thread = scene.thread()
            for part in range(2):
                text = f"The tower {no}{part} is tall. {PADDING}"
                scene.conn.execute(SAY, {"thread_id": thread, "text": text})
            scene.enqueue("remember", thread_id=thread)
            daemon = scene.start(env | {"JOBSWORTH_CRASH_POINT": point})
            until_sync(lambda daemon=daemon: not daemon.running, 120, point)
        scene.start(env)
        scene.until_all_ended(120)
        anyio.run(_settle_abandoned, scene.url)

        read = scene.rows(READ_AND_KEPT)
        assert {(row["kept"], row["remembered"]) for row in read} == {(1, 1)}, scene.tails()
        assert len(read) == 2 * len(POINTS)
        answered = {row["request_id"] for row in scene.rows(ANSWERED)}
        asked = Counter(
            text
            for request in provider.requests
            if request.headers["X-Request-Id"] in answered
            for text in _texts(request.body)
        )
        assert asked == {row["text"]: 1 for row in read}
    assert scene.rows("select * from jobsworth.violations") == []


async def _settle_abandoned(url: str) -> None:
    """As a daemon does it every ten seconds: the calls of those that died on their way."""
    async with Database(url, pool_min=1, pool_max=1) as database, database.connection() as conn:
        await settlements.settle_abandoned(conn, 100)


def _texts(body: Body) -> list[str]:
    [(_, told)] = said_in(body)
    return quoted_messages(told)
