"""`jobsworth approval` where several votes, an edit or a replacement are involved."""

from __future__ import annotations

from db.approvals.questions import shown_hash
from tests.support import connect, run_cli
from tests.worker.cli.support import cli_json, insert_approval


def test_an_approval_shows_its_votes_its_deadline_and_its_asker(database_url: str) -> None:
    approval_id = insert_approval(
        database_url,
        votes_needed=2,
        asked_by="bot",
        deadline="2199-01-01T00:00Z",
        on_timeout="escalate",
    )
    first = run_cli("approve", approval_id, "--by", "ann", url=database_url)
    assert "is pending" in first.stdout
    assert "2 are needed in all" in first.stdout
    again = run_cli("approve", approval_id, "--by", "ann", url=database_url)
    assert again.returncode != 0
    assert "you have said yes already" in again.stderr
    asker = run_cli("approve", approval_id, "--by", "bot", url=database_url)
    assert "cannot say yes" in asker.stderr
    shown = run_cli("approval", "show", approval_id, url=database_url).stdout
    for words in ("then: escalate", "2 needed for the same option", "approve, by ann", "bot"):
        assert words in shown
    whole = cli_json(database_url, "approval", "show", approval_id)
    assert [vote["decided_by"] for vote in whole["votes"]] == ["ann"]


def test_an_edit_is_given_as_json_or_as_a_file(database_url: str, tmp_path: object) -> None:
    path = f"{tmp_path}/edited.json"
    with open(path, "w") as file:
        file.write('{"to": ["ann"]}')
    for edit, document in ((f"@{path}", {"to": ["ann"]}), ("7", 7)):
        approval_id = insert_approval(database_url, editable=True, shown='{"to": "all"}')
        shown = run_cli("approval", "show", approval_id, url=database_url).stdout
        assert "jobsworth approve … --edit JSON" in shown
        decided = cli_json(database_url, "approve", approval_id, "--edit", edit)
        assert decided["approval"]["edited"] == document


def test_a_wrong_edit_is_refused_in_one_line(database_url: str) -> None:
    fixed = insert_approval(database_url)
    for edit, reason in (
        ("{", "is not JSON"),
        ("null", "is null"),
        ("@/nowhere", "cannot be read"),
        ("{}", "cannot be approved with changes"),
    ):
        ended = run_cli("approve", fixed, "--edit", edit, url=database_url)
        assert ended.returncode != 0
        assert reason in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_yes_counts_only_for_the_document_that_was_seen(database_url: str) -> None:
    first = shown_hash("May I?", ("approve", "reject"), {"to": 1})
    approval_id = insert_approval(
        database_url, editable=True, votes_needed=2, shown='{"to": 1}', shown_hash=first
    )
    shown = run_cli("approval", "show", approval_id, url=database_url)
    assert first in shown.stdout
    assert f"--seen {first[:12]}" in shown.stderr
    run_cli("approve", approval_id, "--edit", "7", "--by", "ann", url=database_url)
    for seen, reason in (
        ((), "was edited after it was asked"),
        (("--seen", first), "what you have seen"),
        (("--seen", "ab"), "too short"),
    ):
        ended = run_cli("approve", approval_id, "--by", "bob", *seen, url=database_url)
        assert ended.returncode != 0
        assert reason in ended.stderr
    now = cli_json(database_url, "approval", "show", approval_id)["edited_hash"]
    agreed = run_cli("approve", approval_id, "--by", "bob", "--seen", now[:12], url=database_url)
    assert "is approved" in agreed.stdout


def test_an_approval_shows_its_replacement_its_difference_and_its_use(database_url: str) -> None:
    old = insert_approval(database_url)
    new = insert_approval(
        database_url,
        supersedes=old,
        difference="-May I?\n+May we?",
        status="approved",
        chosen_option="approve",
        closed_at="2026-01-01T00:00Z",
        consumed_by="ship",
        consumed_at="2026-01-01T00:00Z",
    )
    with connect(database_url) as conn:
        conn.execute(
            "update jobsworth.approvals set status = 'superseded', superseded_by = %s,"
            " closed_at = now() where id = %s",
            [new, old],
        )
    assert new in run_cli("approval", "show", old, url=database_url).stdout
    late = run_cli("approve", old, url=database_url)
    assert f"see it: jobsworth approval show {new}" in late.stderr
    shown = run_cli("approval", "show", new, url=database_url).stdout
    for words in (old, "+May we?", "step ship"):
        assert words in shown


def test_a_decided_one_with_several_ways_to_say_yes_is_a_conflict(database_url: str) -> None:
    columns: dict[str, object] = {"options": ["ship", "hold", "reject"], "on_timeout": "reject"}
    asked = insert_approval(database_url, **columns)
    unclear = run_cli("approve", asked, url=database_url)
    assert (unclear.returncode, "several ways to say yes" in unclear.stderr) == (2, True)
    assert run_cli("approve", asked, "--option", "ship", url=database_url).returncode == 0
    for words in ((), ("--option", "hold"), ("--edit", "7")):
        late = run_cli("approve", asked, *words, url=database_url)
        assert late.returncode == 4, (words, late.stderr)
        assert "is already approved (ship)" in late.stderr
