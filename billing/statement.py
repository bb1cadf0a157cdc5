"""What the Credits pages tell: the entries of a wallet, one entry in full, what is held, and the statement of a month.

Reads only, and each function starts at an organization. What the operator absorbed is no row of a list: it moved
nothing in the wallet. Neighbours: `views.py`, `export.py`, `spending.py` (sums), `ledger.balance`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from uuid import UUID

from django.db.models import Count, Min, Q, QuerySet, Sum

from accounts.models import Membership
from billing import spending
from billing.models import Entry, Grant, Hold, RedeemCode
from billing.usage import MILLION, Rates
from respan import ids

PAGE_SIZE: Final = 50
HOLDS_SHOWN: Final = 10
READ_AT_ONCE: Final = 1_000
# The kinds people can filter by, in the order of the choice.
KINDS: Final = tuple(kind for kind in Entry.Kind if kind != Entry.Kind.ABSORBED)

_TITLES: Final = {
    Entry.Kind.PURCHASE: "Credits bought",
    Entry.Kind.GRANT: "Credits given",
    Entry.Kind.USAGE: "A call",
    Entry.Kind.ADJUSTMENT: "A correction",
    Entry.Kind.REFUND: "A refund",
    Entry.Kind.EXPIRY: "Credits whose time was over",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """Which entries are wanted: of one kind, and from one day (UTC) to another, both included."""

    kind: str = ""
    since: date | None = None
    until: date | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as its organization sees it; amounts in nano-USD, `log_id` of the call it pays for."""

    id: str
    number: int
    at: datetime
    kind: str
    label: str
    title: str
    change: int
    balance: int
    reason: str
    log_id: str | None
    corrects: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and the cursor of those before them (None: these are the oldest)."""

    rows: list[Row]
    older: str | None


@dataclass(frozen=True, slots=True)
class HeldCall:
    """A call under way and what it holds, in nano-USD."""

    log_id: str
    amount: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Held:
    """What is held: how many calls, since when, and the ones that have run longest."""

    calls: int
    amount: int
    since: datetime | None
    longest: list[HeldCall]


@dataclass(frozen=True, slots=True)
class Expiring:
    """The credits that go away next: how much is left of them (nano-USD), and when."""

    amount: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One entry in full, amounts in nano-USD. Of a charge also its hold, its rates and what the operator bore."""

    row: Row
    call_id: UUID | None
    actor: str
    expires_at: datetime | None
    held: int | None
    held_at: datetime | None
    absorbed: int
    rates_id: int | None
    priced_as: str
    rates: Rates | None
    refunds: list[Row]
    refunded: int
    corrected: Row | None

    @property
    def released(self) -> int | None:
        """Return what of the hold came back; None where nothing was held in time."""
        return max(self.held - self.charged, 0) if self.held else None

    @property
    def beyond_hold(self) -> int:
        """Return what the call cost more than its hold and was paid from the balance."""
        return max(self.charged - (self.held or 0), 0)

    @property
    def charged(self) -> int:
        """Return what the call took from the wallet."""
        return -self.row.change

    @property
    def cost(self) -> int:
        """Return the whole cost of a call: what was charged and what the operator bore."""
        return self.charged + self.absorbed

    @property
    def cost_micro_nano(self) -> int:
        """Return the cost in the unit of `usage.Line`, to compare it with a sum before its rounding."""
        return self.cost * MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A month: what there was, what came and went by kind, what is left; amounts in nano-USD."""

    since: date
    until: date
    opening: int
    closing: int
    charged: int
    changes: list[tuple[str, int]]
    movements: list[Row]
    days: list[tuple[date, int]]

    @property
    def minus_charged(self) -> int:
        """Return what charges did to the balance."""
        return -self.charged


# --- Lists -----------------------------------------------------------------------------------------------------------


def entries(*, organization_id: int, asked: Asked | None = None, cursor: str = "", limit: int = PAGE_SIZE) -> Page:
    """Return the entries older than the cursor (an entry's id); an unknown or foreign cursor starts at the newest."""
    found = _asked(organization_id, asked or Asked())
    last_seen = _number(organization_id, ids.decode("ent", cursor))
    if last_seen is not None:
        found = found.filter(number__lt=last_seen)
    some = list(found[: limit + 1])
    rows = [_row(entry) for entry in some[:limit]]
    return Page(rows, rows[-1].id if len(some) > limit else None)


def all_entries(*, organization_id: int, asked: Asked) -> Iterator[list[Row]]:
    """Yield every entry that is asked for, newest first, a part at a time. What is booked meanwhile is not in it."""
    found, last_seen = _asked(organization_id, asked), None
    while True:
        part = found if last_seen is None else found.filter(number__lt=last_seen)
        rows = [_row(entry) for entry in part[:READ_AT_ONCE]]
        if rows:
            yield rows
        if len(rows) < READ_AT_ONCE:
            return
        last_seen = rows[-1].number


def _asked(organization_id: int, asked: Asked) -> QuerySet[Entry]:
    found = Entry.objects.filter(wallet_id=organization_id).order_by("-number")
    found = found.filter(kind=asked.kind) if asked.kind else found.exclude(kind=Entry.Kind.ABSORBED)
    if asked.since is None and asked.until is None:
        return found
    first = spending.midnight(asked.since) if asked.since else datetime.min.replace(tzinfo=UTC)
    last = spending.midnight(asked.until + timedelta(days=1)) if asked.until else datetime.max.replace(tzinfo=UTC)
    cuts = spending.cuts(organization_id, [first, last])
    return found.filter(number__gte=cuts[0].number, number__lt=cuts[1].number) if cuts else found.none()


def _number(organization_id: int, id_: UUID | None) -> int | None:
    if id_ is None:
        return None
    return Entry.objects.filter(wallet_id=organization_id, pk=id_).values_list("number", flat=True).first()


def _row(entry: Entry) -> Row:
    return Row(
        id=ids.encode("ent", entry.pk),
        number=entry.number,
        at=entry.created_at,
        kind=entry.kind,
        label=entry.get_kind_display(),
        title=entry.reason or _TITLES.get(Entry.Kind(entry.kind), entry.kind),
        change=entry.change,
        balance=entry.balance,
        reason=entry.reason,
        log_id=ids.encode("log", entry.hold_id) if entry.hold_id else None,
        corrects=ids.encode("ent", entry.corrects_id) if entry.corrects_id else None,
    )


# --- What is held, what expires --------------------------------------------------------------------------------------


def held(organization_id: int) -> Held:
    """Return what an organization's calls under way hold."""
    open_ones = Hold.objects.filter(wallet_id=organization_id, state=Hold.State.OPEN)
    sums = open_ones.aggregate(calls=Count("id"), amount=Sum("amount", default=0), since=Min("created_at"))
    longest = open_ones.order_by("created_at")[:HOLDS_SHOWN] if sums["calls"] else []
    return Held(
        **sums, longest=[HeldCall(ids.encode("log", each.pk), each.amount, each.created_at) for each in longest]
    )


def expiring(organization_id: int) -> Expiring | None:
    """Return which credits go away next unless they are used up, or None."""
    left = Grant.objects.filter(wallet_id=organization_id, remaining__gt=0)
    found = left.values_list("expires_at").annotate(Sum("remaining")).order_by("expires_at").first()
    if found is None or found[0] is None:
        return None
    return Expiring(found[1], found[0])


def has_entries(organization_id: int) -> bool:
    """Tell whether anything was ever booked for an organization."""
    return Entry.objects.filter(wallet_id=organization_id).exists()


def has_codes(organization_id: int, *, now: datetime) -> bool:
    """Tell whether there is any code that an organization could be given to redeem."""
    for_it = Q(organization=None) | Q(organization_id=organization_id)
    return RedeemCode.objects.filter(for_it).exclude(expires_at__lte=now).exists()


# --- One entry -------------------------------------------------------------------------------------------------------


def detail(*, organization_id: int, entry_id: str) -> Detail | None:
    """Return one entry of an organization in full, or None when it has none with this id."""
    key = ids.decode("ent", entry_id)
    if key is None:
        return None
    entry = (
        Entry.objects.filter(wallet_id=organization_id, pk=key)
        .exclude(kind=Entry.Kind.ABSORBED)
        .select_related("rates", "grant", "corrects", "actor")
        .first()
    )
    if entry is None:
        return None
    hold = Hold.objects.filter(pk=entry.hold_id, wallet_id=organization_id).first() if entry.hold_id else None
    corrections = [
        _row(each) for each in Entry.objects.filter(wallet_id=organization_id, corrects=entry).order_by("number")
    ]
    refunds = [each for each in corrections if each.kind == Entry.Kind.REFUND]
    return Detail(
        row=_row(entry),
        call_id=entry.hold_id,
        actor=_actor(entry),
        expires_at=entry.grant.expires_at if entry.grant and entry.kind == Entry.Kind.GRANT else None,
        held=hold.amount if hold else None,
        held_at=hold.created_at if hold else None,
        absorbed=_absorbed(entry),
        rates_id=entry.rates_id,
        priced_as=f"{entry.rates.provider}/{entry.rates.model}" if entry.rates else "",
        rates=_rates(entry),
        refunds=refunds,
        refunded=sum(abs(each.change) for each in refunds),
        corrected=_row(entry.corrects) if entry.corrects else None,
    )


def _actor(entry: Entry) -> str:
    """Name who booked an entry: members by their address, operators only as what they are."""
    if entry.actor is None:
        return ""
    is_member = Membership.objects.filter(organization_id=entry.wallet_id, user=entry.actor).exists()
    return entry.actor.email if is_member else "An operator of this installation"


def _absorbed(entry: Entry) -> int:
    if entry.hold_id is None:
        return 0
    found = Entry.objects.filter(hold_id=entry.hold_id, kind=Entry.Kind.ABSORBED, wallet_id=entry.wallet_id)
    amount: int = found.aggregate(sum=Sum("amount", default=0))["sum"]
    return amount


def _rates(entry: Entry) -> Rates | None:
    if entry.rates is None:
        return None
    return Rates(
        input=entry.rates.input,
        output=entry.rates.output,
        cache_read=entry.rates.cache_read,
        cache_write=entry.rates.cache_write,
        cache_write_1h=entry.rates.cache_write_1h,
        request=entry.rates.request,
        image=entry.rates.image,
    )


# --- A month ---------------------------------------------------------------------------------------------------------


def months(organization_id: int, *, today: date) -> list[date]:
    """Return the first days of the months that have a statement, the newest first; at least the current one."""
    bounds = Entry.objects.filter(wallet_id=organization_id).order_by("number").values_list("created_at", flat=True)
    first = bounds.first()
    month, found = today.replace(day=1), []
    oldest = min(first.astimezone(UTC).date(), today).replace(day=1) if first else month
    while month >= oldest:
        found.append(month)
        month = (month - timedelta(days=1)).replace(day=1)
    return found


def statement(organization_id: int, *, month: date) -> Statement:
    """Return the statement of the month that begins on this day: opening + changes - charges = closing, always."""
    first = month.replace(day=1)
    last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    dates = [first + timedelta(days=each) for each in range(last.day)]
    cuts = spending.cuts(organization_id, [spending.midnight(each) for each in (*dates, last + timedelta(days=1))])
    if not cuts:
        return Statement(since=first, until=last, opening=0, closing=0, charged=0, changes=[], movements=[], days=[])
    charged = spending.charges(cuts)
    movements = [
        _row(entry)
        for entry in Entry.objects.filter(wallet_id=organization_id)
        .exclude(kind__in=[Entry.Kind.USAGE, Entry.Kind.ABSORBED])
        .filter(number__gte=cuts[0].number, number__lt=cuts[-1].number)
        .order_by("number")
    ]
    changes: dict[str, int] = {}
    for row in movements:
        changes[row.label] = changes.get(row.label, 0) + row.change
    return Statement(
        since=first,
        until=last,
        opening=cuts[0].balance,
        closing=cuts[-1].balance,
        charged=sum(charged),
        changes=list(changes.items()),
        movements=movements,
        days=[(day, amount) for day, amount in zip(dates, charged, strict=True) if amount],
    )
