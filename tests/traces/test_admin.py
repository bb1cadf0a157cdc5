"""The operator's console for ingestion: what failed is seen and replayed once, and no body is ever shown."""

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import AuditEvent
from tests.operators import make_operator, sign_in
from tests.servers import wait_until
from tests.traces.calls import accepted, finished
from tests.traces.test_store import query
from traces import loading, spans, spool, watch
from traces.admin import plain_reason
from traces.models import DeadLetter, IngestBatch

pytestmark = pytest.mark.django_db(transaction=True)

CANARY = "zq-word-of-a-customer"
BATCHES, LETTERS = "/admin/traces/ingestbatch/", "/admin/traces/deadletter/"


def now() -> datetime:
    return datetime.now(UTC)


def record(organization: Any) -> spans.Finished:
    return finished(organization_id=organization.pk, request_body=f'"{CANARY}"'.encode())


def failed_batch(organization: Any) -> tuple[IngestBatch, spans.Finished]:
    one = record(organization)
    blob = spans.pack([spans.encode(one)])
    return IngestBatch.objects.create(id=uuid.uuid4(), blob=blob, records=1, attempts=5, claimed_at=now()), one


def letter(organization: Any, **values: Any) -> tuple[DeadLetter, spans.Finished]:
    one = record(organization)
    fields = {"batch_id": uuid.uuid4(), "raw": spans.encode(one), "reason": "TypeError: wrong", **values}
    return DeadLetter.objects.create(**fields), one


def stored(one: spans.Finished) -> int:
    return int(query("SELECT count(*) FROM traces_span WHERE id = %s", one.id)[0][0])


def loaded(batch: IngestBatch) -> None:
    """Load a batch that was replayed; a worker that runs beside these tests may be quicker."""

    def is_done() -> bool:
        loading.load(batch.pk, now=now())
        return IngestBatch.objects.filter(pk=batch.pk).exclude(done_at=None).exists()

    wait_until(is_done, what="the batch")


@pytest.fixture
def console() -> Client:
    return sign_in(make_operator())


def test_a_failing_batch_is_replayed_and_then_loaded_once(console: Client, organization: Any) -> None:
    batch, one = failed_batch(organization)
    listed = console.get(f"{BATCHES}?state=failed").content.decode()
    assert str(batch.pk) in listed
    assert CANARY not in listed
    path = f"{BATCHES}{batch.pk}/replay/"
    assert console.get(path).status_code == 200

    assert console.post(path).status_code == 302
    batch.refresh_from_db()
    loaded(batch)
    assert stored(one) == 1

    console.post(path)
    assert console.post(BATCHES, {"action": "replay", "_selected_action": [str(batch.pk)]}).status_code == 302
    batch.refresh_from_db()
    assert batch.done_at is not None
    assert stored(one) == 1
    assert AuditEvent.objects.filter(action="batch.replayed", target=f"batch {batch.pk}").count() == 1


@pytest.mark.parametrize("is_blob", [False, True])
def test_a_dead_letter_is_replayed_once(console: Client, organization: Any, is_blob: bool) -> None:
    dead, one = letter(organization)
    if is_blob:
        dead.raw, dead.is_blob = spans.pack([spans.encode(one)]), True
        dead.save()
    known = set(IngestBatch.objects.values_list("pk", flat=True))
    path = f"{LETTERS}{dead.pk}/replay/"
    page = console.get(path)
    assert page.status_code == 200
    assert CANARY not in page.content.decode()

    for _ in range(2):
        assert console.post(path).status_code == 302

    assert not DeadLetter.objects.filter(pk=dead.pk).exists()
    batch = IngestBatch.objects.exclude(pk__in=known).get()
    loaded(batch)
    assert stored(one) == 1
    event = AuditEvent.objects.get(action="dead_letter.replayed", target=f"dead letter {dead.pk}")
    assert event.detail == {"batch": str(batch.pk)}


def test_a_letter_that_fails_again_comes_back(console: Client, organization: Any) -> None:
    dead, _ = letter(organization, raw=b"\xc1 no record")
    known = set(IngestBatch.objects.values_list("pk", flat=True))
    console.post(LETTERS, {"action": "replay", "_selected_action": [str(dead.pk)]})
    batch = IngestBatch.objects.exclude(pk__in=known).get()
    loaded(batch)
    assert DeadLetter.objects.get(batch_id=batch.pk).raw == b"\xc1 no record"


