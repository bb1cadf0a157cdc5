"""The ledger against a model of it: random histories on real PostgreSQL, the invariants checked after every step.

I1: posted + credit limit - held is never negative. I2: a hold is resolved once. I3: a call is charged at most its cost,
from its hold and from what is available. A few examples here; `make test-long` runs hundreds.
"""

import asyncio
import os
import random
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from billing import ledger
from billing.models import Entry, Grant, Hold, Wallet
from respan import pool
from tests.billing.wallets import books_are_right, funded, request, run, settle, settlement
from tests.conftest import make_organization, make_user

pytestmark = pytest.mark.django_db(transaction=True)

amounts = st.integers(1, 500)


@dataclass
class Expected:
    """A wallet as it should be."""

    posted: int = 0
    holds: dict[uuid.UUID, int] = field(default_factory=dict)
    expired: set[uuid.UUID] = field(default_factory=set)
    closed: dict[uuid.UUID, ledger.Settled] = field(default_factory=dict)

    @property
    def available(self) -> int:
        return self.posted - sum(self.holds.values())


class Ledger(RuleBasedStateMachine):
    """One wallet with purchases, holds, settlements, expiries, refunds and adjustments in any order."""

    runner: asyncio.Runner
    calls = Bundle("calls")
    charges = Bundle("charges")

    def __init__(self) -> None:
        super().__init__()
        self.expected = Expected()

    @initialize()
    def open_wallet(self) -> None:
        self.organization = make_organization("Model")
        self.operator = make_user("operator")

    @rule(amount=amounts)
    def purchase(self, amount: int) -> None:
        ledger.purchase(organization=self.organization, amount_nano=amount, reason="", actor=None)
        self.expected.posted += amount

    @rule(amount=st.integers(-500, 500).filter(bool))
    def adjust(self, amount: int) -> None:
        fits = -amount <= self.expected.available
        try:
            ledger.adjust(organization=self.organization, amount_nano=amount, reason="", actor=self.operator)
            assert fits
            self.expected.posted += amount
        except ledger.InsufficientCredits:
            assert not fits

    @rule(target=calls, amount=amounts)
    def hold(self, amount: int) -> uuid.UUID:
        wanted = request(self.organization, amount)
        self._ask(wanted)
        return wanted.id

    @rule(call=calls, amount=amounts)
    def hold_again(self, call: uuid.UUID, amount: int) -> None:
        """A retry whose answer was lost, or a hold that arrives after its settlement."""
        self._ask(request(self.organization, amount, id=call))

    def _ask(self, wanted: ledger.HoldRequest) -> None:
        known = self.expected
        fits = wanted.amount_nano <= known.available
        try:
            self.runner.run(ledger.hold(wanted))
            assert fits
            if wanted.id not in known.holds:
                assert wanted.id not in known.closed
                assert wanted.id not in known.expired
                known.holds[wanted.id] = wanted.amount_nano
        except ledger.InsufficientCredits as error:
            assert not fits
            assert error.available_nano == known.available  # noqa: PT017  (of a verdict that may differ)
        except ledger.LedgerUnavailable:
            assert wanted.id in known.closed or wanted.id in known.expired

    @rule(target=charges, call=calls, cost=st.integers(0, 1_500), times=st.integers(1, 3))
    def settle(self, call: uuid.UUID, cost: int, times: int) -> uuid.UUID:
        settled = [settle(self.organization, call, cost) for _ in range(times)]
        assert settled[0] is not None
        assert settled == [settled[0]] * times
        known = self.expected
        if call in known.closed:
            assert settled[0] == known.closed[call]
            return call
        if cost == 0 and call in known.expired:
            return call
        known.holds.pop(call, None)
        charged = min(cost, known.available)
        assert settled[0] == ledger.Settled(charged_nano=charged, absorbed_nano=cost - charged)
        known.posted -= charged
        known.closed[call] = settled[0]
        known.expired.discard(call)
        return call

    @rule(call=calls)
    def reap(self, call: uuid.UUID) -> None:
        """The owner of this hold died an hour ago."""
        now = timezone.now()
        owner = f"dead-{call}"
        Hold.objects.filter(pk=call, state="open").update(owner=owner)
        ledger.alive([owner], now=now - timedelta(hours=1))
        ledger.reap(now=now - timedelta(seconds=1))
        ledger.reap(now=now)
        if self.expected.holds.pop(call, None) is not None:
            self.expected.expired.add(call)

    @rule(charge=consumes(charges), share=st.floats(0.1, 1.5))
    def refund(self, charge: uuid.UUID, share: float) -> None:
        entry = Entry.objects.filter(pk=charge).first()
        if entry is None:
            return
        before = sum(Entry.objects.filter(corrects=entry).values_list("amount", flat=True))
        amount = max(1, round(entry.amount * share))
        try:
            ledger.refund(entry=entry, amount_nano=amount, reason="", actor=self.operator)
            assert before + amount <= entry.amount
            self.expected.posted += amount
        except ledger.RefundTooLarge:
            assert before + amount > entry.amount

    @rule(amount=amounts, minutes=st.integers(-5, 5).filter(bool))
    def grant(self, amount: int, minutes: int) -> None:
        """Give credits that expire soon, or whose time is over already."""
        now = timezone.now()
        ledger.grant(
            organization=self.organization, amount_nano=amount, reason="", actor=None,
            expires_at=now + timedelta(minutes=minutes),
        )  # fmt: skip
        self.expected.posted += amount
        self._expire(now)

    @rule()
    def time_passes(self) -> None:
        """Ten minutes later every grant has expired."""
        self._expire(timezone.now() + timedelta(minutes=10))

    def _expire(self, now: Any) -> None:
        left = sum(
            Grant.objects.filter(wallet_id=self.organization.pk, expires_at__lte=now).values_list(
                "remaining", flat=True
            )
        )
        gone = min(left, self.expected.available)
        ledger.expire(now)
        self.expected.posted -= gone
        # What open holds keep of an expired grant must not expire under the model's feet later.
        if left > gone:
            Grant.objects.filter(wallet_id=self.organization.pk, expires_at__lte=now).update(remaining=0)
            Wallet.objects.filter(pk=self.organization.pk).update(next_expiry_at=None)
            ledger.expire(now)

    @invariant()
    def wallet_is_what_the_model_says(self) -> None:
        if not hasattr(self, "organization"):
            return
        balance = ledger.balance(self.organization.pk)
        assert balance.posted == self.expected.posted
        assert balance.held == sum(self.expected.holds.values())
        assert balance.available >= 0

    def teardown(self) -> None:
        if hasattr(self, "organization"):
            assert books_are_right(self.organization)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner
        runner.run(pool.close())


