"""Connections, and the functions that run a statement on one.

`Database` owns a pool of autocommit connections that know their schema. The functions below run one
statement of `db/`: they write the schema's name in (`jobsworth.` in the text), shield the statement
from cancellation, bound its time and turn driver errors into `db.errors`. anyio delivers a
cancellation again at every await, so an unshielded statement would lose its connection; with the
shield, cancellation takes effect between statements.

A worker that is stopped within a transaction (SIGSTOP, a frozen machine) would hold its rows, and a
rescue skips held rows. So the server ends a transaction of ours that is idle for ten seconds.
PostgreSQL does not start that clock after a pipeline, so a transaction that waits for its client
uses none. What locks the money does not wait for its client at all: it goes out with its COMMIT, in
one message (`commit_with`).

A connection may die without a word: a proxy that hangs acknowledges what it swallows. One that has
been idle for a while, or idle since another one died, proves itself before it is lent. If it does
not, all connections are replaced.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any, Generic, LiteralString, NamedTuple, Self, TypeVar, overload

import anyio
import anyio.lowlevel
import psycopg
from psycopg.rows import dict_row, tuple_row
from psycopg_pool import AsyncConnectionPool

from db.arguments import check_connection, wrong_argument
from db.echo import Echo
from db.errors import DatabaseError, Unavailable, is_mixed_up, spoils, translated
from db.loaders import read_everything
from db.network import bounded_url, cut
from db.reach import Tries
from db.records import rows_of
from db.schema import DEFAULT_SCHEMA, render, render_own
from db.sessions import begin_session, begin_text, connect_parameters
from db.transactions import commit
from db.uninterrupted import canceled_once, uninterrupted

T = TypeVar("T")
R = TypeVar("R")
Params = Mapping[str, Any] | Sequence[Any] | None

STATEMENT_SECONDS = 30.0
RECONNECT_SECONDS = 4.0
# A connection that was idle for longer than the first proves, within the second, that it lives
# before it is lent.
IDLE_SECONDS_UNPROVEN = 5.0
PROOF_SECONDS = 3.0
# A worker that is stopped (SIGSTOP, a frozen machine) in the middle of a transaction must not hold
# its rows for ever: jobs it holds cannot be rescued. (PostgreSQL does not start this clock after a
# pipeline, so no transaction that waits for its client may use a pipeline.)
BEGIN: LiteralString = "begin; set local idle_in_transaction_session_timeout = '10s'"
# So many runs that psycopg prepares nothing by itself; with None it would ignore `prepare=True`.
PREPARED_BY_HAND = 2**31


class Connection(psycopg.AsyncConnection[Any]):
    """A psycopg connection that knows which installation (schema) it serves, and that reads
    whatever the database can hold.
    """

    schema: str = DEFAULT_SCHEMA
    statement_seconds: float = STATEMENT_SECONDS
    late: type[DatabaseError] = Unavailable
    """What a statement raises that takes longer than `statement_seconds`."""
    answered_at: float = float("-inf")
    """When it last proved that it lives, on the monotonic clock."""
    pooled: bool = False
    """Whether a pooler is in between, which keeps no session (`db.sessions`)."""
    committed: bool = False
    """Whether `commit_with` has committed the transaction that `begun` opened."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        read_everything(self)

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect; a pool's `tries` are told what became of it. Raises `psycopg.Error`."""
        tries: Tries | None = kwargs.pop("tries", None)
        try:
            connection = await super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            if tries is not None:
                tries.failed(error)
            raise
        if tries is not None:
            tries.succeeded()
        return connection

    async def begin_session(self, schema: str, statement_seconds: float) -> None:
        """Prepare a new session for the statements of an installation."""
        self.schema = schema
        self.statement_seconds = statement_seconds
        with translated():
            self.pooled = not await begin_session(self, statement_seconds)