def test_no_page_shows_a_body_or_a_value_of_the_reason(console: Client, organization: Any) -> None:
    reason = f'DataError: invalid input syntax for type json: "{CANARY}"\nCONTEXT: COPY traces_span, line 1: "{CANARY}"'
    dead, _ = letter(organization, reason=reason)
    batch, _ = failed_batch(organization)
    for path in (
        LETTERS, f"{LETTERS}{dead.pk}/change/", f"{LETTERS}{dead.pk}/replay/", BATCHES, f"{BATCHES}{batch.pk}/change/",
        "/admin/", "/admin/spool/",
    ):  # fmt: skip
        page = console.get(path)
        assert page.status_code == 200
        assert CANARY not in page.content.decode()
    assert "invalid input syntax for type json" in console.get(f"{LETTERS}{dead.pk}/change/").content.decode()
    loading.load(batch.pk, now=now() + timedelta(minutes=1))


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("TypeError: wrong", "TypeError: wrong"),
        ("ValueError: 'a secret' is not 3", "ValueError: “…” is not 3"),
        ('x: "cut off in the mid', "x: “…”"),
        ("first\nDETAIL: secret", "first"),
        ("first DETAIL: secret", "first "),
    ],
)
def test_a_reason_is_told_without_the_values(reason: str, shown: str) -> None:
    assert plain_reason(reason) == shown


def test_an_old_sign_in_replays_nothing(organization: Any) -> None:
    client = sign_in(make_operator(), seconds_ago=601)
    dead, _ = letter(organization)
    batch, _ = failed_batch(organization)
    for path, fields in (
        (f"{LETTERS}{dead.pk}/replay/", {}),
        (LETTERS, {"action": "replay", "_selected_action": [dead.pk]}),
        (f"{BATCHES}{batch.pk}/replay/", {}),
    ):
        assert client.post(path, fields).headers["Location"].startswith("/accounts/reauthenticate/")
    assert DeadLetter.objects.filter(pk=dead.pk).exists()
    batch.refresh_from_db()
    assert batch.attempts == 5
    loading.load(batch.pk, now=now() + timedelta(minutes=1))


def test_nothing_is_added_changed_or_deleted_by_hand(console: Client, organization: Any) -> None:
    dead, _ = letter(organization)
    batch, _ = failed_batch(organization)
    for table, pk in ((LETTERS, dead.pk), (BATCHES, batch.pk)):
        for path in (f"{table}{pk}/change/", f"{table}{pk}/delete/", f"{table}add/"):
            assert console.post(path, {"reason": "x", "post": "yes"}).status_code == 403
        console.post(table, {"action": "delete_selected", "_selected_action": [str(pk)], "post": "yes"})
    assert DeadLetter.objects.filter(pk=dead.pk).exists()
    assert IngestBatch.objects.filter(pk=batch.pk).exists()
    loading.load(batch.pk, now=now() + timedelta(minutes=1))


def test_lists_ask_as_much_for_thirty_rows_as_for_one(console: Client, organization: Any) -> None:
    for table in (LETTERS, BATCHES):
        letter(organization)
        IngestBatch.objects.create(id=uuid.uuid4(), records=1, done_at=now())
        with CaptureQueriesContext(connection) as one:
            assert console.get(table).status_code == 200
        for _ in range(30):
            letter(organization)
            IngestBatch.objects.create(id=uuid.uuid4(), records=1, done_at=now())
        with CaptureQueriesContext(connection) as many:
            assert console.get(table).status_code == 200
        assert len(many) <= len(one)


# --- What an operator watches -----------------------------------------------------------------------------------------


def test_the_spool_counts_what_is_in_no_batch_yet_and_calls_under_way(tmp_path: Path, organization: Any) -> None:
    call = accepted(organization_id=organization.pk)
    records = [call, accepted(organization_id=organization.pk), finished(of=call)]
    frames = [spool.frame(spans.encode(each)) for each in records]
    shipped = spool.frame(spans.encode(record(organization)))
    folder = tmp_path / "owner1"
    folder.mkdir()
    (folder / "00000001.seg").write_bytes(shipped + b"".join(frames) + frames[0][:9])  # the last is being written
    (folder / "00000001.ranges").write_text(f"0 {len(shipped)} 00000000\n")

    [found] = watch.spools(tmp_path)

    assert (found.owner, found.segments, found.waiting, found.open_calls) == ("owner1", 1, 1, 1)
    assert 0 <= found.lag_s(now() + timedelta(seconds=5)) - 5 < 60


def test_an_empty_or_missing_spool_has_no_lag(tmp_path: Path) -> None:
    (tmp_path / "owner1").mkdir()
    [found] = watch.spools(tmp_path)
    assert (found.waiting, found.since, found.lag_s(now())) == (0, None, 0.0)
    assert watch.spools(tmp_path / "nowhere") == []


def test_calls_of_unknown_cost_are_counted_by_model(organization: Any) -> None:
    model = f"unlisted-{uuid.uuid4().hex[:8]}"
    calls = [finished(organization_id=organization.pk, response_model=model, rates_id=None) for _ in range(2)]
    blob = spans.pack([spans.encode(each) for each in calls])
    batch = IngestBatch.objects.create(id=uuid.uuid4(), blob=blob, records=2)
    loading.load(batch.pk, now=now())

    found = {each.model: each.calls for each in watch.unpriced(now=now(), limit=1_000)}

    assert found[model] == 2
