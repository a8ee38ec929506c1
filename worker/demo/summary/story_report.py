"""The summary of the run and its graph, its fork, the budget, the order, the guest and the bill.

In: the facts. Out: titles and tables. Nothing here decides anything.
"""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from db.runs.branches import Share
from worker.cli.views.run_tree import Row, rows_of
from worker.demo.guests import WISH, GuestsResult
from worker.demo.order import OrderResult
from worker.demo.summary.checks import Facts
from worker.demo.summary.story_checks import cost_of, of_bill
from worker.demo.summary.tables import money, pairs, short, table
from worker.demo.survey import OTHER_QUESTION, QUESTION, RunSummary, SurveyResult, amount, count
from worker.memory.ranking import Parts


def story(facts: Facts) -> list[tuple[str, Table]]:
    """The tables, each with its title."""
    return [
        ("Runs", _runs(facts.surveyed)),
        ("The run's graph", _graph(facts.surveyed.run)),
        ("The fork", pairs(_fork(facts.surveyed))),
        ("The budget", pairs(_budget(facts))),
        ("The order that changed", pairs(_order(facts.ordered))),
        ("A guest, and the agent that remembers her", pairs(_guests(facts.guests))),
    ]


def billed(facts: Facts) -> list[tuple[str, str]]:
    """The provider's bill beside the books; empty for the offline rules, which bill nothing."""
    if not facts.priced:
        return []
    agree = "DISAGREE" if of_bill(facts.bill, facts.calls) else "agree"
    tokens = sum(charge.input_tokens + charge.output_tokens for charge in facts.bill)
    versions = sorted({call.price_version for call in facts.calls if call.price_version})
    return [
        (
            "provider's bill against our books",
            f"{agree} ({len(facts.bill):,} answers, {tokens:,} tokens)",
        ),
        ("cost, at the prices of each call", f"{money(cost_of(facts.calls))} USD"),
        ("prices by", ", ".join(versions)),
    ]


def _runs(surveyed: SurveyResult) -> Table:
    shown = table("run", "status", "jobs", "calls", "input", "output", "cost (USD)")
    for name, summary in (("suppliers", surveyed.run), ("its fork", surveyed.branch)):
        stats = summary.stats
        numbers = (
            *(sum(stats.jobs.values()), stats.calls),
            *(stats.input_tokens, stats.output_tokens),
        )
        counts = (f"{number:,}" for number in numbers)
        shown.add_row(name, summary.run.status, *counts, money(stats.cost))
    return shown


def _graph(summary: RunSummary) -> Table:
    shown = table("node", "mode", "status", "tokens", "cost (USD)", "comes after")
    for row in rows_of(summary.graph):
        shown.add_row(*_cells(row))
    return shown


def _cells(row: Row) -> list[str]:
    node, name = row.node, "  " * row.level + row.name
    if node is None:
        return [name]
    cost = "-" if node.cost is None else money(node.cost)
    return [name, node.mode, node.status, f"{node.tokens:,}", cost, ", ".join(row.after)]


def _fork(surveyed: SurveyResult) -> list[tuple[str, str]]:
    dry = surveyed.dry
    return [
        ("forked at", f"{dry.node}, {dry.step}"),
        ("read, not done or paid again", _share(dry.reused)),
        ("made anew (the first time)", _share(dry.rerun)),
        ("asked", QUESTION),
        ("answered", short(surveyed.run.answer or "nothing")),
        ("asked by the fork", OTHER_QUESTION),
        ("answered", short(surveyed.branch.answer or "nothing")),
    ]


def _share(share: Share) -> str:
    return (
        f"{count(share.steps, 'step')}, {count(share.calls, 'call')}, {share.tokens:,} tokens, "
        f"{money(share.cost)} USD"
    )


def _budget(facts: Facts) -> list[tuple[str, str]]:
    held, end = facts.surveyed.budget, facts.budget
    unit = end.unit
    return [
        ("allowed at first", f"{amount(held.scant.amount, unit)} a day for {end.mode}"),
        ("most seen in it until then", amount(held.peak, unit)),
        ("waited", f"{held.waited} jobs: {held.why}"),
        ("raised to", amount(end.amount, unit)),
        ("spent at the end", amount(end.spent, unit)),
    ]


def _order(ordered: OrderResult) -> list[tuple[str, str]]:
    first, second = ordered.first, ordered.second
    return [
        ("asked first", f"{first.proposal_text} {first.chosen_option}, then {first.status}"),
        ("asked instead", f"{second.proposal_text} {second.chosen_option}"),
        ("difference shown", _changed_lines(second.difference or "")),
        ("done", ", ".join(ordered.diary)),
    ]


def _guests(result: GuestsResult) -> list[tuple[str, str]]:
    agent, proof = result.agent, result.erased.proof
    successors = {one.superseded_by for one in result.memories if one.superseded_by}
    rows = sum(result.erased.removed.values())
    return [
        ("the agent", f"{agent.name}: {agent.personality}; {', '.join(agent.skills)}"),
        *(
            (f"{one.status} {one.type}", one.text + "  (the correction)" * (one.id in successors))
            for one in result.memories
        ),
        ("asked", WISH),
        *(("recalled", _scored(hit)) for hit in result.hits),
        ("erased", f"{rows} rows of {count(len(result.erased.removed), 'table')}"),
        (
            "proof",
            f"{proof.fragments + proof.names} of her words and names looked for in "
            f"{proof.columns:,} columns, {proof.rows:,} rows; found: {len(proof.traces) or 'none'}",
        ),
    ]


def _scored(hit: Mapping[str, Any]) -> str:
    parts = [f"{hit['parts'][name]:.2f} {name}" for name in Parts.model_fields]
    return f"{hit['score']:.2f} = {' + '.join(parts)}: {short(hit['text'])}"


def _changed_lines(difference: str) -> str:
    lines = [line for line in difference.splitlines() if line[:1] in "+-" and line[1:2] not in "+-"]
    return "\n".join(lines)
