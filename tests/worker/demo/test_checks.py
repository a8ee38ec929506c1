"""The checks report what is not as the inbox expects, and nothing else. Pure."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from db.approvals.approvals import Approval, ApprovalStatus
from db.conversations.messages import Message as Stored
from db.conversations.messages import Received
from db.deployments.deployments import Deployment, DeploymentStatus
from db.diagnosis.violations import Violation
from db.memory.memories import Hit
from db.memory.status import MemoryType
from db.money.books import Imbalance
from db.queue.jobs import Job
from tests.worker.demo import story
from worker.demo.feed import FedMessage
from worker.demo.inbox import InboxMessage
from worker.demo.kill import KillCost
from worker.demo.summary.checks import Facts, problems_in

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KILL = KillCost(
    "daemon 1", held=2, ran_again=2, seconds=(12.0, 12.5), steps_kept=3, steps_repeated=()
)


def job(message_id: UUID | None, mode: str, status: str = "done", **more: Any) -> Job:
    values: dict[str, Any] = dict.fromkeys(Job.model_fields)
    return Job.model_validate(
        values
        | {
            "id": uuid4(),
            "trigger_message_id": message_id,
            "is_child": False,
            "mode": mode,
            "payload": {},
            "queue": "default",
            "priority": 3,
            "holds_lane": False,
            "status": status,
            "attempt": 1,
            "failures": 0,
            "crashes": 0,
            "cancel_requested": False,
            "created_at": NOON,
            "started_at": NOON,
            "finished_at": NOON,
        }
        | more
    )


class Story:
    """One message, what it led to, and the rest of what the database holds."""

    def __init__(self, duplicate: bool = False, **line: Any) -> None:
        self.message = InboxMessage(thread="t", user="u", text="hi", **line).model_copy(
            update={"line": 3}
        )
        values: dict[str, Any] = dict.fromkeys(Stored.model_fields)
        self.stored = Stored.model_validate(
            values
            | {
                "id": uuid4(),
                "thread_id": uuid4(),
                "role": "user",
                "text": "hi",
                "metadata": {},
                "created_at": NOON,
            }
        )
        self.root = job(self.stored.id, self.message.mode)
        self.jobs = [self.root]
        self.approvals: list[Approval] = []
        self.deployments: list[Deployment] = []
        self.duplicate = duplicate

    def then(self, mode: str, status: str = "done", **more: Any) -> Job:
        new = job(self.stored.id, mode, status, parent_id=self.root.id, **more)
        self.jobs.append(new)
        return new

    def asked(self, option: str) -> None:
        fields = Approval.model_fields.items()
        values: dict[str, Any] = dict.fromkeys(n for n, field in fields if field.is_required())
        status = ApprovalStatus.REJECTED if option == "reject" else ApprovalStatus.APPROVED
        self.approvals.append(
            Approval.model_validate(
                values
                | {
                    "id": uuid4(),
                    "job_id": self.jobs[-1].id,
                    "proposal_text": "?",
                    "options": ("approve", "reject"),
                    "shown_hash": "",
                    "status": status,
                    "on_timeout": "reject",
                    "chosen_option": option,
                    "created_at": NOON,
                    "closed_at": NOON,
                }
            )
        )

    def deployed(self, status: str) -> None:
        values: dict[str, Any] = dict.fromkeys(Deployment.model_fields)
        self.deployments.append(
            Deployment.model_validate(
                values
                | {
                    "id": uuid4(),
                    "job_id": self.jobs[-1].id,
                    "environment": "staging",
                    "sha": "0" * 40,
                    "status": DeploymentStatus(status),
                    "created_at": NOON,
                    "updated_at": NOON,
                }
            )
        )

    def facts(self, **more: Any) -> Facts:
        received = Received(message=self.stored, job=self.root, duplicate=self.duplicate)
        hit = Hit(
            id=uuid4(),
            text="",
            score=1,
            start=0,
            end=0,
            matched=0,
            source_kind="note",
            source_id=None,
            metadata={},
            team_id=None,
            agent_id=None,
            thread_id=None,
            job_id=None,
            created_at=NOON,
            type=MemoryType.FACT,
            importance=0.5,
            confidence=1,
            valid_from=None,
            valid_to=None,
        )
        good = Facts(
            fed=[FedMessage(self.message, received)],
            jobs=self.jobs,
            waits={},
            approvals=self.approvals,
            deployments=self.deployments,
            by_mode=[],
            by_model=[],
            query="hi",
            hits=[hit],
            texts_pending=0,
            surveyed=story.surveyed(),
            budget=story.at_the_end(),
            ordered=story.ordered(),
            guests=story.guests(),
            calls=[story.call()],
            bill=[story.charge()],
            priced=True,
            kill=KILL,
            said_tokens=7,
            called_tokens=7,
            violations=[],
            imbalances=[],
            stop_problems=[],
        )
        return replace(good, **more)

    def problems(self, **more: Any) -> list[str]:
        return problems_in(self.facts(**more))


def answered(**line: Any) -> Story:
    story = Story(**line)
    story.then("answer")
    return story


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


def test_a_message_that_ended_as_it_expects_is_not_reported() -> None:
    assert answered(expect={"mode": "answer"}).problems() == []


def test_an_unexpected_mode_is_reported() -> None:
    story = answered(expect={"mode": "plan"})
    assert only(story.problems()) == "line 3 (t): no plan job ran for it, only classify, answer"


def test_an_unexpected_status_is_reported() -> None:
    story = Story()
    story.then("answer", "failed", error="out of tea")
    assert only(story.problems()).endswith("answer, is failed, not done: out of tea")


def test_the_absence_of_an_expected_failure_is_reported() -> None:
    story = Story(mode="poison", expect={"status": "failed"})
    assert "is done, not failed" in only(story.problems())
    story.jobs[0] = story.root = job(story.stored.id, "poison", "failed")
    assert story.problems() == []


def test_a_failure_before_the_last_job_is_reported() -> None:
    story = answered()
    story.jobs.insert(1, job(story.stored.id, "plan", "canceled", parent_id=story.root.id))
    assert "its plan job is canceled" in only(story.problems())


def test_a_message_without_a_root_job_or_with_two_is_reported() -> None:
    story = answered()
    assert "has 0 root jobs" in only(story.problems(jobs=[]))
    story.jobs.append(job(story.stored.id, "classify"))
    assert "has 2 root jobs" in only(story.problems())


def test_a_decision_without_an_approval_is_reported() -> None:
    assert "decides approve, but no approval" in only(answered(decide="approve").problems())


@pytest.mark.parametrize(("wanted", "option"), [("approve", "reject"), (None, "approve")])
def test_an_unexpected_decision_is_reported(wanted: str | None, option: str) -> None:
    story = Story(decide=wanted)
    story.then("plan")
    story.asked(option)
    assert f"({option}), not {wanted or 'reject'}" in only(story.problems())
    story.approvals.clear()
    story.asked(wanted or "reject")
    assert story.problems() == []


def test_an_unexpected_status_of_a_deployment_is_reported() -> None:
    story = Story(expect={"deployment": "rolled_back"})
    story.then("execute")
    assert "it made no deployment" in only(story.problems())
    story.deployed("healthy")
    assert "is healthy, not rolled_back" in only(story.problems())
    story.deployments.clear()
    story.deployed("rolled_back")
    assert story.problems() == []


def test_a_busy_message_that_did_not_wait_is_reported() -> None:
    story = answered(when="busy")
    assert "did not wait for its lane" in only(story.problems())
    story.root = story.jobs[0] = story.root.model_copy(
        update={"status": "waiting", "waiting_for": "lane"}
    )
    assert not [p for p in story.problems() if "lane" in p]


def test_a_message_stored_twice_is_reported() -> None:
    first, again = answered(platform_message_id="1"), answered(platform_message_id="1")
    facts = first.facts()
    twice = replace(facts, fed=[*facts.fed, *again.facts().fed], jobs=[*first.jobs, *again.jobs])
    assert "was stored again" in only(problems_in(twice))


def test_overtaking_in_a_thread_is_reported() -> None:
    first, second = answered(), answered()
    second.jobs[0] = second.jobs[0].model_copy(
        update={"started_at": NOON - timedelta(seconds=1), "finished_at": NOON}
    )
    facts = first.facts()
    both = replace(facts, fed=[*facts.fed, *second.facts().fed], jobs=[*first.jobs, *second.jobs])
    assert "was classified before line 3" in only(problems_in(both))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"held": 0, "ran_again": 0}, "held no running job"),
        ({"ran_again": 1}, "1 jobs that daemon 1 held never ran again"),
        ({"steps_repeated": ("digest job 1, step chapter 1",)}, "done a second time"),
    ],
)
def test_a_kill_that_cost_something_is_reported(change: dict[str, Any], problem: str) -> None:
    assert problem in only(answered().problems(kill=replace(KILL, **change)))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"texts_pending": 2}, "2 texts were never embedded"),
        ({"hits": []}, "a search for 'hi' found nothing"),
        ({"said_tokens": 8}, "took 8 tokens, the calls of their jobs 7"),
        (
            {
                "violations": [
                    Violation(invariant="two running in a lane", subject_id=uuid4(), detail="x")
                ]
            },
            "violation: two running in a lane",
        ),
        (
            {"imbalances": [Imbalance(rule="r", subject="s", expected="1", found="2")]},
            "the books do not balance: r: s: expected 1, found 2",
        ),
        ({"bill": []}, "the provider has not charged for it"),
        ({"surveyed": story.surveyed(diary=("a", "a"))}, "done 2 times"),
        ({"budget": story.at_the_end(waiting=1)}, "something waits for it"),
        ({"ordered": story.ordered(diary=())}, "this was ordered: nothing"),
        ({"stop_problems": ["daemon 2 did not stop after SIGTERM"]}, "did not stop"),
    ],
)
def test_what_is_wrong_with_any_inbox_is_reported(change: dict[str, Any], problem: str) -> None:
    assert problem in only(answered().problems(**change))
