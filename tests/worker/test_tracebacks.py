"""A traceback says first where in the user's own code it happened, then the causes; no secrets."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest

from tests.worker.queue.attempts import outcome_from
from worker.outcomes import Canceled, Failed
from worker.tracebacks import TRACEBACK_CHARACTERS_MAX, own_place, traceback_of


def caught(work: Any) -> BaseException:
    try:
        work()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def parse() -> None:
    json.loads("{broken")


def translate() -> None:
    try:
        parse()
    except ValueError as error:
        raise LookupError("no such order") from error


def test_the_own_frame_comes_first_then_the_exception_then_its_causes() -> None:
    lines = (traceback_of(caught(translate)) or "").splitlines()
    assert lines[0].startswith(f"{__file__}:")
    assert lines[0].endswith('in translate: raise LookupError("no such order") from error')
    assert lines[1] == "LookupError: no such order"
    [cause] = [n for n, line in enumerate(lines) if line.startswith("caused by JSONDecodeError: ")]
    # The library's frames are there, after the user's own.
    assert any("in raw_decode" in line for line in lines[cause:])


def test_a_librarys_error_names_the_line_that_called_it() -> None:
    place = own_place(caught(parse), None)
    assert place is not None
    assert (place.file, place.function) == (__file__, "parse")


def test_a_handler_that_is_installed_as_a_package_is_the_users_own() -> None:
    """Else an error would name the line of whatever library it called."""
    module = ModuleType("shop.jobs")
    source = "import json\ndef work():\n    json.loads('{')\n"
    exec(compile(source, "/srv/lib/python3/site-packages/shop/jobs.py", "exec"), module.__dict__)
    error = caught(module.work)
    assert own_place(error, module.work) == (
        "/srv/lib/python3/site-packages/shop/jobs.py",
        3,
        "work",
    )


def test_an_endless_recursion_a_cycle_of_causes_and_a_wide_group_stay_short() -> None:
    def again() -> None:
        again()

    first, second = ValueError("one"), ValueError("two")
    first.__cause__, second.__cause__ = second, first

    def circle() -> None:
        raise first

    def wide() -> None:
        raise ExceptionGroup("many", [ExceptionGroup("inner", [first] * 50) for _ in range(50)])

    for work in (again, circle, wide):
        text = traceback_of(caught(work))
        assert text is not None
        assert len(text) <= TRACEBACK_CHARACTERS_MAX
    assert "more frames" in (traceback_of(caught(again)) or "")


def test_secrets_are_masked_also_where_a_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "canary-in-the-coal-mine")

    def work() -> None:
        for pad in range(980, 1020):
            try:
                raise ValueError("x" * pad + "canary-in-the-coal-mine")
            except ValueError as error:
                said = traceback_of(error) or ""
                assert "canary" not in said
        raise ConnectionError("postgresql://shop:canary-in-the-coal-mine@db/shop")

    assert "canary" not in (traceback_of(caught(work)) or "")


class Rude(Exception):
    def __str__(self) -> str:
        raise SystemExit


async def test_every_failure_of_a_handler_has_its_traceback() -> None:
    async def rude() -> None:
        raise Rude

    outcome = await outcome_from(rude)
    assert isinstance(outcome, Failed)
    assert "in rude: raise Rude" in (outcome.traceback or "")


async def test_a_handler_that_is_stopped_says_where_it_was() -> None:
    import anyio

    async def slow() -> None:
        await anyio.sleep(60)

    outcome = await outcome_from(slow, timeout_seconds=0.02)
    assert isinstance(outcome, Failed | Canceled)
    assert "in slow: await anyio.sleep(60)" in (outcome.traceback or "")
