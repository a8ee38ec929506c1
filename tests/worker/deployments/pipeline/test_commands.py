"""Commands run without a shell, within bounds, and leave nothing behind when they are stopped."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from tests.worker.deployments.pipeline.support import is_gone, pid_in, until
from worker.deployments.pipeline.commands import CommandResult, command_environment, run_command

ENV = command_environment(os.environ)
# A child that ignores SIGTERM, holds the pipe, and says who it is.
STUBBORN_CHILD = "(trap '' TERM; echo $BASHPID > child; while :; do sleep 1; done) & "


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def run(argv: list[str], cwd: Path, **bounds: float) -> CommandResult:
    return await run_command(
        argv,
        cwd=cwd,
        env=ENV,
        timeout_seconds=bounds.get("timeout_seconds", 20.0),
        output_bytes_max=int(bounds.get("output_bytes_max", 65536)),
        leaves_running=bool(bounds.get("leaves_running", False)),
    )


async def test_both_streams_come_back_in_the_order_they_were_written(tmp_path: Path) -> None:
    result = await run(["sh", "-c", "echo 1; echo 2 >&2; echo 3; exit 7"], tmp_path)
    assert result.output == "1\n2\n3\n"
    assert (result.exit_code, result.passed, result.timed_out) == (7, False, False)
    assert result.detail == "exit code 7"


async def test_arguments_reach_the_program_as_they_are(tmp_path: Path) -> None:
    result = await run(["printf", "%s|", "a b", "$HOME", "*", ""], tmp_path)
    assert result.output == "a b|$HOME|*||"


async def test_standard_input_is_empty(tmp_path: Path) -> None:
    result = await run(["cat"], tmp_path)
    assert (result.output, result.exit_code) == ("", 0)


async def test_only_the_last_bytes_of_a_long_output_are_kept(tmp_path: Path) -> None:
    script = "import sys; sys.stdout.write('x' * 3_000_000 + 'the end')"
    result = await run([sys.executable, "-c", script], tmp_path, output_bytes_max=1000)
    assert len(result.output.encode()) == 1000
    assert result.output.endswith("xthe end")
    assert result.output_bytes_cut == 3_000_007 - 1000


async def test_output_of_any_bytes_is_text_within_the_bound_and_without_nul(tmp_path: Path) -> None:
    script = "import sys; sys.stdout.buffer.write(b'\\xff\\x00' * 500 + 'ü'.encode())"
    result = await run([sys.executable, "-c", script], tmp_path, output_bytes_max=600)
    assert "\x00" not in result.output
    assert len(result.output.encode()) <= 600
    assert result.output.endswith("\ufffdü")


async def test_a_timeout_ends_the_whole_group_even_a_child_that_ignores_sigterm(
    tmp_path: Path,
) -> None:
    script = STUBBORN_CHILD + "echo begun; wait"
    result = await run(["bash", "-c", script], tmp_path, timeout_seconds=0.5)
    assert result.timed_out
    assert result.exit_code is None
    assert result.output == "begun\n"
    assert "timed out" in result.detail
    child = int((tmp_path / "child").read_text())
    await until(lambda: is_gone(child))


async def test_a_cancellation_ends_the_whole_group(tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, ["bash", "-c", STUBBORN_CHILD + "echo $$ > leader; wait"], tmp_path)
        await until(pid_in(tmp_path / "child"))
        await until(pid_in(tmp_path / "leader"))
        tasks.cancel_scope.cancel()
    for name in ("child", "leader"):
        pid = int((tmp_path / name).read_text())
        await until(lambda pid=pid: is_gone(pid))


async def test_a_command_may_tidy_up_on_sigterm(tmp_path: Path) -> None:
    script = "trap 'echo tidied; exit 0' TERM; echo ready; sleep 60 & wait"
    result = await run(["bash", "-c", script], tmp_path, timeout_seconds=0.5)
    assert result.timed_out
    assert result.output == "ready\ntidied\n"


async def test_a_background_process_that_holds_the_output_does_not_delay_the_end(
    tmp_path: Path,
) -> None:
    script = "sleep 60 & echo $! > child; echo done"
    with anyio.fail_after(10):
        result = await run(["bash", "-c", script], tmp_path, leaves_running=True)
    child = int((tmp_path / "child").read_text())
    assert (result.exit_code, result.output) == (0, "done\n")
    assert not is_gone(child), "a server that a switch starts must stay"
    os.kill(child, 9)


async def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    """A watcher left by a build would go on writing into the release."""
    result = await run(["bash", "-c", "sleep 60 & echo $! > child; echo done"], tmp_path)
    assert (result.exit_code, result.output, result.timed_out) == (0, "done\n", False)
    child = int((tmp_path / "child").read_text())
    await until(lambda: is_gone(child))


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["no-such-program"], "the program does not exist"),
        (["./plain"], "not executable"),
        (["./directory"], "not executable"),
    ],
)
async def test_a_program_that_cannot_start_is_a_result(
    tmp_path: Path, argv: list[str], text: str
) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "directory").mkdir()
    result = await run(argv, tmp_path)
    assert result.exit_code is None
    assert not result.passed
    assert text in result.detail


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    result = await run(["true"], tmp_path / "gone")
    assert str(tmp_path / "gone") in result.detail


async def test_a_signal_is_named(tmp_path: Path) -> None:
    result = await run(["sh", "-c", "kill -9 $$"], tmp_path)
    assert (result.exit_code, result.detail) == (-9, "ended by signal 9")


def test_no_secret_of_the_daemon_reaches_a_command() -> None:
    inherited = {
        "PATH": "/bin",
        "LC_TIME": "C",
        "JOBSWORTH_DATABASE_URL": "postgresql://u:p@h/d",
        "DATABASE_URL": "x",
        "PGPASSWORD": "x",
        "OPENAI_API_KEY": "x",
    }
    assert command_environment(inherited, {"PATH": "/opt"}, {"A": "1"}) == {
        "PATH": "/opt",
        "LC_TIME": "C",
        "A": "1",
    }


# What leaves the group of its command.


ESCAPES = {
    "a session of its own": "setsid sleep 300 & ",
    "a daemon": "(setsid sleep 300 &) ; ",
    "one that ignores SIGTERM": "setsid bash -c \"trap '' TERM; while :; do sleep 1; done\" & ",
    "one that starts another": "setsid bash -c 'while :; do setsid sleep 300 & wait; done' & ",
}


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize(
    ("ending", "bounds"),
    [
        ("wait; sleep 60", {"timeout_seconds": 1.0, "leaves_running": True}),
        ("exit 3", {"leaves_running": True}),
        ("exit 0", {}),
    ],
)
async def test_what_left_the_group_ends_with_its_command(
    tmp_path: Path, escape: str, ending: str, bounds: dict[str, float]
) -> None:
    """Otherwise it would go on switching after the report says that all was ended."""
    marker = f"JOBSWORTH_TEST_MARKER={tmp_path}"
    script = f"export {marker}; {ESCAPES[escape]}sleep 0.2; {ending}"
    result = await run(["bash", "-c", script], tmp_path, **bounds)
    assert not result.left_running
    assert marked(marker) == set()


async def test_a_server_that_a_switch_starts_as_a_daemon_stays(tmp_path: Path) -> None:
    marker = f"JOBSWORTH_TEST_MARKER={tmp_path}"
    script = f"export {marker}; setsid sleep 300 & sleep 0.2"
    result = await run(["bash", "-c", script], tmp_path, leaves_running=True)
    assert result.passed
    [server] = marked(marker)
    os.kill(server, 9)


def marked(marker: str) -> set[int]:
    """The living processes that have this in their environment."""
    found: set[int] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marker.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.add(int(process.name))
    return found
