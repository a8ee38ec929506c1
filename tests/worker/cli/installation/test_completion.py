"""The shell completes commands, options, ids and names."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, connect, environment, run_cli, until_sync
from tests.worker.cli.support import NOBODY, cli_json, insert_approval, insert_job

JOB = "01234567-89ab-7000-8000-00000000abcd"
WORKER = """
insert into jobsworth.workers (id, host, pid, modes, queues, slots, version)
values (gen_random_uuid(), 'here', 1, array['greet', 'grow'], array['mail'], 1, '0')
"""


def complete(url: str | None, line: str) -> list[str]:
    """What bash is offered for the last word of a command line."""
    words = line.split(" ")
    env = {
        "_JOBSWORTH_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    ended = run_cli(url=url, env=env)
    assert (ended.returncode, ended.stderr) == (0, "")
    return [offer.partition(",")[2] for offer in ended.stdout.split()]


def test_commands_verbs_and_options_are_completed_without_a_database() -> None:
    assert complete(NOBODY, "jobsworth app") == ["approve", "approval"]
    assert complete(NOBODY, "jobsworth job ca") == ["calls", "cancel"]
    assert complete(NOBODY, "jobsworth help job run") == ["run-now"]
    assert complete(NOBODY, "jobsworth jobs --sta") == ["--status"]
    assert complete(NOBODY, "jobsworth job --sta") == ["--status"]
    assert complete(NOBODY, "jobsworth jobs --status d") == ["done"]
    assert complete(NOBODY, "jobsworth ledger --by m") == ["model", "mode"]
    assert complete(NOBODY, "jobsworth completion z") == ["zsh"]


def test_a_database_that_does_not_answer_completes_nothing_and_says_nothing() -> None:
    assert complete(NOBODY, "jobsworth why 0") == []
    assert complete("no connection string", "jobsworth queue pause ") == []


def test_the_embedded_database_is_not_started_to_complete(tmp_path: Path) -> None:
    line = "jobsworth why 0"
    env = {
        "_JOBSWORTH_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": "2",
        "JOBSWORTH_DATA_DIR": str(tmp_path / "data"),
    }
    assert run_cli(env=env).stdout.strip() == ""
    assert not list((tmp_path / "data").glob("pg*"))


def test_ids_and_names_are_completed_from_the_database(database_url: str) -> None:
    insert_job(database_url, JOB, queue="mail")
    run_id = cli_json(database_url, "run", "start", "-", stdin='[{"node": "a", "mode": "m"}]')["id"]
    approval_id = insert_approval(database_url)
    cli_json(database_url, "budget", "set", "daily", "--money", "5")
    with connect(database_url) as conn:
        conn.execute(WORKER)
        conn.execute(
            "insert into jobsworth.steps (job_id, name, attempt, effect) values (%s, 'pay', 1,"
            " 'unsafe')",
            [JOB],
        )
        conn.execute("insert into jobsworth.deployments (environment, sha) values ('blue', 'abc')")
    for line, offers in (
        ("jobsworth why 0123456789", [JOB]),
        ("jobsworth job show 01234567-89", [JOB]),
        ("jobsworth job cancel 00000000abcd", [JOB]),
        ("jobsworth run show ", [run_id]),
        ("jobsworth approve ", [approval_id]),
        ("jobsworth queue pause m", ["mail"]),
        ("jobsworth enqueue gr", ["greet", "grow"]),
        ("jobsworth budget raise d", ["daily"]),
        ("jobsworth deployment start b", ["blue"]),
        (f"jobsworth step done {JOB} ", ["pay"]),
    ):
        # A completion gives up after 0.3 s, which is short on a busy machine.
        assert until_sync(lambda line=line: complete(database_url, line), 30) == offers, line
    assert JOB in until_sync(lambda: complete(database_url, "jobsworth why "), 30)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_for_each_shell(shell: str, tmp_path: Path) -> None:
    ended = run_cli("completion", shell)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"_JOBSWORTH_COMPLETE={shell}_complete" in ended.stdout
    program = shutil.which(shell)
    if program is not None:
        script = tmp_path / "script"
        script.write_text(ended.stdout)
        subprocess.run([program, "-n", str(script)], check=True)


def test_bash_completes_with_the_script(database_url: str, tmp_path: Path) -> None:
    insert_job(database_url, JOB)
    program = tmp_path / "jobsworth"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m worker.cli "$@"\n')
    program.chmod(0o755)
    script = """
source <(jobsworth completion bash)
complete -p jobsworth
for word in "$@"; do
  COMP_WORDS=(jobsworth why "$word"); COMP_CWORD=2; COMPREPLY=()
  _jobsworth_completion jobsworth "$word" why
  echo "${COMPREPLY[@]}"
done
"""
    env = environment(database_url)
    env["PATH"] = f"{tmp_path}:{env['PATH']}"

    def completed() -> list[str]:
        ended = subprocess.run(
            ["bash", "-c", script, "bash", "01234567", "00abcd"],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ended.stderr == ""
        registered, *words = ended.stdout.splitlines()
        assert "_jobsworth_completion jobsworth" in registered
        return words if all(words) else []

    assert until_sync(completed, 60) == [JOB, JOB]


def test_an_unknown_shell_is_refused_with_those_there_are() -> None:
    ended = run_cli("completion", "tcsh")
    assert ended.returncode == 2
    assert "'tcsh' is not one of: bash, zsh, fish" in ended.stderr
