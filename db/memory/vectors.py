"""Vectors as the database reads them."""

from collections.abc import Sequence

from pgvector import HalfVector

from db.errors import InvalidInput

Vector = Sequence[float]


def halfvec(vector: Vector, dimensions: int, model: str) -> str:
    """The text of a `halfvec`. Raises `InvalidInput` for a vector of another length, and for one
    with a number that half precision does not hold.
    """
    if len(vector) != dimensions:
        raise InvalidInput(
            f"a vector has {len(vector)} dimensions, the space of {model} has {dimensions}",
            "embed with that model, or create a space of that dimension",
        )
    try:
        text = HalfVector([float(number) for number in vector]).to_text()
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"a vector holds something that is not a half-precision number: {error}",
            "give finite numbers up to 65504",
        ) from error
    if "n" in text:
        raise InvalidInput("a vector holds nan or infinity", "give finite numbers up to 65504")
    return text
