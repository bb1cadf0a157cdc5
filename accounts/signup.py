"""How people and organizations begin: sign-up, the organization made with it, and what e-mail can and cannot do.

`organization_created` is the one notification of this app to the apps above it (the wallet is made by it). Never knows
money. Neighbours: `forms.SignupForm` (the form), django-allauth (the flow), `tenancy.py`.
"""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.models import EmailAddress
from allauth.core.exceptions import ImmediateHttpResponse
from django.conf import settings
from django.db import transaction
from django.dispatch import Signal
from django.http import HttpRequest
from django.urls import reverse

from accounts import audit
from accounts.models import Membership, Organization, Role, User
from respan import pages

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

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return bool(settings.RESPAN_SIGNUP_OPEN)

    def get_client_ip(self, request: HttpRequest) -> str:
        return audit.client_address(request) or "unknown"

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("account")

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Send an e-mail; an installation without an e-mail server says so instead of pretending."""
        if not settings.EMAIL_IS_CONFIGURED:
            raise ImmediateHttpResponse(pages.render(self.request, "accounts/no_email.html", {}, status=503))
        super().send_mail(template_prefix, email, context)
