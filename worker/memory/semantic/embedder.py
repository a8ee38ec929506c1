"""The semantic embedder: the model in a thread of its own.

In: texts. Out: their vectors. Invariant: no loop of jobs waits for the model: it works in one
thread, which the system runs after the jobs' (where it knows priorities of threads), and without
the interpreter's lock. A text to search for waits for one part of a batch, not for a batch.

The model is loaded by the first text, so a worker whose jobs remember nothing does without its
200 MB. A model that cannot be loaded is tried again with the next texts.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from db.memory.spaces import SpaceKey
from worker.memory.chunks import chunker_name
from worker.memory.embedders import Account, EmbedderError

if TYPE_CHECKING:
    from worker.memory.semantic.model import Model

MODEL = "all-MiniLM-L6-v2-int8"
DIMENSIONS = 384
# 256 word pieces are about 1,000 characters of English; what is beyond them is not read.
CHUNK_CHARACTERS = 800
SPACE = SpaceKey("jobsworth", MODEL, DIMENSIONS, chunker_name(CHUNK_CHARACTERS))
# Texts between two looks at who waits: 16 short ones take 0.1 s of one core.
TOGETHER = 16
# Added to the priority of the thread; 19 is the least. See nice(2).
NICE = 10


class SemanticEmbedder:
    """all-MiniLM-L6-v2 on this machine, with at most `threads` threads."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._model: Model | None = None
        self._thread = ThreadPoolExecutor(1, "semantic-embedder", initializer=_after_the_jobs)

    @property
    def model(self) -> str:
        return MODEL

    @property
    def dimensions(self) -> int:
        return DIMENSIONS

    @property
    def chunk_characters(self) -> int:
        return CHUNK_CHARACTERS

    @property
    def space(self) -> SpaceKey:
        return SPACE

    @property
    def lexical(self) -> bool:
        return False

    @property
    def description(self) -> str:
        return f"offline semantic embedder ({MODEL}): compares meanings, English best"

    @property
    def paid(self) -> bool:
        return False

    async def embed(
        self, texts: Sequence[str], account: Account | None = None
    ) -> list[list[float]]:
        loop = asyncio.get_running_loop()
        # Similar lengths together: the shorter ones of a part are filled up to its longest.
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        vectors: list[list[float]] = [[] for _ in texts]
        for start in range(0, len(order), TOGETHER):
            part = order[start : start + TOGETHER]
            made = await loop.run_in_executor(
                self._thread, self._vectors, [texts[number] for number in part]
            )
            for number, vector in zip(part, made, strict=True):
                vectors[number] = vector
        return vectors

    async def close(self) -> None:
        # Without waiting: the part that is being worked on ends by itself.
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _vectors(self, texts: Sequence[str]) -> list[list[float]]:
        try:
            if self._model is None:
                from worker.memory.semantic.model import Model  # a second, and 200 MB

                self._model = Model(self._threads)
            return self._model.vectors(texts)
        except EmbedderError:
            raise
        except Exception as error:
            raise EmbedderError(f"the offline model failed: {error}") from error


def _after_the_jobs() -> None:
    # Only Linux has priorities of threads; elsewhere this would slow down the whole worker.
    # Where it is forbidden, the thread works at the jobs' priority.
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
