"""`jobsworth budget` and `jobsworth limit`."""

from __future__ import annotations

import pytest

from tests.support import run_cli
from tests.worker.cli.support import cli_json
from worker.cli.terminal.exit_codes import ExitCode


def test_a_budget_is_set_shown_raised_reset_and_removed(database_url: str) -> None:
    made = cli_json(
        database_url,
        *("budget", "set", "daily", "--money", "5", "--per", "day", "--mode", "answer"),
        *("--over", "ask"),
    )
    assert (made["amount"], made["unit"], made["mode"], made["over"]) == (
        "5",
        "money",
        "answer",
        "ask",
    )
    assert cli_json(database_url, "budget", "raise", "daily", "7.50")["amount"] == "7.50"
    assert cli_json(database_url, "budget", "reset", "daily")["reset_at"] is not None
    shown = run_cli("budget", "list", url=database_url).stdout
    assert "mode=answer" in shown
    assert "7.50 USD" in shown
    assert cli_json(database_url, "budget", "remove", "daily")["active"] is False
    assert cli_json(database_url, "budget", "list") == []
    assert len(cli_json(database_url, "budget", "list", "--all")) == 1


def test_a_limit_is_set_shown_and_removed(database_url: str) -> None:
    made = cli_json(database_url, "limit", "set", "openai", "gpt", "--requests", "500")
    assert (made["model"], made["requests_per_minute"]) == ("gpt", 500)
    cli_json(database_url, "limit", "set", "openai", "--tokens", "30000")
    assert [one["model"] for one in cli_json(database_url, "limit", "list")] == ["*", "gpt"]
    assert "30,000" in run_cli("limit", "list", url=database_url).stdout
    cli_json(database_url, "limit", "remove", "openai")
    assert len(cli_json(database_url, "limit", "list")) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("budget", "set", "daily"), ExitCode.BAD_INPUT, "either --money or --tokens"),
        (("budget", "set", "daily", "--money", "much"), ExitCode.BAD_INPUT, "not an amount"),
        (("budget", "set", "daily", "--money", "NaN"), ExitCode.BAD_INPUT, "not an amount"),
        (("budget", "raise", "weekly", "5"), ExitCode.NOT_FOUND, "no budget weekly"),
        (("limit", "set", "openai"), ExitCode.BAD_INPUT, "--requests or --tokens"),
        (("limit", "remove", "openai"), ExitCode.NOT_FOUND, "no limit of openai"),
    ],
)
def test_a_mistake_is_explained_in_one_line(
    database_url: str, arguments: tuple[str, ...], code: ExitCode, said: str
) -> None:
    ended = run_cli(*arguments, url=database_url)
    assert ended.returncode == code
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
