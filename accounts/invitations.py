"""Invitations into an organization: offering, renewing, revoking, taking up.

The link holds a token of 32 random base 62 characters (190 bits), shown once; stored is HMAC-SHA256 under
RESPAN_KEY_PEPPER, and what a browser remembers on its way through sign-up is that digest too. An invitation lasts seven
days and works once; with an e-mail address only for that person. Inviting somebody again renews their invitation: the
earlier link is dead from then on. Every change holds the organization's people still (`members.lock`).
Never sends anything (`emails.py`). Neighbours: `invitation_views.py`, `member_views.py`, `forms.SignupForm`.
"""

import hmac
import secrets
import string
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from allauth.account.models import EmailAddress
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts import audit, members
from accounts.models import Invitation, Membership, Organization, Role, User
from respan import ids
from respan.errors import Error

LIFE = timedelta(days=7)
# Open invitations of one organization: more are no team's, and each may send an e-mail.
MOST_OPEN = 200
_ALPHABET = string.ascii_letters + string.digits
_TOKEN_LENGTH = 32
_SESSION_KEY = "invitation"


class InvitationGone(Error):
    """The invitation has expired, was revoked or was taken up by somebody else."""

    status = 410
    code = "invitation_gone"
    message = "This invitation has expired. Ask for a new one."


class InvitationForSomebodyElse(Error):
    """The invitation names an e-mail address, and the reader's is another one."""

    status = 403
    code = "invitation_for_somebody_else"
    message = "This invitation is for another e-mail address."


class AlreadyMember(Error):
    """Who is invited belongs to the organization already."""

    status = 409
    code = "already_member"
    message = "This person is a member already."


class AlreadyInvited(Error):
    """The same form was sent twice: the invitation is made, its link was shown by the first answer."""

    status = 409
    code = "already_invited"
    message = "This invitation was made already, and its link was shown then. Renew it to get a new link."


class TooManyInvitations(Error):
    """More open invitations than an organization may have."""

    status = 409
    code = "too_many_invitations"
    message = f"There are {MOST_OPEN} open invitations already. Revoke some first."


@dataclass(frozen=True, slots=True)
class Offer:
    """An invitation and its token, which exists nowhere else."""

    invitation: Invitation
    token: str
    is_renewed: bool = False

    @property
    def link(self) -> str:
        return f"{settings.RESPAN_BASE_URL}{reverse('invitation-link', args=[self.token])}"

    def __repr__(self) -> str:
        return f"Offer({self.invitation.public_id})"


def invite(
    *,
    organization: Organization,
    role: Role,
    actor: User,
    now: datetime,
    email: str = "",
    request_id: uuid.UUID | None = None,
    address: str | None = None,
) -> Offer:
    """Offer a place; without an e-mail address to whoever has the link. The same `request_id` offers one.

    Raises: members.RoleTooLow; AlreadyMember; AlreadyInvited; TooManyInvitations.
    """
    email = email.strip().lower()
    with transaction.atomic():
        place = members.lock(organization, actor=actor, minimum=Role.ADMIN)
        if role not in members.may_give(place):
            raise members.RoleTooLow("Only owners may invite owners.")
        if email and Membership.objects.filter(organization=organization, user__email__iexact=email).exists():
            raise AlreadyMember(f"{email} is a member already.")
        open_ones = Invitation.objects.filter(organization=organization, accepted_at=None, revoked_at=None)
        earlier = open_ones.filter(email__iexact=email).first() if email else None
        if earlier is not None:
            return _renew(earlier, place, role=role, now=now, address=address)
        public_id = _public_id(organization, request_id)
        if Invitation.objects.filter(public_id=public_id).exists():
            raise AlreadyInvited
        if open_ones.filter(expires_at__gt=now).count() >= MOST_OPEN:
            raise TooManyInvitations
        token = _new_token()
        made = Invitation.objects.create(
            public_id=public_id,
            organization=organization,
            email=email,
            role=role,
            digest=digest_of(token),
            invited_by=actor,
            created_at=now,
            expires_at=now + LIFE,
        )
        _record(made, "invitation.created", actor, address)
    return Offer(made, token)


def renew(*, organization: Organization, public_id: str, actor: User, now: datetime, address: str | None) -> Offer:
    """Give an open invitation, expired or not, a new link and seven more days; the earlier link is dead.

    Raises: members.RoleTooLow; InvitationGone.
    """
    with transaction.atomic():
        place = members.lock(organization, actor=actor, minimum=Role.ADMIN)
        invitation = _get_open(organization, public_id)
        return _renew(invitation, place, role=Role(invitation.role), now=now, address=address)


def revoke(
    *, organization: Organization, public_id: str, actor: User, now: datetime, address: str | None
) -> Invitation:
    """Take an open invitation back; its link is dead. Raises: members.RoleTooLow; InvitationGone."""
    with transaction.atomic():
        place = members.lock(organization, actor=actor, minimum=Role.ADMIN)
        invitation = _get_open(organization, public_id)
        if Role(invitation.role) not in members.may_give(place):
            raise members.RoleTooLow("Only owners may take back the invitation of an owner.")
        invitation.revoked_at = now
        invitation.save(update_fields=["revoked_at"])
        _record(invitation, "invitation.revoked", actor, address)
    return invitation


