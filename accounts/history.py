"""Reading the audit log: one organization's events in words, filtered, page by page, and as CSV.

Reads only; every statement starts at the organization. Never words an action itself: that is `audit.ACTIONS`, and an
action without words is shown by its name. Neighbours: `audit.py` (writes), `audit_views.py`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

from django.db.models import Q, QuerySet

from accounts import audit
from accounts.models import AuditEvent, Organization
from respan import sheets

PAGE_SIZE: Final = 50
# The newest ones: an export is a file somebody opens.
MOST_EXPORTED: Final = 100_000
_NOUNS: Final = {
    "organization": "Organization",
    "member": "Members",
    "invitation": "Invitations",
    "user": "Signing in",
    "api_key": "API keys",
    "credential": "Provider keys",
    "logs": "Logs",
    "sample_data": "Sample data",
    "credits": "Credits",
    "adjustment": "Credits, above one person's limit",
    "redeem_code": "Codes",
    "audit_log": "Audit log",
    "operator": "Operator",
    "admin": "Admin console",
}
_HEADER: Final = ("time_utc", "actor", "action", "what", "target", "detail", "address")
_CURSOR: Final = re.compile(r"(\d{1,17})-(\d{1,18})")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which events: `action` is one (`api_key.created`) or all of a noun (`api_key`); days are UTC, both included."""

    actor: str = ""
    action: str = ""
    since: date | None = None
    until: date | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """An event as a page shows it. `actor` is empty where nobody proved to be anybody."""

    at: datetime
    actor: str
    actor_name: str
    action: str
    what: str
    target: str
    note: str
    address: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, newest first, and the cursor of those before them (None: these are the oldest)."""

    rows: list[Row]
    older: str | None


def page(*, organization: Organization, filters: Filters, cursor: str = "", limit: int = PAGE_SIZE) -> Page:
    """Return the events before a cursor; what is no cursor of ours starts at the newest."""
    found = _filtered(organization, filters)
    if (position := _position(cursor)) is not None:
        at, id_ = position
        found = found.filter(Q(created_at__lt=at) | Q(created_at=at, pk__lt=id_), created_at__lte=at)
    some = list(found[: limit + 1])
    older = _cursor(some[limit - 1]) if len(some) > limit else None
    return Page([_row(event) for event in some[:limit]], older)


def has_events(organization: Organization) -> bool:
    """Tell whether anything happened at all."""
    return AuditEvent.objects.filter(organization=organization).exists()


def lines(*, organization: Organization, filters: Filters, at_once: int = 2_000) -> Iterator[str]:
    """Yield the events as CSV, the header first, then a part at a time, newest first."""
    yield sheets.written([_HEADER])
    cursor, left = "", MOST_EXPORTED
    while left > 0:
        found = page(organization=organization, filters=filters, cursor=cursor, limit=min(at_once, left))
        yield sheets.written(_cells(row) for row in found.rows)
        if found.older is None:
            return
        cursor, left = found.older, left - len(found.rows)


def choices() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what can be filtered by: nouns, and the actions of each."""
    groups: dict[str, list[tuple[str, str]]] = {noun: [] for noun in _NOUNS}
    for action in audit.ACTIONS:
        groups.setdefault(action.partition(".")[0], []).append((action, words_of(action)))
    return [
        (noun_of(noun), [(noun, f"Everything: {noun_of(noun).lower()}"), *actions] if len(actions) > 1 else actions)
        for noun, actions in groups.items()
        if actions
    ]


def noun_of(noun: str) -> str:
    """Return what a group of actions is called."""
    return _NOUNS.get(noun) or noun.replace("_", " ").capitalize()


def words_of(action: str) -> str:
    """Return what an action is called: `Created an API key`; one that nobody worded reads `Noun: verb`."""
    noun, _, verb = action.partition(".")
    return audit.ACTIONS.get(action) or f"{noun_of(noun)}: {verb.replace('_', ' ')}"


def _filtered(organization: Organization, filters: Filters) -> QuerySet[AuditEvent]:
    found = AuditEvent.objects.filter(organization=organization).select_related("actor")
    if filters.actor:
        found = found.filter(Q(actor__email__icontains=filters.actor) | Q(actor__name__icontains=filters.actor))
    if "." in filters.action:
        found = found.filter(action=filters.action)
    elif filters.action:
        found = found.filter(action__startswith=f"{filters.action}.")
    if filters.since is not None:
        found = found.filter(created_at__gte=datetime.combine(filters.since, time.min, tzinfo=UTC))
    if filters.until is not None:
        found = found.filter(created_at__lt=datetime.combine(filters.until, time.min, tzinfo=UTC) + timedelta(days=1))
    return found.order_by("-created_at", "-pk")


def _cursor(event: AuditEvent) -> str:
    return f"{(event.created_at - _EPOCH) // timedelta(microseconds=1)}-{event.pk}"


def _position(cursor: str) -> tuple[datetime, int] | None:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        return None
    try:
        return _EPOCH + timedelta(microseconds=int(match[1])), int(match[2])
    except OverflowError:
        return None


def _row(event: AuditEvent) -> Row:
    actor = event.actor
    gone = "" if event.actor_id is None else "a deleted account"
    return Row(
        at=event.created_at,
        actor=gone if actor is None else actor.email,
        actor_name="" if actor is None else actor.name,
        action=event.action,
        what=words_of(event.action),
        target=str(event.detail.get("name") or event.target),
        note=_note(event.detail),
        address=event.address or "",
    )


def _note(detail: Mapping[str, Any]) -> str:
    """Say the rest of an event in a few words: `from member to admin`, `$5.00: welcome`."""
    parts = []
    if "from" in detail and "to" in detail:
        parts.append(f"from {detail['from'] or 'none'} to {detail['to']}")
    elif detail.get("role"):
        parts.append(f"as {detail['role']}")
    if detail.get("revoked_keys"):
        parts.append(f"with {detail['revoked_keys']} of their API keys")
    if "amount_nano" in detail:
        parts.append(_dollars(detail["amount_nano"]))
    parts += [str(detail[name]) for name in ("environment", "provider", "reason", "note") if detail.get(name)]
    return ", ".join(parts)


def _dollars(nano: Any) -> str:
    try:
        amount = Decimal(str(nano)) / 10**9
    except ArithmeticError:
        return str(nano)
    shown = f"{abs(amount):.9f}".rstrip("0")
    whole, _, cents = shown.partition(".")
    return f"{'-' if amount < 0 else ''}${whole}.{cents.ljust(2, '0')}"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.at.astimezone(UTC).isoformat(timespec="microseconds"),
        *(sheets.cell(text) for text in (row.actor, row.action, row.what, row.target, row.note, row.address)),
    )
