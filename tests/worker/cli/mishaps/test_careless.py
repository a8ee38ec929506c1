"""Whatever a careless operator types, there is an answer in words, with a remedy."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest

from tests.support import connect
from tests.worker.cli.mishaps.careless import NODES, STAYING, careless, good, line, verbs
from tests.worker.cli.support import NOBODY, insert_approval, insert_job
from worker.cli.run import run
from worker.cli.terminal import database
from worker.cli.terminal.exit_codes import ExitCode

# `make hostile` types all of them.
EVERY = 37
ANSWERS = {*ExitCode} - {ExitCode.BUG, ExitCode.DATABASE, ExitCode.SCHEMA, ExitCode.INTERRUPTED}
MESSAGE_CHARACTERS_MAX = 5_000
START = "select jobsworth.start_run(%s::jsonb)::text as id"


@pytest.fixture
def ids(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A job, a run and an approval, in the database that commands use here."""
    monkeypatch.setenv("JOBSWORTH_DATABASE_URL", database_url)
    monkeypatch.setenv("JOBSWORTH_SPOOL_DIR", str(tmp_path))
    with connect(database_url) as conn:
        row = conn.execute(START, [NODES]).fetchone()
    assert row is not None
    job_id, approval_id = insert_job(database_url), insert_approval(database_url)
    return {"job": job_id, "run": row["id"], "approval": approval_id}


class Typing:
    """Types command lines, one after the other, in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def type(self, arguments: tuple[str, ...]) -> tuple[ExitCode, str, str]:
        """The exit code, stdout and stderr of this command line; stdin has the nodes of a run."""
        stdin = io.TextIOWrapper(io.BytesIO(NODES.encode()))
        self._monkeypatch.setattr("sys.stdin", stdin)
        code = run(arguments)
        seen = self._capsys.readouterr()
        return ExitCode(code), seen.out, seen.err


@pytest.fixture
def typing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typing:
    return Typing(capsys, monkeypatch)


def check_careless(ids: dict[str, str], typing: Typing, every: int) -> int:
    """Type each `every`-th careless line; returns how many."""
    codes = Counter[ExitCode]()
    for number, typed in enumerate(careless(ids)):
        if number % every:
            continue
        code, out, err = typing.type(typed.arguments)
        said = (typed.path, typed.wrong.name, typed.kind, code, err[:500])
        codes[code] += 1
        assert code in ANSWERS, said
        assert "Traceback" not in out + err, said
        assert "\x1b" not in out + err, said
        assert code <= ExitCode.NO or len(err) < MESSAGE_CHARACTERS_MAX, said
        if code in (ExitCode.BAD_INPUT, ExitCode.NOT_FOUND, ExitCode.CONFLICT):
            assert "\n  → " in err, said
        if code is ExitCode.BAD_INPUT and not typed.named_in(err):
            # A command that needs more than its required parameters is refused for that.
            sound, _, _ = typing.type(line(typed.path, typed.command, typed.given))
            assert sound is ExitCode.BAD_INPUT, said
    assert codes[ExitCode.BAD_INPUT] > codes.total() // 3
    return codes.total()


def test_an_odd_value_of_any_parameter_of_any_command_is_answered_in_words(
    ids: dict[str, str], typing: Typing
) -> None:
    assert check_careless(ids, typing, EVERY) > 70


def test_every_command_says_that_there_is_no_database(
    ids: dict[str, str], typing: Typing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None hangs, and none shows the password that is in the address."""
    monkeypatch.setenv("JOBSWORTH_DATABASE_URL", NOBODY)
    monkeypatch.setenv("JOBSWORTH_CONNECT_SECONDS", "0.01")
    monkeypatch.setattr(database, "CONNECT_SECONDS_MIN", 0.01)
    codes = Counter[ExitCode]()
    for path, command in verbs():
        if path in STAYING:
            continue
        code, out, err = typing.type(line(path, command, good(path, command, ids)))
        codes[code] += 1
        said = (path, code, out[:500], err[:500])
        assert code in (*ANSWERS, ExitCode.DATABASE), said
        assert "Traceback" not in out + err, said
        assert "ann:secret" not in out + err, said
        if code is ExitCode.DATABASE:
            assert "127.0.0.1:1" in err, said
            assert "→" in err, said
    assert codes[ExitCode.DATABASE] > 50
