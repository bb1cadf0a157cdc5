"""The people of an organization: changing a role, removing, leaving, handing over the ownership.

Every change first takes the organization's row (`lock`) and reads the actor's role again under it, so that changes
happen one after the other: two owners who demote each other at once leave one. An organization always has an owner.
Never makes a membership (`signup.py` and `invitations.py` do). Neighbours: `tenancy.py` (roles), `member_views.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from accounts import audit, keys
from accounts.models import ApiKey, Membership, Organization, Role, User
from accounts.tenancy import has_role
from respan.errors import Error


class RoleTooLow(Error):
    """The actor's role, read again at the moment of the change, does not allow it."""

    status = 403
    code = "role_too_low"
    message = "Your role does not allow this. Ask an owner of the organization."


class LastOwner(Error):
    """The change would leave the organization without an owner."""

    status = 409
    code = "last_owner"
    message = "An organization needs an owner. Make somebody else an owner first, or delete the organization."


class NoSuchMember(Error):
    """The person left or was removed in the meantime."""

    status = 404
    code = "no_such_member"
    message = "This person is no member of the organization any more."


@dataclass(frozen=True, slots=True)
class Removed:
    """Who was taken out of an organization, and how many of the keys they created were revoked with it."""

    user: User
    revoked_keys: int


def may_give(actor: Membership) -> list[Role]:
    """Return the roles a member may give to others: owners every role, admins those below the owner's."""
    if has_role(actor, Role.OWNER):
        return [Role.OWNER, Role.ADMIN, Role.MEMBER]
    return [Role.ADMIN, Role.MEMBER] if has_role(actor, Role.ADMIN) else []


def may_manage(actor: Membership, other: Membership) -> bool:
    """Tell whether a member may change another's role or remove them; nobody manages themselves this way."""
    return actor.user_id != other.user_id and Role(other.role) in may_give(actor)


def lock(organization: Organization, *, actor: User, minimum: Role) -> Membership:
    """Hold the organization's people still until the transaction ends; return the actor's place as it is now.

    Raises: RoleTooLow, also for who is no member any more or whose organization was deleted.
    """
    # NO KEY: API keys and logs may go on naming the organization meanwhile.
    Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    places = Membership.objects.filter(organization=organization, organization__deleted_at=None, user=actor)
    place = places.select_related("organization", "user").first()
    if place is None or not has_role(place, minimum):
        raise RoleTooLow
    return place


def change_role(
    *, organization: Organization, member_id: int, role: Role, actor: User, address: str | None = None
) -> Membership:
    """Give a member another role; the same role again changes nothing.

    Raises: RoleTooLow; LastOwner; NoSuchMember.
    """
    with transaction.atomic():
        place = lock(organization, actor=actor, minimum=Role.MEMBER)
        member = place if place.pk == member_id else _get(organization, member_id)
        is_stepping_down = member.pk == place.pk and role in may_give(place)
        if not is_stepping_down and not (may_manage(place, member) and role in may_give(place)):
            raise RoleTooLow
        if member.role == role:
            return member
        if member.role == Role.OWNER:
            _check_another_owner(member)
        before, member.role = member.role, role
        member.save(update_fields=["role"])
        _record(member, "member.role_changed", actor, address, {"from": before, "to": role})
    return member


def remove(
    *,
    organization: Organization,
    member_id: int,
    actor: User,
    now: datetime,
    revoke: Sequence[str] = (),
    address: str | None = None,
) -> Removed:
    """Take a member out; `revoke` names the keys (public ids, of those they created) that end with it.

    Their open pages are refused at the next request. Other keys go on: they belong to the organization.
    Raises: RoleTooLow; LastOwner; NoSuchMember.
    """
    with transaction.atomic():
        place = lock(organization, actor=actor, minimum=Role.ADMIN)
        member = _get(organization, member_id)
        if not may_manage(place, member):
            raise RoleTooLow
        return _take_out(member, "member.removed", actor=actor, now=now, revoke=revoke, address=address)


def leave(
    *, organization: Organization, user: User, now: datetime, revoke: Sequence[str] = (), address: str | None = None
) -> Removed:
    """Let a member go. Raises: RoleTooLow for who is no member; LastOwner."""
    with transaction.atomic():
        place = lock(organization, actor=user, minimum=Role.MEMBER)
        return _take_out(place, "member.left", actor=user, now=now, revoke=revoke, address=address)


def transfer(*, organization: Organization, to_id: int, actor: User, address: str | None = None) -> Membership:
    """Make another member the owner in the actor's place, who becomes an admin.

    Raises: RoleTooLow; NoSuchMember.
    """
    with transaction.atomic():
        place = lock(organization, actor=actor, minimum=Role.OWNER)
        successor = _get(organization, to_id)
        if successor.pk == place.pk:
            raise NoSuchMember("Choose somebody else: you are an owner already.")
        Membership.objects.filter(pk=successor.pk).update(role=Role.OWNER)
        Membership.objects.filter(pk=place.pk).update(role=Role.ADMIN)
        successor.role = Role.OWNER
        audit.record(
            organization=organization,
            actor=actor,
            action="organization.transferred",
            target=organization.public_id,
            detail={"from": actor.email, "to": successor.user.email},
            address=address,
        )
    return successor


def keys_created_by(user: User, organization: Organization) -> list[ApiKey]:
    """Return the working keys of an organization that somebody created, newest first."""
    return list(ApiKey.objects.filter(organization=organization, created_by=user, revoked_at=None))


def owned_alone(user: User) -> list[Organization]:
    """Return the organizations whose only owner is this user: without them these would have none."""
    owned = Organization.objects.filter(deleted_at=None, memberships__user=user, memberships__role=Role.OWNER)
    others = Membership.objects.filter(role=Role.OWNER, organization__in=owned).exclude(user=user)
    return list(owned.exclude(pk__in=others.values("organization_id")).order_by("name", "pk"))


def _get(organization: Organization, member_id: int) -> Membership:
    member = Membership.objects.filter(organization=organization, pk=member_id).select_related("user").first()
    if member is None:
        raise NoSuchMember
    return member


def _check_another_owner(member: Membership) -> None:
    owners = Membership.objects.filter(organization=member.organization_id, role=Role.OWNER)
    if not owners.exclude(pk=member.pk).exists():
        raise LastOwner


def _take_out(
    member: Membership, action: str, *, actor: User, now: datetime, revoke: Iterable[str], address: str | None
) -> Removed:
    if member.role == Role.OWNER:
        _check_another_owner(member)
    wanted = set(revoke)
    ended = [key for key in keys_created_by(member.user, member.organization) if key.public_id in wanted]
    for api_key in ended:
        keys.revoke(api_key=api_key, actor=actor, now=now, address=address)
    _record(member, action, actor, address, {"role": member.role, "revoked_keys": len(ended)})
    Membership.objects.filter(pk=member.pk).delete()
    return Removed(member.user, len(ended))


def _record(member: Membership, action: str, actor: User, address: str | None, detail: dict[str, Any]) -> None:
    audit.record(
        organization=member.organization,
        actor=actor,
        action=action,
        target=member.user.email,
        detail=detail,
        address=address,
    )
