"""An amount has one notation: what another country reads otherwise is refused, with the remedy."""

from __future__ import annotations

from decimal import Decimal

import pytest

from db.errors import InvalidInput
from tests.support import run_cli
from worker.cli.terminal.amounts import read_amount, read_count


@pytest.mark.parametrize(
    ("text", "amount"),
    [("5", "5"), ("0.50", "0.50"), ("90_000", "90000"), ("1_234.5", "1234.5"), ("0", "0")],
)
def test_an_amount_is_read_exactly(text: str, amount: str) -> None:
    assert read_amount(text, "--money", "US dollars") == Decimal(amount)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "5 ",
            ".5",
            "5.",
            "1e3",
            "+5",
            "-5",
            "nan",
            "inf",
            "0x10",
            "1__0",
            "_1",
            "5.0.0",
        ),
        *("٣", "１２", "5$", "5 USD", "1'000", "1 000", "9" * 40),
    ],
    ids=repr,
)
def test_another_notation_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--money .* is not an amount .give US dollars"):
        read_amount(text, "--money", "US dollars")


@pytest.mark.parametrize("text", ["0,50", "5,00", "1,000", "1.000,50", ",5"])
def test_a_comma_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(InvalidInput, match="has a comma: write decimals with a point .like 0.50"):
        read_amount(text, "--money", "US dollars")


def test_tokens_are_whole() -> None:
    assert read_count("2.0", "--tokens", "tokens") == 2
    with pytest.raises(InvalidInput, match="--tokens '1.5' is not a whole number"):
        read_count("1.5", "--tokens", "tokens")


def test_the_commands_read_amounts_like_this(database_url: str) -> None:
    run_cli("budget", "set", "b", "--money", "5", url=database_url)
    for command in (
        ("budget", "set", "b", "--money", "0,50"),
        ("budget", "set", "b", "--tokens", "1.5"),
        ("budget", "raise", "b", "5,00"),
        ("price", "set", "openai", "m", "--input", "0,25", "--output", "1"),
        ("price", "set", "openai", "m", "--input", "1", "--output", "1", "--cache-read", "nan"),
    ):
        ended = run_cli(*command, url=database_url)
        assert ended.returncode == 2, ended.stderr
        assert "→" in ended.stderr
        assert any(repr(word) in ended.stderr for word in command)
    listed = run_cli("budget", "--json", url=database_url)
    assert '"5"' in listed.stdout
