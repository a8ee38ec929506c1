"""Erasure: what a user, a thread or a session has left leaves for good, and a search proves it.

In: what is erased, and its id. Out: how many rows of each table left or lost their words, and what
a look through the whole catalogue found afterwards. Invariant: nothing that was being written
meanwhile stays, because a second look comes after all transactions that were open at the first.
What is to be looked for commits with the erasure and leaves once the proof is there: whoever erases
the same again comes to the proof, whatever died before it.
The books keep their amounts. Backups, logs, the workers' spools and files at an address of their
own are not in the database, so they are not reached.
"""

from typing import Any, Literal, LiteralString
from uuid import UUID

import anyio
from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_connection
from db.errors import Contended, NotFound
from db.pool import execute, fetch_all, fetch_one, fetch_val
from db.transactions import transaction

Erased = Literal["user", "thread", "session"]

# Enough for a transaction of anybody who does not wait for people.
WAIT_SECONDS = 30.0
LOOK_SECONDS = 0.05
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

    Committed before the look; not to be called in a transaction. Where an erasure of the same is
    without its proof, it goes on with that. Raises `NotFound`; `Conflict` if a job of it runs, a
    call is being made, or the user owns a team; `Contended` if others hold its rows, or a
    transaction that may write more of it has been open for 30 seconds.
    """
    await remove(conn, of, id)
    done = await prove(conn, of, id)
    await forget(conn, id)
    return done


async def remove(conn: AsyncConnection[Any], of: Erased, id: UUID) -> None:
    """The first part of `erase`, committed on return. `prove` comes next, then `forget`."""
    check_connection(conn)
    if await find_unproven(conn, of, id) is None:
        await _erase_once(conn, of, id, [])


async def prove(conn: AsyncConnection[Any], of: Erased, id: UUID) -> Erasure:
    """Remove what came meanwhile, and look for traces; it may be repeated until `forget`."""
    first = await _looked_for(conn, id)
    await _wait_for_older(conn, first["xid"])
    await _erase_once(conn, of, id, first["ids"])
    both = await _looked_for(conn, id)
    return Erasure(
        removed=both["removed"],
        emptied=both["emptied"],
        late=both["late"],
        proof=await _prove(conn, both),
    )


FORGET: LiteralString = "delete from jobsworth.unproven_erasures u where u.erased_id = %(id)s"


async def forget(conn: AsyncConnection[Any], id: UUID) -> None:
    """Forget what was looked for, once its proof has been seen."""
    await execute(conn, FORGET, {"id": id})


class Unproven(BaseModel):
    """An erasure that is committed and has no proof yet; `names`: of the person, as looked for."""

    model_config = ConfigDict(frozen=True)

    of: Erased
    id: UUID
    begun_at: AwareDatetime
    names: list[str]

    @property
    def message(self) -> str:
        """What is wrong, in words."""
        return f"{self.of} {self.id} is erased since {self.begun_at:%F %T %Z}, without its proof"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return f"come to the proof: jobsworth erase {self.of} {self.id} --yes"


UNPROVEN: LiteralString = """
select u.of_kind as of, u.erased_id as id, u.begun_at, u.names
from jobsworth.unproven_erasures u
order by u.begun_at, u.erased_id
"""


async def unproven(conn: AsyncConnection[Any]) -> list[Unproven]:
    """The erasures whose proof is missing, oldest first."""
    return await fetch_all(conn, UNPROVEN, {}, Unproven)


async def find_unproven(conn: AsyncConnection[Any], of: Erased, id: UUID) -> Unproven | None:
    """The erasure of this one, if its proof is missing."""
    return next((one for one in await unproven(conn) if (one.of, one.id) == (of, id)), None)


ERASE: LiteralString = "select jobsworth.erase(%(of)s, %(id)s, %(again)s::uuid[])"


async def _erase_once(conn: AsyncConnection[Any], of: Erased, id: UUID, again: list[UUID]) -> None:
    async with transaction(conn):
        await execute(conn, ERASE, {"of": of, "id": id, "again": again})


LOOK_FOR: LiteralString = """
select u.xid, u.ids, u.removed, u.emptied, u.late,
  array(select distinct w from unnest(u.words) w) as words,
  array(select distinct b from unnest(u.bytes) b) as bytes,
  array(select distinct v from unnest(u.vectors) v) as vectors,
  array(select distinct n from unnest(u.names) n where n <> '' order by n) as names,
  array(select distinct i from unnest(u.named) i) as named
from jobsworth.unproven_erasures u
where u.erased_id = %(id)s
"""


async def _looked_for(conn: AsyncConnection[Any], id: UUID) -> dict[str, Any]:
    looked_for = await fetch_one(conn, LOOK_FOR, {"id": id})
    if looked_for is None:
        raise NotFound(f"the erasure of {id} was proven meanwhile", "look at that proof")
    return looked_for


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
    names = erased["names"]
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
