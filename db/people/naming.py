"""Names of what people make, and what is said of a name that is not there."""

from typing import TypeVar
from uuid import UUID

from db.errors import InvalidInput, NotFound, shown

T = TypeVar("T")

LIMIT_MAX = 1_000
NAME_BYTES_MAX = 1_000


def check_name(thing: str, name: object) -> str:
    """The name; raises `InvalidInput` unless it is a text of 1 to 1,000 bytes."""
    if (
        not isinstance(name, str)
        or not name.strip()
        or "\0" in name
        or len(name.encode(errors="replace")) > NAME_BYTES_MAX
    ):
        raise InvalidInput(
            f"{thing} {shown(name)} is not a text of 1 to {NAME_BYTES_MAX:,} bytes",
            "give one, like 'research'",
        )
    return name


def id_or_name(given: UUID | str) -> dict[str, UUID | str | None]:
    """`id` or `name`, whichever was given; the other one is None."""
    by_id = isinstance(given, UUID)
    return {"id": given if by_id else None, "name": None if by_id else given}


def existing(found: T | None, thing: str, name: object) -> T:
    """What was found by that name, if anything: else `NotFound`, which says what lists them."""
    if found is None:
        raise NotFound(
            f"there is no {thing} {shown(str(name))}", f"list them: jobsworth {thing} list"
        )
    return found


def existing_in_team(found: T | None, thing: str, given: UUID | str, team_id: UUID | None) -> T:
    """`existing`, of what has its name within a team: the same name in another team is another."""
    if found is None and not isinstance(given, UUID):
        where = "without a team" if team_id is None else f"in team {team_id}"
        raise NotFound(
            f"there is no {thing} {shown(given)} {where}",
            f"list them with their teams: jobsworth {thing} list; name one's team: --team",
        )
    return existing(found, thing, given)
