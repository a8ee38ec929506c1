"""What `docs/sql.md` says: `make docs` writes it, a test holds it to the catalogue and runs it.

In: the functions and views with a comment in the catalogue of a migrated database, and an example
of each. Out: one page of Markdown. Invariant: its SQL runs from the top to the bottom of the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
from psycopg.rows import DictRow

from tests.support import ROOT

PAGE = ROOT / "docs" / "sql.md"
PUBLIC: LiteralString = """
select p.proname::text as name, pg_catalog.pg_get_function_arguments(p.oid) as arguments,
  pg_catalog.pg_get_function_result(p.oid) as result,
  pg_catalog.obj_description(p.oid, 'pg_proc') as purpose
from pg_catalog.pg_proc p
where p.pronamespace = 'jobsworth'::regnamespace
  and pg_catalog.obj_description(p.oid, 'pg_proc') is not null
union all
select c.relname::text, null, null, pg_catalog.obj_description(c.oid, 'pg_class')
from pg_catalog.pg_class c
where c.relnamespace = 'jobsworth'::regnamespace and c.relkind = 'v'
  and pg_catalog.obj_description(c.oid, 'pg_class') is not null
"""
# Longer than most signatures: it is broken into lines above this.
LINE_MAX = 100

INTRODUCTION = """\
# SQL reference

`make docs` writes this page from the catalogue; a test runs its SQL from top to bottom.

These functions and views are for everyone who may use them, from psql, a trigger or any language.
They run in your transaction: what you enqueue, ask or remember is there if it commits. What has no
comment in the catalogue (`\\df+ jobsworth.*`) is internal. Arguments have names, so only those
that matter need be given (`priority => 1`). A mistake raises an error with a `HINT` that says what
to do. With `JOBSWORTH_SCHEMA`, the functions are in that schema.
"""
OWN_ROW = """\
insert into jobsworth.reactive_jobs (mode, payload) values ('greet', '{"name": "Eve"}');"""
SURROUNDINGS = """\
insert into jobsworth.users (external_id, name) values ('mail:ada', 'Ada');
insert into jobsworth.teams (name, owner_id) select 'research', id
from jobsworth.users where name = 'Ada';
insert into jobsworth.chat_threads (platform, chat_id) values ('mail', 'ada');
insert into jobsworth.chat_messages (thread_id, role, text)
select id, 'user', 'I like tea.' from jobsworth.chat_threads where chat_id = 'ada';"""

CHAPTERS: dict[str, dict[str, str]] = {
    "Jobs": {
        "enqueue": """\
select jobsworth.enqueue('greet', '{"name": "Ada"}', delay => '1 hour',
  unique_key => 'order-17', request_id => 'web-17');""",
        "enqueue_outcome": """\
select jobsworth.enqueue('greet', unique_key => 'order-17',
  id => '019ad1c4-7a00-7000-8000-000000000001');
select jobsworth.enqueue_outcome('019ad1c4-7a00-7000-8000-000000000001');""",
        "submit": """\
select jobsworth.submit('greet', '{"name": "Bob"}');""",
        "why": """\
select w.*
from jobsworth.reactive_jobs j, jobsworth.why(j.id) w where j.unique_key = 'order-17';""",
        "cancel": """\
select jobsworth.cancel(id, 'the order was taken back') from jobsworth.reactive_jobs
where unique_key = 'order-17';""",
        "retry": """\
select jobsworth.retry(id) from jobsworth.reactive_jobs where unique_key = 'order-17';""",
        "send_signal": """\
select jobsworth.send_signal(id, 'paid', '{"amount": 12}') from jobsworth.reactive_jobs
where unique_key = 'order-17';""",
        "decide_step": """\
select jobsworth.decide_step(j.id, s.name, 'done', '"sent"', decided_by => 'ada')
from jobsworth.reactive_jobs j join jobsworth.steps s on s.job_id = j.id
where j.status <> 'running' and s.effect = 'unsafe' and s.finished_at is null;""",
        "of_request": """\
select * from jobsworth.of_request('web-17');""",
    },
    "Runs": {
        "start_run": """\
select jobsworth.start_run('[
  {"node": "first", "mode": "greet", "payload": {"name": "Ada"}},
  {"node": "second", "mode": "greet", "payload": {"name": "Bob"}, "after": ["first"]}]',
  actor => 'ada', idempotency_key => 'report-1');""",
        "jobs_of_run": """\
