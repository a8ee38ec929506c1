"""A deployment whose worker dies goes on where it stopped: no recorded phase and no switch command
runs twice, and nothing a dead worker started goes on beside it."""

import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.deployments.pipeline.support import Crash, is_gone, pid_in, until
from tests.worker.deployments.pipeline.test_pipeline import ACTIVATE, CUSTOM
from worker.deployments.pipeline import EnvironmentBusy, orphans
from worker.deployments.pipeline.phases import PHASES, PhaseName

ROOT = Path(__file__).parents[4]
COUNTED = {
    "build": ["sh", "-c", "echo build >> ../count; test ! -e built; touch built"],
    "test": ["sh", "-c", "echo test >> ../count"],
}


async def crash_then_resume(site: Site, crash_at: str, **keys: object) -> tuple[str, list[str]]:
    """The end status, and the phases that ran after the crash."""
    environment = site.environment(**keys)
    site.next_deployment()
    with pytest.raises(Crash):
        await site.deploy(environment, record=site.recorder(crash_at))
    record = site.recorder()
    report = await site.deploy(environment, record=record)
    assert record.statuses[-1] == report.status
    return report.status, list(record.ran)


@pytest.mark.parametrize("phase", ["export", "build", "test", "switch", "probe"])
@pytest.mark.parametrize("instant", ["before", "during", "after"])
async def test_a_good_deployment_resumes_and_is_healthy_wherever_it_was_interrupted(
    site: Site, instant: str, phase: PhaseName
) -> None:
    sha = site.commit()
    status, ran = await crash_then_resume(site, f"{instant}:{phase}", **COUNTED)
    assert status == "healthy"
    expected = list(PHASES)[: list(PHASES).index("rollback")]
    position = expected.index(phase) + (instant == "after")
    assert ran == expected[position:]
    assert site.current() == site.release(sha)
    count = (site.environment_dir / "count").read_text().split()
    assert count.count("build") == (2 if (instant, phase) == ("during", "build") else 1)
    assert count.count("test") == (2 if (instant, phase) == ("during", "test") else 1)


@pytest.mark.parametrize("phase", ["switch", "probe", "rollback", "confirm"])
@pytest.mark.parametrize("instant", ["before", "during", "after"])
async def test_a_bad_deployment_resumes_and_is_rolled_back_wherever_it_was_interrupted(
    site: Site, instant: str, phase: PhaseName
) -> None:
    site.commit()
    await site.deploy(site.environment())
    before = site.current()
    site.commit(health=500)
    status, ran = await crash_then_resume(site, f"{instant}:{phase}")
    assert status == "rolled_back"
    expected = list(PHASES)
    assert ran == expected[expected.index(phase) + (instant == "after") :]
    assert site.current() == before


async def test_a_crash_before_the_end_is_recorded_only_records_the_end(site: Site) -> None:
    site.commit()
    assert await crash_then_resume(site, "end") == ("healthy", [])


async def test_a_failed_build_that_was_recorded_stays_failed(site: Site) -> None:
    site.commit()
    status, ran = await crash_then_resume(site, "after:build", build=["false"])
    assert (status, ran) == ("failed", [])


@pytest.mark.parametrize("instant", ["started:switch", "during:switch"])
async def test_an_interrupted_custom_switch_is_never_run_again_but_rolled_back(
    site: Site, instant: str
) -> None:
    """The probe of the new commit would pass, but that would not prove that the commit is live."""
    first = site.commit(activate=ACTIVATE)
    await site.deploy(site.environment(**CUSTOM))
    good = site.release(first)
    second = site.commit(note="2")
    status, ran = await crash_then_resume(site, instant, **CUSTOM)
    assert status == "rolled_back"
    assert ran == ["switch", "rollback", "confirm"]
    assert site.current() == good
    log = (site.environment_dir / "log").read_text().split()
    ran_once = [str(site.release(second))] if instant == "during:switch" else []
    assert log == [str(good), *ran_once, str(good)]


async def test_an_interrupted_first_custom_switch_is_failed_and_unknown(site: Site) -> None:
    site.commit(activate=ACTIVATE)
    environment = site.environment(**CUSTOM)
    with pytest.raises(Crash):
        await site.deploy(environment, record=site.recorder("during:switch"))
    report = await site.deploy(environment, record=site.recorder())
    assert report.status == "failed"
    assert report.live is None
    assert "the worker died while the switch command ran" in report.text
    assert "Live now: UNKNOWN" in report.text


@pytest.mark.parametrize("instant", ["started:rollback", "during:rollback"])
async def test_an_interrupted_custom_rollback_is_never_run_again_and_failed(
    site: Site, instant: str
) -> None:
    first = site.commit(activate=ACTIVATE)
    await site.deploy(site.environment(**CUSTOM))
    good = site.release(first)
    site.commit(health=500)
    status, ran = await crash_then_resume(site, instant, **CUSTOM)
    assert (status, ran) == ("failed", ["rollback", "confirm"])
    log = (site.environment_dir / "log").read_text().split()
    assert log.count(str(good)) == (2 if instant == "during:rollback" else 1)


