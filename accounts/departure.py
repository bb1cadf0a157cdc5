"""How a person deletes their account: what keeps them, and what is left of them afterwards.

The row of the user stays, emptied: money and the audit log name who acted for ever, but no longer who that was. API
keys stay with the organization. Never deletes an organization (`organizations.py` does, first). Neighbours:
`members.py` (leaving), `account_views.py`.
"""

from dataclasses import dataclass
from datetime import datetime

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from django.db import transaction

from accounts import audit, members, sessions
from accounts.models import Membership, Organization, User
from respan.errors import Error


class StillNeeded(Error):
    """Something would be left without anybody who may act for it."""

    status = 409
    code = "account_still_needed"
    message = "This account cannot be deleted yet: something depends on it."


@dataclass(frozen=True, slots=True)
class Ties:
    """What keeps an account: organizations with others in them, those it is alone in, and the console."""

    shared: list[Organization]
    alone: list[Organization]
    is_last_operator: bool

    def __bool__(self) -> bool:
        return bool(self.shared or self.alone or self.is_last_operator)


def ties(user: User) -> Ties:
    """Return what a person has to hand over or delete before their account can go."""
    owned = members.owned_alone(user)
    others = Membership.objects.filter(organization__in=owned).exclude(user=user)
    with_others = set(others.values_list("organization_id", flat=True))
    operators = User.objects.filter(is_superuser=True, is_active=True)
    return Ties(
        shared=[each for each in owned if each.pk in with_others],
        alone=[each for each in owned if each.pk not in with_others],
        is_last_operator=user.is_superuser and not operators.exclude(pk=user.pk).exists(),
    )


def delete_account(user: User, *, now: datetime, address: str | None = None) -> None:
    """Sign a person out everywhere, take them out of their organizations and forget who they were.

    Raises: StillNeeded.
    """
    with transaction.atomic():
        # In one order, and before looking: two owners who leave at once must not both see the other one.
        places = Membership.objects.filter(user=user, organization__deleted_at=None)
        for organization in Organization.objects.filter(memberships__in=places).order_by("pk"):
            Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
        if user.is_superuser:
            list(User.objects.select_for_update().filter(is_superuser=True).order_by("pk"))
        if ties(user):
            raise StillNeeded
        for place in places.select_related("organization"):
            members.leave(organization=place.organization, user=user, now=now, address=address)
        audit.record(organization=None, actor=user, action="user.deleted", target=user.email, address=address)
        _forget(user)


def _forget(user: User) -> None:
    sessions.end_others(user, keep=None)
    EmailAddress.objects.filter(user=user).delete()
    Authenticator.objects.filter(user=user).delete()
    Membership.objects.filter(user=user).delete()
    user.email = f"deleted-{user.pk}@deleted.invalid"
    user.name = "Deleted account"
    user.is_active = user.is_staff = user.is_superuser = False
    user.set_unusable_password()
    user.save()
