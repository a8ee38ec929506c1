"""What each command does and prints, for people and for programs."""

import getpass
import json
from datetime import datetime

import pytest

from tests.support import Workers, connect, run_cli
from tests.worker.cli.support import (
    ANSI,
    cli_json,
    insert_approval,
    insert_job,
    plain,
    run_in_terminal,
)
from worker.cli.terminal.exit_codes import ExitCode

NASTY = "a\x1b[31mred\x1b[0m [bold]thing[/bold]\x07 \u202egnp.exe"


def test_enqueue_prints_the_id_alone(database_url: str) -> None:
    ended = run_cli("enqueue", "greet", '{"name": "Ann"}', url=database_url)
    assert ended.returncode == 0
    with connect(database_url) as conn:
        row = conn.execute("select id, payload from jobsworth.reactive_jobs").fetchone()
    assert row is not None
    assert ended.stdout == f"{row['id']}\n"
    assert row["payload"] == {"name": "Ann"}


def test_enqueue_says_what_keeps_the_job_from_running(database_url: str) -> None:
    ended = run_cli("enqueue", "greet", url=database_url)
    assert "no worker is alive" in ended.stderr
    assert "jobsworth worker" in ended.stderr


def test_enqueue_reads_stdin_and_files(database_url: str, tmp_path: object) -> None:
    path = f"{tmp_path}/payload.json"
    with open(path, "w") as file:
        file.write('{"from": "a file"}')
    assert run_cli("enqueue", "a", "-", url=database_url, stdin='{"n": 1}').returncode == 0
    assert run_cli("enqueue", "b", f"@{path}", url=database_url).returncode == 0
    payloads = {job["mode"]: job["payload"] for job in cli_json(database_url, "jobs")}
    assert payloads == {"a": {"n": 1}, "b": {"from": "a file"}}


def test_enqueue_passes_every_option_on(database_url: str) -> None:
    first = cli_json(database_url, "enqueue", "first")
    assert first["created"] is True
    assert first["status"] == "queued"
    thread = "01234567-89ab-7000-8000-000000000001"
    second = cli_json(
        database_url,
        *("enqueue", "second", "--queue", "mail", "--priority", "1", "--delay", "1h30m"),
        *("--thread", thread, "--lane", "tower", "--unique-key", "once", "--failures-max", "2"),
        *("--timeout", "5m", "--after", first["id"][:18]),
    )
    assert second["waiting_for"] == "parents"
    job = cli_json(database_url, "job", "show", second["id"])["job"]
    due = datetime.fromisoformat(job["run_at"]) - datetime.fromisoformat(job["created_at"])
    assert due.total_seconds() == pytest.approx(5_400, abs=1)
    assert {
        name: job[name]
        for name in (
            *("queue", "priority", "thread_id", "lane", "unique_key", "failures_max"),
            "timeout_seconds",
        )
    } == {
        "queue": "mail",
        "priority": 1,
        "thread_id": thread,
        "lane": "tower",
        "unique_key": "once",
        "failures_max": 2,
        "timeout_seconds": 300.0,
    }


def test_enqueue_says_when_a_unique_key_brought_an_existing_job(database_url: str) -> None:
    first = cli_json(database_url, "enqueue", "greet", "--unique-key", "once")
    again = run_cli("enqueue", "greet", "--unique-key", "once", "--json", url=database_url)
    assert "holds the unique key 'once' already" in again.stderr
    document = json.loads(again.stdout)
    assert document["id"] == first["id"]
    assert document["created"] is False


def test_waiting_for_a_job_tells_how_it_ended(database_url: str, workers: Workers) -> None:
    worker = workers.start(database_url)
    worker.wait_for("daemon.ready", 30)
    done = run_cli("enqueue", "answer", '{"text": "hello"}', "--wait", url=database_url)
    assert done.returncode == 0, done.stderr
    assert "status  done" in done.stdout
    failed = cli_json(database_url, "enqueue", "answer", '{"txt": 1}', "--wait", code=ExitCode.NO)
    assert failed["status"] == "failed"
    assert "txt" in failed["error"]
    undeployed = run_cli("deployment", "start", "staging", "4f2a91c", "--wait", url=database_url)
    assert undeployed.returncode == ExitCode.NO
    assert "deploy.toml" in undeployed.stdout
    status = cli_json(database_url, "status")
    [row] = status["workers"]
    assert row["state"] == "alive"
    assert row["pid"] == worker.pid


