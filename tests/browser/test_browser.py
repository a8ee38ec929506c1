"""The dashboard in Chromium, served by a real daemon.

Each page in light and dark, narrow and wide: no console error, no violation that axe-core knows, no
sideways scrolling. Each action from its button; reading and approving without JavaScript.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.support import Workers, connect, run_cli, until_sync

AXE = (Path(__file__).parent / "axe.min.js").read_text()
PAGES = ("", "/jobs", "/approvals", "/runs", "/spend", "/deployments", "/memory", "/threads")
# Text over a chart is none of ours to judge: charts have their words beside them.
LOOKS = [(390, "dark"), (1280, "light")]


@dataclass
class Site:
    """A daemon's dashboard, the jobs that it has, and a browser."""

    address: str
    browser: Browser
    jobs: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[str] = field(default_factory=list[str])

    @contextmanager
    def page(self, width: int = 1280, scheme: Any = "light", script: bool = True) -> Iterator[Page]:
        """A page of a browser of its own, whose errors are collected."""
        context = self.browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=script,
        )
        page = context.new_page()

        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                self.problems.append(f"{page.url}: {message.text}")

        page.on("console", heard)
        page.on("pageerror", lambda error: self.problems.append(f"{page.url}: {error}"))
        yield page
        context.close()


@pytest.fixture
def site(database_url: str, workers: Workers) -> Iterator[Site]:
    chromium = shutil.which("chromium")
    assert chromium is not None, "install it: make browser"
    run_cli("roles", "create", url=database_url)
    made = {
        name: json.loads(run_cli("enqueue", mode, payload, "--json", url=database_url).stdout)["id"]
        for name, mode, payload in (
            ("asks", "greet", '{"name": "Bob <b>", "times": 5}'),
            ("asks too", "greet", '{"name": "Eve", "times": 4}'),
            ("fails", "import", '{"path": "/srv/in/orders.csv"}'),
            ("sleeps", "later", "{}"),
            ("stuck", "nobody", "{}"),
        )
    }
    with connect(database_url) as conn:
        run = conn.execute(
            "select jobsworth.start_run("
            """'[{"node": "one", "mode": "greet", "payload": {"name": "Ada"}},"""
            """ {"node": "two", "mode": "later", "after": ["one"]}]') as id"""
        ).fetchone()
    assert run is not None
    worker = workers.start(database_url, {"JOBSWORTH_HANDLERS": "tests.browser.handlers"})
    address = worker.wait_for("health.listened")["url"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        made["run"] = str(run["id"])
        yield Site(f"{address}/ui", browser, made)
        browser.close()


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with a page, up to WCAG 2.2 AA and its best practices."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document)")["violations"]
    return [
        f"{page.url}: {each['id']}: {node['html'][:200]}"
        for each in found
        for node in each["nodes"]
    ]


def test_the_pages_are_whole_and_their_buttons_work(site: Site) -> None:
    with site.page() as page:
        page.goto(f"{site.address}/approvals")
        page.get_by_text("Really greet Eve 4 times?").first.wait_for()
        page.get_by_text("Really greet Bob <b> 5 times?").first.wait_for()
        page.goto(f"{site.address}/jobs/{site.jobs['fails']}")
        page.get_by_text("Traceback").first.wait_for()
    paths = [*PAGES, "/system", f"/jobs/{site.jobs['asks']}", f"/jobs/{site.jobs['fails']}"]
    paths += [f"/runs/{site.jobs['run']}", "/jobs?status=waiting&mode=greet", "/jobs?status=no"]
    wrong: list[str] = []
    for width, scheme in LOOKS:
        with site.page(width, scheme) as page:
            for path in paths:
                answer = page.goto(site.address + path)
                assert answer is not None
                assert answer.status == (400 if path.endswith("=no") else 200), path
                wrong += violations(page)
                if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                    wrong.append(f"{path} scrolls sideways at {width} px")
            page.goto(site.address)
            page.keyboard.press("?")
            page.get_by_role("heading", name="Keys").wait_for()
            wrong += violations(page)
            page.keyboard.press("Escape")
            page.get_by_role("heading", name="Keys").wait_for(state="hidden")
            page.keyboard.press("g")
            page.keyboard.press("a")
            page.wait_for_url("**/approvals")
    assert not wrong, "\n".join(wrong)

    with site.page() as page:
        # The filter is in the address, outlives an action, and back works.
        page.goto(f"{site.address}/jobs?mode=later")
        page.get_by_role("link", name="later").first.click()
        page.get_by_role("button", name="Run now").click()
        page.get_by_text("no longer waits for its time").wait_for()
        page.goto(f"{site.address}/jobs/{site.jobs['stuck']}")
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("The job is canceled").wait_for()
        page.get_by_role("button", name="Retry").click()
        page.get_by_text("The job starts afresh").wait_for()
        page.goto(f"{site.address}/system")
        page.get_by_role("button", name="Pause").click()
        page.get_by_text("Queue default is paused").wait_for()
        page.get_by_role("button", name="Resume").click()
        page.get_by_text("Queue default goes on").wait_for()
        page.goto(f"{site.address}/jobs?mode=greet")
        page.get_by_role("link", name="Waiting").click()
        page.wait_for_url("**/jobs?mode=greet&status=waiting")
        page.go_back()
        page.wait_for_url("**/jobs?mode=greet")

        # One approves; the page of the job, open elsewhere, says so by itself.
        with site.page() as watching:
            watching.goto(f"{site.address}/jobs/{site.jobs['asks']}")
            page.goto(f"{site.address}/jobs/{site.jobs['asks']}")
            page.get_by_role("link", name="Look and decide").click()
            page.get_by_label("Comment").fill("go ahead")
            page.get_by_role("button", name="Approve").click()
            page.get_by_text("Decided: approve").wait_for()
            watching.get_by_role("heading", name="Result").wait_for()
    assert [each for each in site.problems if "400" not in each] == []


def test_reading_and_approving_need_no_javascript(site: Site, database_url: str) -> None:
    with site.page(script=False) as page:
        page.goto(f"{site.address}/jobs/{site.jobs['asks too']}")

        def asks() -> bool:
            page.reload()
            return page.get_by_role("link", name="Look and decide").count() > 0

        until_sync(asks)
        page.get_by_role("link", name="Look and decide").click()
        page.get_by_text('"to": "Eve"').wait_for()
        page.get_by_role("button", name="Reject").click()
        page.get_by_text("Decided: reject").wait_for()
    with connect(database_url) as conn:
        found = conn.execute(
            "select chosen_option from jobsworth.approvals_decided where proposal_text like '%Eve%'"
        ).fetchone()
    assert found == {"chosen_option": "reject"}
    assert site.problems == []
