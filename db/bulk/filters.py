"""Which jobs an operation is for: a filter, and the one condition that it becomes.

In: what a person or a payload says. Out: a checked filter, and the values of its condition.
Invariant: a value never becomes part of a statement; a filter that says nothing is refused, because
it would be for every job.
"""

from typing import Any, LiteralString
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, model_validator

from db.queue.jobs import JobStatus, WaitReason

# A bulk operation never touches another one, nor itself: cancel it by its id.
MODE = "bulk_operation"
# The checkpoint that says how far it is.
PROGRESS = "progress"

# The condition on the job `j`. A time is that of its end; of an open job, that of its creation.
FITS: LiteralString = """
  (%(status)s::text is null or j.status::text = %(status)s::text)
  and (%(waiting_for)s::text is null
    or j.status = 'waiting' and j.waiting_for::text = %(waiting_for)s::text)
  and (%(mode)s::text is null or j.mode = %(mode)s::text)
  and (%(queue)s::text is null or j.queue = %(queue)s::text)
  and (%(thread_id)s::uuid is null or j.thread_id = %(thread_id)s::uuid)
  and (%(agent_id)s::uuid is null or j.agent_id = %(agent_id)s::uuid)
  and (%(team_id)s::uuid is null or j.team_id = %(team_id)s::uuid)
  and (%(lane)s::text is null or j.lane = %(lane)s::text)
  and (%(unique_key)s::text is null or j.unique_key = %(unique_key)s::text)
  and (%(request_id)s::text is null or j.request_id = %(request_id)s::text)
  and (%(since)s::timestamptz is null
    or coalesce(j.finished_at, j.created_at) >= %(since)s::timestamptz)
  and (%(before)s::timestamptz is null
    or coalesce(j.finished_at, j.created_at) < %(before)s::timestamptz)
  and (%(error)s::text is null or strpos(lower(j.error), lower(%(error)s::text)) > 0)
  and (%(payload)s::jsonb is null or j.payload @> %(payload)s::jsonb)
"""
# What an operation may be about.
MATCHES: LiteralString = " j.mode <> 'bulk_operation' and" + FITS


class JobFilter(BaseModel):
    """Jobs for which all that is given holds.

    since, before: when the job ended, or if it is open, when it was created. payload: is contained
    in the job's payload (`@>`). error: a part of its error, in any case. Raises
    `pydantic.ValidationError` if nothing is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: JobStatus | None = None
    waiting_for: WaitReason | None = None
    mode: str | None = None
    queue: str | None = None
    thread_id: UUID | None = None
    agent_id: UUID | None = None
    team_id: UUID | None = None
    lane: str | None = None
    unique_key: str | None = None
    request_id: str | None = None
    since: AwareDatetime | None = None
    before: AwareDatetime | None = None
    payload: dict[str, JsonValue] | None = None
    error: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "JobFilter":
        given = {name: value for name, value in self if value is not None}
        if not given or list(given.values()) == [{}]:
            raise ValueError("the filter is empty, so it would be for every job; say which jobs")
        for name, value in given.items():
            if isinstance(value, str) and (not value.strip() or "\0" in value):
                raise ValueError(f"{name} is empty or contains a NUL character")
        if self.since and self.before and self.since >= self.before:
            raise ValueError("since is not earlier than before, so no job matches")
        return self

    def values(self) -> dict[str, Any]:
        """The values of `FITS` and `MATCHES`."""
        payload = None if self.payload is None else orjson.dumps(self.payload).decode()
        return {**dict(self), "payload": payload}