select n.*
from jobsworth.runs r, jobsworth.jobs_of_run(r.id) n where r.idempotency_key = 'report-1';""",
        "run_stats": """\
select s.*
from jobsworth.runs r, jobsworth.run_stats(r.id) s where r.idempotency_key = 'report-1';""",
        "run_statistics": """\
select * from jobsworth.run_statistics
where run_id = (select id from jobsworth.runs where idempotency_key = 'report-1');""",
        "cancel_run": """\
select jobsworth.cancel_run(id, 'not needed')
from jobsworth.runs where idempotency_key = 'report-1';""",
        "plan_fork": """\
select p.* from jobsworth.runs r, jobsworth.plan_fork(r.id, 'second') p
where r.idempotency_key = 'report-1';""",
        "fork_run": """\
select jobsworth.fork_run(id, 'second', changes => '{"second": {"name": "Eve"}}')
from jobsworth.runs where idempotency_key = 'report-1';""",
        "retry_run": """\
select jobsworth.retry_run(id) from jobsworth.runs where idempotency_key = 'report-1';""",
        "upsert_run": """\
select *
from jobsworth.upsert_run('{"question": "tea?"}', actor => 'ada', idempotency_key => 'chat-1');""",
        "save_step": """\
select jobsworth.save_step(id, 'search', '["a fact"]')
from jobsworth.runs where idempotency_key = 'chat-1';""",
        "save_artifact": """\
select jobsworth.save_artifact(id, 'notes.txt',
  convert_to('a fact', 'UTF8'), media_type => 'text/plain')
from jobsworth.runs where idempotency_key = 'chat-1';""",
        "delete_run": """\
select jobsworth.cancel_run(id) from jobsworth.runs where idempotency_key = 'chat-1';
select jobsworth.delete_run(id) from jobsworth.runs where idempotency_key = 'chat-1';""",
    },
    "Limits and fair queues": {
        "set_job_limit": """\
select jobsworth.set_job_limit('research', mode => 'research', slots => 5);
select jobsworth.set_job_limit('openai', per => 'key', rate => 100, per_seconds => 60);""",
        "remove_job_limit": """\
select jobsworth.remove_job_limit('research');""",
        "set_fair": """\
select jobsworth.set_fair('research', true);""",
        "set_fair_weight": """\
select jobsworth.set_fair_weight('research', 'team-a', 3);""",
    },
    "Schedules": {
        "schedule": """\
select jobsworth.schedule('morning', 'greet', '{"name": "Ada"}', cron => '0 8 * * mon-fri',
  time_zone => 'Europe/Berlin');""",
        "pause_schedule": """\
select jobsworth.pause_schedule('morning');""",
        "resume_schedule": """\
select jobsworth.resume_schedule('morning');""",
        "remove_schedule": """\
select jobsworth.remove_schedule('morning');""",
    },
    "Money": {
        "set_budget": """\
select jobsworth.set_budget('daily', 'money', 5, 'day');""",
        "raise_budget": """\
select jobsworth.raise_budget('daily', 10);""",
        "reset_budget": """\
select jobsworth.reset_budget('daily');""",
        "remove_budget": """\
select jobsworth.remove_budget('daily');""",
        "set_rate_limit": """\
select jobsworth.set_rate_limit('openai', requests => 60, tokens => 100000);""",
        "spent": """\
select coalesce(sum(cost), 0) as usd from jobsworth.spent(now() - interval '7 days', now());""",
    },
    "Approvals": {
        "ask": """\
select jobsworth.ask('Publish the report?', team_id => id, deadline => '2 days',
  id => '019ad1c4-7a00-7000-8000-000000000002')
from jobsworth.teams where name = 'research';""",
        "decision": """\
select * from jobsworth.decision('019ad1c4-7a00-7000-8000-000000000002');""",
        "resolve": """\
select * from jobsworth.resolve('019ad1c4-7a00-7000-8000-000000000002', 'approve', 'ada',
  comment => 'go ahead');""",
        "vote": """\
begin;
select set_config('jobsworth.team', id::text, true) from jobsworth.teams where name = 'research';
select * from jobsworth.vote('019ad1c4-7a00-7000-8000-000000000002', 'reject', 'bob');
commit;""",
        "approvals_decided": """\
select id, status, chosen_option, decided_by from jobsworth.approvals_decided;""",
    },
    "Conversations": {
        "recent_threads": """\
select * from jobsworth.recent_threads(threads => 10);""",
        "recent_messages": """\
