"""Rows full of text that would like to be markup, and what a page may be made of."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import LiteralString
from uuid import UUID

from db.approvals import approvals
from db.conversations import messages, threads
from db.conversations.messages import MessageRole
from db.deployments import deployments
from db.memory import memories
from db.memory.memories import Text
from db.money import ledger
from db.money.calls import Usage
from db.people import agents, sessions
from db.pool import Connection, execute, fetch_val
from db.queue import jobs
from tests.db.rows import past_the_guards

EVIL = (
    "</pre></title><img src=x onerror=alert(1)>\"'><script>alert(1)</script>"
    '<a hx-get="/ui/evil" hx-trigger="load" style="color:red">{{ 7 * 7 }}</a>'
    "\x1b[31m\u202eevil\u2066\u200b"
)
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]")
TAGS = {
    *("html", "head", "meta", "title", "link", "script", "body", "div", "header", "nav", "main"),
    *("section", "a", "span", "p", "strong", "code", "pre", "h1", "h2", "ul", "li", "dl", "dt"),
    *("dd", "table", "thead", "tbody", "tr", "th", "td", "form", "input", "label", "button"),
    *("select", "option", "textarea", "details", "summary", "time", "kbd", "dialog", "svg"),
    *("rect", "path", "text"),
}
OURS = {"hx-get", "hx-trigger", "hx-select", "hx-swap"}

FILL: LiteralString = """
update jobsworth.reactive_jobs set mode = %(evil)s::text,
  queue = %(evil)s::text, error = %(evil)s::text,
  unique_key = %(evil)s::text, fair_key = %(evil)s::text, result = to_jsonb(%(evil)s::text),
  status = 'failed', finished_at = now(), started_at = created_at, attempt = 1, failures = 1
where id = %(job_id)s
"""
WAITING: LiteralString = """
update jobsworth.reactive_jobs set mode = %(evil)s::text,
  queue = %(evil)s::text, status = 'waiting',
  waiting_for = 'person', waiting_detail = %(evil)s::text, attempt = 1
where id = %(job_id)s
"""
ATTEMPT: LiteralString = """
insert into jobsworth.attempt_history (job_id, attempt, outcome, host, pid, error, traceback)
values (%(job_id)s, 1, 'failed', %(evil)s::text, 1, %(evil)s::text, %(evil)s::text)
"""
STEP: LiteralString = """
insert into jobsworth.steps (job_id, name, attempt, output, input, finished_at)
values (%(job_id)s, %(evil)s::text, 1, to_jsonb(%(evil)s::text),
  jsonb_build_array(jsonb_build_array(%(evil)s::text), '{}'::jsonb), clock_timestamp())
"""
ARTIFACT: LiteralString = """
insert into jobsworth.artifacts (job_id, effect_key, name, media_type, bytes, sha256, content)
values (%(job_id)s, 'file', %(evil)s::text, 'text/html', 9, repeat('0', 64), '<script>'::bytea)
returning id
"""
WORKER: LiteralString = """
insert into jobsworth.workers (id, host, pid, version, modes, queues, slots)
values (gen_random_uuid(), %(evil)s::text, 1, %(evil)s::text, array[%(evil)s::text],
  array[%(evil)s::text], 1)
"""
RUN: LiteralString = "select jobsworth.start_run(%(nodes)s::jsonb, actor => %(evil)s)"


class Rows:
    """The ids of hostile rows."""

    thread_id: UUID
    job_id: UUID
    approval_id: UUID
    run_id: UUID
    artifact_id: UUID


async def fill(conn: Connection) -> Rows:
    """A row of each kind, with hostile text wherever the schema takes text."""
    rows = Rows()
    rows.thread_id = (await threads.get_or_create(conn, "chat", EVIL, title=EVIL)).id
    said = await messages.insert(conn, rows.thread_id, MessageRole.USER, EVIL)
    waits = (await jobs.enqueue(conn, "greet", {"evil": EVIL})).job_id
    rows.job_id = (
        await jobs.enqueue(
            conn,
            "greet",
            {EVIL: EVIL},
            thread_id=rows.thread_id,
            trigger_message_id=said.id,
        )
    ).job_id
    rows.approval_id = (
        await approvals.create(conn, EVIL, job_id=rows.job_id, shown={EVIL: EVIL}, asked_by=EVIL)
    ).id
    values = {"job_id": rows.job_id, "evil": EVIL}
    async with past_the_guards(conn):
        for statement in (FILL, ATTEMPT, STEP):
            await execute(conn, statement, values)
        await execute(conn, WAITING, {"job_id": waits, "evil": EVIL})
        rows.artifact_id = await fetch_val(conn, ARTIFACT, values)
        await execute(conn, WORKER, {"evil": EVIL})
    nodes = [
        {"node": "one", "mode": "greet", "payload": {"evil": EVIL}},
        {"node": EVIL[:60], "mode": "greet", "after": ["one"]},
    ]
    rows.run_id = await fetch_val(conn, RUN, {"nodes": json.dumps(nodes), "evil": EVIL})
    await memories.put(conn, [Text(EVIL, "note", EVIL)])
    await agents.save(conn, EVIL, personality=EVIL, instructions=EVIL, skills_private=[EVIL])
    await sessions.create(conn, title=EVIL)
    await deployments.create(conn, environment=EVIL, sha="0123456789abcdef", branch=EVIL)
    usage = Usage(1, 1)
    await ledger.log(conn, provider=EVIL, model=EVIL, usage=usage)
    return rows


class Page(HTMLParser):
    """What a page consists of; `problems` names what none of ours has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.problems: list[str] = []
        self.words = ""
        self.links: list[str] = []
        if hidden := HIDDEN.search(text):
            self.problems.append(f"a hidden character: {hidden[0]!r}")
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in TAGS:
            self.problems.append(f"<{tag}>")
        if tag in ("script", "style") and not (given.get("nonce") and given.get("src")):
            self.problems.append(f"<{tag}> of somebody else")
        for name, value in attrs:
            if name.startswith("on") or name == "style" or (name[:3] == "hx-" and name not in OURS):
                self.problems.append(f"{name}={value}")
        if "hx-get" in given and not (given["hx-get"] or "").startswith("/ui"):
            self.problems.append(f"hx-get={given['hx-get']}")
        if tag == "a":
            self.links.append(given.get("href") or "")

    def handle_data(self, data: str) -> None:
        self.words += data
