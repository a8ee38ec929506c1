"""The dashboard in Chromium, served by a real daemon.

Each page in light and dark, narrow and wide: no console error, no violation that axe-core knows, no
sideways scrolling. Each action from its button; reading and approving without JavaScript.
`JOBSWORTH_TEST_PICTURES` names a folder for a picture of each page.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.browser.site import Site, violations
from tests.support import connect, until_sync

PICTURES = os.environ.get("JOBSWORTH_TEST_PICTURES")


@pytest.mark.parametrize(
    "looks",
    [[(390, "dark"), (1280, "light")], [(390, "light"), (1280, "dark")]],
    ids=["one", "other"],
)
def test_the_pages_are_whole(site: Site, looks: list[tuple[int, str]]) -> None:
    wrong: list[str] = []
    for width, scheme in looks:
        with site.page(width, scheme) as page:
            for place, path in enumerate([*site.paths, "/jobs?status=no"]):
                answer = page.goto(site.address + path)
                assert answer is not None
                assert answer.status == (400 if path.endswith("=no") else 200), path
                if PICTURES:
                    file = Path(PICTURES) / f"{place:02}-{width}-{scheme}.png"
                    page.screenshot(path=file, full_page=True)
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
    assert [each for each in site.problems if "400" not in each] == []


def test_the_buttons_do_what_they_say(site: Site) -> None:
    with site.page() as page:
        # The filter is in the address, outlives an action, and back works.
        page.goto(f"{site.address}/jobs?mode=later")
        page.get_by_role("link", name="later").first.click()
        page.get_by_role("button", name="Run now").click()
        page.get_by_text("no longer waits for its time").wait_for()
        page.goto(f"{site.address}/jobs/{site.jobs['stuck']}")
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("The job is canceled").wait_for()
        page.get_by_text("Change it and retry").click()
        page.get_by_label("Payload (JSON)").fill('{"now": true}')
        page.get_by_role("button", name="Retry with this payload").click()
        page.get_by_text("The job starts afresh").wait_for()
        page.get_by_text('"now": true').wait_for()
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

        # All that match: looked at, ordered, undone.
        page.goto(f"{site.address}/jobs?mode=nobody")
        page.get_by_role("button", name="Cancel…").click()
        page.get_by_role("button", name="Cancel 1 job").click()
        page.get_by_role("button", name="Undo").click()
        page.get_by_text("no job was touched").wait_for()
        page.get_by_role("link", name="The jobs it is for").click()
        page.wait_for_url("**/jobs?mode=nobody")

        page.goto(f"{site.address}/threads/{site.jobs['thread']}")
        page.get_by_role("textbox", name="Message").fill("And on Sundays?")
        page.get_by_role("button", name="Send").click()
        page.get_by_text("And on Sundays?").first.wait_for()
        page.goto(f"{site.address}/runs/{site.jobs['run']}")
        page.get_by_role("link", name="fork from here").first.click()
        page.get_by_role("button", name="Fork").click()
        page.get_by_text("This is the branch").wait_for()
        page.goto(f"{site.address}/deployments")
        page.get_by_text("Roll back", exact=True).click()
        page.get_by_role("button", name="Roll back staging").click()
        page.get_by_text("This job does it").wait_for()

        # One approves, by keys; the page of the job, open elsewhere, says so by itself.
        with site.page() as watching:
            watching.goto(f"{site.address}/jobs/{site.jobs['asks']}")
            page.goto(f"{site.address}/approvals/{site.jobs['approval']}")
            page.keyboard.press("c")
            page.keyboard.type("go ahead")
            page.keyboard.press("Tab")
            page.keyboard.press("a")
            page.keyboard.press("Enter")
            page.get_by_text("Decided: approve").wait_for()
            watching.get_by_role("heading", name="Result").wait_for()
    assert site.problems == []


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