select m.role, m.text from jobsworth.chat_threads t, jobsworth.recent_messages(t.id, 20) m
where t.chat_id = 'ada';""",
        "make_way": """\
begin;
select w.* from jobsworth.chat_threads t, jobsworth.make_way(t.id, 'answer', 'merge') w
where t.chat_id = 'ada';
-- insert the message with this message_id and merged_into; enqueue its job unless it is merged
commit;""",
    },
    "Memory": {
        "remember": """\
select jobsworth.remember('Ada likes tea.', type => 'preference', source_id => 'tea',
  message_ids => array(select id from jobsworth.chat_messages where text = 'I like tea.'));
select jobsworth.remember('Ada likes coffee.', type => 'preference', source_id => 'coffee');""",
        "retract_message": """\
select jobsworth.retract_message(id, 'a joke')
from jobsworth.chat_messages where text = 'I like tea.';""",
        "restore_memory": """\
select jobsworth.restore_memory(id) from jobsworth.memories where source_id = 'tea';""",
        "supersede_memory": """\
select jobsworth.supersede_memory(o.id, n.id) from jobsworth.memories o, jobsworth.memories n
where o.source_id = 'tea' and n.source_id = 'coffee';""",
        "retract_memory": """\
select jobsworth.retract_memory(id, 'outdated')
from jobsworth.memories where source_id = 'coffee';""",
        "recalls": """\
select * from jobsworth.recalls limit 10;""",
    },
    "Deployments, people, invariants": {
        "environment_states": """\
select * from jobsworth.environment_states;""",
        "plan_erasure": """\
select e.* from jobsworth.users u, jobsworth.plan_erasure('user', u.id) e where u.name = 'Ada';""",
        "violations": """\
select * from jobsworth.violations;""",
    },
}


def page(conn: psycopg.Connection[DictRow]) -> str:
    """The whole page; raises `KeyError` if an example is of nothing public."""
    found = {row["name"]: row for row in conn.execute(PUBLIC).fetchall()}
    parts = [
        INTRODUCTION,
        f"A job is also a row that you may insert:\n\n{_block(OWN_ROW)}",
        f"The examples use this team, thread and message:\n\n{_block(SURROUNDINGS)}",
    ]
    for chapter, examples in CHAPTERS.items():
        parts.append(f"## {chapter}\n")
        parts += [_entry(found[name], example) for name, example in examples.items()]
    return "\n".join(parts)


def _entry(row: dict[str, Any], example: str) -> str:
    signature = _signature(row)
    shown = f"```text\n{signature}\n```\n\n" if signature else ""
    return f"### {row['name']}\n\n{row['purpose']}\n\n{shown}{_block(example)}"


def _block(example: str) -> str:
    return f"```sql\n{example}\n```\n"


def _signature(row: dict[str, Any]) -> str:
    """The signature, without what the types' own names and defaults repeat; none of a view."""
    if row["arguments"] is None:
        return ""
    arguments = list(_arguments(row["arguments"]))
    taken = [each for each in arguments if not each.startswith("OUT ")]
    given = [each.removeprefix("OUT ") for each in arguments if each.startswith("OUT ")]
    result = f"({', '.join(given)})" if given else _short(row["result"])
    line = f"{row['name']}({', '.join(taken)}) → {result}"
    return line if len(line) <= LINE_MAX else _folded(f"{row['name']}(", taken, f") → {result}")


def _arguments(text: str) -> Iterator[str]:
    """Each argument: commas within quotes and braces of a default do not count."""
    depth, start = 0, 0
    for place, character in enumerate(text):
        depth += (character in "({") - (character in ")}")
        if character == "," and depth == 0:
            yield _short(text[start:place].strip())
            start = place + 1
    if text[start:]:
        yield _short(text[start:].strip())


def _short(text: str) -> str:
    for long, short in (
        ("timestamp with time zone", "timestamptz"),
        ("double precision", "float8"),
        ("jobsworth.", ""),
        (" DEFAULT ", " = "),
    ):
        text = text.replace(long, short)
    default, separator, type_name = text.rpartition("::")
    return default if separator and " = " in default and " " not in type_name else text


def _folded(opening: str, items: list[str], closing: str) -> str:
    lines, line = [opening], " "
    for place, item in enumerate(items):
        word = f" {item}{',' if place < len(items) - 1 else ''}"
        if len(line) + len(word) > LINE_MAX:
            lines.append(line)
            line = " "
        line += word
    return "\n".join([*lines, line + closing])
