"""The worker's loop starts programs as any loop does, and goes on whatever ends it."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support import ROOT, environment

PROGRAM = """
import asyncio, json, os, subprocess
import anyio
from worker.daemon import loop

SHELL = "exit 3"
ARGV = ("sh", "-c", SHELL)

async def code_of(started):
    transport, _ = await started
    while transport.get_returncode() is None:
        await asyncio.sleep(0.01)
    return transport.get_returncode()

async def work():
    this, talk = asyncio.get_running_loop(), asyncio.SubprocessProtocol
    codes = {
        "asyncio": await (await asyncio.create_subprocess_exec(*ARGV)).wait(),
        "asyncio, shell": await (await asyncio.create_subprocess_shell(SHELL)).wait(),
        "anyio": await (await anyio.open_process(ARGV)).wait(),
        "anyio, shell": await (await anyio.open_process(SHELL)).wait(),
        "anyio, to its end": (await anyio.run_process(ARGV, check=False)).returncode,
        "loop": await code_of(this.subprocess_exec(talk, *ARGV)),
        "task": await code_of(asyncio.ensure_future(this.subprocess_exec(talk, *ARGV))),
        "thread": await asyncio.to_thread(subprocess.call, ARGV),
    }
    # Nothing of a user's is between this fork and the pool of threads.
    child = await anyio.to_thread.run_sync(os.fork)
    codes["forked"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(codes))
    return 0

raise SystemExit(loop.run(work))
"""
PROGRAMS = ("anyio", "anyio, shell", "anyio, to its end", "asyncio", "asyncio, shell")


CLOSES = """
import asyncio, os, stat, sys
from worker.daemon import loop
from worker.log import configure_logging

configure_logging()

async def close_and_exit():
    for number in (0, 1, 2):
        os.close(number)
    sys.exit(3)

async def work():
    said = os.dup(1)
    for _ in range(3):
        asyncio.create_task(close_and_exit())
        await asyncio.sleep(0.01)
    streams = [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)]
    os.write(said, " ".join(streams).encode())
    return 0

raise SystemExit(loop.run(work))
"""
BREAKS = """
import asyncio, os, signal, sys
from worker.daemon import loop
from worker.log import configure_logging

configure_logging()

async def close_the_pipe_and_exit():
    os.close(signal.set_wakeup_fd(-1))
    sys.exit(3)

async def work():
    asyncio.create_task(close_the_pipe_and_exit())
    await asyncio.sleep(600)

raise SystemExit(loop.run(work))
"""


CANCELS = """
import asyncio
from worker.daemon import loop
from worker.log import job_bound

async def neighbour():
    await asyncio.wait_for(asyncio.sleep(0.2), 10)  # before Python 3.12 this made a task
    await asyncio.gather(asyncio.sleep(0.1))
    return "done"

async def cancel_everything():
    for _ in range(20):
        await asyncio.sleep(0.01)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    return "canceled all"

async def work():
    tasks = []
    for number, deed in enumerate((neighbour, cancel_everything)):
        with job_bound(job_id=number, lease_no=number, mode="m"):
            tasks.append(asyncio.create_task(deed()))
    print(*await asyncio.gather(*tasks, return_exceptions=True), sep=", ")
    return 0

raise SystemExit(loop.run(work))
"""


def test_code_that_cancels_all_tasks_cancels_none_of_its_neighbours() -> None:
    ran = run_program(CANCELS)
    assert (ran.returncode, ran.stdout) == (0, "done, canceled all\n"), ran.stderr


def test_the_loop_goes_on_without_the_standard_streams() -> None:
    ran = run_program(CLOSES)
    assert (ran.returncode, ran.stdout) == (0, "/dev/null /dev/null /dev/null")


def test_a_loop_that_cannot_go_on_ends_the_process() -> None:
    ran = run_program(BREAKS)
    assert ran.returncode == 70
    assert "loop.broken" in ran.stderr


def test_a_program_that_the_loop_starts_is_not_taken_for_a_fork_of_the_worker() -> None:
    ran = run_program(PROGRAM)
    assert (ran.returncode, ran.stderr) == (0, "")
    codes = json.loads(ran.stdout)
    assert codes.pop("forked") == 70, "a fork that comes back to the pool ends there"
    assert codes == dict.fromkeys((*PROGRAMS, "loop", "task", "thread"), 3)


def run_program(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text],
        cwd=ROOT,
        env=environment(None),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
