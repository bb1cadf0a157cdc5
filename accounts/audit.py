"""The audit log: who did what to whom, from where. Written in the transaction of the action itself.

Never updates or deletes an event (a trigger refuses it) and never holds a secret. Other apps record their own actions
through `record`; those of this app are listed in `ACTIONS`. Neighbours: `models.AuditEvent`, `signin.py`, `admin.py`.
"""

import ipaddress
import re
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest

from accounts.models import AuditEvent, Organization, User

ACTIONS = {
    "organization.created": "an organization was created, at sign-up or later",
    "user.signed_in": "somebody signed in to the pages",
    "user.signed_out": "somebody signed out",
    "user.sign_in_failed": "a wrong password or an unknown address (the target is the address)",
    "user.password_changed": "a password was changed by its owner, who knew the old one",
    "user.password_reset": "a password was set through a reset link",
    "user.email_changed": "the primary e-mail address of an account changed",
    "user.reset_link_made": "an operator made a password reset link for somebody",
    "api_key.created": "an API key was created",
    "api_key.revoked": "an API key was revoked",
    "admin.added": "an operator added a record in the admin console",
    "admin.changed": "an operator changed a record in the admin console (the detail names the fields)",
    "admin.deleted": "an operator deleted a record in the admin console",
}

_ACTION = re.compile(r"[a-z_]+\.[a-z_]+")


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
