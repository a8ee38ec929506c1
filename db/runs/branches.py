"""Branches: runs that continue from a step of another run, with other input.

In: a run, one of its nodes and steps, and changes of payloads. Out: a new run that reads what was
done before the cut and runs the rest again; or, as a dry run, what it would read and what the rest
cost the first time. Invariant: nothing is copied, nothing that a branch reads is paid for again,
and nothing that it reads can be deleted.

The rules are in the database (`plan_fork`, migrations/schema/runs/fork.sql), so that every language
forks alike.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, LiteralString
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.documents import to_document
from db.errors import NotFound
from db.pool import Connection, fetch_all, fetch_one, fetch_val

Part = Literal["fork", "after", "open", "read", "again"]


class Branch(BaseModel):
    """A row of `branches`."""

    model_config = ConfigDict(frozen=True)

    run_id: UUID
    parent_run_id: UUID
    node: str
    step_name: str | None
    cut_at: AwareDatetime | None
    changes: dict[str, Any]
    created_by: str | None
    created_at: AwareDatetime


class ForkNode(BaseModel):
    """What a fork does with a node (`part`).

    fork: it is the node forked at. after: it comes after that one, and runs again. open: it had not
    ended, and goes on in the branch too. read: the branch reads it. again: a job that runs again
    starts it again.
    """

    model_config = ConfigDict(frozen=True)

    node: str
    job_id: UUID
    mode: str
    part: Part


class ForkStep(BaseModel):
    """A step of the forked run; `reused` if the branch reads it, otherwise it runs again."""

    model_config = ConfigDict(frozen=True)

    node: str
    name: str
    kind: str
    effect: str
    reused: bool
    recorded: bool


class ForkCall(BaseModel):
    """A paid call of the forked run. `cost` None: its price is unknown."""

    model_config = ConfigDict(frozen=True)

    node: str
    step_name: str | None
    reused: bool
    tokens: int
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Share:
    """How many steps and calls, and their tokens and cost; `cost` leaves out `unpriced` calls."""

    steps: int
    calls: int
    tokens: int
    cost: Decimal
    unpriced: int


@dataclass(frozen=True, slots=True)
class Fork:
    """A fork: one that was made, with its `run_id`, or a planned one (None).

    `reused` sums up what it reads; `rerun` what the rest took the first time and may take again.
    `unsafe` are the steps that would run again though they are unsafe to repeat.
    """

    run_id: UUID | None
    parent_run_id: UUID
    node: str
    step: str | None
    nodes: list[ForkNode]
    steps: list[ForkStep]
    reused: Share
    rerun: Share
    unsafe: list[ForkStep]


FORK: LiteralString = """
select jobsworth.fork_run(
  %(run_id)s, %(node)s, %(step)s, %(changes)s::jsonb, %(created_by)s)
"""


async def fork(
    conn: Connection,
    run_id: UUID,
    *,
    node: str | None = None,
    step: str | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    created_by: str | None = None,
    dry_run: bool = False,
) -> Fork:
    """Fork a run at a node, or at a step of it; committed on return unless in a transaction.

    The branch reads what was done before the step began; the step and everything after it run
    again. A checkpoint is read itself. `node` may be left out if only one node has the step.
    `changes` are merged into the payloads, by node. The run may still be running: the branch does
    its unfinished work as well. Waits while another transaction holds a job that the branch reads.
    Raises `NotFound`, `InvalidInput`, `Conflict`.
    """
    values = {
        "run_id": run_id,
        "node": node,
        "step": step,
        "changes": to_document({each: dict(change) for each, change in (changes or {}).items()}),
    }
    planned = await _plan(conn, run_id, values)
    if dry_run:
        return planned
    made = await fetch_val(conn, FORK, {**values, "created_by": created_by})
    return Fork(
        **{name: getattr(planned, name) for name in Fork.__dataclass_fields__ if name != "run_id"},
        run_id=made,
    )


async def _plan(conn: Connection, run_id: UUID, values: dict[str, Any]) -> Fork:
    nodes = await _nodes(conn, values)
    steps = await _steps(conn, values)
    calls = await _calls(conn, values)
    return Fork(
        run_id=None,
        parent_run_id=run_id,
        node=next(each.node for each in nodes if each.part == "fork"),
        step=values["step"],
        nodes=nodes,
        steps=steps,
        reused=_share(steps, calls, reused=True),
        rerun=_share(steps, calls, reused=False),
        unsafe=[each for each in steps if each.effect == "unsafe" and not each.reused],
    )


NODES: LiteralString = """
select p.node, p.job_id, j.mode, p.part
from jobsworth.plan_fork(%(run_id)s, %(node)s, %(step)s, %(changes)s::jsonb) p
join jobsworth.reactive_jobs j on j.id = p.job_id
order by j.id
"""


async def _nodes(conn: Connection, values: dict[str, Any]) -> list[ForkNode]:
    return await fetch_all(conn, NODES, values, ForkNode)


STEPS: LiteralString = """
select p.node, s.name, s.kind, s.effect::text, s.finished_at is not null as recorded,
  p.part = 'read'
    or coalesce(s.finished_at < p.cut_at and jobsworth.is_inherited(s.kind), false) as reused
