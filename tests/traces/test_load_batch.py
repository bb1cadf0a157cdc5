"""Loading a batch: exactly once however often it is delivered, exact charges, dead letters that sink nobody."""

import asyncio
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from django.db import close_old_connections, connections

import respan.celery
from billing import ledger, prices
from billing.ledger import HoldRequest
from billing.models import Entry, Hold
from billing.prices import Price
from billing.usage import NANO, Rates, Usage, cost
from respan import pool
from tests.traces.calls import accepted, finished
from tests.traces.test_store import assert_rollups_equal_spans, query, span_of
from traces import loading, spans, tasks
from traces.models import DeadLetter, IngestBatch
from traces.spans import Counting

pytestmark = pytest.mark.django_db(transaction=True)

RATES = Rates(input=1_000_000_000, output=2_000_000_000)  # 1,000 and 2,000 nano-USD a token
USAGE = Usage(input_tokens=10, output_tokens=20)
COST = cost(USAGE, RATES)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def rates_id(db) -> int:
    model = f"model-{uuid.uuid4().hex}"
    prices.publish([Price("test", model, RATES)])
    return query("SELECT id FROM billing_modelrates WHERE model = %s", model)[0][0]


@pytest.fixture
def funded(organization):
    """An organization with ten dollars."""
    ledger.grant(organization=organization, amount_nano=10 * NANO, reason="test", actor=None)
    return organization


def open_holds(organization, amounts: list[int]) -> list[spans.Accepted]:
    calls = [accepted(organization_id=organization.pk, held_nano=amount) for amount in amounts]

    async def hold_all() -> None:
        for call in calls:
            await ledger.hold(
                HoldRequest(
                    id=call.id,
                    organization_id=organization.pk,
                    amount_nano=call.held_nano,
                    owner="test",
                    deadline_at=now() + timedelta(minutes=10),
                )
            )
        await pool.close()

    asyncio.run(hold_all())
    return calls


def batch_of(*records: spans.Finished | bytes, **values) -> IngestBatch:
    raw = [record if isinstance(record, bytes) else spans.encode(record) for record in records]
    return IngestBatch.objects.create(id=uuid.uuid4(), blob=spans.pack(raw), records=len(raw), **values)


def balance(organization) -> tuple[int, int]:
    wallet = ledger.balance(organization.pk)
    return wallet.posted, wallet.held


def test_batch_becomes_spans_charges_and_no_blob(funded, rates_id):
    calls = open_holds(funded, [2 * COST, 2 * COST])
    batch = batch_of(
        finished(calls[0], usage=USAGE, rates_id=rates_id),
        finished(calls[1], status="error", usage=None, finish_reason=None, rates_id=rates_id),
        finished(organization_id=funded.pk, usage=USAGE, rates_id=rates_id),
        finished(organization_id=funded.pk, usage=None),
    )
    assert loading.load(batch.id, now=now())
    batch.refresh_from_db()
    assert (batch.blob, batch.attempts) == (None, 1)
    assert batch.done_at is not None
    assert balance(funded) == (10 * NANO - COST, 0)
    charged = query(
        "SELECT paid_by, status, cost_nano, charged_nano, absorbed_nano FROM traces_span WHERE organization_id = %s"
        " ORDER BY paid_by, status, cost_nano",
        funded.pk,
    )
    assert charged == [
        ("credits", "error", 0, 0, 0),
        ("credits", "ok", COST, COST, 0),
        ("own_key", "ok", COST, 0, 0),
        ("own_key", "ok", None, 0, 0),
    ]
    assert_rollups_equal_spans(funded.pk)


def test_batch_delivered_five_times_at_once_counts_once(funded, rates_id):
    calls = open_holds(funded, [COST] * 20)
    batch = batch_of(*(finished(call, usage=USAGE, rates_id=rates_id) for call in calls))
    start = threading.Barrier(5)

    def deliver() -> bool:
        start.wait()
        try:
            return loading.load(batch.id, now=now())
        finally:
            connections.close_all()

    with ThreadPoolExecutor(5) as workers:
        loaded = [future.result() for future in [workers.submit(deliver) for _ in range(5)]]
    assert loaded.count(True) == 1
    assert query("SELECT count(*) FROM traces_span WHERE organization_id = %s", funded.pk) == [(20,)]
    assert balance(funded) == (10 * NANO - 20 * COST, 0)
    assert Entry.objects.filter(wallet_id=funded.pk, kind=Entry.Kind.USAGE).count() == 20
    assert_rollups_equal_spans(funded.pk)
    assert not loading.load(batch.id, now=now() + timedelta(minutes=1))
    batch.refresh_from_db()
    assert batch.attempts == 1


