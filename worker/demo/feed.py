"""Play the conversation: store its messages in order, and decide approvals.

In: the inbox, and the state of the database. Out: messages, each committed together with its job,
and decisions. Invariant: the messages of a thread go in in their order; a message that must wait
for its thread delays no other thread.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_URL, UUID, uuid5

import anyio

from db.approvals import approvals
from db.approvals.approvals import Approval
from db.conversations import messages, threads
from db.conversations.messages import Received
from db.pool import Connection, Database
from worker.demo.inbox import Decide, InboxMessage, grouped
from worker.demo.show import Show
from worker.demo.watch import Watch

PLATFORM = "demo"
CHANNEL = "demo"
PACE_SECONDS = 0.35
DECIDE_SECONDS = 0.6
UNDECIDED = Decide(option="reject", comment="the inbox does not decide")


@dataclass(frozen=True, slots=True)
class FedMessage:
    """A line of the inbox, and what storing it returned."""

    message: InboxMessage
    received: Received


class Feeder:
    """Feeds the inbox to the daemons; `fed` are the messages that went in, in that order.

    Approvals of jobs whose mode is in `others` are left for somebody else to decide.
    """

    def __init__(
        self,
        database: Database,
        watch: Watch,
        show: Show,
        inbox: Sequence[InboxMessage],
        others: Collection[str] = (),
    ) -> None:
        self.fed: list[FedMessage] = []
        self._database = database
        self._watch = watch
        self._show = show
        self._groups = grouped(inbox)
        self._others = others
        self._total = len(inbox)
        self._asked_at: dict[UUID, float] = {}
        self._threads: dict[str, UUID] = {}

    async def feed(self, most: int | None = None) -> None:
        """Feed messages at the pace of a lively chat, until `most` of them, or all, are in."""
        while self._groups and (most is None or len(self.fed) < most):
            began = len(self.fed)
            await self._watch.until("feeding the conversation", self._may_feed)
            await self._feed_group(self._next())
            self._show.fed(len(self.fed), self._total)
            await self._decide_open()
            await anyio.sleep(PACE_SECONDS * (len(self.fed) - began))

    async def finished(self) -> bool:
        """Decide the open approvals; true once no approval is open and every job has finished."""
        return await self._decide_open() == 0 and not self._watch.unfinished()

    async def _may_feed(self) -> bool:
        await self._decide_open()
        return bool(self._ready())

    def _next(self) -> list[InboxMessage]:
        group = self._ready()[0]
        self._groups.remove(group)
        return group

    def _ready(self) -> list[list[InboxMessage]]:
        """The groups that may go in now: the first of each thread that need not wait."""
        busy = {job.thread_id for job in self._watch.unfinished()}
        seen: set[str] = set()
        ready: list[list[InboxMessage]] = []
        for group in self._groups:
            thread = group[0].thread
            settled = self._threads.get(thread) not in busy
            if thread not in seen and (group[0].when != "settled" or settled):
                ready.append(group)
            seen.add(thread)
        return ready

    async def _feed_group(self, group: Sequence[InboxMessage]) -> None:
        # One commit: a "busy" message then finds its thread busy, however fast the daemons are.
        async with self._database.transaction() as connection:
            for message in group:
                received = await self._receive(connection, message)
                self.fed.append(FedMessage(message, received))
                if received.job is not None:
                    self._watch.note_wait(received.job)

    async def _receive(self, connection: Connection, message: InboxMessage) -> Received:
        thread = await threads.get_or_create(
            connection, PLATFORM, message.thread, title=message.thread
        )
        self._threads[message.thread] = thread.id
        return await messages.receive(
            connection,
            thread.id,
            message.text,
            message.mode,
            message.payload,
            platform_message_id=message.platform_message_id,
            author_user_id=uuid5(NAMESPACE_URL, f"demo:{message.user}"),
            raw_payload={"line": message.line, "user": message.user},
        )

    async def _decide_open(self) -> int:
        """Decide the approvals open for `DECIDE_SECONDS`; return how many were open."""
        async with self._database.connection() as connection:
            pending = await approvals.get_pending(connection)
            for approval in pending:
                asked_at = self._asked_at.setdefault(approval.id, time.monotonic())
                read = time.monotonic() - asked_at >= DECIDE_SECONDS
                if read and not self._is_of_others(approval):
                    await self._decide(connection, approval)
        return len(pending)

    async def _decide(self, connection: Connection, approval: Approval) -> None:
        fed = self._message_of(approval)
        wanted = (fed.message.decide if fed else None) or UNDECIDED
        who = fed.message.user if fed else CHANNEL
        option = wanted.option if wanted.option in approval.options else UNDECIDED.option
        await approvals.resolve(connection, approval.id, option, who, CHANNEL, wanted.comment)
        self._show.say(f"{who} chose {option}: {approval.proposal_text}")

    def _is_of_others(self, approval: Approval) -> bool:
        of_others = {job.id for job in self._watch.jobs if job.mode in self._others}
        return approval.job_id in of_others

    def _message_of(self, approval: Approval) -> FedMessage | None:
        triggers = {job.trigger_message_id for job in self._watch.jobs if job.id == approval.job_id}
        return next((fed for fed in self.fed if fed.received.message.id in triggers), None)
