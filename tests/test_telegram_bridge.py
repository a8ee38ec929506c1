"""The Telegram bridge: a stub of the Bot API and real webhooks, over HTTP on this machine."""

from __future__ import annotations

import base64
import itertools
import json
import re
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

from db.approvals import approvals, webhooks
from db.approvals.approvals import ApprovalStatus
from db.pool import Connection, Database
from tests.support import until
from worker.approvals.webhooks import deliver

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
        self.files: list[str] = []
        self.down = False
        self.flooded_seconds: int | None = None
        self.too_late = False
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
        self.press_data(data, person)

    def press_data(self, data: str, person: int = ANN) -> None:
        """Press a button that does not exist, as a modified client can."""
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
        posted = await request.post()
        form = {name: value for name, value in posted.items() if isinstance(value, str)}
        match request.match_info["method"]:
            case "getUpdates":
                return await self._get_updates(int(form.get("offset", "0")))
            case "sendMessage":
                if self.down:
                    return _refused(502, "Bad Gateway")
                if self.flooded_seconds is not None:
                    wait = {"retry_after": self.flooded_seconds}
                    return _refused(429, "Too Many Requests: retry later", wait)
                self.sent += 1
                return self._put(next(self._numbers), form)
            case "editMessageText":
                number = int(form["message_id"])
                if number not in self.messages:
                    return _refused(400, "Bad Request: message to edit not found")
                if self.messages[number] == _message(form):
                    return _refused(400, "Bad Request: message is not modified")
                return self._put(number, form)
            case "sendDocument":
                [file] = [each for each in posted.values() if isinstance(each, web.FileField)]
                self.files.append(file.file.read().decode())
                return self._ok_message(next(self._numbers), form["caption"])
            case "answerCallbackQuery":
                self.answers.append(form["text"])
                if self.too_late:
                    return _refused(400, "Bad Request: query is too old")
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
        if len(form["text"].encode("utf-16-le")) > 2 * 4096:
            return _refused(400, "Bad Request: message is too long")
        self.messages[number] = _message(form)
        return self._ok_message(number, form["text"])

    def _ok_message(self, number: int, text: str) -> web.Response:
        chat = {"id": CHAT, "type": "group", "title": "G"}
        return _ok({"message_id": number, "date": 0, "chat": chat, "text": text})


def _message(form: dict[str, str]) -> dict[str, Any]:
    keyboard = json.loads(form.get("reply_markup") or "{}").get("inline_keyboard", [])
    return {"text": form["text"], "buttons": [button for row in keyboard for button in row]}


def _ok(result: Any) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def _refused(code: int, why: str, parameters: dict[str, int] | None = None) -> web.Response:
    told = {"ok": False, "error_code": code, "description": why, "parameters": parameters or {}}
    return web.json_response(told, status=code)


class Scene:
    """The bridge between a stub of Telegram and a database."""

    def __init__(self, database: Database, telegram: Telegram, hook: str) -> None:
        self.database = database
        self.telegram = telegram
        self.hook = hook

    async def tell(self) -> None:
        """Deliver pending webhooks, as a worker does."""
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


async def test_a_message_to_an_unavailable_chat_is_sent_later(
    scene: Scene, conn: Connection
) -> None:
    await ask(conn)
    scene.telegram.down = True
    await scene.tell()
    [delivery] = await webhooks.deliveries(conn, 10)
    assert (delivery.state, delivery.last_status) == ("pending", 500)
    scene.telegram.down = False
    await conn.execute("update jobsworth.webhook_outbox set next_try_at = now()")
    await scene.tell()
    assert "Ship it?" in (await scene.message())["text"]


async def test_a_chat_that_is_flooded_is_left_alone_as_long_as_it_says(
    scene: Scene, conn: Connection
) -> None:
    await ask(conn)
    scene.telegram.flooded_seconds = 1800
    await scene.tell()
    [delivery] = await webhooks.deliveries(conn, 10)
    assert (delivery.state, delivery.last_status) == ("pending", 503)
    assert (delivery.next_try_at - delivery.created_at).total_seconds() >= 1800