class Database:
    """A pool of connections to one installation.

    `open` succeeds without the server: the pool keeps trying to connect. Every connection is in
    autocommit mode; use `transaction` for a visible block.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = DEFAULT_SCHEMA,
        pool_min: int = 2,
        pool_max: int = 10,
        statement_seconds: float = STATEMENT_SECONDS,
        acquire_seconds: float = 30.0,
        lifetime_seconds: float = 3_600.0,
        idle_seconds: float = 600.0,
        application_name: str = "jobsworth",
        late: type[DatabaseError] = Unavailable,
        echo: Echo | None = None,
    ) -> None:
        """A statement that takes longer than `statement_seconds` raises `late`; `echo` hears all.
        A connection is replaced at `lifetime_seconds`, and closed when idle beyond `pool_min`.
        """
        self.url = url
        self.schema = schema
        self.statement_seconds = statement_seconds
        self._late = late
        self._doubted_at = self._replaced_at = float("-inf")
        self._lent: set[Connection] = set()
        self._borrowing: set[anyio.CancelScope] = set()
        self.cuts = 0
        """How often `cut` was called."""
        self.tries = Tries(url)
        self._prepares = True
        self.pool = AsyncConnectionPool(
            bounded_url(url),
            connection_class=Connection,
            # Prepared only on request, where the plan is pinned: a statement planned while its
            # table was empty would scan the whole table until the next analyze.
            kwargs={
                **connect_parameters(application_name, echo),
                "prepare_threshold": PREPARED_BY_HAND,
                "tries": self.tries,
            },
            configure=self._configure,
            min_size=pool_min,
            max_size=pool_max,
            timeout=acquire_seconds,
            max_lifetime=lifetime_seconds,
            max_idle=idle_seconds,
            # The pool doubles its pause without a bound. When it gives up early, the next borrower
            # makes it try again at once.
            reconnect_timeout=RECONNECT_SECONDS,
            open=False,
        )

    async def open(self) -> None:
        """Start the pool; returns at once, whether connected or not."""
        await self.pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        with anyio.CancelScope(shield=True):
            await self.pool.close()

    def cut(self) -> None:
        """Cut every connection that is in use: whoever waits for its answer, or for a connection,
        gets `Unavailable`.

        Statements are shielded from cancellation, so an attempt that must stop would else wait for
        one that a silent network swallowed, and go on when other workers have its job.
        """
        self.cuts += 1
        for connection in self._lent:
            cut(connection)
        for scope in self._borrowing:
            scope.cancel()

    async def __aenter__(self) -> "Database":
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """Borrow a connection; one that is of no more use is closed: it proves read-only (a standby
        after failover), or a pooler mixes up what was prepared.

        Raises if the task was cancelled before, and `ConnectionRefused` as soon as the server
        refuses this role, password or database.
        """
        # Without this check a stopped job would go on from step to step: borrowing a free
        # connection and running shielded statements are no points at which a cancellation takes
        # effect.
        await anyio.lowlevel.checkpoint_if_cancelled()
        connection = await self._borrow()
        cuts = self.cuts
        try:
            yield connection
        except DatabaseError as error:
            if spoils(error.sqlstate):
                self._prepares = self._prepares and not is_mixed_up(error.sqlstate)
                await connection.close()
            raise
        finally:
            self._lent.discard(connection)
            if self.cuts > cuts:
                await connection.close()
            if connection.closed:
                self._doubted_at = monotonic()
            else:
                connection.answered_at = monotonic()
            await uninterrupted(self.pool.putconn(connection))

    @asynccontextmanager
    async def transaction(self, begin: LiteralString = BEGIN) -> AsyncGenerator[Connection]:
        """A connection inside `begin … commit`; an exception rolls back.

        Only for SQL: the server ends a transaction that is idle for ten seconds, and the next
        statement raises `Unavailable`. Raises `Refused` if there is nothing to commit at the end:
        a statement failed and its error stayed in the block, or the block ended the transaction.
        """
        async with self.connection() as connection, begun(connection, begin):
            yield connection

    async def execute(self, query: LiteralString, params: Params = None) -> int:
        """Run your own SQL; returns the number of rows it touched.

        Here and below, `jobsworth.` before a name stands for the schema of the installation.
        """
        async with self._own(query, params) as cursor:
            return cursor.rowcount

    async def fetch_one(self, query: LiteralString, params: Params = None) -> dict[str, Any] | None:
        """The first row of your own SQL, or None."""
        async with self._own(query, params) as cursor:
            return await cursor.fetchone()

    async def fetch_all(self, query: LiteralString, params: Params = None) -> list[dict[str, Any]]:
        """All rows of your own SQL."""
        async with self._own(query, params) as cursor:
            return await cursor.fetchall()

    async def fetch_val(self, query: LiteralString, params: Params = None) -> Any:
        """The first column of the first row of your own SQL, or None."""
        return _first_column(await self.fetch_one(query, params))

    @asynccontextmanager
    async def _own(
        self, query: LiteralString, params: Params
    ) -> AsyncGenerator[psycopg.AsyncCursor[Any]]:
        async with self.connection() as connection:
            text = render_own(query, self.schema)
            async with _run(connection, text, params, dict_row, rendered=True) as cursor:
                yield cursor

    async def _borrow(self) -> Connection:
        with anyio.CancelScope() as scope:
            self._borrowing.add(scope)
            try:
                if self.tries.may_fail():
                    connection = await self._borrow_unless_refused()
                else:
                    with translated(self.tries.failure):
                        connection = await self._living()
            finally:
                self._borrowing.discard(scope)
            self._lent.add(connection)
            if not self._prepares:
                connection.prepare_threshold = None
            return connection
        raise Unavailable("the connections were cut", "no heartbeat proves the lease")

    async def _borrow_unless_refused(self) -> Connection:
        refusal = self.tries.refusal()
        if refusal is None:
            with translated(self.tries.failure), self.tries.until_refused():
                return await self._living()
            refusal = self.tries.failure()
        raise refusal or Unavailable("the server refused a session, and then let one in")

    async def _living(self) -> Connection:
        while True:
            connection = await canceled_once(self.pool.getconn(), self.pool.putconn)
            unproven = max(self._doubted_at, monotonic() - IDLE_SECONDS_UNPROVEN)
            lives = connection.answered_at > unproven
            try:
                lives = lives or await self._proves_itself(connection)
            finally:
                if not lives:
                    await connection.close()
                    await uninterrupted(self.pool.putconn(connection))
            if lives:
                return connection
            # Several may find out at once; the connections made since then are new.
            if connection.answered_at > self._replaced_at:
                self._replaced_at = monotonic()
                await uninterrupted(self.pool.drain())

    async def _proves_itself(self, connection: Connection) -> bool:
        self._lent.add(connection)
        try:
            return await _answers(connection)
        finally:
            self._lent.discard(connection)

    async def _configure(self, connection: Connection) -> None:
        connection.late = self._late
        await connection.begin_session(self.schema, self.statement_seconds)
        connection.answered_at = monotonic()


async def _answers(connection: Connection) -> bool:
    try:
        async with bounded(PROOF_SECONDS):
            await connection.execute("select 1")
    except (psycopg.Error, Unavailable):
        return False
    return True


async def execute(
    conn: psycopg.AsyncConnection[Any], query: LiteralString, params: Params = None
) -> int:
    """Run a statement of this package; returns the number of rows it touched."""
    async with _run(conn, query, params, dict_row) as cursor:
        return cursor.rowcount


@overload
async def fetch_one(
    conn: psycopg.AsyncConnection[Any], query: LiteralString, params: Params = None
) -> dict[str, Any] | None: ...
@overload
async def fetch_one(
    conn: psycopg.AsyncConnection[Any], query: LiteralString, params: Params, into: type[T]
) -> T | None: ...
async def fetch_one(
    conn: psycopg.AsyncConnection[Any],
    query: LiteralString,
    params: Params = None,
    into: type[Any] | None = None,
) -> Any:
    """The first row, as a dict or as `into(**row)`, or None."""
    async with _run(conn, query, params, rows_of(into) if into else dict_row) as cursor:
        return await cursor.fetchone()


@overload
async def fetch_all(
    conn: psycopg.AsyncConnection[Any], query: LiteralString, params: Params = None
) -> list[dict[str, Any]]: ...
@overload
async def fetch_all(
    conn: psycopg.AsyncConnection[Any], query: LiteralString, params: Params, into: type[T]
) -> list[T]: ...
async def fetch_all(
    conn: psycopg.AsyncConnection[Any],
    query: LiteralString,
    params: Params = None,
    into: type[Any] | None = None,
) -> Any:
    """All rows, as dicts or as `into(**row)`."""
    async with _run(conn, query, params, rows_of(into) if into else dict_row) as cursor:
        return await cursor.fetchall()


async def fetch_val(
    conn: psycopg.AsyncConnection[Any], query: LiteralString, params: Params = None
) -> Any:
    """The first column of the first row, or None."""
    return _first_column(await fetch_one(conn, query, params))


def _first_column(row: dict[str, Any] | None) -> Any:
    return None if row is None else next(iter(row.values()))


async def fetch_rows(
    conn: Connection,
    query: LiteralString,
    params: Params,
    row_factory: Any = tuple_row,
    *,
    prepare: bool,
) -> list[Any]:
    """All rows of a hot statement, as tuples or as `row_factory` makes them, sent in binary.

    Pass `prepare=True` only where the plan is pinned.
    """
    async with _run(conn, query, params, row_factory, binary=True, prepare=prepare) as cursor:
        return await cursor.fetchall()


class LastStatement(NamedTuple, Generic[R]):
    """A statement that ends its transaction; `read` turns its rows into a result."""

    query: LiteralString
    params: Mapping[str, Any]
    read: Callable[[Sequence[tuple[Any, ...]]], R]


async def run_last(conn: Connection, statement: LastStatement[R], *, prepare: bool) -> R:
    """Run a last statement like any other, without committing; returns its result."""
    rows = await fetch_rows(conn, statement.query, statement.params, prepare=prepare)
    return statement.read(rows)


async def commit_with(conn: Connection, statements: Sequence[LastStatement[Any]]) -> list[Any]:
    """Run these statements and commit the caller's transaction, in one message; returns the
    results.

    So their locks are held only while the server works, never while it waits for this client: a
    client that is stopped at that moment blocks no other. (Not a pipeline: the server may have
    received only a part of it.)
    """
    async with bounded(conn.statement_seconds):
        with translated():
            writer = psycopg.AsyncClientCursor(conn)
            parts = [
                writer.mogrify(render(one.query, conn.schema), one.params) for one in statements
            ]
            async with conn.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(";".join([*parts, "commit"]).encode())
                results: list[Any] = []
                for one in statements:
                    results.append(one.read(await cursor.fetchall()))
                    cursor.nextset()
                conn.committed = True
                return results


@asynccontextmanager
async def begun(conn: psycopg.AsyncConnection[Any], begin: LiteralString) -> AsyncGenerator[None]:
    """A transaction that begins with `begin`, which may contain settings: one round trip.

    Raises `Refused` if there is nothing to commit at its end.
    """
    with translated():
        if isinstance(conn, Connection):
            conn.committed = False
        await conn.execute(begin_text(begin) if getattr(conn, "pooled", False) else begin)
        try:
            yield
        except BaseException:
            # A broken connection has rolled back already, and its error must not hide the first
            # one.
            with suppress(psycopg.Error, Unavailable):
                async with bounded(STATEMENT_SECONDS):
                    await conn.rollback()
            raise
        await commit(conn)


@asynccontextmanager
async def bounded(seconds: float, late: type[DatabaseError] = Unavailable) -> AsyncGenerator[None]:
    """Shield the block from cancellation for at most `seconds`. Raises `late` after them."""
    try:
        with anyio.CancelScope(shield=True), anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise late(
            f"PostgreSQL did not answer within {seconds:g} s", "see jobsworth doctor"
        ) from error


@asynccontextmanager
async def _run(
    conn: psycopg.AsyncConnection[Any],
    query: LiteralString,
    params: Params,
    row_factory: Any,
    *,
    binary: bool = False,
    prepare: bool | None = None,
    rendered: bool = False,
) -> AsyncGenerator[psycopg.AsyncCursor[Any]]:
    if not isinstance(conn, Connection):
        check_connection(conn)
    seconds = getattr(conn, "statement_seconds", STATEMENT_SECONDS)
    text = query if rendered else render(query, getattr(conn, "schema", DEFAULT_SCHEMA))
    async with bounded(seconds, getattr(conn, "late", Unavailable)):
        with translated():
            async with conn.cursor(row_factory=row_factory, binary=binary) as cursor:
                if not isinstance(conn, Connection):
                    read_everything(cursor)
                try:
                    await cursor.execute(text, params, prepare=prepare)
                except (psycopg.Error, UnicodeEncodeError) as error:
                    wrong = wrong_argument(error, params)
                    if wrong is None:
                        raise
                    raise wrong from error
                yield cursor
