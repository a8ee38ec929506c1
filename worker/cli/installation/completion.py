"""`jobsworth completion`: a script that completes commands, ids and names in a shell.

In: the name of a shell. Out: its script on stdout. The script calls `jobsworth` itself for each
completion, so it never goes out of date.
"""

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from worker.cli.program import Program
from worker.cli.terminal import options
from worker.cli.terminal.commands import Verb
from worker.cli.terminal.output import emit_text

VARIABLE = "_JOBSWORTH_COMPLETE"
SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(
    "completion",
    cls=Verb,
    examples=[
        "source <(jobsworth completion bash)   # in ~/.bashrc",
        "source <(jobsworth completion zsh)    # in ~/.zshrc, after compinit",
        "jobsworth completion fish | source    # in ~/.config/fish/config.fish",
    ],
)
@click.argument("shell", metavar="SHELL", type=options.OneOf(SHELLS), help="bash, zsh or fish.")
def completion(shell: str) -> None:
    """Print a script that completes commands, ids and names in your shell."""
    # Not `source()`, which would start a bash to ask for its version.
    complete = SHELLS[shell](Program(), {}, "jobsworth", VARIABLE)
    emit_text(complete.source_template % complete.source_vars())
