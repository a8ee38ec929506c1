"""`jobsworth demo`: the whole flow on a conversation, with a worker that is killed.

In: a conversation. Out: the demo's exit code.
"""

from pathlib import Path

import click

from db.errors import InvalidInput
from worker.cli.terminal import options
from worker.cli.terminal.commands import Verb
from worker.cli.terminal.database import run_async
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import say
from worker.memory.choice import semantic_is_installed
from worker.settings import Settings, load_settings


@click.command("demo", cls=Verb, examples=["jobsworth demo --model offline"])
@click.option(
    "--inbox",
    metavar="FILE",
    type=options.FilePath(),
    help="The conversation: one JSON message per line.  [default: the one that is shipped]",
)
@click.option(
    "--shuffle",
    metavar="SEED",
    type=options.WholeNumber(0),
    help="Feed the threads in another order.",
)
@click.option(
    "--keep",
    is_flag=True,
    help="Keep the demo's database and files; on a terminal its dashboard too, until Ctrl-C.",
)
@click.option(
    "--model",
    metavar="MODEL",
    help="offline, or a model as in JOBSWORTH_MODEL.  [default: a priced model of a provider that "
    "the demo brings along]",
)
def demo(inbox: str | None, shuffle: int | None, keep: bool, model: str | None) -> int:
    """Run the whole flow on a sample conversation: two workers, one of them killed half-way."""
    conversation = None if inbox is None else Path(inbox)
    if conversation is not None and not conversation.is_file():
        raise InvalidInput(
            f"the conversation {conversation} does not exist",
            "name a file, or leave out --inbox for the shipped one",
        )
    settings = _embedding_meanings(load_settings())
    from worker import demo as play

    code = run_async(lambda: play.run(settings, conversation, shuffle, keep, model or play.PRICED))
    if code == ExitCode.INTERRUPTED and not keep:
        say("interrupted; the demo's database and files are removed")
    return code


def _embedding_meanings(settings: Settings) -> Settings:
    """The settings with the semantic embedder, if it is installed and no embedder was chosen."""
    chosen = {"embedder", "embedder_url", "embedder_dimensions"} & settings.model_fields_set
    if chosen or not semantic_is_installed():
        return settings
    return settings.model_copy(update={"embedder": "semantic"})
