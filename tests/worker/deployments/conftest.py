"""A site to deploy, and a job API whose handler `ship` deploys it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from jobsworth import handler
from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.deployments.pipeline.conftest import site as site
from tests.worker.deployments.shipping import ship
from tests.worker.job_api import JobApi, registered


@pytest.fixture
async def api(database_url: str, site: Site) -> AsyncGenerator[JobApi]:
    with registered():
        handler("ship")(ship)
        async with JobApi.open(
            database_url, deploy_file=site.directory / "deploy.toml", releases_dir=site.releases
        ) as api:
            yield api
            assert await api.violations() == []
