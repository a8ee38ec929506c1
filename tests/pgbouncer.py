"""PgBouncer as Debian ships it, in transaction mode, in front of a test's server.

It is configured with nothing but where to listen, where the servers are and the mode: so the tests
see what a user sees. PgBouncer hands out the server connection that was used last, so a client's
next transaction meets what another client has left there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from psycopg.conninfo import make_conninfo

from db.server.account import server_account
from db.server.embedded import Embedded
from tests.support import direct_url, until_sync

PORT = 6432
MISSING = "PgBouncer is not installed; run: make debian-packages"
# CI sets it: there, what is missing is a failure.
REQUIRED = "JOBSWORTH_TEST_PGBOUNCER"

INI = """\
[databases]
* = host={socket_dir} port=5432
[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
logfile = {folder}/log
pidfile = {folder}/pid
"""


def program() -> str:
    """Where PgBouncer is. Without one the test is skipped by name, or fails where CI needs it."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is not None:
        return found
    if os.environ.get(REQUIRED):
        pytest.fail(MISSING)
    pytest.skip(MISSING)


@contextmanager
def pgbouncer(server: Embedded, users: Sequence[str] = ()) -> Generator[Path]:
    """PgBouncer before this server, which lets in `postgres` and `users`; yields its folder."""
    path = program()
    folder = Path(tempfile.mkdtemp(prefix="jobsworth-pgbouncer-"))
    (folder / "ini").write_text(INI.format(socket_dir=server.socket_dir, port=PORT, folder=folder))
    (folder / "users").write_text("".join(f'"{user}" ""\n' for user in ("postgres", *users)))
    # For `tests.support.direct_url`.
    (folder / "server").write_text(f"host={quote(str(server.socket_dir), safe='')}&port=5432")
    account = server_account(server.data_dir / f"pg{server.major}")
    if account is not None:
        for each in (folder, *folder.iterdir()):
            os.chown(each, account.pw_uid, account.pw_gid)
    process = subprocess.Popen(
        [path, "--quiet", str(folder / "ini")],
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until_sync((folder / f".s.PGSQL.{PORT}").exists, what=f"PgBouncer listens in {folder}")
        yield folder
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def pooled_url(folder: Path, database: str, user: str = "postgres") -> str:
    """The URL of a database through that PgBouncer."""
    return f"postgresql://{quote(user)}@/{database}?host={quote(str(folder), safe='')}&port={PORT}"


@contextmanager
def as_user(url: str, server: Embedded, user: str) -> Generator[str]:
    """The same database as another user; where PgBouncer is in between, through one of its own."""
    if direct_url(url) == url:
        yield make_conninfo(url, user=user)
        return
    with pgbouncer(server, [user]) as folder:
        yield pooled_url(folder, urlsplit(url).path.removeprefix("/"), user)
