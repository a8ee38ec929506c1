"""What must be true when everything has ended, whatever was done to the daemons meanwhile.

In: a scene of `chaos.*` jobs. Out: nothing, or an AssertionError that names the job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import LiteralString
from uuid import UUID

from tests.chaos.diary import Entry
from tests.chaos.scene import Scene

VIOLATIONS = "select invariant, subject_id, detail from jobsworth.violations"

ENDINGS = "select j.id, j.mode, j.status, j.error from jobsworth.reactive_jobs j"

EFFECTS = """
select j.id, j.mode, (j.payload ->> 'children')::int as children_wanted,
  coalesce((j.payload ->> 'ask')::boolean, false)::int as asks_wanted,
  (select count(*) from jobsworth.chat_messages m where m.job_id = j.id) as messages,
  (select count(*) from jobsworth.artifacts a where a.job_id = j.id) as artifacts,
  (select count(*) from jobsworth.memories m where m.job_id = j.id) as memories,
  (select count(*) from jobsworth.reactive_jobs f
    where f.parent_id = j.id and not f.is_child) as followups,
  (select count(*) from jobsworth.reactive_jobs c
    where c.parent_id = j.id and c.is_child) as children,
  (select count(*) from jobsworth.approvals p where p.job_id = j.id) as approvals
from jobsworth.reactive_jobs j
"""

STEPS = "select s.job_id, s.name, s.attempt, s.output from jobsworth.steps s"

RESULTS = """
select j.id, j.result, (select m.text from jobsworth.chat_messages m where m.job_id = j.id) as said
from jobsworth.reactive_jobs j
where j.mode = 'chaos.work'
"""

CALLS = "select c.request_id, c.status::text, c.job_id from jobsworth.llm_calls c"

LANES = """
select j.id, j.lane, (j.payload ->> 'n')::int as n, j.mode
from jobsworth.reactive_jobs j
where j.lane is not null
"""

GENERATIONS = {"chaos.work": 0, "chaos.followup": 1}


def check_everything(scene: Scene) -> None:
    """Nothing lost, nothing doubled, nothing done again, every call in the books."""
    check_no_violations(scene)
    check_all_done(scene)
    check_effects_once(scene)
    check_no_recorded_step_ran_again(scene)
    check_results_are_the_recorded_ones(scene)
    check_the_bill(scene)


def check_no_violations(scene: Scene) -> None:
    assert scene.rows(VIOLATIONS) == []


def check_all_done(scene: Scene) -> None:
    assert [row for row in scene.rows(ENDINGS) if row["status"] != "done"] == []


def check_effects_once(scene: Scene) -> None:
    for row in scene.rows(EFFECTS):
        work, followup = row["mode"] == "chaos.work", row["mode"] == "chaos.followup"
        wanted = {
            "messages": int(work or followup),
            "artifacts": int(work or row["mode"] == "chaos.batch"),
            "memories": int(work),
            "followups": int(work),
            "children": row["children_wanted"] or 0,
            "approvals": row["asks_wanted"],
        }
        assert wanted.items() <= row.items(), f"wanted {wanted} of {row}"


def check_no_recorded_step_ran_again(scene: Scene) -> None:
    """No step, and no paid call, ran in a later attempt than the one that recorded it."""
    recorded = {
        (str(row["job_id"]), row["name"]): row["attempt"]
        for row in scene.rows(STEPS)
        if row["output"] is not None
    }
    for entry in scene.diary():
        name = {"step": entry.name, "billed": "think"}.get(entry.what)
        if name is not None and (entry.job, name) in recorded:
            assert entry.attempt <= recorded[entry.job, name], f"ran again: {entry}"


def check_results_are_the_recorded_ones(scene: Scene) -> None:
    outputs = {(row["job_id"], row["name"]): row["output"] for row in scene.rows(STEPS)}
    for row in scene.rows(RESULTS):
        told = {name: row["result"][name] for name in ("fetch", "think", "close")}
        assert told == {name: outputs[row["id"], name] for name in told}
        assert row["said"] == " ".join(told.values())


def check_the_bill(scene: Scene) -> None:
    """Every request that was sent has its one row; every answer in the books was really bought."""
    billed = Counter(entry.name for entry in scene.diary() if entry.what == "billed")
    calls = scene.rows(CALLS)
    booked = Counter(row["request_id"] for row in calls)
    assert {request: booked[request] for request in billed} == dict(billed)
    assert [row for row in calls if row["status"] == "ok" and row["request_id"] not in billed] == []


def check_lanes(scene: Scene, killed_at_ns: Mapping[int, int]) -> None:
    """In each lane attempts follow each other in the lane's order, and never overlap.

    `killed_at_ns` says when which process was dead: the attempts it had open ended then.
    """
    lanes: dict[str, list[Entry]] = {}
    rows = {str(row["id"]): row for row in scene.rows(LANES)}
    for entry in scene.diary():
        if entry.what in ("began", "left") and entry.job in rows:
            lanes.setdefault(rows[entry.job]["lane"], []).append(entry)
    places = {job: (row["n"], GENERATIONS[row["mode"]]) for job, row in rows.items()}
    for entries in lanes.values():
        _check_no_overlap(entries, killed_at_ns)
        begun = [places[entry.job] for entry in entries if entry.what == "began"]
        assert begun == sorted(begun), f"overtaken: {begun}"


def _check_no_overlap(entries: Sequence[Entry], killed_at_ns: Mapping[int, int]) -> None:
    running: Entry | None = None
    for entry in entries:
        if entry.what == "began":
            if running is not None:
                died = killed_at_ns.get(running.pid)
                assert died is not None, f"{running} still ran: {entry}"
                assert died < entry.at_ns, f"{running} still ran: {entry}"
            running = entry
        elif running is not None and (entry.job, entry.attempt) == (running.job, running.attempt):
            running = None


def effects_of(scene: Scene, job_id: UUID) -> dict[str, list[str]]:
    """The texts that a job left behind, by kind."""
    queries: dict[str, LiteralString] = {
        "messages": "select text from jobsworth.chat_messages where job_id = %(id)s",
        "artifacts": "select convert_from(content, 'utf8') from jobsworth.artifacts"
        " where job_id = %(id)s",
        "followups": "select payload ->> 'n' from jobsworth.reactive_jobs where parent_id = %(id)s",
    }
    return {
        kind: [next(iter(row.values())) for row in scene.rows(query, {"id": job_id})]
        for kind, query in queries.items()
    }
