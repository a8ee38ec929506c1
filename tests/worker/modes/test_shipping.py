"""A model ships by a tool call: what waits, dies and is repeated around it ships once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, LiteralString

import anyio
import pytest

from db.deployments import deployments
from db.deployments.deployments import DeploymentStatus
from db.queue.jobs import JobStatus, WaitReason
from tests.providers.openai_stub import OpenAIStub
from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.deployments.pipeline.support import make_repository, serve
from tests.worker.llm.support import calls_of
from tests.worker.modes.brain import Brain, calls
from tests.worker.modes.chat import Chat, chatting
from worker import crash_points

COMMANDS = {
    "build": ["sh", "-c", "echo build >> ../log"],
    "switch": ["sh", "-c", 'echo switch >> ../log; ln -sfn "$1" ../current', "sh", "{release}"],
    "rollback": ["sh", "-c", "echo back >> ../log"],
}
DEPLOYED: LiteralString = """
select d.sha, d.status::text from jobsworth.deployments d
where d.job_id is not null
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serve(tmp_path / "releases" / "staging") as url:
        site = Site(tmp_path, url, make_repository(tmp_path / "site"))
        site.environment(**COMMANDS)
        yield site


@pytest.fixture
def brain() -> Brain:
    return Brain()


@pytest.fixture
def provider(brain: Brain) -> Iterator[OpenAIStub]:
    with OpenAIStub(reply=brain.reply) as stub:
        yield stub


@pytest.fixture
async def chat(database_url: str, provider: OpenAIStub, site: Site) -> AsyncGenerator[Chat]:
    file = site.directory / "deploy.toml"
    async with chatting(
        database_url, provider, deploy_file=file, releases_dir=site.releases
    ) as chat:
        yield chat


def shipping(brain: Brain, sha: str) -> dict[str, Any]:
    """A plan that ships, and what the model does to carry it out: it is overzealous."""
    deploy = {"environment": "staging", "sha": sha}
    save = {"name": "report.md", "content": "It went well."}
    brain.doing = [
        calls(("search_memory", {"query": "staging"})),
        calls(("deploy", deploy), ("deploy", deploy)),
        calls(("save_artifact", save), ("deploy", deploy)),
        calls(("carried_out", {})),
    ]
    steps = [
        {"kind": "search", "query": "staging"},
        {"kind": "deploy", **deploy},
        {"kind": "save", "name": "report.md", "text": "How it went"},
    ]
    return {"plan": {"title": "ship", "steps": steps}}


def log(site: Site) -> list[str]:
    file = site.environment_dir / "log"
    return file.read_text().split() if file.exists() else []


async def test_a_busy_environment_parks_the_plan_and_no_answer_is_paid_twice(
    chat: Chat, provider: OpenAIStub, brain: Brain, site: Site
) -> None:
    sha = site.commit()
    async with chat.database.connection() as connection:
        other = await deployments.create(connection, environment="staging", sha="0" * 40)
    job = await chat.run("execute", shipping(brain, sha))
    assert (job.status, job.waiting_for) == (JobStatus.WAITING, WaitReason.LIMIT)
    assert (job.failures, log(site), len(provider.bill)) == (0, [], 2)
    async with chat.database.connection() as connection:
        await deployments.update_status(connection, other.id, DeploymentStatus.FAILED)
    await chat.work()
    job = await chat.job(job.id)
    assert job.result["completed"] is True
    assert await chat.rows(DEPLOYED) == [{"sha": sha, "status": "healthy"}]
    assert log(site) == ["build", "switch"]
    assert len(provider.bill) == len(await calls_of(chat, job.id)) == 4


@pytest.mark.parametrize("committed", [1, 3, 5, 7, 9, 11])
async def test_whichever_step_a_worker_dies_after_the_plan_ships_once(
    chat: Chat,
    provider: OpenAIStub,
    brain: Brain,
    site: Site,
    committed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sha, steps = site.commit(), 0
    job_id = await chat.enqueue("execute", shipping(brain, sha))
    with anyio.fail_after(20), monkeypatch.context() as patch:
        async with chat.dying() as worker:

            def reach(point: str) -> None:
                nonlocal steps
                steps += point == "step.committed"
                if steps == committed:
                    worker.kill()

            patch.setattr(crash_points, "reach", reach)
            await anyio.sleep_forever()
    await chat.work()
    job = await chat.job(job_id)
    assert (job.status, job.crashes, job.result["completed"]) == (JobStatus.DONE, 1, True)
    assert await chat.rows(DEPLOYED) == [{"sha": sha, "status": "healthy"}]
    assert log(site) == ["build", "switch"]
    # Its settlement is what step.committed of an answer comes after: each is paid once.
    assert len(provider.bill) == 4
