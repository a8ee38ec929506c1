"""A deployment is healthy by a passed probe, rolled back by a passed probe after going back, and
failed otherwise; and its report says what is live."""

from pathlib import Path

import pytest

from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.deployments.pipeline.support import is_gone
from worker.deployments.pipeline import DeployError, EnvironmentBusy, deploy, orphans
from worker.deployments.pipeline.phases import (
    PHASES,
    DeploymentEnd,
    PhaseName,
    PhaseResult,
    next_phase,
)
from worker.deployments.pipeline.release import RELEASE_NAME
from worker.deployments.pipeline.report import write_report

ACTIVATE = '#!/bin/sh\nset -e\necho $1 >> ../log\nln -sfn "$1" ../current\n'
CUSTOM = {
    "switch": ["./activate", "{release}"],
    "rollback": ["./activate", "{previous}"],
}


async def test_a_good_commit_is_built_tested_switched_and_healthy(site: Site) -> None:
    sha = site.commit()
    script = 'echo "$JOBSWORTH_DEPLOY_SHA $JOBSWORTH_DEPLOY_ENVIRONMENT $MODE $1" > built'
    environment = site.environment(
        build=["sh", "-c", script, "sh", "{sha}"],
        test=["test", "-f", "built"],
        environment={"MODE": "fast"},
    )
    record = site.recorder()
    report = await site.deploy(environment, record=record)
    assert report.status == "healthy"
    assert record.statuses == [
        *["building", "building", "testing", "deploying", "deploying", "healthy"]
    ]
    assert record.probe is not None
    assert record.probe.passed
    assert record.probe.status == 200
    assert site.current() == site.release(sha)
    assert (site.release(sha) / "built").read_text() == f"{sha} staging fast {sha}\n"
    assert report.live == str(site.release(sha))
    assert report.text.splitlines()[0] == f"Deployment of {sha[:12]} to staging: healthy"
    assert f"Live now: {site.release(sha).name}, its probe passed" in report.text


@pytest.mark.parametrize("phase", ["build", "test"])
async def test_a_failing_command_before_the_switch_changes_nothing_that_is_live(
    site: Site, phase: str
) -> None:
    site.commit()
    await site.deploy(site.environment())
    before = site.current()
    site.commit(health=500)
    command = ["sh", "-c", "echo the cause is here >&2; exit 3"]
    report = await site.deploy(site.environment(**{phase: command}))
    assert report.status == "failed"
    assert list(report.results)[-1] == phase
    assert report.probe is None
    assert site.current() == before
    assert before is not None
    assert f"Live now: {before.name}, as before" in report.text
    assert f"{phase:<8} FAILED" in report.text
    assert "exit code 3" in report.text
    assert "    the cause is here" in report.text


async def test_a_build_that_takes_too_long_fails(site: Site) -> None:
    site.commit()
    environment = site.environment(build=["sleep", "60"], timeouts={})
    quick = environment.timeouts.model_copy(update={"build_seconds": 0.2})
    report = await site.deploy(environment.model_copy(update={"timeouts": quick}))
    assert report.status == "failed"
    assert report.results["build"].timed_out
    assert "timed out after" in report.text


async def test_a_failing_probe_switches_the_previous_release_back(site: Site) -> None:
    site.commit()
    await site.deploy(site.environment())
    before = site.current()
    bad = site.commit(health=500)
    site.next_deployment()
    record = site.recorder()
    report = await site.deploy(site.environment(), record=record)
    assert report.status == "rolled_back"
    assert record.statuses[-1] == "rolled_back"
    assert list(report.results) == [
        "export",
        "build",
        "test",
        "switch",
        "probe",
        "rollback",
        "confirm",
    ]
    assert report.probe is not None
    assert (report.probe.passed, report.probe.status) == (False, 500)
    assert site.current() == before
    assert before is not None
    assert report.live == str(before)
    assert f"Live now: {before.name}, its probe passed" in report.text
    assert site.release(bad).is_dir(), "kept, to be looked at"


