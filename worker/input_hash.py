"""The input of a step, as a hash: is this the question that the recorded answer belongs to?

In: a step's arguments. Out: the SHA-256 of their canonical JSON (sorted keys). What is no JSON (the
job itself, a connection, a function) counts by the name of its type alone: two of a type are alike.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

import orjson
from pydantic import BaseModel

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS


def input_hash(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The hash of a call's arguments, hexadecimal; total, whatever they are."""
    if not args and not kwargs:
        return _NOTHING
    return _hash((args, kwargs))


def _hash(value: object) -> str:
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: object) -> bytes:
    try:
        return orjson.dumps(value, _plain, _OPTIONS)
    except TypeError:
        pass
    try:
        # What orjson refuses: long integers, halves of surrogate pairs, keys of mixed types.
        return json.dumps(value, sort_keys=True, default=_plain).encode()
    except (TypeError, ValueError, RecursionError):
        return orjson.dumps(_type_name(value))


def _plain(value: object) -> object:
    """What stands for a value that JSON does not know."""
    match value:
        case BaseModel():
            return value.model_dump()
        case bytes() | bytearray():
            return {"bytes": hashlib.sha256(value).hexdigest()}
        case tuple():
            return list(cast(tuple[object, ...], value))
        case set() | frozenset():
            return sorted(_canonical(one).decode() for one in cast(set[object], value))
        case Decimal() | PurePath() | UUID() | date() | time() | timedelta():
            return str(value)
        case Enum():
            return value.value
        case Mapping():
            return dict(cast(Mapping[object, object], value))
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in fields(value)}
        case _:
            return _type_name(value)


def _type_name(value: object) -> dict[str, str]:
    kind = value if isinstance(value, type) else type(value)
    return {"type": f"{kind.__module__}.{kind.__qualname__}"}


_NOTHING = _hash(((), dict[str, object]()))
