"""An organization's own facts: its name, how long it keeps what, and its end.

`organization_deleted` is, with `signup.organization_created`, what this app tells the apps above it: they remove what
is theirs. A deleted organization's row stays, without members, keys, credentials or logs, because the books name it.
Never knows money or traces. Neighbours: `members.py` (the lock), `settings_views.py`, `traces.retention`.
"""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.dispatch import Signal

from accounts import audit, keys, members
from accounts.models import ApiKey, Invitation, Membership, Organization, Role, User
from respan.errors import Error

# Sent with `organization=`, `actor=` and `address=`, inside the transaction that deletes it: a receiver that fails
# undoes the whole.
organization_deleted = Signal()


class RetentionTooLong(Error):
    """An organization cannot keep its logs for longer than the installation does."""

    status = 400
    code = "retention_too_long"
    message = "Choose a number of days from 1 to what this installation keeps."


def longest_retention() -> int:
    """Return the days that this installation keeps logs."""
    return int(settings.RESPAN_RETENTION_DAYS)


def kept_days(organization: Organization) -> int:
    """Return the days that an organization's logs are kept."""
    return min(organization.retention_days or longest_retention(), longest_retention())


def rename(*, organization: Organization, name: str, actor: User, address: str | None = None) -> Organization:
    """Give an organization another name. Raises: members.RoleTooLow."""
    with transaction.atomic():
        organization = members.lock(organization, actor=actor, minimum=Role.ADMIN).organization
        before, organization.name = organization.name, name
        if before != name:
            organization.save(update_fields=["name"])
            _record(organization, "organization.renamed", actor, address, {"from": before, "to": name})
    return organization


def keep(
    *, organization: Organization, days: int | None, zero_retention: bool, actor: User, address: str | None = None
) -> Organization:
    """Say how long logs are kept (None: as long as the installation keeps them), and whether with content.

    Raises: members.RoleTooLow; RetentionTooLong.
    """
    if days is not None and not 1 <= days <= longest_retention():
        raise RetentionTooLong(param="retention_days")
    with transaction.atomic():
        organization = members.lock(organization, actor=actor, minimum=Role.ADMIN).organization
        before = organization.retention_days, organization.zero_retention
        organization.retention_days, organization.zero_retention = days, zero_retention
        organization.save(update_fields=["retention_days", "zero_retention"])
        if before[0] != days:
            change = {"from": before[0] or longest_retention(), "to": days or longest_retention()}
            _record(organization, "organization.retention_changed", actor, address, change)
        if before[1] != zero_retention:
            action = "organization.zero_retention_on" if zero_retention else "organization.zero_retention_off"
            _record(organization, action, actor, address, {})
    return organization


def delete(*, organization: Organization, actor: User, now: datetime, address: str | None = None) -> None:
    """End an organization: its keys are revoked, its members and invitations gone, and the apps above are told.

    The row stays for the books. Raises: members.RoleTooLow.
    """
    with transaction.atomic():
        organization = members.lock(organization, actor=actor, minimum=Role.OWNER).organization
        for api_key in ApiKey.objects.filter(organization=organization, revoked_at=None):
            keys.revoke(api_key=api_key, actor=actor, now=now, address=address)
        Invitation.objects.filter(organization=organization, accepted_at=None, revoked_at=None).update(revoked_at=now)
        organization_deleted.send(sender=Organization, organization=organization, actor=actor, address=address)
        people = Membership.objects.filter(organization=organization)
        _record(organization, "organization.deleted", actor, address, {"members": people.count()})
        people.delete()
        Organization.objects.filter(pk=organization.pk).update(deleted_at=now)


def _record(organization: Organization, action: str, actor: User, address: str | None, detail: dict[str, Any]) -> None:
    audit.record(
        organization=organization,
        actor=actor,
        action=action,
        target=organization.public_id,
        detail={"name": organization.name, **detail},
        address=address,
    )
