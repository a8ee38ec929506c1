"""Mask secrets in everything that is stored, logged or printed.

In: text or bytes, and the secrets to hide. Out: the same with `•••` in their place. `mask` knows
the secrets of this process's environment: the keys and passwords of the settings, and each variable
that is named like a secret. A `Masker` can know others, as a deployment's variables.
Invariant: no known secret comes out, however the text arrived in pieces and wherever it was cut.
Common kinds of secrets that nobody told us (keys of providers, tokens, Authorization headers,
passwords in URLs, private keys) are masked where a pattern recognises them.

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
from functools import lru_cache
from typing import Any, cast
from urllib.parse import quote, quote_plus, unquote

MASK = "•••"
SECRET_CHARACTERS_MIN = 6
"""Shorter values occur by chance, and masking them would hide the cause of a failure."""
SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|_DSN$",
    re.IGNORECASE,
)
"""A variable with such a name is secret even if it is not listed."""
# Of our own variables, these; others, as JOBSWORTH_HISTORY_TOKENS, only read like it.
OWN_SECRETS = frozenset(
    {"JOBSWORTH_MODEL_KEY", "JOBSWORTH_EMBEDDER_KEY", "JOBSWORTH_WEBHOOK_SECRET"}
)
# A password that is one of these words, or a part of one, hides too much of what is said.
PUBLIC_WORDS = ("jobsworth", "postgresql", "password", "localhost", "secret", "database")
NEWLINES = b"\r\n"
NEWLINE = re.compile(rb"[\r\n]")
PATTERN_BYTES_MAX = 16 * 1024
# The shortest that a pattern recognises without a sign before it: `sk-` and twelve letters.
LOOKS_BYTES_MIN = 15
_NAMES = "token secret passwd password key"
# A quotation mark, escaped as often as `repr` and JSON within each other do.
_QUOTE = rb"\\{0,15}[\"']"
# A character of a value that ends at a quotation mark.
_UNQUOTED = rb"(?:[^\r\n\"'\\]|\\(?!\\{0,15}[\"']))"
_NAMED = rb"(?:token|secret|passwd|password|api[_-]?key|access[_-]?key)[\w-]{0,64}"
# Each pattern masks its last group. Every repetition is bounded, which bounds `margin`; and no
# pattern begins with a repetition, so that no output takes long to search: the search blocks the
# event loop. Before each stand words of which one is in whatever it recognises, because looking for
# them is a hundred times faster.
PATTERNS = tuple(
    (tuple(word.encode() for word in words.split()), re.compile(pattern, re.IGNORECASE))
    for words, pattern in (
        (
            "private",
            rb"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----((?:(?!-----)[\s\S]){1,15000})",
        ),
        (
            "authorization api-key private-token cookie",
            rb"\b(?:authorization|x-api-key|x-goog-api-key|api-key|private-token|cookie)(?:"
            + _QUOTE
            + rb")?\s{0,4}[:=]\s{0,4}(?:"
            + _QUOTE
            + rb")?("
            + _UNQUOTED
            + rb"{1,4096})",
        ),
        ("bearer", rb"\bbearer\s{1,4}([a-z0-9._~+/=-]{8,4096})"),
        # A password may contain a slash; a port with a path is none.
        (
            "://",
            rb"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>]{0,256}:"
            rb"(?!\d{1,5}[/?#])([^\s\"'<>]{1,1024})@",
        ),
        # A token alone; before a database it is the name of a user.
        (
            "://",
            rb"\b(?!postgres(?:ql)?://)[a-z][a-z0-9+.-]{1,20}://([^\s/:@\"'<>]{1,1024})@",
        ),
        (
            "password",
            rb"\bpassword\s{0,4}=\s{0,4}('(?:[^'\\]|\\.){1,1024}'|[^\s&'\"]{1,1024})",
        ),
        # Not a count: `tokens=1200`.
        (
            _NAMES,
            _NAMED
            + rb"(?:(?:"
            + _QUOTE
            + rb")?\s{0,4}=|"
            + _QUOTE
            + rb"\s{0,4}:)\s{0,4}(?:"
            + _QUOTE
            + rb")?(?!\d[\d_.,]*(?:[\s\"'&;})\]\\]|$))"
            + rb"((?:[^\s&;,\"'\\]|\\(?!\\{0,15}[\"'])){4,4096})",
        ),
        (_NAMES, _NAMED + rb"[\"']?\s{0,4}[=:]\s{0,4}\"((?:[^\"\\]|\\.){4,4096})\""),
        (
            "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- npm_ pypi- xox sk- gsk_ tgp_ xai- pplx-"
            " nvapi- akia asia aiza",
            rb"\b((?:gh[pousr]_|github_pat_|glpat-|npm_|pypi-|xox[abeprs]-|sk-|gsk_|tgp_|xai-|pplx-"
            rb"|nvapi-|(?-i:AKIA|ASIA|AIza))[a-z0-9_-]{12,1024})",
        ),
        ("hf_ fw_ r8_", rb"\b((?:hf_|fw_|r8_)[a-z0-9]{16,1024})"),
        ("jw_", rb"\b(jw_[a-z0-9_-]{12,1024})"),
        ("whsec_", rb"\b(whsec_[a-z0-9+/=]{12,1024})"),
        ("bot", rb"\bbot([0-9]{6,12}:[a-z0-9_-]{30,64})"),
        ("eyj", rb"\b(eyJ[a-z0-9_-]{8,2048}\.[a-z0-9_-]{8,4096}\.[a-z0-9_-]{8,2048})"),
    )
)

# Most texts are short and hold no sign of a secret: one search says so in a microsecond, where one
# for each word takes ten.
SHORT_BYTES_MAX = 4096
_SIGNS = re.compile(b"|".join(sorted({re.escape(word) for words, _ in PATTERNS for word in words})))


def mask(text: str) -> str:
    """`text` without the secrets of this process's environment, and without common ones."""
    return _of_environment(len(os.environ)).mask(text)


