"""`jobsworth agent`: what makes one agent different from another.

In: an agent's name, and its ways. Out: agents, with the skills that they have in effect and their
budgets.
"""

from typing import Any

import click

from db.money import budgets
from db.people import agents
from db.people.agents import Agent, AgentWays
from db.pool import Connection
from worker.cli.people import named
from worker.cli.terminal import options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.database import run_in_database
from worker.cli.terminal.output import Column, emit, emit_facts, emit_json, emit_table
from worker.cli.terminal.times import duration, parse_duration

COLUMNS = [
    Column("ID"),
    Column("NAME", flexible=True),
    Column("MODEL", flexible=True),
    Column("SKILLS", flexible=True),
]
NONE = "no agents yet\n  → jobsworth agent save writer --personality 'Dry and brief.'"
SKILL_KINDS = ("shared", "private", "disabled")

agent = Noun("agent", "Agents: model, personality, instructions, skills, memory, budget.")
agent_name = click.argument("name", metavar="AGENT", help="The agent's name or id.")


@agent.verb("list", "jobsworth agent", "jobsworth agent --team research")
@named.team_option
@options.as_json
def list_agents(team: str | None, as_json: bool) -> None:
    """List agents."""

    async def work(conn: Connection) -> list[Agent]:
        return await agents.list_agents(conn, await named.team_id(conn, team))

    found = run_in_database(work)
    if as_json:
        emit_json(found)
    else:
        rows = [[str(a.id), a.name, a.model, ", ".join(a.skills)] for a in found]
        emit_table(COLUMNS, rows, NONE)


def _weight(name: str) -> Any:
    told = f"How much {name} counts when it recalls, 0 to 1000."
    return click.option(f"--{name}", f"{name}_weight", type=click.FLOAT, metavar="N", help=told)


def _skills(kind: str, help: str) -> Any:
    name = "skill" if kind == "private" else f"{kind}-skill"
    return click.option(
        f"--{name}", f"skills_{kind}", metavar="NAME", multiple=True, help=f"{help} Repeatable."
    )


@agent.verb(
    "save",
    "jobsworth agent save writer --team research --model openai:gpt-5-mini --skill verse",
    "jobsworth agent save writer --personality 'Dry.' --recency 2 --half-life 30d",
)
@click.argument("name", metavar="NAME", help="The agent's name.")
@named.team_option
@click.option("--model", metavar="MODEL", help="provider:model, instead of JOBSWORTH_MODEL.")
@click.option("--personality", metavar="TEXT", help="What it is like.")
@click.option("--instructions", metavar="TEXT", help="What it is to do.")
@_skills("shared", "A skill that it shares with others.")
@_skills("private", "A skill of its own.")
@_skills("disabled", "A skill that is switched off.")
@_weight("similarity")
@_weight("recency")
@_weight("importance")
@click.option("--half-life", metavar="SPAN", help="After which a memory counts half, like 30d.")
@options.as_json
def save(name: str, team: str | None, half_life: str | None, as_json: bool, **given: Any) -> None:
    """Make an agent, or change the given parts of one."""
    ways: AgentWays = {}
    for key, value in given.items():
        if value is not None and value != ():
            ways[key] = [*value] if key.startswith("skills_") else value
    if half_life is not None:
        ways["half_life_seconds"] = parse_duration(half_life, "--half-life")

    async def work(conn: Connection) -> Agent:
        return await agents.save(conn, name, await named.team_id(conn, team), **ways)

    saved = run_in_database(work)
    if as_json:
        emit_json(saved)
    else:
        emit(f"agent {saved.name} is {saved.id}")


@agent.verb("show", "jobsworth agent show writer --team research")
@agent_name
@named.team_option
@options.as_json
def show(name: str, team: str | None, as_json: bool) -> None:
    """Show an agent: what it is, what it can do, what it may spend."""

    async def work(conn: Connection) -> tuple[Agent, list[str]]:
        team_id = await named.team_id(conn, team)
        found = await agents.get(conn, named.id_or_name(name), team_id)
        limits = await budgets.list_all(conn)
        return found, [each.name for each in limits if each.agent_id == found.id]

    found, limits = run_in_database(work)
    if as_json:
        emit_json({**found.model_dump(mode="json"), "budgets": limits})
        return
    weights = [
        f"{word} {value:g}"
        for word, value in (
            ("similarity", found.similarity_weight),
            ("recency", found.recency_weight),
            ("importance", found.importance_weight),
        )
        if value is not None
    ]
    if found.half_life_seconds is not None:
        weights.append(f"half-life {duration(found.half_life_seconds)}")
    emit_facts(
        [
            ("agent", str(found.id)),
            ("name", found.name),
            ("team", found.team_id and str(found.team_id)),
            ("model", found.model or "the worker's"),
            ("personality", found.personality),
            ("instructions", found.instructions),
            ("skills", ", ".join(found.skills) or None),
            ("disabled", ", ".join(found.skills_disabled) or None),
            ("recall", ", ".join(weights) or None),
            ("budgets", ", ".join(limits) or None),
        ]
    )
