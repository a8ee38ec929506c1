"""`jobsworth thread`: chat threads, their status, what a new message means, and a message.

In: filters, or a thread's id. Out: threads, or the message and the job that handles it.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from db.conversations import messages, recent_threads, threads
from db.conversations.messages import MessageRole
from db.conversations.recent_threads import COUNTED_MAX, RecentThread
from db.conversations.threads import Activity, MessagePolicy, Thread, ThreadStatus
from db.memory import status
from db.pool import Connection
from worker.cli.terminal import ids, names, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import (
    Column,
    emit,
    emit_facts,
    emit_json,
    emit_table,
    one_line,
    styled,
)
from worker.cli.terminal.output import say as tell
from worker.cli.terminal.payload import read_payload
from worker.cli.terminal.times import ago

THREAD = click.argument("thread_id", metavar="THREAD", help="The whole id of the thread.")
POLICIES = click.Choice([policy.value for policy in MessagePolicy])
COLUMNS = [
    Column("THREAD"),
    Column("STATUS"),
    Column("LAST MESSAGE", right=True),
    Column("MESSAGES", right=True),
    Column("USER", right=True, optional=True),
    Column("ASSISTANT", right=True, optional=True),
    Column("CHAT", flexible=True),
    Column("TITLE", flexible=True),
]

thread = Noun("thread", "Chat threads: their status, what a new message means, and messages.")


@thread.verb("list", "jobsworth thread --status archived")
@options.choice(
    "--status",
    metavar="STATUS",
    words=ThreadStatus,
    help="Only threads of this status (by default all but the deleted)",
)
@click.option("--user", metavar="UUID", help="Only threads of this user.")
@click.option("--agent", metavar="UUID", help="Only threads of this agent.")
@click.option("--platform", metavar="NAME", help="Only threads of this platform.")
@options.limit(20, order="the last to speak first")
@options.as_json
def list_threads(
    status: str | None,
    user: str | None,
    agent: str | None,
    platform: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List threads with counts of their messages, the last to speak first."""
    user_id, agent_id = ids.optional_id("user", user), ids.optional_id("agent", agent)

    async def work(conn: Connection) -> list[RecentThread]:
        return await recent_threads.list_recent(
            conn,
            status=ThreadStatus(status) if status else None,
            user_id=user_id,
            agent_id=agent_id,
            platform=platform,
            limit=limit,
        )

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    rows = [
        [
            str(each.id),  # the other verbs take it whole
            styled(each.status),
            each.last_message_at and ago(each.last_message_at, now),
            f"{each.messages:,}{'+' if each.messages >= COUNTED_MAX else ''}",
            *(f"{each.by_role.get(role, 0):,}" for role in ("user", "assistant")),
            one_line(f"{each.platform} {each.chat_id}"),
            each.title and one_line(each.title),
        ]
        for each in found
    ]
    filtered = any((status, user, agent, platform))
    emit_table(COLUMNS, rows, "no such threads" if filtered else "no threads yet")
    if len(found) == limit:
        tell(f"these are the {limit} that spoke last; for more: --limit")


@thread.verb("show", "jobsworth thread show 01890a5d-ac96-774b-bcce-b302099a8057")
@THREAD
@options.as_json
def show(thread_id: str, as_json: bool) -> None:
    """Show a thread: its chat, its status, its policy, how many messages it has."""
    wanted = ids.whole_id(thread_id, "THREAD")

    async def work(conn: Connection) -> tuple[Thread, Activity, dict[MessageRole, int]]:
        found = await threads.get_by_id(conn, wanted)
        activity = await threads.activity(conn, wanted)
        return found, activity, await messages.count_by_role(conn, wanted)

    found, activity, by_role = run_in_database(work)
    if as_json:
        facts = {**found.model_dump(mode="json"), **activity.model_dump(mode="json")}
        emit_json({**facts, "by_role": by_role})
        return
    spoken = ", ".join(f"{count:,} {role}" for role, count in by_role.items() if count)
    emit_facts(
        [
            ("thread", str(found.id)),
            ("chat", f"{found.platform} {found.chat_id}"),
            ("title", found.title),
            ("status", str(found.status)),
            ("policy", str(found.message_policy)),
            ("messages", f"{activity.messages:,}" + (spoken and f": {spoken}")),
        ]
    )


