"""`jobsworth` itself: the table of its commands, and the help at the top.

In: the first words of a command line. Out: the command they name, imported only then. Invariant:
the table is all that the help and the completion of the first word need.
"""

import importlib
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from worker.cli.terminal.commands import no_such_command
from worker.cli.terminal.exit_codes import MEANINGS

HELP = (
    "A job-queue worker daemon for AI agents, on PostgreSQL. The database is the one in "
    "JOBSWORTH_DATABASE_URL; without it, Jobsworth runs a database of its own on this machine. "
    "`jobsworth doctor --settings` lists all settings."
)
GRAMMAR = (
    "A noun alone lists: `jobsworth run` is `jobsworth run list`. `jobsworth help NOUN` shows its "
    "verbs. Give an id whole, or at least 6 digits of its beginning or its end."
)


class RunOptions:
    """Options before the command; filled while the arguments are read."""

    traceback = False


class Entry(NamedTuple):
    """A command of the top level: where it is defined (`module:attribute`), and its help line."""

    chapter: str
    name: str
    place: str
    help: str


DAILY, JOBS, STEPS, MONEY, CONSENT, SHIPPING, PEOPLE, REST = (
    "Every day",
    "Queue",
    "Runs and steps",
    "Money",
    "Approvals",
    "Deployments",
    "People",
    "Memory and shell",
)

TABLE = (
    Entry(DAILY, "worker", "nouns.worker:worker", "Start a worker; `worker list` lists them."),
    Entry(DAILY, "enqueue", "nouns.job:enqueue", "Enqueue a job and print its id."),
    Entry(DAILY, "jobs", "nouns.job:list_jobs", "List jobs, newest first."),
    Entry(
        DAILY,
        "why",
        "nouns.job:why",
        "Say why a job is not running, and the one thing that would unblock it.",
    ),
    Entry(DAILY, "approve", "nouns.approval:approve", "Approve a proposal; its job goes on."),
    Entry(
        DAILY, "reject", "nouns.approval:reject", "Reject a proposal; its job goes on with a no."
    ),
    Entry(
        DAILY,
        "status",
        "installation.status:status",
        "Show workers, queues, waiting jobs, today's spending and violations.",
    ),
    Entry(DAILY, "top", "installation.top:top", "Watch workers, queues and jobs live."),
    Entry(
        DAILY,
        "doctor",
        "installation.doctor:doctor",
        "Check settings, database, workers, invariants and books.",
    ),
    Entry(DAILY, "demo", "installation.demo:demo", "Run the whole flow on a sample conversation."),
    Entry(DAILY, "migrate", "installation.migrate:migrate", "Bring the schema to this version."),
    Entry(DAILY, "serve", "installation.serve:serve", "Serve the HTTP API and the dashboard."),
    Entry(DAILY, "psql", "installation.psql:psql", "Open psql on the database."),
    Entry(JOBS, "job", "nouns.job:job", "List, show, enqueue, cancel and retry jobs."),
    Entry(JOBS, "queue", "nouns.queue:queue", "List, pause and resume queues."),
    Entry(
        JOBS,
        "schedule",
        "nouns.schedule:schedule",
        "Enqueue jobs and start runs again and again.",
    ),
    Entry(
        JOBS,
        "job-limit",
        "limits.job_limit:job_limit",
        "Limit how many jobs run at once, or start in a time.",
    ),
    Entry(
        JOBS,
        "retention",
        "retention.retention:retention",
        "Set how long jobs that have ended are kept.",
    ),
    Entry(JOBS, "signal", "nouns.signal:signal", "Send a signal to a job that waits for it."),
    Entry(
        JOBS,
        "thread",
        "conversations.thread:thread",
        "List, show, archive, close and delete chat threads; say something.",
    ),
    Entry(JOBS, "request", "nouns.request:request", "Show what came of a request."),
    Entry(STEPS, "run", "nouns.run:run", "List, show, start, fork, cancel, retry and delete runs."),
    Entry(
        STEPS,
        "step",
        "nouns.step:step",
        "List a job's steps; decide whether an unsafe step happened.",
    ),
    Entry(STEPS, "artifact", "steps.artifact:artifact", "List and fetch files of jobs and runs."),
    Entry(MONEY, "ledger", "nouns.ledger:ledger", "Add up what model calls used and cost."),
    Entry(MONEY, "budget", "nouns.budget:budget", "Limit how much model calls may spend."),
    Entry(MONEY, "limit", "nouns.limit:limit", "Limit requests and tokens per minute."),
    Entry(MONEY, "price", "nouns.price:price", "Set prices of models; correct past costs."),
    Entry(MONEY, "books", "nouns.books:books", "Check that calls, ledger and jobs agree."),
    Entry(
        MONEY,
        "spool",
        "nouns.spool:spool",
        "List paid answers on this machine that are not in the database yet.",
    ),
    Entry(CONSENT, "approval", "nouns.approval:approval", "List, show and decide approvals."),
    Entry(
        CONSENT,
        "webhook",
        "nouns.webhook:webhook",
        "Tell other programs when approvals open and close.",
    ),
    Entry(CONSENT, "delivery", "nouns.delivery:delivery", "List and retry webhook deliveries."),
    Entry(
        SHIPPING,
        "deployment",
        "nouns.deployment:deployment",
        "List, show, start and roll back deployments.",
    ),
    Entry(
        SHIPPING,
        "environment",
        "nouns.environment:environment",
        "List environments and what is live in each.",
    ),
    Entry(PEOPLE, "team", "people.team:team", "List teams; say who is in them, and as what."),
    Entry(PEOPLE, "user", "people.user:user", "List and save users, by a platform's own ids."),
    Entry(
        PEOPLE,
        "agent",
        "people.agent:agent",
        "Say what agents are: model, personality, instructions, skills.",
    ),
    Entry(PEOPLE, "project", "people.project:project", "List and save projects."),
    Entry(PEOPLE, "session", "people.session:session", "Open, resume and close sessions."),
    Entry(
        PEOPLE,
        "roles",
        "people.roles:noun",
        "Create database roles that see their team's rows alone.",
    ),
    Entry(
        PEOPLE, "erase", "people.erase:noun", "Erase a user, a thread or a session, and prove it."
    ),
    Entry(PEOPLE, "token", "people.token:token", "Issue, list and revoke tokens of programs."),
    Entry(
        REST,
        "memory",
        "nouns.memory:memory",
        "Search and forget what is remembered; see to its vectors.",
    ),
    Entry(
        REST,
        "completion",
        "installation.completion:completion",
        "Print a script that completes commands, ids and names in your shell.",
    ),
    Entry(REST, "help", "", "Show the help of a command: `jobsworth help job list`."),
)


