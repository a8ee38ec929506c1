"""What the tests of the command line share: its output as JSON, a terminal, rows by plain SQL."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import termios
from collections.abc import Mapping
from typing import Any

from tests.chaos.nursery import the_nursery
from tests.support import POLL_SECONDS, connect, environment, run_cli

# No server listens at this port.
NOBODY = "postgresql://ann:secret@127.0.0.1:1/shop"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def cli_json(
    url: str,
    *args: str,
    code: int = 0,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> Any:
    """The document that `jobsworth *args --json` prints; it must end with `code`."""
    ended = run_cli(*args, "--json", url=url, env=env, stdin=stdin)
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def run_in_terminal(
    *args: str, url: str, columns: int, env: Mapping[str, str] | None = None
) -> str:
    """Everything written to stdout on a terminal of that width, escape sequences included."""
    person, program = pty.openpty()
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    surroundings = environment(url, {"TERM": "xterm-256color"})
    surroundings.pop("NO_COLOR", None)
    surroundings.pop("COLUMNS", None)
    surroundings |= env or {}
    terminal, nursery = os.ttyname(program), the_nursery()
    child = nursery.fork(args, surroundings, (terminal, terminal, os.devnull))
    seen = b""
    while nursery.wait(child, 0) is None:
        if select.select([person], [], [], POLL_SECONDS)[0]:
            seen += _read(person)
    # Until here, so that it is never without a writer.
    os.close(program)
    while chunk := _read(person):
        seen += chunk
    os.close(person)
    return seen.decode().replace("\r\n", "\n")


def plain(seen: str) -> str:
    """The same text without escape sequences."""
    return ANSI.sub("", seen)


def insert_job(url: str, job_id: str | None = None, **columns: Any) -> str:
    """Insert a job by plain SQL and return its id."""
    values: dict[str, Any] = {"mode": "greet", **columns}
    if job_id is not None:
        values["id"] = job_id
    return _insert(url, "reactive_jobs", values)


def insert_approval(url: str, **columns: Any) -> str:
    """Insert an open approval by plain SQL and return its id."""
    return _insert(url, "approvals", {"proposal_text": "May I?", "shown_hash": "0", **columns})


def _insert(url: str, table: str, values: dict[str, Any]) -> str:
    names = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    with connect(url) as conn:
        row = conn.execute(
            f"insert into jobsworth.{table} ({names}) values ({places}) returning id",  # type: ignore[arg-type]
            values,
        ).fetchone()
    assert row is not None
    return str(row["id"])


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""  # Linux says EIO when the last writer has closed it
