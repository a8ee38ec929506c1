"""`jobsworth token`: tokens of programs that act for a user or an agent.

In: what a token may do, and until when. Out: its text, once; and tokens, without their texts.
"""

from datetime import UTC, datetime, timedelta

import click

from db.people import tokens
from db.people.tokens import Issued, Token
from db.pool import Connection
from worker.cli.people import named
from worker.cli.terminal import ids, options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import (
    Column,
    emit,
    emit_json,
    emit_table,
    emit_text,
    indented_json,
    say,
)
from worker.cli.terminal.times import ago, parse_duration

COLUMNS = [
    Column("ID"),
    Column("NAME", flexible=True),
    Column("SCOPES", flexible=True),
    Column("STATE"),
    Column("USED"),
]
NONE = "no tokens yet\n  → jobsworth token issue dashboard --scope jobs:read"

token = Noun("token", "Tokens of programs that act for a user or an agent.")


@token.verb("list", "jobsworth token")
@named.team_option
@options.as_json
def list_tokens(team: str | None, as_json: bool) -> None:
    """List tokens, newest first; their texts are stored nowhere."""

    async def work(conn: Connection) -> list[Token]:
        return await tokens.list_tokens(conn, await named.team_id(conn, team))

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        now = datetime.now(UTC)
        emit_table(COLUMNS, [_row(each, now) for each in found], NONE)


@token.verb(
    "issue",
    "jobsworth token issue dashboard --scope jobs:read --team research --expires-in 90d",
)
@click.argument("name", metavar="NAME", help="What it is for.")
@click.option(
    "--scope",
    "scopes",
    metavar="SCOPE",
    multiple=True,
    required=True,
    help="What it may do; * for everything. Repeatable.",
)
@named.team_option
@click.option("--user", metavar="USER", help="For this user: an external id or an id.")
@click.option("--agent", metavar="AGENT", help="For this agent: its name or id.")
@click.option("--expires-in", metavar="SPAN", help="Until when, like 90d.  [default: for good]")
@options.as_json
def issue(
    name: str,
    scopes: tuple[str, ...],
    team: str | None,
    user: str | None,
    agent: str | None,
    expires_in: str | None,
    as_json: bool,
) -> None:
    """Issue a token, and print its text, which nothing shows again."""
    seconds = None if expires_in is None else parse_duration(expires_in, "--expires-in")

    async def work(conn: Connection) -> Issued:
        team_id = await named.team_id(conn, team)
        return await tokens.issue(
            conn,
            name,
            scopes,
            team_id=team_id,
            user_id=await named.user_id(conn, user),
            agent_id=await named.agent_id(conn, agent, team_id),
            expires_in=None if seconds is None else timedelta(seconds=seconds),
        )

    issued = run_in_database(work)
    if as_json:
        document = {**issued.token.model_dump(mode="json"), "token": issued.text}
        emit_text(indented_json(document) + "\n")
    else:
        say(f"token {issued.token.id}; keep its text, which is shown this once:")
        emit_text(issued.text + "\n")


@token.verb("revoke", "jobsworth token revoke 01890a5d-ac96-774b-bcce-b302099a8057")
@click.argument("token_id", metavar="TOKEN", help="The whole id of the token.")
def revoke(token_id: str) -> None:
    """Let nobody use a token any more."""
    wanted = ids.whole_id(token_id, "TOKEN")

    async def work(conn: Connection) -> Token:
        return await tokens.revoke(conn, wanted)

    emit(f"token {run_in_database(work).name} is revoked")


def _row(found: Token, now: datetime) -> list[str]:
    state = "valid"
    if found.revoked_at is not None:
        state = "revoked"
    elif found.expires_at is not None:
        left = found.expires_at > now
        state = f"until {found.expires_at.astimezone(UTC):%Y-%m-%d %H:%M}" if left else "expired"
    used = "never" if found.last_used_at is None else ago(found.last_used_at, now)
    return [str(found.id), found.name, ", ".join(found.scopes), state, used]
