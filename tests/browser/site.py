"""A daemon with its dashboard, something on every page of it, and a browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.support import Workers, connect, run_cli

AXE = (Path(__file__).parent / "axe.min.js").read_text()
# Of one wait. The machine may have other work.
TIMEOUT_MILLISECONDS = 90_000
RUN = [
    {"node": "collect", "mode": "greet", "payload": {"name": "Ada"}},
    {"node": "sum up", "mode": "greet", "payload": {"name": "Bob"}, "after": ["collect"]},
    {"node": "check", "mode": "greet", "payload": {"name": "Eve"}, "after": ["collect"]},
    {"node": "publish", "mode": "later", "after": ["sum up", "check"]},
]


@dataclass
class Site:
    """A daemon's dashboard, the jobs that it has, and a browser."""

    address: str
    browser: Browser
    jobs: dict[str, str]
    problems: list[str] = field(default_factory=list[str])

    @contextmanager
    def page(self, width: int = 1280, scheme: Any = "light", script: bool = True) -> Iterator[Page]:
        """A page of a browser of its own, whose errors are collected."""
        context = self.browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=script,
        )
        context.set_default_timeout(TIMEOUT_MILLISECONDS)
        page = context.new_page()

        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                self.problems.append(f"{page.url}: {message.text}")

        page.on("console", heard)
        page.on("pageerror", lambda error: self.problems.append(f"{page.url}: {error}"))
        yield page
        context.close()

    @property
    def paths(self) -> list[str]:
        """The path of each page that there is."""
        made = self.jobs
        return [
            *("", "/jobs", "/approvals", "/runs", "/spend", "/deployments", "/memory", "/threads"),
            *("/people", "/system", "/jobs?status=waiting&mode=greet", "/approvals?show=all"),
            *(
                f"/jobs/{made['asks']}",
                f"/jobs/{made['fails']}",
                "/jobs/bulk?do=cancel&mode=nobody",
            ),
            *(f"/runs/{made['run']}", f"/runs/{made['run']}/fork?node=check"),
            *(f"/approvals/{made['approval']}", f"/threads/{made['thread']}"),
            *("/limits/greetings", f"/memory/{made['memory']}", "/memory?q=opening"),
        ]


@contextmanager
def open_site(database_url: str, workers: Workers) -> Iterator[Site]:
    """The site, until the block ends."""
    chromium = shutil.which("chromium")
    assert chromium is not None, "install it: make browser"
    made = _fill(database_url)
    worker = workers.start(database_url, {"JOBSWORTH_HANDLERS": "tests.browser.handlers"})
    address = worker.wait_for("health.listened")["url"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        site = Site(f"{address}/ui", browser, made)
        with site.page() as page:
            # All is as it will stay: both questions are asked, and the job that fails has failed.
            page.goto(f"{site.address}/approvals")
            page.get_by_text("Really greet Eve 4 times?").first.wait_for()
            asked = page.get_by_role("link", name="Really greet Bob <b> 5 times?", exact=True)
            made["approval"] = str(asked.get_attribute("href")).rpartition("/")[2]
            page.goto(f"{site.address}/jobs/{made['fails']}")
            page.get_by_text("Traceback").first.wait_for()
            page.goto(f"{site.address}/runs/{made['run']}")
            page.locator(".status", has_text="waiting: timer").first.wait_for()
        yield site
        browser.close()


def _fill(database_url: str) -> dict[str, str]:
    run_cli("roles", "create", url=database_url)
    made: dict[str, str] = {}
    with connect(database_url) as conn:

        def value(statement: Any, **values: Any) -> str:
            row = conn.execute(statement, values).fetchone()
            assert row is not None
            return str(next(iter(row.values())))

        for name, mode, payload in (
            ("asks", "greet", {"name": "Bob <b>", "times": 5}),
            ("asks too", "greet", {"name": "Eve", "times": 4}),
            ("fails", "import", {"path": "/srv/in/orders.csv"}),
            ("sleeps", "later", {}),
            ("stuck", "nobody", {}),
        ):
            given = {"mode": mode, "payload": json.dumps(payload)}
            made[name] = value("select jobsworth.enqueue(%(mode)s, %(payload)s::jsonb)", **given)
        made["run"] = value(
            "select jobsworth.start_run(%(nodes)s::jsonb) as id", nodes=json.dumps(RUN)
        )
        made["thread"] = value(
            "insert into jobsworth.chat_threads (platform, chat_id, title)"
            " values ('telegram', '17', 'Opening hours') returning id"
        )
        for role, text in (("user", "When do you open?"), ("assistant", "At nine, until six.")):
            value(
                "insert into jobsworth.chat_messages (thread_id, role, text)"
                " values (%(thread)s, %(role)s, %(text)s) returning id",
                thread=made["thread"],
                role=role,
                text=text,
            )
        for sha in ("3f2a9c1e77", "b81d04f9aa"):
            conn.execute(
                "insert into jobsworth.deployments"
                " (environment, sha, branch, status, probe, finished_at) values"
                " ('staging', %(sha)s, 'main', 'healthy', '{\"passed\": true}', now())",
                {"sha": sha},
            )
        value(
            "insert into jobsworth.agents (name, model, personality, skills_private) values"
            " ('Ada', 'anthropic:claude-haiku-4-5', 'You are brief and kind.', '{search,write}')"
            " returning id"
        )
        value("insert into jobsworth.sessions (title) values ('Quarterly report') returning id")
        value(
            "select limit_name"
            " from jobsworth.set_job_limit('greetings', mode => 'greet', slots => 4)"
        )
        value(
            "select jobsworth.schedule('morning', 'later', cron => '0 8 * * mon-fri',"
            " time_zone => 'Europe/Berlin')"
        )
        before = value("select jobsworth.remember('The shop opens at eight.')")
        made["memory"] = value(
            "select jobsworth.remember('The shop opens at nine since May.', supersedes => %(old)s)",
            old=before,
        )
    run_cli("budget", "set", "daily", "--money", "5", "--per", "day", url=database_url)
    return made


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with a page, up to WCAG 2.2 AA and its best practices."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document)")["violations"]
    return [
        f"{page.url}: {each['id']}: {node['html'][:200]}"
        for each in found
        for node in each["nodes"]
    ]
