"""deploy: ship one commit to one environment, or go back to what was healthy there before.

In: the environment's name, and a commit or what to go back to. Out: the deployment as it ended. The
job fails for good when the deployment is not healthy: a retry would not make the commit healthy.
"""

from typing import Any

from worker.handlers import handler
from worker.job import Job
from worker.outcomes import Fail


@handler("deploy", shipped=True)
async def deploy(
    job: Job, environment: str, sha: str | None = None, rollback_to: str | None = None
) -> dict[str, Any]:
    """Deploy `sha`, or go back to `rollback_to` ("previous", a deployment's id, a sha)."""
    if (sha is None) == (rollback_to is None):
        raise Fail("give either a `sha` to deploy, or `rollback_to` to go back")
    if sha is not None:
        deployment = await job.deploy(environment, sha, name="deploy")
    else:
        deployment = await job.rollback(environment, rollback_to or "previous", name="deploy")
    if deployment.status != "healthy":
        raise Fail(deployment.report_text or f"the deployment is {deployment.status}")
    return deployment.model_dump(mode="json")
