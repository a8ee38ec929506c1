"""The catalogue of events: every line that is logged has the fields that the catalogue promises."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from worker import events, outages

WORKER = Path(events.__file__).parent
METHODS = {"debug", "info", "warning", "error", "exception", "log"}


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Each call that logs an event of the catalogue: its constant, the call, its place."""
    for path in sorted(WORKER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                for name in named(node) if node.func.attr in METHODS else ():
                    yield name, node, f"{path.relative_to(WORKER)}:{node.lineno}"


def lines() -> Iterator[tuple[str, set[str], str]]:
    """Each such call: its constant, its fields, its place."""
    for name, call, place in calls():
        yield name, fields_of(call), place


def named(call: ast.Call) -> Iterator[str]:
    """The constants among its positional arguments, in a choice too."""
    for argument in call.args:
        choice = [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]
        for one in choice:
            if isinstance(one, ast.Attribute) and getattr(one.value, "id", "") == "events":
                yield one.attr


def fields_of(call: ast.Call) -> set[str]:
    """Its keywords, and the literal keys of dictionaries that are spread into it."""
    fields = {keyword.arg for keyword in call.keywords if keyword.arg}
    for keyword in call.keywords:
        if keyword.arg is None:
            for node in ast.walk(keyword.value):
                if isinstance(node, ast.Dict):
                    keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
                    fields |= {key for key in keys if isinstance(key, str)}
    return fields


def test_every_line_has_the_fields_that_the_catalogue_promises() -> None:
    missing = [
        f"{place}: {name} without {sorted(promised - fields)}"
        for name, fields, place in lines()
        if (promised := set(events.FIELDS.get(getattr(events, name), ()))) - fields
    ]
    assert missing == []


def test_promises_are_for_events_of_the_catalogue() -> None:
    assert set(events.FIELDS) <= set(events.DESCRIPTIONS)
    places: defaultdict[str, list[str]] = defaultdict(list)
    for name, _, place in lines():
        places[getattr(events, name)].append(place)
    assert set(events.FIELDS) <= set(places)


def test_what_parts_say_of_errors_carries_the_error_itself() -> None:
    """Of its text alone nobody could tell that the database is lost."""
    texts = [
        place
        for name, call, place in calls()
        if getattr(events, name) in outages.OF_PARTS
        for keyword in call.keywords
        if keyword.arg == "error" and ast.unparse(keyword.value).startswith(("str(", "f'"))
    ]
    assert texts == []
