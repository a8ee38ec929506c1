"""What `jobsworth jobs, why, enqueue` and `signal send` tell a beginner."""

import pytest

from tests.support import connect, run_cli
from tests.worker.cli.support import cli_json, insert_job
from worker.cli.terminal.exit_codes import ExitCode

WAITS = """
update jobsworth.reactive_jobs set status = 'waiting', waiting_for = %s, waiting_detail = %s
"""
SIGNALS = "select name, payload from jobsworth.signals"
WORKER = """
insert into jobsworth.workers (id, host, pid, modes, queues, slots, version)
values (gen_random_uuid(), 'here', 1, array['greet'], array['default'], 1, '0')
"""


def test_the_remedy_for_a_signal_is_a_command_that_sends_it(database_url: str) -> None:
    job_id = insert_job(database_url)
    with connect(database_url) as conn:
        conn.execute(WAITS, ["signal", "it's paid"])
    remedy = cli_json(database_url, "why", job_id)["remedy"]
    assert remedy == f"jobsworth signal send {job_id} 'it'\\''s paid'"
    sent = run_cli("signal", "send", job_id[:13], "it's paid", '{"invoice": 17}', url=database_url)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout == f"signal it's paid is sent; job {job_id} is queued\n"
    with connect(database_url) as conn:
        [signal] = conn.execute(SIGNALS).fetchall()
    assert (signal["name"], signal["payload"]) == ("it's paid", {"invoice": 17})


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["go", "paid"], ExitCode.BAD_INPUT, "the payload is not JSON"),
        ([" "], ExitCode.BAD_INPUT, "is not the name of a signal"),
    ],
)
def test_a_signal_that_cannot_be_sent_says_why(
    database_url: str, args: list[str], code: ExitCode, says: str
) -> None:
    ended = run_cli("signal", "send", insert_job(database_url), *args, url=database_url)
    assert (ended.returncode, says in ended.stderr) == (code, True)


@pytest.mark.usefixtures("unguarded")
def test_an_error_of_several_lines_stays_one_paragraph(database_url: str) -> None:
    job_id = insert_job(database_url)
    with connect(database_url) as conn:
        conn.execute(
            "update jobsworth.reactive_jobs set status = 'failed', finished_at = now(), "
            "error = E'ValueError: one\\ntwo'"
        )
    assert "  ValueError: one\n  two\n  → " in run_cli("why", job_id, url=database_url).stdout


def test_a_mistyped_mode_is_named_with_the_nearest_that_a_worker_knows(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute(WORKER)
    enqueued = run_cli("enqueue", "grete", url=database_url)
    assert enqueued.returncode == 0
    assert "no living worker knows the mode grete; did you mean greet?" in enqueued.stderr


def test_empty_lists_say_how_to_begin(database_url: str) -> None:
    for command, remedy in {
        "jobs": "jobsworth enqueue MODE",
        "budget list": "jobsworth budget set daily --money 5 --per day",
    }.items():
        ended = run_cli(*command.split(), url=database_url)
        assert (ended.returncode, ended.stdout) == (0, "")
        assert f"  → {remedy}" in ended.stderr
