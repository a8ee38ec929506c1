"""`jobsworth webhook`: who is told, what was told, and what doctor says of it."""

from __future__ import annotations

from tests.support import connect, run_cli
from tests.worker.cli.support import cli_json, insert_approval
from worker.approvals.webhook_signature import keys, new_secret

HOSTS = {"JOBSWORTH_WEBHOOK_HOSTS": "bridge.example.org"}


def test_an_address_is_added_listed_and_removed(database_url: str) -> None:
    url = "https://bridge.example.org/hook"
    added = cli_json(database_url, "webhook", "add", url, "--event", "approval.opened", env=HOSTS)
    assert (added["url"], added["events"]) == (url, ["approval.opened"])
    assert [each["id"] for each in cli_json(database_url, "webhook", "list")] == [added["id"]]
    assert url in run_cli("webhook", "list", url=database_url).stdout
    removed = run_cli("webhook", "remove", added["id"], url=database_url)
    assert "is told no more" in removed.stderr + removed.stdout
    again = run_cli("webhook", "remove", added["id"], url=database_url)
    assert again.returncode != 0
    assert "there is no webhook" in again.stderr


def test_an_address_that_is_not_allowed_is_refused_with_the_setting(database_url: str) -> None:
    for arguments, reason in (
        (("https://evil.example.org/",), "JOBSWORTH_WEBHOOK_HOSTS"),
        (("http://bridge.example.org/",), "not encrypted"),
        (("https://bridge.example.org/", "--event", "lunch"), "unknown events: lunch"),
        (("https://bridge.example.org/", "--team", "us"), "team 'us' is not a UUID"),
    ):
        ended = run_cli("webhook", "add", *arguments, url=database_url, env=HOSTS)
        assert ended.returncode != 0
        assert reason in ended.stderr
        assert "Traceback" not in ended.stderr
    assert cli_json(database_url, "webhook", "list") == []


def test_a_new_secret_is_made_and_the_one_in_use_is_not_shown(database_url: str) -> None:
    in_use = new_secret()
    made = run_cli("webhook", "secret", env={"JOBSWORTH_WEBHOOK_SECRET": in_use})
    assert len(keys(f"{made.stdout.strip()},{in_use}")) == 2
    assert "JOBSWORTH_WEBHOOK_SECRET" in made.stderr
    assert in_use not in made.stdout + made.stderr
    assert keys(cli_json(database_url, "webhook", "secret")["secret"])


def test_what_was_given_up_is_shown_and_retried(database_url: str) -> None:
    cli_json(database_url, "webhook", "add", "https://bridge.example.org/", env=HOSTS)
    approval_id = insert_approval(database_url)
    doctor = run_cli("doctor", url=database_url).stdout
    assert "1 deliveries wait, and these settings send none" in doctor
    with connect(database_url) as conn:
        conn.execute(
            "update jobsworth.webhook_outbox set dead_at = now(), last_error = 'answered 500'"
        )
    assert "1 deliveries were given up" in run_cli("doctor", url=database_url).stdout
    [dead] = cli_json(database_url, "webhook", "deliveries", "--dead")
    assert (dead["state"], dead["approval_id"]) == ("dead", approval_id)
    assert "answered 500" in run_cli("webhook", "deliveries", url=database_url).stdout
    assert cli_json(database_url, "webhook", "retry") == {"retried": 1}
    assert cli_json(database_url, "webhook", "deliveries", "--dead") == []
    gone = run_cli("webhook", "retry", dead["id"], url=database_url)
    assert gone.returncode != 0
    assert "was given up" in gone.stderr
