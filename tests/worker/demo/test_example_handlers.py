"""The example handlers do what their comments say, through a real worker."""

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from tests.support import Workers, connect, until_sync

EXAMPLES = {"JOBSWORTH_HANDLERS": "examples.handlers"}
TEXT = "Tea is a drink. It is hot. It is good."


def test_the_example_handlers_work(database_url: str, workers: Workers) -> None:
    workers.start(database_url, EXAMPLES)
    with connect(database_url) as connection:

        def enqueue(mode: str, **payload: object) -> object:
            row = connection.execute(
                "select jobsworth.enqueue(%s, %s) as id", [mode, Jsonb(payload)]
            ).fetchone()
            assert row
            return row["id"]

        def ended(job_id: object) -> DictRow | None:
            return connection.execute(
                "select status::text, result, error, failures from jobsworth.reactive_jobs "
                "where id = %s and finished_at is not null",
                [job_id],
            ).fetchone()

        def decided(job_id: object) -> bool:
            return bool(
                connection.execute(
                    "select jobsworth.resolve(a.id, 'approve', 'Ada') from jobsworth.approvals a "
                    "where a.job_id = %s and a.status = 'pending'",
                    [job_id],
                ).fetchone()
            )

        def result(job_id: object) -> DictRow:
            row = until_sync(lambda: ended(job_id), what="the job has ended")
            assert row
            return row

        count = enqueue("word_count", text="one two three")
        summary = enqueue("summarise", text=TEXT, publish=True)
        nothing = enqueue("summarise", text=" ")
        wrong = enqueue("summarise", text=TEXT, sentences="many")
        match = enqueue("longest_match", pattern="a+", text="aaba")
        assert result(count)["result"] == 3
        until_sync(lambda: decided(summary), what="it asks")
        assert result(summary)["result"] == "Tea is a drink. It is hot."
        assert (result(nothing)["status"], result(nothing)["failures"]) == ("failed", 1)
        assert "sentences" in result(wrong)["error"]
        assert result(match)["result"] == "aa"
        saved = connection.execute(
            "select name, convert_from(content, 'utf8') as text from jobsworth.artifacts"
        ).fetchall()
    assert [(row["name"], row["text"]) for row in saved] == [
        ("summary.txt", "Tea is a drink. It is hot.")
    ]
