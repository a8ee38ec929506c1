"""When a schedule fires: its times, computed from cron, a period or one instant.

In: an expression and a time zone. Out: instants in UTC. Pure: nothing here looks at a clock or at
the database.

A cron expression with fixed hours and minutes fires once for each local day that it names, whatever
the clocks do, as Debian's cron has it: at the first instant that exists if its time is skipped, at
the first of the two if its time comes twice. One whose minutes or hours begin with a star follows
the time that really passes. A period does so too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import cast
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from db.errors import InvalidInput, shown

EVERY_SECONDS_MIN, EVERY_SECONDS_MAX = 1.0, 3_153_600_000.0
CRON_CHARACTERS_MAX = 200
# No time of a job lies at or after this.
END = datetime(2200, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
# `newest` looks back so far, and then further, until it has found enough.
_LOOKS_BACK = tuple(timedelta(days=days) for days in (1 / 24, 1, 32, 366, 3_660))
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, slots=True)
class Timetable:
    """The times of a schedule. Exactly one of `cron`, `every_seconds` and `at` is given.

    cron: five fields (minute, hour, day of month, month, day of week), or @hourly to @yearly, in
    `time_zone` (an IANA name). every_seconds: a period, counted from `begins_at`. at: one instant.
    Raises `InvalidInput` for what can never fire.
    """

    cron: str | None = None
    every_seconds: float | None = None
    at: datetime | None = None
    time_zone: str = "UTC"
    begins_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    def __post_init__(self) -> None:
        given = [self.cron, self.every_seconds, self.at]
        if sum(value is not None for value in given) != 1:
            raise InvalidInput(
                "a schedule has exactly one of cron, every and at",
                "for example cron='0 8 * * mon-fri', or every=timedelta(minutes=10)",
            )
        zone(self.time_zone)
        if self.cron is not None:
            _check_cron(self.cron)
        if self.every_seconds is not None:
            _check_period(self.every_seconds)
        if self.at is not None and (self.at.utcoffset() is None or self.at >= END):
            raise InvalidInput(
                f"at {shown(self.at)} is not an instant before the year 2200",
                "give a time with its time zone",
            )

    def times_after(self, moment: datetime) -> Iterator[datetime]:
        """The times later than `moment`, in order, in UTC; none at or after the year 2200."""
        if self.cron is not None:
            times = self._by_cron(moment)
        elif self.every_seconds is not None:
            times = self._by_period(moment, timedelta(seconds=self.every_seconds))
        else:
            times = iter([self.at.astimezone(UTC)] if self.at and self.at > moment else [])
        for time in times:
            if time >= END:
                return
            yield time

    def next_after(self, moment: datetime) -> datetime | None:
        """The first time later than `moment`; None if there is none."""
        return next(self.times_after(moment), None)

    def newest(self, after: datetime, until: datetime, most: int) -> list[datetime]:
        """The last `most` times later than `after` and not later than `until`, in order."""
        times = list[datetime]()
        for back in _LOOKS_BACK:
            begin = max(after, until - back)
            times = self._between(begin, until)
            if len(times) >= most or begin == after:
                return times[-most:]
        return self._between(after, until)[-most:]

    def count(self, after: datetime, until: datetime, most: int) -> int:
        """How many times are later than `after` and not later than `until`; at most `most`."""
        counted = 0
        for time in islice(self.times_after(after), most):
            if time > until:
                break
            counted += 1
        return counted

    def _between(self, after: datetime, until: datetime) -> list[datetime]:
        times = list[datetime]()
        for time in self.times_after(after):
            if time > until:
                break
            times.append(time)
        return times

    def _by_cron(self, moment: datetime) -> Iterator[datetime]:
        local = moment.astimezone(zone(self.time_zone))
        try:
            for time in CronSim(_expression(self.cron or ""), local):
                instant = time.astimezone(UTC)
                # Within the hour that comes twice, an expression with fixed times names the first.
                if instant > moment:
                    yield instant
        except (OverflowError, ValueError):  # after the year 9999
            return

    def _by_period(self, moment: datetime, period: timedelta) -> Iterator[datetime]:
        begin = self.begins_at.astimezone(UTC)
        number = max(1, (moment - begin) // period + 1)
        while True:
            try:
                yield begin + number * period
            except OverflowError:
                return
            number += 1


def zone(name: str) -> ZoneInfo:
    """The time zone of that IANA name. Raises `InvalidInput`."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError) as error:  # also a path, or a directory
        raise InvalidInput(
            f"there is no time zone {shown(name)}", "give an IANA name, like Europe/Berlin or UTC"
        ) from error


def _expression(cron: str) -> str:
    return _NICKNAMES.get(cron.strip().lower(), cron)


def _check_cron(cron: str) -> None:
    remedy = "five fields: minute hour day-of-month month day-of-week, like '0 8 * * mon-fri'"
    if (
        not isinstance(cast(object, cron), str)
        or len(cron) > CRON_CHARACTERS_MAX
        or not cron.isascii()
    ):
        raise InvalidInput(f"cron {shown(cron)} is not a cron expression", remedy)
    if len(_expression(cron).split()) != 5:
        raise InvalidInput(f"cron {shown(cron)} does not have five fields", remedy)
    minute, hour, day, month, weekday = _expression(cron).split()
    begin = datetime(2000, 1, 1, tzinfo=UTC)
    try:
        CronSim(f"{minute} {hour} {day} * {weekday}", begin)
        CronSim(f"{minute} {hour} * {month} {weekday}", begin)
    except (CronSimError, AssertionError) as error:
        reason = f": {str(error).lower()}" if str(error) else " is not a cron expression"
        raise InvalidInput(f"cron {shown(cron)}{reason}", remedy) from error
    try:
        next(CronSim(_expression(cron), begin))
    except (CronSimError, StopIteration, OverflowError, ValueError) as error:
        raise InvalidInput(
            f"cron {shown(cron)} never fires", "no year has such a day: correct day and month"
        ) from error


def _check_period(seconds: float) -> None:
    if isinstance(seconds, bool) or not EVERY_SECONDS_MIN <= seconds <= EVERY_SECONDS_MAX:
        raise InvalidInput(
            f"every {shown(seconds)} seconds is not from one second to a hundred years",
            "give such a period",
        )
