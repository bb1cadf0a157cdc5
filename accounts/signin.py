"""Records what happens to sessions and passwords: sign-ins, refused ones, sign-outs, password and address changes.

Only listens: the flows are django-allauth's, and so are their rate limits (a refusal by a limit is not recorded, so
nobody can fill the log). A changed password ends every other session. Neighbours: `audit.py`, `sessions.py`, `apps.py`
(imports this file).
"""

from typing import Any

from allauth.account import signals
from allauth.account.models import EmailAddress
from allauth.mfa import signals as mfa_signals
from allauth.mfa.models import Authenticator
from django.contrib.auth import user_logged_in, user_logged_out, user_login_failed
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import timezone

from accounts import audit, sessions, signup, tenancy
from accounts.models import User


def _record(request: HttpRequest | None, user: User, action: str, detail: dict[str, Any] | None = None) -> None:
    membership = getattr(request, "membership", None) or tenancy.find_membership(user)
    audit.record(
        organization=membership.organization if membership else None,
        actor=user,
        action=action,
        target=user.email,
        detail=detail,
        address=audit.client_address(request) if request else None,
    )


@receiver(user_logged_in)
def on_signed_in(request: HttpRequest | None, user: User, **_: object) -> None:
    if request is not None:
        sessions.begin(request, user, now=timezone.now())
    _record(request, user, "user.signed_in")


@receiver(user_logged_out)
def on_signed_out(request: HttpRequest | None, user: User | None, **_: object) -> None:
    if user is not None:
        _record(request, user, "user.signed_out")


@receiver(user_login_failed)
def on_sign_in_failed(credentials: dict[str, Any], request: HttpRequest | None = None, **_: object) -> None:
    """Record the address that was tried, without an actor: nobody proved to be it."""
    audit.record(
        organization=None,
        actor=None,
        action="user.sign_in_failed",
        target=str(credentials.get("email") or credentials.get("username") or "").lower(),
        address=audit.client_address(request) if request else None,
    )


@receiver([signals.password_changed, signals.password_set])
def on_password_changed(request: HttpRequest, user: User, **_: object) -> None:
    sessions.end_others(user, keep=request.session.session_key)
    _record(request, user, "user.password_changed")


@receiver(signals.password_reset)
def on_password_reset(request: HttpRequest, user: User, **_: object) -> None:
    sessions.end_others(user, keep=None)
    _record(request, user, "user.password_reset")


@receiver(mfa_signals.authenticator_added)
def on_second_factor_added(request: HttpRequest, user: User, authenticator: Authenticator, **_: object) -> None:
    _record(request, user, "user.second_factor_added", {"type": str(authenticator.type)})


@receiver(mfa_signals.authenticator_removed)
def on_second_factor_removed(request: HttpRequest, user: User, authenticator: Authenticator, **_: object) -> None:
    _record(request, user, "user.second_factor_removed", {"type": str(authenticator.type)})


@receiver(mfa_signals.authenticator_reset)
def on_recovery_codes_made(request: HttpRequest, user: User, **_: object) -> None:
    _record(request, user, "user.recovery_codes_made")


@receiver(mfa_signals.authentication_failed)
def on_second_factor_failed(request: HttpRequest, user: User, **_: object) -> None:
    _record(request, user, "user.second_factor_failed")


@receiver(signals.email_changed)
def on_email_changed(
    request: HttpRequest,
    user: User,
    from_email_address: EmailAddress | None,
    to_email_address: EmailAddress,
    **_: object,
) -> None:
    earlier = from_email_address.email if from_email_address else None
    _record(request, user, "user.email_changed", {"from": earlier, "to": to_email_address.email})


@receiver(post_save, sender=User)
def on_operator_created(instance: User, created: bool, **_: object) -> None:
    """Let a new operator in even when the e-mail server does not work: it is the operator who would repair it."""
    if created and instance.is_superuser:
        signup.trust_email(instance)
