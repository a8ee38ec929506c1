"""Artifacts of messages: stored, listed in order, completed later."""

from typing import Any
from uuid import uuid4

import pytest

from db.conversations import message_artifacts, messages, threads
from db.conversations.message_artifacts import MessageArtifactKind
from db.conversations.messages import Message, MessageRole
from db.errors import InvalidInput, NotFound, Refused
from db.pool import Connection, execute, fetch_val


@pytest.fixture
async def message(conn: Connection) -> Message:
    thread = await threads.get_or_create(conn, "telegram", "42", team_id=uuid4())
    return await messages.insert(conn, thread.id, MessageRole.USER, "a voice message")


@pytest.mark.parametrize("kind", list(MessageArtifactKind))
async def test_an_artifact_of_each_kind_is_kept(
    conn: Connection, message: Message, kind: MessageArtifactKind
) -> None:
    stored = await message_artifacts.store(
        conn, message.id, kind, content_json={"text": "a\0b", "words": [1, 2]}, uri="file:///a"
    )
    assert (stored.kind, stored.message_id, stored.team_id) == (kind, message.id, message.team_id)
    assert (stored.content_json, stored.uri) == ({"text": "a␀b", "words": [1, 2]}, "file:///a")
    assert await message_artifacts.get_for_message(conn, message.id) == [stored]


async def test_artifacts_come_in_the_order_of_their_storing(
    conn: Connection, message: Message
) -> None:
    stored = [
        await message_artifacts.store(conn, message.id, MessageArtifactKind.FILE_META, uri=str(n))
        for n in range(5)
    ]
    assert await message_artifacts.get_for_message(conn, message.id) == stored
    assert await message_artifacts.get_for_message(conn, uuid4()) == []


async def test_an_artifact_is_content_or_address(conn: Connection, message: Message) -> None:
    kind = MessageArtifactKind.OCR_TEXT
    by_content = await message_artifacts.store(conn, message.id, kind, content_json="text")
    by_uri = await message_artifacts.store(conn, message.id, kind, uri="s3://bucket/key")
    assert (by_content.content_json, by_content.uri) == ("text", None)
    assert (by_uri.content_json, by_uri.uri) == (None, "s3://bucket/key")
    with pytest.raises(InvalidInput, match="needs content_json or uri"):
        await message_artifacts.store(conn, message.id, kind)
    with pytest.raises(InvalidInput, match="needs content_json or uri"):
        await message_artifacts.update(conn, by_uri.id)


async def test_an_artifact_is_completed_later(conn: Connection, message: Message) -> None:
    kind = MessageArtifactKind.VOICE_TRANSCRIPT
    stored = await message_artifacts.store(conn, message.id, kind, uri="file:///a.ogg")
    updated = await message_artifacts.update(conn, stored.id, content_json={"text": "hello"})
    assert (updated.content_json, updated.uri) == ({"text": "hello"}, "file:///a.ogg")
    assert updated.updated_at > stored.updated_at
    assert updated.created_at == stored.created_at


async def test_without_its_message_or_artifact_nothing_is_written(conn: Connection) -> None:
    unknown = uuid4()
    with pytest.raises(NotFound, match=f"there is no message {unknown}"):
        await message_artifacts.store(conn, unknown, MessageArtifactKind.OCR_TEXT, uri="x")
    with pytest.raises(NotFound, match=f"there is no message artifact {unknown}"):
        await message_artifacts.update(conn, unknown, uri="x")
    assert await fetch_val(conn, "select count(*) from jobsworth.message_artifacts") == 0


async def test_an_unknown_kind_is_refused(conn: Connection, message: Message) -> None:
    kind: Any = "smell"
    with pytest.raises(InvalidInput, match="kind cannot be 'smell'"):
        await message_artifacts.store(conn, message.id, kind, uri="x")


async def test_the_enum_says_the_same_as_the_database(conn: Connection) -> None:
    query = "select enum_range(null::jobsworth.message_artifact_kind)::text[]"
    assert await fetch_val(conn, query) == list(MessageArtifactKind)


async def test_the_database_itself_wants_content_or_address(
    conn: Connection, message: Message
) -> None:
    with pytest.raises(Refused, match="artifact_has_content_or_uri"):
        await execute(
            conn,
            """
            insert into jobsworth.message_artifacts (message_id, kind) values (%s, 'ocr_text')
            """,
            [message.id],
        )
