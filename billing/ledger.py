"""The ledger: every movement of money, and the door through which other apps reach it.

Credits and debits by people and rules (grant, purchase, adjustment, refund, expiry) are booked here on Django's
connection; calls are charged by `settle`. An entry's id is its idempotency key: the same cause books once. Never
deletes or changes an entry, never refuses a settlement. Neighbours: `holds.py` (opening holds, async), migration 0002
(the statements), `codes.py`, `approvals.py` and `admin.py` (who call it), the worker that loads finished calls.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q, Sum

from accounts import audit
from accounts.models import Organization, User
from billing.holds import MAX_NANO, HoldRequest, InsufficientCredits, LedgerUnavailable, hold
from billing.models import Entry, Grant, Hold, HoldOwner, Sweep, Wallet
from billing.usage import NANO, nano_from_usd, usd
from respan import ids
from respan.errors import Error

__all__ = [
    "ApprovalNeeded",
    "Balance",
    "HoldRequest",
    "IdempotencyConflict",
    "InsufficientCredits",
    "LedgerUnavailable",
    "RefundTooLarge",
    "Settled",
    "Settlement",
    "adjust",
    "alive",
    "balance",
    "ensure_wallet",
    "expire",
    "grant",
    "hold",
    "purchase",
    "reap",
    "refund",
    "refundable",
    "settle",
]

# One operator adjusts up to this; a second one must approve more.
SOLE_ADJUSTMENT_NANO = 100 * NANO

GRACE = timedelta(seconds=60)
# When the reaper has not run for so long, the database was away, and nobody could report himself alive.
LONGEST_PAUSE = timedelta(seconds=90)
REAP_AT_ONCE = 1_000
EXPIRE_AT_ONCE = 500

_NAMESPACE = uuid.UUID("6b3c3f5e-58f1-4a4b-9c53-0d1f6b1f8a51")


class IdempotencyConflict(Error):
    """The id of an entry was used before for something else; nothing was booked."""

    status = 409
    code = "idempotency_conflict"
    message = "This id was used before for another entry."


class ApprovalNeeded(Error):
    """An adjustment above the limit of one person lacks a second one."""

    status = 403
    code = "approval_needed"
    message = f"An adjustment of more than {usd(SOLE_ADJUSTMENT_NANO)} needs the approval of a second operator."


class RefundTooLarge(Error):
    """Refunds of an entry would exceed it; nothing was booked."""

    status = 409
    code = "refund_too_large"
    message = "Refunds of an entry cannot exceed its amount."


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """A wallet at one moment, in nano-USD."""

    posted: int = 0
    held: int = 0
    credit_limit: int = 0

    @property
    def available(self) -> int:
        return self.posted + self.credit_limit - self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What a finished call costs; `description` is what people read on the entry, usually the model."""

    hold_id: uuid.UUID
    organization_id: int
    cost_nano: int
    rates_id: int | None = None
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a call was charged, and what of its cost the operator bears."""

    charged_nano: int
    absorbed_nano: int


# --- Calls -----------------------------------------------------------------------------------------------------------


def settle(settlements: Sequence[Settlement], *, now: datetime) -> dict[uuid.UUID, Settled]:
    """Charge finished calls; cost 0 releases the hold. The last statement of the caller's transaction.

    Each hold is resolved once: a repetition returns what was charged then. A hold that expired is charged from what is
    available; one that was never written is closed for good. What neither hold nor balance can pay is absorbed.
    """
    by_hold = {settlement.hold_id: settlement for settlement in reversed(settlements)}
    return _close_many(list(by_hold.values()), outcome=Hold.State.RELEASED, now=now)


def _close_many(settlements: list[Settlement], *, outcome: str, now: datetime) -> dict[uuid.UUID, Settled]:
    if not settlements:
        return {}
    if any(settlement.cost_nano < 0 for settlement in settlements):
        raise ValueError("a call cannot cost less than nothing")
    parameters: list[Any] = [
        [each.hold_id for each in settlements],
        [each.organization_id for each in settlements],
        [min(each.cost_nano, MAX_NANO) for each in settlements],
        [each.rates_id for each in settlements],
        [each.description.replace("\x00", "")[:200] for each in settlements],
        outcome,
        now,
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT * FROM billing_close_many"
            "(%s::uuid[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s, %s)",
            parameters,
        )
        return {
            hold_id: Settled(charged_nano=charged, absorbed_nano=absorbed)
            for hold_id, charged, absorbed in cursor.fetchall()
        }


def alive(owners: Sequence[str], *, now: datetime | None = None) -> None:
    """Note that these owners of holds live, or have records still to be shipped. Default: the database's clock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_holdowner (owner, seen_at)"
            " SELECT owner, coalesce(%s::timestamptz, now()) FROM unnest(%s::text[]) owner"
            " GROUP BY owner ORDER BY owner"
            " ON CONFLICT (owner) DO UPDATE SET seen_at = excluded.seen_at",
            [now, list(owners)],
        )


