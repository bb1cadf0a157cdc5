"""The audit log: who did what to whom, from where. Written in the transaction of the action itself.

Never updates or deletes an event (a trigger refuses it) and never holds a secret. Other apps record their own actions
through `record` and word them through `add_actions`; those of this app are in `ACTIONS`. Neighbours:
`models.AuditEvent`, `history.py` (reads it), `signin.py`, `admin.py`.
"""

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest

from accounts.models import AuditEvent, Organization, User

# What happened, as a page says it after the actor's name.
ACTIONS = {
    "organization.created": "Created the organization",
    "organization.renamed": "Renamed the organization",
    "organization.retention_changed": "Changed how long logs are kept",
    "organization.zero_retention_on": "Switched zero retention on",
    "organization.zero_retention_off": "Switched zero retention off",
    "organization.transferred": "Handed the ownership over",
    "organization.deleted": "Deleted the organization",
    "invitation.created": "Invited somebody",
    "invitation.renewed": "Renewed an invitation",
    "invitation.revoked": "Took an invitation back",
    "member.joined": "Joined by an invitation",
    "member.role_changed": "Changed a member's role",
    "member.removed": "Removed a member",
    "member.left": "Left the organization",
    "audit_log.exported": "Exported the audit log",
    "operator.created": "Became the operator of this installation",
    "user.signed_in": "Signed in",
    "user.signed_out": "Signed out",
    # Without an actor: nobody proved to be it. The target is the address that was tried.
    "user.sign_in_failed": "Failed to sign in",
    "user.password_changed": "Changed their password",
    # Through a link, without the old one.
    "user.password_reset": "Set a new password through a reset link",
    "user.email_changed": "Changed their e-mail address",
    # The detail says which: an authenticator app (totp), a passkey (webauthn), recovery codes.
    "user.second_factor_added": "Added a second factor",
    "user.second_factor_removed": "Removed a second factor",
    "user.second_factor_failed": "Entered a wrong code after the right password",
    "user.recovery_codes_made": "Made new recovery codes",
    "user.session_ended": "Signed another browser out",
    # What they did stays, under no name.
    "user.deleted": "Deleted their account",
    "user.reset_link_made": "Made a password reset link for somebody (operator)",
    # The target has lost their phone, say; the detail has the reason.
    "user.second_factors_reset": "Removed somebody's second factors (operator)",
    "api_key.created": "Created an API key",
    "api_key.changed": "Changed an API key",
    "api_key.rotated": "Rotated an API key",
    "api_key.revoked": "Revoked an API key",
    # The detail names the fields.
    "sample_data.filled": "Put in sample calls",
    "sample_data.removed": "Removed the sample calls",
    "admin.added": "Added a record in the admin console (operator)",
    "admin.changed": "Changed a record in the admin console (operator)",
    "admin.deleted": "Deleted a record in the admin console (operator)",
}

_ACTION = re.compile(r"[a-z_]+\.[a-z_]+")


def add_actions(words: Mapping[str, str]) -> None:
    """Say what another app's actions are called on the page of the audit log (from its `AppConfig.ready`)."""
    ACTIONS.update(words)


def record(
    *,
    organization: Organization | None,
    actor: User | None,
    action: str,
    target: str = "",
    detail: dict[str, Any] | None = None,
    address: str | None = None,
) -> AuditEvent:
    """Write one event; `action` is `noun.verb`, `target` a public id or an e-mail address, `detail` free of secrets.

    Raises: ValueError when the action is not worded `noun.verb`.
    """
    if not _ACTION.fullmatch(action):
        raise ValueError(f"an audit action reads noun.verb, not {action!r}")
    return AuditEvent.objects.create(
        organization=organization,
        actor=actor,
        action=action,
        target=target.replace("\x00", "")[:200],
        detail=detail or {},
        address=address,
    )


def client_address(request: HttpRequest) -> str | None:
    """Return the client's address; `X-Forwarded-For` counts only as far as trusted proxies wrote it."""
    address = _address(request.META.get("REMOTE_ADDR", ""))
    proxies = _trusted_proxies(tuple(settings.RESPAN_TRUSTED_PROXIES))
    hops = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
    # Each proxy appends the peer it saw: walk back from ours until somebody we do not trust appears.
    while hops and address is not None and any(address in network for network in proxies):
        previous = _address(hops.pop())
        if previous is None:
            break
        address = previous
    return None if address is None else str(address)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4)
def _trusted_proxies(ranges: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text.strip(), strict=False) for text in ranges)
