"""JSON documents that PostgreSQL stores and that strain whoever reads them.

`fixed()` are the known extremes, each by its name; `drawn(seed)` are documents of a grammar that
places extremes at random depths. All are JSON objects as text, below the bound of a payload.
"""

from __future__ import annotations

import json
import random
from collections.abc import Generator

BYTES_MAX = 900_000

# Numbers as JSON writes them. Beyond 4,300 digits Python refuses; jsonb holds 131,072.
NUMBERS = {
    "zero": "0",
    "minus zero": "-0",
    "a float": "0.1",
    "2**53 + 1": "9007199254740993",
    "2**63": "9223372036854775808",
    "minus 2**64": "-18446744073709551616",
    "largest float": "1.7976931348623157e308",
    "above the floats": "1e309",
    "tiny": "5e-324",
    "below the floats": "1e-400",
    "4,299 digits": "1e4298",
    "4,300 digits": "9" * 4300,
    "4,301 digits": "1e4300",
    "5,001 digits": "1e5000",
    "minus 5,001 digits": "-1e5000",
    "131,072 digits": "1e131071",
    "16,383 decimals": "1e-16383",
    "many decimals": "0." + "3" * 5000,
    "100 digits and decimals": "1" * 100 + "." + "7" * 100,
}
TEXTS = {
    "empty": "",
    "blank": " \t\n",
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f",
    "an escaped NUL": "\\u0000",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "right to left": "\u05e9\u05dc\u05d5\u05dd\u202e txt.exe",
    "non-characters": "\ufffe\uffff\U0010ffff",
    "combining": "e" + "\u0301" * 500,
    "SQL": "'; drop table reactive_jobs; --",
    "format": "%s %(x)s {0} {x.__class__} ${HOME} %n",
    "a terminal's escape": "\x1b[2J\x1b]0;title\x07",
    "JSON": '{"n": 1e5000}',
    "100 kB": "x" * 100_000,
    "800 kB": "€" * 260_000,
    "lines": "line\n" * 20_000,
    "NaN": "NaN",
    "infinity": "infinity",
    "a secret's shape": "sk-" + "a" * 48,
}
NAMES = (
    "",
    " ",
    "__class__",
    "__proto__",
    "self",
    "job",
    "payload",
    "class",
    "n" * 10_000,
    "é",
    "$ref",
)
DEPTHS = (50, 90, 200, 900, 990, 1_000, 1_100, 3_000, 5_000)


def fixed() -> dict[str, str]:
    """Each known extreme as a document of its own, by name."""
    return {
        **{f"number: {name}": f'{{"n": {text}}}' for name, text in NUMBERS.items()},
        **{f"number in a list: {name}": f'{{"n": [{text}]}}' for name, text in NUMBERS.items()},
        **{f"text: {name}": json.dumps({"s": text}) for name, text in TEXTS.items()},
        **{f"name: {name[:20]!r}": json.dumps({name: 1}) for name in NAMES},
        **{f"lists {depth} deep": f'{{"l": {_lists(depth)}}}' for depth in DEPTHS},
        **{f"objects {depth} deep": _objects(depth) for depth in DEPTHS},
        "20,000 names": json.dumps({f"name {n}": n for n in range(20_000)}),
        "100,000 nulls": json.dumps({"l": [None] * 100_000}),
        "a list of everything": json.dumps({"l": [1, "1", None, True, {}, [], 1.5]}),
        "the name twice": '{"a": 1, "a": 2}',
        "nothing": "{}",
    }


def drawn(seed: int, documents: int) -> Generator[str]:
    """That many different documents, the same ones for the same seed."""
    draw = random.Random(seed)
    seen: set[str] = set()
    while len(seen) < documents:
        text = _object(draw, [_value(draw, 0) for _ in range(draw.randint(1, 4))])
        if len(text.encode()) <= BYTES_MAX and text not in seen:
            seen.add(text)
            yield text


def _value(draw: random.Random, depth: int) -> str:
    kind = draw.random()
    if kind < 0.35:
        return draw.choice(list(NUMBERS.values()))
    if kind < 0.6:
        return json.dumps(draw.choice([text for text in TEXTS.values() if len(text) < 5_000]))
    if kind < 0.7 or depth > 5:
        return draw.choice(("null", "true", "false", "[]", "{}"))
    if kind < 0.75:
        return _lists(draw.choice(DEPTHS[:6]))
    inner = [_value(draw, depth + 1) for _ in range(draw.randint(0, 4))]
    if kind < 0.88:
        return f"[{', '.join(inner)}]"
    return _object(draw, inner)


def _object(draw: random.Random, values: list[str]) -> str:
    return "{" + ", ".join(f"{json.dumps(_name(draw))}: {one}" for one in values) + "}"


def _name(draw: random.Random) -> str:
    return (
        draw.choice(NAMES)
        if draw.random() < 0.3
        else draw.choice("nslabcx") + str(draw.randint(0, 9))
    )


def _lists(depth: int) -> str:
    return "[" * depth + "]" * depth


def _objects(depth: int) -> str:
    return '{"o": ' * depth + "{}" + "}" * depth
