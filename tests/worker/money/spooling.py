"""What tests of the spool share: a spool in a folder, and calls that were answered."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import LiteralString
from uuid import uuid4

import pytest

from db.fence import Lease
from db.money.calls import CallStatus, Usage
from db.money.settlements import Settlement
from db.pool import Connection
from db.steps.steps import PaidAnswer
from tests.db import rows
from tests.db.money import entries
from tests.support import until
from worker.money import spool
from worker.money.group_commit import Paid
from worker.money.spool_folder import SpoolFolder

USAGE = Usage(7, 3)

SETTLED: LiteralString = """
select count(*) from jobsworth.token_ledger where entry = 'settle'
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPOOL_AFTER_SECONDS", "LOOK_SECONDS", "PAUSE_SECONDS", "CLEAR_PAUSE_SECONDS"):
        monkeypatch.setattr(spool, name, 0.02)
    monkeypatch.setattr(spool, "PAUSE_SECONDS_MAX", 0.05)


@pytest.fixture
def folder(tmp_path: Path) -> SpoolFolder:
    return SpoolFolder(tmp_path / "spool", 100_000)


@pytest.fixture
async def lease(conn: Connection) -> Lease:
    return await rows.running_job(conn)


async def answered(conn: Connection, lease: Lease, content: str = '"paid"') -> Paid:
    """A call that is in the books and was answered."""
    call_id = await entries.start(
        conn,
        lease,
        provider="scripted",
        model="m-1",
        request_id=uuid4().hex,
        estimate=Usage(100, 50),
        step_name="draft",
        attempt=1,
    )
    answer = PaidAnswer(lease.job_id, "draft", content, 1, 0.1)
    return Paid(Settlement(call_id, CallStatus.OK, USAGE, Decimal("0.25"), "p1"), answer)


def files(folder: SpoolFolder) -> list[str]:
    return [entry.name for entry in folder.find().entries]


async def until_files(folder: SpoolFolder, count: int) -> None:
    async def there() -> bool:
        return len(files(folder)) == count

    await until(there, what=f"{count} files")