def reap(*, now: datetime | None = None) -> int:
    """Expire the open holds of lost hosts: a minute past the owner's death or the call's deadline. Return how many.

    A host that lives resolves its own: this is for those that never come back. Default: the database's clock.
    """
    now = now or _database_now()
    if not _is_regular_round("reap", now):
        return 0
    overdue = Q(deadline_at__lt=now - GRACE)
    dead = Q(owner__in=HoldOwner.objects.filter(seen_at__lt=now - GRACE).values("owner"))
    reaped = 0
    while batch := list(
        Hold.objects.filter(overdue | dead, state=Hold.State.OPEN)
        .order_by("id")
        .values_list("id", "wallet_id")[:REAP_AT_ONCE]
    ):
        _close_many(
            [Settlement(hold_id=id_, organization_id=wallet_id, cost_nano=0) for id_, wallet_id in batch],
            outcome=Hold.State.EXPIRED,
            now=now,
        )
        reaped += len(batch)
    _forget_owners(now)
    return reaped


def _is_regular_round(name: str, now: datetime) -> bool:
    """Note this round of a sweep, and tell whether the last one was recent enough to trust the silence of others."""
    with transaction.atomic():
        sweep, is_first = Sweep.objects.select_for_update().get_or_create(name=name, defaults={"ran_at": now})
        is_regular = not is_first and now - sweep.ran_at <= LONGEST_PAUSE
        sweep.ran_at = now
        sweep.save(update_fields=["ran_at"])
    return is_regular


def _forget_owners(now: datetime) -> None:
    """Drop owners that have been gone for a day and hold nothing."""
    gone = HoldOwner.objects.filter(seen_at__lt=now - timedelta(days=1))
    gone.exclude(owner__in=Hold.objects.filter(state=Hold.State.OPEN).values("owner")).delete()


def _database_now() -> datetime:
    """Return the database's time: the clocks of hosts may differ, and expiry is judged by one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment


# --- Credits and debits ----------------------------------------------------------------------------------------------


def balance(organization_id: int) -> Balance:
    """Return an organization's balance; all zero when it has no wallet."""
    row = Wallet.objects.filter(pk=organization_id).values("posted", "held", "credit_limit").first()
    return Balance(**row) if row else Balance()


def ensure_wallet(organization: Organization) -> None:
    """Open an organization's wallet, with the operator's sign-up grant if there is one. Idempotent."""
    with transaction.atomic():
        _, is_new = Wallet.objects.get_or_create(organization=organization)
        amount = nano_from_usd(settings.RESPAN_SIGNUP_GRANT_USD)
        if is_new and amount > 0:
            key = uuid.uuid5(_NAMESPACE, f"sign-up:{organization.public_id}")
            grant(organization=organization, amount_nano=amount, reason="Sign-up credits", actor=None, id=key)


