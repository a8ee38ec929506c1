"""Pictures of the dashboard for README, in light and dark: `make screenshots`.

In: a folder; with `all`, of every page at both widths. Out: PNGs of few colours, so that each stays
below 150 KB.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from db.migrate import migrate
from db.server.embedded import start
from tests.browser.site import Site, open_site
from tests.support import Workers

BYTES_MAX = 150_000
# A traceback names the folder of whoever takes the pictures: it is nobody's business.
HERE = str(Path(__file__).parent)
SHOWN_AS = "/srv/app"
RENAME = """([here, shown]) => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    texts.currentNode.data = texts.currentNode.data.replaceAll(here, shown);
  }
}"""


def main(folder: Path, *, everything: bool) -> None:
    """Make a site in a database of its own, and take its pictures."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        server = start(Path(data))
        workers = Workers()
        try:
            migrate(server.url, "jobsworth")
            with open_site(server.url, workers) as site:
                _all_of(site, folder) if everything else _first_of(site, folder)
        finally:
            workers.end()
            server.close()


def _first_of(site: Site, folder: Path) -> None:
    for scheme in ("light", "dark"):
        with site.page(1280, scheme) as page:
            page.goto(site.address)
            page.evaluate(RENAME, [HERE, SHOWN_AS])
            file = folder / f"dashboard-{scheme}.png"
            page.screenshot(path=file)
            assert file.stat().st_size < BYTES_MAX, f"{file} is too large"


def _all_of(site: Site, folder: Path) -> None:
    for width, scheme in ((390, "light"), (1280, "light"), (1280, "dark"), (390, "dark")):
        with site.page(width, scheme) as page:
            for place, path in enumerate(site.paths):
                page.goto(site.address + path)
                page.screenshot(path=folder / f"{place:02}-{width}-{scheme}.png", full_page=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), everything="all" in sys.argv[2:])
