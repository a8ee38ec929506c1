"""One small site, its repository, its environment and its service, for each test; and a worker
that ships it for jobs of the shipped mode `deploy`."""

import uuid
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobsworth import handler
from tests.worker.deployments.pipeline.support import (
    FileRecorder,
    commit,
    environment,
    make_repository,
    serve,
)
from tests.worker.job_api import JobApi, registered
from worker.deployments.pipeline import Report, deploy, resolve_sha
from worker.deployments.pipeline.config import Environment
from worker.deployments.pipeline.release import current_release, release_path
from worker.modes.deploy import deploy as deploy_mode


@dataclass
class Site:
    """Deploys commits of a real repository; its service answers as `current/health` says."""

    directory: Path
    url: str
    repository: Path
    id: uuid.UUID = field(default_factory=uuid.uuid4)

    @property
    def releases(self) -> Path:
        return self.directory / "releases"

    @property
    def environment_dir(self) -> Path:
        return self.releases / "staging"

    def environment(self, **keys: object) -> Environment:
        return environment(self.directory, self.repository, f'url = "{self.url}/health"', **keys)

    def commit(self, health: int = 200, **files: str) -> str:
        return commit(self.repository, {"health": str(health), **files})

    def recorder(self, crash_at: str = "") -> FileRecorder:
        """A recorder of one deployment, which knows the records of those before it."""
        return FileRecorder(self.directory / f"record-{self.id}", crash_at)

    def next_deployment(self) -> None:
        self.id = uuid.uuid4()

    async def deploy(
        self, environment: Environment, ref: str = "main", record: FileRecorder | None = None
    ) -> Report:
        """Start a deployment, or resume the one of `record`."""
        if record is None:
            self.next_deployment()
            record = self.recorder()
        sha = await resolve_sha(environment.repository, ref, self.releases)
        return await deploy(
            environment, sha, record, deployment_id=self.id, releases_dir=self.releases
        )

    def release(self, sha: str) -> Path:
        return release_path(self.releases, "staging", sha, self.id)

    def current(self) -> Path | None:
        return current_release(self.environment_dir)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serve(tmp_path / "releases" / "staging") as url:
        yield Site(tmp_path, url, make_repository(tmp_path / "site"))


@pytest.fixture
async def api(database_url: str, site: Site) -> AsyncGenerator[JobApi]:
    with registered():
        handler("deploy")(deploy_mode)
        async with JobApi.open(
            database_url, deploy_file=site.directory / "deploy.toml", releases_dir=site.releases
        ) as api:
            yield api
            assert await api.violations() == []
