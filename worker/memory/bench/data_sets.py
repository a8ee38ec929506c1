"""Data sets with known evidence, read from a file into one shape.

In: a file of LoCoMo, LongMemEval or BEAM as they are published, or of pairs. Out: haystacks, each
with its passages and the questions about them. Invariant: each question that is left names evidence
that is among its passages; the others are counted.

- LoCoMo (https://github.com/snap-research/locomo): a list of `sample_id`, `conversation` with
  `session_N` lists of `dia_id`, `speaker`, `text`; `qa` with `question`, `evidence`, `category`.
- LongMemEval (https://github.com/xiaowu0162/LongMemEval): a list of `question`, `question_type`,
  `haystack_session_ids`, `haystack_sessions` of turns with `content` and perhaps `has_answer`, and
  `answer_session_ids`. Evidence is the marked turns, or if none is marked, the sessions.
- BEAM (https://huggingface.co/datasets/Mohammadta/BEAM): `conversation_id`, `chat` with messages of
  `id` and `content` nested in batches, and `probing_questions` by ability, each with `question` and
  `source_chat_ids`. Some ids occur twice in the larger sets; either message counts then.
- Pairs, as the shipped file: lines of `kind`, `query`, `text`. Each text is in the haystack.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from db.errors import InvalidInput

SHIPPED = Path(__file__).with_name("pairs.jsonl")
REMEDY = (
    "give a JSON file of LoCoMo, LongMemEval or BEAM, or lines like "
    '{"kind": "date", "query": "…", "text": "…"}'
)
# The categories of LoCoMo are numbers; these are their names in the paper.
LOCOMO_KINDS = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that may be found; as evidence it counts under each of its keys."""

    text: str
    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Question:
    """`evidence`: the keys of the passages that hold the answer."""

    text: str
    kind: str
    evidence: frozenset[str]


@dataclass(frozen=True, slots=True)
class Haystack:
    """Passages that are searched together, and the questions about them."""

    passages: tuple[Passage, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class DataSet:
    """A file. `left_out`: its questions that name no evidence that is there."""

    format: str
    haystacks: tuple[Haystack, ...]
    left_out: int


def read(path: Path) -> DataSet:
    """Read a data set. Raises `InvalidInput` with the file, the reason and the place."""
    try:
        entries = _entries(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}", REMEDY) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not JSON in UTF-8: {error}", REMEDY) from error
    for name, (keys, reader) in FORMATS.items():
        if entries and all(keys <= entry.keys() for entry in entries):
            try:
                return _usable(name, list(reader(entries)))
            except ValidationError as error:
                where = ".".join(str(part) for part in error.errors()[0]["loc"])
                raise InvalidInput(
                    f"{path} is not as {name} files are: {where}: {error.errors()[0]['msg']}",
                    REMEDY,
                ) from error
            except (TypeError, ValueError, SyntaxError, RecursionError) as error:
                raise InvalidInput(f"{path} is not as {name} files are: {error}", REMEDY) from error
    raise InvalidInput(f"{path} holds no data set of a known format", REMEDY)


def _entries(text: str) -> list[dict[str, Any]]:
    try:
        whole: object = orjson.loads(text)
    except ValueError:
        whole = [orjson.loads(line) for line in text.splitlines() if line.strip()]
    entries = cast(list[object], whole if isinstance(whole, list) else [whole])
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("it holds something that is not an object")
    return cast(list[dict[str, Any]], entries)


def _usable(name: str, haystacks: list[Haystack]) -> DataSet:
    kept: list[Haystack] = []
    left_out = 0
    for haystack in haystacks:
        there = frozenset(key for passage in haystack.passages for key in passage.keys)
        questions = tuple(
            Question(question.text, question.kind, question.evidence & there)
            for question in haystack.questions
            if question.evidence & there
        )
        left_out += len(haystack.questions) - len(questions)
        if questions:
            kept.append(Haystack(haystack.passages, questions))
    if not kept:
        raise ValueError("no question names evidence that is there")
    return DataSet(name, tuple(kept), left_out)


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _LocomoTurn(_Model):
    dia_id: str
    speaker: str
    text: str = ""
    blip_caption: str | None = None


class _LocomoQuestion(_Model):
    question: str
    evidence: list[str] = []
    category: int


class _Locomo(_Model):
    conversation: dict[str, Any]
    qa: list[_LocomoQuestion]