async def test_a_first_deployment_that_fails_its_probe_is_failed_and_says_it_is_live(
    site: Site,
) -> None:
    sha = site.commit(health=500)
    report = await site.deploy(site.environment())
    assert report.status == "failed"
    assert list(report.results)[-1] == "probe"
    assert "FAILED" in report.text.splitlines()[0]
    assert f"Live now: {site.release(sha).name}, its probe FAILED" in report.text


async def test_a_rollback_to_a_release_that_does_not_work_either_is_failed(site: Site) -> None:
    site.commit()
    await site.deploy(site.environment())
    before = site.current()
    assert before is not None
    (before / "health").write_text("503")
    site.commit(health=500)
    report = await site.deploy(site.environment())
    assert report.status == "failed"
    assert report.results["rollback"].passed
    assert site.current() == before
    assert f"Live now: {before.name}, its probe FAILED" in report.text


async def test_a_rollback_to_a_release_that_is_gone_is_failed_and_says_what_is_live(
    site: Site,
) -> None:
    site.commit()
    await site.deploy(site.environment())
    bad = site.commit()
    environment = site.environment()
    removes = ("sh", "-c", 'rm -rf "$1"; exit 1', "sh", "{previous}")
    probe = environment.probe.model_copy(update={"url": None, "command": removes})
    report = await site.deploy(environment.model_copy(update={"probe": probe}))
    assert report.status == "failed"
    assert not report.results["rollback"].passed
    assert "the release does not exist" in report.results["rollback"].detail
    assert site.current() == site.release(bad)
    assert report.live == str(site.release(bad))
    assert f"Live now: {site.release(bad).name}, its probe FAILED" in report.text


async def test_a_previous_release_that_vanished_before_the_switch_stops_it(site: Site) -> None:
    """A failed probe could not be rolled back."""
    site.commit()
    await site.deploy(site.environment())
    site.commit()
    report = await site.deploy(site.environment(test=["rm", "-r", "{previous}"]))
    assert report.status == "failed"
    assert "nothing was switched" in report.text
    assert site.current() is None


async def test_a_failed_rollback_command_is_failed_and_what_is_live_is_unknown(site: Site) -> None:
    site.commit(activate=ACTIVATE)
    await site.deploy(site.environment(**CUSTOM))
    site.commit(health=500)
    custom = CUSTOM | {"rollback": ["sh", "-c", "echo cannot go back; exit 1"]}
    report = await site.deploy(site.environment(**custom))
    assert report.status == "failed"
    assert report.live is None
    assert "Live now: UNKNOWN, check the environment" in report.text
    assert "    cannot go back" in report.text
    assert "confirm" in report.results


async def test_a_custom_switch_is_undone_by_the_custom_rollback(site: Site) -> None:
    first = site.commit(activate=ACTIVATE)
    assert (await site.deploy(site.environment(**CUSTOM))).status == "healthy"
    good = site.release(first)
    second = site.commit(health=500)
    report = await site.deploy(site.environment(**CUSTOM))
    assert report.status == "rolled_back"
    assert site.current() == good
    log = (site.environment_dir / "log").read_text().split()
    assert log == [str(good), str(site.release(second)), str(good)]


async def test_a_custom_switch_that_fails_half_way_is_rolled_back(site: Site) -> None:
    site.commit(activate=ACTIVATE)
    await site.deploy(site.environment(**CUSTOM))
    before = site.current()
    site.commit()
    script = 'ln -sfn "$1" ../current; exit 9'
    custom = CUSTOM | {"switch": ["sh", "-c", script, "sh", "{release}"]}
    report = await site.deploy(site.environment(**custom))
    assert report.status == "rolled_back"
    assert report.results["switch"].exit_code == 9
    assert site.current() == before


