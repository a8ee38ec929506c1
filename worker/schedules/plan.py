"""What is due of a schedule: a pure decision.

In: its times, until when they are dealt with, and now. Out: the times to fire, and how many passed
that are not made up for.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from db.schedules.schedules import Missed
from db.schedules.timetable import Timetable

# A time that is older than this was missed: nobody was there to fire it.
LATE = timedelta(seconds=60)
# So many missed times are counted at most.
COUNTED_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Plan:
    """`times` are to be fired, in order; `missed` passed before them, or until `last_missed`.

    `late`: the times are made up for, so their jobs may start at different moments.
    """

    times: tuple[datetime, ...] = ()
    missed: int = 0
    last_missed: datetime | None = None
    late: bool = False


def plan(
    timetable: Timetable,
    handled_to: datetime,
    now: datetime,
    missed: Missed,
    missed_max: int,
) -> Plan:
    """What to do about the times later than `handled_to` and not later than `now`."""
    most = missed_max if missed == Missed.ALL else 1
    times = timetable.newest(handled_to, now, most)
    if not times:
        return Plan()
    passed = timetable.count(handled_to, now, COUNTED_MAX + most)
    late = now - times[-1] > LATE
    if late and missed == Missed.SKIP:
        return Plan(missed=min(passed, COUNTED_MAX), last_missed=times[-1])
    return Plan(tuple(times), max(0, passed - len(times)), late=late)
