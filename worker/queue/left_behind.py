"""What a handler leaves behind in the task that ran it, and how the task gets rid of it.

In: the task of an ended attempt and the cancel scope that it was run in. Out: a task that can leave
that scope. An async generator that was not closed keeps its cancel scopes and task groups open (MCP
clients do this), and a handler may cancel its own task: such a task must run no other attempt, what
still runs in those scopes must be stopped, and leaving our own scope would raise.

A child task or a future that a handler awaits may have ended in a GeneratorExit, which asyncio
throws into the handler's task. Python does not raise it where the handler waits: it closes each
coroutine of the task up to the outermost, which would lose the attempt that is in them.

anyio has no public way to look at the scopes of a task. `tests/worker/queue/test_left_behind.py`
fails if the private one, which is used here and nowhere else, changes.
"""

import asyncio
from asyncio import _unregister_task as unregister
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar, cast

import anyio
from anyio._backends import _asyncio as backend

from worker.steps.beside import HERE

T = TypeVar("T")

_states = cast(Any, backend)._task_states


class Runner(asyncio.Task[None]):
    """A task that runs one attempt after the other. Code of an ended attempt cannot cancel it.

    What a handler has left behind, a timer or `asyncio.timeout`, knows the task, which runs
    another attempt by then; it still has the context of its own.
    """

    def cancel(self, msg: Any = None) -> bool:
        """Cancel what runs here, unless another attempt than that one asks for it.

        Not so while a scope around it is canceled: anyio cancels in the context in which a shield
        was left, which may be that of the handler, whose attempt is not over when the handler is.
        """
        here = HERE.get(None)
        if here is not None and not here.beside.runs_in(self) and not _is_to_end(self):
            return False
        return super().cancel(msg)


def place_of(task: "asyncio.Task[Any]") -> Any:
    """Where the task is: its `cancel_scope` is the innermost scope that it has entered."""
    return _states[task]


def _is_to_end(task: "asyncio.Task[Any]") -> bool:
    """Whether a scope is canceled that the task is in, and no shield is in between."""
    state = _states.get(task)
    scope = state and state.cancel_scope
    while scope is not None and not scope.cancel_called and not scope.shield:
        scope = scope._parent_scope
    return scope is not None and scope.cancel_called


def hide(task: "asyncio.Task[Any]") -> None:
    """Hide the task from `asyncio.all_tasks`: code that cancels all tasks shall not find it."""
    unregister(task)


def clean_up(task: "asyncio.Task[Any]", scope: anyio.CancelScope) -> None:
    """Take the task out of the scopes below `scope`, and cancel what else runs in them."""
    state = _states[task]
    left: list[Any] = []
    inner = state.cancel_scope
    while inner is not None and inner is not scope:
        left.append(inner)
        inner = inner._parent_scope
    if inner is None:  # the handler has left the scope that it was run in
        return
    for each in left:
        each._tasks.discard(task)
        each._parent_scope._child_scopes.discard(each)
        each._parent_scope = None
    inner._tasks.add(task)
    state.cancel_scope = inner
    for each in left:
        each.cancel("its handler has ended")


class Unclosed(Coroutine[Any, Any, T]):
    """Runs `inner`; a GeneratorExit comes to it as a RuntimeError, as a StopIteration does."""

    def __init__(self, inner: Coroutine[Any, Any, T]) -> None:
        self._inner = inner
        # A task calls it at each step: a method of ours would cost a frame.
        self.send = inner.send

    def send(self, value: Any, /) -> Any:
        """Go on."""
        return self._inner.send(value)

    def throw(self, error: Any, value: Any = None, traceback: Any = None, /) -> Any:
        """Go on with an error."""
        if isinstance(error, GeneratorExit):
            said = RuntimeError("a task, a future or a thread raised GeneratorExit")
            said.__cause__ = error
            error = said
        return self._inner.throw(error)

    def close(self) -> None:
        """End it where it is."""
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:
        """What asyncio and anyio ask a coroutine of Python's own (`cr_frame`, `cr_running`)."""
        return getattr(self._inner, name)
