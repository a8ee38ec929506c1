"""What models were asked: texts by day and hash, and the texts of each call.

In: calls that were sent, with the hashes of their texts, and the texts that are new today. Out: the
same, to be read for some days. Invariant: a call never names a text that is not kept for its day,
because both are written in one statement.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import LiteralString, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from db.pool import Connection, execute, fetch_all, fetch_val
from db.tables import table


class CallTexts(NamedTuple):
    """A call and the hashes of what it sent, in their order."""

    call_id: UUID
    team_id: UUID | None
    asked: Sequence[bytes]


class NewText(NamedTuple):
    team_id: UUID | None
    text: str


class Asked(BaseModel):
    """What a call sent: JSON texts, None for one that is no longer kept."""

    model_config = ConfigDict(frozen=True)

    call_id: UUID
    texts: list[str | None]


KEEP: LiteralString = """
with kept as materialized (
  select c.call_id, c.team_id, c.asked
  from jsonb_to_recordset(%(calls)s::jsonb) as c (call_id uuid, team_id uuid, asked jsonb)
  -- The job of a call may have been erased since the call was sent.
  where not exists (
    select 1 from jobsworth.llm_calls l
    where l.id = c.call_id and l.job_id is not null and not exists (
      select 1 from jobsworth.reactive_jobs j where j.id = l.job_id))
), texts as (
  insert into jobsworth.call_texts (day, hash, team_id, text)
  select %(day)s::date, decode(t.hash, 'hex'), t.team_id, t.text
  from jsonb_to_recordset(%(texts)s::jsonb) as t (hash text, team_id uuid, text text)
  where t.hash in (select jsonb_array_elements_text(k.asked) from kept k)
  order by t.hash
  on conflict do nothing
)
insert into jobsworth.call_records (call_id, team_id, day, asked)
select k.call_id, k.team_id, %(day)s::date,
  array(select decode(a.hash, 'hex') from jsonb_array_elements_text(k.asked) with ordinality
    as a (hash, place) order by a.place)
from kept k
on conflict do nothing
"""


async def keep(
    conn: Connection, day: date, calls: Sequence[CallTexts], new: Mapping[bytes, NewText]
) -> None:
    """Keep these calls for `day`, with the texts that are not known to be kept for it.

    Committed on return. A text or a call that is kept already stays as it is.
    """
    texts = [
        {"hash": key.hex(), "team_id": one.team_id, "text": one.text} for key, one in new.items()
    ]
    sent = [
        {
            "call_id": call.call_id,
            "team_id": call.team_id,
            "asked": [one.hex() for one in call.asked],
        }
        for call in calls
    ]
    await execute(conn, KEEP, {"day": day, "texts": table(texts), "calls": table(sent)})


READ: LiteralString = """
select c.id as call_id, array(
  select t.text
  from unnest(r.asked) with ordinality as a (hash, place)
  left join jobsworth.call_texts t on t.day = r.day and t.hash = a.hash
  order by a.place) as texts
from jobsworth.llm_calls c
join jobsworth.call_records r on r.call_id = c.id
where c.job_id = %(job_id)s
order by c.id
"""


async def of_job(conn: Connection, job_id: UUID) -> list[Asked]:
    """What the calls of a job sent, in the order they were started; those that are still kept."""
    return await fetch_all(conn, READ, {"job_id": job_id}, Asked)


FORGET: LiteralString = """
with old_texts as (
  delete from jobsworth.call_texts t
  using (
    select x.day, x.hash from jobsworth.call_texts x
    where x.day < (now() at time zone 'utc')::date - %(days)s::int
    order by x.day, x.hash
    limit %(most)s) o
  where t.day = o.day and t.hash = o.hash
  returning 1
), old_calls as (
  delete from jobsworth.call_records r
  using (
    select x.call_id from jobsworth.call_records x
    where x.day < (now() at time zone 'utc')::date - %(days)s::int
    order by x.day
    limit %(most)s) o
  where r.call_id = o.call_id
  returning 1
)
select (select count(*) from old_texts) + (select count(*) from old_calls)
"""


async def forget(conn: Connection, *, days: int, most: int) -> int:
    """Delete up to `most` texts and `most` calls older than so many days; returns how many."""
    return await fetch_val(conn, FORGET, {"days": days, "most": most})
