"""What commands share: the parts of the help, arguments, and how they are listed."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from worker.cli.examples import epilog_of
from worker.cli.exit_codes import MEANINGS

WORK, JOBS, DECISIONS, SHIPPING, MONEY, INSIGHT = (
    "Run",
    "Jobs",
    "Approvals",
    "Deployments",
    "Money",
    "See and search",
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
JobId = Annotated[
    str, typer.Argument(metavar="ID", help="The job's id, or its first 6 digits or more.")
]
RunId = Annotated[
    str, typer.Argument(metavar="ID", help="The run's id, or its first 6 digits or more.")
]
ApprovalId = Annotated[
    str, typer.Argument(metavar="ID", help="The approval's id, or its first 6 digits or more.")
]
QueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="Its name.")]
StepName = Annotated[str, typer.Argument(metavar="NAME", help="The step's name.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")]
Comment = Annotated[str | None, typer.Option(help="Why; kept with the decision.")]
By = Annotated[str | None, typer.Option(help="Who decides; you, if not given.")]


class Commands(TyperGroup):
    """The list of commands in parts, examples with each, and the exit codes below it."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            *_, group = ctx.command_path.partition(" ")
            command.epilog = epilog_of(f"{group} {cmd_name}".strip())
        return command

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
            super().format_epilog(ctx, formatter)
            return
        with formatter.section("Exit codes"):
            formatter.write_dl([(f"{int(code):>3}", meaning) for code, meaning in MEANINGS.items()])


class RunCommands(Commands):
    """`runs` alone, or with an id or filters, is `runs list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)
