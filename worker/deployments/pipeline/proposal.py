"""The question that a person answers before a deployment begins.

Stage: before the deployment is recorded, so that its environment is not held meanwhile.
In: an environment and a commit. Out: one sentence, and everything that an approval allows: the
commit, the environment, the repository, the command lines, their variables and the number of people
who must approve.
Invariant: two proposals are equal exactly if the same would be done; the values of secrets are not
part of them.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from worker.deployments.pipeline.config import Environment
from worker.deployments.pipeline.repository import without_password
from worker.deployments.pipeline.secret_variables import masker_of, shown_variables


@dataclass(frozen=True, slots=True)
class Proposal:
    text: str
    shows: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """A hash that shows later whether the same would still be done."""
        return hashlib.sha256(json.dumps(self.shows, sort_keys=True).encode()).hexdigest()


def propose(environment: Environment, sha: str, back_from: str | None = None) -> Proposal:
    """Propose to deploy `sha`; or to roll back to it from `back_from`, the sha that is live."""
    mask = masker_of(environment).mask
    commands = {
        name: [mask(argument) for argument in argv]
        for name, argv in (
            ("build", environment.build),
            ("test", environment.test),
            ("switch", environment.switch),
            ("rollback", environment.rollback),
            ("probe", environment.probe.command),
        )
        if argv is not None
    }
    shows: dict[str, Any] = {
        "environment": environment.name,
        "sha": sha,
        "repository": mask(without_password(environment.repository)),
        "commands": commands,
        "variables": shown_variables(environment, mask),
        "approvals": environment.approvals,
    }
    if environment.probe.url is not None:
        shows["probe_url"] = mask(without_password(environment.probe.url))
        shows["probe_status"] = environment.probe.status
    if back_from is None:
        return Proposal(f"Deploy {sha[:12]} to {environment.name}?", shows)
    text = f"Go back in {environment.name} from {back_from[:12]} to {sha[:12]}?"
    return Proposal(text, {**shows, "rollback_of": back_from})
