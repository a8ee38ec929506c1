"""The Telegram bridge: a stub of the Bot API and real webhooks, over HTTP on this machine."""

from __future__ import annotations

import base64
import itertools
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import httpx
import pytest
from aiohttp import web

from db import approvals, webhooks
from db.approvals import ApprovalStatus
from db.pool import Connection, Database
from tests.support import until
from worker.webhooks import deliver

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
TOKEN = "42:TEST"
CHAT = -100
ANN, STRANGER = 4711, 4712
QUIET_SECONDS = 0.05


class Telegram:
    """A stub of the Bot API: the messages of one chat, and buttons to press."""

    def __init__(self) -> None:
        self.messages: dict[int, dict[str, Any]] = {}
        self.answers: list[str] = []
        self.down = False
        self.sent = 0
        self._updates: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)

    def press(self, label: str, person: int = ANN) -> None:
        """Press the button of that label under the only message that has one."""
        [data] = [
            button["callback_data"]
            for message in self.messages.values()
            for button in message["buttons"]
            if button["text"] == label
        ]
        number = next(self._numbers)
        query = {
            "id": str(number),
            "from": {"id": person, "is_bot": False, "first_name": "A"},
            "chat_instance": "1",
            "data": data,
        }
        self._updates.append({"update_id": number, "callback_query": query})

    async def handle(self, request: web.Request) -> web.Response:
        assert request.match_info["token"] == TOKEN
        form = {name: str(value) for name, value in (await request.post()).items()}
        match request.match_info["method"]:
            case "getUpdates":
                return await self._get_updates(int(form.get("offset", "0")))
            case "sendMessage":
                if self.down:
                    return _refused(502, "Bad Gateway")
                self.sent += 1
                return self._put(next(self._numbers), form)
            case "editMessageText":
                number = int(form["message_id"])
                if self.messages[number] == _message(form):
                    return _refused(400, "Bad Request: message is not modified")
                return self._put(number, form)
            case "answerCallbackQuery":
                self.answers.append(form["text"])
                return _ok(True)
            case "getMe":
                return _ok({"id": 42, "is_bot": True, "first_name": "B", "username": "b"})
            case _:
                return _ok(True)

    async def _get_updates(self, offset: int) -> web.Response:
        self._updates = [each for each in self._updates if each["update_id"] >= offset]
        if not self._updates:
            await anyio.sleep(QUIET_SECONDS)
        return _ok(self._updates)

    def _put(self, number: int, form: dict[str, str]) -> web.Response:
        assert int(form["chat_id"]) == CHAT
        self.messages[number] = _message(form)
        chat = {"id": CHAT, "type": "group", "title": "G"}
        return _ok({"message_id": number, "date": 0, "chat": chat, "text": form["text"]})


def _message(form: dict[str, str]) -> dict[str, Any]:
    keyboard = json.loads(form.get("reply_markup") or "{}").get("inline_keyboard", [[]])
    return {"text": form["text"], "buttons": keyboard[0]}


def _ok(result: Any) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def _refused(code: int, why: str) -> web.Response:
    return web.json_response({"ok": False, "error_code": code, "description": why}, status=code)


class Scene:
    """The bridge between a stub of Telegram and a database."""

    def __init__(self, database: Database, telegram: Telegram, hook: str) -> None:
        self.database = database
        self.telegram = telegram
        self.hook = hook

    async def tell(self) -> None:
        """Send what webhooks are to be told, as a worker does."""
        async with httpx.AsyncClient(trust_env=False) as client:
            await deliver(self.database, client, secret=SECRET, hosts=["127.0.0.1"])

    async def message(self) -> dict[str, Any]:
        """The one message in the chat."""
        await until(self._has_message)
        [message] = self.telegram.messages.values()
        return message

    async def _has_message(self) -> bool:
        return bool(self.telegram.messages)


