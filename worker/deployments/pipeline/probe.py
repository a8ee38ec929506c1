"""Probe the deployed service.

Stage: after the switch, and again after a rollback.
In: a URL with the status it must answer, or a command that must exit 0.
Out: a `ProbeResult`; a service that is down is a result, not an exception.
Invariant: it ends within `timeout_seconds`, however slow the service is: the attempts share equally
the time that the pauses leave.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import anyio
from pydantic import BaseModel, ConfigDict, Field

from worker.deployments.pipeline.commands import run_command
from worker.deployments.pipeline.config import Probe
from worker.deployments.pipeline.orphans import CommandMark, mark_command
from worker.deployments.pipeline.repository import without_password
from worker.masking import NO_SECRETS, Masker

PROBE_OUTPUT_BYTES_MAX = 4 * 1024


class ProbeResult(BaseModel):
    model_config = ConfigDict(frozen=True)

    passed: bool
    detail: str
    attempts: int
    duration_seconds: float
    status: int | None = None
    """The HTTP status of the last response, or the command's exit code; None without either."""
    output: str = Field("", exclude=True)
    """The command's output at the last attempt; the phase stores it."""


async def probe(
    config: Probe,
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout_seconds: float,
    environment_dir: Path | None = None,
    masker: Masker = NO_SECRETS,
) -> ProbeResult:
    """Probe until an attempt passes or all have failed.

    In `environment_dir`, if given, a running probe command is marked for later workers.
    """
    started = time.monotonic()
    pauses_seconds = (config.attempts - 1) * config.interval_seconds
    share_seconds = max(0.1, (timeout_seconds - pauses_seconds) / config.attempts)
    attempts = 0
    while True:
        attempts += 1
        if config.url is not None:
            answer = await _ask_url(config.url, config.status, share_seconds)
        else:
            mark = None if environment_dir is None else mark_command(environment_dir)
            answer = await _ask_command(config, cwd, env, share_seconds, mark, masker)
        passed, detail, status, output = answer
        if passed or attempts == config.attempts:
            break
        await anyio.sleep(config.interval_seconds)
    return ProbeResult(
        passed=passed,
        detail=detail,
        attempts=attempts,
        duration_seconds=time.monotonic() - started,
        status=status,
        output=output,
    )


async def _ask_url(
    url: str, status_expected: int, timeout_seconds: float
) -> tuple[bool, str, int | None, str]:
    import httpx  # 9 MB of memory, which only workers that deploy should pay

    asked = f"GET {without_password(url)}"
    try:
        with anyio.fail_after(timeout_seconds):
            # trust_env: a proxy of the daemon's environment would answer for a dead service.
            # Streamed: only the status counts, and the body may be endless.
            async with (
                httpx.AsyncClient(trust_env=False, timeout=timeout_seconds) as client,
                client.stream("GET", url, follow_redirects=False) as response,
            ):
                status = response.status_code
    except (TimeoutError, httpx.TimeoutException):
        return False, f"{asked} gave no answer within {timeout_seconds:.1f} s", None, ""
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return False, f"{asked} failed: {error or type(error).__name__}", None, ""
    if status != status_expected:
        return False, f"{asked} answered {status}, expected {status_expected}", status, ""
    return True, f"{asked} answered {status}", status, ""


async def _ask_command(
    config: Probe,
    cwd: Path,
    env: Mapping[str, str],
    timeout_seconds: float,
    mark: CommandMark | None,
    masker: Masker,
) -> tuple[bool, str, int | None, str]:
    argv = config.command or ("",)
    result = await run_command(
        argv,
        cwd=cwd,
        env=env,
        timeout_seconds=timeout_seconds,
        output_bytes_max=PROBE_OUTPUT_BYTES_MAX,
        mark=mark,
        masker=masker,
    )
    said = " ".join(result.output.split())
    detail = f"{argv[0]}: {result.detail}" + (f": {said}" if said and not result.passed else "")
    return result.passed, detail, result.exit_code, result.output
