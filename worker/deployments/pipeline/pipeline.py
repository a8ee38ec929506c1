"""Ship one commit to one environment.

Stage: the body of `job.deploy`, after the sha was resolved and the deployment recorded.
In: an `Environment`, a full sha, a `Recorder` that remembers ended phases.
Out: a `Report`: the end status, what is live now, and a text for people.
Invariant: a phase whose end was recorded never runs again, and a custom switch or rollback command
is never started twice, however often the worker dies. This is how a resumed deployment treats a
phase that was started but not recorded:

- export: an incomplete one is removed and made again.
- build: it runs again, on a fresh export. The dead worker's processes are ended first, so two
  builds never run at once.
- test, probe, confirm: they run again; they change nothing that is live.
- default switch or rollback: the symlink decides. If it points to the new release, the phase is
  done; if it points to the release to be replaced, the phase runs; if it points elsewhere, somebody
  else moved it, and the deployment fails without touching it.
- custom switch command: it counts as failed, because a probe that passes now would not prove which
  release answered. The rollback command then restores a known state.
- custom rollback command: it counts as failed. The confirming probe still runs and is reported, but
  the deployment is `failed`.

A deployment whose job is canceled after its switch has begun goes back before it ends, as after a
probe that failed.

`current` is also moved after a custom command has succeeded: it is the record of what is live.
"""

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio

from worker.deployments.pipeline.commands import OUTPUT_BYTES_MAX
from worker.deployments.pipeline.config import Environment, fill_placeholders
from worker.deployments.pipeline.errors import DeployError
from worker.deployments.pipeline.orphans import exclusive
from worker.deployments.pipeline.phases import (
    PHASES,
    DeploymentEnd,
    PhaseName,
    PhaseResult,
    next_phase,
)
from worker.deployments.pipeline.probe import probe
from worker.deployments.pipeline.release import current_release, discard, release_path, switch_to
from worker.deployments.pipeline.report import Report, write_report
from worker.deployments.pipeline.repository import FULL_SHA
from worker.deployments.pipeline.secret_variables import masker_of, secret_variables
from worker.deployments.pipeline.shipment import Recorder, Shipment


