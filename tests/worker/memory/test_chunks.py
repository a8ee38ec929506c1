"""Chunks cover their text, are short enough, and end where it hurts least."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.memory.chunks import Chunk, chunker_name, chunks, content_hash

words = st.text(st.sampled_from("abcé漢.!?。 \t\n'\"😀"), max_size=300)


@given(words | st.text(max_size=300), st.integers(1, 60))
def test_chunks_cover_the_text_in_order_and_are_short_enough(text: str, most: int) -> None:
    cut = chunks(text, most)
    assert "".join(text[one.start : one.end] for one in cut) == text
    assert [one.start for one in cut] == [0, *(one.end for one in cut[:-1])]
    assert cut[-1].end == len(text)
    assert all(one.end - one.start <= most for one in cut)
    assert all(one.start < one.end for one in cut) or cut == [Chunk(0, 0)]
    # Neighbours that fit together are together.
    assert all(b.end - a.start > most for a, b in pairwise(cut))


@given(st.lists(st.text("xyz", min_size=1, max_size=20), min_size=1, max_size=20))
def test_a_paragraph_that_fits_is_in_one_chunk(paragraphs: list[str]) -> None:
    text = "\n\n".join(paragraphs)
    ends = {one.end for one in chunks(text, 22)}
    inside = set(range(len(text))) - ends
    at = 0
    for paragraph in paragraphs:
        assert not ends & set(range(at + 1, at + len(paragraph)))
        at += len(paragraph) + 2
    assert inside or len(text) <= 1


def test_sentences_come_before_words_and_words_before_letters() -> None:
    def pieces(text: str, most: int) -> list[str]:
        return [text[one.start : one.end] for one in chunks(text, most)]

    assert pieces("One two. Three four! Five six?", 15) == [
        "One two. ",
        "Three four! ",
        "Five six?",
    ]
    assert pieces("一二三。四五六。七八九。", 4) == ["一二三。", "四五六。", "七八九。"]
    assert pieces("alpha beta gamma", 7) == ["alpha ", "beta ", "gamma"]
    assert pieces("abcdefgh", 3) == ["abc", "def", "gh"]
    assert chunker_name(3) != chunker_name(4)


@given(st.text(max_size=20), st.text(max_size=20))
def test_the_same_content_has_the_same_hash(one: str, other: str) -> None:
    assert (content_hash(one) == content_hash(other)) == (one == other)
