"""Something real to deploy: a git repository with three commits, and a server for each environment.

In: an empty folder. Out: commits by name (the inbox's placeholders), a deploy.toml, and running
HTTP servers that serve the release that `current` points to. Invariant: the probe of the third
commit fails for a real reason: its build no longer makes the health file.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from db.errors import JobsworthError

ENVIRONMENTS = ("staging", "production")
SERVER_WORDS_MAX = 4_096

BUILD = '''"""Render pages/*.txt into public/."""
import html, pathlib

public = pathlib.Path("public")
public.mkdir(exist_ok=True)
for page in sorted(pathlib.Path("pages").glob("*.txt")):
    title, _, body = page.read_text().partition("\\n")
    text = f"<h1>{html.escape(title)}</h1><p>{html.escape(body.strip())}</p>"
    (public / f"{page.stem}.html").write_text(text)
    print("built", page.stem)
HEALTH = public / "health.txt"
HEALTH.parent.mkdir(exist_ok=True)
HEALTH.write_text("ok")
'''
CHECK = '''"""Every page has a title and a body."""
import pathlib, sys

pages = sorted(pathlib.Path("public").glob("*.html"))
bad = [page.name for page in pages if "<h1></h1>" in page.read_text()]
print(len(pages), "pages checked")
sys.exit(f"no title: {bad}" if bad or not pages else 0)
'''
COMMITS: Sequence[tuple[str, str, dict[str, str]]] = (
    (
        "first_sha",
        "Open the site",
        {"build.py": BUILD, "check.py": CHECK, "pages/index.txt": "The shop\nWelcome.\n"},
    ),
    (
        "good_sha",
        "Add the opening hours",
        {"pages/hours.txt": "Opening hours\nMonday to Saturday, nine to six.\n"},
    ),
    (
        "bad_sha",
        "Move the health file to a folder of its own",
        {"build.py": BUILD.replace('public / "health.txt"', 'public / "health" / "index.txt"')},
    ),
)


class SiteError(JobsworthError):
    """The repository or a server of the demo could not be made."""


@dataclass(frozen=True, slots=True)
class Site:
    """`commits` by placeholder; `deploy_file` names an environment for each server."""

    commits: dict[str, str]
    deploy_file: Path
    urls: dict[str, str]


@contextmanager
def make_site(folder: Path, releases_dir: Path) -> Generator[Site]:
    """Blocking. The servers end with the block."""
    repository = folder / "site"
    commits = _commit_all(repository)
    with ExitStack() as servers:
        urls = {
            name: servers.enter_context(_serving(releases_dir / name / "current" / "public"))
            for name in ENVIRONMENTS
        }
        deploy_file = folder / "deploy.toml"
        deploy_file.write_text(_deploy_toml(repository, urls))
        yield Site(commits, deploy_file, urls)


def _commit_all(repository: Path) -> dict[str, str]:
    repository.mkdir(parents=True)
    _git(repository, "init", "--quiet", "--initial-branch=main")
    commits: dict[str, str] = {}
    for name, message, files in COMMITS:
        for path, text in files.items():
            file = repository / path
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        _git(repository, "add", "--all")
        _git(repository, "commit", "--quiet", f"--message={message}")
        commits[name] = _git(repository, "rev-parse", "HEAD")
    return commits


def _git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        # No user configuration: a commit hook or a signing key would block the demo.
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Demo",
        "GIT_AUTHOR_EMAIL": "demo@example.org",
        "GIT_COMMITTER_NAME": "Demo",
        "GIT_COMMITTER_EMAIL": "demo@example.org",
    }
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise SiteError("the demo deploys commits, but there is no git", "install git") from None
    except subprocess.CalledProcessError as error:
        raise SiteError(f"git {arguments[0]} failed: {error.stderr.strip()}", "see above") from None
    return done.stdout.strip()


@contextmanager
def _serving(folder: Path) -> Generator[str]:
    # A process of its own: it serves whatever the daemons and this process do.
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--directory", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        said = server.stdout.readline(SERVER_WORDS_MAX).decode(errors="replace")
        port = re.search(r"port (\d+)", said)
        if port is None:
            raise SiteError(
                f"python -m http.server did not start: {said.strip() or 'it said nothing'}",
                "check that a port of 127.0.0.1 can be opened",
            )
        yield f"http://127.0.0.1:{port[1]}"
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


def _deploy_toml(repository: Path, urls: dict[str, str]) -> str:
    # A JSON string or list is TOML as well.
    return "\n".join(
        f"""[environments.{name}]
repository = {json.dumps(str(repository))}
build = {json.dumps([sys.executable, "build.py"])}
test = {json.dumps([sys.executable, "check.py"])}

[environments.{name}.probe]
url = {json.dumps(f"{url}/health.txt")}
attempts = 3
interval_seconds = 0.2
"""
        for name, url in urls.items()
    )
