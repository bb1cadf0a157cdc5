"""Retention of an organization's own, and what a deleted one leaves: nothing of its calls, all of everybody else's."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection, transaction

from accounts import organizations
from accounts.models import Organization
from respan.celery import app
from tests.traces.calls import finished
from traces import retention, tasks
from traces.store.postgres import Store
from traces.store.protocol import Row
from traces.store.removal import ROLLUPS

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC)


def write(organization: Any, *ages: timedelta) -> None:
    """Store a call with a body for each age."""
    records = [
        finished(
            organization_id=organization.pk,
            started_us=int((NOW - age).timestamp() * 1_000_000),
            customer_identifier="customer",
        )
        for age in ages
    ]
    with transaction.atomic():
        refused = Store().write(
            [Row(record=each, usage=None, usage_source="none", cost_nano=0, charged_nano=0) for each in records]
        )
    assert refused == []


def count(table: str, organization: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table} WHERE organization_id = %s", [organization.pk])
        return int(cursor.fetchone()[0])


def kept(organization: Any) -> tuple[int, int]:
    """Return how many spans and bodies there are."""
    return count("traces_span", organization), count("traces_body", organization)


def days(number: float) -> timedelta:
    return timedelta(days=number)


def test_logs_beyond_an_organizations_own_days_go_with_their_bodies(cast: SimpleNamespace) -> None:
    Organization.objects.filter(pk=cast.organization.pk).update(retention_days=7)
    for organization in (cast.organization, cast.other_organization):
        write(organization, days(0), days(6.99), days(7.01), days(20))
    counted = count("traces_usage_hour", cast.organization)

    assert retention.sweep(now=NOW) is False

    assert kept(cast.organization) == (2, 2)
    assert kept(cast.other_organization) == (4, 4)
    assert count("traces_usage_hour", cast.organization) == counted  # the sums outlive what they count


@pytest.mark.django_db(transaction=True)
def test_beat_sweeps(cast: SimpleNamespace) -> None:
    Organization.objects.filter(pk=cast.organization.pk).update(retention_days=7)
    write(cast.organization, days(0), days(8))

    beat = {entry["task"] for entry in app.conf.beat_schedule.values()}
    tasks.enforce_retention()

    assert tasks.enforce_retention.name in beat
    assert kept(cast.organization) == (1, 1)


@pytest.mark.parametrize("own", [None, 30, 90])
def test_installations_own_retention_is_left_to_its_partitions(cast: SimpleNamespace, own: int | None) -> None:
    Organization.objects.filter(pk=cast.organization.pk).update(retention_days=own)
    write(cast.organization, days(0), days(29), days(31))

    retention.sweep(now=NOW)

    assert kept(cast.organization) == (3, 3)


def test_sweep_stops_when_its_time_is_up_and_goes_on_in_the_next(cast: SimpleNamespace) -> None:
    Organization.objects.filter(pk=cast.organization.pk).update(retention_days=1)
    write(cast.organization, *(days(2) + timedelta(minutes=n) for n in range(10)))

    left = [retention.sweep(now=NOW, budget_s=0, batch=4)]
    after_one = kept(cast.organization)
    while left[-1]:
        left.append(retention.sweep(now=NOW, budget_s=0, batch=4))

    assert after_one == (6, 6)
    assert left == [True, True, False]
    assert kept(cast.organization) == (0, 0)


def test_deleted_organization_leaves_no_span_no_body_no_sum(cast: SimpleNamespace) -> None:
    for organization in (cast.organization, cast.other_organization):
        write(organization, timedelta(minutes=-5), days(0), days(10))
    organizations.delete(organization=cast.organization, actor=cast.owner, now=NOW)

    retention.sweep(now=NOW)

    assert kept(cast.organization) == (0, 0)
    assert [count(table, cast.organization) for table in ROLLUPS] == [0] * len(ROLLUPS)
    assert kept(cast.other_organization) == (3, 3)
    assert all(count(table, cast.other_organization) for table in ROLLUPS)


def test_call_that_was_under_way_at_the_deletion_goes_in_a_later_sweep(cast: SimpleNamespace) -> None:
    organizations.delete(organization=cast.organization, actor=cast.owner, now=NOW)
    retention.sweep(now=NOW)
    write(cast.organization, days(0))

    retention.sweep(now=NOW + timedelta(minutes=5))

    assert kept(cast.organization) == (0, 0)
    assert count("traces_usage_hour", cast.organization) == 0