def _locomo(entries: list[dict[str, Any]]) -> Iterator[Haystack]:
    for sample in TypeAdapter(list[_Locomo]).validate_python(entries):
        sessions = [
            TypeAdapter(list[_LocomoTurn]).validate_python(turns)
            for name, turns in sample.conversation.items()
            if re.fullmatch(r"session_\d+", name)
        ]
        yield Haystack(
            tuple(
                Passage(_locomo_text(turn), frozenset({turn.dia_id}))
                for session in sessions
                for turn in session
            ),
            tuple(
                Question(
                    asked.question,
                    LOCOMO_KINDS.get(asked.category, str(asked.category)),
                    # Some entries hold several ids: "D8:6; D9:17".
                    frozenset(re.split(r"[;,\s]+", " ".join(asked.evidence))),
                )
                for asked in sample.qa
            ),
        )


def _locomo_text(turn: _LocomoTurn) -> str:
    picture = f" (a picture: {turn.blip_caption})" if turn.blip_caption else ""
    return f"{turn.speaker}: {turn.text}{picture}"


class _LongMemEvalTurn(_Model):
    content: str
    has_answer: bool | None = None


class _LongMemEval(_Model):
    question: str
    question_type: str
    haystack_session_ids: list[str]
    haystack_sessions: list[list[_LongMemEvalTurn]]
    answer_session_ids: list[str]


def _long_mem_eval(entries: list[dict[str, Any]]) -> Iterator[Haystack]:
    for asked in TypeAdapter(list[_LongMemEval]).validate_python(entries):
        marked: set[str] = set()
        passages: list[Passage] = []
        sessions = zip(asked.haystack_session_ids, asked.haystack_sessions, strict=True)
        for session_id, turns in sessions:
            for number, turn in enumerate(turns):
                key = f"{session_id}/{number}"
                passages.append(Passage(turn.content, frozenset({session_id, key})))
                if turn.has_answer:
                    marked.add(key)
        evidence = frozenset(marked or asked.answer_session_ids)
        yield Haystack(tuple(passages), (Question(asked.question, asked.question_type, evidence),))


class _BeamMessage(_Model):
    id: int | str
    content: str


class _BeamQuestion(_Model):
    question: str
    source_chat_ids: Any = None


def _beam(entries: list[dict[str, Any]]) -> Iterator[Haystack]:
    for entry in entries:
        probing = entry["probing_questions"]
        if isinstance(probing, str):
            # As published: a Python literal within the JSON.
            probing = orjson.loads(orjson.dumps(ast.literal_eval(probing)))
        by_kind = TypeAdapter(dict[str, list[_BeamQuestion]]).validate_python(probing)
        yield Haystack(
            tuple(
                Passage(message.content, frozenset({str(message.id)}))
                for message in _messages(entry["chat"])
            ),
            tuple(
                Question(asked.question, kind, frozenset(_ids(asked.source_chat_ids)))
                for kind, questions in by_kind.items()
                for asked in questions
            ),
        )


def _messages(node: object) -> Iterator[_BeamMessage]:
    if isinstance(node, dict):
        found = cast(dict[str, object], node)
        if "content" in found and "id" in found:
            yield _BeamMessage.model_validate(found)
            return
        node = list(found.values())
    if isinstance(node, list):
        for each in cast(list[object], node):
            yield from _messages(each)


def _ids(node: object) -> Iterator[str]:
    if isinstance(node, int | str):
        yield str(node)
    elif isinstance(node, dict):
        yield from _ids(list(cast(dict[str, object], node).values()))
    elif isinstance(node, list):
        for each in cast(list[object], node):
            yield from _ids(each)


class _Pair(_Model):
    kind: str = "pair"
    query: str
    text: str


def _pairs(entries: list[dict[str, Any]]) -> Iterator[Haystack]:
    pairs = TypeAdapter(list[_Pair]).validate_python(entries)
    yield Haystack(
        tuple(Passage(text, frozenset({text})) for text in dict.fromkeys(p.text for p in pairs)),
        tuple(Question(pair.query, pair.kind, frozenset({pair.text})) for pair in pairs),
    )


Reader = Callable[[list[dict[str, Any]]], Iterator[Haystack]]

FORMATS: dict[str, tuple[set[str], Reader]] = {
    "LoCoMo": ({"conversation", "qa"}, _locomo),
    "LongMemEval": ({"haystack_sessions", "question"}, _long_mem_eval),
    "BEAM": ({"chat", "probing_questions"}, _beam),
    "pairs": ({"query", "text"}, _pairs),
}
