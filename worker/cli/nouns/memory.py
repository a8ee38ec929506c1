"""`jobsworth memory search`: find remembered texts.

In: a text. Out: the remembered texts nearest to it, of all teams: an operator's view. The text is
embedded by the workers' embedder, so that both are in the same space.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import click
from rich.text import Text

from db.errors import InvalidInput, Unavailable
from db.memory import memories, outbox, spaces
from db.memory.memories import Hit
from db.memory.spaces import Hidden
from db.pool import Connection
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import emit, emit_facts, emit_json, say
from worker.cli.terminal.times import ago
from worker.memory.choice import embedder_of
from worker.memory.embedders import Embedder, EmbedderError
from worker.settings import load_settings

memory = Noun("memory", "Memory: texts that jobs remember.", default=None)


@memory.verb("search", "jobsworth memory search 'when is the shop open'")
@click.argument("text", metavar="TEXT", help="What to look for.")
@click.option(
    "--limit", type=options.WholeNumber(1, 1000), default=5, help="Show at most N, nearest first."
)
@click.option("--kind", metavar="KIND", help="Only texts of this kind, like note.")
@click.option("--thread", metavar="UUID", help="Only texts of this chat thread.")
@options.as_json
def search(text: str, limit: int, kind: str | None, thread: str | None, as_json: bool) -> None:
    """Search the remembered texts, nearest first."""
    if not text.strip():
        raise InvalidInput("the text to search for is empty", "say what to look for")
    thread_id = None if thread is None else ids.whole_id(thread, "--thread")
    settings = load_settings()
    embedder = embedder_of(settings)

    async def work(conn: Connection) -> tuple[list[Hit], int, list[Hidden]]:
        vector = await _vector(embedder, text)
        space = await spaces.get_or_create(conn, embedder.space)
        hits = await memories.search(
            conn,
            space,
            vector,
            query=text,
            limit=limit,
            any_team=True,
            thread_id=thread_id,
            source_kind=kind,
        )
        hidden = await spaces.hidden(conn, embedder.space)
        return hits, (await outbox.counts(conn)).pending, hidden

    hits, pending, hidden = run_in_database(work, settings)
    for one in hidden:
        say(f"note: {one}\n  → {spaces.HIDDEN_REMEDY}")
    if pending:
        say(f"{pending:,} texts wait to be embedded and cannot be found yet")
    if as_json:
        emit_json(hits)
        return
    if not hits:
        say("nothing is remembered about that")
    now = datetime.now(UTC)
    for hit in hits:
        emit(Text.assemble((f"{hit.score:.3f}", "bold"), f"  {_origin(hit, now)}"))
        emit_facts([("", hit.text)])


async def _vector(embedder: Embedder, text: str) -> Sequence[float]:
    try:
        [vector] = await embedder.embed([text])
    except EmbedderError as error:
        raise Unavailable(
            f"the text cannot be embedded: {error}",
            "check JOBSWORTH_EMBEDDER_URL, _MODEL and _KEY, or try again later",
        ) from error
    return vector


def _origin(hit: Hit, now: datetime) -> str:
    source = f"{hit.source_kind} {hit.source_id}" if hit.source_id else hit.source_kind
    job = f", job {hit.job_id}" if hit.job_id else ""
    return f"{source}, {ago(hit.created_at, now)}{job}"
