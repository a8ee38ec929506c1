"""What a plan is: numbered steps, each of a kind that `execute` knows how to do.

In: JSON, from a model or from whoever enqueues `execute`. Out: a `Plan`, and its text for people.
Invariant: the text shows everything that the steps will do, so that approving the text approves the
steps. Each value is on one line, so it cannot look like a step of its own, push a step out of sight
or reverse the line's direction; the number of steps and the length of texts are bounded.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from worker.modes.intents import plain

STEPS_MAX = 20
TEXT_CHARACTERS_MAX = 2_000


def _on_one_line(value: Any) -> Any:
    return plain(value) if isinstance(value, str) else value


Line = Annotated[
    str, Field(min_length=1, max_length=TEXT_CHARACTERS_MAX), BeforeValidator(_on_one_line)
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Note(_Frozen):
    """Remember a sentence."""

    kind: Literal["note"] = "note"
    text: Line

    def __str__(self) -> str:
        return f"Note: {self.text}"


class Search(_Frozen):
    """Search what was remembered."""

    kind: Literal["search"] = "search"
    query: Line

    def __str__(self) -> str:
        return f"Search memory for “{self.query}”"


class Save(_Frozen):
    """Save a text file; `text` says what goes into it, out of what the steps before found."""

    kind: Literal["save"] = "save"
    name: Annotated[str, Field(pattern=r"^[\w][\w. -]{0,120}$")]
    text: Line

    def __str__(self) -> str:
        return f"Save {self.name}: {self.text}"


class Deploy(_Frozen):
    """Deploy a commit to an environment."""

    kind: Literal["deploy"] = "deploy"
    environment: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    sha: Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]

    def __str__(self) -> str:
        return f"Deploy {self.sha} to {self.environment}"


Step = Annotated[Note | Search | Save | Deploy, Field(discriminator="kind")]


class Plan(_Frozen):
    title: Line
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=STEPS_MAX)]

    @model_validator(mode="after")
    def _files_have_their_own_names(self) -> Self:
        names = [step.name for step in self.steps if isinstance(step, Save)]
        if len(set(names)) < len(names):
            raise ValueError("two steps save a file of the same name; give each its own")
        return self

    def as_text(self) -> str:
        """The title and the numbered steps, one to a line."""
        numbered = (f"{number}. {step}" for number, step in enumerate(self.steps, 1))
        return "\n".join([f"Plan: {self.title}", *numbered])
