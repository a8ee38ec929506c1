"""Commands that show how it goes while it goes: `top`, `job follow`."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios

from tests.chaos.nursery import the_nursery
from tests.support import POLL_SECONDS, Workers, environment, run_cli
from tests.worker.cli.support import insert_approval, insert_job, plain

ROWS, COLUMNS = 24, 80


def test_a_job_is_followed_to_its_end_which_the_exit_code_says(
    database_url: str, workers: Workers
) -> None:
    made = [
        run_cli("enqueue", mode, payload, url=database_url).stdout.strip()
        for mode, payload in (("greet", '{"name": "Ada"}'), ("import", '{"path": "/nowhere"}'))
    ]
    workers.start(database_url, {"JOBSWORTH_HANDLERS": "tests.browser.handlers"})
    good, bad = (run_cli("job", "follow", each, url=database_url) for each in made)
    assert good.returncode == 0
    assert "step compose done in" in good.stdout
    assert good.stdout.splitlines()[-1].split()[1] == "done"
    assert bad.returncode == 1
    assert "attempt 1 failed" in bad.stdout
    assert "FileNotFoundError: there is no file /nowhere" in bad.stdout
    assert good.stdout.count("step compose") == 1
    gone = run_cli("job", "follow", "0" * 12, url=database_url)
    assert gone.returncode not in (0, 1)


def test_top_fits_a_terminal_and_q_ends_it(database_url: str) -> None:
    for n in range(40):
        insert_job(database_url, mode=f"mode-{n}", payload='{"a": 1}')
    insert_approval(database_url)
    once = run_cli("top", url=database_url)
    assert once.returncode == 0
    assert "1 to approve" in once.stdout
    assert "no worker is alive" in once.stdout
    assert "mode-39" in once.stdout
    assert max(map(len, once.stdout.splitlines())) <= 100

    person, program = pty.openpty()
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    before = termios.tcgetattr(program)
    surroundings = environment(database_url, {"TERM": "xterm-256color"})
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        surroundings.pop(name, None)
    terminal, nursery = os.ttyname(program), the_nursery()
    child = nursery.fork(["top"], surroundings, (terminal, terminal, os.devnull))
    seen = b""
    while b"mode-39" not in seen:
        assert nursery.wait(child, 0) is None, seen
        if select.select([person], [], [], POLL_SECONDS)[0]:
            seen += os.read(person, 65_536)
    os.write(person, b"q")
    while (ended := nursery.wait(child, 0)) is None:
        if select.select([person], [], [], POLL_SECONDS)[0]:
            seen += os.read(person, 65_536)
    assert ended == 0
    assert termios.tcgetattr(program)[3] == before[3], "it echoes again"
    os.close(program)
    os.close(person)
    lines = plain(seen.decode()).replace("\r", "").split("\n")
    assert max(len(line.rstrip()) for line in lines) <= COLUMNS
    assert len(lines) <= ROWS
