"""A call that another program made for a run: in the books once, priced like one of ours."""

from __future__ import annotations

from decimal import Decimal
from typing import LiteralString
from uuid import uuid4

import pytest

from db.errors import Conflict, InvalidInput, NotFound
from db.money import books
from db.pool import Connection, fetch_all
from jobsworth import Answer, Node, Usage, save_llm_call, start_run

CALLS: LiteralString = """
select c.model, c.answered_model, c.tier, c.other_usage, c.cost, c.step_name, c.status::text
from jobsworth.llm_calls c order by c.id
"""


async def test_each_class_and_tier_counts_and_the_books_balance(conn: Connection) -> None:
    run = (await start_run(conn, [Node("work", "mode")])).run_id
    usage = Usage(1_000_000, 0, others={"web_searches": 2}, tier="flex")
    told = Answer("text", usage, model="gpt-5-nano")
    for _ in range(2):
        await save_llm_call(
            conn, run, provider="openai", model="gpt-5", answer=told, request_id="r", name="think"
        )
    await save_llm_call(
        conn, run, provider="openai", model="gpt-5", answer=Answer(1, Usage(1, 1, tier="scale"))
    )
    known, unknown = await fetch_all(conn, CALLS)
    assert known == {
        "model": "gpt-5",
        "answered_model": "gpt-5-nano",
        "tier": "flex",
        "other_usage": {"web_searches": 2},
        "cost": Decimal("0.025") + Decimal("0.02"),
        "step_name": "think",
        "status": "ok",
    }
    assert (unknown["tier"], unknown["cost"]) == ("scale", None)
    assert await books.check(conn) == []
    assert await fetch_all(conn, "select * from jobsworth.violations") == []


async def test_what_cannot_be_saved_says_why(conn: Connection) -> None:
    runs = [(await start_run(conn, [Node("work", "mode")])).run_id for _ in range(2)]
    told = Answer("text", Usage(1, 1), cost=Decimal(1))

    async def save(run: object, answer: Answer = told) -> None:
        await save_llm_call(
            conn,
            run,  # pyright: ignore[reportArgumentType]
            provider="acme",
            model="m",
            answer=answer,
            request_id="r",
        )

    await save(runs[0])
    with pytest.raises(Conflict, match="in the books of something else"):
        await save(runs[1])
    with pytest.raises(NotFound, match="there is no run"):
        await save(uuid4())
    with pytest.raises(InvalidInput, match="has no usage"):
        await save(runs[0], Answer("text", None))