@transaction.atomic
def grant(
    *,
    organization: Organization,
    amount_nano: int,
    reason: str,
    actor: User | None,
    approver: User | None = None,
    id: uuid.UUID | None = None,
    expires_at: datetime | None = None,
    address: str | None = None,
) -> Entry:
    """Give credits. With `expires_at`, what is left of them then goes away; charges use them up first."""
    wallet = _lock_wallet(organization)
    key = id or ids.new_uuid()
    given = Grant(pk=key, wallet=wallet, amount=amount_nano, expires_at=expires_at)
    entry = Entry(
        id=key,
        kind=Entry.Kind.GRANT,
        debit=Entry.Account.PROMOTION,
        credit=Entry.Account.WALLET,
        amount=amount_nano,
        grant=given,
        reason=reason,
        actor=actor,
        approver=approver,
    )
    if (booked := _find_booked(wallet, entry)) is not None:
        return booked
    if expires_at is not None:
        given.remaining = amount_nano
        wallet.next_expiry_at = min(expires_at, wallet.next_expiry_at or expires_at)
    _require_amount(amount_nano)
    given.save(force_insert=True)
    _post(wallet, entry, address=address)
    return entry


@transaction.atomic
def purchase(
    *,
    organization: Organization,
    amount_nano: int,
    reason: str,
    actor: User | None,
    id: uuid.UUID | None = None,
    address: str | None = None,
) -> Entry:
    """Book credits that were paid for; `id` derives from the payment, so that it counts once."""
    wallet = _lock_wallet(organization)
    entry = Entry(
        id=id or ids.new_uuid(),
        kind=Entry.Kind.PURCHASE,
        debit=Entry.Account.CASH,
        credit=Entry.Account.WALLET,
        amount=amount_nano,
        reason=reason,
        actor=actor,
    )
    return _find_booked(wallet, entry) or _post(wallet, entry, address=address)


@transaction.atomic
def adjust(
    *,
    organization: Organization,
    amount_nano: int,
    reason: str,
    actor: User,
    approver: User | None = None,
    corrects: Entry | None = None,
    id: uuid.UUID | None = None,
    address: str | None = None,
) -> Entry:
    """Correct a balance by hand, up (positive) or down (negative), naming the entry it corrects if there is one.

    Raises: ApprovalNeeded above $100 without a second person; InsufficientCredits when more would go than is available.
    """
    if abs(amount_nano) > SOLE_ADJUSTMENT_NANO and (approver is None or approver.pk == actor.pk):
        raise ApprovalNeeded
    wallet = _lock_wallet(organization)
    if corrects is not None and corrects.wallet_id != wallet.pk:
        raise ValueError("an adjustment corrects an entry of the same organization")
    accounts = (Entry.Account.ADJUSTMENTS, Entry.Account.WALLET)
    debit, credit = accounts if amount_nano > 0 else accounts[::-1]
    entry = Entry(
        id=id or ids.new_uuid(),
        kind=Entry.Kind.ADJUSTMENT,
        debit=debit,
        credit=credit,
        amount=abs(amount_nano),
        corrects=corrects,
        reason=reason,
        actor=actor,
        approver=approver,
    )
    return _find_booked(wallet, entry) or _post(wallet, entry, address=address)


@transaction.atomic
def refund(
    *,
    entry: Entry,
    amount_nano: int | None = None,
    reason: str,
    actor: User,
    approver: User | None = None,
    id: uuid.UUID | None = None,
    address: str | None = None,
) -> Entry:
    """Take back a charge (credits return, without an expiry) or a purchase (credits leave), in part or whole.

    Without an amount: all that was not refunded before. `id` is the refund's own key: the same one books once.
    Raises: RefundTooLarge, also when nothing is left; InsufficientCredits when purchased credits are no longer there;
    IdempotencyConflict; ValueError for other kinds.
    """
    wallet = _lock_wallet(entry.wallet.organization)
    if entry.kind == Entry.Kind.USAGE:
        debit, credit = Entry.Account.REVENUE, Entry.Account.WALLET
    elif entry.kind == Entry.Kind.PURCHASE:
        debit, credit = Entry.Account.WALLET, Entry.Account.CASH
    else:
        raise ValueError("only charges and purchases are refunded; correct the rest by an adjustment")
    back = Entry(
        id=id or ids.new_uuid(),
        kind=Entry.Kind.REFUND,
        debit=debit,
        credit=credit,
        corrects=entry,
        reason=reason,
        actor=actor,
        approver=approver,
    )
    left = refundable(entry)
    # A repetition of "the rest" finds nothing left, but itself: it is told apart by its amount last.
    earlier = Entry.objects.filter(pk=back.pk).values_list("amount", flat=True).first()
    back.amount = amount_nano if amount_nano is not None else earlier or left
    if (booked := _find_booked(wallet, back)) is not None:
        return booked
    if back.amount > left or not left:
        raise RefundTooLarge(
            f"Refunds of an entry cannot exceed its amount: {usd(left)} of {usd(entry.amount)} is left."
        )
    return _post(wallet, back, address=address)


