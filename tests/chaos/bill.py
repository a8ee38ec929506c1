"""Do the books agree with the provider's own bill, call by call?

In: the bill, the scene after all has ended, and every amount that a budget ever had. Out: nothing,
or an AssertionError that names the call. What is read here is read by statements of its own, and
added up here: neither the product's sums nor its checks are trusted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg.rows import DictRow

from tests.chaos import price_list
from tests.chaos.scene import Scene
from tests.providers.openai_stub import BillLine, Charge

CALLS: LiteralString = """
select c.id, c.request_id, c.lease_no, c.status::text, c.usage_source::text, c.job_id, c.run_id,
  c.step_name, c.mode, c.model, c.limited, c.input_tokens, c.output_tokens, c.cache_read_tokens,
  c.cost, c.cache_write_tokens, c.reasoning_tokens, c.other_usage, c.tier, c.answered_model,
  c.estimated_input_tokens, c.estimated_output_tokens, c.estimated_cost, c.started_at, c.settled_at
from jobsworth.llm_calls c
order by c.started_at
"""

ENTRIES: LiteralString = """
select l.call_id, l.entry::text, l.input_tokens + l.output_tokens as tokens, l.cost, l.occurred_at
from jobsworth.token_ledger l
order by l.occurred_at, l.id
"""

COUNTED: LiteralString = """
select p.call_id, p.window_id, b.name, w.starts_at, w.run_id
from jobsworth.call_windows p
join jobsworth.budget_windows w on w.id = p.window_id
join jobsworth.budgets b on b.id = w.budget_id
"""

STEPS: LiteralString = """
select s.job_id, s.name, pg_xact_commit_timestamp(s.xmin) as committed_at
from jobsworth.steps s
where s.kind = 'call' and s.finished_at is not null
"""

# From the booking of a call to its arrival: a daemon may be stalled in between, or a machine busy.
LATE_SECONDS = 10.0


class Budget(NamedTuple):
    """What a test bounds: calls of this model and mode (None: of all), by hour, day or run."""

    name: str
    unit: str
    period: str
    model: str | None = None
    mode: str | None = None

    def bounds(self, call: DictRow) -> bool:
        return self.model in (None, call["model"]) and self.mode in (None, call["mode"])

    def window(self, call: DictRow) -> tuple[str, Any]:
        """Which window a call falls into."""
        started: datetime = call["started_at"]
        match self.period:
            case "hour":
                return self.name, started.replace(minute=0, second=0, microsecond=0)
            case "day":
                return self.name, started.replace(hour=0, minute=0, second=0, microsecond=0)
            case _:
                return self.name, call["run_id"] or call["job_id"]


@dataclass(slots=True)
class Amounts:
    """What a budget was allowed, from when on."""

    since: list[float]
    amounts: list[Decimal]

    def at(self, instant: float) -> Decimal:
        return self.amounts[max(0, bisect_right(self.since, instant) - 1)]


class Books:
    """The books beside the bill, both complete."""

    def __init__(self, scene: Scene, bill: Sequence[BillLine]) -> None:
        self.bill = bill
        scene.conn.execute("set time zone 'utc'")
        # Of one moment: a worker that was stalled, or a spool, may bring an answer meanwhile.
        with scene.conn.transaction():
            scene.conn.execute("set transaction isolation level repeatable read")
            self.calls = scene.rows(CALLS)
            self.entries = scene.rows(ENTRIES)
            self.counted = scene.rows(COUNTED)
            self.recorded: dict[tuple[UUID, str], datetime] = {
                (row["job_id"], row["name"]): row["committed_at"] for row in scene.rows(STEPS)
            }
        self.by_request: dict[str, DictRow] = {row["request_id"]: row for row in self.calls}

    def check_each_request_on_the_bill_has_one_call(self) -> None:
        assert len(self.by_request) == len(self.calls)
        sent = Counter(line.charge.request_id for line in self.bill)
        assert {request: times for request, times in sent.items() if times > 1} == {}
        assert sent.keys() - self.by_request.keys() == set()
        unsent = [call for call in self.calls if call["request_id"] not in sent]
        assert [c for c in unsent if c["status"] not in ("unknown", "error")] == []

    def check_each_call_says_what_the_bill_says(self) -> None:
        """To the token; what the provider did not say is held at the estimate."""
        for line in self.bill:
            call, charge = self.by_request[str(line.charge.request_id)], line.charge
            said = f"{call}\nis not {line}"
            billed = (charge.input_tokens, charge.output_tokens, charge.cached_tokens)
            booked = (call["input_tokens"], call["output_tokens"], call["cache_read_tokens"])
            assert call["model"] == charge.model, said
            if call["limited"] and call["status"] == "cut":
                # Its provider broke it off, and bills no more than it has shown.
                assert line.fault == "429_half", said
                upper = (call["estimated_input_tokens"], call["estimated_output_tokens"])
                assert billed[0] <= booked[0] <= upper[0], said
                assert billed[1] <= booked[1] <= upper[1], said
                cost = price_list.cost(charge)
                if call["cost"] is None:
                    assert cost is None, said
                else:
                    assert (cost or 0) <= call["cost"] <= call["estimated_cost"], said
            elif not line.computed and call["status"] == "error":
                assert booked == (0, 0, 0), said
                assert call["cost"] == 0, said
            elif (call["status"], call["usage_source"]) == ("ok", "provider"):
                assert booked == billed, said
                cost = price_list.cost(charge)
                # Whoever was given up stays at the estimate if the truth has no price.
                assert call["cost"] == cost or (cost, call["estimated_cost"]) == (
                    *(None, call["cost"]),
                ), said
                self._check_classes(call, charge, said)
            else:
                assert call["status"] in ("ok", "cut", "unknown"), said
                if call["status"] == "ok":
                    assert line.fault in ("missing_usage", "inconsistent_usage"), said
                assert call["usage_source"] == "estimated", said
                estimated = (call["estimated_input_tokens"], call["estimated_output_tokens"])
                assert booked == (*estimated, 0), said
                assert call["cost"] == call["estimated_cost"] >= (price_list.cost(charge) or 0), (
                    said
                )
                assert booked[0] >= billed[0], said
                assert booked[1] >= billed[1], said

    def _check_classes(self, call: DictRow, charge: Charge, said: str) -> None:
        written = (call["cache_write_tokens"], call["reasoning_tokens"])
        assert written == (charge.written_tokens, charge.thought_tokens), said
        assert (call["other_usage"] or {}) == charge.others, said
        assert call["tier"] == price_list.tier_of(charge), said
        answered = None if charge.answered_model == charge.model else charge.answered_model
        assert call["answered_model"] == answered, said

    def check_no_answer_was_bought_twice(self) -> None:
        """Nothing was sent for a step whose answer was committed; each answer is its step."""
        bought = {(c["job_id"], c["step_name"]) for c in self.calls if c["status"] == "ok"}
        assert bought == self.recorded.keys(), (
            f"bought and not recorded: {bought - self.recorded.keys()}; "
            f"recorded and not bought: {self.recorded.keys() - bought}"
        )
        sent = {line.charge.request_id for line in self.bill}
        again = [
            call
            for call in self.calls
            if call["request_id"] in sent
            and (known := self.recorded.get((call["job_id"], call["step_name"])))
            and call["started_at"] > known
        ]
        assert again == [], f"sent again: {again}"

    def check_each_call_counts_where_it_falls(self, budgets: Sequence[Budget]) -> None:
        """In the one window of every budget that bounds it, and nowhere else."""
        periods = {budget.name: budget for budget in budgets}
        counted: dict[UUID, set[tuple[str, Any]]] = defaultdict(set)
        for row in self.counted:
            budget = periods[row["name"]]
            counted[row["call_id"]].add((budget.name, row["run_id"] or row["starts_at"]))
        for call in self.calls:
            due = {budget.window(call) for budget in budgets if budget.bounds(call)}
            assert counted[call["id"]] == due, call

    def check_nothing_beyond_a_budget(self, budget: Budget, amounts: Amounts) -> None:
        """Neither what was sent nor what was held was ever more than the amount of that time."""
        bounded = {call["id"]: call for call in self.calls if budget.bounds(call)}
        requests = {call["request_id"]: call for call in bounded.values()}
        sent: dict[object, Decimal] = defaultdict(Decimal)
        for line in sorted(self.bill, key=lambda line: line.at):
            call = requests.get(str(line.charge.request_id))
            if call is not None:
                window = budget.window(call)
                sent[window] += self._billed(budget, line.charge)
                assert sent[window] <= amounts.at(line.at), f"{window} at {line}"
        held: dict[object, Decimal] = defaultdict(Decimal)
        holds: dict[UUID, Decimal] = defaultdict(Decimal)
        for entry in self.entries:
            call = bounded.get(entry["call_id"])
            if call is None:
                continue
            window, before = budget.window(call), holds[call["id"]]
            told = entry["tokens"] if budget.unit == "tokens" else entry["cost"]
            # A cost that nobody knows counts as much as was reserved for it.
            amount = before if told is None else Decimal(told)
            holds[call["id"]] = before + amount if entry["entry"] == "adjust" else amount
            held[window] += holds[call["id"]] - before
            if entry["entry"] == "reserve":
                allowed = amounts.at(entry["occurred_at"].timestamp())
                assert held[window] <= allowed, f"{window}: {held[window]} at {entry}"

    def check_rate(
        self, paths: Collection[str], model: str, per_minute: int, since: float, until: float
    ) -> None:
        """A bucket holds a minute's worth, and fills at the rate: no interval saw more arrive.

        What arrived within it was booked within it, or up to `LATE_SECONDS` before.
        """
        arrived = [
            line.at
            for line in self.bill
            if line.charge.model == model and line.charge.path in paths
        ]
        within = sorted(at for at in arrived if since < at < until)
        for first, began in enumerate(within):
            for count, at in enumerate(within[first:], start=1):
                allowed = per_minute * (1 + (at - began + LATE_SECONDS) / 60)
                assert count <= allowed + 1, f"{count} requests in {at - began:.3f} s"

    def check_each_call_began_under_its_lease(self) -> None:
        """None of a job began after one of a later lease had: whoever lost it books nothing."""
        newest: dict[UUID, int] = defaultdict(int)
        for call in self.calls:
            assert call["lease_no"] >= newest[call["job_id"]], f"after its lease was lost: {call}"
            newest[call["job_id"]] = call["lease_no"]

    def booked_by_the_provider(self) -> Iterator[BillLine]:
        """The lines whose calls are settled at what their provider says."""
        for line in self.bill:
            call = self.by_request[str(line.charge.request_id)]
            if (call["status"], call["usage_source"]) == ("ok", "provider"):
                yield line

    def statuses(self) -> Counter[str]:
        return Counter(call["status"] for call in self.calls)

    def faults(self) -> Counter[str]:
        return Counter(line.fault or "none" for line in self.bill)

    def _billed(self, budget: Budget, charge: Charge) -> Decimal:
        if budget.unit == "tokens":
            return Decimal(charge.input_tokens + charge.output_tokens)
        return price_list.cost(charge) or Decimal(0)
