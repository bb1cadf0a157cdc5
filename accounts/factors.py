"""What second factors and passkeys are called here. The flows are django-allauth's (`allauth.mfa`).

Keeps no secret and checks none. Neighbours: `signin.py` (records their use), `templates/mfa/`.
"""

from typing import Any, ClassVar

from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator

from accounts.models import User


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
        "codes": sum(len(each.get_unused_codes()) for each in codes),
        "is_on": bool({Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN} & set(kinds)),
    }
