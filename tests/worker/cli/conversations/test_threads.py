"""`jobsworth thread`, and the options of `jobsworth enqueue` that concern unique keys."""

from typing import Any
from uuid import UUID, uuid4

import psycopg

from tests.support import run_cli
from tests.worker.cli.support import cli_json
from worker.cli.terminal.exit_codes import ExitCode


def add_thread(url: str) -> str:
    with psycopg.connect(url, autocommit=True) as conn:
        row: Any = conn.execute(
            "insert into jobsworth.chat_threads (platform, chat_id) values ('x', '1') returning id"
        ).fetchone()
        return str(row[0])


def test_a_policy_is_set_shown_and_obeyed(database_url: str) -> None:
    thread = add_thread(database_url)
    assert cli_json(database_url, "thread", "policy", thread, "merge")["message_policy"] == "merge"
    say = ("thread", "say", thread, "hello", "--mode", "answer")
    first = cli_json(database_url, *say)
    second = run_cli(*say, url=database_url)
    assert second.stdout.strip() == first["job_id"]
    assert f"the job that waits for message {first['message_id']} takes this" in second.stderr
    third = cli_json(database_url, *say, "--policy", "supersede")
    why = run_cli("why", first["job_id"], url=database_url).stdout
    assert f"superseded by message {third['message_id']}" in why
    shown = run_cli("thread", "show", thread, url=database_url).stdout
    assert "merge" in shown
    assert "3" in shown


def test_a_wrong_policy_or_thread_is_told(database_url: str) -> None:
    thread = add_thread(database_url)
    for words, message in (
        (("policy", thread, "shrug"), "shrug"),
        (("show", str(uuid4())), "there is no thread"),
        (("policy", str(uuid4()), "merge"), "there is no thread"),
        (("say", str(uuid4()), "x", "--mode", "answer"), "there is no thread"),
        (("show", "nonsense"), "nonsense"),
    ):
        ended = run_cli("thread", *words, url=database_url)
        assert ended.returncode != ExitCode.OK
        assert message in ended.stderr
        assert "Traceback" not in ended.stderr


def test_enqueueing_says_what_became_of_the_call(database_url: str) -> None:
    call = ("enqueue", "index", "--unique-key", "page-7", "--debounce", "10m")
    first = cli_json(database_url, *call, "--debounce-max", "1h")
    again = cli_json(database_url, *call)
    assert (first["created"], again["created"], again["replaced"]) == (True, False, True)
    assert UUID(again["id"]) == UUID(first["id"])
    reject = run_cli(*call[:4], "--on-conflict", "reject", url=database_url)
    assert reject.returncode == ExitCode.CONFLICT
    assert f"job {first['id']} (waiting) holds the unique key page-7" in reject.stderr
    wrong = run_cli("enqueue", "index", "--unique-for", "1h", url=database_url)
    assert "without --unique-key" in wrong.stderr


def test_threads_are_listed_put_away_and_brought_back(database_url: str) -> None:
    thread = add_thread(database_url)
    cli_json(database_url, "thread", "say", thread, "hello", "--mode", "answer")
    for verb, status in (
        ("archive", "archived"),
        ("unarchive", "active"),
        ("close", "closed"),
        ("reopen", "active"),
        ("delete", "deleted"),
    ):
        assert cli_json(database_url, "thread", verb, thread) == {"id": thread, "status": status}
    assert "no threads yet" in run_cli("thread", url=database_url).stderr
    say = run_cli("thread", "say", thread, "more", "--mode", "answer", url=database_url)
    assert say.returncode == ExitCode.CONFLICT
    assert "is deleted: it takes no messages\n  → take the deletion back" in say.stderr
    assert (
        f"thread {thread} is active"
        in run_cli("thread", "undelete", thread, url=database_url).stdout
    )
    [listed] = cli_json(database_url, "thread", "list", "--platform", "x")
    assert (listed["messages"], listed["by_role"]) == (1, {"user": 1})
    shown = run_cli("thread", "list", url=database_url).stdout
    assert thread in shown
    assert "1: 1 user" in run_cli("thread", "show", thread, url=database_url).stdout
