"""The event loop of a worker: nothing that a handler raises or calls ends it.

In: the daemon's coroutine. Out: its exit code. asyncio lets SystemExit and KeyboardInterrupt of a
task or a callback out of the loop, and `loop.stop()` ends it. This loop goes on in both cases until
its own coroutine has ended; the task that raised has its exception all the same, so whoever awaits
it gets it. Tasks are hidden from `asyncio.all_tasks`, those of jobs too: code that cancels all
tasks, or waits for them, would find those of its neighbours. A forked child that comes back to the
loop ends there (`worker.queue.forked`).
"""

import asyncio
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NoReturn, cast
from weakref import WeakKeyDictionary

import anyio

from worker import events
from worker.daemon.open_files import keep_standard_streams
from worker.log import current_job, get_logger, job_bound
from worker.log_exceptions import text_of
from worker.queue import forked, left_behind

if TYPE_CHECKING or sys.platform == "win32":
    from asyncio import SelectorEventLoop as BaseLoop
else:
    from uvloop import Loop as BaseLoop

# Handlers that raise without end shall not fill the disk.
LOGGED_MAX = 1_000
BROKEN = 70
# How long the end of the process waits for what handlers have left in it.
LEFT_SECONDS = 5.0

log = get_logger()


def run(work: Callable[[], Awaitable[int]]) -> int:
    """Run `work` in a worker's loop, to its end; returns its exit code.

    Tasks, threads and processes that handlers have left behind are waited for a while. If some do
    not end, the process ends here: the interpreter would wait for them.
    """

    async def work_and_clean_up() -> int:
        exit_code = await work()
        await _end_tasks()
        return exit_code

    with forked.children_end_here():
        exit_code = anyio.run(work_and_clean_up, backend_options={"loop_factory": WorkerLoop})
    give_up = time.monotonic() + LEFT_SECONDS
    while left := [*_threads(), *_children()]:
        if time.monotonic() > give_up:
            log.warning(events.LEFTOVERS_DROPPED, leftovers=[str(each)[:200] for each in left])
            os._exit(exit_code)
        time.sleep(0.02)
    return exit_code


class WorkerLoop(BaseLoop):
    """Runs until what it was given to run has ended, and for no other reason."""

    def __init__(self) -> None:
        super().__init__()
        self._escapes = 0
        self._jobs: WeakKeyDictionary[asyncio.Task[Any], job_bound] = WeakKeyDictionary()

    def run_until_complete(self, future: Any) -> Any:
        """Run until `future` is done; returns its result."""
        if self.is_running():
            raise RuntimeError("this event loop is already running: await, or use another thread")
        own = asyncio.ensure_future(future, loop=self)
        own.add_done_callback(self._done)
        while not own.done() and not self.is_closed():
            # The loop opens a pair of sockets each time that it runs. A handler that closes the
            # standard streams would close them if they had those numbers.
            keep_standard_streams()
            try:
                super().run_forever()
            except BaseException as error:
                forked.leave_if_child(error)
                self._tell(error)
                if self.is_running():
                    _end_broken(error)
        return own.result()

    def create_task(self, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        """Start a task that `asyncio.all_tasks` does not show."""
        task = super().create_task(coro, **options)
        left_behind.hide(task)
        job = current_job()
        if job is not None:
            self._jobs[task] = job
        return task

    def tasks_of_jobs(self) -> list["asyncio.Task[Any]"]:
        """The tasks that jobs have started and that have not ended."""
        return [task for task in self._jobs if not task.done()]

    def job_of_current_task(self) -> job_bound | None:
        """The job that started the task which runs now. Any thread may ask."""
        task = asyncio.current_task(self)
        return None if task is None else self._jobs.get(task)

    # A child that the loop forks becomes another program: `worker.queue.forked` tells it from one
    # that a handler forks by these frames.

    async def subprocess_exec(self, *args: Any, **options: Any) -> Any:
        """Start a program."""
        return await super().subprocess_exec(*args, **options)

    async def subprocess_shell(self, *args: Any, **options: Any) -> Any:
        """Start a shell."""
        return await super().subprocess_shell(*args, **options)

    # Both would take away what other handlers use, and the end of the process needs neither.

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Do nothing."""

    async def shutdown_asyncgens(self) -> None:
        """Do nothing."""

    def _done(self, _future: "asyncio.Future[Any]") -> None:
        BaseLoop.stop(self)

    def _tell(self, error: BaseException) -> None:
        self._escapes += 1
        if self._escapes <= LOGGED_MAX:
            frames = traceback.extract_tb(error.__traceback__)
            log.warning(
                events.EXIT_REFUSED,
                error=type(error).__name__,
                where=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None,
            )


def _end_broken(error: BaseException) -> NoReturn:
    # It failed while it began or ended to run, and can do neither again. The heartbeat would go on,
    # and nobody would rescue its jobs.
    log.error(events.LOOP_BROKEN, error=f"{type(error).__name__}: {text_of(error)}")
    os._exit(BROKEN)


async def _end_tasks() -> None:
    tasks = cast(WorkerLoop, asyncio.get_running_loop()).tasks_of_jobs()
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=LEFT_SECONDS)


def _threads() -> list[threading.Thread]:
    here = threading.current_thread()
    return [t for t in threading.enumerate() if t is not here and not t.daemon and t.is_alive()]


def _children() -> list[BaseProcess]:
    # The interpreter would wait for them, and they hold the port that this process listened on.
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    return [child for child in children if child.is_alive()]
