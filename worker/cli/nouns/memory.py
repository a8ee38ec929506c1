"""`jobsworth memory`: find remembered texts, forget them, and see to their vectors.

In: a text. Out: the remembered texts nearest to it, of all teams: an operator's view. The text is
embedded by the workers' embedder, so that both are in the same space. Beside it: which spaces there
are, the index of one, and the dead letters, which no embedder took.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import anyio
import click
from rich.text import Text

from db.errors import InvalidInput, Unavailable
from db.memory import memories, outbox, spaces
from db.memory.outbox import DeadLetter, Outbox
from db.memory.spaces import Hidden, SpaceState
from db.memory.status import MemoryType
from db.pool import Connection
from worker.cli.memory import life
from worker.cli.memory.bench import bench
from worker.cli.memory.duplicates import list_duplicates, merge
from worker.cli.memory.switch import switch_command
from worker.cli.terminal import ids, options, words
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import connected, pooled, run_async, run_in_database
from worker.cli.terminal.output import Column, emit, emit_facts, emit_json, emit_table, say
from worker.cli.terminal.times import ago, parse_since
from worker.memory import recall
from worker.memory.account import PayersAccount
from worker.memory.choice import embedder_of, space_of
from worker.memory.embedders import Embedder, EmbedderError
from worker.memory.ranking import Recalled, Weights
from worker.settings import load_settings

PROGRESS_SECONDS = 2.0
# Ids of older dead letters are given whole.
FOUND_AMONG = 1000

memory = Noun("memory", "Memory: texts that jobs remember.", default=None)
memory.add_command(bench)
memory.add_command(switch_command)
life.add_to(memory)
memory.add_command(list_duplicates)
memory.add_command(merge)


@memory.verb("search", "jobsworth memory search 'when is the shop open'")
@click.argument("text", metavar="TEXT", help="What to look for.")
@click.option(
    "--limit", type=options.WholeNumber(1, 1000), default=5, help="Show at most N, nearest first."
)
@click.option("--kind", metavar="KIND", help="Only texts of this kind, like note.")
@click.option("--source", metavar="ID", help="Only texts of this source, like report.pdf.")
@click.option("--thread", metavar="UUID", help="Only texts of this chat thread.")
@click.option("--session", metavar="UUID", help="Only texts of this session's threads and jobs.")
@options.choice("--type", "of_type", words=MemoryType, help="Only those of a type")
@click.option(
    "--as-of",
    metavar="TIME",
    help="What held then, though superseded since: 7d, 2026-02-01T09:00Z.",
)
@options.as_json
def search(
    text: str,
    limit: int,
    kind: str | None,
    source: str | None,
    thread: str | None,
    session: str | None,
    of_type: str | None,
    as_of: str | None,
    as_json: bool,
) -> None:
    """Search the remembered texts, nearest first."""
    if not text.strip():
        raise InvalidInput("the text to search for is empty", "say what to look for")
    thread_id = None if thread is None else ids.whole_id(thread, "--thread")
    session_id = None if session is None else ids.whole_id(session, "--session")
    now = datetime.now(UTC)
    at = None if as_of is None else parse_since(as_of, "--as-of", now)
    settings = load_settings()
    embedder = embedder_of(settings)

    async def work() -> tuple[list[Recalled], Outbox, list[Hidden]]:
        async with pooled(settings) as database:
            account = PayersAccount.of_command(database, settings, embedder.model, "search")
            vector = await _vector(embedder, account, text)
            async with database.connection() as conn:
                space = await spaces.get_or_create(conn, embedder.space)
                scope = {
                    "any_team": True,
                    "thread_id": thread_id,
                    "source_kind": kind,
                    "source_id": source,
                    "session_id": session_id,
                    "types": None if of_type is None else [MemoryType(of_type)],
                    "as_of": at,
                }
                hits = await recall.search(conn, space, vector, text, limit, Weights(), scope)
                hidden = await spaces.hidden(conn, embedder.space, at)
                return hits, await outbox.counts(conn), hidden

    hits, waiting, hidden = run_async(work)
    for one in hidden:
        say(f"note: {one}\n  → {spaces.HIDDEN_REMEDY}")
    for line in words.put_off(waiting):
        say(line)
    if waiting.pending:
        say(f"{waiting.pending:,} texts wait to be embedded and cannot be found yet")
    if waiting.dead:
        say(f"{waiting.dead:,} texts were refused and cannot be found\n  → jobsworth memory dead")
    if as_json:
        emit_json(hits)
        return
    if not hits:
        say("nothing is remembered about that")
    for hit in hits:
        emit(Text.assemble((f"{hit.score:.3f}", "bold"), f"  {_origin(hit, now)}"))
        emit(f"       {life.parts(hit)}")
        emit_facts([("", hit.text)])
        for other in hit.duplicates:
            say(f"says the same: {other}")
    if any(hit.duplicates for hit in hits):
        say("to merge what says the same: jobsworth memory duplicates")


@memory.verb("forget", "jobsworth memory forget file report.pdf")
@click.argument("kind", metavar="KIND", help="The kind of the source, like file.")
@click.argument("source", metavar="SOURCE", help="The id of the source.")
@click.option("--team", metavar="UUID", help="Of this team; by default those of no team.")
@options.as_json
def forget(kind: str, source: str, team: str | None, as_json: bool) -> None:
    """Delete the texts of a source, embedded or not."""
    team_id = None if team is None else ids.whole_id(team, "--team")

    async def work(conn: Connection) -> int:
        return await memories.delete_by_source(conn, kind, source, team_id=team_id)

    gone = run_in_database(work)
    if as_json:
        emit_json({"deleted": gone})
    else:
        say(f"{gone:,} deleted" if gone else f"nothing is remembered of {kind} {source}")


@memory.verb("spaces", "jobsworth memory spaces")
@options.as_json
def list_spaces(as_json: bool) -> None:
    """List the spaces of vectors, one for each embedder, and what is missing in each."""
    settings = load_settings()

    async def work(conn: Connection) -> tuple[list[SpaceState], Outbox]:
        return await spaces.list_all(conn), await outbox.counts(conn)

    found, waiting = run_in_database(work, settings)
    for line in words.put_off(waiting):
        say(line)
    if as_json:
        emit_json(found)
        return
    mine = space_of(settings)
    columns = [
        Column("ID", right=True),
        Column("MODEL", flexible=True),
        Column("DIMENSIONS", right=True),
        Column("VECTORS", right=True),
        Column("MISSING", right=True),
        Column("INDEX"),
        Column("USED"),
        Column("SWITCH"),
    ]
    rows = [
        [
            str(each.id),
            each.model,
            str(each.dimensions),
            spaces.counted(each.vectors),
            spaces.counted(each.missing),
            {None: "", True: "ready", False: "broken off"}[each.index_valid],
            "by these settings" if each.key == mine else "",
            f"{spaces.counted(each.queued)} to come" if each.queued else "",
        ]
        for each in found
    ]
    emit_table(columns, rows, "no space yet: nothing has been embedded")


@memory.verb("index", "jobsworth memory index")
@options.as_json
def index(as_json: bool) -> None:
    """Build the index of the vectors of the workers' embedder; nobody waits meanwhile.

    Run it as the schema's owner. Below 20,000 vectors of a team no search uses it.
    """
    settings = load_settings()

    async def work() -> bool:
        built: list[bool] = []
        async with connected(settings) as conn, connected(settings) as watching:
            space = await spaces.get_or_create(conn, space_of(settings))
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_tell_progress, watching)
                    built.append(await spaces.build_index(conn, space))
                    tasks.cancel_scope.cancel()
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
        return built[0]

    built = run_async(work)
    if as_json:
        emit_json({"built": built})
    else:
        say("the index is built" if built else "the index is there already")


@memory.verb("dead", "jobsworth memory dead")
@options.limit(30)
@options.as_json
def dead(limit: int, as_json: bool) -> None:
    """List texts that were refused so often that nobody embeds them, latest first."""

    async def work(conn: Connection) -> list[DeadLetter]:
        return await outbox.dead_letters(conn, limit)

    found = run_in_database(work)
    if as_json:
        emit_json(found)
        return
    now = datetime.now(UTC)
    short = ids.short_ids(each.id for each in found)
    columns = [
        Column("ID"),
        Column("KIND"),
        Column("TRIES", right=True),
        Column("AGE", right=True),
        Column("TEXT", flexible=True),
        Column("LAST ERROR", flexible=True),
    ]
    rows = [
        [
            short(each.id),
            each.source_kind,
            str(each.tries),
            ago(each.dead_at, now),
            each.text,
            each.last_error or "",
        ]
        for each in found
    ]
    emit_table(columns, rows, "every text was taken by the embedder, or is still tried")
    if found:
        say("to try them again: jobsworth memory retry")


@memory.verb("retry", "jobsworth memory retry", "jobsworth memory retry 0123456789ab")
@click.argument(
    "text", metavar="[ID]", required=False, help="Only this text; by default all dead ones."
)
@options.as_json
def retry(text: str | None, as_json: bool) -> None:
    """Let texts be embedded again that were refused too often."""
    typed = None if text is None else ids.typed(text, "text")

    async def work(conn: Connection) -> int:
        if typed is None:
            return await outbox.revive(conn)
        if len(typed.digits) == ids.UUID_DIGITS:
            return await outbox.revive(conn, [typed.lowest])
        known = [each.id for each in await outbox.dead_letters(conn, FOUND_AMONG)]
        found = ids.find_among(typed, known, "jobsworth memory dead")
        return await outbox.revive(conn, [found])

    tried = run_in_database(work)
    if as_json:
        emit_json({"retried": tried})
    else:
        say(f"{tried:,} will be tried again" if tried else "no text was refused too often")


async def _tell_progress(conn: Connection) -> None:
    while True:
        await anyio.sleep(PROGRESS_SECONDS)
        progress = await spaces.index_progress(conn)
        if progress is not None:
            part = f", {progress.done:,} of {progress.total:,}" if progress.total else ""
            say(f"{progress.phase}{part} …")


async def _vector(embedder: Embedder, account: PayersAccount, text: str) -> Sequence[float]:
    try:
        [vector] = await embedder.embed([text], account)
    except EmbedderError as error:
        raise Unavailable(
            f"the text cannot be embedded: {error}",
            "check JOBSWORTH_EMBEDDER_URL, _MODEL and _KEY, or try again later",
        ) from error
    return vector


def _origin(hit: Recalled, now: datetime) -> str:
    source = f"{hit.source_kind} {hit.source_id}" if hit.source_id else hit.source_kind
    job = f", job {hit.job_id}" if hit.job_id else ""
    return f"{hit.type}, {source}, {ago(hit.created_at, now)}{job}"