async def test_what_is_too_long_for_a_message_comes_as_a_file_and_once(
    scene: Scene, conn: Connection
) -> None:
    poem = "😀 and so on, " * 1000
    approval_id = (await approvals.create(conn, "Print it?", shown=poem, editable=True)).id
    await scene.tell()
    message = await scene.message()
    assert "all of it is in the file" in message["text"]
    assert scene.telegram.files == [f"Print it?\n\n{poem}"]
    await approvals.resolve(conn, approval_id, "approve", "bob")
    await scene.tell()
    assert (await scene.message())["text"].endswith("Approved: approve, by bob")
    assert len(scene.telegram.files) == 1


async def test_a_message_that_somebody_deleted_is_sent_again_while_it_is_open(
    scene: Scene, conn: Connection
) -> None:
    approval_id = await ask(conn, editable=True, votes=2)
    await scene.tell()
    scene.telegram.messages.clear()
    await approvals.resolve(conn, approval_id, "approve", "bob", edited={"sha": "b2"})
    await scene.tell()
    assert "b2" in (await scene.message())["text"]
    scene.telegram.messages.clear()
    await approvals.resolve(conn, approval_id, "reject", "bob")
    await scene.tell()
    assert scene.telegram.messages == {}
    assert {each.state for each in await webhooks.deliveries(conn, 10)} == {"delivered"}


async def test_a_press_that_comes_twice_or_late_or_is_made_up_does_no_harm(
    scene: Scene, conn: Connection
) -> None:
    approval_id = await ask(conn, votes=2)
    await scene.tell()
    scene.telegram.too_late = True
    scene.telegram.press("approve")
    scene.telegram.press("approve")
    for made_up in ("", "a:b:c", f"{approval_id.hex}:7:", f"{approval_id.hex}:-1:"):
        scene.telegram.press_data(made_up)

    async def all_are_answered() -> bool:
        return len(scene.telegram.answers) == 6

    await until(all_are_answered)
    assert scene.telegram.answers.count("You chose approve.") == 1

    async def vote_is_shown() -> bool:
        return (await scene.message())["text"].endswith("Open; so far: approve (ann)")

    await until(vote_is_shown)
    assert any("said yes already" in said for said in scene.telegram.answers)
    assert [vote.decided_by for vote in await approvals.votes(conn, approval_id)] == ["ann"]


async def test_the_button_of_what_was_replaced_says_so(scene: Scene, conn: Connection) -> None:
    old = await ask(conn)
    await scene.tell()
    [button] = [each for each in (await scene.message())["buttons"] if each["text"] == "approve"]
    new = await ask(conn)
    await approvals.supersede(conn, old, new)
    scene.telegram.press_data(button["callback_data"])

    async def replaced() -> bool:
        return (await scene.message())["text"].endswith("Replaced, or not needed any more.")

    await until(replaced)
    assert scene.telegram.answers == ["Something else is asked instead: see the newer message."]
    assert await approvals.check_status(conn, new) is ApprovalStatus.PENDING


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("TELEGRAM_TOKEN", "", "TELEGRAM_TOKEN is not set"),
        ("TELEGRAM_CHAT", "@ours", "is no id of a chat"),
        ("TELEGRAM_PEOPLE", "[4711]", 'like {"4711": "ann"}'),
        ("JOBSWORTH_WEBHOOK_SECRET", "abc", "JOBSWORTH_WEBHOOK_SECRET is not whsec_"),
    ],
)
def test_a_variable_that_is_missing_or_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    from examples.telegram_bridge import Settings

    right = {
        "JOBSWORTH_DATABASE_URL": "postgresql://nowhere",
        "JOBSWORTH_WEBHOOK_SECRET": SECRET,
        "TELEGRAM_TOKEN": TOKEN,
        "TELEGRAM_CHAT": str(CHAT),
        "TELEGRAM_PEOPLE": '{"4711": "ann"}',
    }
    for variable, its_value in right.items():
        monkeypatch.setenv(variable, its_value)
    assert Settings.from_environment().people == {"4711": "ann"}
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=re.escape(reason)):
        Settings.from_environment()


async def test_an_unsigned_webhook_is_ignored(scene: Scene, conn: Connection) -> None:
    approval_id = await ask(conn)
    forged = {"data": {"approval_id": str(approval_id)}}
    headers = {"webhook-id": "1", "webhook-timestamp": "0", "webhook-signature": "v1,eA=="}
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(scene.hook, json=forged, headers=headers)
    assert answer.status_code == 401
    assert scene.telegram.messages == {}
