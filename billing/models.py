"""The tables of money. Amounts are integers of nano-USD (10^-9 USD); nothing here is ever deleted.

Responsible for what must be true whatever the code does: CHECK constraints keep a wallet from being overspent, triggers
(migration 0002) keep entries and rates from being changed. Never holds rules of its own: `ledger.py` moves money,
`holds.py` opens holds, both through functions of that migration. Private to billing.
"""

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Func, Q, Value
from django.utils import timezone

from accounts.models import Organization
from respan import ids


class Wallet(models.Model):
    """An organization's balance. `posted` is the sum of its entries, `held` the sum of its open holds."""

    organization = models.OneToOneField(Organization, primary_key=True, on_delete=models.PROTECT, related_name="wallet")
    posted = models.BigIntegerField(default=0)
    held = models.BigIntegerField(default=0)
    # How far below zero an invoiced organization may go; 0 = prepaid.
    credit_limit = models.BigIntegerField(default=0)
    # The earliest expiry of a grant that has something left: checked by each hold, so that no sweep is waited for.
    next_expiry_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(condition=Q(held__gte=0), name="wallet_held_is_not_negative"),
            models.CheckConstraint(condition=Q(credit_limit__gte=0), name="wallet_credit_limit_is_not_negative"),
            models.CheckConstraint(
                condition=Q(posted__gte=F("held") - F("credit_limit")), name="wallet_is_not_overspent"
            ),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(
                fields=["next_expiry_at"], condition=Q(next_expiry_at__isnull=False), name="wallet_by_next_expiry"
            ),
        ]

    def __str__(self) -> str:
        return f"Wallet of {self.organization}"

    @property
    def available(self) -> int:
        """Return what new holds may take."""
        return self.posted + self.credit_limit - self.held


class Hold(models.Model):
    """Credits reserved for a call; its id is the call's id. It leaves `open` once.

    A call that was given up before its hold was written leaves a resolved hold of 0, so that a hold arriving late
    finds its place taken.
    """

    class State(models.TextChoices):
        OPEN = "open"
        SETTLED = "settled"
        RELEASED = "released"
        EXPIRED = "expired"

    id = models.UUIDField(primary_key=True)
    wallet = models.ForeignKey(
        Wallet, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="holds"
    )
    amount = models.BigIntegerField()
    state = models.CharField(max_length=8, choices=State.choices, default=State.OPEN)
    # The spool folder of the process that made the call.
    owner = models.TextField(blank=True)
    deadline_at = models.DateTimeField()
    created_at = models.DateTimeField(default=timezone.now)
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(condition=Q(amount__gte=0), name="hold_amount_is_not_negative"),
            models.CheckConstraint(
                condition=Q(state="open", resolved_at__isnull=True)
                | Q(state__in=["settled", "released", "expired"], resolved_at__isnull=False),
                name="hold_state_is_known",
            ),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["deadline_at"], condition=Q(state="open"), name="open_hold_by_deadline"),
            models.Index(fields=["owner"], condition=Q(state="open"), name="open_hold_by_owner"),
        ]

    def __str__(self) -> str:
        return f"Hold {self.id} ({self.state})"


class HoldOwner(models.Model):
    """When a process that opens holds was last known to be alive, or to have records under way."""

    owner = models.TextField(primary_key=True)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.owner


class Sweep(models.Model):
    """When a periodic job last ran: after a pause, silence of others is no proof of their death."""

    name = models.CharField(primary_key=True, max_length=40)
    ran_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class ModelRates(models.Model):
    """One version of a model's prices, immutable: nano-USD per 1,000,000 tokens, per call, per image."""

    provider = models.CharField(max_length=80)
    model = models.CharField(max_length=200)
    input = models.BigIntegerField()
    output = models.BigIntegerField()
    cache_read = models.BigIntegerField(null=True)
    cache_write = models.BigIntegerField(null=True)
    cache_write_1h = models.BigIntegerField(null=True)
    request = models.BigIntegerField(default=0)
    image = models.BigIntegerField(default=0)
    valid_from = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name_plural = "model rates"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=Q(input__gte=0, output__gte=0, request__gte=0, image__gte=0)
                & (Q(cache_read__isnull=True) | Q(cache_read__gte=0))
                & (Q(cache_write__isnull=True) | Q(cache_write__gte=0))
                & (Q(cache_write_1h__isnull=True) | Q(cache_write_1h__gte=0)),
                name="rates_are_not_negative",
            ),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["provider", "model", "-id"], name="rates_by_model"),
        ]

    def __str__(self) -> str:
        return f"{self.provider}/{self.model} v{self.pk}"


