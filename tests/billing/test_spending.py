"""What was charged in any time, told from running balances, is what the charges add up to; how long credits last."""

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import ledger, spending, statement
from billing.models import Entry, Wallet
from billing.usage import NANO
from tests.billing.wallets import funded, settlement
from tests.conftest import make_organization

pytestmark = pytest.mark.django_db(transaction=True)

NOON = datetime(2026, 5, 20, 12, tzinfo=UTC)


def invoiced() -> Any:
    """Return an organization that pays later: it can be charged at any time of the past, without a purchase today."""
    organization = make_organization("Invoiced")
    Wallet.objects.filter(pk=organization.pk).update(credit_limit=1_000_000 * NANO)
    return organization


def charge(organization: Any, nano: int, at: datetime) -> None:
    ledger.settle([settlement(organization, uuid.uuid4(), nano)], now=at)


def granted_at(organization: Any, nano: int, at: datetime) -> None:
    """Book a grant of the past, as `ledger.grant` would have done then."""
    wallet = Wallet.objects.get(pk=organization.pk)
    wallet.posted += nano
    wallet.save(update_fields=["posted"])
    Entry.objects.create(
        wallet=wallet,
        kind="grant",
        debit="promotion",
        credit="wallet",
        amount=nano,
        balance=wallet.posted,
        created_at=at,
    )


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(1, 1_000), st.integers(0, 40)), max_size=25),
    gaps=st.lists(st.integers(0, 60), min_size=1, max_size=6),
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_differences_of_balances_are_the_sums_of_charges(
    db: None, steps: list[tuple[bool, int, int]], gaps: list[int]
) -> None:
    organization, at, moments = invoiced(), NOON, [NOON]
    for is_charge, nano, hours in steps:
        at += timedelta(hours=hours)
        (charge if is_charge else granted_at)(organization, nano, at)
    for gap in gaps:
        moments.append(moments[-1] + timedelta(hours=gap))
    found = list(Entry.objects.filter(wallet_id=organization.pk, kind="usage").values_list("created_at", "amount"))
    expected = [sum(amount for made, amount in found if since <= made < until) for since, until in pairwise(moments)]
    assert spending.charged_between(organization.pk, moments) == expected


def test_what_the_operator_absorbed_is_no_spend() -> None:
    organization = funded(100)
    charge(organization, 250, timezone.now())
    today = timezone.now().astimezone(UTC).date()
    assert spending.by_day(organization.pk, days=1, today=today) == [(today, 100)]


def test_an_entry_at_a_border_counts_to_one_side_though_clocks_differ() -> None:
    organization = invoiced()
    midnight = spending.midnight(date(2026, 5, 20))
    # The second was booked later, by a host whose clock was behind.
    charge(organization, 1, midnight - timedelta(hours=1))
    charge(organization, 10, midnight + timedelta(milliseconds=300))
    charge(organization, 100, midnight - timedelta(milliseconds=300))
    charge(organization, 1_000, midnight + timedelta(hours=1))
    before, after = spending.charged_between(
        organization.pk, [midnight - timedelta(days=1), midnight, midnight + timedelta(days=1)]
    )
    assert before + after == 1_111
    assert before >= 1
    assert after >= 1_010


def test_an_organization_without_wallet_or_entries_spent_nothing() -> None:
    assert spending.by_day(-1, days=2, today=date(2026, 5, 2)) == [(date(2026, 5, 1), 0), (date(2026, 5, 2), 0)]
    assert spending.charged_between(invoiced().pk, [NOON, NOON + timedelta(days=1)]) == [0]


def test_days_are_of_utc_and_today_is_the_last() -> None:
    organization = invoiced()
    charge(organization, 5, datetime(2026, 5, 1, 23, 59, 59, tzinfo=UTC))
    charge(organization, 7, datetime(2026, 5, 2, 0, 0, 5, tzinfo=UTC))
    assert spending.by_day(organization.pk, days=3, today=date(2026, 5, 2)) == [
        (date(2026, 4, 30), 0),
        (date(2026, 5, 1), 5),
        (date(2026, 5, 2), 7),
    ]


