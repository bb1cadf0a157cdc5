"""The spool: what was appended is read back, whatever happened to the end of the file or to the writer."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import spool
from traces.spool import SegmentName, SpoolUnavailable, Tail, Writer

RECORDS = st.lists(st.binary(min_size=1, max_size=300), max_size=12)


def read_all(folder: Path) -> list[bytes]:
    return [record.data for name in spool.segments(folder) for record in Tail(folder / str(name)).read()]


@given(RECORDS)
def test_appended_records_are_read_back(records):
    block = b"".join(map(spool.frame, records))
    assert [record.data for record in spool.scan(block)] == records


@settings(max_examples=300)
@given(RECORDS, st.binary(min_size=1, max_size=200), st.data())
def test_torn_tail_is_never_read_as_a_record(records, last, data):
    """A whole prefix, then a record that was cut, and after the cut zeros, junk or nothing."""
    whole = b"".join(map(spool.frame, records))
    torn = spool.frame(last)
    torn = torn[: data.draw(st.integers(0, len(torn) - 1))]
    tail = data.draw(st.one_of(st.just(b""), st.integers(1, 5_000).map(bytes), st.binary(min_size=1, max_size=200)))
    found = [record.data for record in spool.scan(whole + torn + tail)]
    is_mended = (torn + tail).startswith(spool.frame(last))  # its own zeros, say
    assert found == [*records, last] if is_mended else found == records


def test_zeros_after_a_whole_record_are_no_record():
    block = spool.frame(b"one") + bytes(64)
    assert [record.data for record in spool.scan(block)] == [b"one"]


def test_flipped_bit_of_the_length_is_noticed():
    block = bytearray(spool.frame(b"abc") + spool.frame(b"defg"))
    block[0] ^= 1
    assert list(spool.scan(bytes(block))) == []


@pytest.mark.parametrize("size", [0, spool.MAX_RECORD_BYTES + 1])
def test_record_of_no_or_too_many_bytes_is_refused(size, tmp_path):
    writer = Writer(tmp_path)
    with pytest.raises(ValueError, match="a record of"):
        writer.append(bytes(size))
    writer.close()
    assert read_all(writer.folder) == []


def test_writer_appends_across_segments(tmp_path):
    writer = Writer(tmp_path, segment_bytes=1_000)
    records = [os.urandom(300) for _ in range(40)]
    for record in records:
        writer.append(record)
    assert len(spool.segments(writer.folder)) == 10
    assert read_all(writer.folder) == records
    writer.close()


def test_segment_is_closed_by_age_and_an_idle_writer_leaves_an_empty_one(tmp_path):
    writer = Writer(tmp_path, segment_age_s=0.01)
    writer.append(b"one")
    time.sleep(0.3)
    assert spool.segments(writer.folder) == [SegmentName(1), SegmentName(2)]
    assert (writer.folder / str(SegmentName(2))).stat().st_size == 0
    writer.append(b"two")
    assert read_all(writer.folder) == [b"one", b"two"]
    writer.close()


def test_tail_follows_a_growing_segment_and_large_records(tmp_path):
    path = tmp_path / "00000001.seg"
    records = [b"a" * 10, b"b" * 50_000, b"c" * 990, b"d"]
    block = b"".join(map(spool.frame, records))
    path.touch()
    tail, found = Tail(path, block_bytes=1_000), []
    for begin in range(0, len(block), 700):
        with path.open("ab") as file:
            file.write(block[begin : begin + 700])
        found += [record.data for record in tail.read()]
    assert found == records
    assert tail.offset == len(block)
    tail.close()


def test_owner_holds_the_lock_until_he_closes(tmp_path):
    writer = Writer(tmp_path)
    assert spool.owners(tmp_path) == [writer.owner]
    assert spool.take_lock(writer.folder / spool.LOCK) is None
    writer.close()
    descriptor = spool.take_lock(writer.folder / spool.LOCK)
    assert descriptor is not None
    os.close(descriptor)
    with pytest.raises(SpoolUnavailable):
        writer.append(b"late")


def test_lock_does_not_live_on_in_a_forked_child(tmp_path):
    program = """
import os, sys, time
from pathlib import Path
from traces.spool import Writer
writer = Writer(Path(sys.argv[1]))
if os.fork() == 0:
    writer.disown()
    print("ready", flush=True)
    time.sleep(30)
os.wait()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert child.stdout.readline() == b"ready\n"
        child.kill()
        child.wait()
        (owner,) = spool.owners(tmp_path)
        descriptor = spool.take_lock(tmp_path / owner / spool.LOCK)
        assert descriptor is not None
        os.close(descriptor)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.stdout.close()


def test_folder_that_cannot_be_made_is_unavailable(tmp_path):
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(SpoolUnavailable) as refusal:
        Writer(tmp_path / "spool")
    assert (refusal.value.status, refusal.value.code) == (503, "spool_unavailable")


def test_full_disk_refuses_records_whole_and_recovers(tmp_path):
    """A limit on the file's size stands for the full disk: the record before the limit is written in part."""
    writer = Writer(tmp_path, segment_age_s=1e9)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        writer.append(b"a" * 600)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        with pytest.raises(SpoolUnavailable):
            writer.append(b"b" * 600)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        writer.append(b"c" * 600)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert read_all(writer.folder) == [b"a" * 600, b"c" * 600]
    writer.close()


def test_what_a_killed_writer_appended_is_there(tmp_path):
    """Each number is printed after `append` returned: all of them must be found, in order and once."""
    program = """
import sys
from pathlib import Path
from traces.spool import Writer
writer = Writer(Path(sys.argv[1]), segment_bytes=20_000)
for number in range(10**9):
    writer.append(b"%d " % number + b"x" * (number % 700))
    print(number, flush=True)
"""
    for attempt in range(3):
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(500):
            process.stdout.readline()
        process.kill()
        acknowledged = 500 + len(process.stdout.read().splitlines())
        process.wait()
        process.stdout.close()
        owner = spool.owners(tmp_path)[attempt]  # their names sort by time
        numbers = [int(record.split()[0]) for record in read_all(tmp_path / owner)]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= acknowledged >= 500


@pytest.mark.parametrize("name", [SegmentName(1), SegmentName(12, 3)])
def test_names_of_segments_are_read_back(name):
    assert SegmentName.parse(str(name)) == name


def test_additions_come_after_their_segment_and_before_the_next():
    names = [SegmentName(2), SegmentName(1, 1), SegmentName(1), SegmentName(1, 2)]
    assert [str(name) for name in sorted(names)] == [
        "00000001.seg", "00000001.closed-01.seg", "00000001.closed-02.seg", "00000002.seg",
    ]  # fmt: skip
    assert SegmentName.parse("lock") is None
    assert SegmentName.parse("00000001.ranges") is None