@thread.verb("retract", "jobsworth thread retract 01890a5d-ac96-774b-bcce-b302099a8057")
@click.argument("message", metavar="MESSAGE", help="The whole id of the message.")
@click.option("--reason", metavar="TEXT", help="Why.")
@options.as_json
def retract(message: str, reason: str | None, as_json: bool) -> None:
    """Take a message back: what is remembered of it is suspended, the message stays."""
    wanted = ids.whole_id(message, "MESSAGE")

    async def work(conn: Connection) -> int:
        return await status.retract_message(conn, wanted, reason)

    suspended = run_in_database(work)
    if as_json:
        emit_json({"suspended": suspended})
        return
    tell(f"{suspended:,} memories are suspended" if suspended else "no memory rested on it")
    if suspended:
        tell("see them: jobsworth memory list --status suspended")


Move = Callable[[Connection, UUID], Awaitable[Thread]]


def _add_move(verb: str, move: Move, help: str) -> None:
    @thread.verb(verb, f"jobsworth thread {verb} 01890a5d-ac96-774b-bcce-b302099a8057", help=help)
    @THREAD
    @options.as_json
    def command(thread_id: str, as_json: bool) -> None:
        wanted = ids.whole_id(thread_id, "THREAD")

        async def work(conn: Connection) -> Thread:
            return await move(conn, wanted)

        found = run_in_database(work)
        if as_json:
            emit_json({"id": found.id, "status": found.status})
        else:
            emit(f"thread {found.id} is {found.status}")


_add_move("archive", threads.archive, "Archive a thread; it still takes messages.")
_add_move("unarchive", threads.unarchive, "Make an archived thread active again.")
_add_move("close", threads.close, "Close a thread: the conversation is over.")
_add_move("reopen", threads.reopen, "Make a closed thread active again.")
_add_move("delete", threads.delete, "Delete a thread: it takes no messages; its rows stay.")
_add_move("undelete", threads.undelete, "Make a deleted thread active again.")


@thread.verb("policy", "jobsworth thread policy 01890a5d-ac96-774b-bcce-b302099a8057 interrupt")
@THREAD
@click.argument("policy", type=POLICIES, help="What a new message means for earlier work.")
@options.as_json
def policy(thread_id: str, policy: str, as_json: bool) -> None:
    """Say what a new message means while work on earlier ones is in progress.

    queue: it waits behind them. merge: the job that waits takes it too. interrupt: all of that work
    is stopped. supersede: what waits is canceled.
    """
    wanted = ids.whole_id(thread_id, "THREAD")

    async def work(conn: Connection) -> Thread:
        return await threads.update(conn, wanted, message_policy=MessagePolicy(policy))

    found = run_in_database(work)
    if as_json:
        emit_json({"id": found.id, "message_policy": found.message_policy})
    else:
        emit(f"thread {found.id} has the policy {found.message_policy}")


@thread.verb(
    "say",
    "jobsworth thread say 01890a5d-ac96-774b-bcce-b302099a8057 'Never mind.' --mode answer",
)
@THREAD
@click.argument("text", help="What is said.")
@click.argument("payload", required=False, help="The handler's arguments, as for enqueue.")
@click.option(
    "--mode",
    metavar="MODE",
    required=True,
    shell_complete=names.modes,
    help="The mode of the job that handles it.",
)
@click.option("--policy", type=POLICIES, help="For this message.  [default: the thread's]")
@options.as_json
def say(
    thread_id: str, text: str, payload: str | None, mode: str, policy: str | None, as_json: bool
) -> None:
    """Say something in a thread as its user, and print the id of the job that handles it."""
    wanted = ids.whole_id(thread_id, "THREAD")
    document: dict[str, Any] = read_payload(payload)

    async def work(conn: Connection) -> messages.Received:
        return await messages.receive(conn, wanted, text, mode, document, policy=policy)

    received = run_in_database(work)
    message, job = received.message, received.job
    job_id = None if job is None else job.id
    if as_json:
        merged_into = message.merged_into
        emit_json({"message_id": message.id, "job_id": job_id, "merged_into": merged_into})
        return
    if message.merged_into is not None:
        tell(f"the job that waits for message {message.merged_into} takes this one too")
    emit(str(job_id))
