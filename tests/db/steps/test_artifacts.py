"""Artifacts of jobs: what is known of them, and their content."""

import hashlib
from uuid import UUID, uuid4

import pytest

from db.errors import NotFound
from db.pool import Connection, execute, fetch_val
from db.queue.jobs import enqueue
from db.steps import artifacts

CONTENT = b"\x00\x01 any bytes \xff"


async def add(conn: Connection, job_id: UUID, key: str, content: bytes | None) -> UUID:
    return await fetch_val(
        conn,
        """
        insert into jobsworth.artifacts
          (job_id, effect_key, name, media_type, bytes, sha256, content, uri)
        values (%(job_id)s, %(key)s, %(key)s, 'text/plain', %(bytes)s, %(sha256)s, %(content)s,
          %(uri)s)
        returning id
        """,
        {
            "job_id": job_id,
            "key": key,
            "bytes": None if content is None else len(content),
            "sha256": None if content is None else hashlib.sha256(content).hexdigest(),
            "content": content,
            "uri": "https://example.org/report" if content is None else None,
        },
    )


async def test_an_artifact_with_content_is_described_and_read(conn: Connection) -> None:
    job_id = (await enqueue(conn, "answer")).job_id
    made = await add(conn, job_id, "report.txt", CONTENT)

    artifact = await artifacts.get(conn, made)
    assert (artifact.job_id, artifact.name, artifact.uri) == (job_id, "report.txt", None)
    assert artifact.bytes == len(CONTENT)
    assert artifact.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert artifact.created_at.tzinfo is not None
    assert await artifacts.content(conn, made) == CONTENT


async def test_an_artifact_elsewhere_has_an_address_and_no_content(conn: Connection) -> None:
    made = await add(conn, (await enqueue(conn, "answer")).job_id, "report", None)
    assert (await artifacts.get(conn, made)).uri == "https://example.org/report"
    assert await artifacts.content(conn, made) is None


async def test_artifacts_are_listed_by_their_job_in_order(conn: Connection) -> None:
    job_id = (await enqueue(conn, "answer")).job_id
    other = (await enqueue(conn, "answer")).job_id
    made = [await add(conn, job_id, str(n), CONTENT) for n in range(3)]
    await add(conn, other, "0", CONTENT)

    assert [artifact.id for artifact in await artifacts.list_for_job(conn, job_id)] == made
    assert await artifacts.list_for_job(conn, uuid4()) == []


async def test_an_unknown_artifact_is_not_found(conn: Connection) -> None:
    unknown = uuid4()
    for call in (artifacts.get, artifacts.content):
        with pytest.raises(NotFound, match=f"there is no artifact {unknown}"):
            await call(conn, unknown)


async def test_artifacts_go_with_their_job(conn: Connection) -> None:
    made = await add(conn, (await enqueue(conn, "answer")).job_id, "report.txt", CONTENT)
    await execute(conn, "delete from jobsworth.reactive_jobs")
    with pytest.raises(NotFound):
        await artifacts.get(conn, made)
