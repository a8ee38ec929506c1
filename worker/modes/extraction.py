"""What a model extracts from messages, and what of it can be kept.

In: messages of people, quoted as data. Out: statements, each with the message's own words.
Invariant: a statement whose quote is not in the message that it names is dropped, with a reason.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from db.memory.extracted import Said, Statement
from db.memory.status import MemoryType
from worker.memory.quoting import quote, quoted
from worker.modes.intents import plain

STATEMENTS_MAX = 100
TEXT_CHARACTERS_MAX = 1_000
SUBJECT_CHARACTERS_MAX = 120
# Fewer words of a message occur in it by chance; a shorter message is quoted as a whole.
QUOTE_WORDS_MIN = 3
YEAR_MIN, YEAR_MAX = 1901, 2198


class StatedInMessage(BaseModel):
    """One thing that a person stated."""

    model_config = ConfigDict(frozen=True)

    message: int = Field(ge=1, description="the number of the message")
    quote: str = Field(
        min_length=1,
        max_length=TEXT_CHARACTERS_MAX,
        description="the sentence of that message that states it, word by word",
    )
    text: str = Field(
        min_length=1,
        max_length=TEXT_CHARACTERS_MAX,
        description="what is to be remembered, one sentence that is understood by itself",
    )
    type: Literal["fact", "preference", "decision", "procedure"]
    subject: str = Field(
        min_length=1,
        max_length=SUBJECT_CHARACTERS_MAX,
        description="the question that it answers, like 'favourite editor': a later answer of the "
        "same person takes its place",
    )
    confidence: float = Field(ge=0, le=1, description="how sure it is that the person means it")
    first_day: date | None = Field(None, description="the first day on which it holds, if given")
    last_day: date | None = Field(None, description="the last day on which it holds, if given")


class Extracted(BaseModel):
    """What people stated in the messages; none if they stated nothing to be remembered."""

    model_config = ConfigDict(frozen=True)

    statements: tuple[StatedInMessage, ...] = Field(max_length=STATEMENTS_MAX)


def quote_messages(texts: Sequence[str]) -> str:
    """Messages as data, numbered from 1: no text can close the quotation."""
    return quote("messages", [{"message": no, "text": text} for no, text in enumerate(texts, 1)])


def quoted_messages(quotation: str) -> list[str]:
    """The texts that `quote_messages` has quoted."""
    return [one["text"] for one in quoted("messages", quotation)]


def grounded(extracted: Extracted, said: Sequence[Said]) -> tuple[list[Statement], list[str]]:
    """The statements that can be kept, and why each other one is dropped."""
    kept: list[Statement] = []
    dropped: list[str] = []
    for no, stated in enumerate(extracted.statements, 1):
        reason = _reason_to_drop(stated, said)
        if reason is None:
            kept.append(_statement(stated, said[stated.message - 1], no))
        else:
            dropped.append(f"statement {no}: {reason}")
    return kept, dropped


def _reason_to_drop(stated: StatedInMessage, said: Sequence[Said]) -> str | None:
    if stated.message > len(said):
        return f"there is no message {stated.message}"
    quote, message = _words(stated.quote), _words(said[stated.message - 1].text)
    if " ".join(quote) not in " ".join(message):
        return f"its quote is not in message {stated.message}"
    if len(quote) < min(QUOTE_WORDS_MIN, len(message)) or not quote:
        return "its quote is too short to show it"
    if not plain(stated.text) or not plain(stated.subject):
        return "it has no text or no subject"
    days = [day for day in (stated.first_day, stated.last_day) if day is not None]
    if any(not YEAR_MIN <= day.year <= YEAR_MAX for day in days) or days != sorted(days):
        return "its days cannot be"
    return None


def _statement(stated: StatedInMessage, said: Said, no: int) -> Statement:
    first, last = stated.first_day, stated.last_day
    return Statement(
        message_id=said.id,
        no=no,
        person=said.person,
        type=MemoryType(stated.type),
        subject=plain(stated.subject).casefold(),
        text=plain(stated.text),
        quote=plain(stated.quote),
        confidence=stated.confidence,
        valid_from=None if first is None else _begin(first),
        valid_to=None if last is None else _begin(last + timedelta(days=1)),
    )


def _begin(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _words(text: str) -> list[str]:
    return text.casefold().split()
