"""Two persons: what operators move by hand above $100 waits until another operator approves it.

Grants, adjustments and refunds alike: up to the limit they are booked at once, above it they are written down with who
proposed them. The id of the proposal becomes the id of the entry, so that approving twice books once. Never books
itself: `ledger.py` does. Neighbours: `admin.py` (the pages), `models.PendingAdjustment`.
"""

import uuid
from datetime import datetime
from typing import TypeAlias

from django.db import transaction
from django.utils import timezone

from accounts import audit
from accounts.models import Organization, User
from billing import ledger
from billing.holds import MAX_NANO
from billing.ledger import SOLE_ADJUSTMENT_NANO, ApprovalNeeded, IdempotencyConflict, RefundTooLarge
from billing.models import Entry, PendingAdjustment
from billing.usage import usd
from respan import ids

Outcome: TypeAlias = Entry | PendingAdjustment
_Kind = PendingAdjustment.Kind


def grant(
    *,
    organization: Organization,
    amount_nano: int,
    reason: str,
    actor: User,
    id: uuid.UUID | None = None,
    expires_at: datetime | None = None,
    address: str | None = None,
) -> Outcome:
    """Give credits at once, or, above $100, let the grant wait for a second operator."""
    pending = PendingAdjustment(
        id=id or ids.new_uuid(),
        wallet_id=organization.pk,
        kind=_Kind.GRANT,
        amount=amount_nano,
        expires_at=expires_at,
        reason=reason,
        proposed_by=actor,
    )
    return _book_or_wait(pending, address=address)


def adjust(
    *,
    organization: Organization,
    amount_nano: int,
    reason: str,
    actor: User,
    id: uuid.UUID | None = None,
    address: str | None = None,
) -> Outcome:
    """Adjust at once, or, above $100, let the adjustment wait for a second operator."""
    pending = PendingAdjustment(
        id=id or ids.new_uuid(),
        wallet_id=organization.pk,
        kind=_Kind.ADJUSTMENT,
        amount=amount_nano,
        reason=reason,
        proposed_by=actor,
    )
    return _book_or_wait(pending, address=address)


def refund(
    *,
    entry: Entry,
    amount_nano: int,
    reason: str,
    actor: User,
    id: uuid.UUID | None = None,
    address: str | None = None,
) -> Outcome:
    """Take back a charge or a purchase at once, or, above $100, let the refund wait for a second operator.

    Raises: ledger.RefundTooLarge; ledger.InsufficientCredits when purchased credits are no longer there.
    """
    pending = PendingAdjustment(
        id=id or ids.new_uuid(),
        wallet_id=entry.wallet_id,
        kind=_Kind.REFUND,
        amount=amount_nano,
        corrects=entry,
        reason=reason,
        proposed_by=actor,
    )
    is_new = amount_nano > SOLE_ADJUSTMENT_NANO and not PendingAdjustment.objects.filter(pk=pending.pk).exists()
    # Said at once to who proposes it, not to who approves it; a repetition finds its own proposal.
    if is_new and amount_nano > (left := ledger.refundable(entry)):
        raise RefundTooLarge(f"Only {usd(left)} of {usd(entry.amount)} is left to refund.")
    return _book_or_wait(pending, address=address)


def approve(
    pending_id: uuid.UUID, *, actor: User, now: datetime | None = None, address: str | None = None
) -> PendingAdjustment:
    """Book what waits, as its second person. Idempotent once approved; a rejected one stays rejected.

    Raises: ledger.ApprovalNeeded when it is the same person; ledger.InsufficientCredits when more would go than is
    available; ledger.RefundTooLarge when the entry was refunded otherwise in the meantime.
    """
    with transaction.atomic():
        pending = PendingAdjustment.objects.select_for_update().get(pk=pending_id)
        if pending.state != PendingAdjustment.State.WAITING:
            return pending
        if pending.proposed_by_id == actor.pk:
            raise ApprovalNeeded
        _book(pending, approver=actor, address=address)
        return _decide(pending, PendingAdjustment.State.APPROVED, actor=actor, now=now, address=address)


def reject(
    pending_id: uuid.UUID, *, actor: User, now: datetime | None = None, address: str | None = None
) -> PendingAdjustment:
    """Drop what waits; its proposer may do so too."""
    with transaction.atomic():
        pending = PendingAdjustment.objects.select_for_update().get(pk=pending_id)
        if pending.state != PendingAdjustment.State.WAITING:
            return pending
        return _decide(pending, PendingAdjustment.State.REJECTED, actor=actor, now=now, address=address)


def _book_or_wait(pending: PendingAdjustment, *, address: str | None) -> Outcome:
    if abs(pending.amount) <= SOLE_ADJUSTMENT_NANO:
        return _book(pending, approver=None, address=address)
    if abs(pending.amount) >= MAX_NANO:
        raise ValueError("no wallet can hold that much")
    facts = ("wallet_id", "kind", "amount", "corrects_id", "expires_at")
    with transaction.atomic():
        # Two presses of a button find one row: the second waits for the first.
        waiting, is_new = PendingAdjustment.objects.get_or_create(
            id=pending.pk,
            defaults={fact: getattr(pending, fact) for fact in (*facts, "reason", "proposed_by")},
        )
        if any(getattr(waiting, fact) != getattr(pending, fact) for fact in facts):
            raise IdempotencyConflict
        if is_new:
            _record(waiting, actor=waiting.proposed_by, action="adjustment.proposed", address=address)
    return waiting


def _book(pending: PendingAdjustment, *, approver: User | None, address: str | None) -> Entry:
    organization = pending.wallet.organization
    reason, actor, key = pending.reason, pending.proposed_by, pending.pk
    if pending.kind == _Kind.GRANT:
        return ledger.grant(
            organization=organization,
            amount_nano=pending.amount,
            expires_at=pending.expires_at,
            reason=reason,
            actor=actor,
            approver=approver,
            id=key,
            address=address,
        )
    if pending.corrects is not None:
        return ledger.refund(
            entry=pending.corrects,
            amount_nano=pending.amount,
            reason=reason,
            actor=actor,
            approver=approver,
            id=key,
            address=address,
        )
    return ledger.adjust(
        organization=organization,
        amount_nano=pending.amount,
        reason=reason,
        actor=actor,
        approver=approver,
        id=key,
        address=address,
    )


def _decide(
    pending: PendingAdjustment,
    state: PendingAdjustment.State,
    *,
    actor: User,
    now: datetime | None,
    address: str | None,
) -> PendingAdjustment:
    pending.state, pending.decided_by, pending.decided_at = state, actor, now or timezone.now()
    pending.save(update_fields=["state", "decided_by", "decided_at"])
    _record(pending, actor=actor, action=f"adjustment.{state.value}", address=address)
    return pending


def _record(pending: PendingAdjustment, *, actor: User, action: str, address: str | None) -> None:
    audit.record(
        organization=pending.wallet.organization,
        actor=actor,
        action=action,
        target=ids.encode("ent", pending.pk),
        detail={"kind": pending.kind, "amount_nano": str(pending.amount), "reason": pending.reason},
        address=address,
    )
