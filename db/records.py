"""Rows as objects, also rows whose values the class does not allow.

In: a class, and the columns of a row. Out: an object of that class. Invariant: one odd value (a
document that is no object, a null in a list) makes no row unreadable; the field that has it holds
`Unreadable` with the reason, and the other fields are as always.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from psycopg import AsyncCursor
from pydantic import BaseModel, TypeAdapter, ValidationError

from db.documents import Unreadable

MakeRow = Callable[[Sequence[Any]], Any]


def rows_of(into: type[Any]) -> Callable[[AsyncCursor[Any]], MakeRow]:
    """A row factory of psycopg that makes `into(**row)`."""

    def factory(cursor: AsyncCursor[Any]) -> MakeRow:
        names = [column.name for column in cursor.description or ()]

        def make(values: Sequence[Any]) -> Any:
            row = dict(zip(names, values, strict=True))
            try:
                return into(**row)
            except ValidationError as error:
                if not issubclass(into, BaseModel):
                    raise
                return _despite(error, into, row)

        return make

    return factory


def _despite(error: ValidationError, into: type[BaseModel], row: dict[str, Any]) -> BaseModel:
    """The row without its odd values; a number that is none (NaN) stays, as it can be shown."""
    reasons = {problem["loc"][0]: problem["msg"] for problem in error.errors(include_url=False)}
    values: dict[str, Any] = {}
    for name, value in row.items():
        if name not in reasons:
            field = TypeAdapter[Any](into.model_fields[name].annotation)
            values[name] = field.validate_python(value)
        else:
            odd = not isinstance(value, Decimal)
            values[name] = Unreadable(reasons[name]) if odd else value
    return into.model_construct(**values)
