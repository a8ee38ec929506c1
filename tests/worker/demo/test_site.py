"""The demo's site has three real commits; the last one does not pass its probe."""

import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.demo.site import ENVIRONMENTS, Site, make_site
from worker.deployments.pipeline.config import load_environments


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with make_site(tmp_path, tmp_path / "releases") as made:
        yield made


def release(tmp_path: Path, sha: str) -> Path:
    """Export, build and test a commit as a deployment does."""
    folder = tmp_path / "releases" / "staging" / sha
    folder.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "-C", str(tmp_path / "site"), "archive", sha], check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    for program in ("build.py", "check.py"):
        subprocess.run([sys.executable, program], cwd=folder, check=True, capture_output=True)
    return folder


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_there_are_three_different_commits(site: Site) -> None:
    assert list(site.commits) == ["first_sha", "good_sha", "bad_sha"]
    assert len(set(site.commits.values())) == 3
    assert all(len(sha) == 40 for sha in site.commits.values())


def test_every_commit_builds_and_only_the_bad_one_lacks_its_health_file(
    site: Site, tmp_path: Path
) -> None:
    current = tmp_path / "releases" / "staging" / "current"
    answers: dict[str, int] = {}
    for name, sha in site.commits.items():
        folder = release(tmp_path, sha)
        current.unlink(missing_ok=True)
        current.symlink_to(folder.name)
        answers[name] = status(f"{site.urls['staging']}/health.txt")
    assert answers == {"first_sha": 200, "good_sha": 200, "bad_sha": 404}


def test_the_deploy_file_is_a_valid_one(site: Site) -> None:
    environments = load_environments(site.deploy_file)
    assert tuple(environments) == ENVIRONMENTS
    document = tomllib.loads(site.deploy_file.read_text())["environments"]
    assert document["staging"]["probe"]["url"] == f"{site.urls['staging']}/health.txt"


def test_the_servers_end_with_the_block(tmp_path: Path) -> None:
    with make_site(tmp_path, tmp_path / "releases") as made:
        assert status(made.urls["production"]) == 404
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(made.urls["production"], timeout=5)
