"""deploy: ship one commit to one environment.

In: the environment's name and a commit. Out: the deployment as it ended; the job fails for good
when it is not healthy, because the same commit would not become healthy by a retry.
"""

from typing import Any

from worker.context import Job
from worker.handlers import handler
from worker.outcomes import Fail


@handler("deploy", shipped=True)
async def deploy(job: Job, environment: str, sha: str) -> dict[str, Any]:
    """Deploy, or fail with the report."""
    deployment = await job.deploy(environment, sha, name="deploy")
    if deployment.status != "healthy":
        raise Fail(deployment.report_text or f"the deployment is {deployment.status}")
    return deployment.model_dump(mode="json")
