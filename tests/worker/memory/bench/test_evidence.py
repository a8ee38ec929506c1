"""Evidence recall: the formats, what is refused, the scores, the shipped pairs, the command."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.errors import InvalidInput
from db.pool import Connection, fetch_val
from tests.support import run_cli
from tests.worker.memory.noted import Noted
from worker.memory.bench.data_sets import SHIPPED, Passage, read
from worker.memory.bench.evidence import measure, recall_at
from worker.memory.embedders import HashingEmbedder
from worker.memory.semantic.embedder import SemanticEmbedder

LOCOMO: list[dict[str, Any]] = [
    {
        "sample_id": "conv-1",
        "conversation": {
            "speaker_a": "Ada",
            "speaker_b": "Bo",
            "session_1_date_time": "1:56 pm on 8 May, 2026",
            "session_1": [
                {"speaker": "Ada", "dia_id": "D1:1", "text": "I adopted a parrot called Kiwi."},
                {"speaker": "Bo", "dia_id": "D1:2", "text": "Look!", "blip_caption": "a red kite"},
            ],
            "session_2": [{"speaker": "Bo", "dia_id": "D2:1", "text": "My car broke down."}],
        },
        "qa": [
            {"question": "What is the parrot called?", "evidence": ["D1:1"], "category": 4},
            {"question": "Parrot and red kite?", "evidence": ["D1:1; D1:2"], "category": 1},
            {"question": "Which cat?", "evidence": ["D9:9"], "category": 2},
            {"question": "Which dog?", "category": 5, "adversarial_answer": "none"},
        ],
    }
]
LONG_MEM_EVAL: list[dict[str, Any]] = [
    {
        "question_id": f"q{number}",
        "question_type": "single-session-user",
        "question": "Which degree did I finish?",
        "answer": "chemistry",
        "question_date": "2026/05/20 (Wed) 02:36",
        "haystack_dates": ["2026/05/01 (Fri) 10:00", "2026/05/02 (Sat) 10:00"],
        "haystack_session_ids": ["s1", "s2"],
        "haystack_sessions": [
            [{"role": "user", "content": "I like tea."}],
            [
                {"role": "user", "content": "I did finish my degree in chemistry.", **marked},
                {"role": "assistant", "content": "Congratulations!"},
            ],
        ],
        "answer_session_ids": ["s2"],
    }
    for number, marked in enumerate(({"has_answer": True}, {}))
]
BEAM: dict[str, Any] = {
    "conversation_id": "1",
    "chat": [
        [{"id": 0, "role": "user", "content": "The sprint ends on 29 March.", "index": "1,1"}],
        [{"plan-1": [{"batch_number": 1, "turns": [[{"id": 7, "content": "Use Flask."}]]}]}],
    ],
    "probing_questions": repr(
        {
            "information_extraction": [
                {"question": "When does the sprint end?", "source_chat_ids": [0]},
                {"question": "Flask, and until when?", "source_chat_ids": {"a": [0], "b": [[7]]}},
            ],
            "abstention": [{"question": "Which colour?", "ideal_response": "unknown"}],
        }
    ),
}


def written(folder: Path, content: object) -> Path:
    path = folder / "data.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_locomo_is_read_turn_by_turn_and_questions_without_evidence_are_counted(
    tmp_path: Path,
) -> None:
    data = read(written(tmp_path, LOCOMO))
    [haystack] = data.haystacks
    assert (data.format, data.left_out) == ("LoCoMo", 2)
    assert haystack.passages[1].text == "Bo: Look! (a picture: a red kite)"
    assert [(each.kind, each.evidence) for each in haystack.questions] == [
        ("single-hop", {"D1:1"}),
        ("multi-hop", {"D1:1", "D1:2"}),
    ]


def test_longmemeval_evidence_is_the_marked_turns_or_else_the_sessions(tmp_path: Path) -> None:
    marked, unmarked = read(written(tmp_path, LONG_MEM_EVAL)).haystacks
    assert marked.questions[0].evidence == {"s2/0"}
    assert unmarked.questions[0].evidence == {"s2"}
    assert [passage.keys for passage in marked.passages][1:] == [{"s2", "s2/0"}, {"s2", "s2/1"}]


def test_beam_is_read_through_batches_plans_and_python_literals(tmp_path: Path) -> None:
    for content in (BEAM, [BEAM], "\n".join(json.dumps(each) for each in (BEAM, BEAM))):
        data = read(written(tmp_path, content))
        assert data.format == "BEAM"
        first = data.haystacks[0]
        assert [passage.text for passage in first.passages] == [
            "The sprint ends on 29 March.",
            "Use Flask.",
        ]
        assert [each.evidence for each in first.questions] == [{"0"}, {"0", "7"}]


UNUSABLE: list[tuple[Any, str]] = [
    ("{", "is not JSON"),
    ("[1]", "something that is not an object"),
    ("[]", "no data set of a known format"),
    ('[{"a": 1}]', "no data set of a known format"),
    ('[{"query": "q", "text": 5}]', r"pairs files are: 0\.text"),
    (r'[{"query": "q", "text": "\ud800"}]', "is not JSON"),
    ({**BEAM, "probing_questions": r"{'k': [{'question': '\ud800'}]}"}, "BEAM files are: str"),
    ({**BEAM, "chat": [{"id": 1, "content": None}]}, "BEAM files are: content"),
    ([{**LOCOMO[0], "qa": [{"question": "q"}]}], r"LoCoMo files are: 0\.qa\.0\.category"),
    ([{**LONG_MEM_EVAL[0], "haystack_session_ids": []}], "LongMemEval files are: zip"),
    ({**BEAM, "probing_questions": "open('x')"}, "BEAM files are: malformed"),
    ({**BEAM, "probing_questions": {}}, "no question names evidence"),
    ("[" * 100_000, "is not JSON"),
]


@pytest.mark.parametrize(("content", "reason"), UNUSABLE)
def test_a_file_that_cannot_be_used_is_refused_with_its_name_and_the_place(
    content: object, reason: str, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InvalidInput, match=f"{re.escape(str(path))} .*{reason}"):
        read(path)


@given(st.lists(st.frozensets(st.sampled_from("abcdef"), min_size=1)), st.integers(1, 5))
def test_recall_grows_with_the_place_and_is_whole_when_all_evidence_is_there(
    keys: list[frozenset[str]], place: int
) -> None:
    found = [Passage("", each) for each in keys]
    evidence = frozenset("abc")
    assert 0 <= recall_at(found, evidence, place) <= recall_at(found, evidence, place + 1) <= 1
    assert recall_at([*found, Passage("", evidence)], evidence, len(found) + 1) == 1


async def test_what_is_measured_is_the_search_and_nothing_of_it_stays(
    conn: Connection, tmp_path: Path
) -> None:
    results = {
        each.kind: each
        for each in await measure(conn, HashingEmbedder(), Noted(), read(written(tmp_path, LOCOMO)))
    }
    assert results["single-hop"].recall == (1, 1, 1)
    assert results["multi-hop"].recall == (0.5, 1, 1)
    assert results["all"].questions == 2
    for table in ("memories", "embeddings", "embedding_outbox"):
        assert await fetch_val(conn, f"select count(*) from jobsworth.{table}") == 0
    only = await measure(conn, HashingEmbedder(), Noted(), read(SHIPPED), questions_max=3)
    assert sum(each.questions for each in only) == 3


GRAMMAR = frozenset(
    re.findall(
        r"\w+",
        "the a an and or of to in on at by for with from is are was were be been it its this that "
        "these those he she they we i you his her their our my your him them who what which when "
        "where why how do does did has have had not no must may can should would will if as about "
        "into over all any every each there here than then so such only own more most much many "
        "long old get got go goes take takes make makes made use used like likes want wants other "
        "new",
    )
)


def stems(text: str) -> set[str]:
    words = re.findall(r"[a-z]{3,}", re.sub(r"'s\b", "", text.lower()))
    return {word[:4] for word in words if word not in GRAMMAR}


def test_the_shipped_pairs_are_what_they_say() -> None:
    [haystack] = read(SHIPPED).haystacks
    kinds = Counter(question.kind for question in haystack.questions)
    assert len(haystack.questions) == len(haystack.passages) >= 300
    assert kinds.keys() == {"paraphrase", "identifier", "date", "negation", "near-duplicate"}
    assert min(kinds.values()) >= 39
    assert len({question.text for question in haystack.questions}) == len(haystack.questions)
    for question in haystack.questions:
        if question.kind == "paraphrase":
            [text] = question.evidence
            assert not stems(question.text) & stems(text), question.text


async def test_the_semantic_embedder_reaches_its_targets_on_the_shipped_pairs(
    conn: Connection,
) -> None:
    embedder = SemanticEmbedder(2)
    data = read(SHIPPED)
    [haystack] = data.haystacks
    asked = [each for each in haystack.questions if each.kind in ("paraphrase", "identifier")]
    data = replace(data, haystacks=(replace(haystack, questions=tuple(asked)),))
    results = {each.kind: each for each in await measure(conn, embedder, Noted(), data)}
    await embedder.close()
    assert results["paraphrase"].recall[1] >= 0.9
    assert results["identifier"].recall[0] == 1


def test_the_command_prints_a_table_and_names_a_bad_file(database_url: str, tmp_path: Path) -> None:
    path = str(written(tmp_path, LOCOMO))
    ended = run_cli("memory", "bench", path, url=database_url)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"single-hop +1 +1\.000 +1\.000 +1\.000", ended.stdout)
    assert "LoCoMo, offline lexical embedder" in ended.stderr
    assert "2 questions name no evidence" in ended.stderr
    missing = run_cli("memory", "bench", f"{path}.gone", url=database_url)
    assert missing.returncode == 2
    assert "gone cannot be read: No such file" in missing.stderr
