"""A worker that tests kill: it runs one deployment in a process of its own.

Arguments: the deploy.toml, the sha, the deployment's id, the releases directory, the record file.
"""

import sys
import uuid
from pathlib import Path

import anyio

from tests.worker.deployments.pipeline.support import FileRecorder
from worker.deployments.pipeline import deploy, load_environments


async def main(arguments: list[str]) -> None:
    config, sha, deployment_id, releases, record = arguments
    await deploy(
        load_environments(Path(config))["staging"],
        sha,
        FileRecorder(Path(record)),
        deployment_id=uuid.UUID(deployment_id),
        releases_dir=Path(releases),
    )


if __name__ == "__main__":
    anyio.run(main, sys.argv[1:])