class Grant(models.Model):
    """Credits given, and what is left of them to expire."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    wallet = models.ForeignKey(Wallet, on_delete=models.PROTECT, related_name="grants")
    amount = models.BigIntegerField()
    expires_at = models.DateTimeField(null=True)
    # Charges use up the grant that expires first. Null where it never expires: then nobody needs to know.
    remaining = models.BigIntegerField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="grant_amount_is_positive"),
            models.CheckConstraint(
                condition=Q(expires_at__isnull=True, remaining__isnull=True)
                | Q(expires_at__isnull=False, remaining__gte=0, remaining__lte=F("amount")),
                name="grant_remaining_is_a_part",
            ),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["wallet", "expires_at"], condition=Q(remaining__gt=0), name="grant_left_by_expiry"),
        ]

    def __str__(self) -> str:
        return f"Grant {self.pk}"


class Entry(models.Model):
    """A movement of money from `debit` to `credit`, for ever. A correction is another entry that names it."""

    class Kind(models.TextChoices):
        PURCHASE = "purchase"
        GRANT = "grant"
        USAGE = "usage"
        ADJUSTMENT = "adjustment"
        REFUND = "refund"
        EXPIRY = "expiry"
        # The part of a call's cost that neither its hold nor the balance could pay: the operator bears it.
        ABSORBED = "absorbed"

    class Account(models.TextChoices):
        WALLET = "wallet"
        REVENUE = "revenue"
        CASH = "cash"
        PROMOTION = "promotion"
        BREAKAGE = "breakage"
        ABSORBED = "absorbed"
        ADJUSTMENTS = "adjustments"

    # The idempotency key of what caused it: the same cause writes no second entry.
    id = models.UUIDField(primary_key=True, default=ids.new_uuid)
    # Drawn while the wallet is locked: the order of a wallet's entries.
    number = models.BigIntegerField(db_default=Func(Value("billing_entry_number"), function="nextval"), editable=False)
    wallet = models.ForeignKey(
        Wallet, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="entries"
    )
    kind = models.CharField(max_length=10, choices=Kind.choices)
    debit = models.CharField(max_length=12, choices=Account.choices)
    credit = models.CharField(max_length=12, choices=Account.choices)
    amount = models.BigIntegerField()
    # `wallet.posted` after this entry.
    balance = models.BigIntegerField()
    hold_id = models.UUIDField(null=True)
    rates = models.ForeignKey(
        ModelRates, null=True, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="+"
    )
    grant = models.ForeignKey(
        Grant, null=True, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="entries"
    )
    corrects = models.ForeignKey(
        "self", null=True, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="corrections"
    )
    # For people: the model of a charge, why an operator granted.
    reason = models.TextField(blank=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    approver = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name_plural = "entries"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="entry_amount_is_positive"),
            models.CheckConstraint(condition=~Q(debit=F("credit")), name="entry_moves_between_two_accounts"),
            models.CheckConstraint(
                condition=Q(kind="purchase", debit="cash", credit="wallet")
                | Q(kind="grant", debit="promotion", credit="wallet")
                | Q(kind="usage", debit="wallet", credit="revenue", hold_id__isnull=False)
                | Q(kind="absorbed", debit="absorbed", credit="revenue", hold_id__isnull=False)
                | Q(kind="refund", debit="revenue", credit="wallet", corrects__isnull=False)
                | Q(kind="refund", debit="wallet", credit="cash", corrects__isnull=False)
                | Q(kind="expiry", debit="wallet", credit="breakage", grant__isnull=False)
                | Q(kind="adjustment", debit="adjustments", credit="wallet")
                | Q(kind="adjustment", debit="wallet", credit="adjustments"),
                name="entry_kind_fits_its_accounts",
            ),
            models.UniqueConstraint(
                fields=["hold_id", "kind"], condition=Q(kind__in=["usage", "absorbed"]), name="hold_is_charged_once"
            ),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["wallet", "-number"], name="entry_by_wallet"),
            models.Index(fields=["corrects"], condition=Q(corrects__isnull=False), name="entry_by_corrected"),
            # Where a day begins among a wallet's entries, and the few of them that are no charges: with these two any
            # sum of charges is a difference of two balances (`spending.py`).
            models.Index(fields=["wallet", "created_at", "number"], name="entry_by_time"),
            models.Index(
                fields=["wallet", "-number"], condition=~Q(kind__in=["usage", "absorbed"]), name="entry_no_charge"
            ),
            # What operators bore: rare, and summed up on their start page.
            models.Index(fields=["created_at"], condition=Q(kind="absorbed"), name="entry_absorbed"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"

    @property
    def change(self) -> int:
        """Return what this entry did to the wallet."""
        return {self.debit: -self.amount, self.credit: self.amount}.get(self.Account.WALLET, 0)


class PendingAdjustment(models.Model):
    """A movement above the limit of one person, waiting for a second operator: an adjustment, a grant or a refund."""

    class State(models.TextChoices):
        WAITING = "waiting"
        APPROVED = "approved"
        REJECTED = "rejected"

    class Kind(models.TextChoices):
        ADJUSTMENT = "adjustment"
        GRANT = "grant"
        REFUND = "refund"

    # Becomes the entry's id: an approval pressed twice adjusts once.
    id = models.UUIDField(primary_key=True, default=ids.new_uuid)
    wallet = models.ForeignKey(Wallet, on_delete=models.PROTECT, related_name="pending_adjustments")
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.ADJUSTMENT)
    amount = models.BigIntegerField()
    # What a refund takes back.
    corrects = models.ForeignKey(
        Entry, null=True, blank=True, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="+"
    )
    # When what is left of a grant goes away.
    expires_at = models.DateTimeField(null=True, blank=True)
    reason = models.TextField()
    state = models.CharField(max_length=8, choices=State.choices, default=State.WAITING)
    proposed_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    decided_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(condition=~Q(amount=0), name="adjustment_is_not_zero"),
            models.CheckConstraint(
                condition=~Q(state="approved") | ~Q(decided_by=F("proposed_by")), name="adjustment_has_two_persons"
            ),
            models.CheckConstraint(
                condition=Q(kind="refund", corrects__isnull=False) | (~Q(kind="refund") & Q(corrects__isnull=True)),
                name="pending_refund_names_its_entry",
            ),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["created_at"], condition=Q(state="waiting"), name="adjustment_waiting"),
        ]

    def __str__(self) -> str:
        return f"{self.kind.capitalize()} {self.pk} ({self.state})"


class RedeemCode(models.Model):
    """A code that adds credits. The code itself is shown once; only its keyed digest is kept."""

    id = models.UUIDField(primary_key=True, default=ids.new_uuid)
    digest = models.BinaryField(unique=True, max_length=32, editable=False)
    # The last four characters, for people to recognise it.
    hint = models.CharField(max_length=4, editable=False)
    amount = models.BigIntegerField()
    # How many organizations may redeem it, each once.
    max_uses = models.PositiveIntegerField(default=1)
    # Null: any organization.
    organization = models.ForeignKey(
        Organization, null=True, blank=True, on_delete=models.PROTECT, related_name="redeem_codes"
    )
    note = models.CharField(max_length=200, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="redeem_code_amount_is_positive"),
            models.CheckConstraint(condition=Q(max_uses__gt=0), name="redeem_code_has_uses"),
        ]

    def __str__(self) -> str:
        return f"…{self.hint}"


class Redemption(models.Model):
    """That an organization redeemed a code."""

    code = models.ForeignKey(RedeemCode, on_delete=models.PROTECT, related_name="redemptions")
    wallet = models.ForeignKey(Wallet, on_delete=models.PROTECT, related_name="redemptions")
    # The entry that added the credits.
    entry = models.OneToOneField(Entry, on_delete=models.PROTECT, related_name="redemption")
    redeemed_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["code", "wallet"], name="code_is_redeemed_once_by_a_wallet"),
        ]

    def __str__(self) -> str:
        return f"{self.code} by {self.wallet}"


class RedeemFailure(models.Model):
    """A wrong code that was tried: guesses are counted by organization and by person."""

    wallet = models.ForeignKey(Wallet, on_delete=models.PROTECT, related_name="+")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["wallet", "-created_at"], name="redeem_failure_by_wallet"),
        ]

    def __str__(self) -> str:
        return f"{self.wallet} {self.created_at}"
