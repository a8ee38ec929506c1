"""Handlers of your own: what a job does.

Start a worker that knows them, from the folder that holds this file:

    JOBSWORTH_HANDLERS=handlers jobsworth worker

and give it work, from a shell or from SQL (in whatever transaction you are in):

    jobsworth enqueue summarise '{"text": "…"}'
    select jobsworth.enqueue('word_count', '{"text": "one two three"}');

The arguments of a handler are its payload, checked against the signature before any of its code
runs. What it returns is the job's result. If it raises, it is tried again, with growing pauses.
"""

import re

from jobsworth import Fail, Job, handler


@handler("word_count")
def word_count(text: str) -> int:
    """A plain function: it runs in a thread, and may block."""
    return len(text.split())


@handler("summarise", timeout_seconds=300, failures_max=3)
async def summarise(job: Job, text: str, sentences: int = 2, publish: bool = False) -> str:
    """An async one has all of `job`. It may be run again: what is recorded is not redone."""
    if not text.strip():
        raise Fail("there is nothing to summarise")  # for good: no further try can help

    # A step is recorded when it is done. If the worker dies after this line, the next attempt
    # reads the result instead of working it out again.
    summary = await job.step("pick", pick_sentences, text, sentences)

    # Asking parks the job: no slot, no connection, until a person has decided
    # (`jobsworth approval list`, `jobsworth approve …`). What is shown is what is decided on.
    if publish and not (await job.ask("Publish this summary?", shows=summary)).approved:
        return "not published"

    # These commit together with the end of the job: all of them exactly once, or none.
    if job.thread_id is not None:
        job.say(summary)
    job.save("summary.txt", summary)
    job.remember(
        summary, kind="summary"
    )  # embedded after the job; `jobsworth memory search` finds it
    return summary


@handler("longest_match", isolate="process", memory_mb=512, timeout_seconds=30)
def longest_match(pattern: str, text: str) -> str | None:
    """Isolated: a process to itself, killed when its time or its memory is up.

    The right place for what cannot be trusted to end, like somebody else's regular expression.
    """
    return max((match[0] for match in re.finditer(pattern, text)), key=len, default=None)


def pick_sentences(text: str, most: int) -> str:
    """The first sentences: a real summary would call a model here, with `job.call`."""
    return " ".join(re.split(r"(?<=[.!?])\s+", text.strip())[:most])
