"""Which memories come first: by similarity, how recent they are, and how important.

In: what a search found, nearest first. Out: the same, best first, each with the parts of its score;
those that say the same in nearly the same words are one hit. Pure.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from db.errors import InvalidInput, shown
from db.memory.memories import Hit

WEIGHT_MAX = 1_000.0
SECONDS_MAX = 100 * 365 * 86_400.0
# Words that change nothing. No negation, no number, no name is among them.
_LIGHT = frozenset(["a", "an", "the", "also", "just", "please", "really", "very"])
_EDGES = ".,;:!?\"'()[]{}<>«»„“”‘’…*`"


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each part counts in a score, 0 to 1,000; after `half_life_seconds` recency is half.

    An agent has its own, where it says so (`jobsworth agent save`).
    """

    similarity_weight: float = 1.0
    recency_weight: float = 0.1
    importance_weight: float = 0.1
    half_life_seconds: float = 30 * 86_400.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            seconds = field.name == "half_life_seconds"
            least, most = (1.0, SECONDS_MAX) if seconds else (0.0, WEIGHT_MAX)
            wrong = isinstance(value, bool) or not isinstance(value, int | float)
            if wrong or not least <= value <= most:
                raise InvalidInput(
                    f"{field.name} {shown(value)} is not a number from {least:,.0f} to {most:,.0f}",
                    "leave it out, for the default",
                )


WEIGHTS = tuple(field.name for field in fields(Weights))


class Parts(BaseModel):
    """What a score is the sum of, each part weighted.

    similarity: of the nearest chunk. identifiers: of the query that the memory has, each as much as
    the highest similarity. recency: 1 for what holds since now, half of it after each half-life.
    importance: as it was given.
    """

    model_config = ConfigDict(frozen=True)

    similarity: float
    identifiers: float
    recency: float
    importance: float


class Recalled(Hit):
    """A memory that was recalled. `score` is the sum of its `parts`; `similarity` is unweighted.

    `duplicates`: further memories that say the same in nearly the same words.
    """

    similarity: float
    parts: Parts
    duplicates: tuple[UUID, ...] = ()


def chosen(*given: Mapping[str, Any]) -> Weights:
    """The first of these that says something of a weight counts. Raises `InvalidInput`."""
    values: dict[str, Any] = {}
    for one in reversed(given):
        values.update({name: one[name] for name in WEIGHTS if one.get(name) is not None})
    return Weights(**values)


def ranked(hits: Iterable[Hit], weights: Weights, now: datetime) -> list[Recalled]:
    """All of these, best first; what says the same is one, the best of them, in each team."""
    scored = sorted(((_score(hit, weights, now), hit) for hit in hits), key=_place)
    alike: dict[object, list[tuple[_Score, Hit]]] = {}
    for one in scored:
        alike.setdefault((one[1].team_id, said(one[1].text)), []).append(one)
    return [_recalled(*first, [hit.id for _, hit in others]) for first, *others in alike.values()]


def said(text: str) -> Sequence[str]:
    """What a text says: its words in their order, without case, punctuation and light words.

    Two texts of which a number, a name, a negation or the order differs say different things.
    """
    words = [word.strip(_EDGES) for word in re.split(r"\s+", text.casefold())]
    return tuple(word for word in words if word and word not in _LIGHT) or text


class _Score(NamedTuple):
    """As `Parts`, which are made of those that are left."""

    similarity: float
    identifiers: float
    recency: float
    importance: float


def _score(hit: Hit, weights: Weights, now: datetime) -> _Score:
    age_seconds = max(0.0, (now - (hit.valid_from or hit.created_at)).total_seconds())
    return _Score(
        similarity=weights.similarity_weight * hit.score,
        identifiers=weights.similarity_weight * hit.matched,
        recency=weights.recency_weight * 0.5 ** (age_seconds / weights.half_life_seconds),
        importance=weights.importance_weight * hit.importance,
    )


def _place(one: tuple[_Score, Hit]) -> tuple[float, float, str]:
    score, hit = one
    return -sum(score), -hit.score, hit.id.hex


def _recalled(score: _Score, hit: Hit, duplicates: Sequence[UUID]) -> Recalled:
    values = {
        **hit.model_dump(),
        "score": sum(score),
        "similarity": hit.score,
        "parts": Parts(**score._asdict()),
        "duplicates": tuple(duplicates),
    }
    return Recalled.model_validate(values)
