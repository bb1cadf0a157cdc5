"""Settlement and the movements by people and rules: each books once, and the database refuses the rest."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from accounts.models import AuditEvent
from billing import approvals, ledger, tasks
from billing.models import Entry, Grant, Hold, HoldOwner, PendingAdjustment, Sweep, Wallet
from billing.usage import NANO
from tests.billing.wallets import (
    books_are_right,
    connect,
    funded,
    granted,
    held,
    kinds,
    request,
    run,
    settle,
    settlement,
    state,
)
from tests.conftest import make_organization, make_user

pytestmark = pytest.mark.django_db(transaction=True)


# --- Settlement ------------------------------------------------------------------------------------------------------


def test_a_cheaper_call_pays_its_cost_and_gives_back_the_rest() -> None:
    organization = funded(1_000)
    id_ = held(organization, 400)
    assert settle(organization, id_, 150) == ledger.Settled(charged_nano=150, absorbed_nano=0)
    balance = ledger.balance(organization.pk)
    assert (balance.posted, balance.held) == (850, 0)
    assert state(id_) == "settled"
    entry = Entry.objects.get(pk=id_)
    assert (entry.kind, entry.debit, entry.credit, entry.hold_id) == ("usage", "wallet", "revenue", id_)
    assert (entry.amount, entry.balance) == (150, 850)
    assert books_are_right(organization)


def test_cost_zero_releases_the_hold_without_an_entry() -> None:
    organization = funded(1_000)
    id_ = held(organization, 400)
    assert settle(organization, id_, 0) == ledger.Settled(charged_nano=0, absorbed_nano=0)
    assert state(id_) == "released"
    assert kinds(organization) == [("purchase", 1_000)]
    assert ledger.balance(organization.pk).available == 1_000


def test_a_dearer_call_takes_what_is_available_too() -> None:
    organization = funded(1_000)
    id_ = held(organization, 400)
    assert settle(organization, id_, 900) == ledger.Settled(charged_nano=900, absorbed_nano=0)
    assert ledger.balance(organization.pk).posted == 100
    assert books_are_right(organization)


def test_what_neither_hold_nor_balance_can_pay_is_absorbed() -> None:
    organization = funded(1_000)
    other = held(organization, 300)
    id_ = held(organization, 400)
    assert settle(organization, id_, 5_000) == ledger.Settled(charged_nano=700, absorbed_nano=4_300)
    balance = ledger.balance(organization.pk)
    assert (balance.posted, balance.held, balance.available) == (300, 300, 0)
    assert kinds(organization) == [("purchase", 1_000), ("usage", 700), ("absorbed", 4_300)]
    assert settle(organization, other, 300) == ledger.Settled(charged_nano=300, absorbed_nano=0)
    assert books_are_right(organization)


def test_a_cost_beyond_every_bound_is_absorbed_without_an_error() -> None:
    organization = funded(10)
    id_ = held(organization, 10)
    settled = settle(organization, id_, 10**30)
    assert settled is not None
    assert settled.charged_nano == 10
    assert settled.absorbed_nano > 10**18
    assert books_are_right(organization)


def test_cheap_calls_of_a_batch_make_room_for_its_dear_ones() -> None:
    organization = funded(1_000)
    dear, cheap = held(organization, 500), held(organization, 500)
    settled = ledger.settle(
        [settlement(organization, dear, 900), settlement(organization, cheap, 100)], now=timezone.now()
    )
    assert settled[dear] == ledger.Settled(charged_nano=900, absorbed_nano=0)
    assert ledger.balance(organization.pk).posted == 0
    assert books_are_right(organization)


def test_dear_calls_of_a_batch_share_what_is_available_in_order() -> None:
    organization = funded(100)
    ids = sorted(held(organization, 10) for _ in range(4))
    settled = ledger.settle([settlement(organization, id_, 40) for id_ in ids], now=timezone.now())
    assert [settled[id_].charged_nano for id_ in ids] == [40, 40, 10, 10]
    assert [settled[id_].absorbed_nano for id_ in ids] == [0, 0, 30, 30]
    assert books_are_right(organization)


def test_a_settlement_delivered_again_charges_nothing_and_tells_the_same() -> None:
    organization = funded(1_000)
    id_ = held(organization, 400)
    first = settle(organization, id_, 1_200)
    assert [settle(organization, id_, cost) for cost in (1_200, 7, 0)] == [first] * 3
    assert kinds(organization) == [("purchase", 1_000), ("usage", 1_000), ("absorbed", 200)]
    assert books_are_right(organization)


def test_shuffled_repeated_parallel_settlements_charge_each_call_once() -> None:
    random = Random(7)  # noqa: S311  (a shuffle)
    organizations = [funded(100_000) for _ in range(3)]
    calls = [(organization, held_id) for organization in organizations for held_id in _many_held(organization, 60)]
    deliveries = calls * 4
    random.shuffle(deliveries)

    def deliver(some: list[Any]) -> None:
        try:
            for start in range(0, len(some), 10):
                batch = [settlement(organization, id_, 3) for organization, id_ in some[start : start + 10]]
                ledger.settle(batch, now=timezone.now())
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(deliver, [deliveries[part::4] for part in range(4)]))
    for organization in organizations:
        assert ledger.balance(organization.pk) == ledger.Balance(posted=100_000 - 180)
        assert kinds(organization).count(("usage", 3)) == 60
    assert books_are_right(*organizations)


def _many_held(organization: Any, number: int) -> list[uuid.UUID]:
    async def hold_all() -> list[uuid.UUID]:
        wanted = [request(organization, 5) for _ in range(number)]
        for each in wanted:
            await ledger.hold(each)
        return [each.id for each in wanted]

    return run(hold_all())


def test_a_settlement_undone_with_its_transaction_leaves_the_hold_open() -> None:
    organization = funded(1_000)
    id_ = held(organization, 400)
    with transaction.atomic():
        assert settle(organization, id_, 400) is not None
        transaction.set_rollback(True)
    assert state(id_) == "open"
    assert ledger.balance(organization.pk) == ledger.Balance(posted=1_000, held=400)


def test_a_hold_that_was_lost_is_charged_from_what_is_available() -> None:
    organization = funded(100)
    id_ = uuid.uuid4()
    assert settle(organization, id_, 130) == ledger.Settled(charged_nano=100, absorbed_nano=30)
    assert state(id_) == "settled"
    assert books_are_right(organization)


def test_settling_for_an_organization_without_wallet_does_nothing() -> None:
    id_ = uuid.uuid4()
    settled = ledger.settle([ledger.Settlement(hold_id=id_, organization_id=2**50, cost_nano=5)], now=timezone.now())
    assert settled[id_] == ledger.Settled(charged_nano=0, absorbed_nano=0)
    assert not Hold.objects.filter(pk=id_).exists()


def test_a_hold_is_never_settled_for_somebody_else() -> None:
    organization, stranger = funded(100), funded(100)
    id_ = held(organization, 10)
    with pytest.raises(DatabaseError, match="another wallet"):
        settle(stranger, id_, 10)
    assert state(id_) == "open"
    assert kinds(stranger) == [("purchase", 100)]


def test_a_negative_cost_is_refused() -> None:
    organization = funded(100)
    id_ = held(organization, 10)
    with pytest.raises(ValueError, match="less than nothing"):
        settle(organization, id_, -5)
    assert state(id_) == "open"


def test_nothing_to_settle_asks_nothing() -> None:
    assert ledger.settle([], now=timezone.now()) == {}


# --- The reaper ------------------------------------------------------------------------------------------------------


def reap_regularly(now: Any) -> None:
    """Run the reaper twice, as beat does: the first round after a pause only notes the time."""
    ledger.reap(now=now - timedelta(seconds=30))
    ledger.reap(now=now)


def test_a_hold_a_minute_past_its_deadline_expires() -> None:
    now = timezone.now()
    organization = funded(100)
    due = held(organization, 10, deadline_at=now - timedelta(seconds=61))
    not_yet = held(organization, 10, deadline_at=now - timedelta(seconds=50))
    reap_regularly(now)
    assert (state(due), state(not_yet)) == ("expired", "open")
    assert ledger.balance(organization.pk).held == 10
    assert books_are_right(organization)


def test_holds_of_an_owner_unseen_for_a_minute_expire_and_those_of_the_living_stay() -> None:
    now = timezone.now()
    organization = funded(100)
    lost, living, unknown = (f"{name}-{uuid.uuid4().hex}" for name in ("lost", "living", "unknown"))
    ids = {owner: held(organization, 10, owner=owner) for owner in (lost, living, unknown)}
    ledger.alive([lost], now=now - timedelta(seconds=61))
    ledger.alive([living, living], now=now - timedelta(seconds=15))
    reap_regularly(now)
    assert [state(ids[owner]) for owner in (lost, living, unknown)] == ["expired", "open", "open"]
    assert books_are_right(organization)


def test_a_reaper_that_paused_skips_a_round() -> None:
    now = timezone.now()
    organization = funded(100)
    id_ = held(organization, 10, deadline_at=now - timedelta(hours=1))
    Sweep.objects.update_or_create(name="reap", defaults={"ran_at": now - timedelta(seconds=91)})
    assert ledger.reap(now=now) == 0
    assert state(id_) == "open"
    ledger.reap(now=now + timedelta(seconds=30))
    assert state(id_) == "expired"


def test_an_expired_hold_is_still_charged_from_what_is_available() -> None:
    now = timezone.now()
    organization = funded(100)
    id_ = held(organization, 60, deadline_at=now - timedelta(minutes=5))
    reap_regularly(now)
    spent = held(organization, 80)
    assert settle(organization, id_, 60) == ledger.Settled(charged_nano=20, absorbed_nano=40)
    assert state(id_) == "settled"
    assert settle(organization, spent, 80) == ledger.Settled(charged_nano=80, absorbed_nano=0)
    assert books_are_right(organization)


def test_an_expired_hold_of_a_free_call_stays_expired() -> None:
    now = timezone.now()
    organization = funded(100)
    id_ = held(organization, 60, deadline_at=now - timedelta(minutes=5))
    reap_regularly(now)
    assert settle(organization, id_, 0) == ledger.Settled(charged_nano=0, absorbed_nano=0)
    assert state(id_) == "expired"
    assert books_are_right(organization)


def test_owners_long_gone_are_forgotten_but_not_while_they_hold_something() -> None:
    now = timezone.now()
    organization = funded(100)
    gone = f"gone-{uuid.uuid4().hex}"
    ledger.alive([gone], now=now - timedelta(days=2))
    held(organization, 10, owner=gone)
    reap_regularly(now)
    assert not HoldOwner.objects.filter(owner=gone).exists()
    assert ledger.balance(organization.pk).held == 0


def test_beat_runs_the_sweeps() -> None:
    tasks.reap_holds()
    tasks.expire_grants()
    assert Sweep.objects.filter(name="reap").exists()


# --- Credits and debits ----------------------------------------------------------------------------------------------


def test_a_new_organization_gets_a_wallet_and_the_operators_grant(settings: Any) -> None:
    settings.RESPAN_SIGNUP_GRANT_USD = "0"
    poor = make_organization("Poor")
    settings.RESPAN_SIGNUP_GRANT_USD = "2.50"
    rich = make_organization("Rich")
    ledger.ensure_wallet(rich)
    assert kinds(poor) == []
    assert kinds(rich) == [("grant", 2_500_000_000)]
    assert books_are_right(poor, rich)


@pytest.mark.parametrize("book", [ledger.grant, ledger.purchase])
def test_credits_booked_twice_under_one_id_count_once(book: Any) -> None:
    organization = funded(0)
    id_ = uuid.uuid4()
    entries = [book(organization=organization, amount_nano=70, reason="a", actor=None, id=id_) for _ in range(2)]
    assert entries[0] == entries[1]
    assert ledger.balance(organization.pk).posted == 70
    with pytest.raises(ledger.IdempotencyConflict):
        book(organization=organization, amount_nano=71, reason="a", actor=None, id=id_)
    with pytest.raises(ledger.IdempotencyConflict):
        book(organization=funded(0), amount_nano=70, reason="a", actor=None, id=id_)
    assert ledger.balance(organization.pk).posted == 70


@pytest.mark.parametrize("amount", [0, -5, 1 << 62])
def test_impossible_amounts_are_refused(amount: int) -> None:
    organization = funded(50)
    for book in (ledger.grant, ledger.purchase):
        with pytest.raises(ValueError, match="amount"):
            book(organization=organization, amount_nano=amount, reason="a", actor=None)
    assert kinds(organization) == [("purchase", 50)]
    assert not Grant.objects.filter(wallet_id=organization.pk).exists()


def test_an_adjustment_names_what_it_corrects_and_is_audited() -> None:
    organization, operator = funded(1_000), make_user("operator")
    id_ = held(organization, 400)
    settle(organization, id_, 400)
    wrong = Entry.objects.get(pk=id_)
    entry = ledger.adjust(
        organization=organization, amount_nano=25, reason="Billed too much", actor=operator, corrects=wrong
    )
    assert (entry.corrects, entry.change, entry.balance) == (wrong, 25, 625)
    event = AuditEvent.objects.get(organization=organization, action="credits.adjustment")
    assert (event.actor, event.detail) == (operator, {"amount_nano": "25", "reason": "Billed too much"})
    assert books_are_right(organization)


def test_an_adjustment_takes_no_more_than_is_available() -> None:
    organization, operator = funded(1_000), make_user("operator")
    held(organization, 400)
    with pytest.raises(ledger.InsufficientCredits):
        ledger.adjust(organization=organization, amount_nano=-601, reason="a", actor=operator)
    assert kinds(organization) == [("purchase", 1_000)]
    assert not AuditEvent.objects.filter(organization=organization, action="credits.adjustment").exists()
    ledger.adjust(organization=organization, amount_nano=-600, reason="a", actor=operator)
    assert books_are_right(organization)


def test_a_large_adjustment_needs_two_persons() -> None:
    organization, operator, second = funded(10), make_user("operator"), make_user("second")
    amount = 100 * NANO + 1
    for approver in (None, operator):
        with pytest.raises(ledger.ApprovalNeeded):
            ledger.adjust(organization=organization, amount_nano=amount, reason="a", actor=operator, approver=approver)
    pending = approvals.adjust(organization=organization, amount_nano=amount, reason="a", actor=operator)
    assert isinstance(pending, PendingAdjustment)
    assert kinds(organization) == [("purchase", 10)]
    with pytest.raises(ledger.ApprovalNeeded):
        approvals.approve(pending.pk, actor=operator)
    assert kinds(organization) == [("purchase", 10)]
    for _ in range(2):
        assert approvals.approve(pending.pk, actor=second).state == "approved"
    assert kinds(organization) == [("purchase", 10), ("adjustment", amount)]
    entry = Entry.objects.get(pk=pending.pk)
    assert (entry.actor, entry.approver) == (operator, second)
    assert books_are_right(organization)


def test_a_rejected_adjustment_is_never_booked() -> None:
    organization, operator, second = funded(10), make_user("operator"), make_user("second")
    pending = approvals.adjust(organization=organization, amount_nano=10**12, reason="a", actor=operator)
    assert approvals.reject(pending.pk, actor=second).state == "rejected"
    assert approvals.approve(pending.pk, actor=second).state == "rejected"
    assert kinds(organization) == [("purchase", 10)]


def test_an_adjustment_within_the_limit_is_booked_at_once() -> None:
    organization, operator = funded(10), make_user("operator")
    booked = approvals.adjust(organization=organization, amount_nano=100 * NANO, reason="a", actor=operator)
    assert isinstance(booked, Entry)
    assert ledger.balance(organization.pk).posted == 100 * NANO + 10


def test_refunds_of_a_charge_never_exceed_it() -> None:
    organization, operator = funded(1_000), make_user("operator")
    id_ = held(organization, 400)
    settle(organization, id_, 400)
    charge = Entry.objects.get(pk=id_)
    ledger.refund(entry=charge, amount_nano=300, reason="a", actor=operator)
    with pytest.raises(ledger.RefundTooLarge):
        ledger.refund(entry=charge, amount_nano=101, reason="a", actor=operator)
    ledger.refund(entry=charge, amount_nano=100, reason="a", actor=operator)
    assert kinds(organization)[-2:] == [("refund", 300), ("refund", 100)]
    assert ledger.balance(organization.pk).posted == 1_000
    assert books_are_right(organization)


def test_a_refunded_purchase_takes_only_what_is_still_there() -> None:
    organization, operator = funded(1_000), make_user("operator")
    held(organization, 900)
    bought = Entry.objects.get(wallet_id=organization.pk)
    with pytest.raises(ledger.InsufficientCredits):
        ledger.refund(entry=bought, amount_nano=101, reason="a", actor=operator)
    assert kinds(organization) == [("purchase", 1_000)]
    ledger.refund(entry=bought, amount_nano=100, reason="a", actor=operator)
    assert ledger.balance(organization.pk).available == 0
    assert books_are_right(organization)


def test_a_grant_is_not_refunded() -> None:
    organization, operator = funded(0), make_user("operator")
    entry = ledger.grant(organization=organization, amount_nano=10, reason="a", actor=None)
    with pytest.raises(ValueError, match="adjustment"):
        ledger.refund(entry=entry, amount_nano=10, reason="a", actor=operator)


# --- Grants that expire ----------------------------------------------------------------------------------------------


def test_an_expired_grant_takes_what_is_left_of_it() -> None:
    organization = funded(1_000)
    grant = granted(organization, 500, days=1)
    settle(organization, held(organization, 200), 200)
    ledger.expire(timezone.now())
    assert ledger.balance(organization.pk).posted == 1_300
    ledger.expire(timezone.now() + timedelta(days=2))
    assert kinds(organization)[-1] == ("expiry", 300)
    assert ledger.balance(organization.pk).posted == 1_000
    grant.refresh_from_db()
    assert grant.remaining == 0
    assert Wallet.objects.get(pk=organization.pk).next_expiry_at is None
    ledger.expire(timezone.now() + timedelta(days=3))
    assert kinds(organization).count(("expiry", 300)) == 1
    assert books_are_right(organization)


def test_charges_use_up_the_grant_that_expires_first() -> None:
    organization = funded(100)
    later, sooner = granted(organization, 100, days=20), granted(organization, 100, days=10)
    settle(organization, held(organization, 130), 130)
    later.refresh_from_db()
    sooner.refresh_from_db()
    assert (sooner.remaining, later.remaining) == (0, 70)
    ledger.expire(timezone.now() + timedelta(days=15))
    assert ledger.balance(organization.pk).posted == 170
    ledger.expire(timezone.now() + timedelta(days=25))
    assert ledger.balance(organization.pk).posted == 100
    assert books_are_right(organization)


def test_open_holds_are_honoured_when_a_grant_expires() -> None:
    organization = funded(0)
    granted(organization, 100, days=1)
    paid, released = held(organization, 30), held(organization, 20)
    after = timezone.now() + timedelta(days=2)
    ledger.expire(after)
    assert kinds(organization)[-1] == ("expiry", 50)
    settle(organization, paid, 30)
    settle(organization, released, 0)
    assert ledger.balance(organization.pk).posted == 20
    ledger.expire(after)
    assert ledger.balance(organization.pk).posted == 0
    assert books_are_right(organization)


def test_a_hold_finds_no_credits_of_a_grant_whose_time_has_come() -> None:
    organization = funded(10)
    granted(organization, 100, days=-0.001)
    with pytest.raises(ledger.InsufficientCredits) as refused:
        held(organization, 11)
    assert refused.value.available_nano == 10
    held(organization, 10)
    assert kinds(organization)[-1] == ("expiry", 100)
    assert books_are_right(organization)


# --- Settlements that meet others ------------------------------------------------------------------------------------


def test_a_settlement_waits_for_a_locked_wallet_instead_of_failing() -> None:
    organization = funded(100)
    id_ = held(organization, 10)
    with connect() as somebody, ThreadPoolExecutor(1) as threads:
        somebody.execute("SELECT FROM billing_wallet WHERE organization_id = %s FOR UPDATE", (organization.pk,))

        def settle_and_leave() -> ledger.Settled | None:
            try:
                return settle(organization, id_, 10)
            finally:
                connection.close()

        settling = threads.submit(settle_and_leave)
        assert not settling.done()
        somebody.rollback()
        assert settling.result(timeout=10) == ledger.Settled(charged_nano=10, absorbed_nano=0)
    assert books_are_right(organization)


def await_waiting(somebody: Any, number: int) -> None:
    """Wait until so many backends of this database wait for a lock."""
    for _ in range(1_000):
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        if somebody.execute(query).fetchone()[0] >= number:
            return
        time.sleep(0.005)
    raise AssertionError("nobody waits")


def test_a_hold_written_in_the_midst_of_two_settlements_is_released_by_one_of_them() -> None:
    organization, id_ = funded(100), uuid.uuid4()
    lock = "SELECT FROM billing_wallet WHERE organization_id = %s FOR UPDATE"

    def settle_and_leave() -> None:
        try:
            settle(organization, id_, 0)
        finally:
            connection.close()

    with connect() as holder, connect() as next_in_line, connect() as watcher, ThreadPoolExecutor(3) as threads:
        watcher.autocommit = True
        holder.execute(lock, (organization.pk,))
        locking = threads.submit(next_in_line.execute, lock, (organization.pk,))
        await_waiting(watcher, 1)
        early = threads.submit(settle_and_leave)  # does not see the hold yet
        await_waiting(watcher, 2)
        holder.execute(
            "SELECT billing_hold_many(ARRAY[%s]::uuid[], ARRAY[%s]::bigint[], ARRAY[40]::bigint[], ARRAY[''],"
            " ARRAY[now()], false, true)",
            (id_, organization.pk),
        )
        holder.commit()
        locking.result(timeout=10)
        later = threads.submit(settle_and_leave)  # sees it, locks it, and waits for the wallet
        await_waiting(watcher, 2)
        next_in_line.rollback()
        for each in (early, later):
            each.result(timeout=10)
    assert state(id_) == "released"
    assert ledger.balance(organization.pk).held == 0
    assert books_are_right(organization)
