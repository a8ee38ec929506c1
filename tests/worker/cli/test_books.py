"""`ledger`, `price` and `books check`: the same figures for people, programs and spreadsheets."""

from __future__ import annotations

import csv
import uuid
from decimal import Decimal
from io import StringIO

import pytest

from tests.support import connect, run_cli
from tests.worker.cli.support import NOBODY, cli_json, plain, run_in_terminal
from worker.cli.terminal.exit_codes import ExitCode

RUN = "019a9d3e-5b1c-7a42-9c1d-0123456789ab"
ENTER = """
insert into jobsworth.token_ledger (
  entry, mode, provider, model, run_id, input_tokens, output_tokens, cost, occurred_at)
values ('settle', %s, 'acme', %s, %s, 10, 5, %s, %s)
"""
CALL = """
with call as (
  insert into jobsworth.llm_calls (
    provider, model, request_id, status, input_tokens, output_tokens, settled_at)
  values ('acme', 'large', %s, 'ok', 1000000, 500000, now())
  returning id, provider, model
)
insert into jobsworth.token_ledger (call_id, entry, provider, model, input_tokens, output_tokens)
select c.id, e.entry::jobsworth.ledger_entry, c.provider, c.model, 1000000 * e.used,
  500000 * e.used
from call c
cross join (values ('reserve', 0), ('settle', 1)) e (entry, used)
"""


def enter(url: str) -> None:
    with connect(url) as conn:
        for mode, model, run_id, cost, at in (
            ("plan", "a", RUN, "0.1", "2026-03-01T00:00Z"),
            ('say "hi", now', "a", None, "1e-9", "2026-03-02T00:00Z"),
            (None, "b", None, None, "2026-03-03T00:00Z"),
        ):
            conn.execute(ENTER, [mode, model, run_id, None if cost is None else Decimal(cost), at])


def add_call(url: str) -> None:
    with connect(url) as conn:
        conn.execute(CALL, [uuid.uuid4().hex])


def test_the_ledger_as_csv_can_be_read_back_exactly(database_url: str) -> None:
    enter(database_url)
    ended = run_cli("ledger", "--by", "mode", "--csv", url=database_url)
    assert ended.returncode == 0
    rows = list(csv.DictReader(StringIO(ended.stdout, newline="")))
    assert [row["mode"] for row in rows] == ["plan", 'say "hi", now', ""]
    assert [row["cost"] for row in rows] == ["0.1", "0.000000001", ""]
    assert rows[2]["unknown_cost_entries"] == "1"
    assert list(rows[0])[:2] == ["mode", "entries"]


def test_lines_of_csv_end_with_crlf() -> None:
    from worker.cli.nouns.ledger import csv_of

    assert csv_of("day", []).endswith("unknown_cost_entries\r\n")


def test_the_ledger_of_a_span_ends_before_its_end(database_url: str) -> None:
    enter(database_url)
    found = cli_json(
        database_url, "ledger", "--by", "day", "--since", "2026-03-01", "--until", "2026-03-03"
    )
    assert [row["key"] for row in found["rows"]] == ["2026-03-01", "2026-03-02"]
    assert Decimal(found["total"]["cost"]) == Decimal("0.100000001")


def test_the_ledger_by_run(database_url: str) -> None:
    enter(database_url)
    found = cli_json(database_url, "ledger", "--by", "run")
    assert [(row["key"], row["entries"]) for row in found["rows"]] == [(RUN, 1), (None, 2)]


def test_on_a_narrow_terminal_the_ledger_shows_ids_that_can_be_pasted(database_url: str) -> None:
    enter(database_url)
    seen = plain(run_in_terminal("ledger", "--by", "run", url=database_url, columns=70))
    words = [line.split()[0] for line in seen.splitlines() if line]
    [shown] = [word for word in words if RUN.endswith(word)]
    assert len(shown) >= 12


def test_prices_are_set_listed_shown_and_removed(database_url: str) -> None:
    rates = ("--input", "1.25", "--output", "10", "--cache-read", "0.1")
    price = cli_json(database_url, "price", "set", "acme", "large*", *rates, "--note", "contract")
    shown = cli_json(database_url, "price", "show", "acme", "larger")
    assert shown["source"] == f"own {price['id']}"
    assert (shown["cost"], shown["rates"]["cache_read"]) == ("11.25", "0.1")
    people = run_cli("price", "list", url=database_url).stdout.splitlines()
    assert people[1].split()[:5] == ["acme", "large*", "1.25", "10", "0.1"]
    assert "always" in people[1]
    assert len(cli_json(database_url, "price", "remove", "acme", "large*")) == 1
    assert cli_json(database_url, "price", "list") == []
    gone = run_cli("price", "remove", "acme", "large*", url=database_url)
    assert gone.returncode == ExitCode.NOT_FOUND


