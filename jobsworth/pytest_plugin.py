"""The pytest plugin: the fixture `jobs`. It imports Jobsworth when a test first asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from jobsworth.testing.databases import Server
    from jobsworth.testing.jobs import Jobs

URL = "jobsworth_database_url"
HANDLERS = "jobsworth_handlers"
PREFIX = "JOBSWORTH_"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        URL, "a PostgreSQL role that may create databases; else one is started", default=""
    )
    parser.addini(HANDLERS, "modules with your handlers", type="args", default=[])


@pytest.fixture(scope="session")
def jobsworth_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The PostgreSQL server of the tests."""
    from jobsworth.testing.databases import embedded_server, server_at

    url = os.path.expandvars(pytestconfig.getini(URL))
    with server_at(url) if url else embedded_server() as server:
        yield server


@pytest.fixture(scope="session")
def jobsworth_portal() -> Iterator[BlockingPortal]:
    """The event loop, in a thread of its own, in which the tests' jobs run."""
    from anyio.from_thread import start_blocking_portal

    from worker.daemon.loop import WorkerLoop

    with start_blocking_portal("asyncio", {"loop_factory": WorkerLoop}) as portal:
        yield portal


@pytest.fixture
def jobsworth_settings() -> dict[str, Any]:
    """Settings of the worker, as `{"failures_max": 2}`; yours to override."""
    return {}


@pytest.fixture
def jobs(
    jobsworth_server: Server,
    jobsworth_portal: BlockingPortal,
    jobsworth_settings: dict[str, Any],
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Jobs]:
    """A queue of this test's own, in a fresh database: see `jobsworth.testing.Jobs`.

    Handlers that the test itself declares are forgotten when it ends. No setting of the environment
    counts, and no request goes to a real provider.
    """
    from jobsworth.testing.jobs import Jobs
    from jobsworth.testing.model import ScriptedModel
    from worker.handlers import registry

    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    settings = {"handlers": tuple(pytestconfig.getini(HANDLERS)), **jobsworth_settings}
    declared = dict(registry)
    model = ScriptedModel()
    monkeypatch.setenv("OPENAI_BASE_URL", model.url)
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    try:
        with jobsworth_server.database() as url:
            jobs = Jobs(jobsworth_portal, url, model, **settings)
            try:
                yield jobs
            finally:
                jobs.close()
    finally:
        model.close()
        registry.clear()
        registry.update(declared)
