"""The rows that belong to a run: its jobs, their graph, steps, artifacts and calls, and their sums.

In: a run's id. Out: rows, oldest first. They are found by index, through the run's jobs or by the
run. No count is stored, so none can drift.
"""

from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import AwareDatetime, BaseModel, ConfigDict

from db.pool import fetch_all, fetch_one, fetch_val
from db.queue.jobs import JOB_COLUMNS, Job
from db.steps.artifacts import ARTIFACT_COLUMNS, Artifact
from db.steps.steps import STEP_COLUMNS, Step


class GraphNode(BaseModel):
    """A job of the run, with its calls. `parent_id` is the job that started it as an effect, if
    any.
    """

    model_config = ConfigDict(frozen=True)

    id: UUID
    node: str | None
    mode: str
    status: str
    waiting_for: str | None
    waiting_detail: str | None
    attempt: int
    parent_id: UUID | None
    is_child: bool
    error: str | None
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    calls: int
    tokens: int
    cost: Decimal | None


class Edge(BaseModel):
    """`job_id` comes after `needs_job_id`."""

    model_config = ConfigDict(frozen=True)

    job_id: UUID
    needs_job_id: UUID
    on_failure: str


class Graph(BaseModel):
    """The jobs of a run, and which jobs each comes after."""

    model_config = ConfigDict(frozen=True)

    nodes: list[GraphNode]
    edges: list[Edge]


class RunCall(BaseModel):
    """One model call of the run; one that was saved for it has no job."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    job_id: UUID | None
    node: str | None
    step_name: str | None
    provider: str
    model: str
    status: str
    input_tokens: int | None
    output_tokens: int | None
    cost: Decimal | None
    latency_ms: int | None
    started_at: AwareDatetime


class RunStats(BaseModel):
    """Sums over a run. `cost` is the sum of the known costs; it leaves out `cost_unknown_calls`.
    `duration_seconds` grows while the run is open; None before it has begun.
    """

    model_config = ConfigDict(frozen=True)

    jobs: dict[str, int]
    calls: int
    open_calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal
    cost_unknown_calls: int
    duration_seconds: float | None


class Parent(BaseModel):
    """A job that another one comes after; `name` is its node, or its id outside a run."""

    model_config = ConfigDict(frozen=True)

    name: str
    status: str
    result: Any
    error: str | None


class Metric(BaseModel):
    """A named number, and when it was committed."""

    model_config = ConfigDict(frozen=True)

    job_id: UUID
    run_id: UUID | None
    name: str
    value: float
    at: AwareDatetime


class MetricCourse(BaseModel):
    """The numbers of one name: how many, the last, the lowest and the highest."""

    model_config = ConfigDict(frozen=True)

    name: str
    points: int
    last: float
    lowest: float
    highest: float


JOBS: LiteralString = (
    "select "
    + JOB_COLUMNS
    + """
from jobsworth.reactive_jobs j
where j.run_id = %(run_id)s
order by j.id
"""
)


async def get_jobs(conn: AsyncConnection[Any], run_id: UUID) -> list[Job]:
    """All jobs of a run, oldest first."""
    return await fetch_all(conn, JOBS, {"run_id": run_id}, Job)


NODES: LiteralString = """
select j.id, j.node, j.mode, j.status, j.waiting_for, j.waiting_detail, j.attempt, j.parent_id,
  j.is_child, j.error, j.started_at, j.finished_at, c.calls, c.tokens, c.cost
from jobsworth.reactive_jobs j
cross join lateral (
  select count(*) as calls,
    coalesce(sum(coalesce(l.input_tokens, 0)::bigint + coalesce(l.output_tokens, 0)), 0)::bigint
      as tokens,
    sum(l.cost) as cost
  from jobsworth.llm_calls l
  where l.job_id = j.id
) c
where j.run_id = %(run_id)s
order by j.id
"""

EDGES: LiteralString = """
select e.job_id, e.needs_job_id, e.on_failure
from jobsworth.reactive_jobs j
join jobsworth.job_edges e on e.job_id = j.id
where j.run_id = %(run_id)s
order by e.job_id, e.needs_job_id
"""


async def get_graph(conn: AsyncConnection[Any], run_id: UUID) -> Graph:
    """The jobs of a run, with what each has spent, and their edges."""
    return Graph(
        nodes=await fetch_all(conn, NODES, {"run_id": run_id}, GraphNode),
        edges=await fetch_all(conn, EDGES, {"run_id": run_id}, Edge),
    )


STEPS: LiteralString = (
    "select "
    + STEP_COLUMNS
    + """
from jobsworth.reactive_jobs j
join jobsworth.steps s on s.job_id = j.id
where j.run_id = %(run_id)s
union all
select null, s.name, s.kind, 'idempotent', null, s.output, 1, s.started_at, s.finished_at, s.error,
  null, s.input, case when s.error is not null then s.finished_at end
