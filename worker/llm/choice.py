"""Which model the operator chose for agents that have none of their own.

In: settings. Out: the model, built when it is first asked for. Invariant: choosing loads nothing; a
daemon that runs no agent never imports a provider's SDK.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_ai.models import Model

OFFLINE = "offline"


@dataclass(slots=True)
class ModelChoice:
    """`name` as `provider:model`; None or "offline": no model of a provider."""

    name: str | None = None
    url: str | None = None
    key: str | None = field(default=None, repr=False)
    timeout_seconds: float = 600.0
    _built: "Model | None" = field(default=None, init=False, repr=False)

    @property
    def offline(self) -> bool:
        return self.name in (None, OFFLINE)

    def model(self) -> "Model | None":
        """The model, the same one each time; None offline. Raises `InvalidInput`."""
        if self._built is None and self.name is not None and not self.offline:
            from worker.llm.providers import model_of

            self._built = model_of(
                self.name, url=self.url, key=self.key, timeout_seconds=self.timeout_seconds
            )
        return self._built
