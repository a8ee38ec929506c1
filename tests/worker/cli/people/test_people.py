"""The nouns of people: what they print, and what they refuse."""

from uuid import UUID, uuid4

from tests.support import run_cli
from tests.worker.cli.support import cli_json
from worker.cli.terminal.exit_codes import ExitCode


def test_people_are_saved_shown_and_listed(database_url: str) -> None:
    for noun in ("team", "user", "agent", "project", "session", "token"):
        assert cli_json(database_url, noun) == []
    ada = cli_json(database_url, "user", "save", "telegram:4711", "--name", "Ada")
    team = cli_json(database_url, "team", "save", "research", "--owner", "telegram:4711")
    assert team["owner_id"] == ada["id"]
    cli_json(database_url, "user", "save", "grace")
    added = run_cli("team", "add", "research", "grace", "--role", "admin", url=database_url)
    assert added.stdout == "grace is in team research as admin\n"
    shown = cli_json(database_url, "team", "show", team["id"])
    assert [m["role"] for m in shown["members"]] == ["owner", "admin"]
    run_cli("team", "remove", "research", "grace", url=database_url)
    save = ("agent", "save", "writer", "--team", "research")
    cli_json(database_url, *save, "--skill", "verse", "--recency", "2", "--half-life", "30d")
    agent = cli_json(database_url, *save, "--model", "openai:gpt-5-mini", "--personality", "Dry.")
    assert (agent["skills"], agent["recency_weight"]) == (["verse"], 2.0)
    people = run_cli("agent", "show", "writer", "--team", "research", url=database_url).stdout
    for words in ("openai:gpt-5-mini", "Dry.", "verse", "recency 2, half-life 30d"):
        assert words in people
    cli_json(database_url, "project", "save", "launch", "--team", "research")
    whose = ("--team", "research", "--user", "telegram:4711", "--project", "launch")
    session = cli_json(database_url, "session", "create", *whose, "--agent", "writer")
    assert UUID(session["agent_id"]) == UUID(agent["id"])
    job = cli_json(database_url, "enqueue", "answer", "--session", session["id"])
    assert cli_json(database_url, "job", "show", job["id"])["job"]["session_id"] == session["id"]
    closed = run_cli("session", "close", session["id"], url=database_url)
    assert closed.stdout == f"session {session['id']} is closed\n"
    assert cli_json(database_url, "session", *whose)[0]["status"] == "closed"
    issue = ("token", "issue", "ci", "--team", "research", "--scope", "jobs:read")
    issued = run_cli(*issue, "--expires-in", "90d", url=database_url)
    assert issued.stdout.startswith("jw_")
    listed = run_cli("token", "--team", "research", url=database_url).stdout
    assert issued.stdout.strip() not in listed
    assert "jobs:read" in listed
    revoked = run_cli("token", "revoke", listed.split("\n")[1].split()[0], url=database_url)
    assert revoked.stdout == "token ci is revoked\n"


def test_what_people_get_wrong_is_told(database_url: str) -> None:
    cli_json(database_url, "user", "save", "ada")
    cli_json(database_url, "team", "save", "research", "--owner", "ada")
    for words, message in (
        (("team", "save", "x", "--owner", "nobody"), "there is no user 'nobody'"),
        (("team", "add", "nowhere", "ada"), "there is no team 'nowhere'"),
        (("team", "add", "research", "ada"), "owns the team"),
        (("agent", "save", "a", "--recency", "-1"), "recency_weight_is_0_to_1000"),
        (("agent", "show", "a"), "there is no agent 'a' without a team"),
        (("agent", "show", "a", "--team", "research"), "there is no agent 'a' in team"),
        (("session", "close", "nonsense"), "SESSION 'nonsense' is not a UUID"),
        (("session", "resume", str(uuid4())), "there is no session"),
        (("token", "issue", "x"), "--scope"),
        (("token", "revoke", str(uuid4())), "there is no token"),
        (("user", "save", ""), "external id '' is not a text"),
        (("enqueue", "answer", "--session", "x"), "--session 'x' is not a UUID"),
    ):
        ended = run_cli(*words, url=database_url)
        assert ended.returncode != ExitCode.OK, words
        assert message in ended.stderr, (words, ended.stderr)
        assert "Traceback" not in ended.stderr
