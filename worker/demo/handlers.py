"""The demo's own handlers, as a user would write them; the demo copies this file to its folder.

`poison` fails on every try. `digest` has steps that last long enough for its daemon to be killed
during one. `survey` and `compare` are the nodes of a run: several `survey` jobs read a letter each,
and one `compare` job compares their findings. `order` asks for an approval of something that may
change before anybody decides. `serve` recalls what an agent remembers. The handlers log what they
do in files, outside the database, which show whether anything was done twice.
"""

import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, UserPromptPart
from pydantic_ai.models import Model

from jobsworth import Job, handler
from worker.modes.offline_model import OfflineModel

READING_LOG = Path("reading.log")
DIARY = Path("diary.log")
WANTED = Path("wanted.txt")

reader = Agent(
    instructions="Answer the question out of what you were told before, in its own words.",
    model_settings={"max_tokens": 100},
)


class Indigestible(Exception):
    """The error of `poison`."""


@handler("poison", failures_max=2)
async def poison(job: Job, reason: str = "it was made to fail") -> None:
    """Fail on every try."""
    raise Indigestible(f"try {job.attempt}: {reason}")


@handler("digest")
async def digest(job: Job, chapters: int = 5, seconds: float = 0.5) -> dict[str, int]:
    """Read one chapter after the other, each in a durable step that also logs it to a file."""
    words = [
        await job.step(f"chapter {number}", _read, str(job.id), number, seconds)
        for number in range(1, chapters + 1)
    ]
    return {"chapters": chapters, "words": sum(words)}


@handler("survey")
async def survey(job: Job, supplier: str, letter: str, question: str) -> str:
    """Have a model find the answer to a question in a supplier's letter."""
    await job.step("open", _note, f"opened the letter of {supplier}")
    return await job.agent(
        "read", reader, question, message_history=_told([letter]), model=_model()
    )


@handler("compare")
async def compare(job: Job, question: str) -> str:
    """Gather the results of this job's parents, and have a model answer a question about them."""
    findings = await job.step("gather", _gather, dict(await job.parents()))
    answer = await job.agent(
        "compare", reader, question, message_history=_told(findings), model=_model()
    )
    job.save("suppliers.md", f"# {question}\n\n{answer}\n")
    return answer


@handler("order")
async def order(job: Job, goods: str) -> str:
    """Order as many crates as are wanted now, after an approval of exactly that number."""
    crates = _wanted()
    many = f"{crates} crates of {goods}"
    return await job.approved_step("order", _note, f"ordered {many}", proposal=f"Order {many}?")


@handler("serve")
async def serve(job: Job, wish: str) -> list[dict[str, Any]]:
    """Recall what the agent knows of a guest, best first, with the parts of each score."""
    hits = await job.recall(wish, 3)
    return [hit.model_dump(mode="json", include={"text", "score", "parts"}) for hit in hits]


def _read(job_id: str, number: int, seconds: float) -> int:
    time.sleep(seconds)
    with READING_LOG.open("a") as log:
        log.write(f"{job_id} chapter {number}\n")
    return 100 * number


def _gather(results: Mapping[str, Any]) -> list[str]:
    _note("gathered the findings")
    return [
        f"{node}: {line}" for node, result in sorted(results.items()) for line in _quotes(result)
    ]


def _quotes(text: str) -> list[str]:
    """The quotations in a finding; the whole finding where it quotes nothing."""
    return re.findall("“(.+?)”", text) or [text]


def _wanted() -> int:
    return int(WANTED.read_text())


def _note(line: str) -> str:
    with DIARY.open("a") as diary:
        diary.write(f"{line}\n")
    return line


def _model() -> Model | None:
    """None: the daemon's own model. A daemon without one gets the offline model explicitly."""
    if os.environ.get("JOBSWORTH_MODEL", "offline") != "offline":
        return None
    return OfflineModel()


def _told(texts: Iterable[str]) -> list[ModelMessage]:
    return [ModelRequest([UserPromptPart(text)]) for text in texts]
