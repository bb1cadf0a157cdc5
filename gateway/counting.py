"""What this process knows of counters: what it may spend of each without asking, and the asking.

One `Counter` for each that calls of this process meet, of a kind by metric; at most one question about it is under way,
and questions about many go to the store together. Never refuses (`throttle.py`) and never waits for a store that just
failed. Neighbours: `counters.py` (the stores), `limits.py`.
"""

import asyncio
import contextlib
import time
import uuid
import weakref
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

import structlog
from django.conf import settings

from gateway import counters
from gateway.counters import ANY, Given, Hold, Key, Store, Take, Unavailable
from gateway.limits import CONCURRENCY, COST, TOKENS, Policy
from respan import redis

log = structlog.get_logger(__name__)

BATCH_SIZE: Final = 64
# After PostgreSQL did not answer it is left alone this long; Redis has a breaker of its own.
AWAY_S: Final = 2.0
# Places for calls at once fall back to the others when this process has not renewed them for so long.
LEASE_MS: Final = 30_000
RENEW_S: Final = 10.0
CLOSE_S: Final = 2.0
_MAX_COUNTERS: Final = 20_000


def _now_ms() -> int:
    return int(time.time() * 1000)


def share(most: int) -> int:
    """Return what this process may allow alone."""
    processes: int = max(settings.RESPAN_WEB_PROCESSES, 1)
    return max(most // processes, 1)


class Counter:
    """A counter of requests, as this process knows it; the others differ in what they take and when."""

    def __init__(self, here: "Here", key: Key) -> None:
        self.here = here
        self.key = key
        self.ends_ms = 0
        # Given by the store and not spent yet.
        self.free = 0
        self.total = 0  # by all processes, when last heard of, with what they have not spent
        # The limit that was found used up until the window ends.
        self.over_at: int | None = None
        self.alone = 0  # allowed in this window without the store
        # The soft limits of this window that were told already.
        self.told: set[int] = set()
        self.waiting = 0
        self.question: asyncio.Task[bool] | None = None

    @property
    def used(self) -> int:
        """Return what all processes used, as far as this one knows."""
        return self.total - self.free + self.alone

    @property
    def is_idle(self) -> bool:
        return self.question is None and self.ends_ms <= _now_ms()

    @property
    def is_asking(self) -> bool:
        return self.question is not None and not self.question.done()

    def has_room(self, policy: Policy, now_ms: int) -> bool:
        """Tell whether a call may be counted without asking."""
        self._roll(now_ms)
        return self.free > 0

    def take(self, policy: Policy) -> None:
        """Count a call; there is room."""
        self.free -= 1

    def leave(self, amount: int) -> None:
        """Note that a call is over and what it used."""

    def wait_s(self, policy: Policy) -> float | None:
        """Return when it is worth while to come again; None: never."""
        if not policy.period:
            return None
        ends_ms = self.ends_ms or policy.window(_now_ms()).ends_ms
        return (ends_ms - _now_ms()) / 1000

    async def make_room(self, policy: Policy) -> bool:
        """Ask for more, or wait for what was asked already. Tell whether it is worth while to look again."""
        if self._is_over(policy):
            return False
        self.waiting += 1
        try:
            if self.question is not None and self.is_asking:
                await asyncio.shield(self.question)
                return True  # that one was asked for others
            # One that is answered but not put away yet is no longer waited for: that would not give way to anybody.
            return await asyncio.shield(self._begin(policy))
        finally:
            self.waiting -= 1

    def _begin(self, policy: Policy) -> "asyncio.Task[bool]":
        question = self.question = asyncio.create_task(self._ask(policy))
        question.add_done_callback(self._answered)
        return question

    def _answered(self, question: "asyncio.Task[bool]") -> None:
        if self.question is question:
            self.question = None
        if not question.cancelled():
            question.exception()

    def _is_over(self, policy: Policy) -> bool:
        return self.over_at is not None and self.over_at == policy.most

    def _roll(self, now_ms: int) -> None:
        if now_ms >= self.ends_ms:
            self.free = self.total = self.alone = self.ends_ms = 0
            self.over_at = None
            self.told.clear()

    async def _ask(self, policy: Policy) -> bool:
        most = ANY if policy.most is None else policy.most
        least = (most if policy.most is not None else max(policy.soft, default=1)) // self.here.share
        now_ms = _now_ms()
        take = Take(self.key, policy.window(now_ms), max(self.waiting, least, 1), most, policy.first_event)
        try:
            given = await self.here.ask(take)
        except Unavailable:
            return self._go_alone(policy, take.window.ends_ms)
        self._roll(_now_ms())
        self.free += given.granted
        self.total, self.ends_ms = given.used, given.ends_ms
        if not given.granted:
            self.over_at = policy.most
        return given.granted > 0

    def _go_alone(self, policy: Policy, ends_ms: int) -> bool:
        """Allow this process its share of the limit, in a window of its own."""
        self.ends_ms = self.ends_ms or ends_ms
        left = ANY if policy.most is None else min(share(policy.most), policy.most) - self.alone
        given = max(min(self.waiting, left), 0)
        self.alone += given
        self.free += given
        return given > 0


class Spend(Counter):
    """A counter of tokens or cost: what a call uses is booked when it is over."""

    def __init__(self, here: "Here", key: Key) -> None:
        super().__init__(here, key)
        self.policy: Policy | None = None
        self.unbooked = 0
        self.heard_at = 0.0

    @property
    def used(self) -> int:
        return self.total + self.unbooked

    @property
    def is_idle(self) -> bool:
        return super().is_idle and not self.unbooked

    def has_room(self, policy: Policy, now_ms: int) -> bool:
        """Tell whether less than the limit was used, as far as was heard lately."""
        self._roll(now_ms)
        is_fresh = time.monotonic() - self.heard_at <= self.here.fresh_s
        return is_fresh and (policy.most is None or self.used < policy.most)

    def take(self, policy: Policy) -> None:
        self.policy = policy

    def leave(self, amount: int) -> None:
        if amount > 0:
            self.unbooked += amount
            self.here.later(self._book())

    async def _book(self) -> None:
        if self.policy is not None and self.unbooked:
            with contextlib.suppress(Unavailable):
                await self.make_room(self.policy)

    def _is_over(self, policy: Policy) -> bool:
        return False

    async def _ask(self, policy: Policy) -> bool:
        booked, self.unbooked = self.unbooked, 0
        take = Take(self.key, policy.window(_now_ms()), booked, ANY, policy.first_event)
        try:
            given = await self.here.ask(take)
        except Unavailable:
            self.unbooked += booked
            self.ends_ms = self.ends_ms or take.window.ends_ms
            self.heard_at = time.monotonic()  # there is nothing newer: what is known counts
            return policy.most is None or self.used < min(share(policy.most), policy.most)
        self._roll(_now_ms())
        self.total, self.ends_ms, self.heard_at = given.used, given.ends_ms, time.monotonic()
        return policy.most is None or self.used < policy.most


class Places(Counter):
    """A counter of calls at once: this process has places, held for it as long as it renews them."""

    def __init__(self, here: "Here", key: Key) -> None:
        super().__init__(here, key)
        self.policy: Policy | None = None
        self.held = 0
        self.places = 0

    @property
    def used(self) -> int:
        return max(self.total, self.held)

    @property
    def is_idle(self) -> bool:
        return self.question is None and not self.held and not self.places

    def has_room(self, policy: Policy, now_ms: int) -> bool:
        return self.held < self.places

    def take(self, policy: Policy) -> None:
        self.policy = policy
        self.held += 1
        self.here.renew(self)

    def leave(self, amount: int) -> None:
        self.held -= 1
        if not self.waiting:
            self.places = self.held  # at once: nobody may use here what the store is about to give away
            self.here.later(self.tell())

    def wait_s(self, policy: Policy) -> float | None:
        return 1.0

    async def tell(self) -> None:
        """Tell the store how many places this process needs."""
        if self.policy is not None and not self.is_asking:
            await asyncio.shield(self._begin(self.policy))

    def _answered(self, question: "asyncio.Task[bool]") -> None:
        super()._answered(question)
        if self.places > self.held:
            self.here.later(self._trim())

    async def _trim(self) -> None:
        """Give back what nobody took who asked for it."""
        for _ in range(3):
            await asyncio.sleep(0)  # who was woken takes first
        if self.places > self.held and not self.waiting:
            self.places = self.held
            await self.tell()

    async def _ask(self, policy: Policy) -> bool:
        most = ANY if policy.most is None else policy.most
        want, now_ms = self.held + self.waiting, _now_ms()
        try:
            given = await self.here.ask(Hold(self.key, self.here.owner, want, most, now_ms, now_ms + LEASE_MS))
        except Unavailable:
            self.places = max(self.places, min(share(most), self.held + self.waiting))
        else:
            self.places, self.total = given.granted, given.used
        return self.held < self.places


_KINDS: Final = {TOKENS: Spend, COST: Spend, CONCURRENCY: Places}


@dataclass(eq=False, slots=True)
class _Waiter:
    ask: Take | Hold
    answer: "asyncio.Future[Given]"


class Here:
    """The counters of one event loop, and the one line to their store."""

    def __init__(self) -> None:
        self.store: Store = counters.store()
        self.with_redis = redis.configured()
        self.owner = uuid.uuid4().hex
        self.share = self.store.share or ANY  # nothing more than is needed
        self.fresh_s = self.store.fresh_s
        self.away_until = 0.0
        self.known: dict[Key, Counter] = {}
        self.waiting: deque[_Waiter] = deque()
        self.drainer: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.renewed: set[Places] = set()
        self.renewer: asyncio.Task[None] | None = None

    def counter(self, policy: Policy, subject: str, now_ms: int) -> Counter:
        """Return the counter of a limit for one of those it counts."""
        key = Key(policy.organization_id, policy.id, policy.revision, subject)
        counter = self.known.get(key)
        if counter is None:
            if len(self.known) >= _MAX_COUNTERS:
                self.known = {key: each for key, each in self.known.items() if not each.is_idle}
            counter = self.known[key] = _KINDS.get(policy.metric, Counter)(self, key)
        return counter

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what no call waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def ask(self, ask: Take | Hold) -> Given:
        """Ask the store, together with what others ask. Raises: Unavailable."""
        if time.monotonic() < self.away_until:
            raise Unavailable("the store did not answer lately")
        waiter = _Waiter(ask, asyncio.get_running_loop().create_future())
        self.waiting.append(waiter)
        if self.drainer is None:
            self.drainer = asyncio.create_task(self._drain())
        return await waiter.answer

    async def _drain(self) -> None:
        try:
            while self.waiting:
                batch = [self.waiting.popleft() for _ in range(min(len(self.waiting), BATCH_SIZE))]
                try:
                    answers = await self.store.ask([waiter.ask for waiter in batch])
                except Exception as error:
                    self._failed(error, batch)
                else:
                    for waiter, given in zip(batch, answers, strict=True):
                        if not waiter.answer.done():
                            waiter.answer.set_result(given)
        finally:
            self.drainer = None

    def _failed(self, error: Exception, batch: list[_Waiter]) -> None:
        """Answer those who asked, and those who wait behind them: they have waited long enough."""
        if not isinstance(error, Unavailable):
            log.error("counters not asked", exc_info=error)
        elif not self.with_redis:
            log.warning("counters_unavailable", error=str(error))
        if not self.with_redis:
            self.away_until = time.monotonic() + AWAY_S
        for waiter in (*batch, *self.waiting):
            if not waiter.answer.done():
                waiter.answer.set_exception(Unavailable(str(error)))
        self.waiting.clear()

    def renew(self, places: Places) -> None:
        """Go on telling the store that places are in use, as long as they are."""
        self.renewed.add(places)
        if self.renewer is None:
            self.renewer = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while self.renewed:
            await asyncio.sleep(RENEW_S)
            self.renewed = {places for places in self.renewed if places.held}
            for places in self.renewed:
                self.later(places.tell())
        self.renewer = None

    async def close(self) -> None:
        """Book what is left and give places back."""
        if self.renewer is not None:
            self.renewer.cancel()
            await asyncio.gather(self.renewer, return_exceptions=True)
        for counter in self.known.values():
            if isinstance(counter, Spend) and counter.unbooked:
                self.later(counter._book())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self.tasks:
                    await asyncio.gather(*self.tasks, return_exceptions=True)
        for task in (*self.tasks, self.drainer):
            if task is not None:
                task.cancel()


_loops: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Here]" = weakref.WeakKeyDictionary()


def here() -> Here:
    """Return the counters of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _loops.get(loop)
    if found is None:
        found = _loops[loop] = Here()
    return found


async def close() -> None:
    """Close the counters of this loop, if any were met."""
    found = _loops.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()
