"""How values of the database become values of Python, also those that Python does not have.

In: a psycopg connection or cursor. Out: the same, on which one value never makes a whole list
unreadable: a document that Python cannot read becomes `Unreadable`, and a time beyond Python's
years (`infinity`, the year 20000, 44 BC) or an interval beyond its days becomes the last or the
first that Python can compute with.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from psycopg import DataError, adapters
from psycopg.abc import AdaptContext, Buffer, Loader
from psycopg.adapt import Loader as BaseLoader
from psycopg.pq import Format
from psycopg.types.json import set_json_loads

from db.documents import from_document

# A day inside Python's limits, so that a change of the time zone stays inside them too.
FIRST = datetime(1, 1, 2, tzinfo=UTC)
LAST = datetime(9999, 12, 30, tzinfo=UTC)

_BOUNDS: dict[str, tuple[Any, Any]] = {
    "timestamptz": (FIRST, LAST),
    "timestamp": (FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None)),
    "date": (FIRST.date(), LAST.date()),
    "interval": (timedelta.min, timedelta.max),
}


def read_everything(context: AdaptContext) -> None:
    """Let this connection or cursor read whatever the database can hold."""
    set_json_loads(from_document, context)
    for loader in _LOADERS:
        context.adapters.register_loader(loader.oid, loader)


class _Bounded(BaseLoader):
    oid: int  # of the type that it loads
    driver: type[Loader]
    bounds: tuple[Any, Any]

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._driver = self.driver(oid, context)

    def load(self, data: Buffer) -> datetime | date | timedelta:
        try:
            return self._driver.load(data)
        except (DataError, OverflowError):
            return self.bounds[0 if self._is_early(bytes(data)) else 1]

    def _is_early(self, data: bytes) -> bool:
        if self.format == Format.BINARY:
            return data[0] >= 0x80
        return data.startswith(b"-") or data.endswith(b"BC")


def _bounded(name: str, written: Format) -> type[_Bounded]:
    oid = adapters.types[name].oid
    driver = adapters.get_loader(oid, written)
    assert driver is not None
    values = {"oid": oid, "format": written, "driver": driver, "bounds": _BOUNDS[name]}
    return type(f"Bounded{driver.__name__}", (_Bounded,), values)


# No statement sent in binary returns an interval.
_LOADERS = [
    _bounded(name, written)
    for name in _BOUNDS
    for written in (Format.TEXT, Format.BINARY)
    if (name, written) != ("interval", Format.BINARY)
]
