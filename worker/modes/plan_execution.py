"""An approved plan while a model carries it out.

In: tool calls of a model, one after the other. Out: the result of each, in the order of the plan's
steps. Invariant: only the plan's next step is done, exactly as it was approved; a step that was
done is recorded under its number and not done again; the first that fails ends the plan.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from worker.job import Job
from worker.modes import conversation
from worker.modes.plans import Deploy, Note, Plan, Save, Search, Step
from worker.outcomes import Fail


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one step: a line for people, and texts that later steps may use."""

    passed: bool
    detail: str
    found: tuple[str, ...] = ()


class PlanExecution:
    """The `results` of the plan's steps so far, and its `next` step."""

    def __init__(self, job: Job, plan: Plan) -> None:
        self.job = job
        self.plan = plan
        self.results: list[Result] = []
        self._extra_searches = 0

    @property
    def next(self) -> Step | None:
        """The step to do next; None when all are done or one has failed."""
        done = len(self.results)
        if done == len(self.plan.steps) or (done and not self.results[-1].passed):
            return None
        return self.plan.steps[done]

    @property
    def completed(self) -> bool:
        return len(self.results) == len(self.plan.steps) and self.results[-1].passed

    async def search(self, query: str) -> Result:
        """Search what is remembered; allowed at any time, because it changes nothing."""
        if self._is_next(Search, query=query):
            return await self._do("search", self._find, query)
        self._extra_searches += 1
        return await self._find(f"search beside the plan {self._extra_searches}", query)

    async def note(self, text: str) -> Result:
        """Remember a sentence, if that is the plan's next step."""
        if not self._is_next(Note, text=text):
            return self._refused("note exactly this")
        return await self._do("note", self._note, text)

    async def save(self, name: str, content: str) -> Result:
        """Save a text file, if the plan's next step names it."""
        if not isinstance(self.next, Save) or self.next.name != name:
            return self._refused(f"save {name!r}")
        return await self._do("save", self._save, name, content)

    async def deploy(self, environment: str, sha: str) -> Result:
        """Deploy a commit, if exactly that is the plan's next step."""
        if not self._is_next(Deploy, environment=environment, sha=sha):
            return self._refused(f"deploy {sha!r} to {environment!r}")
        return await self._do("deploy", self._deploy, environment, sha)

    def summary(self, remarks: str = "") -> str:
        """What was done of the plan, for people, followed by the model's remarks."""
        numbered = enumerate(zip(self.plan.steps, self.results, strict=False), 1)
        done = [f"{number}. {step}: {result.detail}" for number, (step, result) in numbered]
        skipped = len(self.plan.steps) - len(self.results)
        ended = "Done" if self.completed else "Stopped"
        rest = f"The last {skipped} were not done." if skipped > 1 else "The last one was not done."
        said = ["", remarks.strip()] if remarks.strip() else []
        return "\n".join(
            [f"{ended}: {self.plan.title}", *done, *([rest] if skipped else []), *said]
        )

    def _is_next(self, kind: type[Step], **values: str) -> bool:
        step = self.next
        return isinstance(step, kind) and step.model_dump(exclude={"kind"}) == values

    async def _do(self, kind: str, act: Callable[..., Awaitable[Result]], *given: str) -> Result:
        """Do the plan's next step, recorded under its number and kind."""
        result = await act(f"{len(self.results) + 1} {kind}", *given)
        self.results.append(result)
        return result

    def _refused(self, wanted: str) -> Result:
        if self.next is None:
            return Result(False, f"refused to {wanted}: the plan has ended")
        return Result(
            False, f"refused to {wanted}: the next step of the approved plan is: {self.next}"
        )

    async def _find(self, name: str, query: str) -> Result:
        async def search(query: str) -> list[str]:
            return list(await conversation.recall(self.job, query))

        found = tuple(await self.job.step(name, search, query))
        return Result(True, f"found {len(found) or 'nothing'}", found)

    async def _note(self, name: str, text: str) -> Result:
        async def note(text: str) -> str:
            return text

        await self.job.step(name, note, text)
        self.job.remember(text, kind="note", name=name)
        return Result(True, "noted", (text,))

    async def _save(self, name: str, file: str, content: str) -> Result:
        async def size(file: str, content: str) -> int:
            return len(content.encode())

        bytes_saved = await self.job.step(name, size, file, content)
        self.job.save(file, content)
        return Result(True, f"saved {bytes_saved:,} bytes")

    async def _deploy(self, name: str, environment: str, sha: str) -> Result:
        try:
            deployment = await self.job.deploy(environment, sha, name=name)
        except Fail as refused:
            return Result(False, f"could not deploy: {refused}")
        report = (deployment.report_text,) if deployment.report_text else ()
        return Result(deployment.status == "healthy", str(deployment.status), report)