async def test_a_probe_that_answers_for_another_release_is_not_a_pass(site: Site) -> None:
    """The switch command succeeds; then `current` is moved before the probe has passed."""
    first = site.commit()
    await site.deploy(site.environment())
    good = site.release(first)
    site.commit()
    command = ["sh", "-c", f"ln -sfn {good} ../current"]
    environment = site.environment()
    meddling = environment.probe.model_copy(update={"url": None, "command": tuple(command)})
    report = await site.deploy(environment.model_copy(update={"probe": meddling}))
    assert report.status == "rolled_back"
    assert report.probe is not None
    assert f"`current` points to {good}, not to" in report.probe.detail


async def test_current_moved_by_somebody_else_during_the_build_is_left_alone(site: Site) -> None:
    site.commit()
    await site.deploy(site.environment())
    (site.environment_dir / "manual").mkdir()
    site.commit()
    report = await site.deploy(site.environment(build=["ln", "-sfn", "manual", "../current"]))
    assert report.status == "failed"
    assert "by somebody else; nothing was switched" in report.text
    assert site.current() == site.environment_dir / "manual"


async def test_old_releases_are_pruned_but_the_previous_one_stays(site: Site) -> None:
    for _ in range(4):
        site.commit()
        await site.deploy(site.environment(releases_keep=1))
    entries = site.environment_dir.iterdir()
    releases = [entry for entry in entries if RELEASE_NAME.fullmatch(entry.name)]
    assert len(releases) == 2
    assert site.current() in releases


async def test_a_commit_that_cannot_be_exported_is_a_failed_deployment(site: Site) -> None:
    (site.repository / "out").symlink_to("/etc")
    site.commit()
    report = await site.deploy(site.environment())
    assert report.status == "failed"
    assert "leaves the release" in report.text
    assert "Live now: nothing, as before" in report.text


async def test_a_program_that_is_missing_fails_the_phase_with_its_name(site: Site) -> None:
    site.commit()
    report = await site.deploy(site.environment(build=["no-such-tool"]))
    assert report.status == "failed"
    assert "cannot start 'no-such-tool': the program does not exist" in report.text


async def test_a_name_that_is_no_full_sha_is_refused_before_anything_happens(site: Site) -> None:
    with pytest.raises(DeployError, match="'main' is not a full sha"):
        await deploy(
            site.environment(),
            "main",
            site.recorder(),
            deployment_id=site.id,
            releases_dir=site.releases,
        )
    assert not site.releases.exists()


async def test_a_second_deployment_on_this_machine_waits_then_says_who_holds_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.commit()
    monkeypatch.setattr(orphans, "LOCK_WAIT_SECONDS", 0.1)
    async with orphans.exclusive(site.environment_dir):
        with pytest.raises(EnvironmentBusy, match="'staging' is busy: another deployment") as busy:
            await site.deploy(site.environment())
    assert busy.value.retriable
    assert (await site.deploy(site.environment())).status == "healthy"


def result(name: PhaseName, passed: bool, previous: str | None) -> PhaseResult:
    return PhaseResult(name=name, passed=passed, detail="", previous=previous)


FAILING: list[set[PhaseName]] = [set(), *({name} for name in PHASES), {"switch", "probe"}]


@pytest.mark.parametrize("previous", [None, "/previous"])
@pytest.mark.parametrize("failing", FAILING)
def test_every_way_through_the_phases_ends_and_only_probed_ways_end_well(
    failing: set[PhaseName], previous: str | None
) -> None:
    if failing & {"rollback", "confirm"}:
        failing = {*failing, "probe"}
    results: dict[PhaseName, PhaseResult] = {}
    step = next_phase(results)
    while not isinstance(step, DeploymentEnd):
        assert step not in results
        results[step] = result(step, step not in failing, previous)
        step = next_phase(results)
    healthy = "probe" in results and results["probe"].passed
    came_back = "confirm" in results and results["confirm"].passed and results["rollback"].passed
    assert step.status == ("healthy" if healthy else "rolled_back" if came_back else "failed")
    if failing & {"export", "build", "test"}:
        assert "switch" not in results


