"""A program that is no Python worker asks people, and reads what they decided, by SQL alone."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID, uuid4

import pytest

from db.approvals import questions
from db.diagnosis import violations
from db.errors import Conflict, InvalidInput, NotFound
from db.pool import Connection, execute, fetch_one, fetch_val
from db.runs import runs

ASK: LiteralString = """
select jobsworth.ask(%(text)s, shown => %(shown)s::jsonb, run_id => %(run)s::uuid,
  id => %(id)s::uuid, editable => true, deadline => %(deadline)s::interval, asked_by => 'robot')
"""
DECISION: LiteralString = "select * from jobsworth.decision(%(id)s)"
RESOLVE: LiteralString = """
select accepted from jobsworth.resolve(%(id)s, 'approve', 'ada', seen_hash => %(hash)s,
  edited => '{"to": "all", "n": 2}')
"""
AGE: LiteralString = "update jobsworth.approvals set deadline = now() - interval '1 minute'"


async def ask(conn: Connection, **options: Any) -> UUID:
    asked = {"text": "Send it?", "shown": '{"to": "ada", "n": 1.50}', "deadline": None}
    return await fetch_val(conn, ASK, {**asked, "run": None, "id": None, **options})


async def test_a_question_asked_by_sql_is_decided_like_every_other_one(conn: Connection) -> None:
    run_id = await fetch_val(conn, "insert into jobsworth.runs default values returning id")
    own = uuid4()
    assert [await ask(conn, id=own, run=run_id) for _ in range(2)] == [own, own]
    with pytest.raises(Conflict, match="asks something else"):
        await ask(conn, id=own, run=run_id, text="Send all?")
    open_one = await fetch_one(conn, DECISION, {"id": own})
    shown = {"to": "ada", "n": 1.5}
    hash_of_it = questions.shown_hash("Send it?", ["approve", "reject"], shown)
    assert open_one == {
        "status": "pending",
        "chosen_option": None,
        "decided_by": None,
        "comment": None,
        "document": shown,
        "hash": hash_of_it,
    }
    with pytest.raises(Conflict, match="has changed since it was seen"):
        await fetch_val(conn, RESOLVE, {"id": own, "hash": "another"})
    assert await fetch_val(conn, RESOLVE, {"id": own, "hash": hash_of_it})
    decided = await fetch_one(conn, DECISION, {"id": own})
    assert decided is not None
    assert (decided["status"], decided["chosen_option"]) == ("approved", "approve")
    assert (decided["decided_by"], decided["document"]) == ("ada", {"to": "all", "n": 2})

    late = await ask(conn, deadline="1 hour", run=run_id)
    await execute(conn, AGE)
    decided = await fetch_one(conn, DECISION, {"id": late})
    assert decided is not None
    assert (decided["status"], decided["chosen_option"]) == ("expired", "reject")
    assert await violations.list_violations(conn) == []
    assert (await runs.get(conn, run_id)).id == run_id


async def test_a_question_that_cannot_be_asked_is_refused(conn: Connection) -> None:
    refused: tuple[tuple[LiteralString, type[Exception], str], ...] = (
        ("select jobsworth.ask(' ')", InvalidInput, "needs a proposal_text"),
        ("select jobsworth.ask('x', null)", InvalidInput, "have no reject"),
        ("select jobsworth.ask('x', '{yes}')", InvalidInput, "have no reject"),
        ("select jobsworth.ask('x', '{yes,No,reject}')", InvalidInput, "reads like a no"),
        ("select jobsworth.ask('x', on_timeout => 'later')", InvalidInput, "'later' is not an"),
        ("select jobsworth.ask('x', deadline => '-1 s')", InvalidInput, "is not above 0"),
        ("select jobsworth.ask('x', votes_needed => 0)", InvalidInput, "from 1 to 100"),
        ("select jobsworth.ask('x', run_id => jobsworth.uuidv7())", NotFound, "there is no run"),
        ("select * from jobsworth.decision(jobsworth.uuidv7())", NotFound, "no approval"),
        ("select * from jobsworth.decision(null)", NotFound, "there is no approval"),
    )
    for statement, error, words in refused:
        with pytest.raises(error, match=words):
            await execute(conn, statement)