def test_a_price_that_comes_with_the_program_is_shown_with_its_version(database_url: str) -> None:
    people = run_cli("price", "show", "openai", "gpt-4o", url=database_url)
    assert people.returncode == 0
    assert "genai-prices" in people.stdout
    assert "12.50 USD" in people.stdout or "12.5 USD" in people.stdout


def test_an_unknown_price_is_said_to_be_unknown(database_url: str) -> None:
    people = run_cli("price", "show", "acme", "large", url=database_url)
    assert people.returncode == ExitCode.NO
    assert people.stdout == ""
    assert "jobsworth price set acme large" in people.stderr
    assert cli_json(database_url, "price", "show", "acme", "large", code=1)["known"] is False


def test_calls_are_repriced_once_and_a_dry_run_writes_nothing(database_url: str) -> None:
    add_call(database_url)
    add_call(database_url)
    assert run_cli(
        "price", "set", "acme", "large", "--input", "2", "--output", "4", url=database_url
    ).stderr
    reprice = ("price", "reprice", "--since", "today")
    for arguments, corrected in ((["--dry-run"], 2), ([], 2), ([], 0)):
        assert cli_json(database_url, *reprice, *arguments)["corrected"] == corrected
    [row] = cli_json(database_url, "ledger", "--by", "model")["rows"]
    assert (Decimal(row["cost"]), row["unknown_cost_entries"]) == (8, 0)
    people = run_cli(*reprice, url=database_url)
    assert "0 of 2 calls were corrected" in people.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["price", "set", "a", "b", "--input", "dear", "--output", "1"], "--input 'dear'"),
        (["price", "set", "a", "b", "--input", "1"], "--output"),
        (["price", "set", "a", "b", "--input", "1", "--output", "1", "--team", "x"], "--team"),
        (["price", "reprice", "--since", "once"], "--since 'once'"),
        (["ledger", "--json", "--csv"], "--json and --csv"),
        (["ledger", "--until", "never"], "--until 'never'"),
    ],
)
def test_a_wrong_value_is_refused(arguments: list[str], words: str) -> None:
    ended = run_cli(*arguments, url=NOBODY)
    assert ended.returncode == ExitCode.BAD_INPUT
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_impossible_price_is_refused(database_url: str) -> None:
    for model, output, words in (
        ("b", "NaN", "--output 'NaN' is not an amount"),
        ("b", "1000000000", "the price of output is"),
        ("*b", "1", "before its end"),
    ):
        arguments = ("price", "set", "a", model, "--input", "1", "--output", output)
        ended = run_cli(*arguments, url=database_url)
        assert ended.returncode == ExitCode.BAD_INPUT
        assert words in ended.stderr


def test_books_that_balance_and_books_that_do_not(database_url: str) -> None:
    add_call(database_url)
    with connect(database_url) as conn:
        conn.execute("alter table jobsworth.llm_calls disable trigger settled_calls_stay")
        conn.execute("update jobsworth.llm_calls set estimated_input_tokens = 0")
    assert cli_json(database_url, "books", "check") == {"balanced": True, "imbalances": []}
    assert run_cli("books", "check", url=database_url).stderr == "the books balance\n"
    with connect(database_url) as conn:
        conn.execute("update jobsworth.llm_calls set input_tokens = 7")
    ended = run_cli("books", "check", url=database_url)
    assert ended.returncode == ExitCode.NO
    assert "a settlement says what was used" in ended.stdout
    assert "2 disagreements" in ended.stderr
    assert cli_json(database_url, "books", "check", code=1)["balanced"] is False
    seen = plain(run_in_terminal("books", "check", url=database_url, columns=60))
    assert "\n  expected  " in seen
    assert "…" not in seen


def test_a_price_may_be_that_of_a_tier_and_of_any_class(database_url: str) -> None:
    acme = ("price", "set", "acme", "large", "--input", "2", "--output", "4")
    cli_json(database_url, *acme, "--rate", "input_audio=30", "--rate", "web_search=0.01")
    cli_json(database_url, *acme, "--tier", "flex")
    standard, flex = cli_json(database_url, "price", "list")
    if standard["tier"]:
        standard, flex = flex, standard
    assert standard["others"] == {"input_audio_mtok": "30", "web_searches_kcount": "10.00"}
    assert (flex["tier"], flex["others"]) == ("flex", {})
    people = run_cli("price", "list", url=database_url, env={"COLUMNS": "200"}).stdout
    assert "input_audio=30, web_search=0.01" in people
    unknown = run_cli("price", "show", "acme", "large", "--tier", "scale", url=database_url)
    assert "jobsworth price set acme large --tier scale" in unknown.stderr
    refused = run_cli(*acme, "--rate", "web_serch=1", url=database_url)
    assert "do you mean web_search?" in refused.stderr
