"""What several tests of the worker start from: a job API on a fresh database, and daemons."""

from collections.abc import AsyncGenerator

import pytest

from tests.chaos.nursery import nursery as nursery
from tests.chaos.scene import scene as scene
from tests.worker.job_api import JobApi, registered


@pytest.fixture
async def api(database_url: str) -> AsyncGenerator[JobApi]:
    """The handlers of one test, run in this process; it leaves no violation behind."""
    with registered():
        async with JobApi.open(database_url) as api:
            yield api
            assert await api.violations() == []