def accept(*, invitation: Invitation, user: User, now: datetime, address: str | None) -> Membership:
    """Make a user a member. Raises: InvitationGone; InvitationForSomebodyElse; AlreadyMember."""
    with transaction.atomic():
        Organization.objects.select_for_update(no_key=True).get(pk=invitation.organization_id)
        invitation = Invitation.objects.select_related("organization").get(pk=invitation.pk)
        if (problem := problem_of(invitation, user, now=now)) is not None:
            raise problem
        member = Membership.objects.create(organization=invitation.organization, user=user, role=invitation.role)
        invitation.accepted_at, invitation.accepted_by = now, user
        invitation.save(update_fields=["accepted_at", "accepted_by"])
        audit.record(
            organization=invitation.organization,
            actor=user,
            action="member.joined",
            target=user.email,
            detail={"role": invitation.role, "invitation": invitation.public_id},
            address=address,
        )
    return member


def problem_of(invitation: Invitation, user: User | None, *, now: datetime) -> Error | None:
    """Return why somebody (None: a visitor) cannot take up an invitation, or None when they can."""
    if user is not None and Membership.objects.filter(organization=invitation.organization_id, user=user).exists():
        return AlreadyMember("You are a member already.")
    if invitation.accepted_at is not None:
        return InvitationGone("This invitation was taken up already: each works once. Ask for a new one.")
    if invitation.revoked_at is not None or invitation.organization.deleted_at is not None:
        return InvitationGone("This invitation was taken back. Ask for a new one if that was a mistake.")
    if invitation.expires_at <= now:
        return InvitationGone()
    if user is not None and invitation.email and not _has_address(user, invitation.email):
        return InvitationForSomebodyElse(
            f"This invitation is for {invitation.email}; you are signed in as {user.email}."
        )
    return None


def pending(organization: Organization) -> list[Invitation]:
    """Return the open invitations of an organization, newest first, the expired ones too."""
    found = Invitation.objects.filter(organization=organization, accepted_at=None, revoked_at=None)
    return list(found.select_related("invited_by")[: MOST_OPEN * 2])


# --- Tokens, and the way through sign-up ------------------------------------------------------------------------------


def digest_of(token: str) -> bytes:
    """Return the stored form of a token; API keys under the same pepper cannot come out equal."""
    return hmac.digest(settings.RESPAN_KEY_PEPPER.encode(), b"invitation:" + token.encode(), "sha256")


def find(digest: bytes) -> Invitation | None:
    """Return the invitation whose current link has this digest."""
    found = Invitation.objects.filter(digest=digest).select_related("organization", "invited_by")
    return found.first()


def remember(request: HttpRequest, digest: bytes) -> None:
    """Keep in the browser's session which invitation it was shown, as a digest: the token is stored nowhere."""
    request.session[_SESSION_KEY] = digest.hex()


def remembered(request: HttpRequest) -> Invitation | None:
    """Return the invitation this browser was shown last, if its link is still the current one."""
    digest = request.session.get(_SESSION_KEY)
    return find(bytes.fromhex(digest)) if digest else None


def forget(request: HttpRequest) -> None:
    """Drop what `remember` kept."""
    request.session.pop(_SESSION_KEY, None)


def leads_back(request: HttpRequest | None) -> Invitation | None:
    """Return the invitation that a sign-up is for: one that can be taken up, where the sign-up leads back to it."""
    if request is None or not hasattr(request, "session"):
        return None
    if reverse("invitation") not in (request.POST.get("next"), request.GET.get("next")):
        return None
    invitation = remembered(request)
    return invitation if invitation and problem_of(invitation, None, now=timezone.now()) is None else None


def _has_address(user: User, email: str) -> bool:
    if user.email.lower() == email.lower():
        return True
    return bool(EmailAddress.objects.filter(user=user, email__iexact=email, verified=True).exists())


def _new_token() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_TOKEN_LENGTH))


def _public_id(organization: Organization, request_id: uuid.UUID | None) -> str:
    """Return a new id; of a form that is sent twice the same one, which only this organization's form can produce."""
    return ids.new("inv") if request_id is None else ids.encode("inv", uuid.uuid5(request_id, organization.public_id))


def _get_open(organization: Organization, public_id: str) -> Invitation:
    found = Invitation.objects.filter(organization=organization, public_id=public_id)
    invitation = found.filter(accepted_at=None, revoked_at=None).select_related("organization").first()
    if invitation is None:
        raise InvitationGone("This invitation was taken up or taken back already.")
    return invitation


def _renew(invitation: Invitation, place: Membership, *, role: Role, now: datetime, address: str | None) -> Offer:
    if Role(invitation.role) not in members.may_give(place) or role not in members.may_give(place):
        raise members.RoleTooLow("Only owners may renew the invitation of an owner.")
    token = _new_token()
    invitation.digest = digest_of(token)
    invitation.role, invitation.invited_by = role, place.user
    invitation.created_at, invitation.expires_at = now, now + LIFE
    invitation.save(update_fields=["digest", "role", "invited_by", "created_at", "expires_at"])
    _record(invitation, "invitation.renewed", place.user, address)
    return Offer(invitation, token, is_renewed=True)


def _record(invitation: Invitation, action: str, actor: User, address: str | None) -> None:
    detail: dict[str, Any] = {"role": invitation.role, "invitation": invitation.public_id}
    audit.record(
        organization=invitation.organization,
        actor=actor,
        action=action,
        target=invitation.email or invitation.public_id,
        detail=detail,
        address=address,
    )
