"""Embedders: the offline one ranks by words; the endpoint one gives all vectors or an error."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.providers.openai_stub import (
    CUT,
    GOOD,
    MALFORMED,
    SERVER_ERROR,
    Fault,
    OpenAIStub,
    slow,
    too_many,
    wrong_dimensions,
)
from tests.support import ROOT
from tests.worker.memory.noted import Noted
from worker.memory.choice import embedder_of
from worker.memory.embedders import (
    EmbedderBusy,
    EmbedderError,
    EmbedderRefused,
    HashingEmbedder,
)
from worker.memory.openai_embedder import OpenAIEmbedder
from worker.settings import load_settings

DIMENSIONS = 64


def similarity(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def ranked(query: str, texts: list[str]) -> list[str]:
    embedder = HashingEmbedder()
    [asked] = embedder.vectors([query])
    scores = {text: similarity(asked, embedder.vectors([text])[0]) for text in texts}
    return sorted(texts, key=lambda text: -scores[text])


@given(st.text(max_size=200), st.sampled_from([1, 8, 256, 1536]))
def test_every_lexical_vector_has_length_one_or_no_direction(text: str, dimensions: int) -> None:
    [vector] = HashingEmbedder(dimensions).vectors([text])
    assert len(vector) == dimensions
    length = math.sqrt(similarity(vector, vector))
    assert length == 0 or math.isclose(length, 1, abs_tol=1e-9)


def test_a_text_without_letters_or_digits_has_no_direction() -> None:
    for text in ("", "  \n", "?!… —"):
        assert HashingEmbedder(8).vectors([text]) == [[0.0] * 8]


def test_lexical_vectors_are_the_same_in_every_process() -> None:
    script = (
        "from worker.memory.embedders import HashingEmbedder;"
        "print(HashingEmbedder(16).vectors(['Roll back the café release 42'])[0])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert outputs == {str(HashingEmbedder(16).vectors(["Roll back the café release 42"])[0])}


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("how do I roll back a deployment?", "Rolling back a deployment takes one command."),
        ("database passwords", "The password of the database is in the vault."),
        ("invoice for march", "March's invoices were sent to the customer."),
        ("Straßenbahn", "Die Strassenbahn fährt nicht."),
        ("cafe opening hours", "The CAFÉ opens at nine o'clock."),
    ],
)
def test_texts_that_share_words_or_stems_rank_higher(query: str, best: str) -> None:
    texts = [
        "The cat sleeps on the sofa in the sun.",
        "Rolling back a deployment takes one command.",
        "The password of the database is in the vault.",
        "March's invoices were sent to the customer.",
        "Die Strassenbahn fährt nicht.",
        "The CAFÉ opens at nine o'clock.",
        "How do I do it? How do I know?",
    ]
    assert ranked(query, texts)[0] == best


async def test_the_offline_embedder_says_that_it_is_lexical() -> None:
    embedder = embedder_of(load_settings(embedder_dimensions=32))
    assert (embedder.lexical, embedder.dimensions) == (True, 32)
    assert "lexical" in embedder.model
    assert "lexical" in embedder.description
    assert await embedder.embed(["a", "b"], Noted()) == HashingEmbedder(32).vectors(["a", "b"])
    await embedder.close()


@pytest.fixture
def provider() -> Iterator[OpenAIStub]:
    with OpenAIStub(dimensions=DIMENSIONS, key="s3cret") as stub:
        yield stub


@pytest.fixture
async def embedder(provider: OpenAIStub) -> AsyncGenerator[OpenAIEmbedder]:
    embedder = OpenAIEmbedder(
        provider.url, "embed-1", key="s3cret", dimensions=DIMENSIONS, batch_max=3
    )
    yield embedder
    await embedder.close()


async def test_vectors_come_in_the_order_of_the_texts_over_several_requests(
    provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    texts = ["one", "two", "three", "four", "five two"]
    vectors = await embedder.embed(texts, Noted())
    singles = [(await embedder.embed([text], Noted()))[0] for text in texts]
    assert vectors == singles
    first, second, *_ = provider.requests
    assert first.path == "/v1/embeddings"
    assert first.body["input"] == texts[:3]
    assert second.body["input"] == texts[3:]
    assert (first.body["model"], first.body["dimensions"]) == ("embed-1", DIMENSIONS)
    assert (embedder.model, embedder.lexical) == ("embed-1", False)
    assert await embedder.embed([], Noted()) == []


async def test_the_url_may_name_the_page_itself(provider: OpenAIStub) -> None:
    for url in (f"{provider.url}/", f"{provider.url}/embeddings"):
        embedder = embedder_of(
            load_settings(
                embedder_url=url,
                embedder_model="embed-1",
                embedder_key="s3cret",
                embedder_dimensions=DIMENSIONS,
            )
        )
        assert len(await embedder.embed(["a"], Noted())) == 1
        await embedder.close()


async def test_an_endpoint_that_refuses_the_dimensions_field_gets_it_once(
    provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    provider.refuses_dimensions_field = True
    for _ in range(2):
        assert len(await embedder.embed(["a"], Noted())) == 1
    assert ["dimensions" in request.body for request in provider.requests] == [True, False, False]
    ids = [request.headers["X-Request-Id"] for request in provider.requests]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("1e9", 3600.0), ("nan", None), ("soon", None)],
)
async def test_a_busy_endpoint_says_how_long(
    provider: OpenAIStub, embedder: OpenAIEmbedder, retry_after: str, seconds: float | None
) -> None:
    provider.script(too_many(retry_after))
    with pytest.raises(EmbedderBusy, match="429: rate limit reached") as busy:
        await embedder.embed(["a"], Noted())
    assert busy.value.after_seconds == seconds


async def test_a_busy_endpoint_may_name_a_date_or_nothing(
    provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    provider.script(too_many(at), too_many(), Fault(503, headers={"Retry-After": "9"}))
    with pytest.raises(EmbedderBusy) as dated:
        await embedder.embed(["a"], Noted())
    assert dated.value.after_seconds == pytest.approx(100, abs=5)
    with pytest.raises(EmbedderBusy) as silent:
        await embedder.embed(["a"], Noted())
    assert silent.value.after_seconds is None
    with pytest.raises(EmbedderBusy) as unavailable:
        await embedder.embed(["a"], Noted())
    assert unavailable.value.after_seconds == 9


def edited(**changes: Any) -> Fault:
    return Fault(edit=lambda body: body | changes)


def embedding(values: list[Any], index: Any = 0) -> Fault:
    return edited(data=[{"index": index, "embedding": values}])


NUMBERS: list[Any] = [0.5] * DIMENSIONS


@pytest.mark.parametrize(
    ("fault", "reason", "ending"),
    [
        (SERVER_ERROR, "answered 500: internal error", "lost"),
        (Fault(408, message="too slow"), "answered 408: too slow", "lost"),
        (Fault(404, message="no such model"), "answered 404: no such model", "refused"),
        (CUT, "cannot be reached", "lost"),
        (MALFORMED, "invalid JSON", "spoilt None"),
        (edited(data=[]), "0 embeddings for 1 texts", "spoilt 1"),
        (edited(data=None), "without a list", "spoilt 1"),
        (Fault(edit=lambda _: [1, 2]), "without a list", "spoilt None"),
        (Fault(edit=lambda _: None), "without a list", "spoilt None"),
        (embedding(NUMBERS, index=1), "1 embeddings for 1 texts", "spoilt 1"),
        (embedding(NUMBERS, index="x"), "without a list", "spoilt 1"),
        (edited(data=[], usage={"prompt_tokens": "7"}), "0 embeddings", "spoilt None"),
    ],
)
async def test_whatever_is_not_an_answer_is_an_error_that_says_so(
    provider: OpenAIStub, embedder: OpenAIEmbedder, fault: Fault, reason: str, ending: str
) -> None:
    """And what may have been billed is never booked as a refusal."""
    provider.script(fault)
    account = Noted()
    with pytest.raises(EmbedderError, match=reason) as failed:
        await embedder.embed(["a"], account)
    assert account.endings == [ending]
    assert type(failed.value) is EmbedderError
    assert provider.url in str(failed.value)
    assert len(await embedder.embed(["a"], Noted())) == 1  # and it works again


async def test_a_wrong_length_is_the_settings_if_all_vectors_have_it_and_else_a_texts(
    provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    told = "vectors of 8 numbers, not 64; set JOBSWORTH_EMBEDDER_DIMENSIONS=8"
    for texts, kind in ((["a", "b"], EmbedderError), (["a"], EmbedderRefused)):
        provider.script(wrong_dimensions(8))
        with pytest.raises(EmbedderError, match=told) as failed:
            await embedder.embed(texts, Noted())
        assert type(failed.value) is kind


@pytest.mark.parametrize("number", ["x", None, math.nan, math.inf, 65_505, -1e9, True])
async def test_a_vector_that_cannot_be_stored_is_a_refusal_of_its_text(
    provider: OpenAIStub, embedder: OpenAIEmbedder, number: Any
) -> None:
    provider.script(embedding([*NUMBERS[1:], number]))
    with pytest.raises(EmbedderRefused, match="not a finite number of half precision"):
        await embedder.embed(["a"], Noted())
    provider.script(embedding([*NUMBERS[1:], 65_504]))
    assert len(await embedder.embed(["a"], Noted())) == 1


@pytest.mark.parametrize("left_out", [{0}, {0, 1, 2}])
async def test_an_endpoint_may_leave_out_an_index(
    provider: OpenAIStub, embedder: OpenAIEmbedder, left_out: set[int]
) -> None:
    """Protobuf leaves a 0 out of its JSON; other endpoints leave all out, and keep the order."""
    items: list[dict[str, Any]] = [
        {"embedding": [float(n)] * DIMENSIONS} | ({} if n in left_out else {"index": n})
        for n in range(3)
    ]
    provider.script(edited(data=items if len(left_out) > 1 else items[::-1]))
    assert [vector[0] for vector in await embedder.embed(["a", "b", "c"], Noted())] == [
        0.0,
        1.0,
        2.0,
    ]


async def test_two_embeddings_of_one_text_are_not_two_texts(
    provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    item = {"index": 0, "embedding": NUMBERS}
    provider.script(edited(data=[item, item]))
    with pytest.raises(EmbedderError, match="2 embeddings for 2 texts"):
        await embedder.embed(["a", "b"], Noted())


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refusal_of_the_texts_is_told_from_other_errors(
    provider: OpenAIStub, embedder: OpenAIEmbedder, status: int
) -> None:
    provider.script(Fault(status, message="too long"))
    with pytest.raises(EmbedderRefused, match="too long"):
        await embedder.embed(["a"], Noted())


async def test_a_wrong_key_is_named_but_never_shown(provider: OpenAIStub) -> None:
    embedder = OpenAIEmbedder(
        provider.url.replace("127.0.0.1", "me:pass-word@127.0.0.1"),
        "embed-1",
        key="wr0ng",
        dimensions=DIMENSIONS,
    )
    with pytest.raises(EmbedderError, match="401: incorrect API key") as refused:
        await embedder.embed(["a"], Noted())
    await embedder.close()
    assert "wr0ng" not in str(refused.value)
    assert "pass-word" not in str(refused.value) + embedder.description


async def test_an_endpoint_that_does_not_answer_in_time_is_given_up(provider: OpenAIStub) -> None:
    provider.script(slow(30))
    embedder = OpenAIEmbedder(
        provider.url, "embed-1", key="s3cret", dimensions=DIMENSIONS, timeout_seconds=0.2
    )
    began = time.monotonic()
    with pytest.raises(EmbedderError, match=r"did not answer within 0\.2 s"):
        await embedder.embed(["a"], Noted())
    assert time.monotonic() - began < 5
    await embedder.close()


async def test_an_endpoint_that_is_not_there_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        embedder = OpenAIEmbedder(url, "embed-1", dimensions=DIMENSIONS)
        account = Noted()
        with pytest.raises(EmbedderError, match="cannot be reached") as failed:
            await embedder.embed(["a"], account)
        await embedder.close()
    assert account.endings == ["unsent"]
    assert url in str(failed.value)


async def test_the_provider_bills_what_it_computed_and_nothing_else(
    provider: OpenAIStub, embedder: OpenAIEmbedder
) -> None:
    """A cut answer costs as much as one that arrived; a refused request costs nothing."""
    provider.script(SERVER_ERROR, too_many(), CUT, GOOD)
    for _ in range(3):
        with pytest.raises(EmbedderError):
            await embedder.embed(["12345678"], Noted())
    await embedder.embed(["12345678"], Noted())
    assert [charge.input_tokens for charge in provider.bill] == [2, 2]
    assert provider.billed_tokens() == {"embed-1": (4, 0)}
    assert len(provider.requests) == 4
