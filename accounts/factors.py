"""What second factors and passkeys are called here, and how an operator takes somebody's away who has lost them.

The flows are django-allauth's (`allauth.mfa`). Checks no code. Neighbours: `factor_sealing.py` (their secrets at rest),
`signin.py` (records their use), `admin.py` (where an operator asks for it), `sessions.py`, `templates/mfa/`.
"""

from typing import Any, ClassVar

from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from django.db import transaction

from accounts import audit, emails, factor_sealing, sessions
from accounts.models import Membership, User


class OwnFactors(Exception):
    """Nobody takes their own second factors away as an operator: who was signed in as them could."""


class NoFactors(Exception):
    """There is nothing to take away."""


class MfaAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Our answers to django-allauth's questions about second factors."""

    error_messages: ClassVar[dict[str, Any]] = {
        **DefaultMFAAdapter.error_messages,
        "incorrect_code": "This code is wrong or was used already. Wait for the next one.",
        "unverified_email": "Verify your e-mail address first: otherwise somebody else could lock you out of it.",
    }

    def generate_authenticator_name(self, user: User, type: Authenticator.Type) -> str:
        """Propose the name of a new passkey."""
        return f"Passkey {Authenticator.objects.filter(user=user, type=type).count() + 1}"

    def decrypt(self, encrypted_text: str) -> str:
        """Open a secret of a row (`encrypt` is left as it is: what a row is about to keep is sealed as it is saved)."""
        return factor_sealing.opened(encrypted_text)

    def _get_site_name(self) -> str:
        return "Respan"


def facts(user: User) -> dict[str, Any]:
    """Return which second factors a user has: `app` or not, `passkeys` by number, `codes` left."""
    found = list(Authenticator.objects.filter(user=user))
    kinds = [each.type for each in found]
    codes = [each.wrap() for each in found if each.type == Authenticator.Type.RECOVERY_CODES]
    return {
        "app": Authenticator.Type.TOTP in kinds,
        "passkeys": kinds.count(Authenticator.Type.WEBAUTHN),
        "codes": sum(_left(each) for each in codes),
        "is_on": bool({Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN} & set(kinds)),
    }


def _left(codes: Any) -> int:
    """Return how many recovery codes are left; none of those that cannot be read any more."""
    try:
        return len(codes.get_unused_codes())
    except factor_sealing.Unreadable:
        return 0


def reset(user: User, *, actor: User, reason: str, address: str | None) -> int:
    """Take every second factor of a user away and sign them out everywhere; return how many browsers that were.

    Recorded without an organization, and in each one the user belongs to: its owners see who did it and why. The user
    is told by e-mail where there is a server. Raises: OwnFactors; NoFactors.
    """
    if user.pk == actor.pk:
        raise OwnFactors
    with transaction.atomic():
        found = list(Authenticator.objects.select_for_update().filter(user=user).order_by("pk"))
        if not found:
            raise NoFactors
        Authenticator.objects.filter(pk__in=[each.pk for each in found]).delete()
        browsers = sessions.end_others(user, keep=None)
        detail = {
            "name": user.email,
            "reason": reason,
            "factors": sorted(each.type for each in found),
            "browsers": browsers,
        }
        places = Membership.objects.filter(user=user, organization__deleted_at=None).select_related("organization")
        for organization in (None, *(place.organization for place in places.order_by("pk"))):
            audit.record(
                organization=organization,
                actor=actor,
                action="user.second_factors_reset",
                target=user.email,
                detail=detail,
                address=address,
            )
        transaction.on_commit(lambda: emails.send_factors_reset(user))
    return browsers
