"""Opens holds: the way of a call's credits from its coroutine to PostgreSQL and back, in batches.

Responsible for one batcher in each event loop, with one batch in flight: a hold that comes alone is sent at once, what
arrives meanwhile is the next batch. A database that does not answer within a second counts as unavailable. It never
resolves a hold, not even one whose caller has gone: the `finished` record of that call does, and finds or prevents it
(`billing_close_many`). Neighbours: `ledger.py` (the door; settlement), migration 0002 (`billing_hold_many`),
`respan.pool`.
"""

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from uuid import UUID

import psycopg

from billing.usage import usd
from respan import pool
from respan.errors import Error

logger = logging.getLogger(__name__)

BATCH_SIZE = 64
# A batch that is not answered within this is given up, with all who wait behind it. Who waits while batches are
# answered is not given up, however long the queue.
WAIT_LIMIT_S = 1.0
# A time-out that comes so late says that this process is behind, not the database; it counts again, up to the longest.
LATE_S = 0.1
LONGEST_WAIT_S = 5.0
# A batch that fails (a lost connection, say) is sent again for so long.
RETRY_FOR_S = 0.8
# A wallet that somebody else keeps locked is asked for again after this pause.
BUSY_PAUSE_S = 0.01
RETRY_PAUSE_S = 0.02

# More than any wallet holds, and far enough from the end of a BIGINT for sums.
MAX_NANO = 1 << 62

_HOLD_MANY = (
    "SELECT verdicts, rooms FROM billing_hold_many($1::uuid[], $2::bigint[], $3::bigint[], $4::text[],"
    " $5::timestamptz[], $6::boolean, $7::boolean)"
)


class InsufficientCredits(Error):
    """The worst case of a call does not fit into what is available; nothing was held."""

    status = 402
    code = "insufficient_credits"

    def __init__(self, *, needed_nano: int, available_nano: int, message: str | None = None) -> None:
        self.needed_nano = needed_nano
        self.available_nano = available_nano
        super().__init__(
            message
            or f"This call may cost up to {usd(needed_nano)} and {usd(available_nano)} is available."
            " Add credits, or ask for fewer output tokens.",
            extra={"needed_nano": str(needed_nano), "available_nano": str(available_nano)},
        )


class LedgerUnavailable(Error):
    """Nothing can be held at the moment; a call paid with an own provider key still goes through."""

    status = 503
    code = "ledger_unavailable"
    message = "Credits cannot be checked at the moment, so the call was not made. Try again in a second."

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": "1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRequest:
    """What a call wants held: `id` is the call's id, `owner` the spool folder of this process."""

    id: UUID
    organization_id: int
    amount_nano: int
    owner: str
    deadline_at: datetime


class Verdict(IntEnum):
    """What `billing_hold_many` says of a row."""

    REFUSED = 0
    HELD = 1
    BUSY = 2
    NO_WALLET = 3
    CLOSED = 4


@dataclass(eq=False, slots=True)
class _Waiter:
    request: HoldRequest
    # The verdict and what was available; None where no verdict could be had.
    answer: "asyncio.Future[tuple[Verdict, int] | None]"
    # It will be sent again after a pause: the end of its batch is not the end of it.
    is_parked: bool = False
    # When its wallet was first found locked by somebody else.
    busy_since: float | None = None

    def give_up(self) -> None:
        if not self.answer.done():
            self.answer.set_result(None)


@dataclass(eq=False, slots=True)
class _Batch:
    waiters: list[_Waiter]
    sent_at: float
    alarm: asyncio.TimerHandle | None = None

    @property
    def is_wanted(self) -> bool:
        """Tell whether anybody still waits for it."""
        return any(not waiter.answer.done() for waiter in self.waiters)


async def hold(request: HoldRequest) -> None:
    """Hold an amount for a call, or refuse it.

    Whatever comes of it (an error, a cancellation of the caller), the caller writes a `finished` record for this id.
    Raises: InsufficientCredits, LedgerUnavailable, ValueError for a negative amount.
    """
    if request.amount_nano < 0:
        raise ValueError("a hold cannot be negative")
    loop = asyncio.get_running_loop()
    batcher = _batchers.get(loop)
    if batcher is None:
        batcher = _batchers[loop] = Batcher()
    verdict, room = await batcher.ask(request)
    if verdict in {Verdict.REFUSED, Verdict.NO_WALLET}:
        raise InsufficientCredits(needed_nano=request.amount_nano, available_nano=room)
    if verdict is not Verdict.HELD:
        raise LedgerUnavailable


