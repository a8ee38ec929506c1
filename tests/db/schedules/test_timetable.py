"""The times of schedules: cron in every time zone, periods, instants, and what is refused."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from zoneinfo import ZoneInfo, available_timezones

import pytest

from db.errors import InvalidInput
from db.schedules.timetable import Timetable

FROM, TO = datetime(2020, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC)
# Around the hours at which clocks change, and far from them.
TIMES = (time(0, 0), time(0, 30), time(1, 15), time(2, 0), time(2, 30), time(3, 0), time(23, 45))
DAY, WEEK = timedelta(days=1), timedelta(days=7)


def changes(zone: ZoneInfo) -> Iterator[datetime]:
    """The instants, to the day, before which the zone's clocks change from 2020 to 2037."""
    moment, before = FROM, FROM.astimezone(zone).utcoffset()
    while moment < TO:
        # No zone changes its clocks and back within a week.
        while moment < TO and (moment + WEEK).astimezone(zone).utcoffset() == before:
            moment += WEEK
        moment += DAY
        if moment.astimezone(zone).utcoffset() != before:
            yield moment
            before = moment.astimezone(zone).utcoffset()


def first_instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    """When a clock on the wall first shows this time or a later one, by the offsets alone."""
    wall = datetime.combine(day, at)
    # From before any change can matter, at last minute by minute in UTC. No step can pass both the
    # time and a change that takes it back: they are a quarter of an hour apart at least.
    moment = wall.replace(tzinfo=zone).astimezone(UTC) - timedelta(hours=3)
    for step in (timedelta(hours=1), timedelta(minutes=10)):
        while (moment + step).astimezone(zone).replace(tzinfo=None) <= wall - step:
            moment += step
    while moment.astimezone(zone).replace(tzinfo=None) < wall:
        moment += timedelta(minutes=1)
    return moment


def different_zones() -> list[tuple[str, tuple[datetime, ...]]]:
    """One name for each history of offsets, with its changes."""
    found = dict[tuple[object, ...], tuple[str, tuple[datetime, ...]]]()
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        changed = tuple(changes(zone))
        offsets = tuple(moment.astimezone(zone).utcoffset() for moment in (FROM, *changed))
        found.setdefault((changed, offsets), (name, changed))
    return list(found.values())


def test_a_fixed_local_time_fires_once_for_each_local_day_in_every_time_zone() -> None:
    """From three days before each change of a clock to three days after it."""
    looked = 0
    for name, changed in different_zones():
        zone = ZoneInfo(name)
        for change in changed or (FROM + 100 * DAY,):
            begin = (change - 3 * DAY).astimezone(zone).date()
            for at in TIMES:
                schedule = Timetable(cron=f"{at.minute} {at.hour} * * *", time_zone=name)
                days = [begin + n * DAY for n in range(6)]
                expected = [first_instant(day, at, zone) for day in days]
                fired = schedule.times_after(expected[0] - timedelta(seconds=1))
                assert list(islice(fired, 6)) == expected, (name, change, at)
                looked += 1
    assert looked > 5_000


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("0 8 * * mon-fri", "Europe/Berlin", "2026-11-27T12:00Z", "2026-11-30T07:00Z"),
        ("@daily", "America/New_York", "2026-07-01T12:00Z", "2026-07-02T04:00Z"),
        ("*/15 * * * *", "Asia/Kolkata", "2026-07-01T12:01Z", "2026-07-01T12:15Z"),
        ("0 0 29 2 *", "UTC", "2026-07-01T12:01Z", "2028-02-29T00:00Z"),
        ("0 12 L * *", "UTC", "2026-02-01T00:00Z", "2026-02-28T12:00Z"),
    ],
)
def test_cron(cron: str, zone: str, after: str, expected: str) -> None:
    moment = datetime.fromisoformat(after)
    assert Timetable(cron=cron, time_zone=zone).next_after(moment) == datetime.fromisoformat(
        expected
    )


