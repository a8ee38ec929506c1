"""The fault suite's own eyes: it sees an overlap where there is one."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.diary import Entry, read, write
from tests.faults.lanes import overlaps, spans

LANES = {"a": "lane", "b": "lane", "c": "another"}


def said(what: str, job: str, at_ns: int, pid: int = 1) -> Entry:
    return Entry(what, job, 1, "", pid, at_ns)


def test_attempts_that_follow_each_other_do_not_overlap() -> None:
    diary = [
        said("began", "a", 1),
        said("left", "a", 2),
        said("began", "b", 3),
        said("left", "b", 4),
    ]
    assert overlaps(spans(diary, {}), LANES) == []


def test_attempts_at_the_same_time_in_one_lane_overlap() -> None:
    diary = [
        said("began", "a", 1),
        said("began", "b", 2),
        said("left", "a", 3),
        said("left", "b", 4),
    ]
    [(first, second)] = overlaps(spans(diary, {}), LANES)
    assert (first.job, second.job) == ("a", "b")


def test_other_lanes_do_not_count() -> None:
    diary = [
        said("began", "a", 1),
        said("began", "c", 2),
        said("left", "c", 3),
        said("left", "a", 4),
    ]
    assert overlaps(spans(diary, {}), LANES) == []


def test_an_attempt_ends_with_its_process() -> None:
    diary = [said("began", "a", 1), said("began", "b", 5, pid=2), said("left", "b", 6, pid=2)]
    assert overlaps(spans(diary, {1: [4]}), LANES) == []
    assert overlaps(spans(diary, {1: [7]}), LANES) != []


def test_an_attempt_that_stood_still_counts_until_then() -> None:
    diary = [
        said("began", "a", 1),
        said("began", "b", 5, pid=2),
        said("left", "a", 6),
        said("left", "b", 7, pid=2),
    ]
    assert overlaps(spans(diary, {1: [4]}), LANES) == []


def test_the_part_of_an_entry_that_a_kill_left_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "diary"
    write(path, "began", "a", 1)
    with path.open("ab") as file:
        file.write(b'\n{"what": "left"')
    write(path, "began", "b", 1)
    assert [entry.job for entry in read(path)] == ["a", "b"]
