"""Embedding requests in the books: each is booked before it is sent, and settled once.

In: the texts of a request, and whose they are. Out: a row of `llm_calls` with its entries in the
ledger, within every budget and rate limit that applies. Invariant: what may have been billed is
never settled at nothing.

A memory is embedded after its job, so its call belongs to no job: its scope is proactive, and it
has the team, agent, thread and run of its texts, and the mode of the job that remembered them: a
budget of a mode counts what embedding its memories costs, and a text without room there waits. What
no job remembered has no mode. Texts of others are sent by a request of their own. The query of
`job.recall` is a call of its job, under the job's lease, and so a recorded step: an attempt that
comes later reads the vector and pays nothing.

The offline embedders send nothing, cost nothing and book nothing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self
from uuid import UUID, uuid4

import anyio

from db.errors import InvalidInput
from db.memory.outbox import Payer
from db.memory.vectors import Vector
from db.money.calls import Answer, CallStatus, Usage, UsageSource
from db.money.settlements import Settlement
from db.money.starts import CallStarted, Limited, Short, Starting, Unpriced
from db.pool import Database
from worker import events
from worker.attempt_state import AttemptState, PriceSource, Tools, uncounted
from worker.log import get_logger
from worker.masking import mask
from worker.memory.embedders import EmbedderDenied
from worker.money import calls
from worker.money.group_commit import SETTLE, START, GroupCommit, Paid, wake_waiting
from worker.money.paid_call import PROVIDER_WAIT_SECONDS_MAX, PaidCall
from worker.money.pricing import Pricing
from worker.money.spool import Spool
from worker.settings import Settings

NOBODY = Payer()
# As pydantic-ai names any OpenAI-compatible endpoint: one price and one limit for both.
PROVIDER = "openai"
ERROR_CHARACTERS_MAX = 1_000
# No token is shorter than a byte; the ends of a text count too.
TOKENS_PER_TEXT = 8
# A shorter wait for a rate limit is slept through: the request is whole, and its texts are leased.
SLEEP_SECONDS_MAX = 10.0
# After this, texts ask again for room in their budget.
BUDGET_SECONDS = 60.0
PRICE_REMEDY = "give it a price (jobsworth price set), or set JOBSWORTH_UNKNOWN_PRICE=allow"

log = get_logger()


@dataclass(frozen=True, slots=True)
class Accounts:
    """What it takes to book requests."""

    database: Database
    books: GroupCommit
    spool: Spool | None = None
    pricing: PriceSource | None = None
    unknown_price: str = "refuse_if_budgeted"
    called: Callable[[str, str, int, int, float | None], None] = uncounted

    @classmethod
    def of_worker(cls, tools: Tools) -> Self:
        return cls(
            tools.database,
            tools.books,
            tools.spool,
            tools.pricing,
            tools.unknown_price,
            tools.called,
        )

    @classmethod
    def of_command(cls, database: Database, settings: Settings) -> Self:
        """Without a spool: a settlement that the database does not take is counted at its estimate
        an hour later.
        """
        books = GroupCommit(database)
        return cls(database, books, pricing=Pricing(), unknown_price=settings.unknown_price)


@dataclass(frozen=True, slots=True)
class PayersAccount:
    """Books requests without a job. `name` says what they are for: embed, search …"""

    accounts: Accounts
    model: str
    name: str
    payer: Payer = NOBODY

    @classmethod
    def of_command(cls, database: Database, settings: Settings, model: str, name: str) -> Self:
        return cls(Accounts.of_command(database, settings), model, name)

    async def begin(self, texts: Sequence[str]) -> "BookedRequest":
        """Book a request that is about to be sent, at its upper estimate; committed on return.

        A short wait for a rate limit is slept through. Raises `EmbedderDenied`.
        """
        tokens = upper_tokens(texts)
        call = Starting(
            None,
            PROVIDER,
            self.model,
            uuid4().hex,
            Usage(tokens, 0, source=UsageSource.ESTIMATED),
            await self._upper_cost(tokens),
            step_name=self.name,
            team_id=self.payer.team_id,
            thread_id=self.payer.thread_id,
            allow_unpriced=self.accounts.unknown_price == "allow",
            run_id=self.payer.run_id,
            agent_id=self.payer.agent_id,
            mode=self.payer.mode,
        )
        give_up = time.monotonic() + SLEEP_SECONDS_MAX
        while True:
            match await self.accounts.books.write(START, call):
                case CallStarted(call_id, warned):
                    for budget in warned:
                        log.warning(events.BUDGET_WARNED, budget=budget)
                    return BookedRequest(self, call_id, call)
                case Limited(detail, wait_seconds):
                    if time.monotonic() + wait_seconds > give_up:
                        raise EmbedderDenied(detail, wait_seconds, limited=True)
                    await anyio.sleep(wait_seconds)
                case Short(detail=detail):
                    raise EmbedderDenied(detail, BUDGET_SECONDS)
                case Unpriced(detail=detail):
                    raise EmbedderDenied(f"{detail}: {PRICE_REMEDY}", BUDGET_SECONDS)

    async def _upper_cost(self, tokens: int) -> Decimal | None:
        accounts = self.accounts
        if accounts.pricing is None:
            return None
        await accounts.pricing.ready(accounts.database, PROVIDER)
        team_id = self.payer.team_id
        cost = accounts.pricing.upper_cost(PROVIDER, self.model, tokens, 0, team_id=team_id)
        if cost is None and accounts.unknown_price == "refuse":
            unknown = f"the price of {PROVIDER} {self.model} is not known"
            raise EmbedderDenied(f"{unknown}: {PRICE_REMEDY}", BUDGET_SECONDS)
        return cost


class BookedRequest:
    """A request that is in the books and may be sent; see `Booking`."""

    def __init__(self, account: PayersAccount, call_id: UUID, booked: Starting) -> None:
        self._account = account
        self._call_id = call_id
        self._booked = booked
        self._began = time.monotonic()

    @property
    def request_id(self) -> str:
        return self._booked.request_id

    async def answered(self, tokens: int | None, vectors: Sequence[Vector]) -> None:
        await self._settle(CallStatus.OK, _usage(tokens))

    async def spoilt(self, tokens: int | None, error: object) -> None:
        await self._settle(CallStatus.CUT, _usage(tokens), error)

    async def refused(self, error: object) -> None:
        await self._settle(CallStatus.ERROR, Usage(0, 0), error)

    async def limited(self, error: object, wait_seconds: float | None) -> None:
        await self._settle(
            CallStatus.ERROR, Usage(0, 0), error, limited=True, wait_seconds=_wait(wait_seconds)
        )

    async def unsent(self, error: object) -> None:
        await self._settle(CallStatus.ERROR, Usage(0, 0), error, unsent=True)

    async def lost(self, error: object) -> None:
        await self._settle(CallStatus.UNKNOWN, None, error)

    async def _settle(
        self,
        status: CallStatus,
        usage: Usage | None,
        error: object = None,
        *,
        unsent: bool = False,
        limited: bool = False,
        wait_seconds: float | None = None,
    ) -> None:
        accounts = self._account.accounts
        cost, version, price = self._cost(status, usage)
        took = usage or self._booked.estimate
        settlement = Settlement(
            self._call_id,
            status,
            took,
            cost,
            version,
            round((time.monotonic() - self._began) * 1000),
            None if error is None else mask(str(error))[:ERROR_CHARACTERS_MAX],
            price,
            unsent,
            limited,
            wait_seconds,
        )
        paid = Paid(settlement, None)
        if accounts.spool is None:
            booked = await accounts.books.write(SETTLE, paid)
        else:
            booked = await accounts.spool.settle(accounts.books, None, paid)
        accounts.called(
            f"{PROVIDER}:{self._account.model}",
            status.value,
            took.input_tokens,
            0,
            None if cost is None else float(cost),
        )
        if booked.freed:
            await wake_waiting(accounts.database, booked.freed)

    def _cost(
        self, status: CallStatus, usage: Usage | None
    ) -> tuple[Decimal | None, str | None, Mapping[str, Any] | None]:
        """(cost, price version, rates); what is not known costs what was estimated."""
        if status is CallStatus.ERROR:
            return Decimal(0), None, None
        if usage is None:
            return self._booked.estimated_cost, None, None
        account = self._account
        if account.accounts.pricing is None:
            return None, None, None
        priced = account.accounts.pricing.price_of(
            PROVIDER, account.model, usage, team_id=account.payer.team_id
        )
        return (priced.cost, priced.version, priced.rates) if priced else (None, None, None)


class Recorded(Exception):
    """The vector of a query is recorded already: an earlier attempt has paid for it."""

    def __init__(self, vector: Vector) -> None:
        super().__init__("the vector is recorded")
        self.vector = vector


@dataclass(frozen=True, slots=True)
class JobsAccount:
    """Books the one query of a recall as the call `name` of its job."""

    state: AttemptState
    model: str
    name: str

    async def begin(self, texts: Sequence[str]) -> "_RecallsRequest":
        """As `worker.money.calls.begin`: parks the job where a limit or a budget says so.

        Raises `Recorded`.
        """
        estimate = (upper_tokens(texts), 0)
        call = await calls.begin(
            self.state, self.name, provider=PROVIDER, model=self.model, estimate=estimate
        )
        if not isinstance(call, PaidCall):
            raise Recorded(call.output)
        return _RecallsRequest(call)


class _RecallsRequest:
    def __init__(self, call: PaidCall) -> None:
        self._call = call

    @property
    def request_id(self) -> str:
        return self._call.request_id

    async def answered(self, tokens: int | None, vectors: Sequence[Vector]) -> None:
        await self._call.answered(Answer(list(vectors[0]), _usage(tokens)))

    async def spoilt(self, tokens: int | None, error: object) -> None:
        await self._call.cut(error, _usage(tokens))

    async def refused(self, error: object) -> None:
        await self._call.refused(error)

    async def limited(self, error: object, wait_seconds: float | None) -> None:
        # What it returns would park the job, or fail it: a handler may go on without memories.
        await self._call.limited(wait_seconds, error)

    async def unsent(self, error: object) -> None:
        await self._call.unsent(error)

    async def lost(self, error: object) -> None:
        await self._call.lost(error)


def upper_tokens(texts: Sequence[str]) -> int:
    """The most tokens that these texts can take."""
    return sum(len(text.encode("utf-8", "replace")) + TOKENS_PER_TEXT for text in texts)


def _usage(tokens: int | None) -> Usage | None:
    """What the endpoint says; None if that is no number of tokens."""
    try:
        return None if tokens is None else Usage(tokens, 0)
    except InvalidInput:
        return None


def _wait(seconds: float | None) -> float | None:
    return None if seconds is None else min(seconds, PROVIDER_WAIT_SECONDS_MAX)
