"""`jobsworth thread`: a chat thread, what a new message means in it, and a message to it.

In: a thread's id. Out: the thread, or the message and the job that handles it.
"""

from typing import Any

import click

from db.conversations import messages, threads
from db.conversations.threads import Activity, MessagePolicy, Thread
from db.pool import Connection
from worker.cli.terminal import ids, names, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import emit, emit_facts, emit_json
from worker.cli.terminal.output import say as tell
from worker.cli.terminal.payload import read_payload

THREAD = click.argument("thread_id", metavar="THREAD", help="The whole id of the thread.")
POLICIES = click.Choice([policy.value for policy in MessagePolicy])

thread = Noun("thread", "Chat threads: what a new message means, and messages.", default=None)


@thread.verb("show", "jobsworth thread show 01890a5d-ac96-774b-bcce-b302099a8057")
@THREAD
@options.as_json
def show(thread_id: str, as_json: bool) -> None:
    """Show a thread: its chat, its status, its policy, how many messages it has."""
    wanted = ids.whole_id(thread_id, "THREAD")

    async def work(conn: Connection) -> tuple[Thread, Activity]:
        return await threads.get_by_id(conn, wanted), await threads.activity(conn, wanted)

    found, activity = run_in_database(work)
    if as_json:
        emit_json({**found.model_dump(mode="json"), **activity.model_dump(mode="json")})
        return
    emit_facts(
        [
            ("thread", str(found.id)),
            ("chat", f"{found.platform} {found.chat_id}"),
            ("title", found.title),
            ("status", str(found.status)),
            ("policy", str(found.message_policy)),
            ("messages", str(activity.messages)),
        ]
    )


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
