"""The errors of deployments that a user, an operator or the outside world causes.

Stage: raised by every module of this package; `job.deploy` and the CLI show their text unchanged.
In: the facts. Out: one message that names the thing, the reason and the remedy.
Invariant: a `DeployError` never needs a traceback to be understood.

    DeployError
    ├── DeployConfigError     deploy.toml has mistakes (all of them at once)
    ├── UnknownEnvironment    deploy.toml does not define the environment
    ├── UnknownCommit         the repository does not have the sha or ref
    ├── RepositoryError       git could not read the repository
    │   └── RepositoryAway    the repository could not be fetched
    ├── ReleaseError          a release directory or the symlink `current` cannot be used
    ├── SecretMissing         a secret variable has no value, or one too short to be masked
    └── EnvironmentBusy       another deployment, or a process it left, holds the environment
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from db.errors import JobsworthError


class DeployError(JobsworthError):
    """The user or the operator must act; the message says how."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    file: Path
    line: int
    key: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        subject = f"{self.key}: " if self.key else ""
        return f"{self.file}:{self.line}: {subject}{self.reason}; {self.remedy}"


class DeployConfigError(DeployError):
    def __init__(self, problems: Iterable[ConfigProblem]) -> None:
        self.problems: tuple[ConfigProblem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UnknownEnvironment(DeployError):
    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name: str = name
        self.known: tuple[str, ...] = tuple(sorted(known))
        super().__init__(
            f"environment {name!r} is not configured; known are: {', '.join(self.known)}",
            f"use one of them, or add [environments.{name}] to deploy.toml",
        )


class UnknownCommit(DeployError):
    def __init__(self, ref: str, repository: str, reason: str, remedy: str) -> None:
        self.ref: str = ref
        super().__init__(f"commit {ref!r} of {repository}: {reason}", remedy)


class RepositoryError(DeployError):
    def __init__(self, repository: str, reason: str, remedy: str) -> None:
        super().__init__(f"repository {repository}: {reason}", remedy)


class RepositoryAway(RepositoryError):
    """The repository cannot be reached now, or not by this user; the job's retries apply."""

    retriable = True


class ReleaseError(DeployError):
    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}", remedy)


class SecretMissing(DeployError):
    def __init__(self, environment: str, name: str, reason: str) -> None:
        super().__init__(
            f"environment {environment!r} needs the secret variable {name}, which is {reason}",
            f"give the worker's process a {name} of six characters or more",
        )


class EnvironmentBusy(DeployError):
    """The same call may succeed later."""

    retriable = True

    def __init__(self, environment_dir: Path, holder: str) -> None:
        super().__init__(
            f"environment {environment_dir.name!r} is busy: {holder}",
            "wait until that has ended, or end it, then deploy again",
        )