async def test_a_canceled_deployment_ends_its_command_and_can_be_resumed(site: Site) -> None:
    site.commit()
    script = "test -e ../pid || { echo $$ > ../pid; exec sleep 600; }"
    environment = site.environment(build=["sh", "-c", script])
    pid_file = site.environment_dir / "pid"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(site.deploy, environment, "main", site.recorder())
        await until(pid_in(pid_file))
        tasks.cancel_scope.cancel()
    assert is_gone(int(pid_file.read_text()))
    assert site.recorder().remembers("export")
    assert not site.recorder().remembers("build")
    assert (await site.deploy(environment, record=site.recorder())).status == "healthy"


async def test_a_resumed_deployment_whose_release_is_gone_fails_and_says_why(site: Site) -> None:
    sha = site.commit()
    environment = site.environment()
    with pytest.raises(Crash):
        await site.deploy(environment, record=site.recorder("after:export"))
    site.release(sha).rename(site.directory / "elsewhere")
    report = await site.deploy(environment, record=site.recorder())
    assert report.status == "failed"
    assert "begun on another machine" in report.text
    assert site.current() is None


async def test_a_killed_workers_build_is_ended_before_it_is_built_again(site: Site) -> None:
    sha = site.commit()
    script = (
        "echo x >> ../builds;"
        " if [ $(wc -l < ../builds) = 1 ]; then touch stray; echo $$ > ../pid; exec sleep 600; fi;"
        " ls > ../seen"
    )
    environment = site.environment(build=["sh", "-c", script])
    async with killed_worker(site, sha) as orphan:
        assert (site.release(sha) / "stray").exists()
        report = await site.deploy(environment, record=site.recorder())
        assert is_gone(orphan)
    assert report.status == "healthy"
    assert (site.environment_dir / "builds").read_text() == "x\nx\n"
    assert "stray" not in (site.environment_dir / "seen").read_text(), "built in a fresh export"


async def test_a_worker_killed_in_its_switch_command_leaves_the_previous_release_live(
    site: Site,
) -> None:
    site.commit(activate=ACTIVATE)
    await site.deploy(site.environment(**CUSTOM))
    before = site.current()
    site.next_deployment()
    sha = site.commit()
    script = "echo switched >> ../switches; echo $$ > ../pid; exec sleep 600"
    environment = site.environment(**(CUSTOM | {"switch": ["sh", "-c", script]}))
    async with killed_worker(site, sha) as orphan:
        report = await site.deploy(environment, record=site.recorder())
        assert is_gone(orphan)
    assert report.status == "rolled_back"
    assert (site.environment_dir / "switches").read_text() == "switched\n"
    assert site.current() == before


async def test_an_orphan_whose_id_was_never_written_down_is_found_by_its_open_mark(
    site: Site,
) -> None:
    sha = site.commit()
    script = "test -e ../pid || { echo $$ > ../pid; exec sleep 600; }"
    environment = site.environment(build=["sh", "-c", script])
    async with killed_worker(site, sha) as orphan:
        os.truncate(site.environment_dir / ".command", 0)
        report = await site.deploy(environment, record=site.recorder())
        assert is_gone(orphan)
    assert report.status == "healthy"


async def test_a_server_that_a_switch_left_running_is_no_orphan(site: Site) -> None:
    site.commit(activate=ACTIVATE)
    script = 'ln -sfn "$1" ../current; sleep 600 > /dev/null 2>&1 & echo $! > ../server'
    custom = CUSTOM | {"switch": ["sh", "-c", script, "sh", "{release}"]}
    await site.deploy(site.environment(**custom))
    server = int((site.environment_dir / "server").read_text())
    try:
        site.commit()
        assert (await site.deploy(site.environment(**CUSTOM))).status == "healthy"
        assert not is_gone(server)
    finally:
        os.kill(server, signal.SIGKILL)


async def test_an_orphan_that_cannot_be_ended_is_waited_for_then_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.commit()
    monkeypatch.setattr(orphans, "ORPHAN_WAIT_SECONDS", 0.1)
    site.environment_dir.mkdir(parents=True)
    mark = orphans.mark_command(site.environment_dir)  # its holder is this very process
    with pytest.raises(EnvironmentBusy, match="a command of an earlier deployment still runs"):
        await site.deploy(site.environment())
    os.close(mark.fd)
    assert (await site.deploy(site.environment())).status == "healthy"


@asynccontextmanager
async def killed_worker(site: Site, sha: str) -> AsyncGenerator[int]:
    """A worker that was killed while its command ran; yields the id of the command it left."""
    arguments = [str(site.directory / "deploy.toml"), sha, str(site.id), str(site.releases)]
    command = [sys.executable, "-m", "tests.worker.deployments.pipeline.doomed", *arguments]
    doomed = await anyio.open_process(
        [*command, str(site.recorder().file)], cwd=ROOT, stdout=None, stderr=None
    )
    pid_file = site.environment_dir / "pid"
    try:
        await until(pid_in(pid_file))
        orphan = int(pid_file.read_text())
    finally:
        doomed.kill()
        await doomed.wait()
    try:
        assert not is_gone(orphan), "it is in a session of its own"
        yield orphan
    finally:
        if not is_gone(orphan):
            os.kill(orphan, signal.SIGKILL)
