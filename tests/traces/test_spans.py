"""The records of the spool and their bytes."""

import msgspec
import pytest

from billing.usage import Usage
from tests.traces.calls import accepted, finished
from traces import spans


def test_finished_record_survives_its_bytes():
    record = finished(
        usage=Usage(input_tokens=5, cache_read_input_tokens=3),
        counting=spans.Counting(input_text="a", output_text="b", images=2),
        trace_id=b"0123456789abcdef",
        warnings=["x"],
        customer_name="Zoë",
    )
    assert spans.decode_finished(spans.encode(record)) == record


def test_outline_tells_the_two_kinds_apart():
    one, other = accepted(), finished()
    assert spans.outline(spans.encode(one)) == one
    assert spans.outline(spans.encode(other)) == spans.Mark(other.id)
    assert spans.outline(b"\xc1junk") is None


def test_records_of_later_versions_are_read():
    fields = msgspec.msgpack.decode(spans.encode(finished()))
    fields["something_new"] = [1, 2]
    assert spans.decode_finished(msgspec.msgpack.encode(fields)).status == "ok"


def test_identity_of_a_damaged_record_is_read_where_possible():
    record = finished(held=True, organization_id=7)
    fields = msgspec.msgpack.decode(spans.encode(record))
    fields["duration_us"] = "soon"
    damaged = msgspec.msgpack.encode(fields)
    with pytest.raises(msgspec.ValidationError):
        spans.decode_finished(damaged)
    assert spans.identify(damaged) == spans.Identity(record.id, 7, True)
    assert spans.identify(b"\xc1") is None


def test_batch_keeps_a_record_that_is_junk_apart_from_its_neighbours():
    records = [spans.encode(finished()), b"\xc1junk", spans.encode(finished())]
    assert spans.unpack(spans.pack(records)) == records
    with pytest.raises(ValueError, match="not a batch"):
        spans.unpack(b"nonsense")


def test_interrupted_call_costs_nothing_and_keeps_its_hold_and_start():
    call = accepted(held_nano=500, started_us=1_000_000)
    record = spans.interrupted(call, now_us=3_500_000)
    assert (record.id, record.started_us, record.duration_us) == (call.id, 1_000_000, 2_500_000)
    assert (record.status, record.held, record.free, record.paid_by) == ("interrupted", True, True, "credits")
    assert record.usage is None
    assert spans.interrupted(accepted(), now_us=0).paid_by == "nobody"


def test_only_a_finished_record_supersedes_an_interrupted_one():
    assert spans.supersedes("ok", "interrupted")
    assert spans.supersedes("aborted", "interrupted")
    assert not spans.supersedes("interrupted", "interrupted")
    assert not spans.supersedes("interrupted", "ok")
    assert not spans.supersedes("ok", "error")


@pytest.mark.parametrize(
    ("duration_us", "bucket"), [(-5, 0), (0, 0), (1_400, 0), (1_415, 1), (2_000, 2), (4_000, 4), (10**12, 39)]
)
def test_latencies_fall_into_buckets_that_grow_by_the_root_of_two(duration_us, bucket):
    assert spans.histogram_bucket(duration_us) == bucket
