"""Approvals in a Telegram chat: asked with a button for each option, decided by those you name.

    pip install aiogram                        # beside jobsworth; the token is BotFather's
    export JOBSWORTH_DATABASE_URL=postgresql://…
    export JOBSWORTH_WEBHOOK_SECRET=$(jobsworth webhook secret)
    export JOBSWORTH_WEBHOOK_HOSTS=127.0.0.1:8480
    jobsworth worker &                         # these three are for the workers and for the bridge
    jobsworth webhook add http://127.0.0.1:8480/hook
    TELEGRAM_TOKEN=… TELEGRAM_CHAT=-100123 TELEGRAM_PEOPLE='{"4711": "ann"}' \\
        python examples/telegram_bridge.py

Write to the bot, or add it to a group, and https://api.telegram.org/bot<TOKEN>/getUpdates shows the
chat's id and yours. Whoever presses a button and is not among the people is told their own id.

In: what webhooks tell, signed, and buttons that people press. Out: decisions, and one message for
each approval, which is kept as the approval stands; what does not fit into it comes as a file. A
webhook may come twice, late or out of order, so it only says where to look: what is shown is always
read from the database. What is in which message is in BRIDGE_FILE, and survives a restart.
"""

import asyncio
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import TelegramBadRequest, TelegramRetryAfter
from aiogram.types import (
    BufferedInputFile,
    CallbackQuery,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
)
from aiohttp import web

from jobsworth import (
    Approval,
    ApprovalStatus,
    Database,
    JobsworthError,
    NotFound,
    Vote,
    get_approval,
    is_webhook_signed,
    list_votes,
    resolve,
    webhook_keys,
)

# Telegram takes 4096, and an emoji is two of them; how the approval stands comes after the text.
TEXT_UNITS_MAX = 3500
STANDING_CHARACTERS_MAX = 200
ANSWER_CHARACTERS_MAX = 200
HASH_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Settings:
    database_url: str
    webhook_secret: str
    token: str
    chat: int
    people: Mapping[str, str]  # Telegram's id of a person → the name that decides
    schema: str = "jobsworth"
    host: str = "127.0.0.1"
    port: int = 8480
    file: str = "telegram_bridge.sqlite3"
    api: str = "https://api.telegram.org"

    @classmethod
    def from_environment(cls) -> "Settings":
        """Ends the program in one line that says which variable is missing or wrong."""
        return cls(
            database_url=_variable("JOBSWORTH_DATABASE_URL", "as the workers have it"),
            webhook_secret=_secret(_variable("JOBSWORTH_WEBHOOK_SECRET", "as the workers have it")),
            token=_variable("TELEGRAM_TOKEN", "the bot's, from BotFather"),
            chat=_chat(_variable("TELEGRAM_CHAT", "the id of the chat, like -100123")),
            people=_people(_variable("TELEGRAM_PEOPLE", PEOPLE_LIKE)),
            schema=os.environ.get("JOBSWORTH_SCHEMA", "jobsworth"),
            host=os.environ.get("BRIDGE_HOST", "127.0.0.1"),
            port=int(os.environ.get("BRIDGE_PORT", "8480")),
            file=os.environ.get("BRIDGE_FILE", "telegram_bridge.sqlite3"),
            api=os.environ.get("TELEGRAM_API", "https://api.telegram.org"),
        )


PEOPLE_LIKE = 'who decides, by Telegram\'s id of them, like {"4711": "ann"}'


