"""Every command with its options, as `--help` shows them.

In: arguments. Out: calls of the module that does the work, imported only then. The options of a
command are declared here and nowhere else.
"""

from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from typer.core import TyperGroup

from worker.cli.exit_codes import MEANINGS
from worker.cli.run import RunOptions

WORK, JOBS, DECISIONS, SHIPPING, INSIGHT = (
    "Run",
    "Jobs",
    "Approvals",
    "Deployments",
    "See and search",
)

# These repeat enums of `db`, which is not imported for `--help`; a test keeps them equal.
Status = Literal["queued", "waiting", "running", "done", "failed", "canceled"]
Reason = Literal[
    "timer",
    "lane",
    "parents",
    "children",
    "approval",
    "signal",
    "limit",
    "budget",
    "handler",
    "person",
]
Dimension = Literal[
    "day", "model", "mode", "provider", "scope", "agent", "team", "run", "thread", "job"
]

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
JobId = Annotated[
    str, typer.Argument(metavar="ID", help="The job's id, or its first 6 digits or more.")
]
ApprovalId = Annotated[
    str, typer.Argument(metavar="ID", help="The approval's id, or its first 6 digits or more.")
]
QueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="Its name.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")]
Comment = Annotated[str | None, typer.Option(help="Why; kept with the decision.")]
By = Annotated[str | None, typer.Option(help="Who decides; you, if not given.")]


class Commands(TyperGroup):
    """The list of commands in parts, and the exit codes below it."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        widest = max(len(name) for name, _ in commands)
        parts = dict.fromkeys(getattr(command, "rich_help_panel", None) for _, command in commands)
        for part in parts:
            rows = [
                (name.ljust(widest), command.get_short_help_str(200))
                for name, command in commands
                if getattr(command, "rich_help_panel", None) == part
            ]
            with formatter.section(part or "Commands"):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if ctx.parent is not None:
            return
        with formatter.section("Exit codes"):
            formatter.write_dl([(f"{int(code):>3}", meaning) for code, meaning in MEANINGS.items()])


app = typer.Typer(
    name="jobsworth",
    cls=Commands,
    help="A job-queue worker daemon for AI agents, on PostgreSQL. Without JOBSWORTH_DATABASE_URL "
    "it uses a database of its own, on this machine; `jobsworth doctor --settings` lists all "
    "settings.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
queue_app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)
price_app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)
books_app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jobsworth {_version()}")
        raise typer.Exit


@app.callback()
def before(
    context: typer.Context,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version, and end.", is_eager=True, callback=show_version
        ),
    ] = False,
) -> None:
    del version  # `show_version` has dealt with it
    options = context.find_root().obj
    if isinstance(options, RunOptions):
        options.traceback = traceback


@app.command(rich_help_panel=WORK)
def worker(
    handlers: Annotated[
        str | None, typer.Option(help="Modules with your handlers, instead of JOBSWORTH_HANDLERS.")
    ] = None,
    queues: Annotated[
        str | None, typer.Option(help="Queues to serve, instead of JOBSWORTH_QUEUES.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(help="Jobs run at once, instead of JOBSWORTH_SLOTS.")
    ] = None,
) -> None:
    """Run a worker until it is told to stop (SIGTERM or Ctrl-C; a second one stops at once)."""
    from worker.cli import daemon

    raise typer.Exit(daemon.run_worker(handlers=handlers, queues=queues, slots=slots))


@app.command(rich_help_panel=WORK)
def migrate(
    to: Annotated[
        str, typer.Option(metavar="REV", help="The revision to go to: head, base or its number.")
    ] = "head",
    sql: Annotated[bool, typer.Option("--sql", help="Only print the SQL, for psql.")] = False,
    since: Annotated[
        str, typer.Option(metavar="REV", help="With --sql: the revision to begin at.")
    ] = "base",
    as_json: Json = False,
) -> None:
    """Bring the schema of the database to this version, or to another revision."""
    from worker.cli import migrations

    migrations.run(to=to, since=since, sql=sql, as_json=as_json)


@app.command(rich_help_panel=WORK)
def doctor(
    settings: Annotated[
        bool, typer.Option("--settings", help="List every setting instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check settings, database, workers, invariants and books; exit code 1 for a problem."""
    from worker.cli import doctor

    if settings:
        doctor.show_settings(as_json=as_json)
    else:
        raise typer.Exit(doctor.examine(as_json=as_json))


