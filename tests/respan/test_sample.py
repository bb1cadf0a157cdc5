"""Sample data: marked, complete, free of charge, and gone without a trace when it is removed."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey, AuditEvent
from billing import ledger
from billing.models import Entry
from respan import sample
from respan.samples import calls
from tests.respan.test_search import log, signed_in
from traces import reading, seeding
from traces.models import IngestBatch

pytestmark = pytest.mark.django_db

ROLLUPS = ("traces_usage_hour", "traces_usage_day", "traces_usage_part", "traces_usage_customer")
# Enough for some of everything; the button makes `sample.CALLS`.
CALLS = 600
NOW = datetime(2026, 11, 18, 15, 30, tzinfo=UTC)  # a Wednesday


def rows(table: str, organization: Any, columns: str = "count(*)") -> Any:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM {table} WHERE organization_id = %s", [organization.pk])
        return cursor.fetchall()


def fingerprint(organization: Any) -> dict[str, Any]:
    """Return everything of an organization that sample data could change."""
    tables = ("traces_span", "traces_body", *ROLLUPS, "accounts_apikey")
    return {table: sorted(map(repr, rows(table, organization, "*"))) for table in tables} | {
        "balance": ledger.balance(organization.pk),
        "entries": Entry.objects.filter(wallet_id=organization.pk).count(),
    }


@pytest.fixture
def filled(cast: SimpleNamespace) -> Any:
    assert sample.fill(cast.organization, actor=cast.owner, count=CALLS) == CALLS
    return cast.organization


def test_sample_calls_are_marked_and_nobody_is_charged(filled: Any) -> None:
    [(count, marked, charged, cost)] = rows(
        "traces_span",
        filled,
        'count(*), count(*) FILTER (WHERE metadata @> \'{"sample": "true"}\'), sum(charged_nano), sum(cost_nano)',
    )

    assert count == marked == CALLS
    assert charged == 0 < cost
    assert {api_key.name for api_key in ApiKey.objects.filter(organization=filled)} == {"Sample"}
    assert not Entry.objects.filter(wallet_id=filled.pk).exists()
    assert ledger.balance(filled.pk) == ledger.Balance()


def test_roll_ups_are_the_sum_of_the_sample_calls(filled: Any) -> None:
    [spans] = rows("traces_span", filled, "count(*), sum(cost_nano), sum(output_tokens)")

    for table in ROLLUPS[:2]:
        assert rows(table, filled, "sum(n), sum(cost_nano), sum(output_tokens)") == [spans]
    [day] = rows("traces_usage_part", filled, "sum(n) FILTER (WHERE dimension = 'all' AND resolution = 'd')")
    assert day[0] == CALLS
    assert sum(reading.cost_by_key(organization_id=filled.pk, since=timezone.now() - timedelta(days=30)).values())


def test_sample_has_something_of_everything(filled: Any) -> None:
    [(statuses, payers, environments, providers, models, streams, cached, thinking, tools, threads, customers)] = rows(
        "traces_span",
        filled,
        "count(DISTINCT status), count(DISTINCT paid_by), count(DISTINCT environment), count(DISTINCT provider),"
        " count(DISTINCT request_model), count(*) FILTER (WHERE stream AND ttft_us > 0),"
        " count(*) FILTER (WHERE cache_read_input_tokens > 0), count(*) FILTER (WHERE reasoning_output_tokens > 0),"
        " count(*) FILTER (WHERE finish_reason = 'tool_calls'), count(DISTINCT thread_identifier),"
        " count(DISTINCT customer_identifier)",
    )

    assert (statuses, payers, environments) == (3, 3, 2)
    assert providers >= 5
    assert models >= 8
    assert min(streams, cached, thinking, tools, threads) > 5
    assert customers >= 10
    [(first, last, unpriced)] = rows(
        "traces_span", filled, "min(started_at), max(started_at), count(*) FILTER (WHERE cost_nano IS NULL)"
    )
    assert timezone.now() - timedelta(days=14, hours=2) < first < timezone.now() - timedelta(days=12)
    assert last < timezone.now()
    assert unpriced == 0


def test_removal_leaves_nothing(cast: SimpleNamespace) -> None:
    before = fingerprint(cast.organization)
    sample.fill(cast.organization, actor=cast.owner, count=CALLS)

    assert sample.remove(cast.organization, actor=cast.owner) == CALLS

    assert fingerprint(cast.organization) == before
    assert sample.remove(cast.organization, actor=cast.owner) == 0
    assert not IngestBatch.objects.filter(done_at=None).exists()


def test_removal_leaves_what_was_called_for_real(filled: Any, cast: SimpleNamespace) -> None:
    real = keys.issue(organization=filled, name="Sample", environment="production", created_by=cast.owner).api_key
    log(filled, api_key_id=real.pk, metadata={"sample": "true"}, customer_identifier="cus_bergmann")

    sample.remove(filled, actor=cast.owner)

    assert rows("traces_span", filled, "api_key_id") == [(real.pk,)]
    assert rows("traces_usage_hour", filled, "api_key_id, n") == [(real.pk, 1)]
    assert list(ApiKey.objects.filter(organization=filled)) == [real]


def test_sample_of_another_organization_stays(cast: SimpleNamespace, filled: Any) -> None:
    before = fingerprint(filled)
    sample.fill(cast.other_organization, actor=cast.outsider, count=CALLS)
    sample.remove(cast.other_organization, actor=cast.outsider)

    assert fingerprint(filled) == before


def test_organization_with_calls_of_its_own_is_not_filled(cast: SimpleNamespace) -> None:
    log(cast.organization)
    before = fingerprint(cast.organization)

    answer = signed_in(cast.owner).post("/platform/sample/fill/", follow=True)

    assert "this one has made some" in answer.content.decode()
    assert fingerprint(cast.organization) == before


@pytest.mark.parametrize(("who", "status"), [("owner", 302), ("admin", 302), ("member", 403)])
def test_admins_fill_and_remove_members_do_not(cast: SimpleNamespace, who: str, status: int) -> None:
    client = signed_in(getattr(cast, who))

    assert client.get("/platform/sample/fill/").status_code == 405
    assert client.post("/platform/sample/fill/").status_code == status
    assert rows("traces_span", cast.organization) == [(sample.CALLS if status == 302 else 0,)]
    assert client.post("/platform/sample/remove/").status_code == status
    assert rows("traces_span", cast.organization) == [(0,)]
    actions = AuditEvent.objects.filter(organization=cast.organization, action__startswith="sample_data.")
    assert actions.count() == (2 if status == 302 else 0)


@pytest.mark.django_db(transaction=True)
def test_button_pressed_four_times_at_once_fills_once(cast: SimpleNamespace) -> None:
    answers: list[int] = []

    def press(client: Client) -> None:
        try:
            answers.append(client.post("/platform/sample/fill/").status_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=press, args=(signed_in(cast.owner),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [302] * 4
    assert rows("traces_span", cast.organization) == [(sample.CALLS,)]
    assert ApiKey.objects.filter(organization=cast.organization).count() == 2


def test_stand_in_key_cannot_be_presented_rotated_or_mistaken_for_a_key(filled: Any, cast: SimpleNamespace) -> None:
    for api_key in ApiKey.objects.filter(organization=filled):
        assert api_key.revoked_at is not None
        assert api_key.scopes == []
        page = signed_in(cast.owner).post(f"/platform/api/api-keys/{api_key.public_id}/rotate/", {"overlap": "0"})
        assert page.status_code in {302, 400}
    assert ApiKey.objects.filter(organization=filled, revoked_at=None).count() == 0


@pytest.mark.parametrize(
    ("who", "has_called", "expected"),
    [
        ("owner", False, (False, True, False)),
        ("member", False, (False, False, False)),
        ("admin", True, (False, False, False)),
    ],
)
def test_offer_is_made_to_admins_of_organizations_without_calls(
    cast: SimpleNamespace, who: str, has_called: bool, expected: tuple[bool, ...], django_assert_num_queries: Any
) -> None:
    membership = cast.organization.memberships.select_related("organization").get(user=getattr(cast, who))
    with django_assert_num_queries(1):
        state = sample.state(membership, has_called=has_called)
    assert (state.is_there, state.may_fill, state.may_remove) == expected


def test_banner_is_for_everybody_and_its_button_for_admins(filled: Any, cast: SimpleNamespace) -> None:
    for who, may_remove in (("member", False), ("admin", True)):
        membership = filled.memberships.select_related("organization").get(user=getattr(cast, who))
        state = sample.state(membership, has_called=True)
        assert (state.is_there, state.may_fill, state.may_remove) == (True, False, may_remove)


def test_logs_of_sample_calls_open(filled: Any, cast: SimpleNamespace) -> None:
    from respan import ids

    client = signed_in(cast.member)
    [*picked] = rows("traces_span", filled, "DISTINCT ON (request_model, status, finish_reason) id")
    assert len(picked) > 12
    for (id_,) in picked:
        assert client.get(f"/platform/logs/{ids.encode('log', id_)}/").status_code == 200


# --- The calls themselves ---------------------------------------------------------------------------------------------


@pytest.fixture
def made() -> Callable[..., Any]:
    def make(seed: int = 1, count: int = 2_000, now: datetime = NOW) -> Any:
        scene = calls.Scene(organization_id=1, keys={"production": 1, "test": 2}, rates={}, now=now)
        return calls.make(scene, dice=Random(seed), count=count)  # noqa: S311

    return make


def test_the_same_dice_make_the_same_calls(made: Any) -> None:
    def told(records: Any) -> Any:
        return [(each.started_us, each.request_model, each.status, each.request_body) for each in records]

    assert told(made(7, 300)) == told(made(7, 300))
    assert told(made(7, 300)) != told(made(8, 300))


def test_days_are_busier_than_nights_and_weekdays_than_weekends(made: Any) -> None:
    times = [datetime.fromtimestamp(each.started_us / 1_000_000, UTC) for each in made()]
    hours, weekdays = Counter(at.hour for at in times), Counter(at.weekday() for at in times)

    assert sum(hours[hour] for hour in range(8, 18)) > 5 * sum(hours[hour] for hour in (0, 1, 2, 3, 4))
    assert min(weekdays[day] for day in range(5)) > max(weekdays[5], weekdays[6])
    assert max(times) < NOW
    assert min(times) > NOW - timedelta(days=14, hours=1)


def test_no_slot_is_left_unfilled(made: Any) -> None:
    text = b"".join((each.request_body or b"") + (each.response_body or b"") for each in made()).decode()

    assert not [slot for slot in ("{order}", "{city}", "{item}", "{amount}", "{name}") if slot in text]


def test_ids_tell_when_a_call_began(made: Any) -> None:
    assert all(each.id.int >> 80 == each.started_us // 1_000 for each in made(count=200))


@pytest.mark.parametrize("now", [datetime(2026, 3, 1, 0, 1, tzinfo=UTC), datetime(2028, 2, 29, 23, 59, tzinfo=UTC)])
def test_any_time_of_the_day_will_do(made: Any, now: datetime) -> None:
    assert len(made(count=200, now=now)) == 200


def test_record_that_cannot_be_stored_seeds_nothing(organization: Any, made: Any) -> None:
    import msgspec

    good, bad = made(count=2)
    records = [
        msgspec.structs.replace(good, organization_id=organization.pk),
        msgspec.structs.replace(bad, organization_id=organization.pk, http_status=10**9),
    ]

    with pytest.raises(seeding.NotSeeded):
        seeding.add(records, now=timezone.now())

    assert rows("traces_span", organization) == [(0,)]
    assert rows("traces_usage_hour", organization) == [(0,)]
