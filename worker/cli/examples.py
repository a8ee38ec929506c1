"""An example of each command that takes something, as its `--help` shows it.

In: a command's words, without the program's. Out: lines to paste. A test has each read by the
command's own parser.
"""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "worker": ("JOBSWORTH_HANDLERS=myjobs jobsworth worker",),
    "migrate": ("jobsworth migrate", "jobsworth migrate --sql > schema.sql"),
    "doctor": ("jobsworth doctor", "jobsworth doctor --settings"),
    "demo": ("jobsworth demo --model offline",),
    "enqueue": (
        """jobsworth enqueue greet '{"name": "Ada"}' --wait""",
        "jobsworth enqueue report @payload.json --delay 1h30m --priority 1",
    ),
    "jobs": ("jobsworth jobs --status waiting", "jobsworth jobs --waiting-for approval --json"),
    "job": ("jobsworth job 019a9d3e5b1c",),
    "why": ("jobsworth why 019a9d3e5b1c",),
    "cancel": ("jobsworth cancel 019a9d3e5b1c --reason 'not needed any more'",),
    "retry": ("jobsworth retry 019a9d3e5b1c",),
    "signal": ("""jobsworth signal 019a9d3e5b1c paid '{"invoice": 17}'""",),
    "fork": (
        "jobsworth fork 019a9d3e5b1c --at gathered --dry-run",
        """jobsworth fork 019a9d3e5b1c --at gathered --change 'write:{"words": 5}'""",
    ),
    "runs": ("jobsworth runs", "jobsworth runs 019a9d3e5b1c", "jobsworth runs start run.json"),
    "runs list": ("jobsworth runs list --status failed --since 24h",),
    "runs start": (
        """nodes='[{"node": "a", "mode": "fetch"}, {"node": "b", "mode": "fetch"},""",
        """  {"node": "c", "mode": "compare", "after": ["a", "b"]}]'""",
        'echo "$nodes" | jobsworth runs start -',
    ),
    "runs cancel": ("jobsworth runs cancel 019a9d3e5b1c",),
    "runs retry": ("jobsworth runs retry 019a9d3e5b1c",),
    "runs delete": ("jobsworth runs delete 019a9d3e5b1c",),
    "approvals": ("jobsworth approvals", "jobsworth approvals 019a9d3e5b1c"),
    "approve": (
        "jobsworth approve 019a9d3e5b1c --comment 'go ahead'",
        "jobsworth approve 019a9d3e5b1c --edit @shorter.json",
    ),
    "reject": ("jobsworth reject 019a9d3e5b1c --comment 'too early'",),
    "step done": ("""jobsworth step done 019a9d3e5b1c pay --output '{"receipt": 17}'""",),
    "step again": ("jobsworth step again 019a9d3e5b1c pay",),
    "webhook add": (
        "export JOBSWORTH_WEBHOOK_HOSTS=example.org  # for the workers too",
        "jobsworth webhook add https://example.org/hook",
    ),
    "webhook remove": ("jobsworth webhook remove 019a9d3e-5b1c-7a42-9c1d-0123456789ab",),
    "webhook deliveries": ("jobsworth webhook deliveries --dead",),
    "webhook retry": ("jobsworth webhook retry",),
    "deploy": ("jobsworth deploy staging main --wait",),
    "rollback": ("jobsworth rollback staging --wait",),
    "deployments": ("jobsworth deployments --environment staging",),
    "status": ("jobsworth status --watch",),
    "search": ("jobsworth search 'when is the shop open'",),
    "psql": ("jobsworth psql -c 'select count(*) from jobsworth.reactive_jobs'",),
    "queue pause": ("jobsworth queue pause default",),
    "queue resume": ("jobsworth queue resume default",),
    "ledger": (
        "jobsworth ledger --by model --since 7d",
        "jobsworth ledger --by run --csv > costs.csv",
    ),
    "budget set": (
        "jobsworth budget set daily --money 5 --per day",
        "jobsworth budget set talk --tokens 90_000 --per hour --mode plan --over ask",
    ),
    "budget raise": ("jobsworth budget raise daily 10",),
    "budget reset": ("jobsworth budget reset daily",),
    "budget remove": ("jobsworth budget remove daily",),
    "limit set": ("jobsworth limit set openai gpt-5-mini --requests 60 --tokens 100000",),
    "limit remove": ("jobsworth limit remove openai gpt-5-mini",),
    "price set": ("jobsworth price set openai 'gpt-5-*' --input 0.25 --output 2",),
    "price remove": ("jobsworth price remove openai 'gpt-5-*'",),
    "price show": ("jobsworth price show openai gpt-5-mini",),
    "price reprice": ("jobsworth price reprice --since 7d --dry-run",),
}


def epilog_of(words: str) -> str | None:
    """What stands below a command's help; its lines are not wrapped (`\\b`)."""
    lines = EXAMPLES.get(words, ())
    title = "Examples:" if len(lines) > 1 else "Example:"
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)]) if lines else None
