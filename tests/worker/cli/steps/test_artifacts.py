"""`jobsworth artifact` lists and fetches files, and `jobsworth run history` tells of a run."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from db.pool import Connection
from db.runs import runs
from db.runs.runs import RunStatus
from db.runs.saved import save_artifact
from tests.support import run_cli
from tests.worker.cli.support import cli_json
from worker.cli.terminal.exit_codes import ExitCode


async def test_files_are_listed_and_fetched(
    conn: Connection, database_url: str, tmp_path: Path
) -> None:
    run = str((await runs.upsert(conn, trace_id="t")).run_id)
    made = await save_artifact(conn, (await runs.list_runs(conn))[0].id, "a.txt", b"hello")
    await save_artifact(conn, (await runs.list_runs(conn))[0].id, "far", uri="https://example.org")
    listed = cli_json(database_url, "artifact", "list", "--run", run)
    assert [one["name"] for one in listed] == ["a.txt", "far"]
    assert "a.txt" in run_cli("artifact", "--run", run[-12:], url=database_url).stdout
    assert run_cli("artifact", "get", str(made), url=database_url).stdout == "hello"
    by_name = ("artifact", "get", "a.txt", "--run", run)
    target = tmp_path / "copy"
    told = run_cli(*by_name, "--output", str(target), url=database_url).stdout
    assert "has 5 bytes, sha256 2cf24dba" in told
    assert target.read_bytes() == b"hello"
    assert run_cli("artifact", "get", "far", "--run", run, url=database_url).stdout == (
        "https://example.org\n"
    )
    for words, message in (
        ((*by_name, "--output", str(target)), "File exists"),
        (("artifact", "get", "b.txt", "--run", run), "there is no file 'b.txt'"),
        (("artifact", "get", str(uuid4())), "there is no artifact"),
        (("artifact", "get", "a.txt"), "is not a UUID"),
        (("artifact", "list"), "whose files are meant?"),
    ):
        ended = run_cli(*words, url=database_url)
        assert ended.returncode != ExitCode.OK
        assert message in ended.stderr
        assert "Traceback" not in ended.stderr
    assert target.read_bytes() == b"hello"


async def test_the_history_of_a_run_is_shown(conn: Connection, database_url: str) -> None:
    run = (await runs.upsert(conn, trace_id="t")).run_id
    assert "has not moved" in run_cli("run", "history", str(run), url=database_url).stderr
    await runs.set_status(conn, run, RunStatus.DONE, why="ada said so")
    [moved] = cli_json(database_url, "run", "history", str(run))
    assert (moved["from_status"], moved["to_status"]) == ("draft", "done")
    assert "ada said so" in run_cli("run", "history", str(run), url=database_url).stdout
