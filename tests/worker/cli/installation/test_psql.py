"""`jobsworth psql` opens PostgreSQL's own shell on the database of the settings."""

from tests.support import run_cli


def test_psql_runs_sql_on_the_database_of_the_settings(database_url: str) -> None:
    enqueued = run_cli(
        "psql",
        "-qAtc",
        """select jobsworth.enqueue('greet', '{"name": "Ada"}')""",
        url=database_url,
    )
    assert enqueued.returncode == 0, enqueued.stderr
    shown = run_cli("job", "show", enqueued.stdout.strip(), "--json", url=database_url)
    assert shown.returncode == 0, shown.stderr
    assert '"greet"' in shown.stdout


def test_psql_passes_its_exit_code_on(database_url: str) -> None:
    assert run_cli("psql", "-c", "select nonsense", url=database_url).returncode == 1


def test_psql_explains_an_unreachable_database() -> None:
    ended = run_cli("psql", "-c", "select 1", url="postgresql://127.0.0.1:1/none")
    assert ended.returncode == 5
    assert "Traceback" not in ended.stderr
    assert "127.0.0.1:1" in ended.stderr