def check_histories(runner: asyncio.Runner, *, examples: int, steps: int) -> None:
    Ledger.runner = runner
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Ledger,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_random_histories_keep_the_invariants(runner: asyncio.Runner) -> None:
    check_histories(runner, examples=30, steps=20)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_random_histories_keep_the_invariants(runner: asyncio.Runner) -> None:
    check_histories(runner, examples=500, steps=50)


# --- The same wallets from all sides at once -------------------------------------------------------------------------


def web(wallets: list[Any], seconds: float, settle_later: "ThreadPoolExecutor", seed: int) -> int:
    """Open holds, give three of ten up at a random moment, and hand each to the workers whatever came of it."""
    chance = random.Random(seed)  # noqa: S311  (a test's dice)
    settling: list[Future[Any]] = []

    async def call() -> None:
        organization = chance.choice(wallets)
        wanted = request(organization, chance.randint(1, 50))
        task = asyncio.create_task(ledger.hold(wanted))
        if chance.random() < 0.3:
            asyncio.get_running_loop().call_later(chance.random() * 0.004, task.cancel)
        cost = 0
        try:
            await task
            cost = chance.randint(0, 60)
        except (asyncio.CancelledError, ledger.InsufficientCredits, ledger.LedgerUnavailable):
            pass
        for _ in range(chance.randint(1, 2)):
            settling.append(settle_later.submit(work, [settlement(organization, wanted.id, cost)]))

    async def client(until: float) -> None:
        while asyncio.get_running_loop().time() < until:
            await call()

    async def clients() -> None:
        until = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*(client(until) for _ in range(12)))

    run(clients())
    for each in settling:
        each.result(timeout=60)
    return len(settling)


def work(settlements: list[ledger.Settlement]) -> None:
    ledger.settle(settlements, now=timezone.now())


def leave(everyone: threading.Barrier) -> None:
    """Close the connection of this thread, each of them once."""
    everyone.wait(timeout=30)
    connection.close()


def top_up(wallets: list[Any], seconds: float) -> None:
    deadline = timezone.now() + timedelta(seconds=seconds)
    try:
        while timezone.now() < deadline:
            for organization in wallets:
                expires_at = timezone.now() + timedelta(milliseconds=200)
                ledger.grant(organization=organization, amount_nano=40, reason="", actor=None, expires_at=expires_at)
                ledger.purchase(organization=organization, amount_nano=20, reason="", actor=None)
            ledger.expire()
    finally:
        connection.close()


def check_all_sides(seconds: float) -> int:
    wallets = [funded(500) for _ in range(4)]
    workers = ThreadPoolExecutor(2)
    with ThreadPoolExecutor(3) as threads:
        webs = [threads.submit(web, wallets, seconds, workers, seed) for seed in (1, 2)]
        topping = threads.submit(top_up, wallets, seconds)
        calls = sum(each.result() for each in webs)
        topping.result()
    everyone = threading.Barrier(2)
    for done in [workers.submit(leave, everyone) for _ in range(2)]:
        done.result()
    workers.shutdown()
    assert books_are_right(*wallets)
    assert not Hold.objects.filter(wallet_id__in=[each.pk for each in wallets], state="open").exists()
    assert [ledger.balance(each.pk).held for each in wallets] == [0] * 4
    return calls


def test_holds_cancellations_settlements_and_grants_at_once_keep_the_books() -> None:
    assert check_all_sides(1.5) > 20


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_minute_of_everything_at_once_keeps_the_books() -> None:
    calls = check_all_sides(float(os.environ.get("RESPAN_LONG_SECONDS", "60")))
    print(f"{calls} settlements")
