"""Names of what people make, and what is said of a name that is not there."""

from db.errors import InvalidInput, NotFound, shown

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


def missing(thing: str, name: object) -> NotFound:
    """The error about a thing that is not there; its noun lists what is."""
    return NotFound(f"there is no {thing} {shown(str(name))}", f"list them: jobsworth {thing} list")
