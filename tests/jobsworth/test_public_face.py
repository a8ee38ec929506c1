"""What users import: cheap to load, complete, typed, and nothing of ours behind it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

import jobsworth
from db.fence import Lease
from jobsworth import Job
from tests.support import ROOT, environment
from tests.worker.job_api import claimed_job
from worker.attempt_state import AttemptState, Tools

# What a handler may use of its job. All else is the worker's own business.
OF_A_JOB = {
    *("id", "mode", "attempt", "payload", "team_id", "thread_id", "trigger_message_id", "run_id"),
    *("node", "agent_id", "trace_parent", "trace_id", "request_id", "log", "database"),
    *("messages", "is_stopped", "say", "send", "metric", "enqueue", "spawn", "save", "load"),
    *("remember", "own_agent"),
    *("step", "transaction", "call", "agent", "deploy", "rollback"),
    *("checkpoint", "latest_checkpoint", "checkpoint_at", "prune_checkpoints"),
    *("ask", "approved_step", "sleep", "wait", "gather", "recall", "parents"),
}
HEAVY = ["pydantic_ai", "openai", "anthropic", "fastapi", "uvicorn", "typer", "alembic"]


def test_a_job_offers_what_users_may_use_and_nothing_else() -> None:
    claimed = claimed_job()
    lease = Lease(claimed.id, claimed.lease_no, claimed.id)
    job = Job(AttemptState(claimed, lease, cast(Tools, None), plain=False))
    assert {name for name in dir(job) if not name.startswith("_")} == OF_A_JOB
    assert not hasattr(job, "__dict__")
    with pytest.raises(AttributeError):
        cast(Any, job).effects = []


@pytest.mark.parametrize("name", sorted(OF_A_JOB))
def test_each_part_of_a_job_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(Job, name))


@pytest.mark.parametrize("name", jobsworth.__all__)
def test_each_name_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(jobsworth, name))


def test_a_name_that_is_not_offered_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'jobsworth' has no attribute 'enqueu'"):
        _ = cast(Any, jobsworth).enqueu
    assert set(jobsworth.__all__) <= set(dir(jobsworth))


def test_type_checkers_see_what_is_imported_at_run_time() -> None:
    """The names are listed for type checkers, for `import *`, and for the import itself."""
    [typed] = [
        node
        for node in ast.parse(Path(jobsworth.__file__).read_text()).body
        if isinstance(node, ast.If)
    ]
    seen = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == sorted(jobsworth.__all__)
    for name, (module, attribute) in seen.items():
        assert getattr(jobsworth, name) is getattr(sys.modules[str(module)], attribute)


@pytest.mark.parametrize(
    ("statement", "unloaded"),
    [
        ("import jobsworth", [*HEAVY, "db.errors", "worker.job", "psycopg", "pydantic", "anyio"]),
        ("from jobsworth import enqueue, enqueue_sync, NewJob", [*HEAVY, "worker.job"]),
        ("from jobsworth import start_run, resolve, signal, cancel", [*HEAVY, "worker.job"]),
        ("from jobsworth import Job, handler, Retry, Decision", HEAVY),
    ],
)
def test_an_import_loads_only_what_it_needs(statement: str, unloaded: list[str]) -> None:
    script = f"import sys\n{statement}\nprint([m for m in {unloaded} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(None),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("package", ["jobsworth", "worker", "db"])
def test_type_checkers_are_told_that_we_are_typed(package: str) -> None:
    """The wheel has every file of a package: see test_packaging."""
    assert (ROOT / package / "py.typed").is_file()