class Program(click.Group):
    """All of `jobsworth`; a command is imported when it is called."""

    def __init__(self) -> None:
        super().__init__(
            name="jobsworth",
            help=HELP,
            no_args_is_help=True,
            context_settings={
                "help_option_names": ["-h", "--help"],
                "max_content_width": 100,
                "show_default": True,
            },
            params=[
                click.Option(
                    ["--traceback"],
                    is_flag=True,
                    expose_value=False,
                    callback=_want_traceback,
                    help="Show the traceback of an error.",
                ),
                click.Option(
                    ["-V", "--version"],
                    is_flag=True,
                    is_eager=True,
                    expose_value=False,
                    callback=_show_version,
                    help="Show the version and exit.",
                ),
            ],
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`help NOUN VERB` is `NOUN VERB --help`."""
        first = next((n for n, word in enumerate(args) if not word.startswith("-")), None)
        if first is not None and args[first] == "help":
            args = [*args[:first], *args[first + 1 :]]
            if not ctx.resilient_parsing:
                args.append("--help")
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [entry.name for entry in TABLE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for entry in TABLE:
            if entry.name == cmd_name and entry.place:
                return load(entry)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise no_such_command(ctx, args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(entry.name, help=entry.help)
            for entry in TABLE
            if entry.name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(len(entry.name) for entry in TABLE)
        for chapter in dict.fromkeys(entry.chapter for entry in TABLE):
            with formatter.section(chapter):
                formatter.write_dl(
                    [
                        (entry.name.ljust(widest), entry.help)
                        for entry in TABLE
                        if entry.chapter == chapter
                    ]
                )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(GRAMMAR)
        with formatter.section("Exit codes"):
            formatter.write_dl([(f"{int(code):>3}", meaning) for code, meaning in MEANINGS.items()])


def load(entry: Entry) -> click.Command:
    """The command of an entry of the table; imports its module."""
    module, _, attribute = entry.place.partition(":")
    return getattr(importlib.import_module(f"worker.cli.{module}"), attribute)


def _want_traceback(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if isinstance(ctx.obj, RunOptions):
        ctx.obj.traceback = wanted


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: Any) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib import metadata  # takes longer to import than everything else here

    try:
        version = metadata.version("jobsworth")
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    click.echo(f"jobsworth {version}")
    ctx.exit()
