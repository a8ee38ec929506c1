"""The offline model: rules instead of a network; deterministic and free.

In: a task, the turns of a thread, and memories. Out: the mode that a message is for, a plan, or an
answer that quotes what was said and invents nothing. It counts its own tokens. It is total: every
text gets an answer.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from worker.modes.extraction import STATEMENTS_MAX, SUBJECT_CHARACTERS_MAX
from worker.modes.intents import Intent, plain, read_intent
from worker.modes.plans import Deploy, Note, Plan, Save, Search, Step
from worker.modes.statements import CONFIDENCE, Stated, read_statements

PROVIDER = "offline"
MODEL = "rules-1"
PRICE_VERSION = f"{PROVIDER}:{MODEL}"
OUTPUT_TOKENS_MAX = 2_000
"""No answer has more tokens; tests check it."""

Turns = Sequence[tuple[str, str]]

QUOTES_MAX = 3
QUOTE_CHARACTERS_MAX = 240
PASSAGES_MAX = 400
SLUG_CHARACTERS_MAX = 48


def respond(
    task: Literal["classify", "answer", "plan"], turns: Turns, memories: Sequence[str]
) -> dict[str, Any]:
    """The content of an answer: that of a `Classified`, `{"text": …}`, or that of a `Plan`.

    `turns` are (role, text), oldest first; the last one is the message to be dealt with.
    """
    said = turns[-1][1] if turns else ""
    intent = read_intent(said)
    match task:
        case "classify":
            return classify(intent)
        case "answer":
            return {"text": answer(intent, turns[:-1], memories)}
        case "plan":
            return make_plan(intent).model_dump(mode="json")


def extract(texts: Sequence[str]) -> dict[str, Any]:
    """The content of an `Extracted`: what these messages state, as far as one answer holds it.

    What it does not hold is of messages that a later job reads again.
    """
    statements: list[dict[str, Any]] = []
    tokens = 0
    for no, text in enumerate(texts, 1):
        of_message = [_extracted(no, stated) for stated in read_statements(text)]
        tokens += count_tokens(*words_of(of_message))
        if tokens > OUTPUT_TOKENS_MAX or len(statements) + len(of_message) > STATEMENTS_MAX:
            break
        statements += of_message
    return {"statements": statements}


def _extracted(no: int, stated: Stated) -> dict[str, Any]:
    return {
        "message": no,
        "quote": stated.sentence,
        "text": f"The user said: {stated.sentence}",
        "type": stated.type,
        "subject": stated.subject[:SUBJECT_CHARACTERS_MAX],
        "confidence": CONFIDENCE,
        "first_day": None if stated.first_day is None else stated.first_day.isoformat(),
        "last_day": None if stated.last_day is None else stated.last_day.isoformat(),
    }


def compose(text: str, details: Sequence[str], found: Sequence[str]) -> str:
    """The text of a file: its title, what the steps before it did, and what they found."""
    quotes = (one.replace("\n", "\n> ") for one in found)
    lines = [f"# {text}", "", *(f"- {detail}" for detail in details)]
    return "\n".join([*lines, "", *(f"> {quote}" for quote in quotes), ""])


def count_tokens(*texts: str) -> int:
    """The number of tokens; up to six word characters, or one other sign, are a token."""
    return sum(1 for text in texts for _ in _TOKEN.finditer(text))


def words_of(content: Any) -> Iterator[str]:
    """Every string in an answer's content, without keys."""
    match content:
        case str():
            yield content
        case dict():
            for value in content.values():  # pyright: ignore[reportUnknownVariableType]
                yield from words_of(value)
        case list():
            for value in content:  # pyright: ignore[reportUnknownVariableType]
                yield from words_of(value)
        case _:
            return


_TOKEN = re.compile(r"\w{1,6}|[^\w\s]")

_REASONS = {
    "empty": "there is nothing to read in it",
    "greeting": "it is a greeting",
    "question": "it asks a question",
    "fact": "it tells something to remember",
    "request": "it asks for something to be done",
    "statement": "it asks for nothing to be done",
}


def classify(intent: Intent) -> dict[str, Any]:
    """A request is for `plan`, because a person has to approve it; all else is for `answer`."""
    mode = "plan" if intent.kind == "request" else "answer"
    return {"mode": mode, "reason": _REASONS[intent.kind]}


def answer(intent: Intent, earlier: Turns, memories: Sequence[str]) -> str:
    """An answer that quotes the thread and the memories."""
    match intent.kind:
        case "empty":
            return "I could not read anything in that message. What would you like to know?"
        case "greeting":
            return _greeting(intent.subject)
        case "fact":
            return f"{NOTED}: {_clip(intent.subject)}"
        case "statement" | "request":
            return f"{NOTED}: {_clip(intent.subject)}"
        case "question":
            return _quote(intent.subject, earlier, memories)


def _greeting(said: str) -> str:
    if said.lower().startswith(("thank", "cheers")):
        return "You are welcome."
    return "Hello. Ask me something, or tell me what to do and I will propose a plan."


NOTED = "Noted"
IN_THREAD = "From this thread"
IN_MEMORY = "I remember"
NOTHING = "I found nothing about that, neither in this thread nor in memory."
SELF = "I am the offline rule-based model: I quote what was said and make nothing up."
# Sentences of this model that repeat what others said are not quoted again.
_ECHOES = (f"{NOTED}:", IN_THREAD, IN_MEMORY, NOTHING, SELF, "Search memory for")


