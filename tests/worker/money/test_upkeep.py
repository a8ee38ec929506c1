"""The books' upkeep on real rows."""

from __future__ import annotations

from uuid import uuid4

from db.money import calls
from db.money.calls import CallStatus, Usage
from tests.db.money import entries
from tests.db.rows import take
from tests.support import until
from tests.worker.job_api import JobApi
from tests.worker.upkeep_at_work import running_job, upkeep


async def test_calls_of_attempts_that_are_over_are_settled_at_their_estimate(api: JobApi) -> None:
    over, alive = await running_job(api), await running_job(api)
    async with api.database.connection() as connection:
        for lease in (over, alive):
            await entries.start(
                connection,
                lease,
                provider="scripted",
                model="m-1",
                request_id=uuid4().hex,
                estimate=Usage(100, 50),
            )
        await take(connection, over.job_id)

        async def settled() -> bool:
            [call] = await calls.list_calls(connection, over.job_id)
            return call.status is CallStatus.UNKNOWN

        async with upkeep(api):
            await until(settled)
        [call] = await calls.list_calls(connection, over.job_id)
        assert (call.input_tokens, call.output_tokens) == (100, 50)
        [call] = await calls.list_calls(connection, alive.job_id)
        assert call.status is CallStatus.STARTED
