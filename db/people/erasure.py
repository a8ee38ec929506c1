"""Erasure: what a user, a thread or a session has left leaves for good, and a search proves it.

In: what is erased, and its id. Out: how many rows of each table left or lost their words, and what
a look through the whole catalogue found afterwards. Invariant: nothing that was being written
meanwhile stays, because a second look comes after all transactions that were open at the first.
The books keep their amounts. Backups, logs, the workers' spools and files at an address of their
own are not in the database, so they are not reached.
"""

from typing import Any, Literal, LiteralString, NamedTuple
from uuid import UUID

import anyio
from psycopg import AsyncConnection
from pydantic import BaseModel, ConfigDict

from db.arguments import check_connection
from db.errors import Contended
from db.pool import fetch_all, fetch_one, fetch_val
from db.transactions import transaction

Erased = Literal["user", "thread", "session"]

# Enough for a transaction of anybody who does not wait for people.
WAIT_SECONDS = 30.0
LOOK_SECONDS = 0.05
# What `jobsworth.erase` returns of the words and names that were there.
LOOKED_FOR = ("words", "bytes", "vectors", "names", "named")
# A display name that is shorter and has one word stands in other people's texts too.
NAME_BYTES_MIN = 8
ID_BYTES_MIN = 3


class Planned(BaseModel):
    """A table, of which `rows` would leave; with `stays` they keep amounts and lose words."""

    model_config = ConfigDict(frozen=True)

    table_name: str
    rows: int
    stays: bool


class Trace(BaseModel):
    """Rows in which something of what was erased stands, and the keys of up to three of them."""

    model_config = ConfigDict(frozen=True)

    table_name: str
    column_name: str
    rows: int
    keys: list[str]


class Proof(BaseModel):
    """What was read to find traces, what was looked for, and what was found.

    `fragments`: how many pieces of texts, bytes and vectors; `names`: ids of platforms and names,
    as whole words; `too_short`: those that are not looked for, because they stand anywhere.
    """

    model_config = ConfigDict(frozen=True)

    tables: int
    columns: int
    rows: int
    fragments: int
    names: int
    too_short: list[str]
    traces: list[Trace]


class Erasure(BaseModel):
    """What left: rows by table. `late`: rows that came while it was erased, and left too."""

    model_config = ConfigDict(frozen=True)

    removed: dict[str, int]
    emptied: dict[str, int]
    late: int
    proof: Proof


PLAN: LiteralString = """
select p.table_name, p.rows, p.stays
from jobsworth.plan_erasure(%(of)s, %(id)s) p
order by p.stays, p.table_name
"""


async def plan(conn: AsyncConnection[Any], of: Erased, id: UUID) -> list[Planned]:
    """What `erase` would do; nothing is written.

    Raises `NotFound`, and `Refused` for a role that does not see every row.
    """
    check_connection(conn)
    return await fetch_all(conn, PLAN, {"of": of, "id": id}, Planned)


async def erase(conn: AsyncConnection[Any], of: Erased, id: UUID) -> Erasure:
    """Remove a user, a thread or a session with all that belongs to it, and look for traces.

    Committed before the look; not to be called in a transaction. Raises `NotFound`; `Conflict` if
    a job of it runs, a call is being made, or the user owns a team; `Contended` if others hold its
    rows, or a transaction that may write more of it has been open for 30 seconds.
    """
    return await prove(conn, await remove(conn, of, id))


class Removed(NamedTuple):
    """What `remove` has removed, and what to look for afterwards: it is nowhere else any more."""

    of: Erased
    id: UUID
    found: dict[str, Any]


async def remove(conn: AsyncConnection[Any], of: Erased, id: UUID) -> Removed:
    """The first half of `erase`, committed on return; the second half is `prove`."""
    return Removed(of, id, await _erase_once(conn, of, id, []))


async def prove(conn: AsyncConnection[Any], removed: Removed) -> Erasure:
    """Remove what came meanwhile, and look for traces; repeat it if the database goes away."""
    of, erased_id, first = removed
    await _wait_for_older(conn, first["xid"])
    second = await _erase_once(conn, of, erased_id, first["ids"])
    looked_for = {kind: [*dict.fromkeys(first[kind] + second[kind])] for kind in LOOKED_FOR}
    return Erasure(
        removed=first["removed"],
        emptied=first["emptied"],
        late=sum(second["removed"].values()),
        proof=await _prove(conn, looked_for),
    )


ERASE: LiteralString = """
select e.removed, e.emptied, e.ids, e.words, e.bytes, e.vectors, e.names, e.named,
  pg_current_xact_id()::text::bigint as xid
from jobsworth.erase(%(of)s, %(id)s, %(again)s::uuid[]) e
"""


async def _erase_once(
    conn: AsyncConnection[Any], of: Erased, id: UUID, again: list[UUID]
) -> dict[str, Any]:
    async with transaction(conn):
        erased = await fetch_one(conn, ERASE, {"of": of, "id": id, "again": again})
    assert erased is not None
    return erased


OLDER: LiteralString = """
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint <= %(xid)s
"""


async def _wait_for_older(conn: AsyncConnection[Any], xid: int) -> None:
    """Until every transaction that has written, and was open when `xid` was, has ended."""
    with anyio.move_on_after(WAIT_SECONDS):
        while await fetch_val(conn, OLDER, {"xid": xid}):
            await anyio.sleep(LOOK_SECONDS)
        return
    raise Contended(
        f"it is erased, but a transaction that began before is open for {WAIT_SECONDS:.0f} s:"
        " what it writes may name what was erased",
        "erase again when it has ended; jobsworth doctor names long transactions",
    )


FIND: LiteralString = """
select f.table_name, f.rows, f.columns, f.traced
from jobsworth.find_traces(%(words)s::text[], %(bytes)s::bytea[], %(vectors)s::text[],
  %(names)s::text[], %(named)s::uuid[]) f
"""


async def _prove(conn: AsyncConnection[Any], erased: dict[str, Any]) -> Proof:
    names = list(dict.fromkeys(name for name in erased["names"] if name))
    looked_for = [name for name in names if _is_telling(name)]
    read = await fetch_all(conn, FIND, {**erased, "names": looked_for})
    return Proof(
        tables=len(read),
        columns=sum(table["columns"] for table in read),
        rows=sum(table["rows"] for table in read),
        fragments=sum(len(erased[kind]) for kind in ("words", "bytes", "vectors")),
        names=len(looked_for),
        too_short=[name for name in names if name not in looked_for],
        traces=[
            Trace(table_name=table["table_name"], column_name=column, **found)
            for table in read
            for column, found in table["traced"].items()
        ],
    )


def _is_telling(name: str) -> bool:
    """Whether it does not stand in other people's texts by chance."""
    size = len(name.encode())
    if any(sign.isdigit() or sign in ":_@" for sign in name):
        return size >= ID_BYTES_MIN
    return size >= NAME_BYTES_MIN or (" " in name.strip() and size >= ID_BYTES_MIN)
