"""`jobsworth memory switch`: embed all memories with the embedder of these settings.

In: the settings of another embedder. Out: a space that lacks nothing, filled beside the one in use.
Workers go on with theirs and answer from it meanwhile; started again with the new settings they
find everything in the new one. Killed and run again, it goes on where it was.
"""

from typing import Any

import anyio
import click

from db.errors import Conflict
from db.memory import spaces, switch
from db.memory.spaces import Space
from db.memory.switch import Progress
from db.pool import Connection, Database
from worker.cli.terminal import options
from worker.cli.terminal.commands import Verb
from worker.cli.terminal.database import pooled, run_async, run_in_database
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import emit_json, say
from worker.log import configure_logging
from worker.memory import embed
from worker.memory.account import PROVIDER, Accounts
from worker.memory.choice import embedder_of
from worker.memory.embedders import Embedder
from worker.money.pricing import Pricing
from worker.queue.wake import Wake
from worker.settings import Settings, load_settings

PROGRESS_SECONDS = 2.0
POLL_SECONDS = 1.0
# The requests of several payers are booked at once.
CONNECTIONS = 5
BYTES_PER_TOKEN = 4


@click.command(
    "switch",
    cls=Verb,
    examples=["jobsworth memory switch --dry-run", "jobsworth memory switch"],
)
@click.option("--dry-run", is_flag=True, help="Only say how many texts, tokens and what they cost.")
@click.option("--stop", is_flag=True, help="End a switch; what is embedded stays.")
@options.as_json
def switch_command(dry_run: bool, stop: bool, as_json: bool) -> ExitCode:
    """Embed all memories with the embedder of these settings, beside the one in use.

    Give it the new settings while the workers keep the old ones, and go on finding. Then start the
    workers again with the new ones.
    """
    settings = load_settings()
    if stop:
        stopped = run_in_database(switch.stop, settings)
        if as_json:
            emit_json({"stopped": stopped})
        else:
            say(f"{stopped:,} texts no longer wait for another embedder")
        return ExitCode.OK
    embedder = embedder_of(settings)
    if dry_run:
        found = run_in_database(lambda conn: _price(conn, embedder), settings)
        emit_json(found) if as_json else say(_said(found, embedder))
        return ExitCode.OK
    configure_logging(settings.log_level, settings.log_format)
    ended = run_async(lambda: _switch(settings, embedder))
    if as_json:
        emit_json(ended._asdict())
    elif ended.dead:
        say(f"{ended.dead:,} texts were refused\n  → jobsworth memory dead")
    else:
        say("every text has its vectors: start the workers again with these settings")
    return ExitCode.NO if ended.dead else ExitCode.OK


async def _switch(settings: Settings, embedder: Embedder) -> Progress:
    async with pooled(settings, CONNECTIONS) as database:
        async with database.connection() as conn:
            space = await spaces.get_or_create(conn, embedder.space)
            await switch.begin(conn, space)
        while True:
            async with database.connection() as conn:
                if await spaces.switched_to(conn) != space.id:
                    raise Conflict(
                        "the switch was stopped, or another one has begun meanwhile",
                        "see jobsworth memory spaces; run this again to go on with it",
                    )
                added = await switch.queue(conn, space)
                progress = await switch.progress(conn, space)
            if not added and not progress.left:
                return progress
            await _fill(database, settings, embedder, space)


async def _fill(database: Database, settings: Settings, embedder: Embedder, space: Space) -> None:
    """Embed what waits for the space, until nothing does."""
    try:
        await _work(database, settings, embedder, space)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _work(database: Database, settings: Settings, embedder: Embedder, space: Space) -> None:
    accounts = Accounts.of_command(database, settings)
    async with anyio.create_task_group() as tasks:

        async def work() -> None:
            await embed.run(
                database,
                embedder,
                wake=Wake(),
                accounts=accounts,
                fresh=False,
                batch_max=settings.embed_batch_max,
                poll_seconds=POLL_SECONDS,
            )

        tasks.start_soon(work)
        while True:
            async with database.connection() as conn:
                progress = await switch.progress(conn, space)
            if not progress.left:
                break
            say(f"{progress.left:,} texts left" + (f": {progress.reason}" * bool(progress.reason)))
            await anyio.sleep(PROGRESS_SECONDS)
        tasks.cancel_scope.cancel()


async def _price(conn: Connection, embedder: Embedder) -> dict[str, Any]:
    """What a switch would take. `cost_max` is None if the price is not known."""
    found = await switch.lacking(conn, embedder.space)
    cost: float | None = 0.0
    if embedder.paid:
        pricing = Pricing()
        await pricing.refresh(conn)
        most = pricing.upper_cost(PROVIDER, embedder.model, found.bytes, 0)
        cost = None if most is None else float(most)
    return {
        "model": embedder.model,
        "texts": found.texts,
        "tokens": found.bytes // BYTES_PER_TOKEN,
        "tokens_max": found.bytes,
        "cost_max": cost,
    }


def _said(found: dict[str, Any], embedder: Embedder) -> str:
    texts = f"{found['texts']:,} texts would be embedded by {embedder.description}"
    if not embedder.paid:
        return f"{texts}; it costs nothing"
    cost = found["cost_max"]
    money = "its price is not known" if cost is None else f"at most {cost:f} USD"
    return f"{texts}: about {found['tokens']:,} tokens, {money}"
