"""Every command with its options, as `--help` shows them.

In: arguments. Out: calls of the module that does the work, imported only then. The options of a
command are declared here and nowhere else.
"""

from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from worker.cli import money_app
from worker.cli.arguments import (
    DECISIONS,
    INSIGHT,
    JOBS,
    SHIPPING,
    WORK,
    ApprovalId,
    By,
    Commands,
    Comment,
    JobId,
    Json,
    Limit,
    QueueName,
    RunCommands,
    RunId,
    StepName,
)
from worker.cli.run import RunOptions

# These repeat enums of `db`, which is not imported for `--help`; a test keeps them equal.
Status = Literal["queued", "waiting", "running", "done", "failed", "canceled"]
RunState = Literal["draft", "planning", "executing", "waiting", "done", "failed", "canceled"]
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
webhook_app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)
queue_app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)
step_app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)
runs_app = typer.Typer(cls=RunCommands, rich_markup_mode=None)


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
    """Run a worker until it is told to stop (SIGTERM, SIGHUP or Ctrl-C; a second stops at once)."""
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
    yes: Annotated[
        bool, typer.Option("--yes", help="Go down to an older revision without asking.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring the schema of the database to this version, or to another revision."""
    from worker.cli import migrations

    migrations.run(to=to, since=since, sql=sql, yes=yes, as_json=as_json)


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
        Path | None,
        typer.Option(
            help="The conversation, one JSON message per line; by default, one is shipped."
        ),
    ] = None,
    shuffle: Annotated[
        int | None, typer.Option(metavar="SEED", help="Feed the threads in another order.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the demo's database and files.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="offline; by default a priced one, from a provider of the demo's own."),
    ] = None,
) -> None:
    """Show the whole flow on a conversation: two workers, one of them killed half-way."""
    from worker.cli import daemon

    raise typer.Exit(daemon.run_demo(inbox, shuffle=shuffle, keep=keep, model=model))


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


@app.command(rich_help_panel=JOBS)
def signal(
    job: JobId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the job waits for.")],
    payload: Annotated[
        str | None,
        typer.Argument(metavar="PAYLOAD", help="What comes with it: any JSON; null by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send a signal to a job: one that waits for it goes on, one that will wait finds it."""
    from worker.cli import jobs

    jobs.signal(job, name, payload, as_json=as_json)


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
        str | None,
        typer.Option(help="Which of its options; approve, if it has that."),
    ] = None,
    comment: Comment = None,
    by: By = None,
    edit: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Approve this instead of what is shown; or @FILE."),
    ] = None,
    seen: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="Only if it is still what has this hash."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say yes; the job that waits goes on."""
    from worker.cli import approvals

    approvals.approve(
        approval, option=option, comment=comment, by=by, edit=edit, seen=seen, as_json=as_json
    )


@app.command(rich_help_panel=DECISIONS)
def reject(
    approval: ApprovalId, comment: Comment = None, by: By = None, as_json: Json = False
) -> None:
    """Say no; the job that waits goes on with that."""
    from worker.cli import approvals

    approvals.reject(approval, comment=comment, by=by, as_json=as_json)


app.add_typer(
    webhook_app,
    name="webhook",
    rich_help_panel=DECISIONS,
    help="Tell other programs when approvals open and close.",
)


@webhook_app.command("add")
def add_webhook(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to send it: https://host/path.")],
    event: Annotated[
        list[str] | None,
        typer.Option(help="Only this, like approval.closed; may be given often."),
    ] = None,
    team: Annotated[
        str | None, typer.Option(metavar="UUID", help="Only approvals of this team.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell an address about approvals from now on."""
    from worker.cli import webhooks

    webhooks.add(url, events=event or (), team=team, as_json=as_json)


@webhook_app.command("list")
def list_webhooks(as_json: Json = False) -> None:
    """List the addresses that are told."""
    from worker.cli import webhooks

    webhooks.list_webhooks(as_json=as_json)


@webhook_app.command("remove")
def remove_webhook(
    webhook: Annotated[str, typer.Argument(metavar="ID", help="The webhook's id.")],
    as_json: Json = False,
) -> None:
    """Tell an address no more."""
    from worker.cli import webhooks

    webhooks.remove(webhook, as_json=as_json)


@webhook_app.command("deliveries")
def webhook_deliveries(
    dead: Annotated[bool, typer.Option("--dead", help="Only those given up.")] = False,
    limit: Limit = 30,
    as_json: Json = False,
) -> None:
    """List what was told, or is still to be, the newest first."""
    from worker.cli import webhooks

    webhooks.deliveries(dead_only=dead, limit=limit, as_json=as_json)


@webhook_app.command("secret")
def webhook_secret(as_json: Json = False) -> None:
    """Make a new secret to sign with, and say how to change to it."""
    from worker.cli import webhooks

    webhooks.secret(as_json=as_json)


@webhook_app.command("retry")
def retry_deliveries(
    delivery: Annotated[
        str | None, typer.Argument(metavar="ID", help="Only this delivery.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Try again what was given up."""
    from worker.cli import webhooks

    webhooks.retry(delivery, as_json=as_json)


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
def rollback(
    environment: Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="One of deploy.toml.")],
    to: Annotated[
        str, typer.Option("--to", metavar="ID|SHA", help="A deployment's id, or its commit.")
    ] = "previous",
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it to its end; exit code 1 unless it is healthy.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Enqueue a job that goes back to what was healthy there before; prints the job's id."""
    from worker.cli import shipping

    raise typer.Exit(shipping.roll_back(environment, to, wait=wait, as_json=as_json))


@app.command(rich_help_panel=SHIPPING)
def deployments(
    environment: Annotated[str | None, typer.Option(help="Only those to this one.")] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """List deployments, the newest first."""
    from worker.cli import shipping

    shipping.list_deployments(environment=environment, limit=limit, as_json=as_json)


@app.command("environments", rich_help_panel=SHIPPING)
def environments_(as_json: Json = False) -> None:
    """Show what is live where, since when, and who holds it."""
    from worker.cli import shipping

    shipping.list_environments(as_json=as_json)


@app.command(rich_help_panel=INSIGHT)
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every 2 s.")] = False,
    as_json: Json = False,
) -> None:
    """Show workers, queues, what waits for what, spend, violations; exit code 1 for those."""
    from worker.cli import status

    raise typer.Exit(status.show(watch=watch, as_json=as_json))


money_app.add_to(app)


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
        list[str] | None, typer.Argument(metavar="ARGUMENT", help="What psql takes: -c SQL.")
    ] = None,
) -> None:
    """Open psql on the database, the embedded one too."""
    from worker.cli import psql

    raise typer.Exit(psql.run(arguments or ()))


@app.command(rich_help_panel=JOBS)
def fork(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or its beginning.")],
    at: Annotated[
        str | None,
        typer.Option(metavar="STEP", help="Run anew from this step on; a checkpoint is read."),
    ] = None,
    node: Annotated[
        str | None, typer.Option(help="Its node, if several have such a step; whole without --at.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE:JSON", help="Other arguments for a node; may be given often."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is read, and what may be paid again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fork a run: a new one reads what was done before a step, and runs the rest anew."""
    from worker.cli import fork

    fork.fork(run, node=node, step=at, changes=change or (), dry_run=dry_run, as_json=as_json)


app.add_typer(
    step_app,
    name="step",
    rich_help_panel=DECISIONS,
    help="Say of an unsafe step that was begun and not recorded: done, or again.",
)


@step_app.command()
def done(
    job: JobId,
    step: StepName,
    output: Annotated[
        str | None, typer.Option(metavar="JSON", help="What the step returns; null by default.")
    ] = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """It happened: the job goes on behind it."""
    from worker.cli import steps

    steps.done(job, step, output=output, by=by, as_json=as_json)


@step_app.command()
def again(
    job: JobId,
    step: StepName,
    by: By = None,
    as_json: Json = False,
) -> None:
    """It did not happen: the job runs it again."""
    from worker.cli import steps

    steps.again(job, step, by=by, as_json=as_json)


app.add_typer(
    runs_app,
    name="runs",
    rich_help_panel=JOBS,
    help="List runs, show one (by its id), start, cancel, retry or delete one.",
)


@runs_app.command("list")
def list_runs(
    run: Annotated[
        str | None, typer.Argument(metavar="ID", help="One run whole, with its graph.")
    ] = None,
    status: Annotated[
        RunState | None,
        typer.Option(metavar="STATUS", help=f"Only the {', '.join(get_args(RunState))}."),
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Only those of this actor.")] = None,
    thread: Annotated[
        str | None, typer.Option(metavar="UUID", help="Only those of this chat thread.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="UUID", help="Only those of this agent.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those made since, like 24h or a date.")
    ] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """List the newest runs, or show one with its graph; also without the word `list`."""
    if run is not None:
        from worker.cli import run_file

        run_file.show(run, as_json=as_json)
        return
    from worker.cli import runs

    runs.list_runs(
        status=status,
        actor=actor,
        thread=thread,
        agent=agent,
        since=since,
        limit=limit,
        as_json=as_json,
    )


@runs_app.command("start")
def start_run(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="JSON, - for stdin: a list of nodes, each with node (its name), mode, and if need "
            "be payload and after; or an object with nodes and more.",
        ),
    ],
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Started once for each key, however often.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a run of the nodes in a file; prints its id."""
    from worker.cli import runs

    runs.start(file, key=key, as_json=as_json)


@runs_app.command("cancel")
def cancel_run(
    run: RunId,
    reason: Annotated[str, typer.Option(help="Why; kept with its jobs.")] = "canceled by a person",
    as_json: Json = False,
) -> None:
    """Cancel all jobs of a run: now, or when they have stopped."""
    from worker.cli import runs

    runs.cancel(run, reason=reason, as_json=as_json)


@runs_app.command("retry")
def retry_run(run: RunId, as_json: Json = False) -> None:
    """Run again what failed or was canceled in a run that is over; what is done stays done."""
    from worker.cli import runs

    runs.retry(run, as_json=as_json)


@runs_app.command("delete")
def delete_run(run: RunId, as_json: Json = False) -> None:
    """Remove a run that is over, with its jobs, steps and files; the ledger stays."""
    from worker.cli import runs

    runs.delete(run, as_json=as_json)


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


def _version() -> str:
    try:
        return metadata.version("jobsworth")
    except metadata.PackageNotFoundError:
        return "(not installed)"
