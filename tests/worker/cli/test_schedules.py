"""`jobsworth schedule`, as an operator uses it, and its SQL functions."""

from typing import Any, LiteralString, cast

import psycopg
import pytest

from tests.support import connect, run_cli
from tests.worker.cli.support import cli_json
from worker.cli.terminal.exit_codes import ExitCode

BERLIN = ("--cron", "0 8 * * mon-fri", "--zone", "Europe/Berlin")


def test_a_schedule_is_added_shown_paused_and_removed(database_url: str) -> None:
    added = run_cli("schedule", "add", "morning", "--mode", "report", *BERLIN, url=database_url)
    assert added.returncode == ExitCode.OK
    assert "schedule morning fires 0 8 * * mon-fri Europe/Berlin, next" in added.stderr
    assert "08:00:00 CE" in added.stderr
    listed = run_cli("schedule", url=database_url).stdout
    for words in ("morning", "0 8 * * mon-fri Europe/Berlin", "report"):
        assert words in listed
    times = cli_json(database_url, "schedule", "next", "morning", "--limit", "3")
    assert len(times) == 3
    assert "has not fired yet" in run_cli("schedule", "history", "morning", url=database_url).stderr

    paused = run_cli("schedule", "pause", "morning", url=database_url)
    assert "jobsworth schedule resume morning" in paused.stderr
    assert "paused" in run_cli("schedule", "next", "morning", url=database_url).stderr
    assert cli_json(database_url, "schedule", "resume", "morning")["paused"] is False
    assert run_cli("schedule", "remove", "morning", url=database_url).returncode == ExitCode.OK
    assert cli_json(database_url, "schedule") == []


def test_the_same_schedule_may_be_added_again_another_only_with_replace(database_url: str) -> None:
    add = ("schedule", "add", "poll", "--mode", "fetch")
    assert run_cli(*add, "--every", "10m", url=database_url).returncode == ExitCode.OK
    assert run_cli(*add, "--every", "10m", url=database_url).returncode == ExitCode.OK
    other = run_cli(*add, '{"page": 2}', "--every", "10m", url=database_url)
    assert other.returncode == ExitCode.CONFLICT
    assert "there is another schedule named poll" in other.stderr
    assert "--replace" in other.stderr
    changed = cli_json(database_url, *add, '{"page": 2}', "--every", "10m", "--replace")
    assert changed["payload"] == {"page": 2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cron", "0 8 * * *"], "exactly one of mode and nodes"),
        (["--mode", "a"], "exactly one of cron, every and at"),
        (["--mode", "a", "--cron", "0 8 * *"], "five fields"),
        (["--mode", "a", "--cron", "0 0 30 2 *"], "never fires"),
        (["--mode", "a", "--cron", "@daily", "--zone", "Mars/Olympus"], "no time zone"),
        (["--mode", "a", "--every", "0s"], "from one second"),
        (["--mode", "a", "--every", "soon"], "not a time span"),
        (["--mode", "a", "--at", "2020-01-01T00:00Z"], "has passed"),
        (["--mode", "a", "--at", "2030-01-01T00:00"], "no time zone"),
        (["--mode", "a", "--every", "1h", "--missed", "all"], "must queue"),
        (["--nodes", "{}", "--every", "1h"], "not a list"),
        (["--nodes", '[{"node": "a"}]', "--every", "1h"], "mode"),
        (["--mode", "a", "--every", "1h", "--missed-max", "0"], "from 1 to"),
        (["--mode", "a", "--every", "1h", "--jitter", "3d"], "jitter"),
        (["--mode", "a", "--every", "1h", "[1]"], "object"),
    ],
)
def test_a_schedule_that_is_wrong_is_refused_in_plain_words(
    database_url: str, arguments: list[str], said: str
) -> None:
    refused = run_cli("schedule", "add", "s", *arguments, url=database_url)
    assert refused.returncode == ExitCode.BAD_INPUT, refused.stderr
    assert said in refused.stderr
    assert "→" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("verb", ["next", "history", "pause", "resume", "remove"])
def test_a_name_that_is_not_there_is_said(database_url: str, verb: str) -> None:
    unknown = run_cli("schedule", verb, "nosuch", url=database_url)
    assert unknown.returncode == ExitCode.NOT_FOUND
    assert "there is no schedule named" in unknown.stderr


SCHEDULE: LiteralString = """
select jobsworth.schedule('nightly', 'report', cron => '0 3 * * *', time_zone => 'Asia/Tokyo')
"""


def test_sql_alone_makes_pauses_and_removes_a_schedule(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute(SCHEDULE)
        conn.execute("select jobsworth.pause_schedule('nightly')")
        [found] = cli_json(database_url, "schedule")
        assert (found["name"], found["paused"], found["time_zone"]) == (
            *("nightly", True),
            "Asia/Tokyo",
        )
        conn.execute("select jobsworth.resume_schedule('nightly')")
        conn.execute("select jobsworth.remove_schedule('nightly')")
        assert cli_json(database_url, "schedule") == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("'', 'a', every => '1 hour'", "needs a name"),
        ("'s', 'a', every => '1 month'", "has months"),
        ("'s', 'a', every => '0.1 seconds'", "from one second"),
        ("'s', 'a', every => '-1 hour'", "from one second"),
        ("'s', 'a', cron => '0 8 *'", "five fields"),
        ("'s', 'a', cron => '0 8 * * *', time_zone => 'x'", "no time zone"),
        ("'s', 'a', at => '2020-01-01'", "has passed"),
        ("'s', 'a', every => '1 hour', at => '2199-01-01'", "exactly one"),
        ("'s', every => '1 hour'", "exactly one of mode and nodes"),
        ("'s', 'a', every => '1 hour', jitter_seconds => 'NaN'", "jitter"),
        ("'s', 'a', every => '1 hour', missed => 'all'", "must queue"),
        ("'s', 'a', every => '1 hour', missed => 'never'", "missed_policy"),
        ("'s', nodes => '[]', every => '1 hour', overlap => 'queue'", "do not queue"),
    ],
)
def test_sql_refuses_what_is_wrong(database_url: str, call: str, said: str) -> None:
    with connect(database_url) as conn, pytest.raises(psycopg.Error, match=said):
        conn.execute(cast(LiteralString, f"select jobsworth.schedule({call})"))


def test_doctor_tells_of_a_schedule_that_cannot_fire(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute(SCHEDULE)
        conn.execute("update jobsworth.schedules set problem = 'cron ''x'' never fires'")
    report: Any = cli_json(database_url, "doctor", code=ExitCode.NO)
    assert "schedule nightly does not fire" in str(report)
