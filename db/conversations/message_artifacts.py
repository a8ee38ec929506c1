"""Artifacts of a message: transcripts, image readings, files, tool results.

In: a message, and a document, an address or both. Out: a row that, unlike its message, may be
changed later. Erasing the thread removes it.
"""

from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.arguments import check_uri
from db.documents import to_document
from db.errors import InvalidInput, NotFound
from db.pool import fetch_all, fetch_one


class MessageArtifactKind(StrEnum):
    VOICE_TRANSCRIPT = "voice_transcript"
    IMAGE_JSON = "image_json"
    OCR_TEXT = "ocr_text"
    FILE_META = "file_meta"
    TOOL_RESULT = "tool_result"


class MessageArtifact(BaseModel):
    """A row of `message_artifacts`."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    team_id: UUID | None
    message_id: UUID
    kind: MessageArtifactKind
    content_json: Any
    uri: str | None
    created_at: AwareDatetime
    updated_at: AwareDatetime


MESSAGE_ARTIFACT_COLUMNS: LiteralString = """
  a.id, a.team_id, a.message_id, a.kind, a.content_json, a.uri, a.created_at, a.updated_at
"""

STORE: LiteralString = (
    """
insert into jobsworth.message_artifacts as a (team_id, message_id, kind, content_json, uri)
select m.team_id, m.id, %(kind)s::jobsworth.message_artifact_kind, %(content_json)s::jsonb, %(uri)s
from jobsworth.chat_messages m
where m.id = %(message_id)s
returning """
    + MESSAGE_ARTIFACT_COLUMNS
)


async def store(
    conn: AsyncConnection[Any],
    message_id: UUID,
    kind: MessageArtifactKind,
    *,
    content_json: object = None,
    uri: str | None = None,
) -> MessageArtifact:
    """Store a document, an address or both with a message. Raises `NotFound` (no such message)."""
    values = _values(content_json, uri) | {"message_id": message_id, "kind": kind}
    artifact = await fetch_one(conn, STORE, values, MessageArtifact)
    if artifact is None:
        raise NotFound(f"there is no message {message_id}", "store the message first")
    return artifact


GET_FOR_MESSAGE: LiteralString = (
    "select "
    + MESSAGE_ARTIFACT_COLUMNS
    + """
from jobsworth.message_artifacts a
where a.message_id = %(message_id)s
order by a.id
"""
)


async def get_for_message(conn: AsyncConnection[Any], message_id: UUID) -> list[MessageArtifact]:
    """A message's artifacts in the order they were stored."""
    return await fetch_all(conn, GET_FOR_MESSAGE, {"message_id": message_id}, MessageArtifact)


UPDATE: LiteralString = (
    """
update jobsworth.message_artifacts a
set content_json = coalesce(%(content_json)s::jsonb, a.content_json),
  uri = coalesce(%(uri)s, a.uri)
where a.id = %(id)s
returning """
    + MESSAGE_ARTIFACT_COLUMNS
)


async def update(
    conn: AsyncConnection[Any],
    artifact_id: UUID,
    *,
    content_json: object = None,
    uri: str | None = None,
) -> MessageArtifact:
    """Replace the given fields, keep the others. Raises `NotFound`."""
    values = _values(content_json, uri) | {"id": artifact_id}
    artifact = await fetch_one(conn, UPDATE, values, MessageArtifact)
    if artifact is None:
        raise NotFound(f"there is no message artifact {artifact_id}", "see get_for_message")
    return artifact


def _values(content_json: object, uri: str | None) -> dict[str, str | None]:
    if content_json is None and uri is None:
        raise InvalidInput(
            "a message artifact needs content_json or uri", "give one of them, or both"
        )
    check_uri("a message artifact", uri)
    document = None if content_json is None else to_document(content_json, "content_json")
    return {"content_json": document, "uri": uri}