def masked(value: Any) -> Any:
    """A plain document (dicts, lists, strings, numbers) with each of its strings masked."""
    match value:
        case str():
            return mask(value)
        case dict():
            pairs = cast(dict[Any, Any], value).items()
            return {
                mask(key) if isinstance(key, str) else key: _masked_member(key, member)
                for key, member in pairs
            }
        case list() | tuple():
            return [masked(each) for each in cast(list[Any], value)]
        case _:
            return value


def _masked_member(key: object, member: Any) -> Any:
    """A member named like a secret is one, if it is a text: `{"password": "…"}`."""
    if isinstance(key, str) and isinstance(member, str) and member and _MEMBER.fullmatch(key):
        return MASK
    return masked(member)


_MEMBER = re.compile(r"(?:.*[_-])?(?:password|passwd|secret|api[_-]?key|token)", re.IGNORECASE)


# Reading all variables takes longer than most texts. They are read again when there are more, as
# after a module of handlers has read its own from a file.
@lru_cache(maxsize=1)
def _of_environment(_variables: int) -> "Masker":
    return Masker(secret for secret in _kept | _in_environment() if _can_be_masked(secret))


# Secrets that the environment may have lost by now: code takes its own out, or clears it.
_kept: set[str] = set()


def keep_secrets() -> None:
    """Mask what the environment holds now for good, whatever becomes of the environment."""
    _kept.update(_in_environment())
    _of_environment.cache_clear()


def _in_environment() -> set[str]:
    return {secret for name, value in os.environ.items() for secret in _secrets_in(name, value)}


def _secrets_in(name: str, value: str) -> Iterator[str]:
    upper = name.upper()
    if "://" in value or upper.endswith("_URL"):
        yield from _passwords(value)
    if upper == "JOBSWORTH_WEBHOOK_SECRET":
        yield from (part.strip() for part in value.split(","))
    elif upper.startswith("JOBSWORTH_"):
        yield from [value] if upper in OWN_SECRETS else []
    elif SECRET_NAME.search(upper) and not (value.isdigit() or value.startswith("/")):
        yield value


def _passwords(value: str) -> Iterator[str]:
    """The passwords of a URL or of a connection string, as written and decoded."""
    for pattern in _PASSWORDS:
        for password in pattern.findall(value):
            plain = password.strip("'")
            yield from {plain, unquote(plain)}


_PASSWORDS = (
    re.compile(r"://[^\s/:@]*:(.+)@"),
    re.compile(r"\bpassword\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&]+)"),
)


def _can_be_masked(secret: str) -> bool:
    return len(secret) >= SECRET_CHARACTERS_MIN and not any(
        secret.lower() in word for word in PUBLIC_WORDS
    )


class Masker:
    """Masks these secrets, and those that have the looks of one."""

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
        data = text.encode(errors="surrogatepass")
        masked = self.mask_bytes(data)
        return text if masked is data else masked.decode(errors="replace")

    def mask_bytes(self, data: bytes, start: int = 0) -> bytes:
        """Mask the bytes from `start` on; a secret across `start` is masked as a whole."""
        spans = self._spans(data)
        if not spans and not start:
            return data
        masked: list[bytes] = []
        at = start
        for begin, end in spans:
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
    if len(data) < LOOKS_BYTES_MIN and b"=" not in data and b":" not in data:
        return
    lowered = data.lower()
    if len(lowered) <= SHORT_BYTES_MAX and _SIGNS.search(lowered) is None:
        return
    # Plain loops: `any` with a generator takes ten times as long, and every log line comes by here.
    for words, pattern in PATTERNS:
        for word in words:
            if word in lowered:
                for found in pattern.finditer(data):
                    yield found.span(1)
                break
