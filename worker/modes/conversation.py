"""What a model sees of a thread.

In: a job, with the messages that triggered it or a text of its own. Out: the turns up to that
message, oldest first, and what is remembered about it. Invariant: the turns are bounded in number,
length and tokens, and leave out what people wrote after that message: it has jobs of its own.
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
from worker.plain_job import state_of

TURNS_MAX = 20
# More than are used: in a burst, the newest ones came after the message that is dealt with.
MESSAGES_READ = 60
TURN_CHARACTERS_MAX = 4_000
MEMORIES_MAX = 5
QUERY_CHARACTERS_MAX = 2_000
# A lower score is what any two texts have in common.
SCORE_MIN = 0.15

# About how long a token is in ordinary text; no tokenizer is loaded.
BYTES_PER_TOKEN = 4
NO_TEXT = "(a message without text)"
"""What a model sees in place of an empty message, because providers refuse empty ones."""
NOT_FIRST = "(the conversation goes on)"
"""What a model sees before a thread that begins with an assistant's message, because some
providers refuse to begin with one."""

Turn = tuple[str, str]
"""Role ("user" or "assistant") and text."""


@dataclass(frozen=True, slots=True)
class MessageInContext:
    """The message to deal with, whole; and the turns up to it, which may have it clipped."""

    text: str
    turns: tuple[Turn, ...]


async def read(job: Job, text: str | None) -> MessageInContext:
    """The message that triggered the job, or `text` instead, after the turns before it.

    Raises `Fail` if there is neither.
    """
    own = await job.messages()
    if not own and text is None:
        raise Fail(
            f"a {job.mode} job needs a message (trigger_message_id) or a text in its payload; "
            'enqueue it with one, like {"text": "What did we decide?"}'
        )
    texts = [message.text for message in own]
    whole = "\n\n".join(texts if text is None else [text, *texts[1:]])
    last = ("user", clip(whole) if whole.strip() else NO_TEXT)
    tokens_max = state_of(job).tools.history_tokens - tokens_of(last[1])
    return MessageInContext(whole, (*newest(await _earlier(job, own), tokens_max), last))


async def read_thread(job: Job) -> tuple[Turn, ...]:
    """The turns of the job's thread up to the message that triggered it, that one included."""
    dealt = await job.messages()
    own = [("user", clip(message.text)) for message in dealt]
    return newest([*await _earlier(job, dealt), *own], state_of(job).tools.history_tokens)


def newest(turns: Sequence[Turn], tokens_max: int) -> tuple[Turn, ...]:
    """The newest turns, as many as take at most `tokens_max` tokens."""
    taken = list(accumulate(tokens_of(text) for _, text in reversed(turns)))
    fitting = sum(tokens <= tokens_max for tokens in taken)
    return tuple(turns[len(turns) - fitting :])


def tokens_of(text: str) -> int:
    """About how many tokens a text takes: a quarter of its bytes, rounded up."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


async def recall(job: Job, query: str) -> tuple[str, ...]:
    """What is remembered about `query`; nothing if the embedder does not answer."""
    if not query.strip():
        return ()
    try:
        hits = await job.recall(query[:QUERY_CHARACTERS_MAX], limit=MEMORIES_MAX)
    except embedders.EmbedderError as error:
        job.log.warning(events.EMBEDDER_FAILED, part="recall", error=str(error))
        return ()
    return tuple(clip(hit.text) for hit in hits if hit.similarity >= SCORE_MIN or hit.matched)


def clip(text: str, characters_max: int = TURN_CHARACTERS_MAX) -> str:
    """`text`; a longer one is cut, with a mark that says how long it was."""
    if len(text) <= characters_max:
        return text
    mark = f"… ({len(text):,} characters)"
    return text[: characters_max - len(mark)] + mark


async def _earlier(job: Job, own: Sequence[Message]) -> tuple[Turn, ...]:
    if job.thread_id is None:
        return ()
    async with job.database.connection() as connection:
        recent = await messages.fetch_recent(connection, job.thread_id, limit=MESSAGES_READ)
    earlier = [m for m in recent if _comes_before(m, own) and m.text.strip()]
    return tuple((message.role.value, clip(message.text)) for message in earlier[-TURNS_MAX:])


def _comes_before(message: Message, own: Sequence[Message]) -> bool:
    if not own:
        return True
    # An answer to an earlier message may have been written after this one came.
    return message.id not in {one.id for one in own} and (
        message.role is not MessageRole.USER or message.id < own[0].id
    )
