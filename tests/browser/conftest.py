"""The site that each test of the browser looks at."""

from collections.abc import Iterator

import pytest

from tests.browser.site import Site, open_site
from tests.support import Workers


@pytest.fixture
def site(database_url: str, workers: Workers) -> Iterator[Site]:
    with open_site(database_url, workers) as opened:
        yield opened
