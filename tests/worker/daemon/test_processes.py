"""Whether a process of this machine has ended; "ended" is never said of one that runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT, until_sync
from worker.daemon.processes import has_ended, own_process

TELL = "from worker.daemon.processes import own_process; print(own_process())"
UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]


def start_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def told(*before: str) -> str:
    """What a process says of itself that is started by the command `before`."""
    return subprocess.run(
        [*before, sys.executable, "-c", TELL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_this_process_runs() -> None:
    own = own_process()
    assert own is not None
    assert own.start == start_of(os.getpid())
    assert not has_ended(os.getpid(), own.start)


def test_a_later_process_with_the_same_pid_is_another_one() -> None:
    assert has_ended(os.getpid(), start_of(os.getpid()) - 1)


def test_a_child_is_there_stopped_killed_and_gone() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        start = start_of(child.pid)
        assert not has_ended(child.pid, start)
        child.send_signal(signal.SIGSTOP)
        assert not has_ended(child.pid, start)
        child.kill()
        # Nobody has waited for it yet: it is still in the table.
        until_sync(lambda: has_ended(child.pid, start))
        assert Path(f"/proc/{child.pid}").exists()
    assert has_ended(child.pid, start)


def test_another_users_process_runs() -> None:
    assert not has_ended(1, start_of(1))


def test_processes_of_one_namespace_know_each_other() -> None:
    own = own_process()
    assert own is not None
    assert repr(own.pid_space) in told()


def test_a_process_in_another_namespace_of_pids_is_not_known_here() -> None:
    """Its pid means nobody, or somebody else, here."""
    own = own_process()
    assert own is not None
    inside = told(*UNSHARE, "--mount-proc")
    assert "pid_space" in inside
    assert repr(own.pid_space) not in inside


def test_a_process_that_sees_the_proc_of_another_namespace_says_nothing() -> None:
    assert told(*UNSHARE) == "None"


def test_a_process_in_another_namespace_of_times_is_not_known_here() -> None:
    """The start of a process is told in the reader's time."""
    own = own_process()
    assert own is not None
    shifted = told("unshare", "--user", "--map-root-user", "--time", "--boottime", "1000")
    assert repr(own.pid_space) not in shifted
