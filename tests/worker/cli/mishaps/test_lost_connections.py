"""A command that writes once outlives the connection on which it wrote."""

import pytest

from tests.proxy import Proxy
from tests.support import connect, run_cli
from tests.worker.cli.support import insert_job

COUNT = """
select (select count(*) from jobsworth.reactive_jobs) as jobs,
  (select count(*) from jobsworth.runs) as runs,
  (select count(*) from jobsworth.signals) as signals
"""
NODE = '[{"node": "a", "mode": "fetch"}]'


@pytest.mark.parametrize(
    ("command", "words", "written"),
    [
        ("enqueue greet", b"jobsworth.enqueue(", {"jobs": 2, "runs": 0, "signals": 0}),
        ("run start -", b"jobsworth.start_run(", {"jobs": 2, "runs": 1, "signals": 0}),
        ("signal send JOB paid", b"jobsworth.send_signal(", {"jobs": 1, "runs": 0, "signals": 1}),
    ],
)
def test_an_answer_that_is_lost_is_asked_for_again_and_nothing_is_written_twice(
    database_url: str, command: str, words: bytes, written: dict[str, int]
) -> None:
    job_id = insert_job(database_url)
    with Proxy(database_url) as proxy:
        proxy.lose_answer_to(words)
        ended = run_cli(*command.replace("JOB", job_id).split(), url=proxy.url, stdin=NODE)
        assert proxy.lost == 1
    assert (ended.returncode, ended.stderr.count("Traceback")) == (0, 0), ended.stderr
    with connect(database_url) as conn:
        assert conn.execute(COUNT).fetchone() == written
