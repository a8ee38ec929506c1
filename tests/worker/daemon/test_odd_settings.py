"""No setting of the server, the database, the role or the environment changes what a job does."""

from __future__ import annotations

import datetime
from typing import Any
from uuid import UUID

import pytest

from db.money import books
from db.money.calls import Answer, Usage
from db.pool import Connection, fetch_all, fetch_one
from db.queue import jobs
from db.queue.jobs import JobStatus
from jobsworth import Job, Retry, Sending, handler
from tests.odd_settings import BUNDLES, DECOY, Place, bundle, odd
from tests.support import connect
from tests.worker.job_api import JobApi, new_thread, registered

# No encoding of one byte holds it; in a literal the backslash would be special.
TEXT = "Zoë said: 'żółć' \\u0041 \\ 雪"
FILE_BYTES = 3 * 2**20

PARTS = """
select j.status::text, j.payload from jobsworth.reactive_jobs j where j.mode = 'part'
"""

# A number that something else than the sequence gave would be given twice.
LEASES = "select count(*) as all, count(distinct j.lease_no) as own from jobsworth.reactive_jobs j"

LOOK = """
select timestamptz '2026-02-01 10:00:00Z' as at, interval '1 day 2 hours' as long,
  0.1::float8 as n, %(words)s::text[] as words
"""

SAVED = """
select a.name, octet_length(a.content) as bytes, a.content = %(content)s::bytea as same
from jobsworth.artifacts a
"""


def everything(times: list[datetime.datetime]) -> None:
    """Registers a job that uses most of what a job can do, and replays what it has recorded."""

    @handler("everything")
    async def work(job: Job, text: str) -> dict[str, Any]:
        at = await job.step("when", lambda: datetime.datetime.now(datetime.UTC).isoformat())
        said = await job.call(
            "think", answered, provider="scripted", model="m-1", estimate=(100, 50)
        )
        await job.checkpoint("here", {"text": text})
        brought = await job.gather(job.spawn("part", {"text": text}))
        found = await job.transaction("mine", look)
        if job.attempt < 3:
            raise Retry(0, reason="to read all of it again")
        job.say(text)
        job.save("text.bin", text.encode() * (FILE_BYTES // len(text.encode())))
        job.remember(text)
        job.enqueue("part", {"text": text}, delay_seconds=0.02)
        times.append(datetime.datetime.fromisoformat(at))
        return {"text": text, "said": said, "brought": brought, "found": found}

    @handler("part")
    def part(text: str) -> str:
        return text

    async def answered(_: Sending) -> Answer:
        return Answer(TEXT, Usage(7, 3))

    async def look(conn: Connection) -> list[Any]:
        found = await fetch_one(conn, LOOK, {"words": ["a", None]})
        assert found is not None
        return [found["at"].timestamp(), found["long"].total_seconds(), found["n"], found["words"]]


async def live(url: str) -> None:
    """A worker under this URL does all of the work, and everything that reads can read it."""
    times: list[datetime.datetime] = []
    with registered():
        everything(times)
        async with JobApi.open(url, statement_seconds=10.0) as api:
            thread_id = await new_thread(api)
            job = await api.run("everything", {"text": TEXT}, thread_id=thread_id)
            assert (job.status, job.error) == (JobStatus.DONE, None)
            assert job.result == {
                "text": TEXT,
                "said": TEXT,
                "brought": [TEXT],
                "found": [1769940000.0, 93600.0, 0.1, ["a", None]],
            }
            assert job.payload == {"text": TEXT}
            await read_everything(api, job.id)


def check(url: str) -> None:
    """What is stored is what was meant."""
    content = TEXT.encode() * (FILE_BYTES // len(TEXT.encode()))
    with connect(url) as conn:
        assert [row["same"] for row in conn.execute(SAVED, {"content": content})] == [True]
        leases = conn.execute(LEASES).fetchone()
        assert leases is not None
        assert leases["own"] == leases["all"]
        parts = conn.execute(PARTS).fetchall()
        assert [(row["status"], row["payload"]) for row in parts] == [("done", {"text": TEXT})] * 2


async def read_everything(api: JobApi, job_id: UUID) -> None:
    async with api.database.connection() as conn:
        assert [one.mode for one in await jobs.list_jobs(conn, mode="everything")] == ["everything"]
        assert await fetch_all(conn, "select * from jobsworth.why(%s)", [job_id])
        assert await fetch_all(conn, "select * from jobsworth.reactive_jobs")
        assert await books.check(conn) == []
    assert await api.violations() == []


@pytest.fixture
def decoyed(database_url: str) -> str:
    with connect(database_url) as conn:
        conn.execute(DECOY)
    return database_url


@pytest.mark.parametrize("number", range(BUNDLES))
@pytest.mark.parametrize("of", ["database", "role"])
async def test_no_setting_changes_what_a_job_does(decoyed: str, of: Place, number: int) -> None:
    """Together, because they do not depend on each other: each setting is in one of these."""
    with odd(decoyed, bundle(number), of) as url:
        await live(url)
    check(decoyed)
