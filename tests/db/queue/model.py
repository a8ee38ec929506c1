"""The reference model of the queue: what it must do, in plain Python without a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from db.fence import Lease
from tests.db.protocol import CRASHES_MAX

STEPPED_ASIDE = ("approval", "signal")


@dataclass(eq=False)
class Job:
    """What the model knows of a job."""

    id: UUID
    lane: str | None = None
    place: int | None = None
    holds_lane: bool = False
    unique_key: str | None = None
    until_start: bool = False
    started: bool = False
    limit_key: str | None = None
    parent: Job | None = None
    is_child: bool = False
    needs: tuple[Job, ...] = ()
    due: bool = True
    status: str = "queued"
    waiting_for: str | None = None
    failures: int = 0
    crashes: int = 0
    signals: int = 0
    approvals: int = 0
    stopping: bool = False
    lease: Lease | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("done", "failed", "canceled")

    @property
    def keeps_key(self) -> bool:
        """Does it keep others from its unique key, or would it if it were open?"""
        return self.unique_key is not None and not (self.until_start and self.started)

    @property
    def suspect(self) -> bool:
        """May it have killed the workers that it shared?"""
        return self.crashes > 0 and self.crashes >= CRASHES_MAX - 1

    @property
    def apart(self) -> bool:
        """Is it to run alone, because a worker died with it as the single suspect?"""
        return self.crashes > 0 and self.crashes >= CRASHES_MAX

    @property
    def in_line(self) -> bool:
        """Does it hold its place in its lane?"""
        aside = self.waiting_for in STEPPED_ASIDE and not self.holds_lane
        return not self.ended and self.place is not None and not aside

    @property
    def order(self) -> tuple[int, UUID]:
        assert self.place is not None
        return self.place, self.id


@dataclass
class Model:
    """The queue as it should be."""

    jobs: dict[UUID, Job] = field(default_factory=dict[UUID, Job])
    places: int = 0
    windows: dict[str, Job] = field(default_factory=dict[str, Job])

    def holder(self, unique_key: str | None, *, windowed: bool = False) -> Job | None:
        """Who keeps a call with this key from a job; `windowed`: it asks for a window."""
        if unique_key is None:
            return None
        window = self.windows.get(unique_key)
        if windowed and window is not None:
            return window
        return self.open_holder(unique_key) or window

    def open_holder(self, unique_key: str | None) -> Job | None:
        """The open job that has this key."""
        return next(
            (
                j
                for j in self.jobs.values()
                if unique_key and j.unique_key == unique_key and j.keeps_key and not j.ended
            ),
            None,
        )

    def replace(self, job: Job, *, due: bool, debounced: bool) -> bool:
        """Let a job that has not started take the time of a later call; returns whether it did."""
        if job.started or job.ended:
            return False
        timed = job.waiting_for in ("timer", "parents")
        if debounced:
            due = not (timed and not job.due)
        if due or timed:
            job.due = due
        else:
            job.due, job.place = False, None
            self._wait(job, "timer")
        return True

    def blocked(self, job: Job) -> bool:
        others = [o for o in self.jobs.values() if o.lane == job.lane and o is not job]
        return job.lane is not None and any(
            o.status == "running" or (o.in_line and o.order < job.order) for o in others
        )

    def claimable(self, queued: list[Job], wanted: int, *, alone: bool) -> list[Job]:
        """What a worker takes of these if it wants so many; `alone`: it runs nothing."""
        found = [job for job in queued if alone or not job.apart][:wanted]
        if lone := [job for job in found if job.apart]:
            return lone[:1]
        suspects = [job for job in found if job.suspect]
        return [job for job in found if job not in suspects[1:]]

    def arrive(self, job: Job) -> None:
        """A new job takes its place."""
        self.jobs[job.id] = job
        if job.needs:
            self._wait(job, "parents")
        else:
            self._go_on(job)

    def end(self, job: Job, status: str) -> None:
        job.status, job.waiting_for, job.stopping = status, None, False
        job.approvals = 0
        for child in list(self.jobs.values()):
            if child.parent is job and child.is_child:
                self.cancel(child)

    def cancel(self, job: Job) -> None:
        if job.status == "running":
            job.stopping = True
        elif not job.ended:
            self.end(job, "canceled")

    def park(self, job: Job, reason: str) -> None:
        self._wait(job, reason)

    def requeue(self, job: Job) -> None:
        job.status, job.waiting_for = "queued", None

    def restarted(self, job: Job) -> list[Job]:
        """What a retry of this job runs again: it, and its children that did not end well."""
        bad = [
            child
            for child in self.jobs.values()
            if child.parent is job and child.is_child and child.status in ("failed", "canceled")
        ]
        return [job, *(one for child in bad for one in self.restarted(child))]

    def again(self, job: Job) -> None:
        """A retried job waits for those it needs, as a new one would."""
        if all(needed.ended for needed in job.needs):
            self._wait(job, "timer")
            return
        self._wait(job, "parents")

    def look(self) -> None:
        """Move on whatever may go on, until nothing may."""
        while gone := [j for j in self.jobs.values() if j.waiting_for and self._gone(j)]:
            gone.sort(key=lambda job: job.place or 0)
            for job in gone:
                bad = [n for n in job.needs if n.status in ("failed", "canceled")]
                if job.waiting_for == "parents" and bad:
                    self.end(job, "canceled")
                elif job.waiting_for and self._gone(job):
                    self._go_on(job)

    def _go_on(self, job: Job) -> None:
        if not job.due:
            self._wait(job, "timer")
            return
        if job.lane and job.place is None:
            self._draw(job)
        if self.blocked(job):
            self._wait(job, "lane")
        else:
            self.requeue(job)

    def _gone(self, job: Job) -> bool:
        match job.waiting_for:
            case "timer":
                return job.due
            case "lane":
                return not self.blocked(job)
            case "parents":
                return all(needed.ended for needed in job.needs)
            case "children":
                return all(c.ended for c in self.jobs.values() if c.parent is job and c.is_child)
            case "approval":
                return job.approvals == 0
            case _:
                return job.signals > 0

    def _wait(self, job: Job, reason: str) -> None:
        job.status, job.waiting_for = "waiting", reason

    def _draw(self, job: Job) -> None:
        self.places += 1
        job.place = self.places
