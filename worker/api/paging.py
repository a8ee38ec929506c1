"""Pages of a list: newest first, to be turned both ways.

In: `limit`, and `before` or `after` from another page. Out: items, and what the next pages are
asked with. Invariant: a page is found by an id, not counted, so that the last page costs what the
first does, and rows that come meanwhile move nothing.
"""

from collections.abc import Sequence
from typing import Annotated, Generic, Protocol, TypeVar, cast
from uuid import UUID

from fastapi import Depends, Query
from pydantic import BaseModel

from db.errors import InvalidInput

LIMIT_MAX = 1_000
LIMIT = 50

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX)]


class Identified(Protocol):
    """A row that has an id."""

    @property
    def id(self) -> UUID: ...


T = TypeVar("T", bound=BaseModel)


class Page(BaseModel, Generic[T]):
    """Newest first. `next`: pass it as `before` for older ones, null at the end. `previous`: pass
    it as `after` for newer ones, those that are still to come included.
    """

    items: list[T]
    next: UUID | None
    previous: UUID | None


class Place:
    """Where a page begins, and how long it is."""

    def __init__(
        self,
        limit: Limit = LIMIT,
        before: Annotated[UUID | None, Query(description="older than this id")] = None,
        after: Annotated[UUID | None, Query(description="newer than this id")] = None,
    ) -> None:
        if before is not None and after is not None:
            raise InvalidInput("before and after are both given", "give one of them")
        self.limit, self.before, self.after = limit, before, after

    def page(self, items: Sequence[T]) -> Page[T]:
        """The page of what was found."""
        ends = self.after is None and len(items) < self.limit
        ids = [cast(Identified, one).id for one in items]
        return Page(
            items=list(items),
            next=None if ends else ids[-1] if ids else self.after,
            previous=ids[0] if ids else self.before,
        )


At = Annotated[Place, Depends()]
