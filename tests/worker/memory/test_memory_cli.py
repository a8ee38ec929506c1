"""`jobsworth memory`: forgets sources, tells spaces, builds indexes, retries dead letters."""

from __future__ import annotations

from tests.support import connect, run_cli
from tests.worker.cli.support import cli_json


def test_texts_are_seen_to_from_the_command_line(database_url: str) -> None:
    with connect(database_url) as conn:
        conn.execute(
            "insert into jobsworth.memories (source_kind, source_id, text)"
            " values ('file', 'a', 'one'), ('file', 'a', 'two'), ('note', null, 'three')"
        )
        assert cli_json(database_url, "memory", "spaces") == []
        assert cli_json(database_url, "memory", "index") == {"built": True}
        assert cli_json(database_url, "memory", "index") == {"built": False}
        people = run_cli("memory", "spaces", url=database_url)
        assert "by these settings" in people.stdout
        [space] = cli_json(database_url, "memory", "spaces")
        assert (space["vectors"], space["missing"], space["index_valid"]) == (0, 3, True)

        conn.execute(
            "update jobsworth.embedding_outbox set dead_at = now(), last_error = 'too odd'"
            " where memory_id = (select id from jobsworth.memories where text = 'three')"
        )
        told = run_cli("doctor", url=database_url)
        assert "1 texts were refused by the embedder too often" in " ".join(told.stdout.split())
        [letter] = cli_json(database_url, "memory", "dead")
        assert (letter["text"], letter["last_error"]) == ("three", "too odd")
        assert cli_json(database_url, "memory", "retry", letter["id"][-12:]) == {"retried": 1}
        assert cli_json(database_url, "memory", "dead") == []

        assert cli_json(database_url, "memory", "forget", "file", "a") == {"deleted": 2}
        nothing = run_cli("memory", "forget", "file", "a", url=database_url)
        assert "nothing is remembered of file a" in nothing.stderr
        # What says the same is merged.
        conn.execute(
            "insert into jobsworth.memories (source_kind, text, importance)"
            " values ('note', 'Ada lives in Berlin.', 0.9), ('note', 'ada lives in berlin', 0.5)"
        )
        told = run_cli("memory", "duplicates", url=database_url)
        assert "2 times  Ada lives in Berlin." in told.stdout
        [words] = [line.split() for line in told.stderr.splitlines() if "→" in line]
        merged = cli_json(database_url, *words[2:])
        assert (merged["text"], len(merged["supersedes"])) == ("Ada lives in Berlin.", 1)
        assert cli_json(database_url, "memory", "duplicates") == []
        again = run_cli("memory", "merge", words[-1], words[-2], url=database_url)
        assert "so it supersedes nothing" in again.stderr
        shown = run_cli("memory", "show", words[-1], url=database_url)
        assert f"superseded by  {merged['id']}, 20" in shown.stdout
        found = cli_json(database_url, "memory", "search", "Berlin", "--as-of", "1h")
        assert found == []
