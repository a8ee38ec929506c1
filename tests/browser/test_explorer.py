"""Somebody wanders over the dashboard without a plan, and must find nothing broken.

It follows links, opens what can be opened, types into forms and sends them, goes back and reloads.
The seed is printed; `JOBSWORTH_EXPLORER_SEED` repeats it, `JOBSWORTH_EXPLORER_SECONDS` says how
long it wanders.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from playwright.sync_api import Locator, Page, Response
from playwright.sync_api import TimeoutError as TookTooLong

from tests.browser.site import Site

SECONDS = float(os.environ.get("JOBSWORTH_EXPLORER_SECONDS", "60"))
SEED = int(os.environ.get("JOBSWORTH_EXPLORER_SEED") or random.SystemRandom().randrange(10**6))
WORDS = ("greet", "default", "2h", "Ada", "nobody", '{"name": "Ada"}', "<b>", "0", "staging", "")
# What a wrong word in a form, or a thing that is gone, is answered with; each is a page of its own.
MEANT = {400, 403, 404, 409}
SIGNED_OUT = "/login"


class Explorer:
    """Wanders over the pages; `problems` is what nobody should see."""

    def __init__(self, page: Page, home: str, chance: random.Random) -> None:
        self._page = page
        self._home = home
        self._chance = chance
        self._typed = False
        self.problems: list[str] = []
        self.done: Counter[str] = Counter()
        page.on("response", self._heard)

    def wander(self, seconds: float) -> None:
        """Take steps until the time is over."""
        steps: list[tuple[Callable[[], bool], int]] = [
            (self._follow, 12),
            (self._open, 4),
            (self._send, 5),
            (self._back, 2),
            (self._press, 2),
        ]
        ends = time.monotonic() + seconds
        self._page.goto(self._home)
        while time.monotonic() < ends:
            step = self._chance.choices([s for s, _ in steps], [n for _, n in steps])[0]
            if step():
                self.done[step.__name__.strip("_")] += 1
            self._look()

    def _follow(self) -> bool:
        one = self._one(self._page.locator("main a[href]:visible, nav a[href]:visible"))
        href = None if one is None else one.get_attribute("href")
        if one is None or href is None or one.get_attribute("download") is not None:
            return False
        if not href.startswith("/"):
            self.problems.append(f"{self._page.url} leads away: {href}")
            return False
        self._typed = False
        self._page.goto(urljoin(self._page.url, href))
        return True

    def _open(self) -> bool:
        return self._click(self._page.locator("summary:visible"))

    def _send(self) -> bool:
        """Fill a form in, with words that fit or do not, and send it."""
        form = self._one(self._page.locator("main form"))
        if form is None:
            return False
        for each in form.locator("input:visible, textarea:visible").all():
            if self._chance.random() < 0.4:
                each.fill(self._chance.choice(WORDS))
        button = self._one(form.locator("button:visible"))
        if button is None:
            return False
        self._typed = True
        # What the browser would not send is sent too.
        form.evaluate("form => { form.noValidate = true }")
        with self._page.expect_navigation():
            button.dispatch_event("click")
        return True

    def _back(self) -> bool:
        self._page.go_back(wait_until="load")
        if not self._page.url.startswith(self._home):
            self._page.goto(self._home)
        return True

    def _press(self) -> bool:
        self._page.keyboard.press(self._chance.choice(["j", "k", "?", "Escape", "/", "g", "a"]))
        return True

    def _click(self, found: Locator) -> bool:
        one = self._one(found)
        if one is not None:
            one.dispatch_event("click")
        return one is not None

    def _one(self, found: Locator) -> Locator | None:
        there = found.count()
        return found.nth(self._chance.randrange(there)) if there else None

    def _look(self) -> None:
        """The page is one of ours, with what every page has."""
        page = self._page
        try:
            page.locator("main h1").first.wait_for()
        except TookTooLong:
            self.problems.append(f"{page.url} has no heading: {page.inner_text('body')[:200]}")
            page.goto(self._home)

    def _heard(self, response: Response) -> None:
        wrong = response.status >= 500 or (response.status >= 400 and not self._typed)
        if wrong or (response.status >= 400 and response.status not in MEANT):
            path = urlsplit(response.url)
            self.problems.append(
                f"{self._page.url}: {response.status} for {path.path}?{path.query}"
            )


def test_who_wanders_over_the_pages_finds_nothing_broken(site: Site) -> None:
    print(f"JOBSWORTH_EXPLORER_SEED={SEED}")
    with site.page() as page:
        page.set_default_timeout(15_000)
        explorer = Explorer(page, site.address, random.Random(SEED))
        explorer.wander(SECONDS)
    print(dict(explorer.done))
    said = [each for each in site.problems if "status of 4" not in each]
    assert not explorer.problems + said, f"seed {SEED}:\n" + "\n".join(explorer.problems + said)
    assert explorer.done["follow"], "it went nowhere"
