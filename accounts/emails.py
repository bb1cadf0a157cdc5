"""E-mails of this app: an invitation, and the news that an operator removed somebody's second factors.

Sent only where the installation has an e-mail server, and never relied upon. django-allauth sends its own (codes, reset
links). Neighbours: `invitations.py`, `member_views.py`, `factors.py`, `templates/accounts/*_email.txt`.
"""

import smtplib
from typing import Any

import structlog
from django.conf import settings
from django.core import mail
from django.template.loader import render_to_string

from accounts.invitations import Offer
from accounts.models import User

log = structlog.get_logger(__name__)

_TIMEOUT_S = 10


def send_invitation(offer: Offer, *, inviter: str) -> bool:
    """Send the link of an invitation to whom it is for; tell whether the e-mail server took it."""
    invitation = offer.invitation
    # One line: a header has no second one.
    name = " ".join(invitation.organization.name.split())
    context = {"name": name, "inviter": inviter, "role": invitation.role, "link": offer.link}
    return _send(invitation.email, f"Invitation to {name} on Respan", "invitation", context, about=invitation.public_id)


def send_factors_reset(user: User) -> bool:
    """Tell a user that an operator took their second factors away; tell whether the e-mail server took it."""
    context = {"base_url": settings.RESPAN_BASE_URL}
    return _send(user.email, "Your second factors on Respan were removed", "factors_reset", context, about=str(user.pk))


def _send(address: str, subject: str, name: str, context: dict[str, Any], *, about: str) -> bool:
    if not (settings.EMAIL_IS_CONFIGURED and address):
        return False
    try:
        mail.send_mail(
            subject,
            render_to_string(f"accounts/{name}_email.txt", context),
            None,
            [address],
            connection=mail.get_connection(timeout=_TIMEOUT_S),
        )
    except (OSError, smtplib.SMTPException) as error:
        log.warning("an e-mail was not sent", kind=name, about=about, error=type(error).__name__)
        return False
    return True