from jobsworth.saved_steps s
where s.run_id = %(run_id)s
order by started_at, job_id, name
"""
)


async def get_steps(conn: AsyncConnection[Any], run_id: UUID) -> list[Step]:
    """All steps of a run in the order they began: of its jobs, and those that were saved for it,
    which have no job.
    """
    return await fetch_all(conn, STEPS, {"run_id": run_id}, Step)


ARTIFACTS: LiteralString = (
    "select "
    + ARTIFACT_COLUMNS
    + """
from jobsworth.reactive_jobs j
join jobsworth.artifacts a on a.job_id = j.id
where j.run_id = %(run_id)s
union all
select """
    + ARTIFACT_COLUMNS
    + """
from jobsworth.artifacts a
where a.run_id = %(run_id)s
order by id
"""
)


async def get_artifacts(conn: AsyncConnection[Any], run_id: UUID) -> list[Artifact]:
    """All files of a run, of its jobs or saved for it, with type, size and SHA-256, without their
    content.
    """
    return await fetch_all(conn, ARTIFACTS, {"run_id": run_id}, Artifact)


CALLS: LiteralString = """
select l.id, l.job_id, j.node, l.step_name, l.provider, l.model, l.status, l.input_tokens,
  l.output_tokens, l.cost, l.latency_ms, l.started_at
from jobsworth.llm_calls l
left join lateral (
  select x.node from jobsworth.reactive_jobs x where x.id = l.job_id offset 0
) j on true
where l.run_id = %(run_id)s
order by l.id
"""


async def get_calls(conn: AsyncConnection[Any], run_id: UUID) -> list[RunCall]:
    """All model calls in the books of a run in the order they were sent."""
    return await fetch_all(conn, CALLS, {"run_id": run_id}, RunCall)


# The function is in migrations/schema/runs/stats.sql.
STATS: LiteralString = """
select s.jobs, s.calls, s.open_calls, s.input_tokens, s.output_tokens, s.cost,
  s.cost_unknown_calls, s.duration_seconds
from jobsworth.run_stats(%(run_id)s) s
"""


async def stats(conn: AsyncConnection[Any], run_id: UUID) -> RunStats:
    """The sums of a run; reads only its own jobs and calls. The SQL view `run_statistics` and
    `jobsworth run show` say the same.
    """
    found = await fetch_one(conn, STATS, {"run_id": run_id}, RunStats)
    assert found is not None
    return found


PARENTS: LiteralString = """
select coalesce(p.node, p.id::text) as name, p.status::text as status,
  case when p.status = 'done' then p.result end as result, p.error
from jobsworth.job_edges e
cross join lateral (
  select j.id, j.node, j.status, j.result, j.error
  from jobsworth.reactive_jobs j
  where j.id = e.needs_job_id
  offset 0
) p
where e.job_id = %(job_id)s
order by p.id
"""


async def parents(conn: AsyncConnection[Any], job_id: UUID) -> list[Parent]:
    """The jobs that this job comes after, and how they ended."""
    return await fetch_all(conn, PARENTS, {"job_id": job_id}, Parent)


LAST_BEAT: LiteralString = """
select max(w.beaten_at)
from jobsworth.reactive_jobs j
join jobsworth.workers w on w.id = j.worker_id
where j.run_id = %(run_id)s and j.finished_at is null and j.status::text = 'running'
"""


async def last_beat(conn: AsyncConnection[Any], run_id: UUID) -> AwareDatetime | None:
    """The newest heartbeat of the workers that are running its jobs; None if no job is running."""
    return await fetch_val(conn, LAST_BEAT, {"run_id": run_id})


METRIC_COLUMNS: LiteralString = "m.job_id, m.run_id, m.name, m.value, m.at"

METRICS: LiteralString = (
    "select "
    + METRIC_COLUMNS
    + """
from jobsworth.run_metrics m
where m.run_id = %(run_id)s and (%(name)s::text is null or m.name = %(name)s::text)
order by m.name, m.at, m.id
"""
)

METRICS_OF_JOB: LiteralString = (
    "select "
    + METRIC_COLUMNS
    + """
from jobsworth.run_metrics m
where m.job_id = %(job_id)s and (%(name)s::text is null or m.name = %(name)s::text)
order by m.name, m.at, m.id
"""
)


async def metrics(
    conn: AsyncConnection[Any],
    run_id: UUID | None = None,
    *,
    job_id: UUID | None = None,
    name: str | None = None,
) -> list[Metric]:
    """The metrics of a run, or of a job if `job_id` is given, by name and time."""
    if job_id is not None:
        return await fetch_all(conn, METRICS_OF_JOB, {"job_id": job_id, "name": name}, Metric)
    return await fetch_all(conn, METRICS, {"run_id": run_id, "name": name}, Metric)


COURSES: LiteralString = """
select m.name, count(*) as points, (array_agg(m.value order by m.at desc, m.id desc))[1] as last,
  min(m.value) as lowest, max(m.value) as highest
from jobsworth.run_metrics m
where m.run_id = %(run_id)s
group by m.name
order by m.name
"""


async def courses(conn: AsyncConnection[Any], run_id: UUID) -> list[MetricCourse]:
    """A summary of each metric of a run, by name."""
    return await fetch_all(conn, COURSES, {"run_id": run_id}, MetricCourse)
