"""What a message wants, by rules: how the offline model understands it.

In: any text somebody wrote. Out: an `Intent`. Pure; total for every string; reads at most
`CHARACTERS_MAX` characters, so that a huge message costs no more than a long one.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

IntentKind = Literal["empty", "greeting", "question", "fact", "request", "statement"]

CHARACTERS_MAX = 4_000
SUBJECT_CHARACTERS_MAX = 160
SENTENCES_MAX = 100
DEPLOYMENTS_MAX = 5


@dataclass(frozen=True, slots=True)
class Shipment:
    """A commit to deploy, and its environment."""

    sha: str
    environment: str


@dataclass(frozen=True, slots=True)
class Intent:
    """What a message wants; `subject` is what it is about, in the message's own words."""

    kind: IntentKind
    subject: str
    verb: str = ""
    shipments: tuple[Shipment, ...] = ()


def read_intent(text: str) -> Intent:
    """What this text wants. A request in it counts before a question, a question before a fact."""
    said = plain(text)
    if not any(character.isalnum() for character in said):
        return Intent("empty", _clipped(said))
    if _GREETING.fullmatch(said):
        return Intent("greeting", _clipped(said))
    sentences = _SENTENCE_END.split(said, SENTENCES_MAX)
    request = next(filter(None, map(_request, sentences)), None)
    if request is not None:
        return request
    if any(map(_is_question, sentences)):
        return Intent("question", _clipped(said))
    fact = _FACT.search(said)
    if fact is not None:
        return Intent("fact", said[fact.end() :].strip(" :,-") or said)
    return Intent("statement", _clipped(said))


def plain(text: str) -> str:
    """`text` on one line, without control and direction characters, and not too long."""
    kept = text[:CHARACTERS_MAX]
    if not kept.isprintable():
        kept = "".join(" " if c.isspace() else c for c in kept if c.isspace() or _is_shown(c))
    return " ".join(kept.split())


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")


_QUESTION_WORDS = (
    "who|whom|whose|what|when|where|why|which|how|is|are|was|were|do|does|did|has|have|had|can|"
    "could|should|would|will|may|might|am|isn't|aren't|wasn't|don't|doesn't|didn't|shall"
)
_QUESTION_WORD = re.compile(rf"(?:{_QUESTION_WORDS})\b", re.IGNORECASE)
_QUESTION_MARKS = re.compile(r"[?？؟⁇⁈¿]")
_OPENERS = r"(?:hi|hello|hey|ok|okay|so|and|also|then|now|thanks|great|good|well)\b[ ,!.:;-]*"
_POLITE = re.compile(
    rf"^(?:{_OPENERS}|@\w+[ ,:]*"
    r"|(?:please|kindly|go ahead and|let's|let us|we should|we need to|you should)\b[ ,:]*"
    r"|(?:can|could|would|will) (?:you|we)(?: please| kindly)?[ ,]+(?!tell|say|explain)"
    r"|i(?:'d| would)? (?:need|want|like) you to |i(?:'d| would)? (?:need|want|like) to )+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?。！？؟]) ")
_FACT = re.compile(
    r"(?:^|(?<=[.!?] ))(?:please )?(?:remember|note|keep in mind|for the record|fyi)\b"
    r"(?: that\b|[:,])?",
    re.IGNORECASE,
)
_GREETING = re.compile(
    r"(?:hi|hello|hey|thanks|thank you|cheers|bye|goodbye|good (?:morning|evening|afternoon|night))"
    r"\b[\w ,]{0,40}[!.🙂👋 ]*",
    re.IGNORECASE,
)
_COMMAND = re.compile(
    r"(?P<verb>add|arrange|archive|book|build|change|check|clean|collect|compare|compile|create|"
    r"delete|deploy|design|document|draft|edit|execute|file|find|fix|gather|implement|install|"
    r"investigate|list|look up|look for|look into|make|migrate|monitor|move|open|organi[sz]e|"
    r"outline|plan|prepare|produce|publish|record|release|remind|remove|rename|replace|"
    r"report|research|restart|review|roll out|rollout|run|save|schedule|search|send|set up|ship|"
    r"sort|start|stop|summari[sz]e|test|track|translate|update|upgrade|write)\b[ :]*"
    r"(?:(?:for|about|me|us|out|up|on|a plan|the plan|what (?:we|you|i) know)\b[ :]*)*",
    re.IGNORECASE,
)
_SHIPMENT = re.compile(
    r"\b(?P<sha>[0-9a-f]{7,64})\b[^\n]{0,40}?\b(?:to|on|onto|into)\b (?:the )?"
    r"(?P<environment>[a-z0-9][a-z0-9_-]{0,62})\b",
    re.IGNORECASE,
)
_SHIPPING = re.compile(r"\b(?:deploy|ship|release|roll ?out|put|push)\b", re.IGNORECASE)


def _request(sentence: str) -> Intent | None:
    """What this sentence asks to be done; None if it asks for nothing to be done."""
    asked = _POLITE.sub("", sentence)
    # A polite "could you …?" asks for something to be done; any other question is a question.
    if _is_question(sentence) and (asked == sentence or _QUESTION_WORD.match(asked)):
        return None
    shipments = _shipments(asked)
    command = _COMMAND.match(asked)
    if command is None and not shipments:
        return None
    verb = command["verb"].lower() if command else "deploy"
    subject = asked[command.end() :] if command else asked
    return Intent("request", _clipped(subject) or _clipped(asked), verb, shipments)


def _is_question(sentence: str) -> bool:
    return bool(_QUESTION_MARKS.search(sentence) or _QUESTION_WORD.match(sentence))


def _shipments(said: str) -> tuple[Shipment, ...]:
    if not _SHIPPING.search(said):
        return ()
    found = (
        Shipment(match["sha"].lower(), match["environment"].lower())
        for match in _SHIPMENT.finditer(said)
    )
    return tuple(dict.fromkeys(found))[:DEPLOYMENTS_MAX]


def _clipped(said: str) -> str:
    subject = said.strip(" .!?,:;-")
    if len(subject) <= SUBJECT_CHARACTERS_MAX:
        return subject
    head = subject[: SUBJECT_CHARACTERS_MAX - 1]
    return (head.rpartition(" ")[0].rstrip() or head) + "…"
