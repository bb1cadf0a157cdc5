"""How fast an organization's credits go: what was charged in any time, the rate of the last week, how long they last.

Reads only, and never adds up charges one by one: an entry carries the balance after it, so what was charged between two
moments is the difference of two balances less the few movements that were no charges. That costs the same for ten
entries and for ten million, and agrees with the balance by construction.
Neighbours: `statement.py` (entries), `views.py`, the roof (which adds what only traces know: the models).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Final

from django.db import connection

from billing.models import Entry

AVERAGED: Final = timedelta(days=7)
LEAST: Final = timedelta(days=1)

# What an entry did to its wallet, and which entries are no charges (the words of the index `entry_no_charge`).
_CHANGE: Final = "CASE 'wallet' WHEN {0}.credit THEN {0}.amount WHEN {0}.debit THEN -{0}.amount ELSE 0 END"
_CUTS: Final = f"""
WITH cut AS MATERIALIZED (
    SELECT place, wallet.organization_id, coalesce(first.number, last.number + 1, 0) AS number,
           coalesce(first.before, wallet.posted) AS balance
    FROM billing_wallet wallet CROSS JOIN unnest(%s::timestamptz[]) WITH ORDINALITY given(moment, place)
    LEFT JOIN LATERAL (
        SELECT near.number, near.balance - {_CHANGE.format("near")} AS before
        FROM (
            SELECT soon.*, min(created_at) OVER () AS first_at FROM (
                SELECT number, created_at, balance, debit, credit, amount FROM billing_entry
                WHERE wallet_id = wallet.organization_id AND created_at >= moment
                ORDER BY created_at, number LIMIT 20
            ) soon
        ) near
        WHERE near.created_at < near.first_at + interval '2 seconds'
        ORDER BY near.number LIMIT 1
    ) first ON true
    LEFT JOIN LATERAL (
        SELECT number FROM billing_entry WHERE wallet_id = wallet.organization_id ORDER BY number DESC LIMIT 1
    ) last ON first.number IS NULL
    WHERE wallet.organization_id = %s
)
SELECT cut.number, cut.balance, coalesce((
    SELECT sum({_CHANGE.format("other")}) FROM billing_entry other
    WHERE other.wallet_id = cut.organization_id AND other.kind NOT IN ('usage', 'absorbed')
    AND other.number >= cut.number AND other.number < until.number
), 0)
FROM cut LEFT JOIN cut until ON until.place = cut.place + 1
ORDER BY cut.place
"""  # noqa: S608  (constants)


@dataclass(frozen=True, slots=True)
class Cut:
    """A moment in a wallet's entries: the number of the first entry from then on, the balance before it, and what the
    entries until the next cut changed that were no charges."""

    number: int
    balance: int
    other_changes: int


@dataclass(frozen=True, slots=True)
class Burn:
    """How fast credits went, in nano-USD a day, averaged over `days` days; `lasts` is None where nothing was spent."""

    per_day_nano: int
    days: int
    lasts: timedelta | None


def cuts(organization_id: int, moments: Sequence[datetime]) -> list[Cut]:
    """Return where these moments, in their order, fall into a wallet's entries; nothing when there is no wallet.

    Entries are in the order in which they were booked. The clocks of the hosts that book may differ by two seconds: an
    entry at a border then counts to either side, never to both.
    """
    with connection.cursor() as cursor:
        cursor.execute(_CUTS, [list(moments), organization_id])
        return [Cut(number, balance, int(other)) for number, balance, other in cursor.fetchall()]


def charged_between(organization_id: int, moments: Sequence[datetime]) -> list[int]:
    """Return what was charged from each moment to the next one, in nano-USD: one number less than moments."""
    found = cuts(organization_id, moments)
    if not found:  # no wallet
        return [0] * (len(moments) - 1)
    return charges(found)


def charges(found: Sequence[Cut]) -> list[int]:
    """Return what was charged between neighbouring cuts: what there was and came, less what there is."""
    return [cut.balance + cut.other_changes - until.balance for cut, until in pairwise(found)]


def by_day(organization_id: int, *, days: int, today: date) -> list[tuple[date, int]]:
    """Return what was charged on each of the last days (UTC), today as the last one."""
    dates = [today - timedelta(days=back) for back in range(days - 1, -1, -1)]
    moments = [midnight(each) for each in (*dates, today + timedelta(days=1))]
    return list(zip(dates, charged_between(organization_id, moments), strict=True))


def burn(organization_id: int, *, available_nano: int, now: datetime) -> Burn | None:
    """Return the rate of the last seven days, or of the days since the first charge; None before a day has passed."""
    first = first_charge_at(organization_id)
    if first is None or now - first < LEAST:
        return None
    since = max(first, now - AVERAGED)
    [charged] = charged_between(organization_id, [since, now + timedelta(days=1)])
    per_day = charged * int(LEAST.total_seconds()) // int((now - since).total_seconds())
    lasts = None
    if charged > 0:
        # Bounded, since a timedelta is; nobody plans for longer.
        days = min(max(available_nano, 0) / max(per_day, 1), 100_000)
        lasts = timedelta(days=days)
    return Burn(per_day, (now - since).days, lasts)


def first_charge_at(organization_id: int) -> datetime | None:
    """Return when the first call was charged."""
    charges = Entry.objects.filter(wallet_id=organization_id, kind=Entry.Kind.USAGE).order_by("number")
    return charges.values_list("created_at", flat=True).first()


def midnight(day: date) -> datetime:
    """Return when a day begins, in UTC."""
    return datetime.combine(day, time(), UTC)


def lasting(lasts: timedelta) -> str:
    """Say how long credits last, no more exactly than anybody can know."""
    hours = lasts.total_seconds() / 3600
    if hours < 1:
        return "less than an hour"
    for count, unit, most in ((hours, "hour", 36), (hours / 24, "day", 60), (hours / 24 / 30.4, "month", 12)):
        if round(count) <= most:
            return f"about {round(count)} {unit}{'' if round(count) == 1 else 's'}"
    return "more than a year"
