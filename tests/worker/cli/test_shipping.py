"""Rollbacks, the live deployment, and notes where this machine disagrees."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.support import ROOT, Workers, connect, run_cli
from tests.worker.cli.support import cli_json
from worker.cli.terminal.exit_codes import ExitCode

SHIPPED = """
insert into jobsworth.deployments
  (environment, sha, status, probe, release, host, finished_at)
values ('staging', %(sha)s, 'healthy', '{"passed": true}', %(release)s, %(host)s, now())
returning id
"""


def ship(url: str, sha: str, release: Path, host: str | None = None) -> str:
    values = {"sha": sha, "release": str(release), "host": host or socket.gethostname()}
    with connect(url) as conn:
        row = conn.execute(SHIPPED, values).fetchone()
    assert row is not None
    return str(row["id"])


def test_a_rollback_names_where_it_goes_and_enqueues_the_job(
    database_url: str, tmp_path: Path
) -> None:
    first = ship(database_url, "a" * 40, tmp_path / "a")
    ship(database_url, "b" * 40, tmp_path / "b")
    document = cli_json(database_url, "deployment", "rollback", "staging")
    job = cli_json(database_url, "job", "show", document["id"])["job"]
    assert job["mode"] == "deploy"
    assert job["payload"] == {"environment": "staging", "rollback_to": first}
    said = run_cli("deployment", "rollback", "staging", "--to", "aaaaaaaa", url=database_url)
    assert "from bbbbbbbbbbbb back to aaaaaaaaaaaa" in said.stderr


def test_a_rollback_without_a_target_is_refused_before_a_job_is_made(
    database_url: str, tmp_path: Path
) -> None:
    ended = run_cli("deployment", "rollback", "staging", url=database_url)
    assert ended.returncode == ExitCode.NOT_FOUND
    assert "nothing was ever healthy in environment 'staging'" in ended.stderr
    ship(database_url, "a" * 40, tmp_path / "a")
    for to, code in (("main", ExitCode.BAD_INPUT), ("b" * 8, ExitCode.NOT_FOUND)):
        ended = run_cli("deployment", "rollback", "staging", "--to", to, url=database_url)
        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr
    assert cli_json(database_url, "jobs") == []


def test_lists_show_the_failed_phase_and_the_holder(database_url: str, tmp_path: Path) -> None:
    ship(database_url, "a" * 40, tmp_path / "a", host="web-1")
    report = (
        "Deployment of bbb to staging: FAILED\n  export   ok         0.1 s  release b\n"
        "  build    FAILED     2.0 s  exit code 3\nLive now: a, as before\n"
        "Last output of build:\n      x FAILED y"
    )
    with connect(database_url) as conn:
        conn.execute(
            "insert into jobsworth.deployments"
            " (environment, sha, status, report_text, finished_at) values"
            " ('staging', repeat('b', 40), 'failed', %s, now())",
            [report],
        )
        conn.execute(
            "insert into jobsworth.deployments (environment, sha) values ('staging', 'ccccccc')"
        )
    listed = run_cli("deployment", "list", url=database_url).stdout.splitlines()
    assert listed[2].endswith("build FAILED 2.0 s exit code 3")
    [state] = cli_json(database_url, "environment")
    assert (state["current_sha"], state["current_host"]) == ("a" * 40, "web-1")
    row = " ".join(run_cli("environment", url=database_url).stdout.splitlines()[1].split())
    assert row.startswith(f"staging {'a' * 12} ")
    assert "web-1 a person, by hand, for" in row


def test_the_live_one_is_marked_and_drift_is_noted(database_url: str, tmp_path: Path) -> None:
    directory = tmp_path / "releases" / "staging"
    (directory / "one").mkdir(parents=True)
    (directory / "two").mkdir()
    (directory / "current").symlink_to("two")
    env = {"JOBSWORTH_RELEASES_DIR": str(tmp_path / "releases")}
    ship(database_url, "a" * 40, directory / "one")
    second = ship(database_url, "b" * 40, directory / "two")

    listed = run_cli("deployment", "list", url=database_url, env=env)
    assert [line.split()[3] for line in listed.stdout.splitlines()[1:]] == ["live", "healthy"]
    assert "note:" not in listed.stderr
    assert run_cli("doctor", url=database_url, env=env).stdout.count("`current`") == 0

    (directory / "current").unlink()
    (directory / "current").symlink_to("one")
    drift = "two is live according to the database, but `current` points to one"
    assert drift in run_cli("deployment", "list", url=database_url, env=env).stderr
    assert drift in " ".join(run_cli("doctor", url=database_url, env=env).stdout.split())

    ship(database_url, "c" * 40, directory / "three", host="elsewhere")
    assert "note:" not in run_cli("deployment", "list", url=database_url, env=env).stderr
    documents = cli_json(database_url, "deployment", "list")
    assert [each["is_current"] for each in documents] == [True, False, False]
    assert documents[1]["id"] == second


def test_a_deployment_that_is_waited_for_ends_with_its_report(
    database_url: str, workers: Workers, tmp_path: Path
) -> None:
    (tmp_path / "shipping.py").write_text(
        "from jobsworth import handler\n"
        "@handler('deploy')\n"
        "async def deploy(environment: str, sha: str) -> dict:\n"
        "    return {'status': 'healthy', 'report_text': f'Deployment of {sha}: healthy'}\n"
    )
    env = {"JOBSWORTH_HANDLERS": "shipping", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    workers.start(database_url, env)
    shipped = run_cli("deployment", "start", "staging", "4f2a91c", "--wait", url=database_url)
    assert shipped.returncode == 0, shipped.stderr
    assert "Deployment of 4f2a91c: healthy" in shipped.stdout
    assert "{" not in shipped.stdout


def test_environments_of_the_deploy_file_are_listed_before_anything_was_deployed(
    database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "deploy.toml"
    env = {"JOBSWORTH_DEPLOY_FILE": str(file)}
    file.write_text(
        "".join(
            f"[environments.{name}]\nrepository = '/srv/site'\napprovals = 2\n"
            f"probe.command = ['true']\n"
            for name in ("staging", "production")
        )
    )
    ship(database_url, "a" * 40, tmp_path / "a")
    found = {each["environment"]: each for each in cli_json(database_url, "environment", env=env)}
    assert found["production"]["current_sha"] is None
    assert found["production"]["approvals_needed"] == 2
    assert found["staging"]["current_sha"] == "a" * 40
    listed = run_cli("environment", url=database_url, env=env).stdout
    assert "nothing" in next(line for line in listed.splitlines() if line.startswith("production"))
    file.write_text("[environments.staging]\n")
    broken = run_cli("environment", url=database_url, env=env)
    assert broken.returncode == 0
    assert "repository" in broken.stderr
    assert "staging" in broken.stdout
