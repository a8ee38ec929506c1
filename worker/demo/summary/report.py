"""The summary that the demo prints.

In: the facts and the problems. Out: tables, the problems, and a closing line. Nothing here decides
anything.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.money.ledger import UsageBy
from worker.demo.summary.checks import Facts
from worker.demo.summary.story_report import billed, story
from worker.demo.summary.tables import money, pairs, short, table
from worker.demo.survey import count

HITS_SHOWN = 3


def print_report(console: Console, facts: Facts, problems: Sequence[str]) -> None:
    """Print the whole summary."""
    for title, shown in (
        (f"Jobs by mode and outcome{_on_purpose(facts)}", _jobs(facts)),
        ("Jobs seen waiting, by reason", pairs(sorted(facts.waits.items()))),
        ("Tokens and cost (USD) by mode", _usage(facts.by_mode, "mode")),
        ("Tokens and cost (USD) by model", _usage(facts.by_model, "model")),
        *story(facts),
        ("Approvals", _approvals(facts)),
        ("Deployments", _deployments(facts)),
        (f"Memory, asked “{short(facts.query)}”", _hits(facts)),
        ("What the kill cost", pairs(_kill(facts))),
        ("Checks", pairs(_checks(facts))),
    ):
        console.print(Text(f"\n{title}", style="bold"))
        _print(console, shown)
    console.print()
    for problem in problems:
        console.print(Text(f"✗ {problem}", style="red"))
    if problems:
        console.print(Text(f"\n{count(len(problems), 'check')} failed.", style="bold red"))
    else:
        console.print(Text("Everything is as the inbox expects.", style="bold green"))
        console.print(
            "Next: write a job of your own (README.md), or run it with --keep and look around."
        )


# rich pads lines with blanks; in a file they are of no use.
def _print(console: Console, shown: Table) -> None:
    if console.is_terminal:
        console.print(shown)
        return
    with console.capture() as captured:
        console.print(shown)
    for line in captured.get().splitlines():
        console.print(line.rstrip(), markup=False, soft_wrap=True)


def _on_purpose(facts: Facts) -> str:
    return " (poison is meant to fail)" if any(job.mode == "poison" for job in facts.jobs) else ""


def _jobs(facts: Facts) -> Table:
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for job in facts.jobs:
        counted[job.mode][job.status] += 1
    statuses = sorted({status for states in counted.values() for status in states})
    shown = table("mode", *statuses)
    for mode, states in sorted(counted.items()):
        shown.add_row(mode, *(str(states[status] or "") for status in statuses))
    return shown


def _usage(rows: Sequence[UsageBy], by: str) -> Table:
    shown = table(by, "calls", "input", "output", "total", "cost")
    for row in rows:
        cost = "unknown" if row.cost is None or row.unknown_cost_entries else money(row.cost)
        numbers = (row.entries, row.input_tokens, row.output_tokens, row.total_tokens)
        shown.add_row(row.key or "-", *(f"{number:,}" for number in numbers), cost)
    return shown


def _approvals(facts: Facts) -> Table:
    shown = table("proposal", "status", "by", "comment")
    for approval in facts.approvals:
        shown.add_row(
            short(approval.proposal_text),
            approval.status,
            approval.decided_by or "-",
            short(approval.comment or ""),
        )
    return shown


def _deployments(facts: Facts) -> Table:
    shown = table("environment", "commit", "status", "probe")
    for deployment in facts.deployments:
        probe = str((deployment.probe or {}).get("detail", "none"))
        shown.add_row(deployment.environment, deployment.sha[:12], deployment.status, short(probe))
    return shown


def _hits(facts: Facts) -> Table:
    shown = table("score", "kind", "text")
    for hit in facts.hits[:HITS_SHOWN]:
        shown.add_row(f"{hit.score:.2f}", hit.source_kind, short(hit.text))
    return shown


def _kill(facts: Facts) -> list[tuple[str, str]]:
    kill = facts.kill
    times = dict.fromkeys(f"{seconds:.1f}" for seconds in kill.seconds[:1] + kill.seconds[-1:])
    return [
        ("killed with SIGKILL", kill.daemon),
        ("jobs it was running", str(kill.held)),
        ("rescued jobs that ran again", str(kill.ran_again)),
        ("seconds until they ran again", " to ".join(times) or "-"),
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
        *billed(facts),
    ]
