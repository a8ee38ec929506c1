"""The summary at the end, for people.

In: the facts and the problems. Out: tables and a verdict. Nothing here decides anything.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.ledger import UsageBy
from worker.demo.verdict import Facts

HITS_SHOWN = 3
HIT_CHARACTERS_MAX = 90


def print_report(console: Console, facts: Facts, problems: Sequence[str]) -> None:
    """Print the whole summary."""
    for title, table in (
        ("Jobs by mode and outcome", _jobs(facts)),
        ("Jobs seen waiting, by reason", _pairs(sorted(facts.waits.items()))),
        ("Tokens by mode", _usage(facts.by_mode, "mode")),
        ("Tokens by model", _usage(facts.by_model, "model")),
        ("Approvals", _approvals(facts)),
        ("Deployments", _deployments(facts)),
        (f"Memory, asked “{_short(facts.query)}”", _hits(facts)),
        ("What the kill cost", _pairs(_kill(facts))),
        ("Checks", _pairs(_checks(facts))),
    ):
        console.print(Text(f"\n{title}", style="bold"))
        console.print(table)
    console.print()
    for problem in problems:
        console.print(Text(f"✗ {problem}", style="red"))
    if problems:
        console.print(
            Text(f"\n{len(problems)} things are not as they should be.", style="bold red")
        )
    else:
        console.print(Text("Everything is as the inbox expects.", style="bold green"))


def _jobs(facts: Facts) -> Table:
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for job in facts.jobs:
        counted[job.mode][job.status] += 1
    statuses = sorted({status for states in counted.values() for status in states})
    table = _table("mode", *statuses)
    for mode, states in sorted(counted.items()):
        table.add_row(mode, *(str(states[status] or "") for status in statuses))
    return table


def _usage(rows: Sequence[UsageBy], by: str) -> Table:
    table = _table(by, "calls", "input", "output", "total", "cost")
    for row in rows:
        cost = "unknown" if row.cost is None or row.unknown_cost_entries else f"{row.cost:f}"
        numbers = (row.entries, row.input_tokens, row.output_tokens, row.total_tokens)
        table.add_row(row.key or "-", *(f"{number:,}" for number in numbers), cost)
    return table


def _approvals(facts: Facts) -> Table:
    table = _table("proposal", "status", "by", "comment")
    for approval in facts.approvals:
        table.add_row(
            _short(approval.proposal_text),
            approval.status,
            approval.decided_by or "-",
            _short(approval.comment or ""),
        )
    return table


def _deployments(facts: Facts) -> Table:
    table = _table("environment", "commit", "status", "probe")
    for deployment in facts.deployments:
        probe = str((deployment.probe or {}).get("detail", "none"))
        table.add_row(deployment.environment, deployment.sha[:12], deployment.status, _short(probe))
    return table


def _hits(facts: Facts) -> Table:
    table = _table("score", "kind", "text")
    for hit in facts.hits[:HITS_SHOWN]:
        table.add_row(f"{hit.score:.2f}", hit.source_kind, _short(hit.text))
    return table


def _kill(facts: Facts) -> list[tuple[str, str]]:
    kill = facts.kill
    seconds = f"{kill.seconds[0]:.1f} to {kill.seconds[-1]:.1f}" if kill.seconds else "-"
    return [
        ("killed with SIGKILL", kill.daemon),
        ("jobs it was running", str(kill.held)),
        ("of these rescued, and run again", str(kill.ran_again)),
        ("seconds until they ran again", seconds),
        ("recorded steps not done again", str(kill.steps_kept)),
        ("recorded steps done again", str(len(kill.steps_repeated))),
    ]


def _checks(facts: Facts) -> list[tuple[str, str]]:
    books = "balance" if not facts.imbalances else f"{len(facts.imbalances)} disagreements"
    agree = "agree" if facts.said_tokens == facts.called_tokens else "DISAGREE"
    redelivered = sum(fed.received.duplicate for fed in facts.fed)
    return [
        ("messages redelivered, and stored once", str(redelivered)),
        ("violations", str(len(facts.violations) or "none")),
        ("calls against ledger", books),
        (
            "messages against calls",
            f"{agree} ({facts.said_tokens:,} and {facts.called_tokens:,} tokens)",
        ),
    ]


def _pairs(rows: Iterable[tuple[str, object]]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column()
    table.add_column()
    for name, value in rows:
        table.add_row(Text(name), Text(str(value)))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for name in (first, *others):
        table.add_column(name, overflow="fold")
    return table


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= HIT_CHARACTERS_MAX else line[: HIT_CHARACTERS_MAX - 1] + "…"
