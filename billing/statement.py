"""What the Credits page tells: the entries of a wallet, newest first, page by page.

Reads only. What the operator absorbed is not shown here: it moved nothing in the wallet.
Neighbours: `views.py`, `ledger.balance`.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from billing.models import Entry, Hold
from respan import ids

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as its organization sees it; amounts in nano-USD, `log_id` of the call it pays for."""

    id: str
    at: datetime
    kind: str
    change: int
    balance: int
    reason: str
    log_id: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and the cursor of those before them (None: these are the oldest)."""

    rows: list[Row]
    older: str | None


def entries(*, organization_id: int, cursor: str = "", limit: int = PAGE_SIZE) -> Page:
    """Return the entries older than the cursor (an entry's id); an unknown or foreign cursor starts at the newest."""
    found = Entry.objects.filter(wallet_id=organization_id).exclude(kind=Entry.Kind.ABSORBED)
    last_seen = _number(organization_id, ids.decode("ent", cursor))
    if last_seen is not None:
        found = found.filter(number__lt=last_seen)
    some = list(found.order_by("-number")[: limit + 1])
    rows = [_row(entry) for entry in some[:limit]]
    return Page(rows, rows[-1].id if len(some) > limit else None)


def open_holds(organization_id: int) -> int:
    """Return how many calls are under way on an organization's credits."""
    return Hold.objects.filter(wallet_id=organization_id, state=Hold.State.OPEN).count()


def _number(organization_id: int, id_: UUID | None) -> int | None:
    if id_ is None:
        return None
    return Entry.objects.filter(wallet_id=organization_id, pk=id_).values_list("number", flat=True).first()


def _row(entry: Entry) -> Row:
    return Row(
        id=ids.encode("ent", entry.pk),
        at=entry.created_at,
        kind=entry.get_kind_display(),
        change=entry.change,
        balance=entry.balance,
        reason=entry.reason,
        log_id=ids.encode("log", entry.hold_id) if entry.hold_id else None,
    )
