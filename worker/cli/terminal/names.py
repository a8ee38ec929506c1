"""Ids and names that the shell completes, read from the database.

In: what was typed of a word. Out: the values it may become, each with a few words about it. A
completion never waits long, never starts the embedded database and never shows an error: when the
database does not answer within `SECONDS`, nothing is offered. Modules are imported before that time
begins.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

# The database is imported only while the shell completes: a command line that is run needs none of
# this.
if TYPE_CHECKING:
    from db.pool import Connection

SECONDS = 0.3
SHOWN_MAX = 50
WORDS_MAX = 60

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
Named = Iterable[tuple[str, str]]


def jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of jobs: those that begin or end with the word, or the newest."""
    from db.diagnosis import lookup

    return _complete(lambda conn: _ids(conn, lookup.JOBS, incomplete), incomplete, ids=True)


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of runs: those that begin or end with the word, or the newest."""
    from db.diagnosis import lookup

    return _complete(lambda conn: _ids(conn, lookup.RUNS, incomplete), incomplete, ids=True)


def approvals(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of approvals: those that begin or end with the word, or the open ones."""
    from db.approvals import approvals
    from db.diagnosis import lookup

    async def read(conn: "Connection") -> Named:
        if incomplete:
            return await _ids(conn, lookup.APPROVALS, incomplete)
        pending = await approvals.get_pending(conn, SHOWN_MAX)
        return [(str(each.id), each.proposal_text) for each in pending]

    return _complete(read, incomplete, ids=True)


def queues(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of queues that have open jobs, a worker or a pause, or are fair."""
    from db.diagnosis import checkup

    async def read(conn: "Connection") -> Named:
        found = await checkup.queues(conn)
        return [(each.name, f"{each.queued:,} queued, {each.running:,} running") for each in found]

    return _complete(read, incomplete)


def schedules(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of schedules."""
    from db.schedules import schedules

    async def read(conn: "Connection") -> Named:
        found = await schedules.list_all(conn)
        return [(each.name, each.mode or "a run") for each in found]

    return _complete(read, incomplete)


def job_limits(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of limits of jobs."""
    from db.limits import job_limits

    async def read(conn: "Connection") -> Named:
        found = await job_limits.list_all(conn)
        return [(each.name, f"{each.taken:,} taken, {each.waiting:,} waiting") for each in found]

    return _complete(read, incomplete)


def modes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Modes that a worker knows."""
    from db.queue import workers

    async def read(conn: "Connection") -> Named:
        known = {mode for each in await workers.list_workers(conn) for mode in each.modes}
        return [(mode, "") for mode in sorted(known)]

    return _complete(read, incomplete)


def steps(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of steps of the job that stands before on the command line."""
    typed = str(ctx.params.get("job") or "")

    from db.steps import steps
    from worker.cli.terminal import ids

    async def read(conn: "Connection") -> Named:
        job_id = await ids.find_job(conn, ids.typed_job(typed))
        return [(each.name, each.effect) for each in await steps.list_for_job(conn, job_id)]

    return _complete(read, incomplete)


def budgets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of budgets."""
    from db.money import budgets

    async def read(conn: "Connection") -> Named:
        found = await budgets.list_all(conn)
        return [(each.name, f"{each.amount:f} {each.unit} per {each.period}") for each in found]

    return _complete(read, incomplete)


def environments(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of environments that something was deployed to."""
    from db.deployments import environments

    async def read(conn: "Connection") -> Named:
        found = await environments.list_states(conn)
        return [(each.environment, (each.current_sha or "")[:12]) for each in found]

    return _complete(read, incomplete)


def webhooks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of webhooks."""
    from db.approvals import webhooks

    async def read(conn: "Connection") -> Named:
        return [(str(each.id), each.url) for each in await webhooks.list_webhooks(conn)]

    return _complete(read, incomplete, ids=True)


def dead_deliveries(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Ids of deliveries that were given up."""
    from db.approvals import webhooks

    async def read(conn: "Connection") -> Named:
        found = await webhooks.deliveries(conn, SHOWN_MAX, dead_only=True)
        return [(str(each.id), each.event) for each in found]

    return _complete(read, incomplete, ids=True)


async def _ids(conn: "Connection", table: Any, incomplete: str) -> Named:
    from worker.cli.terminal import ids

    if len(incomplete.replace("-", "")) < ids.DIGITS_MIN:
        found = await ids.newest(conn, table, SHOWN_MAX)
    else:
        found = await ids.candidates(conn, table, ids.typed(incomplete, table.thing), SHOWN_MAX)
    return [(str(each.id), f"{each.status} {each.what}") for each in found]


def _complete(
    read: Callable[["Connection"], Awaitable[Named]], incomplete: str, *, ids: bool = False
) -> list[CompletionItem]:
    """The values that begin with the word; of `ids`, also those that end with it."""
    from worker.cli.terminal.database import ask_quickly

    fits = _id_fits if ids else str.startswith
    return [
        CompletionItem(value, help=" ".join(words.split())[:WORDS_MAX])
        for value, words in ask_quickly(read, SECONDS) or ()
        if fits(value, incomplete)
    ]


def _id_fits(value: str, word: str) -> bool:
    digits, typed = value.replace("-", ""), word.replace("-", "").lower()
    return digits.startswith(typed) or digits.endswith(typed)
