"""Text in, vectors out: what an embedder is, and the offline lexical one.

In: texts. Out: vectors of shape `(len(texts), dimensions)`, in the order of the texts. Invariant:
either all vectors are there and usable, or an `EmbedderError` says what was wrong; no partial
result is returned. `space` names what makes its vectors comparable.
"""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import anyio.to_thread

from db.memory.spaces import SpaceKey
from db.memory.vectors import Vector
from worker.memory.chunks import chunker_name

TIMEOUT_SECONDS = 30.0
# A chunk: some paragraphs. Within the limit of every known endpoint (8,191 tokens), in any script.
CHUNK_CHARACTERS = 2_000
# The provider in the key of an endpoint's space.
ENDPOINT = "openai-compatible"


class EmbedderError(Exception):
    """The embedder did not return usable vectors; another try may succeed."""


class EmbedderBusy(EmbedderError):
    """The endpoint asks to be called later: in `after_seconds`, if it said so."""

    def __init__(self, message: str, after_seconds: float | None) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class EmbedderRefused(EmbedderError):
    """The endpoint refuses one of these texts."""


class EmbedderDenied(EmbedderError):
    """A budget, a rate limit of ours or an unknown price is in the way; nothing was sent.

    There may be room in `after_seconds`. `limited`: it is a rate limit, so it is not asked again
    for a part of the texts: who is sent away takes a turn that others wait for.
    """

    def __init__(self, message: str, after_seconds: float, *, limited: bool = False) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds
        self.limited = limited


class Booking(Protocol):
    """A request that is in the books and may be sent; exactly one ending settles it."""

    @property
    def request_id(self) -> str: ...

    async def answered(self, tokens: int | None, vectors: Sequence[Vector]) -> None:
        """The endpoint answered, and counted so many tokens; None: it did not say."""
        ...

    async def spoilt(self, tokens: int | None, error: object) -> None:
        """The endpoint answered, and bills that, but the answer cannot be used."""
        ...

    async def refused(self, error: object) -> None:
        """The endpoint refused, and billed nothing."""
        ...

    async def limited(self, error: object, wait_seconds: float | None) -> None:
        """It refused for its rate limit: all workers ask it more seldom from now on."""
        ...

    async def unsent(self, error: object) -> None:
        """Certainly not a byte was sent."""
        ...

    async def lost(self, error: object) -> None:
        """What the request cost is unknown: it is held at its estimate."""
        ...


class Account(Protocol):
    """Who pays for requests: see `worker.memory.account`."""

    async def begin(self, texts: Sequence[str]) -> Booking:
        """Book a request that is about to be sent. Raises `EmbedderDenied`."""
        ...


class Embedder(Protocol):
    """Makes vectors. `lexical` ones compare words and spellings, not meanings."""

    @property
    def model(self) -> str: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def lexical(self) -> bool: ...
    @property
    def description(self) -> str: ...
    @property
    def chunk_characters(self) -> int:
        """The most characters of a text that it embeds well; longer ones are cut."""
        ...

    @property
    def space(self) -> SpaceKey: ...

    @property
    def paid(self) -> bool:
        """Whether its requests may cost money. One that costs nothing books nothing."""
        ...

    async def embed(self, texts: Sequence[str], account: Account) -> list[list[float]]:
        """Vectors of shape `(len(texts), dimensions)`; each request is booked with `account`.

        Raises `EmbedderError`.
        """
        ...

    async def close(self) -> None: ...


def space_key(provider: str, embedder: Embedder) -> SpaceKey:
    """The key of an embedder's space."""
    chunker = chunker_name(embedder.chunk_characters)
    return SpaceKey(provider, embedder.model, embedder.dimensions, chunker)


@dataclass(frozen=True, slots=True)
class HashingEmbedder:
    """Words, pairs of words and pieces of words, hashed into a vector of length 1.

    Lexical: texts that share words or stems are near, synonyms are not. Offline, free, and the same
    on every machine (the hash is BLAKE2b). Feature hashing with signs (Weinberger et al. 2009); a
    feature that occurs n times counts 1 + ln n. A text without letters or digits has no direction:
    its vector is zero, and no search finds it.
    """

    dimensions: int = 256

    @property
    def model(self) -> str:
        return "jobsworth-lexical-1"

    @property
    def chunk_characters(self) -> int:
        return CHUNK_CHARACTERS

    @property
    def space(self) -> SpaceKey:
        return space_key("jobsworth", self)

    @property
    def lexical(self) -> bool:
        return True

    @property
    def description(self) -> str:
        return "offline lexical embedder: compares words and spellings, not meanings"

    @property
    def paid(self) -> bool:
        return False

    async def embed(
        self, texts: Sequence[str], account: Account | None = None
    ) -> list[list[float]]:
        # In a thread: a long text would block the event loop.
        return await anyio.to_thread.run_sync(self.vectors, texts)

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """As `embed`, in this thread."""
        return [_lexical_vector(text, self.dimensions) for text in texts]

    async def close(self) -> None:
        return


_WORD = re.compile(r"\w+")
PIECE_CHARACTERS = (3, 4, 5)


def _lexical_vector(text: str, dimensions: int) -> list[float]:
    vector = [0.0] * dimensions
    for feature, times in Counter(_features(text)).items():
        weight, name = feature
        number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
        sign = 1.0 if number & 1 else -1.0
        vector[(number >> 1) % dimensions] += sign * weight * (1.0 + math.log(times))
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector] if length else vector


def _features(text: str) -> Iterable[tuple[float, str]]:
    words = _WORD.findall(_folded(text))
    for word in words:
        weight = _weight(word)
        yield weight, f"w {word}"
        marked = f"<{word}>"
        pieces = [marked[i : i + n] for n in PIECE_CHARACTERS for i in range(len(marked) - n + 1)]
        for piece in pieces:
            # All pieces together weigh as much as the word, so long words do not dominate.
            yield round(weight / math.sqrt(len(pieces)), 3), f"p {piece}"
    for first, second in pairwise(words):
        yield round((_weight(first) + _weight(second)) / 4, 3), f"b {first} {second}"


def _weight(word: str) -> float:
    # Short words are mostly grammar, in every alphabet. Without the statistics of a corpus, length
    # is the best estimate of how much a word says.
    return 1.0 if any(c.isdigit() for c in word) else min(1.0, (len(word) / 6) ** 2)


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))
