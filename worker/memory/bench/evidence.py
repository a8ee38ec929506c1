"""Evidence recall: of the passages that hold an answer, how many a search finds among its first.

In: a data set, an embedder and a database. Out: for each kind of question, recall at 1, 5 and 10.
The search is the one that `job.recall` makes, over all passages of a haystack. Invariant: nothing
stays in the database but the embedder's space: each haystack is a team of its own in a transaction
that is rolled back. No text is embedded while that transaction is open.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from uuid import uuid4

from db.memory import memories, spaces
from db.memory.memories import Hit, Text
from db.memory.spaces import Space
from db.pool import Connection
from worker.memory.bench.data_sets import DataSet, Haystack, Passage, Question
from worker.memory.chunks import chunks
from worker.memory.embedders import Account, Embedder

PLACES = (1, 5, 10)
# A long passage is several texts, as in a memory; the first of them counts.
TEXTS_PER_PASSAGE = 4
TOGETHER = 64
EVERYTHING = "all"

Vector = list[float]


@dataclass(frozen=True, slots=True)
class KindResult:
    """Mean recall at each of `PLACES` (0 to 1), and the median milliseconds of a search."""

    kind: str
    questions: int
    recall: tuple[float, ...]
    search_ms: float


@dataclass(slots=True)
class _Scores:
    recalls: dict[str, list[tuple[float, ...]]] = field(
        default_factory=dict[str, list[tuple[float, ...]]]
    )
    milliseconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])


async def measure(
    conn: Connection,
    embedder: Embedder,
    account: Account,
    data: DataSet,
    questions_max: int | None = None,
) -> list[KindResult]:
    """The results by kind of question, then of all. Raises `EmbedderError`.

    `conn` must not be in a transaction, and `account` writes by another connection. At most the
    first `questions_max` questions are asked.
    """
    space = await spaces.get_or_create(conn, embedder.space)
    scores = _Scores()
    left = questions_max
    for haystack in data.haystacks:
        asked = haystack.questions[:left]
        if asked:
            await _ask(conn, space, embedder, account, haystack, asked, scores)
        left = None if left is None else left - len(asked)
    kinds = sorted(scores.recalls)
    return [_result(scores, kind, [kind]) for kind in kinds] + [
        _result(scores, EVERYTHING, kinds)
    ] * (len(kinds) > 1)


async def _ask(
    conn: Connection,
    space: Space,
    embedder: Embedder,
    account: Account,
    haystack: Haystack,
    asked: Sequence[Question],
    scores: _Scores,
) -> None:
    texts = list(_texts(haystack.passages, embedder.chunk_characters))
    vectors = await _vectors(embedder, account, [text for _, text in texts])
    queries = await _vectors(embedder, account, [question.text for question in asked])
    team_id = uuid4()
    async with conn.transaction(force_rollback=True):
        await memories.add(
            conn,
            space,
            [Text(text, source_id=str(number), team_id=team_id) for number, text in texts],
            vectors,
        )
        for question, vector in zip(asked, queries, strict=True):
            began = time.perf_counter()
            hits = await memories.search(
                conn,
                space,
                vector,
                query=question.text,
                limit=TEXTS_PER_PASSAGE * max(PLACES),
                team_id=team_id,
            )
            took = (time.perf_counter() - began) * 1000
            found = _first_passages(hits, haystack.passages)
            recall = tuple(recall_at(found, question.evidence, place) for place in PLACES)
            scores.recalls.setdefault(question.kind, []).append(recall)
            scores.milliseconds.setdefault(question.kind, []).append(took)


def recall_at(found: Sequence[Passage], evidence: frozenset[str], place: int) -> float:
    """The share of the evidence that is among the first passages."""
    keys = frozenset(key for passage in found[:place] for key in passage.keys)
    return len(evidence & keys) / len(evidence)


def _texts(passages: Sequence[Passage], characters_max: int) -> Iterator[tuple[int, str]]:
    for number, passage in enumerate(passages):
        for chunk in chunks(passage.text, characters_max):
            yield number, passage.text[chunk.start : chunk.end]


async def _vectors(embedder: Embedder, account: Account, texts: Sequence[str]) -> list[Vector]:
    made: list[Vector] = []
    for start in range(0, len(texts), TOGETHER):
        made += await embedder.embed(texts[start : start + TOGETHER], account)
    return made


def _first_passages(hits: Sequence[Hit], passages: Sequence[Passage]) -> list[Passage]:
    numbers = dict.fromkeys(int(hit.source_id or 0) for hit in hits)
    return [passages[number] for number in numbers]


def _result(scores: _Scores, name: str, kinds: Sequence[str]) -> KindResult:
    recalls = [each for kind in kinds for each in scores.recalls[kind]]
    return KindResult(
        name,
        len(recalls),
        tuple(round(mean(column), 4) for column in zip(*recalls, strict=True)),
        round(median(each for kind in kinds for each in scores.milliseconds[kind]), 2),
    )
