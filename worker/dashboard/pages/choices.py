"""Words that an address chooses.

In: a text. Out: the member of an enumeration, or `InvalidInput` with the words that there are.
"""

from enum import StrEnum
from typing import TypeVar

from db.errors import InvalidInput

Word = TypeVar("Word", bound=StrEnum)


def chosen(words: type[Word], text: str | None) -> Word | None:
    """The word that a text is; None for None. Raises `InvalidInput`."""
    if text is None:
        return None
    try:
        return words(text)
    except ValueError:
        known = ", ".join(words)
        raise InvalidInput(f"{text!r} is no such word", f"choose one of {known}") from None
