"""Files of a job: what an attempt saved, a later one reads; and who made it is known."""

from __future__ import annotations

from db.errors import InvalidInput, NotFound
from db.steps import artifacts
from jobsworth import Job, Retry, handler
from tests.worker.job_api import JobApi

KEPT = b"a\0" * 2


async def test_a_file_is_read_back_in_a_later_attempt(api: JobApi) -> None:
    seen: list[object] = []

    @handler("draw", failures_max=3)
    async def draw(job: Job) -> str:
        try:
            seen.append(await job.load("a.bin"))
        except NotFound as missing:
            seen.append(missing.message)
        job.save("a.bin", KEPT, step="render", metadata={"dpi": 300})
        job.save("far", uri="https://example.org/far")
        if job.attempt == 1:
            raise Retry(0)  # an attempt that fails saves nothing
        seen.append(await job.load("a.bin"))
        try:
            await job.load("far")
        except InvalidInput as elsewhere:
            seen.append(elsewhere.message)
        await job.wait("go")
        return "done"

    job = await api.run("draw")
    await api.rows("select jobsworth.send_signal(%(id)s, 'go')", id=job.id)
    await api.work()
    job = await api.job(job.id)
    assert (job.result, job.attempt) == ("done", 3)
    none = f"job {job.id} has no file 'a.bin'"
    far = "file 'far' is elsewhere: https://example.org/far"
    assert seen == [none, none, KEPT, far, KEPT, KEPT, far]
    async with api.database.connection() as connection:
        file, _ = await artifacts.list_for_job(connection, job.id)
    assert (file.step_name, file.metadata, file.bytes) == ("render", {"dpi": 300}, 4)
