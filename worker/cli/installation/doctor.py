"""`jobsworth doctor`: is everything as it should be, and if not, what to do.

In: the environment and the database it names, reachable or not. Out: one finding per check, each
with its remedy; the exit code is 1 if there is a problem. Invariant: a check that cannot be made is
a finding, never an end: the checks after it are made all the same.
"""

import os
from dataclasses import asdict
from pathlib import Path

import click
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from db.errors import JobsworthError
from worker.cli.installation.database_checks import check_database
from worker.cli.installation.finding import Finding, Mark, failed, ok, problem, warning
from worker.cli.installation.model_check import check_embedder, check_model
from worker.cli.installation.spool_check import check_spool
from worker.cli.terminal import options
from worker.cli.terminal.commands import Verb
from worker.cli.terminal.database import run_async
from worker.cli.terminal.exit_codes import ExitCode
from worker.cli.terminal.output import clean, emit, emit_facts, emit_json, styled
from worker.deployments.pipeline import load_environments
from worker.handlers import shadowing_files
from worker.settings import (
    PREFIX,
    Settings,
    SettingsError,
    load_settings,
    load_settings_despite_unknown_names,
    settings_reference,
)

SIGNS: dict[Mark, str] = {"ok": "✓", "warning": "!", "problem": "✗"}
NOT_EXAMINED = warning("database", "not looked at: the settings cannot be used")


@click.command("doctor", cls=Verb, examples=["jobsworth doctor", "jobsworth doctor --settings"])
@click.option("--settings", is_flag=True, help="List every setting instead.")
@options.as_json
def doctor(settings: bool, as_json: bool) -> ExitCode:
    """Check settings, database, workers, invariants and books; exit code 1 for a problem."""
    if settings:
        _show_settings(as_json=as_json)
        return ExitCode.OK
    findings = examine()
    healthy = all(finding.mark != "problem" for finding in findings)
    if as_json:
        emit_json({"ok": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        _emit(findings)
    return ExitCode.OK if healthy else ExitCode.NO


def examine() -> list[Finding]:
    """Make every check."""
    findings, settings = check_settings()
    if settings is None:
        return [*findings, *_check_directory(), NOT_EXAMINED]
    findings += [
        *_check_directory(),
        check_model(settings),
        *check_embedder(settings),
        *check_spool(settings),
    ]
    findings += _check_deploy_file(settings)
    return findings + run_async(lambda: check_database(settings))


def check_settings() -> tuple[list[Finding], Settings | None]:
    """What is wrong with the settings, and the settings if they can be used all the same."""
    try:
        settings = load_settings()
    except SettingsError as error:
        problems = [
            problem("settings", f"{_subject(each.name, each.value)}: {each.reason}", each.remedy)
            for each in error.problems
        ]
        return problems, load_settings_despite_unknown_names()
    given = sum(1 for name in os.environ if name.upper().startswith(PREFIX))
    return [ok("settings", f"{given} in the environment, all known")], settings


def _check_directory() -> list[Finding]:
    return [
        warning(
            "directory",
            f"{path} has the name of a package of Jobsworth: your handlers cannot import it",
            "rename it",
        )
        for path in shadowing_files(Path.cwd())
    ]


def _check_deploy_file(settings: Settings) -> list[Finding]:
    if settings.deploy_file is None:
        return []
    try:
        names = ", ".join(load_environments(settings.deploy_file))
    except JobsworthError as error:
        return [failed("deploy.toml", error)]
    return [ok("deploy.toml", f"environments: {names}")]


def _show_settings(*, as_json: bool) -> None:
    reference = settings_reference()
    if as_json:
        emit_json([setting._asdict() for setting in reference])
        return
    for setting in reference:
        emit(Text(setting.env_name, style="bold"))
        emit_facts(
            [("", setting.description), ("", f"{setting.type}; default: {setting.default}")],
            indent="  ",
        )


def _subject(name: str, value: str | None) -> str:
    return name if value is None else f"{name}={value}"


def _emit(findings: list[Finding]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(styled(SIGNS[finding.mark]), finding.subject, Text(clean(finding.text)))
        if finding.remedy and finding.mark != "ok":
            table.add_row("", "", Text(clean(f"→ {finding.remedy}")))
    emit(Padding(table, 0))
    problems = sum(finding.mark == "problem" for finding in findings)
    warnings = sum(finding.mark == "warning" for finding in findings)
    emit(f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}")


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
