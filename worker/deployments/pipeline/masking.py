"""Mask secrets in everything that a deployment stores or logs.

Stage: every output of a command, detail, error and report on its way into the database or the log.
In: bytes or text, and the values of the environment's secret variables. Out: the same with `•••`
in their place.
Invariant: no configured secret comes out, however the output arrived in pieces and wherever it was
cut. Common kinds of secrets that were not configured (tokens, Authorization headers, passwords in
URLs, private keys) are masked where a pattern recognises them.

Bytes are masked before they are decoded and before they are cut to their bound, because half a
secret cannot be recognised. So an output keeps `margin` bytes more than its bound until then.
"""

import base64
import json
import os
import re
import shlex
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

MASK = "•••"
SECRET_CHARACTERS_MIN = 6
"""Shorter values occur by chance, and masking them would hide the cause of a failure."""
NEWLINES = b"\r\n"
NEWLINE = re.compile(rb"[\r\n]")
PATTERN_BYTES_MAX = 16 * 1024
# Each pattern masks its last group. Every repetition is bounded, which bounds `margin`; and no
# pattern begins with a repetition, so that no output takes long to search: the search blocks the
# event loop.
PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rb"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----((?:(?!-----)[\s\S]){1,15000})",
        rb"\b(?:authorization|x-api-key|api-key|private-token|cookie)[\"']?\s{0,4}[:=]\s{0,4}[\"']?"
        rb"([^\r\n\"']{1,4096})",
        rb"\bbearer\s{1,4}([a-z0-9._~+/=-]{8,4096})",
        rb"\b[a-z][a-z0-9+.-]{1,20}://([^\s/\"'<>]{1,1024})@",
        rb"(?:token|secret|passwd|password|api[_-]?key|access[_-]?key)[\w-]{0,64}"
        rb"(?:[\"']?\s{0,4}=|[\"']\s{0,4}:)\s{0,4}[\"']?([^\s\"'&;,]{4,4096})",
        rb"\b((?:gh[pousr]_|github_pat_|glpat-|npm_|pypi-|xox[abeprs]-|sk-|AKIA|ASIA|AIza)"
        rb"[a-z0-9_-]{12,1024})",
        rb"\b(eyJ[a-z0-9_-]{8,2048}\.[a-z0-9_-]{8,4096}\.[a-z0-9_-]{8,2048})",
    )
)


class Masker:
    """Masks the secrets of one environment."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._needles: tuple[bytes, ...] = tuple(
            sorted({form for secret in secrets for form in _forms(secret)})
        )
        self._joined: tuple[bytes, ...] = tuple(
            joined
            for joined in {needle.translate(None, NEWLINES) for needle in self._needles}
            if len(joined) >= SECRET_CHARACTERS_MIN
        )
        longest = max(map(len, self._needles), default=0)
        self.margin: int = PATTERN_BYTES_MAX + 2 * longest

    def mask(self, text: str) -> str:
        return self.mask_bytes(text.encode(errors="surrogateescape")).decode(errors="replace")

    def mask_bytes(self, data: bytes, start: int = 0) -> bytes:
        """Mask the bytes from `start` on; a secret across `start` is masked as a whole."""
        masked: list[bytes] = []
        at = start
        for begin, end in self._spans(data):
            if end > start:
                masked += [data[at:begin], MASK.encode()] if begin >= at else [MASK.encode()]
                at = max(at, end)
        return b"".join((*masked, data[at:]))

    def _spans(self, data: bytes) -> list[tuple[int, int]]:
        """The ranges of secrets, in order; overlapping and adjacent ones are joined."""
        spans: list[tuple[int, int]] = []
        for begin, end in sorted((*self._known(data), *_by_their_looks(data))):
            if spans and begin <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((begin, end))
        return spans

    def _known(self, data: bytes) -> Iterator[tuple[int, int]]:
        yield from _found(data, self._needles)
        # Programs wrap long lines (base64 at 76 characters): search again without line breaks.
        joined = data.translate(None, NEWLINES)
        if len(joined) == len(data):
            return
        before = [found.start() - n for n, found in enumerate(NEWLINE.finditer(data))]
        for begin, end in _found(joined, self._joined):
            last = end - 1
            yield begin + bisect_right(before, begin), end + bisect_right(before, last)


def _found(data: bytes, needles: Iterable[bytes]) -> Iterator[tuple[int, int]]:
    for needle in needles:
        at = data.find(needle)
        while at >= 0:
            yield at, at + len(needle)
            at = data.find(needle, at + 1)


NO_SECRETS = Masker()


def _forms(secret: str) -> Iterator[bytes]:
    """The forms in which programs print a secret: whole, by line, escaped, quoted and encoded."""
    raw = os.fsencode(secret)
    lines = [line.strip() for line in secret.splitlines()]
    texts = {
        secret.strip(),
        *(line for line in lines if len(line) >= SECRET_CHARACTERS_MIN),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        shlex.quote(secret),
        quote(raw, safe=""),
        quote(raw),
        quote_plus(raw),
    }
    yield raw
    yield raw.decode(errors="replace").encode()
    for text in texts:
        if len(text) >= SECRET_CHARACTERS_MIN:
            yield text.encode(errors="surrogateescape")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).rstrip(b"=")
        # Encoded as part of a longer text (`user:secret`): without the characters it shares.
        for offset, shared in ((0, 0), (1, 2), (2, 3)):
            encoded = encode(bytes(offset) + raw).rstrip(b"=")
            yield encoded[shared : len(encoded) - ((offset + len(raw)) % 3 > 0)]


def _by_their_looks(data: bytes) -> Iterator[tuple[int, int]]:
    for pattern in PATTERNS:
        for found in pattern.finditer(data):
            yield found.span(1)
