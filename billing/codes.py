"""Redeem codes: how an operator hands out credits without knowing who will take them.

A code has 80 random bits; only its keyed digest is stored, so it is shown once. An organization redeems a code once:
pressing the button twice adds nothing. Wrong codes are counted, and guessing stops early. Never books money itself:
`ledger.grant` does. Neighbours: `views.py` (who redeems), `admin.py` (who makes codes).
"""

import hashlib
import hmac
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import audit
from accounts.models import Organization, User
from billing import ledger
from billing.models import RedeemCode, RedeemFailure, Redemption, Wallet
from respan.errors import Error

# Crockford's base 32: nothing in it looks like something else.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LOOKALIKES = str.maketrans("OIL", "011")
_LENGTH = 16
_PREFIX = "RSP"

MAX_FAILURES = 10
FAILURE_WINDOW = timedelta(minutes=15)


class UnknownCode(Error):
    """No such code, or not for this organization."""

    status = 404
    code = "unknown_redeem_code"
    message = "This is not a code we know. Check it for typing errors."


class CodeExpired(Error):
    """The code's time is over."""

    status = 410
    code = "redeem_code_expired"
    message = "This code has expired. Ask whoever gave it to you for another one."


class CodeUsedUp(Error):
    """As many organizations as it was made for have redeemed the code."""

    status = 409
    code = "redeem_code_used"
    message = "This code has been used already. Ask whoever gave it to you for another one."


class TooManyGuesses(Error):
    """Too many wrong codes in a short time."""

    status = 429
    code = "too_many_codes"
    message = "Too many wrong codes. Wait a quarter of an hour, then try again."


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What a code added; `is_new` is False when this organization had redeemed it before."""

    redemption: Redemption
    is_new: bool


def create(
    *,
    amount_nano: int,
    actor: User,
    max_uses: int = 1,
    expires_at: datetime | None = None,
    organization: Organization | None = None,
    note: str = "",
    address: str | None = None,
) -> tuple[RedeemCode, str]:
    """Make a code; return its record and the code itself, which nobody can read again."""
    symbols = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
    with transaction.atomic():
        made = RedeemCode.objects.create(
            digest=_digest(symbols),
            hint=symbols[-4:],
            amount=amount_nano,
            max_uses=max_uses,
            expires_at=expires_at,
            organization=organization,
            note=note,
            created_by=actor,
        )
        audit.record(
            organization=organization,
            actor=actor,
            action="redeem_code.created",
            target=str(made),
            detail={"amount_nano": str(amount_nano), "max_uses": max_uses, "note": note},
            address=address,
        )
    groups = (symbols[start : start + 4] for start in range(0, _LENGTH, 4))
    return made, "-".join((_PREFIX, *groups))


def disable(code: RedeemCode, *, actor: User, now: datetime | None = None, address: str | None = None) -> RedeemCode:
    """End a code now: whoever did not redeem it yet is told that it has expired. Idempotent."""
    now = now or timezone.now()
    with transaction.atomic():
        code = RedeemCode.objects.select_for_update(of=("self",)).select_related("organization").get(pk=code.pk)
        if code.expires_at is not None and code.expires_at <= now:
            return code
        code.expires_at = now
        code.save(update_fields=["expires_at"])
        audit.record(
            organization=code.organization,
            actor=actor,
            action="redeem_code.disabled",
            target=str(code),
            detail={"amount_nano": str(code.amount), "note": code.note},
            address=address,
        )
    return code


def redeem(
    *, organization: Organization, text: str, user: User, now: datetime | None = None, address: str | None = None
) -> Redeemed:
    """Add a code's credits to an organization, once.

    Raises: TooManyGuesses, UnknownCode, CodeExpired, CodeUsedUp.
    """
    now = now or timezone.now()
    _refuse_guessing(organization, user, now)
    code = _find(text, organization)
    if code is None:
        RedeemFailure.objects.create(wallet_id=organization.pk, user=user, created_at=now)
        raise UnknownCode
    return _redeem(code, organization=organization, user=user, now=now, address=address)


@transaction.atomic
def _redeem(
    code: RedeemCode, *, organization: Organization, user: User, now: datetime, address: str | None
) -> Redeemed:
    code = RedeemCode.objects.select_for_update().get(pk=code.pk)  # one organization after the other
    earlier = code.redemptions.filter(wallet_id=organization.pk).first()
    if earlier is not None:
        return Redeemed(earlier, is_new=False)
    if code.expires_at is not None and code.expires_at <= now:
        raise CodeExpired
    if code.redemptions.count() >= code.max_uses:
        raise CodeUsedUp
    entry = ledger.grant(
        organization=organization,
        amount_nano=code.amount,
        reason=f"Redeem code {code}",
        actor=user,
        id=uuid.uuid5(code.pk, organization.public_id),
        address=address,
    )
    redemption = Redemption.objects.create(
        code=code, wallet=Wallet(pk=organization.pk), entry=entry, redeemed_by=user, created_at=now
    )
    return Redeemed(redemption, is_new=True)


def _refuse_guessing(organization: Organization, user: User, now: datetime) -> None:
    recent = RedeemFailure.objects.filter(created_at__gt=now - FAILURE_WINDOW)
    if recent.filter(Q(wallet_id=organization.pk) | Q(user=user)).count() >= MAX_FAILURES:
        raise TooManyGuesses


def _find(text: str, organization: Organization) -> RedeemCode | None:
    symbols = "".join(filter(str.isalnum, text.upper())).removeprefix(_PREFIX).translate(_LOOKALIKES)
    code = RedeemCode.objects.filter(digest=_digest(symbols)).first()
    if code is None or code.organization_id not in (None, organization.pk):
        return None
    return code


def _digest(symbols: str) -> bytes:
    return hmac.digest(settings.RESPAN_KEY_PEPPER.encode(), b"redeem-code:" + symbols.encode(), hashlib.sha256)