@dataclass(frozen=True, slots=True)
class _Passage:
    source: str
    text: str
    words: frozenset[str]
    recency: int


def _quote(question: str, earlier: Turns, memories: Sequence[str]) -> str:
    wanted = _content_words(question)
    found = [p for p in _passages(earlier, memories) if _answers(wanted, p)]
    if not found:
        return f"{NOTHING} {SELF}"
    best = sorted(found, key=lambda p: (len(wanted & p.words), p.recency), reverse=True)
    sources = {p.text: p.source for p in reversed(best)}
    texts = list(dict.fromkeys(p.text for p in best))[:QUOTES_MAX]
    return "\n".join(f"{sources[text]}: “{_clip(text)}”" for text in texts)


def _passages(earlier: Turns, memories: Sequence[str]) -> list[_Passage]:
    """The sentences of the thread and the memories, without questions and its own echoes."""
    sources = [(IN_MEMORY, text) for text in reversed(memories)]
    sources += [(IN_THREAD, text) for _, text in earlier]
    sentences = [
        (source, said) for source, text in sources for said in _SENTENCE_END.split(text) if said
    ]
    return [
        _Passage(source, said, _content_words(said), recency)
        for recency, (source, said) in enumerate(
            (source, plain(said)) for source, said in sentences[-PASSAGES_MAX:]
        )
        if said and not said.endswith("?") and not said.startswith(_ECHOES)
    ]


def _answers(wanted: frozenset[str], passage: _Passage) -> bool:
    # A single common word may be chance, unless the question has no more than two.
    common = len(wanted & passage.words)
    return common >= 2 or (common == 1 and len(wanted) <= 2)


_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_WORD = re.compile(r"\w{2,}")
_STOP_WORDS = frozenset(
    """
    a about after again all also am an and any anything are as at be because been before but by can
    could did do does doing done down for from had has have having he her here him his how i if in
    into is it its just know like made make me more most much my need no not now of off on once only
    or our out over please said say she should so some such tell than that the their them then there
    these they thing this those through to too under until up us use used was we were what when
    where which while who whom whose why will with would yes yet you your
    """.split()  # noqa: SIM905 (a word per line would bury the module)
)
_ENDINGS = re.compile(r"(?<=\w{4})(?:ments?|ing|ed|es|s)$")


def _content_words(text: str) -> frozenset[str]:
    words = (word for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS)
    return frozenset(_ENDINGS.sub("", word) for word in words)


def _clip(text: str) -> str:
    if len(text) <= QUOTE_CHARACTERS_MAX:
        return text
    return text[: QUOTE_CHARACTERS_MAX - 1].rstrip() + "…"


def make_plan(intent: Intent) -> Plan:
    """A plan from the template for the request's verb."""
    subject = intent.subject or "this request"
    if intent.shipments:
        return _shipping_plan(intent)
    title = f"{intent.verb} {subject}".strip()
    template = next((make for verbs, make in _TEMPLATES if intent.verb in verbs), _other_steps)
    return Plan(title=title, steps=template(intent.verb, subject))


def _shipping_plan(intent: Intent) -> Plan:
    shipments = intent.shipments
    wording = ", ".join(f"{s.sha[:7]} to {s.environment}" for s in shipments)
    steps: list[Step] = [Search(query=f"deploy {shipments[0].environment}")]
    steps += [Deploy(environment=s.environment, sha=s.sha) for s in shipments]
    report = _slug(f"deployment {shipments[-1].environment} {shipments[-1].sha[:7]}")
    steps.append(Save(name=f"{report}.md", text=f"How the deployment of {wording} went"))
    return Plan(title=f"deploy {wording}", steps=tuple(steps))


def _unnamed_shipment_steps(verb: str, subject: str) -> tuple[Step, ...]:
    reason = "it names no commit and environment (deploy <sha> to <environment>)"
    return (Search(query=subject), Note(text=f"Could not {verb} {_clip(subject)}: {reason}"))


def _gathering_steps(verb: str, subject: str) -> tuple[Step, ...]:
    return (
        Search(query=subject),
        Save(name=f"{_slug(subject)}.md", text=f"What is known about: {subject}"),
        Note(text=f"Looked for what is known about: {subject}"),
    )


def _writing_steps(verb: str, subject: str) -> tuple[Step, ...]:
    return (
        Search(query=subject),
        Save(name=f"{_slug(subject)}.md", text=f"Draft: {subject}"),
        Note(text=f"A draft exists for: {subject}"),
    )


def _other_steps(verb: str, subject: str) -> tuple[Step, ...]:
    return (
        Search(query=subject),
        Note(text=f"Asked for: {verb} {subject}".replace("  ", " ")),
    )


_TEMPLATES: tuple[tuple[frozenset[str], Callable[[str, str], tuple[Step, ...]]], ...] = (
    (frozenset({"deploy", "ship", "release", "roll out", "rollout"}), _unnamed_shipment_steps),
    (
        frozenset(
            {"check", "collect", "compare", "find", "gather", "investigate", "list", "look for"}
            | {"look into", "look up", "monitor", "research", "review", "search", "track"}
        ),
        _gathering_steps,
    ),
    (
        frozenset(
            {"compile", "create", "design", "document", "draft", "edit", "make", "outline", "plan"}
            | {"prepare", "produce", "publish", "report", "summarise", "summarize", "write"}
        ),
        _writing_steps,
    ),
)


def _slug(text: str) -> str:
    words = "-".join(re.findall(r"\w+", text.lower()))
    return words[:SLUG_CHARACTERS_MAX].strip("-_") or "notes"