async def deploy(
    environment: Environment,
    sha: str,
    record: Recorder,
    *,
    deployment_id: uuid.UUID,
    releases_dir: Path,
    output_bytes_max: int = OUTPUT_BYTES_MAX,
    release: Path | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Run every phase of a deployment that has not been recorded, and return its report.

    To resume a deployment, call it again with the same arguments. `release`, if given, was built by
    an earlier deployment: it is switched to and probed without another build. `notes` are appended
    to the report. A failed deployment returns a report too.

    Raises `EnvironmentBusy` (try again later), and what the recorder raises.
    """
    if not FULL_SHA.fullmatch(sha):
        raise DeployError(f"{sha!r} is not a full sha; resolve it first (resolve_sha)")
    own = release_path(releases_dir, environment.name, sha, deployment_id)
    shipment = Shipment(
        environment,
        sha,
        record,
        release=release or own,
        is_built=release is not None and release != own,
        environment_dir=own.parent,
        output_bytes_max=output_bytes_max,
        secrets=secret_variables(environment),
        masker=masker_of(environment),
    )
    async with exclusive(shipment.environment_dir):
        results: dict[PhaseName, PhaseResult] = {}
        try:
            return await _ship(shipment, results, notes)
        except anyio.get_cancelled_exc_class():
            if "test" not in results or not record.canceled():
                raise
            with anyio.CancelScope(shield=True):
                await _stop_moving_on(shipment, results)
                await _ship(shipment, results, [*notes, "Its job was canceled meanwhile."])
            raise


Results = Mapping[PhaseName, PhaseResult]


async def _ship(
    shipment: Shipment, results: dict[PhaseName, PhaseResult], notes: Sequence[str]
) -> Report:
    """Run the phases that `results` does not have, and end the deployment."""
    record = shipment.record
    step = next_phase(results)
    while not isinstance(step, DeploymentEnd):
        run = partial(_run, step, shipment, results)
        results[step] = await record.phase(step, PHASES[step], run)
        step = next_phase(results)
    notes = [*notes, *await shipment.prune(results)]
    report = write_report(
        shipment.subject,
        step.status,
        results,
        shipment.live(),
        notes,
        readable=shipment.live_is_readable(),
    )
    report = replace(report, text=shipment.masker.mask(report.text))
    await record.status(report.status, report.text, report.probe)
    return report


async def _stop_moving_on(shipment: Shipment, results: dict[PhaseName, PhaseResult]) -> None:
    """Record a switch or a probe that a cancel has stopped as failed: what follows goes back."""
    due = next_phase(results)
    if isinstance(due, DeploymentEnd) or due not in ("switch", "probe"):
        return
    step: PhaseName = due

    async def stopped() -> PhaseResult:
        moved = shipment.live() != results["export"].previous
        if step == "switch" and shipment.environment.switch is not None:
            moved = await shipment.record.started("switch")
        return PhaseResult(
            name=step,
            passed=False,
            detail="stopped, because the job was canceled",
            live_unchanged=step == "switch" and not moved,
        )

    results[step] = await shipment.record.phase(step, PHASES[step], stopped)


async def _run(name: PhaseName, shipment: Shipment, results: Results) -> PhaseResult:
    """Run a phase, and mask its details. Output is masked already; paths must stay usable."""
    result = await RUNS[name](shipment, results)
    mask = shipment.masker.mask
    probed = result.probe and result.probe.model_copy(update={"detail": mask(result.probe.detail)})
    return result.model_copy(update={"detail": mask(result.detail), "probe": probed})


async def _export(shipment: Shipment, _results: Results) -> PhaseResult:
    started = time.monotonic()
    if shipment.is_built and not shipment.release.is_dir():
        return _release_gone("export", shipment)
    try:
        if not shipment.is_built:
            await shipment.export()
        previous = current_release(shipment.environment_dir)
    except (DeployError, OSError) as error:
        return _failed("export", str(error), started)
    return PhaseResult(
        name="export",
        passed=True,
        detail=f"release {shipment.release.name}" + (", still here" if shipment.is_built else ""),
        duration_seconds=time.monotonic() - started,
        previous=None if previous is None else str(previous),
    )


async def _build(shipment: Shipment, results: Results) -> PhaseResult:
    environment = shipment.environment
    if shipment.is_built:
        return _done_before("build")
    if environment.build is None:
        return _nothing_to_run("build")
    started = time.monotonic()
    if await shipment.record.started("build"):
        try:
            await discard(shipment.release)
            await shipment.export()
        except (DeployError, OSError) as error:
            return _failed("build", f"the release could not be exported again: {error}", started)
    if not shipment.release.is_dir():
        return _release_gone("build", shipment)
    previous = results["export"].previous
    return await shipment.run(
        "build", environment.build, previous, environment.timeouts.build_seconds
    )


async def _test(shipment: Shipment, results: Results) -> PhaseResult:
    environment = shipment.environment
    if not shipment.release.is_dir():
        return _release_gone("test", shipment)
    if shipment.is_built:
        return _done_before("test")
    if environment.test is None:
        return _nothing_to_run("test")
    previous = results["export"].previous
    return await shipment.run("test", environment.test, previous, environment.timeouts.test_seconds)


async def _switch(shipment: Shipment, results: Results) -> PhaseResult:
    started = time.monotonic()
    again = await shipment.record.started("switch")
    previous = results["export"].previous
    live = shipment.live()
    custom = shipment.environment.switch
    if custom is not None and again:
        return _interrupted("switch")
    if custom is None and live == str(shipment.release):
        return _moved("switch", shipment.release, started)
    if live != previous:
        detail = f"`current` was moved to {live} meanwhile, by somebody else; nothing was switched"
        return _failed("switch", detail, started, live_unchanged=True)
    if not shipment.release.is_dir():
        gone = _release_gone("switch", shipment)
        return gone.model_copy(update={"live_unchanged": True})
    if custom is None:
        return _move("switch", shipment, shipment.release, started)
    seconds = shipment.environment.timeouts.switch_seconds
    result = await shipment.run("switch", custom, previous, seconds)
    return _record_move(result, shipment, shipment.release)


async def _rollback(shipment: Shipment, results: Results) -> PhaseResult:
    started = time.monotonic()
    again = await shipment.record.started("rollback")
    previous = Path(results["export"].previous or "")
    if shipment.environment.rollback is None:
        live = shipment.live()
        if live not in (str(shipment.release), str(previous)):
            detail = f"`current` was moved to {live} meanwhile, by somebody else; it was left alone"
            return _failed("rollback", detail, started, live_unchanged=True)
        return _move("rollback", shipment, previous, started)
    if again:
        return _interrupted("rollback")
    seconds = shipment.environment.timeouts.switch_seconds
    result = await shipment.run("rollback", shipment.environment.rollback, str(previous), seconds)
    return _record_move(result, shipment, previous)


async def _probe(shipment: Shipment, results: Results) -> PhaseResult:
    return await _probe_expecting("probe", shipment, results, shipment.release)


async def _confirm(shipment: Shipment, results: Results) -> PhaseResult:
    previous = Path(results["export"].previous or "")
    return await _probe_expecting("confirm", shipment, results, previous)


RUNS: dict[PhaseName, Callable[[Shipment, Results], Awaitable[PhaseResult]]] = {
    "export": _export,
    "build": _build,
    "test": _test,
    "switch": _switch,
    "probe": _probe,
    "rollback": _rollback,
    "confirm": _confirm,
}


async def _probe_expecting(
    name: PhaseName, shipment: Shipment, results: Results, expected: Path
) -> PhaseResult:
    """Probe the service; the probe passes only while `current` points to `expected`."""
    environment = shipment.environment
    probed, previous = shipment, results["export"].previous
    if expected != shipment.release and results["rollback"].passed:
        # The release before is live again, and the failed one was live before it.
        sha = await shipment.sha_of(expected)
        probed, previous = replace(shipment, release=expected, sha=sha), str(shipment.release)
    command = environment.probe.command
    filled = command and fill_placeholders(command, probed.placeholders(previous))
    result = await probe(
        environment.probe.model_copy(update={"command": filled}),
        cwd=probed.release if probed.release.is_dir() else shipment.release,
        env=probed.variables(previous),
        timeout_seconds=environment.timeouts.probe_seconds,
        environment_dir=shipment.environment_dir,
        masker=shipment.masker,
    )
    live = shipment.live()
    if result.passed and live != str(expected):
        detail = f"{result.detail}, but `current` points to {live}, not to {expected.name}"
        result = result.model_copy(update={"passed": False, "detail": detail})
    return PhaseResult(
        name=name,
        passed=result.passed,
        detail=result.detail,
        duration_seconds=result.duration_seconds,
        output=result.output,
        probe=result,
    )


def _move(name: PhaseName, shipment: Shipment, release: Path, started: float) -> PhaseResult:
    before = shipment.live()
    try:
        switch_to(release, shipment.environment_dir)
    except (DeployError, OSError) as error:
        unchanged = shipment.live() == before  # the error may have come after the rename
        return _failed(name, str(error), started, live_unchanged=unchanged)
    return _moved(name, release, started)


def _moved(name: PhaseName, release: Path, started: float) -> PhaseResult:
    return PhaseResult(
        name=name,
        passed=True,
        detail=f"current -> {release.name}",
        duration_seconds=time.monotonic() - started,
    )


def _record_move(result: PhaseResult, shipment: Shipment, release: Path) -> PhaseResult:
    if not result.passed:
        return result
    try:
        switch_to(release, shipment.environment_dir)
    except (DeployError, OSError) as error:
        detail = f"{result.detail}, but `current` could not be moved: {error}"
        return result.model_copy(update={"passed": False, "detail": detail})
    return result


def _nothing_to_run(name: PhaseName) -> PhaseResult:
    return PhaseResult(name=name, passed=True, detail="no command is configured")


def _done_before(name: PhaseName) -> PhaseResult:
    return PhaseResult(name=name, passed=True, detail="done when this release was first deployed")


def _interrupted(name: PhaseName) -> PhaseResult:
    detail = (
        f"the worker died while the {name} command ran; how far it got is unknown,"
        " and it is not run twice"
    )
    return PhaseResult(name=name, passed=False, detail=detail)


def _release_gone(name: PhaseName, shipment: Shipment) -> PhaseResult:
    detail = (
        f"the release directory {shipment.release} is not here: it was removed, or this deployment"
        " was begun on another machine; deploy the commit again"
    )
    return PhaseResult(name=name, passed=False, detail=detail)


def _failed(
    name: PhaseName, detail: str, started: float, *, live_unchanged: bool = False
) -> PhaseResult:
    return PhaseResult(
        name=name,
        passed=False,
        detail=detail,
        duration_seconds=time.monotonic() - started,
        live_unchanged=live_unchanged,
    )
