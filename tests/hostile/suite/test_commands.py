"""Every odd value of every parameter of every command is answered in words."""

from __future__ import annotations

from collections.abc import Callable

from tests.worker.cli.mishaps.test_careless import Typing, check_careless
from tests.worker.cli.mishaps.test_careless import ids as ids
from tests.worker.cli.mishaps.test_careless import typing as typing


def test_an_odd_value_of_any_parameter_of_any_command_is_answered_in_words(
    ids: dict[str, str], typing: Typing, count: Callable[[int], None]
) -> None:
    count(check_careless(ids, typing, every=1))