def test_jobs_are_filtered(database_url: str) -> None:
    insert_job(database_url, mode="a")
    insert_job(database_url, mode="b", queue="mail")
    insert_job(database_url, mode="c", run_at="2199-01-01T00:00Z")
    for args, modes in (
        ([], ["c", "b", "a"]),
        (["--mode", "a"], ["a"]),
        (["--queue", "mail"], ["b"]),
        (["--status", "waiting"], ["c"]),
        (["--waiting-for", "timer"], ["c"]),
        (["--limit", "2"], ["c", "b"]),
    ):
        assert [job["mode"] for job in cli_json(database_url, "jobs", *args)] == modes


def test_piped_tables_have_whole_ids_one_line_a_row_and_no_escapes(database_url: str) -> None:
    job_id = insert_job(database_url, mode=NASTY.replace("\x07", ""))
    insert_job(database_url, mode="m" * 250)
    ended = run_cli("jobs", url=database_url)
    lines = ended.stdout.splitlines()
    assert len(lines) == 3
    assert not ANSI.search(ended.stdout)
    assert all(character not in ended.stdout for character in "\x1b\x07\u202e│─")
    [line] = [line for line in lines if line.startswith(job_id)]
    assert "[bold]thing[/bold]" in line
    assert "m" * 250 in ended.stdout
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_terminal_and_their_ids_can_be_used(database_url: str, columns: int) -> None:
    job_id = insert_job(database_url, mode="m" * 250)
    insert_job(database_url, mode="short")
    seen = run_in_terminal("jobs", url=database_url, columns=columns)
    assert ANSI.search(seen)
    lines = plain(seen).splitlines()
    assert len(lines) == 3
    assert max(len(line.rstrip()) for line in lines) <= columns
    assert any("…" in line for line in lines)
    shown = [line.split()[0] for line in lines[1:]]
    assert len(set(shown)) == 2
    assert (job_id in shown) == (columns == 120)
    for each in shown:
        assert run_cli("why", each, url=database_url).returncode == 0


@pytest.mark.usefixtures("unguarded")
def test_text_of_jobs_cannot_steer_the_terminal(database_url: str) -> None:
    job_id = insert_job(database_url)
    with connect(database_url) as conn:
        conn.execute(
            "update jobsworth.reactive_jobs set status = 'failed', finished_at = now(), error = %s",
            [NASTY],
        )
    for command in (["job", "show"], ["why"]):
        seen = run_in_terminal(*command, job_id, url=database_url, columns=100)
        assert "\x1b[31m" not in seen.replace("\x1b[31m" + "failed", "")
        assert "red" in seen
        assert "[bold]thing[/bold]" in seen
        assert "\x07" not in seen
        assert "\u202e" not in seen


def test_one_job_is_shown_whole(database_url: str) -> None:
    job_id = insert_job(database_url, mode="whole", payload='{"n": 1}')
    with connect(database_url) as conn:
        thread = conn.execute(
            "insert into jobsworth.chat_threads (platform, chat_id) values ('test', '1') "
            "returning id"
        ).fetchone()
        assert thread is not None
        values = {"job": job_id, "thread": thread["id"]}
        for statement in (
            "insert into jobsworth.steps (job_id, name, output, attempt, finished_at) "
            "values (%(job)s, 'fetch', '[1, 2]', 1, clock_timestamp())",
            "insert into jobsworth.llm_calls (job_id, step_name, provider, model, request_id) "
            "values (%(job)s, 'draft', 'acme', 'large', 'r1')",
            "insert into jobsworth.approvals (job_id, proposal_text, shown_hash) "
            "values (%(job)s, 'Publish it?', '0')",
            "insert into jobsworth.deployments (job_id, step_name, environment, sha) "
            "values (%(job)s, 'ship', 'staging', '0123456789abcdef')",
            "insert into jobsworth.artifacts (job_id, effect_key, name, media_type, uri) "
            "values (%(job)s, 'artifact:1', 'page.html', 'text/html', 'https://example.org/')",
            "insert into jobsworth.reactive_jobs (mode, parent_id, effect_key, is_child) "
            "values ('child', %(job)s, 'child:1', true)",
            "insert into jobsworth.chat_messages (thread_id, job_id, effect_key, role, text) "
            "values (%(thread)s, %(job)s, 'message:1', 'assistant', 'Here it is.')",
        ):
            conn.execute(statement, values)
    file = cli_json(database_url, "job", "show", job_id)
    assert file["job"]["payload"] == {"n": 1}
    assert file["why"]["reason"] == "no worker"
    assert file["steps"][0]["output"] == [1, 2]
    assert file["calls"][0]["model"] == "large"
    assert file["approvals"][0]["proposal_text"] == "Publish it?"
    assert file["deployments"][0]["environment"] == "staging"
    assert file["artifacts"][0]["uri"] == "https://example.org/"
    assert file["children"][0]["mode"] == "child"
    assert file["messages"][0]["text"] == "Here it is."
    people = run_cli("job", "show", job_id, url=database_url).stdout
    for word in (
        *("whole", '{"n":1}', "fetch", "[1,2]", "acme:large", "Publish it?", "staging"),
        *("0123456789ab", "page.html", "child", "Here it is.", "no worker is alive"),
    ):
        assert word in people


