"""The checks report what went wrong with the run, fork, order and bill, and nothing else. Pure."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from db.people.erasure import Erasure, Trace
from db.runs.branches import ForkStep
from tests.worker.demo import story
from worker.demo.guests import TOLD, problems_of
from worker.demo.provider.bill import Charge
from worker.demo.summary.story_checks import of_bill, of_budget, of_fork, of_order, of_run
from worker.demo.survey import REPORT


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


def test_a_story_that_went_well_has_no_problems() -> None:
    surveyed = story.surveyed()
    assert of_budget(surveyed.budget, story.at_the_end()) == []
    assert of_run(surveyed) == []
    assert of_fork(surveyed) == []
    assert of_order(story.ordered()) == []
    assert problems_of(story.guests()) == []
    assert of_bill([story.charge()], [story.call()]) == []


@pytest.mark.parametrize(
    ("held", "end", "problem"),
    [
        ({"waited": 0}, {}, "no job waited for it"),
        ({"peak": Decimal("0.0011")}, {}, "0.0011 was reserved and spent of 0.001"),
        ({"scant": story.budget(spent=0)}, {}, "nothing was spent before it was hit"),
        ({}, {"amount": Decimal("0.0005")}, "more is spent of it at the end"),
        ({}, {"spent": Decimal("0.0002")}, "nothing was spent of it after it was raised"),
        ({}, {"waiting": 1}, "something waits for it"),
        ({}, {"reserved": Decimal("0.0001")}, "something waits for it, or is reserved"),
    ],
)
def test_a_budget_that_was_not_kept_or_not_hit_is_reported(
    held: dict[str, Any], end: dict[str, Any], problem: str
) -> None:
    assert problem in only(of_budget(story.held(**held), story.at_the_end(**end)))


def test_a_run_that_failed_or_paid_more_often_is_reported() -> None:
    surveyed = story.surveyed()
    failed = surveyed.run.run.model_copy(update={"status": "failed", "error": "no tea"})
    summary = replace(surveyed.run, run=failed)
    assert only(of_run(replace(surveyed, run=summary))) == "the run is failed: no tea"
    stats = surveyed.run.stats.model_copy(update={"calls": 6})
    summary = replace(surveyed.run, stats=stats)
    assert only(of_run(replace(surveyed, run=summary))) == "the run made 6 calls, not 5"
    stats = surveyed.run.stats.model_copy(update={"open_calls": 1})
    summary = replace(surveyed.run, stats=stats)
    assert "not settled" in only(of_run(replace(surveyed, run=summary)))


def test_a_comparison_that_did_not_come_last_is_reported() -> None:
    early = story.summary(*(story.node(name, 0) for name in story.NAMES), story.node(REPORT, 0))
    problems = of_run(story.surveyed(run=early))
    assert [problem.split(" had ")[0] for problem in problems] == [
        f"compare began before {name}" for name in story.NAMES
    ]
    graph = story.surveyed().run.graph.model_copy(update={"edges": []})
    summary = replace(story.surveyed().run, graph=graph)
    assert len(of_run(story.surveyed(run=summary))) == len(story.NAMES)
    alone = replace(story.summary(story.node(REPORT, 0)), stats=summary.stats)
    assert "other nodes" in only(of_run(story.surveyed(run=alone)))


def test_a_fork_that_did_again_what_it_reads_is_reported() -> None:
    surveyed = story.surveyed()
    diary = (*surveyed.diary, "gathered the findings")
    assert "done 2 times" in only(of_fork(replace(surveyed, diary=diary)))
    again = story.summary(story.node("aoyama", 2), story.node(REPORT, 2), answer="aoyama")
    problems = of_fork(replace(surveyed, branch=again))
    assert problems == [
        "the fork made 2 calls, not 1",
        "the fork ran again what comes before compare/request 1: aoyama",
    ]


def test_a_dry_run_that_says_something_else_is_reported() -> None:
    wrong = story.surveyed(dry=story.fork(reused=3, rerun=2))
    assert only(of_fork(wrong)) == "the dry run says that 3 calls are read and 2 made"
    unsafe = ForkStep(
        node=REPORT, name="send", kind="step", effect="unsafe", reused=False, recorded=True
    )
    assert "unsafe" in only(of_fork(story.surveyed(dry=story.fork(unsafe=[unsafe]))))


def test_a_fork_that_answers_as_its_run_did_is_reported() -> None:
    same = story.surveyed(branch=story.summary(story.node(REPORT, 2), answer="39"))
    assert "the same answer" in only(of_fork(same))
    nothing = story.surveyed(branch=story.summary(story.node(REPORT, 2), answer=""))
    assert "has no answer" in only(of_fork(nothing))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"second": {"supersedes": None}}, "did not take the place"),
        ({"first": {"consumed_at": story.NOON}}, "the approval of 20 crates was used"),
        ({"second": {"difference": None}}, "does not show the difference"),
        ({"second": {"consumed_at": None}}, "the approval of the second question was not used"),
        ({"second": {"status": "rejected"}}, "the approval of the second question was not used"),
        ({"diary": ("ordered 20 crates of sencha",)}, "this was ordered: ordered 20 crates"),
        ({"diary": ()}, "this was ordered: nothing"),
    ],
)
def test_an_order_that_was_not_approved_is_reported(change: dict[str, Any], problem: str) -> None:
    assert problem in only(of_order(story.ordered(**change)))


@pytest.mark.parametrize(
    ("bill", "call", "problem"),
    [
        ([story.charge(), story.charge()], {}, "was sent request one 2 times"),
        ([story.charge(request_id="two"), story.charge()], {}, "charged for, and 0 calls have it"),
        ([story.charge(output_tokens=31)], {}, "has (70, 30) tokens in the books"),
        ([], {}, "the provider has not charged for it"),
        ([story.charge()], {"cost": None}, "has no cost"),
        ([story.charge()], {"price": None}, "no price is frozen in it"),
        (
            [story.charge(input_tokens=1001)],
            {"status": "unknown"},
            "(unknown) has (1000, 100) tokens in the books",
        ),
    ],
)
def test_a_bill_that_is_not_in_the_books_is_reported(
    bill: list[Charge], call: dict[str, Any], problem: str
) -> None:
    assert problem in only(of_bill(bill, [story.call(**call)]))


def test_a_charge_within_the_estimate_of_an_unsettled_call_is_accepted() -> None:
    lost = story.call(status="unknown", input_tokens=None, output_tokens=None, cost=None)
    assert of_bill([story.charge()], [lost]) == []
    assert of_bill([], [lost]) == []


def test_a_guest_who_is_not_corrected_or_not_forgotten_is_reported() -> None:
    good = story.guests()
    first, correction = good.memories
    active = first.model_copy(update={"superseded_by": None})
    assert "superseded 0 memories" in only(problems_of(story.guests(memories=(active, correction))))
    hits = ({"text": TOLD[0]},)
    assert "is not what was recalled" in only(problems_of(story.guests(hits=hits)))
    assert "1 memories of" in only(problems_of(story.guests(left=(correction,))))
    trace = Trace(table_name="steps", column_name="output", rows=1, keys=["1"])
    proof = good.erased.proof.model_copy(update={"traces": [trace]})
    erased = Erasure(removed={"memories": 2}, emptied={}, late=0, proof=proof)
    assert "something is in steps.output" in only(problems_of(story.guests(erased=erased)))
