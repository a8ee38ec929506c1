"""Which jobs a verb is for: one by its id, or those that a filter finds.

In: an argument and options. Out: a `Choice`. Invariant: without an id and a filter it is a mistake,
not all jobs.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import wraps
from typing import Any, LiteralString, TypeVar

import click
from pydantic import ValidationError

from db.bulk.filters import JobFilter
from db.errors import InvalidInput
from db.pool import Connection, fetch_val
from db.queue.jobs import JobStatus, WaitReason
from worker.cli.terminal import ids, names, options, times
from worker.cli.terminal.payload import read_payload

F = TypeVar("F", bound=Callable[..., Any])

SPAN_SECONDS_MAX = 36_500 * 86_400.0
SOME = "say which: --mode answer --status failed, for example; to see what it would do: --dry-run"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was typed."""

    job: str | None
    status: str | None
    mode: str | None
    queue: str | None
    waiting_for: str | None
    thread: str | None
    agent: str | None
    lane: str | None
    unique_key: str | None
    request_id: str | None
    team: str | None
    since: str | None
    before: str | None
    payload: str | None
    error: str | None
    dry_run: bool
    wait: bool

    def typed_id(self) -> ids.TypedId | None:
        """The id that was typed; None if a filter was. Raises `InvalidInput` for both and none."""
        given = asdict(self)
        filters = [n for n in FILTERS if given[n] is not None]
        if self.job is None:
            if not filters:
                raise InvalidInput("neither an id nor a filter is given", SOME)
            return None
        if filters or self.dry_run or self.wait:
            raise InvalidInput(
                "an id and options for many jobs are both given", "give the id alone, or a filter"
            )
        return ids.typed_job(self.job)

    async def filter(self, conn: Connection) -> JobFilter:
        """The filter; spans of time count from the server's clock. Raises `InvalidInput`."""
        given = {
            "status": self.status,
            "waiting_for": self.waiting_for,
            "mode": self.mode,
            "queue": self.queue,
            "thread_id": None if self.thread is None else ids.whole_id(self.thread, "--thread"),
            "agent_id": None if self.agent is None else ids.whole_id(self.agent, "--agent"),
            "team_id": None if self.team is None else ids.whole_id(self.team, "--team"),
            "lane": self.lane,
            "unique_key": self.unique_key,
            "request_id": self.request_id,
            "since": await _instant(conn, self.since, "--since"),
            "before": await _instant(conn, self.before, "--before"),
            "payload": None if self.payload is None else read_payload(self.payload),
            "error": self.error,
        }
        try:
            return JobFilter.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            said = first["msg"].removeprefix("Value error, ")
            raise InvalidInput(f"{where}: {said}" if where else said, SOME) from error


FILTERS = (
    *("status", "mode", "queue", "waiting_for", "thread", "lane", "unique_key", "request_id"),
    *("agent", "team", "since", "before", "payload", "error"),
)

_OPTIONS = (
    click.argument(
        "job",
        metavar="[ID]",
        required=False,
        shell_complete=names.jobs,
        help="One job, by its id; or give a filter.",
    ),
    options.choice("--status", metavar="STATUS", words=JobStatus, help="Jobs of this status"),
    click.option("--mode", metavar="MODE", shell_complete=names.modes, help="Jobs of this mode."),
    click.option(
        "--queue", metavar="QUEUE", shell_complete=names.queues, help="Jobs in this queue."
    ),
    options.choice(
        "--waiting-for", metavar="REASON", words=WaitReason, help="Jobs that wait for this"
    ),
    click.option("--thread", metavar="UUID", help="Jobs of this chat thread."),
    click.option("--agent", metavar="UUID", help="Jobs for this agent."),
    click.option("--lane", metavar="LANE", help="Jobs of this lane."),
    click.option("--unique-key", metavar="KEY", help="Jobs with this unique key."),
    click.option("--request-id", metavar="REQUEST", help="Jobs of this request."),
    options.team_only,
    click.option(
        "--since",
        metavar="TIME",
        help="Jobs that ended (open ones: came) since, like 1h: an hour ago.",
    ),
    click.option(
        "--before", metavar="TIME", help="Jobs that ended (open ones: came) before, like 30d."
    ),
    click.option("--payload", metavar="JSON", help="Jobs whose payload contains this object."),
    click.option("--error", metavar="TEXT", help="Jobs whose error contains this."),
    click.option("--dry-run", is_flag=True, help="Only count them, and show ten."),
    options.wait("done"),
)


def one_or_many(function: F) -> F:
    """The argument and options of a `Choice`, which the command gets as `choice`."""

    @wraps(function)
    def chosen(**given: Any) -> Any:
        fields = {name: given.pop(name) for name in Choice.__dataclass_fields__}
        return function(choice=Choice(**fields), **given)

    command: Any = chosen
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


AGO: LiteralString = "select clock_timestamp() - %(seconds)s * interval '1 second'"


async def _instant(conn: Connection, text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    if "T" in text or text.count("-") >= 2:
        return times.parse_instant(text, option)
    seconds = times.parse_duration(text, option)
    if seconds > SPAN_SECONDS_MAX:
        raise InvalidInput(f"{option} {text} is more than 100 years", "leave it out")
    return await fetch_val(conn, AGO, {"seconds": seconds})
