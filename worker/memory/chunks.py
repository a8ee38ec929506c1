"""How a long text is cut into chunks, each short enough for a model.

In: a text and the most characters of a chunk. Out: chunks that cover the text without gap or
overlap, so their offsets show where a hit is. A cut is made where it hurts least: between
paragraphs, else sentences, else lines, else words, else anywhere.
"""

import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

# Part of a space's key: vectors of other chunks are not compared with these.
VERSION = 1

# Where a piece may end, from the best place to the worst.
_ENDS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"""[.!?…]+["')\]»”]*\s+|[。！？]+["')\]»”]*"""),
    re.compile(r"\n\s*"),
    re.compile(r"\s+"),
)


class Chunk(NamedTuple):
    """`text[start:end]`."""

    start: int
    end: int


def chunker_name(characters_max: int) -> str:
    """The name of this way to cut, for the key of a space."""
    return f"paragraphs-{VERSION}-{characters_max}"


def chunks(text: str, characters_max: int) -> list[Chunk]:
    """The chunks of a text, in order; one, perhaps empty, if it is short enough."""
    if len(text) <= characters_max:
        return [Chunk(0, len(text))]
    return list(_joined(_pieces(text, 0, len(text), characters_max, 0), characters_max))


def content_hash(content: str) -> UUID:
    """The same for the same content: 128 bits of BLAKE2b."""
    return UUID(bytes=blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest())


def _pieces(text: str, start: int, end: int, most: int, level: int) -> Iterator[Chunk]:
    """Pieces of at most `most` characters that end at the best places."""
    if end - start <= most:
        yield Chunk(start, end)
        return
    if level == len(_ENDS):
        for at in range(start, end, most):
            yield Chunk(at, min(at + most, end))
        return
    begin = start
    for found in _ENDS[level].finditer(text, start, end):
        if found.end() > begin:
            yield from _pieces(text, begin, found.end(), most, level + 1)
            begin = found.end()
    if begin < end:
        yield from _pieces(text, begin, end, most, level + 1)


def _joined(pieces: Iterator[Chunk], most: int) -> Iterator[Chunk]:
    """Neighbours, joined as long as they fit."""
    open_chunk = next(pieces)
    for piece in pieces:
        if piece.end - open_chunk.start <= most:
            open_chunk = Chunk(open_chunk.start, piece.end)
        else:
            yield open_chunk
            open_chunk = piece
    yield open_chunk