from jobsworth.plan_fork(%(run_id)s, %(node)s, %(step)s, %(changes)s::jsonb) p
cross join lateral (
  select o.name, o.kind, o.effect, o.started_at, o.finished_at
  from jobsworth.steps o
  where o.job_id = p.job_id
  union all
  select i.name, i.kind, i.effect, i.started_at, i.finished_at
  from jobsworth.inherited_steps(p.job_id) i
) s
where p.part <> 'read' or s.finished_at is not null
order by p.job_id, s.started_at, s.name
"""


async def _steps(conn: Connection, values: dict[str, Any]) -> list[ForkStep]:
    return await fetch_all(conn, STEPS, values, ForkStep)


CALLS: LiteralString = """
with plan as materialized (
  select p.node, p.job_id, p.part, p.cut_at
  from jobsworth.plan_fork(%(run_id)s, %(node)s, %(step)s, %(changes)s::jsonb) p
), paid as (
  -- Calls of the jobs themselves, by the step that the answer became; then of jobs they read.
  select p.node, c.id, p.part = 'read' or exists (
      select 1 from jobsworth.steps s
      where s.job_id = c.job_id and s.name = c.step_name and s.finished_at < p.cut_at
        and jobsworth.is_inherited(s.kind)) as reused
  from plan p
  join jobsworth.llm_calls c on c.job_id = p.job_id
  union all
  select p.node, c.id, p.part = 'read' or coalesce(i.finished_at < p.cut_at, false)
  from plan p
  cross join lateral jobsworth.inherited_steps(p.job_id) i
  join jobsworth.llm_calls c on c.job_id = i.job_id and c.step_name = i.name
)
select p.node, c.step_name, p.reused,
  coalesce(c.input_tokens, c.estimated_input_tokens)
    + coalesce(c.output_tokens, c.estimated_output_tokens) as tokens,
  c.cost
from paid p
join jobsworth.llm_calls c on c.id = p.id
order by c.id
"""


async def _calls(conn: Connection, values: dict[str, Any]) -> list[ForkCall]:
    return await fetch_all(conn, CALLS, values, ForkCall)


def _share(steps: Iterable[ForkStep], calls: Iterable[ForkCall], *, reused: bool) -> Share:
    paid = [each for each in calls if each.reused is reused]
    return Share(
        steps=sum(each.reused is reused for each in steps),
        calls=len(paid),
        tokens=sum(each.tokens for each in paid),
        cost=sum((each.cost for each in paid if each.cost is not None), Decimal(0)),
        unpriced=sum(each.cost is None for each in paid),
    )


BRANCH_COLUMNS: LiteralString = """
  b.run_id, b.parent_run_id, b.node, b.step_name, b.cut_at,
  b.changes, b.created_by, b.created_at
"""

BRANCH: LiteralString = (
    "select "
    + BRANCH_COLUMNS
    + """
from jobsworth.branches b
where b.run_id = %(run_id)s
"""
)


async def get_by_run(conn: Connection, run_id: UUID) -> Branch:
    """Where a run was forked. Raises `NotFound` if it is not a branch."""
    found = await fetch_one(conn, BRANCH, {"run_id": run_id}, Branch)
    if found is None:
        raise NotFound(f"run {run_id} is not a branch", "list runs: jobsworth run list")
    return found


OF_RUN: LiteralString = (
    "select "
    + BRANCH_COLUMNS
    + """
from jobsworth.branches b
where b.parent_run_id = %(run_id)s
order by b.run_id
"""
)


async def list_for_run(conn: Connection, run_id: UUID) -> list[Branch]:
    """The branches that were forked from this run, oldest first."""
    return await fetch_all(conn, OF_RUN, {"run_id": run_id}, Branch)