def _variable(name: str, what: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise SystemExit(f"{name} is not set: {what}")
    return value


def _secret(text: str) -> str:
    try:
        webhook_keys(text)
    except ValueError as error:
        raise SystemExit(f"JOBSWORTH_WEBHOOK_SECRET {error}") from None
    return text


def _chat(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SystemExit(f"TELEGRAM_CHAT={text!r} is no id of a chat, like -100123") from None


def _people(text: str) -> dict[str, str]:
    try:
        return {str(number): str(name) for number, name in json.loads(text).items()}
    except (ValueError, AttributeError):
        raise SystemExit(f"TELEGRAM_PEOPLE is not {PEOPLE_LIKE}") from None


async def run(settings: Settings) -> None:
    """Listen to webhooks and to the chat, until stopped."""
    session = AiohttpSession(api=TelegramAPIServer.from_base(settings.api))
    async with (
        Database(settings.database_url, schema=settings.schema, pool_min=1) as database,
        Bot(settings.token, session=session) as bot,
    ):
        bridge = Bridge(settings, database, bot)
        app = web.Application()
        app.router.add_post("/hook", bridge.hear)
        dispatcher = Dispatcher()
        dispatcher.callback_query.register(bridge.decide)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
            await dispatcher.start_polling(bot, handle_signals=False)  # pyright: ignore[reportUnknownMemberType]
        finally:
            await runner.cleanup()


class Bridge:
    """Between one chat and the approvals of one installation."""

    def __init__(self, settings: Settings, database: Database, bot: Bot) -> None:
        self._settings = settings
        self._database = database
        self._bot = bot
        # One approval at a time: two webhooks at once must not make two messages.
        self._showing = asyncio.Lock()
        self._messages = sqlite3.connect(settings.file, isolation_level=None)
        self._messages.execute(
            "create table if not exists messages"
            " (approval text primary key, message int, file_hash text)"
        )

    async def hear(self, request: web.Request) -> web.Response:
        """A webhook. If the chat cannot be reached, the answer is 500, and it comes again; if the
        chat wants to be left alone for a while, it comes after that.
        """
        body = await request.read()
        if not is_webhook_signed(self._settings.webhook_secret, request.headers, body):
            return web.Response(status=401)
        try:
            await self._show(UUID(json.loads(body)["data"]["approval_id"]))
        except TelegramRetryAfter as error:
            return web.Response(status=503, headers={"Retry-After": str(error.retry_after)})
        return web.Response(status=204)

    async def decide(self, pressed: CallbackQuery) -> None:
        """A button."""
        person = self._settings.people.get(str(pressed.from_user.id))
        if person is None:
            said = f"You ({pressed.from_user.id}) are not among those who decide here."
            await _answer(pressed, said, show_alert=True)
            return
        try:
            approval, option, seen = (pressed.data or "").split(":")
            approval_id, number = UUID(approval), int(option)
        except ValueError:
            await _answer(pressed, "That is no button of this bridge.")
            return
        try:
            said = await self._resolve(approval_id, number, person, seen)
        except JobsworthError as error:
            said = error.message
        await _answer(pressed, said)
        await self._show(approval_id)

    async def _resolve(self, approval_id: UUID, number: int, person: str, seen: str) -> str:
        async with self._database.connection() as connection:
            asked = await get_approval(connection, approval_id)
            if asked.superseded_by is not None:
                return "Something else is asked instead: see the newer message."
            if not asked.document_hash.startswith(seen) or number not in range(len(asked.options)):
                return "It has changed meanwhile: read it again."
            resolution = await resolve(
                connection,
                approval_id,
                asked.options[number],
                person,
                "telegram",
                seen_hash=asked.document_hash,
            )
        resolution.require_accepted()
        return f"You chose {asked.options[number]}."

    async def _show(self, approval_id: UUID) -> None:
        """Make the chat's message say how the approval stands."""
        async with self._showing:
            async with self._database.connection() as connection:
                try:
                    approval = await get_approval(connection, approval_id)
                    votes = await list_votes(connection, approval_id)
                except NotFound:
                    return
            found = self._messages.execute(
                "select message, file_hash from messages where approval = ?", [str(approval_id)]
            ).fetchone()
            message, file_hash = found or (None, None)
            whole = _whole(approval)
            if approval.status is ApprovalStatus.PENDING and whole != _cut(whole):
                file_hash = await self._send_file(approval, whole, file_hash)
            text = f"{_cut(whole)}\n\n{_standing(approval, votes)}"
            message = await self._put(approval, text, message)
            self._messages.execute(
                "insert or replace into messages values (?, ?, ?)",
                [str(approval_id), message, file_hash],
            )

    async def _send_file(self, approval: Approval, whole: str, sent_hash: str | None) -> str:
        """Each version comes once, before its buttons: nobody says yes to what cannot be read."""
        version = approval.document_hash
        if sent_hash != version:
            file = BufferedInputFile(whole.encode(), f"approval-{version[:HASH_CHARACTERS]}.txt")
            await self._bot.send_document(self._settings.chat, file, caption="All of what is asked")
        return version

    async def _put(self, approval: Approval, text: str, message: int | None) -> int | None:
        """Edit the message, or send it if there is none (any more); returns its number."""
        is_open = approval.status is ApprovalStatus.PENDING
        buttons = _buttons(approval) if is_open else None
        if message is not None:
            try:
                await self._bot.edit_message_text(
                    text, chat_id=self._settings.chat, message_id=message, reply_markup=buttons
                )
                return message
            except TelegramBadRequest as error:
                if "not modified" in error.message:
                    return message
                # Somebody has deleted it, or it is too old to be edited.
                if "message to edit not found" not in error.message and (
                    "can't be edited" not in error.message
                ):
                    raise
        if not is_open:
            return None
        sent = await self._bot.send_message(self._settings.chat, text, reply_markup=buttons)
        return sent.message_id


async def _answer(pressed: CallbackQuery, text: str, *, show_alert: bool = False) -> None:
    # One that was pressed long ago, while the bridge was away, takes no answer; it counts all the
    # same.
    with suppress(TelegramBadRequest):
        await pressed.answer(text[:ANSWER_CHARACTERS_MAX], show_alert=show_alert)


def _buttons(approval: Approval) -> InlineKeyboardMarkup:
    """One for each option; it says which version was seen. (Telegram allows 64 bytes.)"""
    seen = approval.document_hash[:HASH_CHARACTERS]
    rows = [
        [InlineKeyboardButton(text=option, callback_data=f"{approval.id.hex}:{n}:{seen}")]
        for n, option in enumerate(approval.options)
    ]
    return InlineKeyboardMarkup(inline_keyboard=rows)


def _whole(approval: Approval) -> str:
    """What is asked, and all that is shown with it."""
    parts = [approval.proposal_text]
    if approval.document is not None:
        shown = approval.document
        is_text = isinstance(shown, str)
        parts.append(shown if is_text else json.dumps(shown, indent=2, ensure_ascii=False))
    if approval.difference:
        parts.append(f"Changed since it was asked before:\n{approval.difference}")
    if approval.votes_needed > 1:
        parts.append(f"{approval.votes_needed} must agree.")
    return "\n\n".join(parts)


def _cut(text: str) -> str:
    units = text.encode("utf-16-le")
    if len(units) <= 2 * TEXT_UNITS_MAX:
        return text
    begins = units[: 2 * TEXT_UNITS_MAX].decode("utf-16-le", "ignore")
    return f"{begins}\n… all of it is in the file above."


def _standing(approval: Approval, votes: Sequence[Vote]) -> str:
    if approval.status is ApprovalStatus.PENDING:
        until = "" if approval.deadline is None else f" until {approval.deadline:%d %b %H:%M %Z}"
        said = ", ".join(
            f"{vote.option} ({vote.decided_by})"
            for vote in votes
            if vote.voted_hash == approval.document_hash
        )
        stands = ("⏰ Escalated: open" if approval.escalated_at else "Open") + until
        return (stands + (f"; so far: {said}" if said else ""))[:STANDING_CHARACTERS_MAX]
    if approval.status is ApprovalStatus.SUPERSEDED:
        return "Replaced, or not needed any more."
    who = f", by {approval.decided_by}" if approval.decided_by else ""
    said = f"{approval.status.capitalize()}: {approval.chosen_option}{who}"
    return said[:STANDING_CHARACTERS_MAX]


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(run(Settings.from_environment()))