def test_why_says_the_reason_and_the_remedy(database_url: str) -> None:
    job_id = insert_job(database_url, run_at="2199-01-01T00:00Z")
    reason = cli_json(database_url, "why", job_id)
    assert reason["id"] == job_id
    assert reason["reason"] == "timer"
    assert reason["remedy"].endswith(f"jobsworth job run-now {job_id}")
    people = run_cli("why", job_id[:8], url=database_url).stdout.splitlines()
    assert people[0] == f"job {job_id} is waiting: timer"
    assert people[2].startswith("  → ")


def test_cancel_and_retry_change_the_status(database_url: str) -> None:
    job_id = insert_job(database_url)
    canceled = cli_json(database_url, "job", "cancel", job_id, "--reason", "no need")
    assert canceled == {"id": job_id, "status": "canceled", "cancel_requested": True}
    assert cli_json(database_url, "job", "show", job_id)["job"]["error"] == "no need"
    assert cli_json(database_url, "job", "retry", job_id)["status"] == "queued"


def test_cancel_of_a_running_job_is_a_request(database_url: str) -> None:
    job_id = insert_job(database_url)
    with connect(database_url) as conn:
        conn.execute(
            "update jobsworth.reactive_jobs set status = 'running', lease_no = 1, worker_id = id"
        )
    ended = run_cli("job", "cancel", job_id, url=database_url)
    assert ended.returncode == 0
    assert "is running: it is told to stop" in ended.stdout


def test_an_approval_shows_what_is_decided_and_resumes_its_job(database_url: str) -> None:
    job_id = insert_job(database_url)
    with connect(database_url) as conn:
        conn.execute(
            "update jobsworth.reactive_jobs set status = 'waiting', waiting_for = 'approval'"
        )
    approval_id = insert_approval(
        database_url, job_id=job_id, proposal_text="Ship it?", shown='{"sha": "4f2a91c"}'
    )
    [listed] = cli_json(database_url, "approval", "list")
    assert listed["id"] == approval_id
    shown = run_cli("approval", "show", approval_id[:18], url=database_url).stdout
    assert "Ship it?" in shown
    assert '"sha": "4f2a91c"' in shown

    decided = cli_json(
        database_url, "approve", approval_id, "--comment", "looks good", "--by", "ann"
    )
    assert decided["job_status"] == "queued"
    assert decided["approval"]["status"] == "approved"
    assert decided["approval"]["decided_by"] == "ann"
    assert decided["approval"]["channel"] == "cli"
    assert decided["approval"]["comment"] == "looks good"
    assert cli_json(database_url, "approval", "list") == []
    [decided] = cli_json(database_url, "approval", "list", "--all")
    assert decided["id"] == approval_id


def test_a_rejection_names_the_user_who_made_it(database_url: str) -> None:
    approval_id = insert_approval(database_url)
    rejected = cli_json(database_url, "reject", approval_id)["approval"]
    assert rejected["status"] == "rejected"
    assert rejected["decided_by"] == getpass.getuser()


def test_deploy_enqueues_the_job_that_deploys(database_url: str) -> None:
    document = cli_json(database_url, "deployment", "start", "staging", "4f2a91c")
    job = cli_json(database_url, "job", "show", document["id"])["job"]
    assert job["mode"] == "deploy"
    assert job["payload"] == {"environment": "staging", "sha": "4f2a91c"}


def test_deployments_are_listed(database_url: str) -> None:
    with connect(database_url) as conn:
        for environment in ("staging", "production"):
            conn.execute(
                "insert into jobsworth.deployments (environment, sha) values (%s, %s)",
                [environment, "0123456789abcdef"],
            )
    assert len(cli_json(database_url, "deployment", "list")) == 2
    ended = run_cli("deployment", "list", "--environment", "staging", url=database_url)
    [_, line] = ended.stdout.splitlines()
    assert line.split()[1:4] == ["staging", "0123456789ab", "building"]


