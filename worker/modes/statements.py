"""What a person states in a message, by rules: how the offline model extracts memories.

In: any text somebody wrote. Out: statements in the first person: preferences, decisions,
procedures, and facts that are about the person or bound to a day (2026-12-24). Pure, and careful:
questions, hypotheticals, what others are quoted to have said and code are not statements.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Literal, cast

from worker.modes.intents import plain

Kind = Literal["fact", "preference", "decision", "procedure"]

CONFIDENCE = 0.8
SENTENCES_MAX = 100
SENTENCE_CHARACTERS_MAX = 300


@dataclass(frozen=True, slots=True)
class Stated:
    """A statement: its sentence, its kind, what it is about, and the days on which it holds."""

    sentence: str
    type: Kind
    subject: str
    first_day: date | None = None
    last_day: date | None = None


def read_statements(text: str) -> list[Stated]:
    """What this text states, in its order."""
    found = (_read(sentence) for sentence in _sentences(text))
    return [one for one in found if one is not None]


def _sentences(text: str) -> Iterator[str]:
    """The sentences, without code and lines that quote others."""
    own = _CODE.sub("\n", text)
    lines = [line for line in own.splitlines() if not line.lstrip().startswith((">", "|"))]
    sentences = [one for line in lines for one in _SENTENCE_END.split(plain(line)) if one]
    yield from sentences[:SENTENCES_MAX]


def _read(sentence: str) -> Stated | None:
    said = _OPENER.sub("", sentence)
    if len(sentence) > SENTENCE_CHARACTERS_MAX or _NO_STATEMENT.search(said):
        return None
    days = _days(said)
    if days is None:
        return None
    for kind, pattern in _PATTERNS:
        match = pattern.match(said.rstrip(" .!"))
        if match is not None and not _VAGUE.match(match["about"]):
            return Stated(sentence, kind, _subject(kind, match), *days)
    about = _DATED.match(said) if any(days) else None
    return None if about is None else Stated(sentence, "fact", _normal(said), *days)


def _subject(kind: str, match: re.Match[str]) -> str:
    about = _normal(match["about"])
    if kind == "procedure":
        return _normal(re.sub(r"\b(?:always|never|must|have to)\b", "", about))
    pair = re.fullmatch(r"(.+?) (?:to|over|rather than|instead of) (.+)", about)
    if kind == "preference" and pair is not None:
        return " or ".join(sorted(pair.groups()))
    return about


def _days(said: str) -> tuple[date | None, date | None] | None:
    """The first and the last day that it names; None if they cannot be."""
    first: date | None = None
    last: date | None = None
    for word, text in _DAY.findall(said):
        try:
            day = date.fromisoformat(text)
        except ValueError:
            return None
        if word.lower() in ("from", "since", "on"):
            first = day
        if word.lower() in ("until", "till", "to", "through", "on"):
            last = day
    return None if first and last and last < first else (first, last)


def _normal(text: str) -> str:
    words = re.findall(r"[\w'+#/.-]*\w[+#]*", text.casefold())
    return " ".join(word for word in words if word not in _ARTICLES)


_ARTICLES = {"a", "an", "the", "really", "very"}
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?。！？؟;])\s+")
_OPENER = re.compile(
    r"^(?:(?:hi|hello|hey|ok|okay|so|and|also|well|btw|by the way|fyi|actually|for the record|"
    r"(?:please )?(?:remember|note|keep in mind)(?: that)?|from now on|as of now)\b[ ,:!.-]*)+",
    re.IGNORECASE,
)
# Questions, hypotheticals, quotations, and what somebody else says or is said to.
_NO_STATEMENT = re.compile(
    r"[?？؟\"“”„«»`]|(?:^|\s)['‘]|\b(?:if|unless|would|could|might|may|maybe|perhaps|suppose|imagine|"
    r"pretend|assume|assuming|wish|hope|hypothetical\w*|for example|e\.g|let's say|not sure|"
    r"used to|no longer sure|just kidding|joking|someone|somebody)\b"
    r"|^(?:who|what|which|where|why|how|is|are|do|does|did|can|should|shall|will)\b",
    re.IGNORECASE,
)
# "I like it" and "I like to think" say nothing by themselves.
_VAGUE = re.compile(
    r"(?:it|this|that|these|those|them|him|her|you|your|how|what|when|where|to think|both|neither|"
    r"(?:question|guess|point|idea|problem|plan|fear|opinion|answer|mistake|bad)\b.*)\b",
    re.IGNORECASE,
)
_ADVERB = r"(?:(?:really|strongly|always|usually|generally|absolutely|still|now|just) )*"
_PATTERNS: tuple[tuple[Kind, re.Pattern[str]], ...] = tuple(
    (cast(Kind, kind), re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("preference", r"(?:my|our) (?P<about>favou?rite .+?) (?:is|are) .+"),
        (
            "preference",
            rf"(?:i|we) {_ADVERB}(?:prefer|like|love|enjoy|hate|dislike|can't stand|"
            rf"(?:don't|do not|no longer) {_ADVERB}(?:like|enjoy)) (?P<about>.+)",
        ),
        (
            "decision",
            r"(?:i|we)(?: have|'ve)? (?:decided|agreed|chosen|chose|settled|opted)"
            r" (?:to (?:use|go with|take|adopt)|on) .+ (?P<about>for \S.*)",
        ),
        (
            "decision",
            r"(?:i|we)(?: have|'ve)? (?:decided|agreed|chosen|chose|settled|opted)"
            r" (?:to |on |that |for )?(?P<about>\S.*)",
        ),
        (
            "procedure",
            r"(?P<about>(?:before|after|when|whenever|every time) [^,]+, (?:i|we) "
            r"(?:always|never|must|have to|first)\b.+)",
        ),
        (
            "procedure",
            r"(?:i|we) (?:always|never) (?!\w+ed\b|(?:said|did|had|was|were|thought|knew|saw|got|"
            r"went|ever)\b)(?P<about>.+)",
        ),
        ("fact", r"(?P<about>my name) is .+"),
        ("fact", r"i (?:now )?(?P<about>(?:live|work) (?:in|at|for|as)) .+"),
        ("fact", r"(?:my|our) (?P<about>[\w' -]{2,60}?) (?:is|are) .+"),
    )
)
_DATED = re.compile(
    r"(?:i|we)(?:'m|'re|'ll be| am| are| will be| have| work| stay)\b.+", re.IGNORECASE
)
_DAY = re.compile(
    r"\b(from|since|on|until|till|to|through) (?:the )?(\d{4}-\d{2}-\d{2})\b", re.IGNORECASE
)
