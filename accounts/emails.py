"""E-mails of this app: an invitation. Sent only where the installation has an e-mail server, and never relied upon.

django-allauth sends its own (codes, reset links). Neighbours: `invitations.py`, `member_views.py`,
`templates/accounts/invitation_email.txt`.
"""

import smtplib

import structlog
from django.conf import settings
from django.core import mail
from django.template.loader import render_to_string

from accounts.invitations import Offer

log = structlog.get_logger(__name__)

_TIMEOUT_S = 10


def send_invitation(offer: Offer, *, inviter: str) -> bool:
    """Send the link of an invitation to whom it is for; tell whether the e-mail server took it."""
    invitation = offer.invitation
    if not (settings.EMAIL_IS_CONFIGURED and invitation.email):
        return False
    # One line: a header has no second one.
    name = " ".join(invitation.organization.name.split())
    context = {"name": name, "inviter": inviter, "role": invitation.role, "link": offer.link}
    try:
        mail.send_mail(
            f"Invitation to {name} on Respan",
            render_to_string("accounts/invitation_email.txt", context),
            None,
            [invitation.email],
            connection=mail.get_connection(timeout=_TIMEOUT_S),
        )
    except (OSError, smtplib.SMTPException) as error:
        log.warning("an invitation was not sent", invitation=invitation.public_id, error=type(error).__name__)
        return False
    return True
