"""A probe says passed only for the answer it was told to expect, and ends in time."""

import os
import socket
import time
from pathlib import Path

import pytest

from tests.worker.deployments.pipeline.support import serve
from worker.deployments.pipeline.commands import command_environment
from worker.deployments.pipeline.config import Probe
from worker.deployments.pipeline.probe import ProbeResult, probe


async def ask(config: Probe, cwd: Path, timeout_seconds: float = 10.0) -> ProbeResult:
    env = command_environment(os.environ)
    return await probe(config, cwd=cwd, env=env, timeout_seconds=timeout_seconds)


def live(directory: Path, status: int) -> None:
    (directory / "current").mkdir(exist_ok=True)
    (directory / "current" / "health").write_text(str(status))


async def test_the_expected_status_passes_at_once(tmp_path: Path) -> None:
    live(tmp_path, 204)
    with serve(tmp_path) as url:
        result = await ask(Probe(url=f"{url}/health", status=204), tmp_path)
    assert (result.passed, result.status, result.attempts) == (True, 204, 1)


async def test_another_status_fails_after_the_last_attempt(tmp_path: Path) -> None:
    live(tmp_path, 500)
    with serve(tmp_path) as url:
        config = Probe(url=f"{url}/health", attempts=3, interval_seconds=0.01)
        result = await ask(config, tmp_path)
    assert (result.passed, result.status, result.attempts) == (False, 500, 3)
    assert result.detail.endswith("/health answered 500, expected 200")


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    live(tmp_path, 200)
    with serve(tmp_path) as url:
        result = await ask(Probe(url=f"{url}/elsewhere", attempts=1), tmp_path)
    assert (result.passed, result.status) == (False, 302)


async def test_a_proxy_of_the_daemon_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    live(tmp_path, 200)
    with serve(tmp_path) as url:
        assert (await ask(Probe(url=f"{url}/health", attempts=1), tmp_path)).passed


async def test_nobody_listening_is_a_failed_probe(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = Probe(url=f"http://u:secret@127.0.0.1:{port}/", attempts=2, interval_seconds=0.01)
    result = await ask(config, tmp_path)
    assert (result.passed, result.status, result.attempts) == (False, None, 2)
    assert f"GET http://127.0.0.1:{port}/ failed" in result.detail
    assert "secret" not in result.detail


async def test_a_server_that_never_answers_cannot_stretch_the_probe(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        started = time.monotonic()
        config = Probe(url=url, attempts=3, interval_seconds=0.1)
        result = await ask(config, tmp_path, timeout_seconds=0.8)
    assert (result.passed, result.attempts) == (False, 3)
    assert "gave no answer within 0.2 s" in result.detail
    assert time.monotonic() - started < 5


async def test_a_command_passes_by_exit_code_0_on_a_later_attempt(tmp_path: Path) -> None:
    script = "echo x >> count; test $(wc -l < count) -ge 3"
    config = Probe(command=("sh", "-c", script), attempts=5, interval_seconds=0.01)
    result = await ask(config, tmp_path)
    assert (result.passed, result.status, result.attempts) == (True, 0, 3)


async def test_a_failing_command_shows_what_it_said(tmp_path: Path) -> None:
    config = Probe(command=("sh", "-c", "echo no database; exit 4"), attempts=1)
    result = await ask(config, tmp_path)
    assert (result.passed, result.status) == (False, 4)
    assert result.detail == "sh: exit code 4: no database"
