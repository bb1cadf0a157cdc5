"""Day partitions: there before their day, gone after the retention, and nothing lost in between.

Each test uses years of its own: partitions are shared by all tests of a database.
"""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction

from tests.traces.calls import finished
from traces.apps import _attach_partitions
from traces.store.partitions import attach_partitions, drop_partitions
from traces.store.postgres import Store
from traces.store.protocol import Row

pytestmark = pytest.mark.django_db


def partitions() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
        return {name for (name,) in cursor.fetchall()}


def write(at: datetime, organization_id: int):
    record = finished(organization_id=organization_id, started_us=int(at.timestamp() * 1_000_000))
    with transaction.atomic():
        Store().write([Row(record=record, usage=None, usage_source="none", cost_nano=0, charged_nano=0)])
    return record.id


def table_of(id_, kind="span") -> str | None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT tableoid::regclass::text FROM traces_{kind} WHERE id = %s", [id_])
        found = cursor.fetchone()
        return found[0] if found else None


def test_partitions_reach_from_yesterday_to_two_days_ahead():
    now = datetime(2001, 5, 10, 23, 59, tzinfo=UTC)
    made = attach_partitions(now=now)
    days = ["20010509", "20010510", "20010511", "20010512"]
    assert made == [f"traces_{kind}_{day}" for kind in ("span", "body") for day in days]
    assert set(made) <= partitions()
    assert attach_partitions(now=now) == []


def test_span_goes_into_the_partition_of_its_day(organization):
    now = datetime(2002, 5, 10, 12, tzinfo=UTC)
    attach_partitions(now=now)
    id_ = write(now, organization.pk)
    assert table_of(id_) == "traces_span_20020510"
    assert table_of(id_, "body") == "traces_body_20020510"


def test_spans_that_came_before_their_partition_are_moved_into_it(organization):
    now = datetime(2003, 5, 10, tzinfo=UTC)
    early, other = write(now, organization.pk), write(now + timedelta(days=9), organization.pk)
    assert table_of(early) == "traces_span_default"
    attach_partitions(now=now)
    assert table_of(early) == "traces_span_20030510"
    assert table_of(early, "body") == "traces_body_20030510"
    assert table_of(other) == "traces_span_default"


def test_days_beyond_the_retention_are_dropped(organization):
    now = datetime(2000, 5, 10, 12, tzinfo=UTC)
    attach_partitions(now=now - timedelta(days=31))
    attach_partitions(now=now - timedelta(days=28))
    old, recent = write(now - timedelta(days=31), organization.pk), write(now - timedelta(days=29), organization.pk)
    stray = write(now - timedelta(days=200), organization.pk)
    dropped = drop_partitions(now=now, retention_days=30)
    assert dropped == [f"traces_{kind}_{day}" for kind in ("span", "body") for day in ("20000408", "20000409")]
    assert table_of(old) is None
    assert table_of(stray) is None
    assert table_of(recent) == "traces_span_20000411"
    assert drop_partitions(now=now, retention_days=30) == []


def test_first_call_after_migrate_finds_its_partition(organization):
    _attach_partitions(using="default")
    now = datetime.now(UTC)
    assert table_of(write(now, organization.pk)) == f"traces_span_{now:%Y%m%d}"
