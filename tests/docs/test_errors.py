"""The page about errors says what the code says."""

from __future__ import annotations

from db.errors import REMEDIES
from tests.docs.errors import PAGE, page
from worker.cli.terminal.exit_codes import ExitCode


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page(), "run: make docs"


def test_it_names_every_code_and_every_exit() -> None:
    written = page()
    assert [code for code in REMEDIES if code and f"| `{code}` |" not in written] == []
    assert [code for code in ExitCode if f"| {code.value} |" not in written] == []