def test_the_rate_is_the_average_of_seven_days() -> None:
    organization = invoiced()
    charge(organization, 1_000_000, NOON - timedelta(days=30))
    for day in reversed(range(7)):
        charge(organization, 100, NOON - timedelta(days=day, hours=1))
    found = spending.burn(organization.pk, available_nano=900, now=NOON)
    assert found == spending.Burn(per_day_nano=100, days=7, lasts=timedelta(days=9))
    assert spending.lasting(timedelta(days=9)) == "about 9 days"


def test_the_rate_of_a_newcomer_is_that_of_his_days() -> None:
    organization = invoiced()
    charge(organization, 300, NOON - timedelta(days=3))
    found = spending.burn(organization.pk, available_nano=1_000, now=NOON)
    assert found == spending.Burn(per_day_nano=100, days=3, lasts=timedelta(days=10))


def test_nothing_is_forecast_from_less_than_a_day() -> None:
    organization = invoiced()
    assert spending.burn(organization.pk, available_nano=1_000, now=NOON) is None
    charge(organization, 300, NOON - timedelta(hours=23))
    assert spending.burn(organization.pk, available_nano=1_000, now=NOON) is None


def test_a_week_without_charges_has_no_end() -> None:
    organization = invoiced()
    charge(organization, 300, NOON - timedelta(days=8))
    assert spending.burn(organization.pk, available_nano=9, now=NOON) == spending.Burn(0, 7, None)


@pytest.mark.parametrize(
    ("hours", "words"),
    [
        (0, "less than an hour"), (0.99, "less than an hour"), (1, "about 1 hour"), (30, "about 30 hours"),
        (48, "about 2 days"), (24 * 59, "about 59 days"), (24 * 90, "about 3 months"), (24 * 400, "more than a year"),
        (24 * 99_999, "more than a year"),
    ],
)  # fmt: skip
def test_how_long_credits_last_is_said_in_round_words(hours: float, words: str) -> None:
    assert spending.lasting(timedelta(hours=hours)) == words


def test_sums_cost_the_same_for_few_and_for_many_entries() -> None:
    few, many = invoiced(), invoiced()
    charge(few, 1, NOON)
    chance = random.Random(1)  # noqa: S311  (a test's dice)
    for part in range(20):
        ledger.settle(
            [settlement(many, uuid.uuid4(), chance.randint(1, 9)) for _ in range(500)],
            now=NOON + timedelta(hours=part),
        )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE billing_entry")
    read = {}
    for organization in (few, many):
        with CaptureQueriesContext(connection) as asked, connection.cursor() as cursor:
            moments = [NOON + timedelta(hours=each) for each in range(-5, 26)]
            cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + spending._CUTS, [moments, organization.pk])
            plan = cursor.fetchone()[0][0]
        read[organization.pk] = _rows_read(plan["Plan"])
        assert len(asked) == 1
    assert read[many.pk] < 20_000  # a batch of 500 at one instant is looked through for its first; 10,000 are not
    assert ("Seq Scan", "billing_entry") not in set(_scans(plan["Plan"]))


def _rows_read(plan: dict[str, Any]) -> int:
    own = plan["Actual Rows"] * plan["Actual Loops"] if "Relation Name" in plan else 0
    return int(own) + sum(_rows_read(each) for each in plan.get("Plans", []))


def test_the_statements_of_all_months_join_without_a_gap() -> None:
    organization = invoiced()
    chance, at = random.Random(2), datetime(2026, 1, 15, tzinfo=UTC)  # noqa: S311
    for _ in range(40):
        at += timedelta(hours=chance.randint(1, 90))
        (charge if chance.random() < 0.7 else granted_at)(organization, chance.randint(1, 10**9), at)
    months = statement.months(organization.pk, today=at.date())
    found = [statement.statement(organization.pk, month=month) for month in reversed(months)]
    assert months[-1] == date(2026, 1, 1)
    assert found[0].opening == 0
    assert found[-1].closing == ledger.balance(organization.pk).posted
    assert all(one.closing == other.opening for one, other in pairwise(found))
    for each in found:
        assert each.opening + sum(change for _, change in each.changes) - each.charged == each.closing
        assert sum(amount for _, amount in each.days) == each.charged


def _scans(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield how each table of a plan is read."""
    yield node["Node Type"], node.get("Relation Name", "")
    for child in node.get("Plans", []):
        yield from _scans(child)
