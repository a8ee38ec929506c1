"""The spool's files: whole or not there, read back as written, and never anybody else's."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from db.money.calls import CallStatus, Usage, UsageSource
from db.money.settlements import Settlement
from db.steps.steps import PaidAnswer
from worker.money.group_commit import Paid
from worker.money.spool_folder import Entry, SpoolFolder, SpoolUnreadable, folder_of

JOB = UUID(int=1)
BYTES_MAX = 100_000
USAGE = Usage(7, 3, 2, 1, UsageSource.ESTIMATED, 1, 10)


@pytest.fixture
def folder(tmp_path: Path) -> SpoolFolder:
    return SpoolFolder(tmp_path / "spool" / "here", BYTES_MAX)


def paid(output: str = '{"text": "hi \\u2400"}') -> Paid:
    settlement = Settlement(
        uuid4(), CallStatus.OK, USAGE, Decimal("0.1000000000000000001"), "p1", 12, None
    )
    return Paid(settlement, PaidAnswer(JOB, "draft, é", output, 3, 0.25))


def read(folder: SpoolFolder, name: str) -> Paid:
    with folder.taken(name) as found:
        assert found is not None
        return found


def test_what_was_written_is_read_back_to_the_last_digit(folder: SpoolFolder) -> None:
    whole = paid()
    without_answer = Paid(Settlement(uuid4(), CallStatus.UNKNOWN, None, error="cut"), None)
    half_a_pair = without_answer.settlement._replace(call_id=uuid4(), error="\ud83d")
    folder.remove(folder.write(JOB, Paid(half_a_pair, None)))
    for one in (whole, without_answer):
        name = folder.write(JOB, one)
        assert read(folder, name) == one
    assert [entry.job_id for entry in folder.find().entries] == [JOB, JOB]
    assert folder.find().strange == []


def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(
    folder: SpoolFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noted(what: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            shown = os.readlink(f"/proc/self/fd/{args[0]}") if what == "sync" else str(args[1])
            done.append(f"{what} {os.path.basename(shown)}")
            return do(*args)

        return run

    monkeypatch.setattr(os, "fsync", noted("sync", os.fsync))
    monkeypatch.setattr(os, "replace", noted("name", os.replace))
    name = folder.write(JOB, paid())
    above = folder.path.parent.parent.name
    made = [f"sync {above}", "sync spool"]
    assert done == [*made, f"sync .{name}.{os.getpid()}.part", f"name {name}", "sync here"]


def test_nobody_else_may_read_an_answer(folder: SpoolFolder) -> None:
    name = folder.write(JOB, paid())
    assert (folder.path / name).stat().st_mode & 0o777 == 0o600
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_an_empty_folder_and_one_that_is_not_there_hold_nothing(folder: SpoolFolder) -> None:
    assert folder.find() == ([], [])
    assert not folder.path.exists()
    assert folder.usable()


def test_a_folder_below_a_file_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = SpoolFolder(tmp_path / "file" / "here", BYTES_MAX)
    assert not folder.usable()
    assert folder.find() == ([], [])
    with pytest.raises(OSError):
        folder.write(JOB, paid())


def test_a_full_spool_takes_nothing_more_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = SpoolFolder(tmp_path, 2_000)
    name = folder.write(JOB, paid())
    with pytest.raises(OSError, match="more than 2,000 bytes"):
        folder.write(JOB, paid(f'"{"x" * 2_000}"'))
    assert os.listdir(tmp_path) == [name]


def test_a_write_that_fails_half_way_leaves_nothing_behind(
    folder: SpoolFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(JOB, paid())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = os.listdir(folder.path)
    with pytest.raises(OSError, match="No space"):
        folder.write(JOB, paid())
    assert os.listdir(folder.path) == before


@pytest.mark.parametrize(
    "spoil",
    [
        ("^(.{150}).*", r"\1"),
        (".+", ""),
        (".+", "[]"),
        (".+", "null"),
        ('"format":1', '"format":2'),
        ('"status":"ok"', '"status":"fine"'),
        ('"settlement"', '"settlements"'),
        ('"input_tokens":7', '"input_tokens":-7'),
    ],
    ids=["torn", "empty", "list", "null", "newer", "status", "key", "count"],
)
def test_a_torn_or_foreign_document_is_said_to_be_unreadable(
    folder: SpoolFolder, spoil: tuple[str, str]
) -> None:
    name = folder.write(JOB, paid())
    file = folder.path / name
    whole = file.read_text()
    file.write_text(re.sub(*spoil, whole))
    assert file.read_text() != whole
    with pytest.raises(SpoolUnreadable), folder.taken(name):
        pass
    assert file.exists()


def test_a_file_under_the_name_of_another_call_is_not_believed(folder: SpoolFolder) -> None:
    name = folder.write(JOB, paid())
    other = f"{JOB}.{uuid4()}.json"
    os.rename(folder.path / name, folder.path / other)
    with pytest.raises(SpoolUnreadable, match="another call"), folder.taken(other):
        pass


def test_other_files_are_strange_and_one_that_is_being_written_is_not(folder: SpoolFolder) -> None:
    name = folder.write(JOB, paid())
    for other in ("notes.txt", f"x{name}", f"{JOB}.{'-' * 36}.json"):
        (folder.path / other).touch()
    (folder.path / f".{name}.77.part").touch()
    left = folder.path / f".{name}.78.part"
    left.touch()
    os.utime(left, (0, 0))
    found = folder.find()
    assert found.entries == [Entry(name, JOB)]
    assert sorted(found.strange) == sorted(
        ["notes.txt", f"x{name}", f"{JOB}.{'-' * 36}.json", left.name]
    )


def test_a_file_is_taken_by_one_at_a_time_and_is_free_again_after(folder: SpoolFolder) -> None:
    name = folder.write(JOB, paid())
    with folder.taken(name) as first:
        assert first is not None
        with folder.taken(name) as second:
            assert second is None
    read(folder, name)


def test_a_file_that_another_has_removed_is_nobodys(folder: SpoolFolder) -> None:
    name = folder.write(JOB, paid())
    with folder.taken(name):
        folder.remove(name)
    folder.remove(name)
    with folder.taken(name) as found:
        assert found is None


def test_each_database_and_schema_has_a_folder_whoever_connects(tmp_path: Path) -> None:
    def where(url: str | None, schema: str = "jobsworth", data: str = "data") -> Path:
        return folder_of(tmp_path, url, Path(data), schema)

    same = where("postgresql://ann:secret@db:5432/app?application_name=x")
    assert same == where("host=db port=5432 dbname=app user=bob")
    assert same.parent == tmp_path
    assert "secret" not in str(same)
    different = [
        same,
        where("postgresql://db:5432/app", schema="other"),
        where("postgresql://db:5432/app2"),
        where("postgresql://db:5433/app"),
        where("postgresql://db2:5432/app"),
        where(None),
        where(None, data="elsewhere"),
    ]
    assert len(set(different)) == len(different)
