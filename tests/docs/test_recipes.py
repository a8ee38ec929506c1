"""The Python of docs/recipes.md does what the page says; that of other pages can be declared."""

from __future__ import annotations

import subprocess
import sys
from email.message import EmailMessage
from typing import Any

import psycopg

from jobsworth.testing import Jobs
from tests.docs.test_docs import blocks
from tests.support import ROOT, environment

PAGE = ROOT / "docs" / "recipes.md"
KNOWN = """
from collections.abc import AsyncIterator
import httpx
from pydantic import BaseModel
from jobsworth import *
"""


def recipe(containing: str) -> dict[str, Any]:
    """The names that the one block with this in it defines; its handlers are declared."""
    [code] = [block for block in blocks(PAGE, "python") if containing in block]
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


def test_the_python_of_other_pages_can_be_declared() -> None:
    """With the imports that a reader knows; what it declares stays in a process of its own."""
    pages = ("handlers.md", "testing.md", "tracing.md")
    code = [block for name in pages for block in blocks(ROOT / "docs" / name, "python")]
    assert len(code) > 4
    script = "\n".join([KNOWN, *(block.replace("import myjobs", "") for block in code)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(None),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_recipe_runs_as_it_stands(jobs: Jobs) -> None:
    recipe('@handler("research"')
    jobs.enqueue("research", {"topic": "tea", "sources": ["one", "two"]})
    [research] = [job for job in jobs.drain("default", "research") if job.mode == "research"]
    assert research.result == "one on tea\ntwo on tea"

    recipe('@handler("crawl"')
    jobs.enqueue("crawl", {"url": "https://example.org/"})
    crawled = [job.payload["url"].removeprefix("https://example.org/") for job in jobs.drain()]
    assert sorted(crawled) in (["", "a", "b"], ["", "a", "b", "b"])

    recipe('@handler("nightly"')
    jobs.model.answers("Nothing changed.")
    assert jobs.run("nightly").result == "Nothing changed."
    assert jobs.paid() == jobs.model.tokens

    recipe('@handler("ship"')
    refused = jobs.run("ship", {"sha": "3f2a9c1e77"})
    assert "staging" in str(refused.error)

    mail = recipe("def mails(")
    with psycopg.connect(jobs.url, autocommit=True) as conn:
        conn.execute("select jobsworth.ask('Publish?')")
        [asked] = mail["mails"](conn, "ada@example.org")
        answer = EmailMessage()
        answer["Subject"] = f"Re: {asked['Subject']}"
        answer.set_content("Approve\n\n> Publish?")
        assert mail["answered"](conn, answer, "ada@example.org")
        assert mail["mails"](conn, "ada@example.org") == []
    assert jobs.violations() == []
