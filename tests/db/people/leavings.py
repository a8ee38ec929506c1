"""What a person leaves in every chapter: rows with the same words in them."""

from __future__ import annotations

from typing import LiteralString, NamedTuple
from uuid import UUID

from db.people import users
from db.pool import Connection, execute, fetch_val
from tests.db import rows
from tests.db.money import budgeting

THREAD: LiteralString = """
insert into jobsworth.chat_threads (user_id, platform, chat_id, title)
values (%(user)s, 'telegram', %(name)s || '-chat', 'What ' || %(name)s || ' would like to know')
returning id
"""
JOB: LiteralString = """
select jobsworth.enqueue('answer', jsonb_build_object('question', %(words)s::text),
  thread_id => %(thread)s::uuid)
"""
OF_THE_JOB: tuple[LiteralString, ...] = (
    """insert into jobsworth.chat_messages (thread_id, role, text, author_user_id,
      platform_message_id)
    values (%(thread)s, 'user', %(words)s, %(user)s, 'm1')""",
    """insert into jobsworth.chat_messages (thread_id, role, text, job_id, effect_key)
    values (%(thread)s, 'assistant', 'An answer: ' || %(words)s, %(job)s, 'say:1')""",
    """insert into jobsworth.message_artifacts (message_id, kind, content_json)
    select m.id, 'ocr_text', jsonb_build_object('seen', %(words)s::text)
    from jobsworth.chat_messages m where m.thread_id = %(thread)s and m.role = 'user'""",
    """insert into jobsworth.steps (job_id, name, input, output, attempt, finished_at)
    values (%(job)s, 'draft', jsonb_build_array(%(words)s::text),
      to_jsonb('Drafted: ' || %(words)s), 1, now())""",
    """insert into jobsworth.artifacts (job_id, effect_key, name, media_type, bytes, sha256,
      content)
    values (%(job)s, 'a', 'letter.txt', 'text/plain', octet_length(%(words)s), 'x',
      convert_to('A letter. ' || %(words)s, 'UTF8'))""",
    """insert into jobsworth.approvals (job_id, thread_id, effect_key, proposal_text, shown,
      shown_hash, asked_by)
    values (%(job)s, %(thread)s, 'ask', 'Send it? ' || %(words)s, to_jsonb(%(words)s::text), 'h',
      %(name)s)""",
    """insert into jobsworth.memories (job_id, thread_id, source_kind, source_id, text)
    values (%(job)s, %(thread)s, 'job', %(job)s::text, 'Remember: ' || %(words)s)""",
    # A memory by its source alone.
    """insert into jobsworth.memories (source_kind, source_id, text)
    select 'message', m.id::text, 'Derived: ' || %(words)s from jobsworth.chat_messages m
    where m.thread_id = %(thread)s and m.role = 'user'""",
    """insert into jobsworth.embedding_spaces (provider, model, dimensions, chunker)
    values ('p', 'm', 3, 'c') on conflict do nothing""",
    """insert into jobsworth.embeddings (memory_id, space_id, chunk_no, start_offset, end_offset,
      content_hash, vector)
    select m.id, s.id, 1, 0, 1, jobsworth.uuidv7(), jobsworth.halfvec(%(vector)s)
    from jobsworth.memories m cross join jobsworth.embedding_spaces s where m.job_id = %(job)s""",
    # One that was superseded, with its vector and a place in the outbox.
    """insert into jobsworth.memories (job_id, source_kind, text, status, superseded_by,
      superseded_at)
    select m.job_id, 'note', 'Before: ' || %(words)s, 'superseded', m.id, now()
    from jobsworth.memories m where m.job_id = %(job)s""",
    """insert into jobsworth.past_embeddings (memory_id, space_id, chunk_no, start_offset,
      end_offset, vector, superseded_at)
    select m.id, s.id, 1, 0, 1, jobsworth.halfvec(%(vector)s), m.superseded_at
    from jobsworth.memories m cross join jobsworth.embedding_spaces s
    where m.job_id = %(job)s and m.superseded_at is not null""",
    """insert into jobsworth.call_texts (day, hash, text) values
      (current_date, '\\x00', 'The instructions that all calls of the day share'),
      (current_date, convert_to(%(name)s, 'UTF8'), %(words)s) on conflict do nothing""",
    """insert into jobsworth.call_records (call_id, day, asked)
    values (%(call)s, current_date, array['\\x00', convert_to(%(name)s, 'UTF8')])""",
    """insert into jobsworth.webhook_outbox (webhook_id, approval_id, event, payload)
    select jobsworth.uuidv7(), a.id, 'approval.opened',
      jsonb_build_object('proposal', a.proposal_text)
    from jobsworth.approvals a where a.job_id = %(job)s""",
    """insert into jobsworth.runs (thread_id, actor, request, result, status)
    values (%(thread)s, %(name)s, jsonb_build_object('about', %(words)s::text),
      to_jsonb('Result: ' || %(words)s), 'done')""",
    """insert into jobsworth.saved_steps (run_id, name, output)
    select r.id, 's', to_jsonb(%(words)s::text) from jobsworth.runs r
    where r.thread_id = %(thread)s""",
    """insert into jobsworth.token_ledger (entry, provider, model, cost, thread_id, job_id)
    values ('adjust', 'acme', 'large', 1.25, %(thread)s, %(job)s)""",
)
# Of others' rows: who decided, by name.
DECISION: LiteralString = """
insert into jobsworth.approval_decisions (approval_id, option, decided_by, channel)
values (%(approval)s, 'approve', %(name)s, 'sql')
"""


class Person(NamedTuple):
    """A user with one thread and one job that is done."""

    user: UUID
    thread: UUID
    job: UUID
    words: str


async def live(conn: Connection, name: str, vector: str) -> Person:
    """A person of this external id, with rows in every chapter."""
    words = f"the secret wish of {name} is a pony with wings"
    user = (await users.save(conn, name, name)).id
    known = {"user": user, "name": name, "words": words, "vector": vector}
    known["thread"] = thread = await fetch_val(conn, THREAD, known)
    known["job"] = job = await fetch_val(conn, JOB, known)
    lease = await rows.take(conn, job)
    known["call"] = call = await budgeting.started(conn, lease, thread_id=thread)
    await budgeting.settle(conn, call)
    for statement in OF_THE_JOB:
        await execute(conn, statement, known)
    approval = "select a.id from jobsworth.approvals a where a.job_id = %(job)s"
    decided = {"approval": await fetch_val(conn, approval, known), "name": name}
    await execute(conn, DECISION, decided)
    await execute(conn, "update jobsworth.approvals set status = 'superseded', closed_at = now()")
    await rows.end(conn, job)
    return Person(user, thread, job, words)