def test_the_ledger_adds_up_and_an_unknown_price_is_not_zero(database_url: str) -> None:
    with connect(database_url) as conn:
        for model, mode, cost in (
            ("a", "plan", "0.5"),
            ("b", "plan", None),
            ("a", "answer", "0.25"),
        ):
            conn.execute(
                "insert into jobsworth.token_ledger "
                "(entry, mode, provider, model, input_tokens, output_tokens, cost) "
                "values ('settle', %s, 'acme', %s, 1000, 234, %s)",
                [mode, model, cost],
            )
    by_model = cli_json(database_url, "ledger", "--by", "model", "--since", "today")
    assert by_model["by"] == "model"
    assert [(row["key"], row["cost"]) for row in by_model["rows"]] == [
        ("acme:a", "0.75"),
        ("acme:b", None),
    ]
    people = run_cli("ledger", "--by", "mode", url=database_url)
    rows = [line.split() for line in people.stdout.splitlines()[1:]]
    assert rows == [
        ["answer", "1", "1,000", "234", "1,234", "0.25"],
        ["plan", "2", "2,000", "468", "2,468", "0.5+"],
        ["total", "3", "3,000", "702", "3,702", "0.75+"],
    ]
    assert "not every price is known (1 calls)" in people.stderr
    assert cli_json(database_url, "ledger", "--since", "2199-01-01")["rows"] == []


def test_a_remembered_text_is_found(database_url: str, workers: Workers) -> None:
    with connect(database_url) as conn:
        conn.execute(
            "insert into jobsworth.memories (source_kind, text) "
            "values ('note', 'the tower clock is five minutes slow')"
        )
    pending = run_cli("memory", "search", "tower clock", url=database_url)
    assert pending.returncode == 0
    assert "1 texts wait to be embedded" in pending.stderr
    workers.start(database_url).wait_for("embeddings.written", 30)
    [hit] = cli_json(database_url, "memory", "search", "tower clock")
    assert hit["text"] == "the tower clock is five minutes slow"
    assert hit["score"] > 0.3
    people = run_cli("memory", "search", "tower clock", url=database_url)
    assert "five minutes slow" in people.stdout
    assert cli_json(database_url, "memory", "search", "tower clock", "--kind", "summary") == []


def test_a_paused_queue_says_so_everywhere(database_url: str) -> None:
    job_id = insert_job(database_url, queue="mail")
    assert cli_json(database_url, "queue", "pause", "mail")["paused"] is True
    assert cli_json(database_url, "why", job_id)["reason"] == "paused"
    [queue] = cli_json(database_url, "queue", "list")
    assert queue == {
        "name": "mail",
        "paused": True,
        "fair": False,
        "queued": 1,
        "waiting": 0,
        "running": 0,
        "more_queued": False,
        "more_waiting": False,
    }
    assert cli_json(database_url, "queue", "resume", "mail")["paused"] is False
    assert run_cli("queue", "fair", "mail", url=database_url).returncode == 0
    assert "open, fair" in run_cli("queue", "list", url=database_url).stdout


def test_a_misspelt_queue_is_not_paused(database_url: str) -> None:
    insert_job(database_url, queue="mail")
    for verb in ("pause", "resume"):
        ended = run_cli("queue", verb, "mial", url=database_url)
        assert ended.returncode == ExitCode.NOT_FOUND
        assert "there is no queue 'mial'" in ended.stderr
        assert "did you mean mail?" in ended.stderr
    assert [each["name"] for each in cli_json(database_url, "queue")] == ["mail"]
    assert cli_json(database_url, "queue", "pause", "mial", "--new")["paused"] is True
    assert cli_json(database_url, "queue", "resume", "mial")["paused"] is False


def test_status_shows_everything_at_a_glance(database_url: str) -> None:
    insert_job(database_url)
    insert_job(database_url, run_at="2199-01-01T00:00Z")
    document = cli_json(database_url, "status")
    assert document["queued"] == 1
    assert document["waiting"] == {"timer": 1}
    assert document["violations"] == 0
    assert document["workers"] == []
    people = run_cli("status", url=database_url).stdout
    assert "1 queued" in people
    assert "timer 1" in people
    assert "no worker is alive\n  → jobsworth worker" in people


def test_status_says_no_when_an_invariant_is_broken(database_url: str) -> None:
    insert_job(database_url)
    with connect(database_url) as conn:
        conn.execute(
            "update jobsworth.reactive_jobs set status = 'running', lease_no = 1, worker_id = id, "
            "started_at = now() - interval '1 hour'"
        )
    assert cli_json(database_url, "status", code=ExitCode.NO)["violations"] == 1
    report = cli_json(database_url, "doctor", code=ExitCode.NO)
    [violation] = [each for each in report["findings"] if each["subject"] == "violations"]
    assert "running without a living worker" in violation["text"]
