"""What a model gets to see of a thread.

In: a job, with the message that triggered it or a text of its own. Out: the turns up to that
message, oldest first, and what is remembered about it. Invariant: bounded in number, length and
tokens, and without what people wrote after the message that is dealt with: their turn comes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from db.conversations import messages
from db.conversations.messages import Message, MessageRole
from worker import events
from worker.job import Job
from worker.memory import embedders
from worker.outcomes import Fail

TURNS_MAX = 20
# More are read than used: in a burst, the newest ones came after the message that is dealt with.
MESSAGES_READ = 60
TURN_CHARACTERS_MAX = 4_000
MEMORIES_MAX = 5
QUERY_CHARACTERS_MAX = 2_000
# Below it, texts have no more in common than any two have.
SCORE_MIN = 0.15

# No tokenizer is loaded: this is how long a token is in ordinary text, more or less.
BYTES_PER_TOKEN = 4
NO_TEXT = "(a message without text)"
"""What a model gets to see of an empty message, as providers refuse empty ones."""
NOT_FIRST = "(the conversation goes on)"
"""What a model gets to see before a thread that begins with its own words, as some refuse that."""

Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """`text` is what somebody wrote, whole; `turns` ends with it, and may have it clipped."""

    text: str
    turns: tuple[Turn, ...]


async def read(job: Job, text: str | None) -> Asked:
    """What the job is about. Raises `Fail` if nothing says so."""
    trigger = await _trigger(job)
    if trigger is None and text is None:
        raise Fail(
            f"a {job.mode} job needs a message (trigger_message_id) or a text in its payload; "
            'enqueue it with one, like {"text": "What did we decide?"}'
        )
    asked = text if text is not None else trigger.text if trigger else ""
    last = ("user", clip(asked) if asked.strip() else NO_TEXT)
    tokens_max = job.tools.history_tokens - tokens_of(last[1])
    return Asked(asked, (*newest(await _earlier(job, trigger), tokens_max), last))


async def read_thread(job: Job) -> tuple[Turn, ...]:
    """The job's thread up to the message that triggered it, itself not left out."""
    trigger = await _trigger(job)
    own = [("user", clip(trigger.text))] if trigger else []
    return newest([*await _earlier(job, trigger), *own], job.tools.history_tokens)


def newest(turns: Sequence[Turn], tokens_max: int) -> tuple[Turn, ...]:
    """The longest end of `turns` that takes no more tokens than that."""
    taken = list(accumulate(tokens_of(text) for _, text in reversed(turns)))
    fitting = sum(tokens <= tokens_max for tokens in taken)
    return tuple(turns[len(turns) - fitting :])


def tokens_of(text: str) -> int:
    """About how many tokens a text takes: a quarter of its bytes, rounded up."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


async def recall(job: Job, query: str) -> tuple[str, ...]:
    """What is remembered about `query`; nothing while the embedder does not answer."""
    if not query.strip():
        return ()
    try:
        hits = await job.recall(query[:QUERY_CHARACTERS_MAX], limit=MEMORIES_MAX)
    except embedders.EmbedderError as error:
        job.log.warning(events.EMBEDDER_FAILED, part="recall", error=str(error))
        return ()
    return tuple(clip(hit.text) for hit in hits if hit.score >= SCORE_MIN)


def clip(text: str, characters_max: int = TURN_CHARACTERS_MAX) -> str:
    """`text`, or its beginning and a mark that says how long it was."""
    if len(text) <= characters_max:
        return text
    mark = f"… ({len(text):,} characters)"
    return text[: characters_max - len(mark)] + mark


async def _trigger(job: Job) -> Message | None:
    if job.trigger_message_id is None:
        return None
    async with job.database.connection() as connection:
        return await messages.get_by_id(connection, job.trigger_message_id)


async def _earlier(job: Job, trigger: Message | None) -> tuple[Turn, ...]:
    if job.thread_id is None:
        return ()
    async with job.database.connection() as connection:
        recent = await messages.fetch_recent(connection, job.thread_id, limit=MESSAGES_READ)
    earlier = [m for m in recent if _comes_before(m, trigger) and m.text.strip()]
    return tuple((message.role.value, clip(message.text)) for message in earlier[-TURNS_MAX:])


def _comes_before(message: Message, trigger: Message | None) -> bool:
    if trigger is None:
        return True
    # An answer to an earlier message may have been written after this one came.
    return message.id != trigger.id and (
        message.role is not MessageRole.USER or message.id < trigger.id
    )
