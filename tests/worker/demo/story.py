"""The records of a run, a fork and an order that went well; each test spoils one of them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar, get_args
from uuid import UUID, uuid4

from pydantic import BaseModel

from db.approvals.approvals import Approval, ApprovalStatus
from db.memory.status import Memory, MemoryStatus, MemoryType
from db.money.budgets import Budget
from db.money.calls import Call
from db.people.agents import Agent
from db.people.erasure import Erasure, Proof
from db.runs.branches import Fork, Share
from db.runs.runs import Edge, Graph, GraphNode, Run, RunStats
from worker.demo.guests import CORRECTED, TOLD, GuestsResult
from worker.demo.order import OrderResult
from worker.demo.provider.bill import Charge
from worker.demo.survey import LETTERS, REPORT, BudgetHit, RunSummary, SurveyResult

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAMES = tuple(LETTERS)
M = TypeVar("M", bound=BaseModel)


def made(kind: type[M], **values: Any) -> M:
    """An instance of `kind` with these values and defaults for the other fields."""
    rest: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        optional = type(None) in get_args(field.annotation) or field.annotation is Any
        if field.is_required():
            rest[name] = None if optional else _little(field.annotation)
    return kind.model_validate(rest | values)


def _little(annotation: Any) -> Any:
    simple = {UUID: uuid4(), str: "", int: 0, bool: False, float: 0.0, Decimal: Decimal(0)}
    return simple.get(annotation, NOON if "datetime" in str(annotation).lower() else ())


def budget(**values: Any) -> Budget:
    return made(
        Budget,
        **{
            "name": "letters",
            "unit": "money",
            "amount": Decimal("0.001"),
            "period": "day",
            "mode": "survey",
            "over": "park",
            "warn_at": Decimal("0.8"),
            "starts_at": NOON,
            "created_at": NOON,
            "spent": Decimal("0.0002"),
            "waiting": 2,
            **values,
        },
    )


def at_the_end(**values: Any) -> Budget:
    return budget(**{"amount": Decimal(1), "spent": Decimal("0.0009"), "waiting": 0, **values})


def held(**values: Any) -> BudgetHit:
    good: dict[str, Any] = {
        "scant": budget(),
        "peak": Decimal("0.0009"),
        "waited": 2,
        "why": "there is too little left",
    }
    return BudgetHit(**{**good, **values})


def node(name: str, minute: int) -> GraphNode:
    began = NOON + timedelta(minutes=minute)
    return made(
        GraphNode,
        id=uuid4(),
        node=name,
        mode="survey",
        status="done",
        started_at=began,
        finished_at=began + timedelta(seconds=30),
        calls=1,
    )


def summary(*nodes: GraphNode, answer: str = "39", **values: Any) -> RunSummary:
    run = made(Run, id=uuid4(), status="done", created_at=NOON, updated_at=NOON)
    report = nodes[-1]
    edges = [Edge(job_id=report.id, needs_job_id=each.id, on_failure="fail") for each in nodes[:-1]]
    stats = made(RunStats, jobs={"done": len(nodes)}, calls=len(nodes), open_calls=0)
    good: dict[str, Any] = {
        "run": run,
        "stats": stats,
        "graph": Graph(nodes=list(nodes), edges=edges),
        "answer": answer,
    }
    return RunSummary(**{**good, **values})


def surveyed(**values: Any) -> SurveyResult:
    good: dict[str, Any] = {
        "budget": held(),
        "run": summary(*(node(name, 0) for name in NAMES), node(REPORT, 1)),
        "dry": fork(),
        "branch": summary(node(REPORT, 2), answer="aoyama"),
        "diary": (*(f"opened the letter of {name}" for name in NAMES), "gathered the findings"),
    }
    return SurveyResult(**{**good, **values})


def fork(reused: int = len(NAMES), rerun: int = 1, unsafe: Any = ()) -> Fork:
    def share(calls: int) -> Share:
        return Share(calls, calls, 100 * calls, Decimal("0.0001"), 0)

    return Fork(
        None, uuid4(), REPORT, "compare/request 1", [], [], share(reused), share(rerun), [*unsafe]
    )


def approval(**values: Any) -> Approval:
    return made(
        Approval,
        **{
            "id": uuid4(),
            "proposal_text": "Order?",
            "options": ("approve", "reject"),
            "status": ApprovalStatus.APPROVED,
            "chosen_option": "approve",
            "on_timeout": "reject",
            "created_at": NOON,
            **values,
        },
    )


def ordered(first: Any = None, second: Any = None, **values: Any) -> OrderResult:
    ids = uuid4(), uuid4()
    before: dict[str, Any] = {"id": ids[0], "status": "superseded", "superseded_by": ids[1]}
    after: dict[str, Any] = {
        "id": ids[1],
        "supersedes": ids[0],
        "difference": "-20\n+30",
        "consumed_at": NOON,
    }
    good: dict[str, Any] = {
        "first": approval(**before, **(first or {})),
        "second": approval(**{**after, **(second or {})}),
        "diary": ("ordered 30 crates of sencha",),
    }
    return OrderResult(**{**good, **values})


def memory(text: str, **values: Any) -> Memory:
    kind = MemoryType.PREFERENCE
    active: dict[str, Any] = {"status": MemoryStatus.ACTIVE, "type": kind, "metadata": {}}
    return made(Memory, **{**active, "text": text, **values})


def guests(**values: Any) -> GuestsResult:
    correction = memory(f"The user said: {CORRECTED}", id=uuid4())
    first = memory(TOLD[0], status=MemoryStatus.SUPERSEDED, superseded_by=correction.id)
    good: dict[str, Any] = {
        "agent": made(Agent, name="Sen", personality="warm", skills=["pour"], metadata={}),
        "memories": (first, correction),
        "hits": ({"text": CORRECTED, "score": 0.9, "parts": {"similarity": 0.9}},),
        "erased": Erasure(removed={"memories": 2}, emptied={}, late=0, proof=made(Proof)),
        "left": (),
    }
    return GuestsResult(**{**good, **values})


def call(**values: Any) -> Call:
    return made(
        Call,
        **{
            "id": uuid4(),
            "scope": "reactive",
            "mode": "answer",
            "provider": "openai",
            "model": "gpt-5-mini",
            "status": "ok",
            "request_id": "one",
            "estimated_input_tokens": 1000,
            "estimated_output_tokens": 100,
            "input_tokens": 70,
            "output_tokens": 30,
            "cost": Decimal("0.0001"),
            "price_version": "genai-prices 1",
            "price": {"input": "1"},
            "started_at": NOON,
            **values,
        },
    )


def charge(**values: Any) -> Charge:
    good: dict[str, Any] = {
        "request_id": "one",
        "model": "gpt-5-mini",
        "input_tokens": 70,
        "output_tokens": 30,
    }
    return Charge(**{**good, **values})