def refundable(entry: Entry) -> int:
    """Return what of an entry was not refunded yet, in nano-USD; certain only while its wallet is locked."""
    refunds = Entry.objects.filter(corrects=entry, kind=Entry.Kind.REFUND)
    return entry.amount - int(refunds.aggregate(sum=Sum("amount", default=0))["sum"])


def expire(now: datetime | None = None) -> int:
    """Expire grants whose time has come, wallet by wallet in batches; return how many wallets were touched."""
    now = now or _database_now()
    total, last = 0, -1
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT organization_id FROM billing_wallet WHERE next_expiry_at <= %s AND organization_id > %s"
                " ORDER BY organization_id LIMIT %s FOR NO KEY UPDATE",
                [now, last, EXPIRE_AT_ONCE],
            )
            wallets = [row[0] for row in cursor.fetchall()]
            cursor.execute("SELECT billing_expire_grants(w, %s) FROM unnest(%s::bigint[]) w", [now, wallets])
        if not wallets:
            return total
        total, last = total + len(wallets), wallets[-1]


# --- Booking ---------------------------------------------------------------------------------------------------------


def _lock_wallet(organization: Organization) -> Wallet:
    return Wallet.objects.select_for_update(no_key=True).get(pk=organization.pk)


def _require_amount(amount_nano: int) -> None:
    if not 0 < amount_nano < MAX_NANO:
        raise ValueError("an amount must be positive, and smaller than what a wallet can hold")


def _find_booked(wallet: Wallet, entry: Entry) -> Entry | None:
    """Return the entry booked earlier under this id. Raises: IdempotencyConflict when that was something else."""
    booked = Entry.objects.filter(pk=entry.pk).first()
    if booked is None:
        return None
    facts = ("kind", "debit", "credit", "amount", "corrects_id")
    if booked.wallet_id != wallet.pk or any(getattr(booked, fact) != getattr(entry, fact) for fact in facts):
        raise IdempotencyConflict
    return booked


def _post(wallet: Wallet, entry: Entry, *, address: str | None) -> Entry:
    """Book an entry on a locked wallet, and the action of its actor in the audit log.

    Raises: InsufficientCredits when it would take more than is available; ValueError for an impossible amount.
    """
    _require_amount(entry.amount)
    entry.wallet = wallet
    change = entry.change
    if change < 0 and -change > wallet.available:
        raise InsufficientCredits(
            needed_nano=-change,
            available_nano=wallet.available,
            message=f"{usd(-change)} would be taken and {usd(wallet.available)} is available.",
        )
    wallet.posted = entry.balance = wallet.posted + change
    if wallet.posted >= MAX_NANO:
        raise ValueError("no wallet can hold that much")
    entry.save(force_insert=True)
    wallet.save(update_fields=["posted", "next_expiry_at"])
    if entry.actor is not None:
        audit.record(
            organization=wallet.organization,
            actor=entry.actor,
            action=f"credits.{entry.kind}",
            target=ids.encode("ent", entry.pk),
            detail={"amount_nano": str(change), "reason": entry.reason},
            address=address,
        )
    return entry
