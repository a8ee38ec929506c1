"""`jobsworth memory bench`: how well the embedder of these settings finds what it should.

In: a data set with known evidence. Out: recall by kind of question. Nothing of it stays in the
database.
"""

from pathlib import Path

import click

from db.errors import Unavailable
from worker.cli.terminal import options
from worker.cli.terminal.commands import Verb
from worker.cli.terminal.database import connected, pooled, run_async
from worker.cli.terminal.output import Column, emit_json, emit_table, say
from worker.memory.account import PayersAccount
from worker.memory.bench import data_sets
from worker.memory.bench.evidence import PLACES, KindResult, measure
from worker.memory.choice import embedder_of
from worker.memory.embedders import EmbedderError
from worker.settings import load_settings

COLUMNS = [
    Column("KIND", flexible=True),
    Column("QUESTIONS", right=True),
    *(Column(f"R@{place}", right=True) for place in PLACES),
    Column("SEARCH", right=True),
]


@click.command(
    "bench",
    cls=Verb,
    examples=["jobsworth memory bench", "jobsworth memory bench locomo10.json --questions 200"],
)
@click.argument(
    "file",
    metavar="[FILE]",
    required=False,
    type=options.FilePath(),
    help="LoCoMo, LongMemEval, BEAM or pairs, as JSON.  [default: the pairs that are shipped]",
)
@click.option(
    "--questions", metavar="N", type=options.WholeNumber(1), help="Ask only the first N questions."
)
@options.as_json
def bench(file: str | None, questions: int | None, as_json: bool) -> None:
    """Measure evidence recall: how often a search finds the texts that hold the answer."""
    data = data_sets.read(data_sets.SHIPPED if file is None else Path(file))
    settings = load_settings()
    embedder = embedder_of(settings)

    async def work() -> list[KindResult]:
        try:
            async with connected(settings) as conn, pooled(settings) as database:
                account = PayersAccount.of_command(database, settings, embedder.model, "bench")
                return await measure(conn, embedder, account, data, questions)
        except EmbedderError as error:
            raise Unavailable(
                f"the data set cannot be embedded: {error}",
                "check JOBSWORTH_EMBEDDER and JOBSWORTH_EMBEDDER_URL, or try again later",
            ) from error

    say(f"{data.format}, {embedder.description}")
    if data.left_out:
        say(f"{data.left_out:,} questions name no evidence that is there and are left out")
    results = run_async(work)
    if as_json:
        emit_json(results)
        return
    emit_table(COLUMNS, [_row(result) for result in results], "no questions")


def _row(result: KindResult) -> list[str]:
    recalls = [f"{recall:.3f}" for recall in result.recall]
    return [result.kind, f"{result.questions:,}", *recalls, f"{result.search_ms:.1f} ms"]