def test_within_the_hour_that_comes_twice_a_fixed_time_does_not_come_again() -> None:
    """In Berlin, 2026-10-25 02:30 comes at 00:30 and at 01:30 UTC."""
    half_past_two = Timetable(cron="30 2 * * *", time_zone="Europe/Berlin")
    within = datetime(2026, 10, 25, 1, 15, tzinfo=UTC)  # 02:15, for the second time
    assert half_past_two.next_after(within) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_every_quarter_of_an_hour_goes_on_while_a_clock_changes() -> None:
    quarters = Timetable(cron="*/15 * * * *", time_zone="Europe/Berlin")
    for night in (datetime(2026, 10, 24, 22, tzinfo=UTC), datetime(2026, 3, 28, 22, tzinfo=UTC)):
        times = list(islice(quarters.times_after(night), 20))
        assert times == [night + n * timedelta(minutes=15) for n in range(1, 21)]


def test_a_period_counts_from_its_beginning_however_long_nobody_looked() -> None:
    begin = datetime(2026, 1, 1, 0, 0, 7, tzinfo=UTC)
    periods = Timetable(every_seconds=90, begins_at=begin)
    assert periods.next_after(begin - DAY) == begin + timedelta(seconds=90)
    assert periods.next_after(begin + timedelta(seconds=90)) == begin + timedelta(seconds=180)
    assert periods.next_after(begin + 365 * DAY) == begin + 365 * DAY + timedelta(seconds=90)


def test_one_instant_comes_once() -> None:
    at = datetime(2026, 5, 1, 9, tzinfo=ZoneInfo("Asia/Tokyo"))
    once = Timetable(at=at)
    assert once.next_after(at - DAY) == at
    assert once.next_after(at) is None


@pytest.mark.parametrize("most", [1, 3, 500])
def test_the_newest_times_of_a_long_outage_are_found_without_a_walk_through_it(most: int) -> None:
    after, until = datetime(2016, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    minutes = Timetable(cron="* * * * *")
    assert minutes.newest(after, until, most) == [
        until - n * timedelta(minutes=1) for n in reversed(range(most))
    ]
    assert minutes.count(after, until, 1000) == 1000
    years = Timetable(cron="0 0 1 1 *")
    assert (
        years.newest(after, until, most)
        == [datetime(year, 1, 1, tzinfo=UTC) for year in range(2017, 2027)][-most:]
    )
    assert years.count(after, until, 1000) == 10


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "exactly one of cron, every and at"),
        ({"cron": "* * * * *", "every_seconds": 5.0}, "exactly one"),
        ({"cron": "* * * *"}, "five fields"),
        ({"cron": "* * * * * *"}, "five fields"),
        ({"cron": "61 * * * *"}, "bad minute"),
        ({"cron": "0 0 30 2 *"}, "'0 0 30 2 \\*' never fires"),
        ({"cron": "0 0 31 4,6 *"}, "never fires"),
        ({"cron": "0 0 L/x * *"}, "bad"),
        ({"cron": "0 0 31 * 5#9"}, "bad day-of-week"),
        ({"cron": "5-1 * * * *"}, "bad minute"),
        ({"cron": "*/0 * * * *"}, "bad minute"),
        ({"cron": "٣ * * * *"}, "not a cron expression"),
        ({"cron": "0 " * 400}, "not a cron expression"),
        ({"every_seconds": 0.0}, "every 0.0"),
        ({"every_seconds": -1.0}, "every -1.0"),
        ({"every_seconds": float("nan")}, "every nan"),
        ({"every_seconds": 1e300}, "every 1e\\+300"),
        ({"at": datetime(2026, 1, 1)}, "not an instant"),  # noqa: DTZ001 - the mistake
        ({"at": datetime(2300, 1, 1, tzinfo=UTC)}, "not an instant"),
        ({"cron": "0 8 * * *", "time_zone": "Europe/Atlantis"}, "no time zone 'Europe/Atlantis'"),
        ({"cron": "0 8 * * *", "time_zone": "../../etc/passwd"}, "no time zone"),
        ({"cron": "0 8 * * *", "time_zone": "Europe"}, "no time zone"),
        ({"cron": "0 8 * * *", "time_zone": ""}, "no time zone"),
        ({"cron": "0 8 * * *", "time_zone": "a\0b"}, "no time zone"),
    ],
)
def test_what_can_never_fire_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        Timetable(**given)  # pyright: ignore[reportArgumentType]
    assert caught.value.remedy