def test_overlapping_batches_loaded_at_once_count_each_call_once(organization):
    records = [finished(organization_id=organization.pk) for _ in range(60)]
    batches = [batch_of(*records[begin : begin + 40]) for begin in (0, 10, 20)]
    start = threading.Barrier(3)

    def deliver(batch: IngestBatch) -> None:
        start.wait()
        try:
            loading.load(batch.id, now=now())
        except loading.OUTAGES:
            pass  # a deadlock: the next delivery loads it
        finally:
            connections.close_all()

    with ThreadPoolExecutor(3) as workers:
        list(workers.map(deliver, batches))
    for batch in batches:
        loading.load(batch.id, now=now())
    assert query("SELECT count(*) FROM traces_span WHERE organization_id = %s", organization.pk) == [(60,)]
    assert_rollups_equal_spans(organization.pk)


def test_same_call_twice_in_a_batch_is_one_finished_span(funded, rates_id):
    (call,) = open_holds(funded, [COST])
    batch = batch_of(
        spans.interrupted(call, now_us=call.started_us),
        finished(call, usage=USAGE, rates_id=rates_id),
        spans.interrupted(call, now_us=call.started_us),
    )
    loading.load(batch.id, now=now())
    assert span_of(call.id)["status"] == "ok"
    assert balance(funded) == (10 * NANO - COST, 0)


def test_interrupted_call_costs_nothing_and_releases_its_hold(funded):
    (call,) = open_holds(funded, [COST])
    loading.load(batch_of(spans.interrupted(call, now_us=call.started_us + 5)).id, now=now())
    span = span_of(call.id)
    assert (span["status"], span["cost_nano"], span["charged_nano"]) == ("interrupted", 0, 0)
    assert balance(funded) == (10 * NANO, 0)


def test_late_finished_call_supersedes_its_interruption_and_says_what_was_charged(funded, rates_id):
    """Its hold was released with the interruption: the charge is what the ledger says, not what the call cost."""
    (call,) = open_holds(funded, [COST])
    loading.load(batch_of(spans.interrupted(call, now_us=call.started_us + 5)).id, now=now())
    loading.load(batch_of(finished(call, usage=USAGE, rates_id=rates_id)).id, now=now())
    span = span_of(call.id)
    entries = Entry.objects.filter(wallet_id=funded.pk, kind=Entry.Kind.USAGE)
    assert span["status"] == "ok"
    assert span["cost_nano"] == COST
    assert span["charged_nano"] == sum(entry.amount for entry in entries) == 10 * NANO - balance(funded)[0]
    assert balance(funded)[1] == 0
    assert_rollups_equal_spans(funded.pk)


def test_cost_beyond_hold_and_balance_is_absorbed_and_told(organization, rates_id):
    ledger.grant(organization=organization, amount_nano=COST - 7, reason="test", actor=None)
    (call,) = open_holds(organization, [100])
    loading.load(batch_of(finished(call, usage=USAGE, rates_id=rates_id)).id, now=now())
    span = span_of(call.id)
    assert (span["cost_nano"], span["charged_nano"], span["absorbed_nano"]) == (COST, COST - 7, 7)
    assert balance(organization) == (0, 0)
    assert_rollups_equal_spans(organization.pk)


def test_usage_is_counted_where_the_provider_sent_none(funded, rates_id):
    (call,) = open_holds(funded, [100 * COST])
    record = finished(
        call,
        usage=None,
        rates_id=rates_id,
        counting=Counting(input_text="hello world", output_text="tiktoken is great!"),
    )
    loading.load(batch_of(record).id, now=now())
    span = span_of(call.id)
    assert (span["input_tokens"], span["output_tokens"], span["usage_source"]) == (2, 6, "counted")
    assert span["charged_nano"] == cost(Usage(input_tokens=2, output_tokens=6), RATES) == 10 * NANO - balance(funded)[0]


def damaged(record: spans.Finished) -> bytes:
    fields = msgspec.msgpack.decode(spans.encode(record))
    return msgspec.msgpack.encode({**fields, "duration_us": "soon"})


def test_poison_records_become_dead_letters_and_their_holds_are_released(funded, rates_id):
    calls = open_holds(funded, [COST] * 4)
    good = [finished(call, usage=USAGE, rates_id=rates_id) for call in calls[:2]]
    unreadable, refused = damaged(finished(calls[2])), finished(calls[3], usage=USAGE, http_status=99_999)
    batch = batch_of(good[0], unreadable, b"\xc1junk", refused, good[1])
    assert loading.load(batch.id, now=now())
    letters = DeadLetter.objects.filter(batch_id=batch.id)
    assert {bytes(letter.raw) for letter in letters} == {unreadable, b"\xc1junk", spans.encode(refused)}
    assert all(letter.reason and not letter.is_blob for letter in letters)
    assert query("SELECT count(*) FROM traces_span WHERE organization_id = %s", funded.pk) == [(2,)]
    assert balance(funded) == (10 * NANO - 2 * COST, 0)
    assert not Hold.objects.filter(wallet_id=funded.pk, state=Hold.State.OPEN).exists()


