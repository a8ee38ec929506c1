"""Approvals in a Telegram chat: asked with a button for each option, decided by those you name.

    jobsworth webhook add http://127.0.0.1:8480/hook    # JOBSWORTH_WEBHOOK_HOSTS=127.0.0.1
    TELEGRAM_TOKEN=… TELEGRAM_CHAT=-100123 TELEGRAM_PEOPLE='{"4711": "ann"}' \\
        python examples/telegram_bridge.py

In: what webhooks tell, signed, and buttons that people press. Out: decisions, and one message for
each approval, which is kept as the approval stands. A webhook may come twice, late or out of order,
so it only says where to look: what is shown is always read from the database. Needs aiogram, and
JOBSWORTH_DATABASE_URL and JOBSWORTH_WEBHOOK_SECRET as the workers have them.
"""

import asyncio
import hmac
import json
import os
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import TelegramBadRequest
from aiogram.types import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup
from aiohttp import web

from db import approvals
from db.approvals import Approval, ApprovalStatus
from db.errors import JobsworthError, NotFound
from db.pool import Database
from worker.webhook_signature import signature

CLOCKS_APART_SECONDS_MAX = 300
TEXT_CHARACTERS_MAX = 3500
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
        return cls(
            database_url=os.environ["JOBSWORTH_DATABASE_URL"],
            webhook_secret=os.environ["JOBSWORTH_WEBHOOK_SECRET"],
            token=os.environ["TELEGRAM_TOKEN"],
            chat=int(os.environ["TELEGRAM_CHAT"]),
            people=json.loads(os.environ["TELEGRAM_PEOPLE"]),
            schema=os.environ.get("JOBSWORTH_SCHEMA", "jobsworth"),
            host=os.environ.get("BRIDGE_HOST", "127.0.0.1"),
            port=int(os.environ.get("BRIDGE_PORT", "8480")),
            file=os.environ.get("BRIDGE_FILE", "telegram_bridge.sqlite3"),
            api=os.environ.get("TELEGRAM_API", "https://api.telegram.org"),
        )


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
            "create table if not exists messages (approval text primary key, message int)"
        )

    async def hear(self, request: web.Request) -> web.Response:
        """A webhook. If the chat cannot be reached, the answer is 500, and it comes again."""
        body = await request.read()
        if not self._is_signed(request.headers, body):
            return web.Response(status=401)
        await self._show(UUID(json.loads(body)["data"]["approval_id"]))
        return web.Response(status=204)

    async def decide(self, pressed: CallbackQuery) -> None:
        """A button."""
        person = self._settings.people.get(str(pressed.from_user.id))
        if person is None:
            await pressed.answer("You are not among those who decide here.", show_alert=True)
            return
        approval_id, option, seen = (pressed.data or "").split(":")
        try:
            said = await self._resolve(UUID(approval_id), int(option), person, seen)
        except JobsworthError as error:
            said = error.message
        await pressed.answer(said[:200], show_alert=False)
        await self._show(UUID(approval_id))

    async def _resolve(self, approval_id: UUID, option: int, person: str, seen: str) -> str:
        async with self._database.connection() as connection:
            asked = await approvals.get_by_id(connection, approval_id)
            if not asked.document_hash.startswith(seen):
                return "It has changed meanwhile: read it again."
            resolution = await approvals.resolve(
                connection,
                approval_id,
                asked.options[option],
                person,
                "telegram",
                seen_hash=asked.document_hash,
            )
        resolution.require_accepted()
        return f"You chose {asked.options[option]}."

    async def _show(self, approval_id: UUID) -> None:
        """Make the chat's message say how the approval stands."""
        async with self._showing:
            async with self._database.connection() as connection:
                try:
                    approval = await approvals.get_by_id(connection, approval_id)
                except NotFound:
                    return
            is_open = approval.status is ApprovalStatus.PENDING
            buttons = _buttons(approval) if is_open else None
            found = self._messages.execute(
                "select message from messages where approval = ?", [str(approval_id)]
            ).fetchone()
            if found is not None:
                await self._edit(int(found[0]), _text(approval), buttons)
            elif is_open:
                sent = await self._bot.send_message(
                    self._settings.chat, _text(approval), reply_markup=buttons
                )
                self._messages.execute(
                    "insert into messages values (?, ?)", [str(approval_id), sent.message_id]
                )

    async def _edit(self, message: int, text: str, buttons: InlineKeyboardMarkup | None) -> None:
        try:
            await self._bot.edit_message_text(
                text, chat_id=self._settings.chat, message_id=message, reply_markup=buttons
            )
        except TelegramBadRequest as error:
            if "not modified" not in error.message:
                raise

    def _is_signed(self, headers: Mapping[str, str], body: bytes) -> bool:
        message_id, sent_at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not sent_at.isdecimal() or abs(time.time() - int(sent_at)) > CLOCKS_APART_SECONDS_MAX:
            return False
        expected = signature(self._settings.webhook_secret, message_id, int(sent_at), body)
        given = headers.get("webhook-signature", "").split()
        return any(hmac.compare_digest(expected.encode(), one.encode()) for one in given)


def _buttons(approval: Approval) -> InlineKeyboardMarkup:
    """One for each option; it says which version was seen. (Telegram allows 64 bytes.)"""
    seen = approval.document_hash[:HASH_CHARACTERS]
    row = [
        InlineKeyboardButton(text=option, callback_data=f"{approval.id.hex}:{n}:{seen}")
        for n, option in enumerate(approval.options)
    ]
    return InlineKeyboardMarkup(inline_keyboard=[row])


def _text(approval: Approval) -> str:
    parts = [approval.proposal_text]
    if approval.document is not None:
        shown = approval.document
        parts.append(shown if isinstance(shown, str) else json.dumps(shown, indent=2))
    if approval.difference:
        parts.append(f"Changed since it was asked before:\n{approval.difference}")
    if approval.votes_needed > 1:
        parts.append(f"{approval.votes_needed} must agree.")
    text = "\n\n".join(parts)
    if len(text) > TEXT_CHARACTERS_MAX:
        text = f"{text[:TEXT_CHARACTERS_MAX]}\n… all of it: jobsworth approvals {approval.id}"
    return f"{text}\n\n{_standing(approval)}"


def _standing(approval: Approval) -> str:
    if approval.status is ApprovalStatus.PENDING:
        until = "" if approval.deadline is None else f" until {approval.deadline:%d %b %H:%M %Z}"
        return ("⏰ Escalated: open" if approval.escalated_at else "Open") + until
    if approval.status is ApprovalStatus.SUPERSEDED:
        return "Replaced, or not needed any more."
    who = f", by {approval.decided_by}" if approval.decided_by else ""
    return f"{approval.status.capitalize()}: {approval.chosen_option}{who}"


if __name__ == "__main__":
    asyncio.run(run(Settings.from_environment()))
