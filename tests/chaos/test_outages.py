"""The database stops and starts at random instants while jobs pay for calls; each is paid once.

`JOBSWORTH_CHAOS_SEEDS` sets how many outages there are (a twentieth of it); each is a seed, and a
failure lists them. In every third a daemon is killed too, so that somebody else has to bring what
it left on the disk.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Set
from typing import Any

import pytest

from db.server.embedded import Embedded
from tests.chaos.scene import Scene
from tests.chaos.verdict import check_all_done, check_no_violations, check_the_bill
from tests.support import until_sync

pytestmark = [pytest.mark.chaos, pytest.mark.own_server]

SEEDS = max(1, int(os.environ.get("JOBSWORTH_CHAOS_SEEDS", "100")) // 20)
OPEN_JOBS = 12
CALLS_EACH = 4
KILL_EVERY = 3
# Outages and kills are charged to jobs as crashes and parks; here they are not the jobs' fault.
PATIENT = {"JOBSWORTH_CRASHES_MAX": "1000", "JOBSWORTH_RETRY_MAX_SECONDS": "0.1"}

SYNCHRONOUS = """
do $$ begin
  execute format('alter database %I set synchronous_commit = on', current_database());
end $$
"""
CALLS = """
select c.request_id, c.status::text, c.job_id, c.step_name, c.attempt, c.input_tokens,
  c.output_tokens, l.input_sum, l.output_sum, l.entries
from jobsworth.llm_calls c
cross join lateral (
  select sum(e.input_tokens)::int as input_sum, sum(e.output_tokens)::int as output_sum,
    array_agg(e.entry::text order by e.entry) as entries
  from jobsworth.token_ledger e
  where e.call_id = c.id and e.entry <> 'reserve') l
"""
STEPS = """
select s.job_id, s.name, s.attempt, s.output from jobsworth.steps s where s.finished_at is not null
"""
OPEN = "select count(*) from jobsworth.reactive_jobs where finished_at is null"
UNSETTLED = "select count(*) from jobsworth.llm_calls where settled_at is null"
# A call is let go unsent if the database went away between its booking and the look whether an
# earlier attempt was answered meanwhile. The truth about a call may lie on a disk while another
# daemon gives the call up as unknown: it is adjusted then.
TOKENS = {"ok": (70, 30), "unknown": (100, 50), "error": (0, 0)}
ENTRIES = {
    "ok": (["settle"], ["settle", "adjust"]),
    "unknown": (["settle"],),
    "error": (["release"], ["settle", "adjust"]),
}


def test_outages_at_random_instants_make_nobody_pay_twice(scene: Scene, server: Embedded) -> None:
    scene.conn.execute(SYNCHRONOUS)
    scene.conn.close()
    daemons = [scene.start(PATIENT) for _ in range(2)]
    killed: set[int] = set()
    story: list[str] = []
    try:
        for seed in range(SEEDS):
            draw = random.Random(seed)
            _feed(scene)
            before, away = draw.uniform(0.1, 2), draw.choice((0.2, 2.5, 4))
            mode = draw.choice(("fast", "immediate"))
            story.append(f"seed {seed}: {mode} after {before:.3f} s for {away} s")
            time.sleep(before)  # no synchronisation: the instant is what the seed chooses
            scene.conn.close()
            server.stop(mode)
            time.sleep(away)  # likewise
            if seed % KILL_EVERY == KILL_EVERY - 1:
                victim = daemons[seed % 2]
                victim.kill()
                killed.add(victim.pid)
                daemons[seed % 2] = scene.start(PATIENT)
                story.append(f"seed {seed}: killed {victim.pid}")
            server.restart()
        scene.until_all_ended(120)
        until_sync(lambda: scene.value(UNSETTLED) == 0, 30, "every call is settled")
        check_no_violations(scene)
        check_all_done(scene)
        check_the_bill(scene)
        _check_settled_as_billed(scene)
        _check_answers_were_paid_once(scene, killed)
    except BaseException:
        print("\n".join(story))
        raise
    written = [one for daemon in scene.daemons for one in daemon.events("spool.written")]
    print(f"{len(written)} answers met no database")
    assert list((scene.directory / "spool").rglob("*.json")) == []
    for daemon in daemons:
        assert daemon.running, daemon.tail()


def _feed(scene: Scene) -> None:
    for _ in range(OPEN_JOBS - scene.value(OPEN)):
        scene.enqueue("chaos.pay", {"calls": CALLS_EACH})


def _check_settled_as_billed(scene: Scene) -> None:
    billed = {entry.name for entry in scene.diary() if entry.what == "billed"}
    for row in scene.rows(CALLS):
        assert (row["input_tokens"], row["output_tokens"]) == TOKENS[row["status"]], row
        assert (row["input_sum"], row["output_sum"]) == TOKENS[row["status"]], row
        assert row["entries"] in ENTRIES[row["status"]], row
        assert row["status"] != "error" or row["request_id"] not in billed, row


def _check_answers_were_paid_once(scene: Scene, killed: Set[int]) -> None:
    """A step was bought once, and once more for each answer that was on its way to a killed one."""
    calls = {row["request_id"]: row for row in scene.rows(CALLS)}
    steps = {(row["job_id"], row["name"]): row for row in scene.rows(STEPS)}
    bought: Counter[Any] = Counter()
    for entry in scene.diary():
        if entry.what == "billed":
            call = calls[entry.name]
            step = steps[call["job_id"], call["step_name"]]
            assert call["attempt"] <= step["attempt"], f"bought again: {call} {step}"
            if entry.pid not in killed:
                bought[call["job_id"], call["step_name"]] += 1
                assert call["status"] == "ok", call
    assert [(key, count) for key, count in bought.items() if count > 1] == []