def test_blob_that_is_none_becomes_a_dead_letter(db):
    batch = IngestBatch.objects.create(id=uuid.uuid4(), blob=b"nonsense", records=3)
    assert loading.load(batch.id, now=now())
    letter = DeadLetter.objects.get(batch_id=batch.id)
    assert (bytes(letter.raw), letter.is_blob) == (b"nonsense", True)
    batch.refresh_from_db()
    assert batch.done_at is not None


def test_batch_that_killed_five_workers_is_given_up_and_its_holds_released(funded, rates_id):
    (call,) = open_holds(funded, [COST])
    batch = batch_of(finished(call, usage=USAGE, rates_id=rates_id), attempts=loading.MOST_ATTEMPTS)
    blob = bytes(batch.blob)
    assert loading.load(batch.id, now=now())
    letter = DeadLetter.objects.get(batch_id=batch.id)
    assert (bytes(letter.raw), letter.is_blob) == (blob, True)
    assert balance(funded) == (10 * NANO, 0)
    assert query("SELECT 1 FROM traces_span WHERE organization_id = %s", funded.pk) == []


def test_attempt_that_the_database_broke_does_not_count(organization):
    """The connection dies in the middle of the load; the batch stays whole and is loaded by the next delivery."""
    batch = batch_of(finished(organization_id=organization.pk))
    ((me,),) = query("SELECT pg_backend_pid()")
    blocker = connections.create_connection("default")
    blocker.set_autocommit(False)
    with blocker.cursor() as cursor:
        cursor.execute("LOCK TABLE traces_usage_hour IN ACCESS EXCLUSIVE MODE")
        killer = threading.Timer(0.5, lambda: cursor.execute("SELECT pg_terminate_backend(%s)", [me]))
        killer.start()
        with pytest.raises(loading.OUTAGES):
            loading.load(batch.id, now=now())
        killer.join()
    blocker.rollback()
    blocker.close()
    close_old_connections()
    batch.refresh_from_db()
    assert (batch.attempts, batch.claimed_at, batch.done_at) == (0, None, None)
    assert loading.load(batch.id, now=now())
    assert query("SELECT count(*) FROM traces_span WHERE organization_id = %s", organization.pk) == [(1,)]


def test_batch_another_process_has_just_claimed_is_left_to_it(organization):
    batch = batch_of(finished(organization_id=organization.pk), claimed_at=now(), attempts=1)
    assert not loading.load(batch.id, now=now())
    assert loading.load(batch.id, now=now() + timedelta(seconds=loading.CLAIM_S + 1))
    assert not loading.load(uuid.uuid4(), now=now())


def test_task_takes_the_id_as_text_and_is_safe_to_repeat(organization):
    batch = batch_of(finished(organization_id=organization.pk))
    tasks.load_batch(str(batch.id))
    tasks.load_batch(str(batch.id), something_later_versions_send=True)
    assert query("SELECT count(*) FROM traces_span WHERE organization_id = %s", organization.pk) == [(1,)]


def messages_for(batch_id: uuid.UUID) -> int:
    return query("SELECT count(*) FROM pgmq.q_respan WHERE message->'headers'->>'argsrepr' LIKE %s", f"%{batch_id}%")[
        0
    ][0]


def test_late_batch_is_sent_again_once_in_a_while(organization):
    assert respan.celery.app.conf.broker_url.startswith("pgmq:")
    late = batch_of(finished(organization_id=organization.pk), created_at=now() - timedelta(seconds=25))
    fresh = batch_of(finished(organization_id=organization.pk))
    tasks.nudge_batches()
    tasks.nudge_batches()
    assert messages_for(late.id) == 1
    assert messages_for(fresh.id) == 0
    assert late.id in loading.late(now=now() + timedelta(seconds=loading.NUDGE_AGAIN_AFTER_S + 1))


def test_batches_done_a_week_ago_are_forgotten(organization):
    old = batch_of(finished(organization_id=organization.pk), done_at=now() - timedelta(days=8))
    recent = batch_of(finished(organization_id=organization.pk), done_at=now() - timedelta(days=6))
    waiting = batch_of(finished(organization_id=organization.pk), created_at=now() - timedelta(days=30))
    loading.prune(now=now())
    kept = IngestBatch.objects.filter(id__in=[old.id, recent.id, waiting.id]).values_list("id", flat=True)
    assert set(kept) == {recent.id, waiting.id}
