"""Colours, bold and columns: what a terminal gets, and what NO_COLOR takes away."""

import pytest

from tests.worker.cli.support import ANSI, cli_json, insert_job, plain, run_in_terminal


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_without_colour_there_is_no_escape_sequence_at_all(
    database_url: str, env: dict[str, str]
) -> None:
    job_id = insert_job(database_url)
    for args in (["jobs"], ["job", "show", job_id], ["why", job_id], ["status"]):
        styled = run_in_terminal(*args, url=database_url, columns=100)
        bare = run_in_terminal(*args, url=database_url, columns=100, env=env)
        assert ANSI.search(styled)
        assert "\x1b" not in bare
        assert bare.split()[:2] == plain(styled).split()[:2]


def test_an_optional_column_without_values_is_left_out_on_a_terminal(database_url: str) -> None:
    rates = ("--input", "1", "--output", "2")
    cli_json(database_url, "price", "set", "acme", "x", *rates, "--note", "contract of May")
    seen = plain(run_in_terminal("price", url=database_url, columns=80))
    assert "TEAM" not in seen
    assert "contract of May" in seen


def test_short_ids_are_ends_that_can_be_pasted(database_url: str) -> None:
    twins = [f"01234567-89ab-7000-8000-000000{n}abcd" for n in (11, 22)]
    for twin in twins:
        insert_job(database_url, twin)
    seen = plain(run_in_terminal("jobs", url=database_url, columns=80))
    shown = [line.split()[0] for line in seen.splitlines()[1:]]
    assert shown == ["00000022abcd", "00000011abcd"]
    assert [cli_json(database_url, "why", each)["id"] for each in shown] == twins[::-1]
