"""A provider over real HTTP for each test of agents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.providers.openai_stub import OpenAIStub


@pytest.fixture
def provider() -> Iterator[OpenAIStub]:
    with OpenAIStub() as stub:
        yield stub