@app.command(rich_help_panel=WORK)
def demo(
    inbox: Annotated[
        Path, typer.Option(help="The conversation, one JSON message per line.")
    ] = Path("examples/inbox.jsonl"),
    shuffle: Annotated[
        int | None, typer.Option(metavar="SEED", help="Feed the threads in another order.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the demo's database and files.")
    ] = False,
) -> None:
    """Show the whole flow on a conversation: two workers, one of them killed half-way."""
    from worker.cli import daemon

    raise typer.Exit(daemon.run_demo(inbox, shuffle=shuffle, keep=keep))


@app.command(rich_help_panel=JOBS)
def enqueue(
    mode: Annotated[
        str, typer.Argument(metavar="MODE", help="Which handler runs it, like answer.")
    ],
    payload: Annotated[
        str | None,
        typer.Argument(
            metavar="PAYLOAD",
            help="Its arguments: a JSON object, - to read it from stdin, or @FILE.",
        ),
    ] = None,
    queue: Annotated[str, typer.Option(help="The queue it is put into.")] = "default",
    priority: Annotated[int, typer.Option(help="1 (urgent) to 4.")] = 3,
    run_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before, like 2026-02-01T09:00+01:00.")
    ] = None,
    delay: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Not before so long from now, like 90s or 1h30m."),
    ] = None,
    thread: Annotated[str | None, typer.Option(metavar="UUID", help="Its chat thread.")] = None,
    lane: Annotated[
        str | None,
        typer.Option(help='One job of a lane at a time, in order; the thread by default, "" none.'),
    ] = None,
    unique_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="At most one open job has it.")
    ] = None,
    failures_max: Annotated[
        int | None, typer.Option(metavar="N", help="Failures after which it has failed for good.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="SPAN", help="The longest an attempt may take, like 5m.")
    ] = None,
    after: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A job that must be done first; may be given often."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it to its end; exit code 1 unless it is done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Enqueue a job; prints its id."""
    from worker.cli import enqueue

    code = enqueue.enqueue(
        mode,
        payload,
        queue=queue,
        priority=priority,
        run_at=run_at,
        delay=delay,
        thread=thread,
        lane=lane,
        unique_key=unique_key,
        failures_max=failures_max,
        timeout=timeout,
        after=after or (),
        wait=wait,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command(rich_help_panel=JOBS)
def jobs(
    status: Annotated[
        Status | None,
        typer.Option(metavar="STATUS", help=f"Only the {', '.join(get_args(Status))}."),
    ] = None,
    mode: Annotated[str | None, typer.Option(help="Only those of this mode.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only those in this queue.")] = None,
    waiting_for: Annotated[
        Reason | None,
        typer.Option(
            metavar="REASON", help=f"Only those waiting for {', '.join(get_args(Reason))}."
        ),
    ] = None,
    thread: Annotated[
        str | None, typer.Option(metavar="UUID", help="Only those of this chat thread.")
    ] = None,
    limit: Limit = 30,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    from worker.cli import jobs

    jobs.list_jobs(
        status=status,
        mode=mode,
        queue=queue,
        waiting_for=waiting_for,
        thread=thread,
        limit=limit,
        as_json=as_json,
    )


@app.command(rich_help_panel=JOBS)
def job(job: JobId, as_json: Json = False) -> None:
    """Show one job whole: steps, model calls, approvals, artifacts, children, messages."""
    from worker.cli import job as file

    file.show(job, as_json=as_json)


@app.command(rich_help_panel=JOBS)
def why(job: JobId, as_json: Json = False) -> None:
    """Say why a job is not running, and the one thing that would unblock it."""
    from worker.cli import jobs

    jobs.why(job, as_json=as_json)


@app.command(rich_help_panel=JOBS)
def cancel(
    job: JobId,
    reason: Annotated[str, typer.Option(help="Why; kept with the job.")] = "canceled by a person",
    as_json: Json = False,
) -> None:
    """Cancel a job: now, or as soon as it stops if it is running."""
    from worker.cli import jobs

    jobs.cancel(job, reason=reason, as_json=as_json)


@app.command(rich_help_panel=JOBS)
def retry(job: JobId, as_json: Json = False) -> None:
    """Run a failed or canceled job again, or one that waits for its time now."""
    from worker.cli import jobs

    jobs.retry(job, as_json=as_json)


@app.command(rich_help_panel=DECISIONS)
def approvals(
    approval: Annotated[
        str | None, typer.Argument(metavar="ID", help="Show this one whole instead.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="The decided ones too, newest first.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    as_json: Json = False,
) -> None:
    """List what waits for a decision, oldest first, or show one with all that is shown with it."""
    from worker.cli import approvals

    if approval is None:
        approvals.list_approvals(everything=everything, limit=limit, as_json=as_json)
    else:
        approvals.show(approval, as_json=as_json)


@app.command(rich_help_panel=DECISIONS)
def approve(
    approval: ApprovalId,
    option: Annotated[
        str | None, typer.Option(help="Which of its options; needed where there are several.")
    ] = None,
    comment: Comment = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Say yes; the job that waits goes on."""
    from worker.cli import approvals

    approvals.approve(approval, option=option, comment=comment, by=by, as_json=as_json)


@app.command(rich_help_panel=DECISIONS)
def reject(
    approval: ApprovalId, comment: Comment = None, by: By = None, as_json: Json = False
) -> None:
    """Say no; the job that waits goes on with that."""
    from worker.cli import approvals

    approvals.reject(approval, comment=comment, by=by, as_json=as_json)


@app.command(rich_help_panel=SHIPPING)
def deploy(
    environment: Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="One of deploy.toml.")],
    sha: Annotated[str, typer.Argument(metavar="SHA", help="The commit, or a branch or tag.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it to its end; exit code 1 unless it is healthy.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Enqueue a job that deploys a commit; prints the job's id."""
    from worker.cli import shipping

    raise typer.Exit(shipping.deploy(environment, sha, wait=wait, as_json=as_json))


@app.command(rich_help_panel=SHIPPING)
def deployments(
    environment: Annotated[str | None, typer.Option(help="Only those to this one.")] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """List deployments, the newest first."""
    from worker.cli import shipping

    shipping.list_deployments(environment=environment, limit=limit, as_json=as_json)


@app.command(rich_help_panel=INSIGHT)
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every 2 s.")] = False,
    as_json: Json = False,
) -> None:
    """Show workers, queues, what waits for what, spend, violations; exit code 1 for those."""
    from worker.cli import status

    raise typer.Exit(status.show(watch=watch, as_json=as_json))


@app.command(rich_help_panel=INSIGHT)
def ledger(
    by: Annotated[
        Dimension,
        typer.Option(metavar="WHAT", help=f"One row for each {', '.join(get_args(Dimension))}."),
    ] = "day",
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="today, 7d, 2026-02-01 … (from the beginning)"),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="What was before that. (until now)")
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout, costs exact.")] = False,
) -> None:
    """Add up what model calls have taken and cost."""
    from worker.cli import ledger

    ledger.show(by=by, since=since, until=until, as_json=as_json, as_csv=as_csv)


@app.command(rich_help_panel=INSIGHT)
def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to look for.")],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 5,
    kind: Annotated[str | None, typer.Option(help="Only texts of this kind, like note.")] = None,
    thread: Annotated[
        str | None, typer.Option(metavar="UUID", help="Only texts of this chat thread.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Search what is remembered, the nearest first."""
    from worker.cli import search

    search.search(text, limit=limit, kind=kind, thread=thread, as_json=as_json)


@app.command(
    rich_help_panel=INSIGHT,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def psql(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENT]...", help="What psql takes: -c SQL.")
    ] = None,
) -> None:
    """Open psql on the database, the embedded one too."""
    from worker.cli import psql

    raise typer.Exit(psql.run(arguments or ()))


app.add_typer(
    queue_app, name="queue", rich_help_panel=INSIGHT, help="Pause, resume and list queues."
)


@queue_app.command()
def pause(queue: QueueName, as_json: Json = False) -> None:
    """Let no job of a queue be claimed; what runs goes on."""
    from worker.cli import queues

    queues.pause(queue, as_json=as_json)


@queue_app.command()
def resume(queue: QueueName, as_json: Json = False) -> None:
    """Let the jobs of a queue be claimed again."""
    from worker.cli import queues

    queues.resume(queue, as_json=as_json)


@queue_app.command("list")
def list_queues(as_json: Json = False) -> None:
    """List the queues with open jobs, a worker or a pause."""
    from worker.cli import queues

    queues.list_queues(as_json=as_json)


app.add_typer(
    price_app, name="price", rich_help_panel=INSIGHT, help="Own prices of models, and corrections."
)
app.add_typer(books_app, name="books", rich_help_panel=INSIGHT, help="Check the books.")

Provider = Annotated[str, typer.Argument(metavar="PROVIDER", help="Like openai.")]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Its name; * at its end stands for the rest.")
]
Team = Annotated[str | None, typer.Option(metavar="UUID", help="For this team only.")]


@price_app.command("set")
def set_price(
    provider: Provider,
    model: Model,
    input_rate: Annotated[
        str, typer.Option("--input", metavar="USD", help="For a million input tokens.")
    ],
    output_rate: Annotated[
        str, typer.Option("--output", metavar="USD", help="For a million output tokens.")
    ],
    cache_read: Annotated[
        str | None, typer.Option(metavar="USD", help="For those read from a cache. (as --input)")
    ] = None,
    cache_write: Annotated[
        str | None, typer.Option(metavar="USD", help="For those written to a cache. (as --input)")
    ] = None,
    valid_from: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Valid from then on. (always)")
    ] = None,
    note: Annotated[str | None, typer.Option(help="Why; kept with the price.")] = None,
    team: Team = None,
    as_json: Json = False,
) -> None:
    """Set what a model costs; goes before the prices that come with Jobsworth."""
    from worker.cli import prices

    prices.set_price(
        provider,
        model,
        input_rate=input_rate,
        output_rate=output_rate,
        cache_read=cache_read,
        cache_write=cache_write,
        valid_from=valid_from,
        note=note,
        team=team,
        as_json=as_json,
    )


@price_app.command("list")
def list_prices(as_json: Json = False) -> None:
    """List own prices."""
    from worker.cli import prices

    prices.list_prices(as_json=as_json)


@price_app.command("remove")
def remove_price(
    provider: Provider, model: Model, team: Team = None, as_json: Json = False
) -> None:
    """Forget an own price."""
    from worker.cli import prices

    prices.remove_price(provider, model, team=team, as_json=as_json)


@price_app.command("show")
def show_price(
    provider: Provider,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its name.")],
    input_tokens: Annotated[int, typer.Option(min=0, help="Of the call.")] = 1_000_000,
    output_tokens: Annotated[int, typer.Option(min=0, help="Of the call.")] = 1_000_000,
    team: Team = None,
    as_json: Json = False,
) -> None:
    """Show what a call would be charged now, and by which price; exit code 1 if unknown."""
    from worker.cli import prices

    code = prices.show_price(
        provider,
        model,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        team=team,
        as_json=as_json,
    )
    raise typer.Exit(code)


@price_app.command("reprice")
def reprice(
    since: Annotated[str, typer.Option(metavar="TIME", help="today, 7d, 2026-02-01 …")],
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="What was settled before that. (until now)")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Only calls of this one.")] = None,
    model: Annotated[str | None, typer.Option(help="Only calls of this one; may end in *.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Correct what calls have cost: where it was unknown, or own prices say otherwise."""
    from worker.cli import prices

    prices.reprice_calls(
        since=since,
        until=until,
        provider=provider,
        model=model,
        dry_run=dry_run,
        as_json=as_json,
    )


@books_app.callback()
def books() -> None:
    """Check the books."""


@books_app.command()
def check(as_json: Json = False) -> None:
    """Hold calls, ledger, jobs, steps and sums against each other; exit code 1 if they disagree."""
    from worker.cli import books as file

    raise typer.Exit(file.check(as_json=as_json))


def _version() -> str:
    try:
        return metadata.version("jobsworth")
    except metadata.PackageNotFoundError:
        return "(not installed)"
