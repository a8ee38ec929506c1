"""Messages between agents: to those that exist; in a run without a thread, in one of the run.

In: what the messages of a finishing transaction name. Out: the threads that they need. Invariant:
a message to an agent has an author and a recipient of its team, or of the installation.
"""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple
from uuid import UUID

from db.errors import NotFound
from db.pool import Connection, execute, fetch_one
from db.tables import table


class Sent(NamedTuple):
    """A message to an agent: where its job is, and into which thread it goes."""

    team_id: UUID | None
    run_id: UUID | None
    thread_id: UUID | None
    author: UUID | None
    recipient: UUID


UNKNOWN: LiteralString = """
select n.agent_id, s.team_id
from jsonb_to_recordset(%(rows)s::jsonb) as s (team_id uuid, author uuid, recipient uuid)
cross join lateral (values (s.author), (s.recipient)) as n (agent_id)
where n.agent_id is not null and not exists (
  select 1 from jobsworth.agents a
  where a.id = n.agent_id and (a.team_id is null or a.team_id is not distinct from s.team_id))
limit 1
"""

# In the order of their ids, so that two transactions that do so wait for each other in one order.
OPEN: LiteralString = """
insert into jobsworth.chat_threads (id, team_id, session_id, platform, chat_id, title)
select r.id, r.team_id, r.session_id, 'run', r.id::text, 'Agents of run ' || r.id
from jobsworth.runs r
where r.id in (
  select s.run_id from jsonb_to_recordset(%(rows)s::jsonb) as s (run_id uuid, thread_id uuid)
  where s.thread_id = s.run_id)
order by r.id
on conflict do nothing
"""


async def prepare(conn: Connection, sent: Sequence[Sent]) -> None:
    """Check the agents, and open the threads of the runs, inside the caller's transaction.

    The thread of a run has the run's id. Raises `NotFound` for an agent that the team does not
    have.
    """
    rows = {"rows": table([each._asdict() for each in sent])}
    unknown = await fetch_one(conn, UNKNOWN, rows)
    if unknown is not None:
        team = unknown["team_id"]
        raise NotFound(
            f"there is no agent {unknown['agent_id']}" + (f" in team {team}" if team else ""),
            "send to the id of one that jobsworth agent list shows; both must be of the job's team",
        )
    if any(each.thread_id is not None and each.thread_id == each.run_id for each in sent):
        await execute(conn, OPEN, rows)