@pytest.fixture
async def scene(database: Database, database_url: str, tmp_path: Path) -> AsyncGenerator[Scene]:
    # Here, as aiogram takes seconds to load and every process of a test run reads every file.
    from examples import telegram_bridge

    telegram = Telegram()
    async with _telegram(telegram) as api, anyio.create_task_group() as tasks:
        port = _free_port()
        settings = telegram_bridge.Settings(
            database_url=database_url,
            webhook_secret=SECRET,
            token=TOKEN,
            chat=CHAT,
            people={str(ANN): "ann"},
            port=port,
            file=str(tmp_path / "bridge.sqlite3"),
            api=api,
        )
        tasks.start_soon(telegram_bridge.run, settings)
        hook = f"http://127.0.0.1:{port}/hook"
        await until(lambda: _answers(hook))
        async with database.connection() as connection:
            await webhooks.add(connection, hook)
        yield Scene(database, telegram, hook)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def _telegram(telegram: Telegram) -> AsyncGenerator[str]:
    app = web.Application()
    app.router.add_post("/bot{token}/{method}", telegram.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    port = _free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answers(hook: str) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.post(hook, content=b"{}")).status_code == 401
    except httpx.HTTPError:
        return False


async def ask(conn: Connection, **options: Any) -> UUID:
    return (await approvals.create(conn, "Ship it?", shown={"sha": "a1"}, **options)).id


async def test_a_button_decides_and_the_message_says_so(scene: Scene, conn: Connection) -> None:
    approval_id = await ask(conn, options=("ship", "hold", "reject"))
    await scene.tell()
    message = await scene.message()
    assert [button["text"] for button in message["buttons"]] == ["ship", "hold", "reject"]
    for words in ("Ship it?", '"sha": "a1"', "Open"):
        assert words in message["text"]

    scene.telegram.press("hold")

    async def outcome_is_shown() -> bool:
        return (await scene.message())["buttons"] == []

    await until(outcome_is_shown)
    assert (await scene.message())["text"].endswith("Approved: hold, by ann")
    decided = await approvals.get_by_id(conn, approval_id)
    assert (decided.chosen_option, decided.decided_by, decided.channel) == (
        "hold",
        "ann",
        "telegram",
    )
    assert scene.telegram.answers == ["You chose hold."]
    await scene.tell()  # that it is closed: the message says so already
    assert scene.telegram.sent == 1


async def test_a_stranger_decides_nothing(scene: Scene, conn: Connection) -> None:
    approval_id = await ask(conn)
    await scene.tell()
    scene.telegram.press("approve", STRANGER)

    async def refused() -> bool:
        return bool(scene.telegram.answers)

    await until(refused)
    assert "not among those" in scene.telegram.answers[0]
    assert await approvals.check_status(conn, approval_id) is ApprovalStatus.PENDING


async def test_what_was_decided_elsewhere_is_shown(scene: Scene, conn: Connection) -> None:
    approval_id = await ask(conn)
    await scene.tell()
    await approvals.resolve(conn, approval_id, "reject", "bob", "cli")
    await scene.tell()
    message = await scene.message()
    assert message["text"].endswith("Rejected: reject, by bob")
    assert message["buttons"] == []


async def test_a_button_of_an_earlier_version_does_not_count(
    scene: Scene, conn: Connection
) -> None:
    approval_id = await ask(conn, editable=True, votes=2)
    await scene.tell()
    await approvals.resolve(conn, approval_id, "approve", "bob", edited={"sha": "b2"})
    scene.telegram.press("approve")

    async def shown_anew() -> bool:
        return "b2" in (await scene.message())["text"]

    await until(shown_anew)
    assert scene.telegram.answers == ["It has changed meanwhile: read it again."]
    assert await approvals.check_status(conn, approval_id) is ApprovalStatus.PENDING


async def test_a_chat_that_is_down_is_told_later(scene: Scene, conn: Connection) -> None:
    await ask(conn)
    scene.telegram.down = True
    await scene.tell()
    [delivery] = await webhooks.deliveries(conn, 10)
    assert (delivery.state, delivery.last_status) == ("pending", 500)
    scene.telegram.down = False
    await conn.execute("update jobsworth.webhook_outbox set next_try_at = now()")
    await scene.tell()
    assert "Ship it?" in (await scene.message())["text"]


async def test_what_nobody_signed_is_not_heard(scene: Scene, conn: Connection) -> None:
    approval_id = await ask(conn)
    forged = {"data": {"approval_id": str(approval_id)}}
    headers = {"webhook-id": "1", "webhook-timestamp": "0", "webhook-signature": "v1,eA=="}
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(scene.hook, json=forged, headers=headers)
    assert answer.status_code == 401
    assert scene.telegram.messages == {}