async def test_a_switch_that_ran_out_of_time_switches_no_more(site: Site) -> None:
    """Its child has left its process group; the report says that the processes were ended."""
    site.commit()
    assert (await site.deploy(site.environment())).status == "healthy"
    before = site.current()
    late = "echo $$ > ../late; sleep 3; touch ../switched"
    environment = site.environment(
        switch=["bash", "-c", f"setsid bash -c '{late}' & sleep 60"],
        rollback=["true"],
        timeouts={"switch_seconds": 2.0},
    )
    site.commit(note="2")
    report = await site.deploy(environment)
    assert report.status == "rolled_back"
    assert "its processes were ended" in report.results["switch"].detail
    assert is_gone(int((site.environment_dir / "late").read_text()))
    assert not (site.environment_dir / "switched").exists()
    assert f"Live now: {before and before.name}, its probe passed" in report.text


def test_what_a_process_that_stays_may_still_change_is_unknown() -> None:
    results: dict[PhaseName, PhaseResult] = {
        name: result(name, name != "switch", "/before") for name in PHASES
    }
    results.pop("probe")
    assert next_phase(results) == DeploymentEnd("rolled_back")
    results["switch"] = results["switch"].model_copy(update={"left_running": True})
    assert next_phase(results) == DeploymentEnd("failed")
    report = write_report("it", "failed", results, "/before")
    assert "Live now: UNKNOWN, check the environment (last known: before)" in report.text
    assert report.live is None


async def test_a_link_that_cannot_be_read_is_not_taken_for_nothing(site: Site) -> None:
    site.commit()
    (site.environment_dir / "current").mkdir(parents=True)
    report = await site.deploy(site.environment())
    assert report.status == "failed"
    assert "Live now: UNKNOWN, check the environment (`current` cannot be read)" in report.text


def test_a_result_survives_its_way_through_json() -> None:
    before = PhaseResult(name="export", passed=True, detail="ü", previous="/a", exit_code=0)
    assert PhaseResult.model_validate_json(before.model_dump_json()) == before
    assert Path(before.previous or "") == Path("/a")


async def test_releases_that_cannot_be_pruned_add_a_note_to_a_healthy_report(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("worker.deployments.pipeline.shipment.prune", full)
    site.commit()
    report = await site.deploy(site.environment())
    assert report.status == "healthy"
    assert "Old releases could not be removed: [Errno 5] Input/output error" in report.text


async def test_a_long_line_of_output_is_cut_in_the_report(site: Site) -> None:
    site.commit()
    script = "head -c 20000 /dev/zero | tr '\\0' x; exit 1"
    report = await site.deploy(site.environment(build=["sh", "-c", script]))
    assert "x" * 300 + " …" in report.text
    assert len(report.text) < 2000
    assert len(report.results["build"].output) == 20000


async def test_the_probe_that_confirms_a_rollback_is_given_the_release_that_is_live(
    site: Site,
) -> None:
    """Its release and its sha: the failed ones would pass a probe of what is not live."""
    script = 'echo "$1 $2 $3 $JOBSWORTH_DEPLOY_RELEASE $PWD" >> ../probed; cat health | grep 200'
    words = ["sh", "-c", script, "sh", "{release}", "{sha}", "{previous}"]
    first = site.commit()
    environment = site.environment()
    by_command = environment.probe.model_copy(update={"url": None, "command": words, "attempts": 1})
    environment = environment.model_copy(update={"probe": by_command})
    await site.deploy(environment)
    good = site.current()
    second = site.commit(health=500)
    assert (await site.deploy(environment)).status == "rolled_back"
    bad = site.release(second)
    probed = [line.split() for line in (site.environment_dir / "probed").read_text().splitlines()]
    assert probed[-2] == [str(bad), second, str(good), str(bad), str(bad)]
    assert probed[-1] == [str(good), first, str(bad), str(good), str(good)]