@dataclass(eq=False)
class Batcher:
    """Collects the holds of one event loop and sends them one batch at a time."""

    waiting: deque[_Waiter] = field(default_factory=deque)
    # Wallets that were locked by somebody else when last asked: they must not make others wait.
    busy: set[int] = field(default_factory=set)
    drainer: "asyncio.Task[None] | None" = None
    # Batches that were left to themselves; kept so that they are not collected halfway.
    stuck: "set[asyncio.Task[None]]" = field(default_factory=set)

    async def ask(self, request: HoldRequest) -> tuple[Verdict, int]:
        """Return the verdict on one hold. Raises: LedgerUnavailable when none can be had."""
        waiter = _Waiter(request, asyncio.get_running_loop().create_future())
        self.waiting.append(waiter)
        self._wake()
        answer = await waiter.answer
        if answer is None:
            raise LedgerUnavailable
        return answer

    def _wake(self) -> None:
        if self.drainer is None and self.waiting:
            self.drainer = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        """Send batches until nobody waits, or until this one was given up."""
        me = asyncio.current_task()
        try:
            while self.drainer is me and (waiters := self._next_waiters()):
                await self._send_watched(_Batch(waiters, _now()))
        finally:
            if self.drainer is me:
                self.drainer = None

    def _next_waiters(self) -> list[_Waiter]:
        """Take the next waiters, by wallet and in the order of their arrival; who has gone was never sent."""
        some: list[_Waiter] = []
        while self.waiting and len(some) < BATCH_SIZE:
            waiter = self.waiting.popleft()
            if not waiter.answer.done():
                some.append(waiter)
        some.sort(key=lambda waiter: waiter.request.organization_id)
        return some

    async def _send_watched(self, batch: _Batch) -> None:
        """Send a batch; nobody in it is left without an answer, not even when the database or the loop stops."""
        self._watch(batch)
        try:
            await self._send(batch)
        except Exception:
            logger.exception("a batch of holds failed")
        finally:
            if batch.alarm is not None:
                batch.alarm.cancel()
            for waiter in batch.waiters:
                if not waiter.is_parked:
                    waiter.give_up()

    def _watch(self, batch: _Batch) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + WAIT_LIMIT_S
        batch.alarm = loop.call_at(due, self._give_up, batch, self.drainer, due)

    def _give_up(self, batch: _Batch, drainer: "asyncio.Task[None] | None", due: float) -> None:
        """Leave a batch that does not come back to itself: the ledger is unavailable to it and to all who wait behind.

        Should the database have taken it, the `finished` records of its calls release its holds.
        """
        now = _now()
        if now - due > LATE_S and now - batch.sent_at < LONGEST_WAIT_S:
            self._watch(batch)  # the answer may have come, and lie unread
            return
        logger.warning("the database did not answer a batch of holds within %.1f s", now - batch.sent_at)
        if drainer is not None and drainer is self.drainer:
            self.stuck.add(drainer)
            drainer.add_done_callback(self.stuck.discard)
            self.drainer = None
        for waiter in (*batch.waiters, *self.waiting):
            waiter.give_up()
        self.waiting.clear()

    async def _send(self, batch: _Batch) -> None:
        """Send a batch until it is answered; the database may lose the connection or keep a wallet locked."""
        requests = [waiter.request for waiter in batch.waiters]
        patient = self.busy.isdisjoint(request.organization_id for request in requests)
        retry, begun = False, batch.sent_at
        while batch.is_wanted:
            asked_at = _now()
            try:
                verdicts, rooms = await _hold_many(requests, retry=retry, patient=patient)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if patient and isinstance(error, psycopg.errors.LockNotAvailable):
                    patient = False
                    continue
                if _now() - asked_at > pool.ACQUIRE_TIMEOUT_S + LATE_S:
                    begun = _now()  # the pool's time-out came late: it says nothing of the database
                elif _now() - begun > RETRY_FOR_S:
                    logger.warning("holds refused, the database is unavailable: %s", type(error).__name__)
                    return
                retry = True  # the answer may be lost, not the holds
                await asyncio.sleep(RETRY_PAUSE_S)
            except psycopg.Error:
                if len(requests) == 1:
                    raise
                # One row that cannot be sent must not refuse the others.
                await self._send_one_by_one(batch)
                return
            else:
                self._answer(batch, verdicts, rooms)
                return

    async def _send_one_by_one(self, batch: _Batch) -> None:
        for waiter in batch.waiters:
            try:
                await self._send(_Batch([waiter], _now()))
            except psycopg.Error:
                logger.exception("a hold cannot be sent")

    def _answer(self, batch: _Batch, verdicts: Sequence[int], rooms: Sequence[int]) -> None:
        again: list[_Waiter] = []
        for waiter, verdict, room in zip(batch.waiters, verdicts, rooms, strict=True):
            wallet = waiter.request.organization_id
            if verdict != Verdict.BUSY:
                self.busy.discard(wallet)
                if not waiter.answer.done():
                    waiter.answer.set_result((Verdict(verdict), room))
                continue
            self.busy.add(wallet)
            waiter.busy_since = waiter.busy_since or _now()
            if _now() - waiter.busy_since < WAIT_LIMIT_S:
                waiter.is_parked = True
                again.append(waiter)
        if again:
            asyncio.get_running_loop().call_later(BUSY_PAUSE_S, self._ask_again, again)

    def _ask_again(self, waiters: list[_Waiter]) -> None:
        for waiter in waiters:
            waiter.is_parked = False
        self.waiting.extendleft(reversed(waiters))
        self._wake()


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _hold_many(
    requests: Sequence[HoldRequest], *, retry: bool, patient: bool
) -> tuple[Sequence[int], Sequence[int]]:
    """Ask the database for verdicts; the requests are sorted by wallet."""
    verdicts, rooms = await pool.ask(
        _HOLD_MANY,
        (
            _array(str(request.id) for request in requests),
            _array(str(request.organization_id) for request in requests),
            _array(str(min(request.amount_nano, MAX_NANO)) for request in requests),
            _array(_quoted(request.owner) for request in requests),
            _array(_quoted(request.deadline_at.isoformat()) for request in requests),
            b"t" if retry else b"f",
            b"t" if patient else b"f",
        ),
    )
    return _numbers(verdicts), _numbers(rooms)


def _array(literals: Iterable[str]) -> bytes:
    """Write an array for PostgreSQL to read: a third of the time of psycopg's general way."""
    return f"{{{','.join(literals)}}}".encode()


def _numbers(array: bytes | None) -> list[int]:
    """Read an array of numbers as PostgreSQL writes it."""
    if array is None:
        raise psycopg.InterfaceError("no verdicts")
    return [int(number) for number in array[1:-1].split(b",")]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_batchers: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Batcher]" = weakref.WeakKeyDictionary()
