"""How people and organizations begin: sign-up, the organization made with it, and what e-mail can and cannot do.

`organization_created` is the one notification of this app to the apps above it (the wallet is made by it). Never knows
money. Neighbours: `forms.SignupForm` (the form), django-allauth (the flow), `tenancy.py`.
"""

import logging
from typing import Any, ClassVar

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.models import EmailAddress
from allauth.core import context as allauth_context
from allauth.core.exceptions import ImmediateHttpResponse
from django.conf import settings
from django.db import transaction
from django.dispatch import Signal
from django.http import HttpRequest
from django.urls import reverse

from accounts import audit, invitations, sessions
from accounts.models import Membership, Organization, Role, User
from respan import pages

logger = logging.getLogger(__name__)

# Sent with `organization=`, inside the transaction that creates it: a receiver that fails undoes the whole.
organization_created = Signal()


def create_organization(
    *, owner: User, name: str = "", is_demo: bool = False, address: str | None = None
) -> Organization:
    """Create an organization with its owner; an empty name is derived from the owner's e-mail address."""
    with transaction.atomic():
        organization = Organization.objects.create(name=name.strip() or default_name(owner), is_demo=is_demo)
        Membership.objects.create(organization=organization, user=owner, role=Role.OWNER)
        organization_created.send(sender=Organization, organization=organization)
        audit.record(
            organization=organization,
            actor=owner,
            action="organization.created",
            target=organization.public_id,
            detail={"name": organization.name},
            address=address,
        )
    return organization


def default_name(user: User) -> str:
    """Return a name for a user's organization, for example `Ada's organization`."""
    who = user.name or user.email.partition("@")[0].partition("+")[0].replace(".", " ").title()
    return f"{who[:100]}'s organization"


def trust_email(user: User) -> None:
    """Take a user's e-mail address as verified and primary, because an operator vouches for it."""
    email = user.email.lower()
    with transaction.atomic():
        EmailAddress.objects.filter(user=user, primary=True).exclude(email=email).update(primary=False)
        EmailAddress.objects.update_or_create(user=user, email=email, defaults={"verified": True, "primary": True})


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Our answers to django-allauth's questions."""

    error_messages: ClassVar[dict[str, Any]] = {
        **DefaultAccountAdapter.error_messages,
        "email_password_mismatch": "The e-mail address or the password is wrong.",
        "incorrect_password": "This is not your password.",
        "enter_current_password": "This is not your current password.",
        "incorrect_code": "This code is wrong or too old.",
        "too_many_login_attempts": "Too many failed attempts. Wait five minutes, then try again.",
        "rate_limited": "Too many attempts. Wait a minute, then try again.",
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        # Somebody invited is not anybody: an organization's owner vouches for them.
        return bool(settings.RESPAN_SIGNUP_OPEN) or invitations.leads_back(request) is not None

    def get_client_ip(self, request: HttpRequest) -> str:
        return audit.client_address(request) or sessions.UNKNOWN_ADDRESS

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("account")

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        """Count the guesses at an account in one place: with the host in it, as in allauth's, each spelling of the
        host (its port, say) would be another place."""
        return f"account:{str(credentials.get('email') or '').lower()}"

    def reauthenticate(self, user: User, password: str) -> bool:
        """Check the password of somebody signed in, with the limits of a sign-in."""
        found = self.authenticate(allauth_context.request, email=user.email, password=password)
        return found is not None and found.pk == user.pk

    def send_notification_mail(self, *args: Any, **kwargs: Any) -> None:
        """Tell somebody about a change of how they sign in; what was done stands even when no mail goes out."""
        try:
            super().send_notification_mail(*args, **kwargs)
        except OSError:  # smtplib's errors too
            logger.exception("a notice about a changed sign-in could not be sent")

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Send an e-mail; an installation without an e-mail server says so instead of pretending."""
        if not settings.EMAIL_IS_CONFIGURED:
            raise ImmediateHttpResponse(pages.render(self.request, "accounts/no_email.html", {}, status=503))
        super().send_mail(template_prefix, email, context)
