"""Which model the operator chose for agents that have none of their own.

In: settings. Out: the model, built when it is first asked for. Invariant: choosing loads nothing; a
daemon that runs no agent never imports a provider's SDK.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread

from worker.llm.keys import key_of, require_sdk

if TYPE_CHECKING:
    from pydantic_ai.models import Model

T = TypeVar("T")

OFFLINE = "offline"
# As many as an SDK's own client has: with few slots, too, one job may run many agents at once.
CONNECTIONS_MIN = 1_000
# Models of agents that have their own; one more takes the place of the oldest.
OTHERS_MAX = 32


@dataclass(slots=True)
class ModelChoice:
    """The operator's model: `name` is `provider:model`; None or "offline" is no provider's.

    At most `connections_max` requests to it are open at once.
    """

    name: str | None = None
    url: str | None = None
    key: str | None = field(default=None, repr=False)
    timeout_seconds: float = 600.0
    connections_max: int = CONNECTIONS_MIN
    _built: "Model | None" = field(default=None, init=False, repr=False)
    _others: "dict[str, Model]" = field(default_factory=dict[str, Any], init=False, repr=False)
    _made: Any = field(default=None, init=False, repr=False)
    _imported: bool = field(default=False, init=False, repr=False)
    _lock: RLock = field(default_factory=RLock, init=False, repr=False)
    # Of ten thousand agents that start together one loads; the others do not wait in threads.
    _loading: anyio.Lock = field(default_factory=anyio.Lock, init=False, repr=False)

    @property
    def offline(self) -> bool:
        return self.name in (None, OFFLINE)

    def check(self) -> None:
        """Raise `InvalidInput` for what would fail in every job; loads nothing."""
        if self.name is not None and not self.offline:
            key_of(self.name, self.url, self.key)
            require_sdk(self.name)

    async def ready(self, load: Callable[[], T]) -> T:
        """What `load` returns. It imports what agents need, which takes a second at first.

        So the first call runs it in a thread, and others wait: two threads that import the same
        modules at once may get half-loaded ones.
        """
        if not self._imported:
            async with self._loading:
                if not self._imported:
                    await anyio.to_thread.run_sync(self._load, load)
        return load()

    def _load(self, load: Callable[[], object]) -> None:
        with self._lock:
            load()
            self._imported = True

    def model(self) -> "Model | None":
        """The model, the same one each time; None offline. Raises `InvalidInput`."""
        with self._lock:
            if self._built is None and self.name is not None and not self.offline:
                from worker.llm.providers import model_of

                self._built = model_of(
                    self.name,
                    url=self.url,
                    key=self.key,
                    timeout_seconds=self.timeout_seconds,
                    connections_max=self.connections_max,
                )
            return self._built

    async def loaded(self) -> "Model | None":
        """As `model`, but built in a thread: loading a provider's SDK takes a second."""
        if self._built is None and not self.offline:
            async with self._loading:
                if self._built is None:
                    return await anyio.to_thread.run_sync(self.model)
        return self._built

    async def named(self, name: str) -> "Model":
        """Another model than the operator's, with the operator's address and key if it is of the
        same provider. Raises `InvalidInput` for a name without a provider, or a missing key.
        """
        if name not in self._others:
            async with self._loading:
                if name not in self._others:
                    model = await anyio.to_thread.run_sync(self._other, name)
                    while len(self._others) >= OTHERS_MAX:
                        del self._others[next(iter(self._others))]
                    self._others[name] = model
        return self._others[name]

    def _other(self, name: str) -> "Model":
        from worker.llm.providers import model_of

        same = self.name is not None and self.name.partition(":")[0] == name.partition(":")[0]
        return model_of(
            name,
            url=self.url if same else None,
            key=self.key if same else None,
            timeout_seconds=self.timeout_seconds,
            connections_max=self.connections_max,
        )

    async def once(self, make: Callable[["Model | None"], T]) -> T:
        """What `make` makes of the model. It is called once, in a thread; later calls get the same.

        None stands for the offline model.
        """
        if self._made is None:
            async with self._loading:
                if self._made is None:
                    return await anyio.to_thread.run_sync(self._make, make)
        return self._made

    def _make(self, make: Callable[["Model | None"], T]) -> T:
        with self._lock:
            if self._made is None:
                self._made = make(self.model())
            return self._made
