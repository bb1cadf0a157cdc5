"""The shipper: each finished call in exactly one batch, each dead owner's calls closed, wherever it is killed."""

import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from asgiref.sync import SyncToAsync
from django.db import connection, connections

from billing.models import HoldOwner
from tests.servers import wait_until
from tests.traces.calls import accepted, finished, now_us
from tests.traces.test_store import assert_rollups_equal_spans, query
from traces import folders, loading, shipper, spans, spool
from traces.folders import Folder
from traces.models import IngestBatch
from traces.shipper import Courier, Shipper
from traces.spool import Writer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def writer(root):
    writer = Writer(root, segment_age_s=1e9)
    yield writer
    writer.close()


class Told(Courier):
    """A courier who only remembers."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.ids: list[uuid.UUID] = []

    def tell(self, batch_id: uuid.UUID) -> None:
        self.ids.append(batch_id)


def ship(root: Path) -> list[uuid.UUID]:
    """Start a shipper, let it ship all there is, and stop it: the ids it told the workers."""
    told = Told()
    one = Shipper(root, told)
    while one.tick(is_last=True):
        pass
    one.close()
    return told.ids


def append(writer: Writer, *records) -> None:
    for record in records:
        writer.append(spans.encode(record))


def load(batch_ids) -> None:
    for batch_id in batch_ids:
        loading.load(batch_id, now=datetime.now(UTC))


def statuses(organization) -> dict[str, int]:
    return dict(
        query("SELECT status, count(*) FROM traces_span WHERE organization_id = %s GROUP BY 1", organization.pk)
    )


def shipped_records(batch_ids) -> list[bytes]:
    batches = {batch.id: batch for batch in IngestBatch.objects.filter(id__in=batch_ids)}
    return [raw for batch_id in batch_ids for raw in spans.unpack(bytes(batches[batch_id].blob))]


def test_finished_calls_are_shipped_in_order_and_accepted_ones_are_not(root, writer):
    calls = [accepted() for _ in range(3)]
    ends = [finished(call) for call in calls]
    append(writer, *calls, *ends)
    told = ship(root)
    assert shipped_records(told) == [spans.encode(end) for end in ends]
    assert IngestBatch.objects.get(id=told[0]).records == 3
    assert ship(root) == told  # the next shipper cannot know better, and inserts the same row
    assert IngestBatch.objects.filter(id__in=told).count() == 1


def test_batches_hold_at_most_500_records_and_about_a_mebibyte(root, writer):
    append(writer, *[finished(request_body=None, response_body=None) for _ in range(1_100)])
    large = b"x" * 300_000
    append(writer, *[finished(request_body=large, response_body=None) for _ in range(5)])
    told = ship(root)
    counts = [IngestBatch.objects.get(id=batch_id).records for batch_id in told]
    assert sum(counts) == 1_105
    assert counts[:2] == [500, 500]
    assert max(counts[2:]) <= 104
    assert len(counts) == 4


def test_record_waits_for_company_only_briefly(root, writer):
    told = Told()
    one = Shipper(root, told)
    append(writer, finished())
    begin = time.monotonic()
    wait_until(lambda: one.tick() and told.ids)
    assert time.monotonic() - begin < 5
    one.close()


def test_range_is_never_cut_again_after_it_is_in_the_manifest(root, writer):
    """Killed between manifest and insert: the next shipper makes the same batch, then one of what came since."""
    first = [finished() for _ in range(3)]
    append(writer, *first)
    folder = Folder(writer.folder)
    folder.look()
    (lost,) = folder.batches(is_last=True)
    folder.close()
    later = [finished() for _ in range(2)]
    append(writer, *later)
    told = ship(root)
    assert told[0] == lost.id
    assert shipped_records(told[:1]) == [spans.encode(end) for end in first]
    assert shipped_records(told[1:]) == [spans.encode(end) for end in later]


def test_torn_line_of_a_manifest_was_never_acted_upon(root, writer):
    append(writer, finished())
    (done,) = ship(root)
    manifest = writer.folder / "00000001.ranges"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole + b"4711 99")
    append(writer, finished())
    told = ship(root)
    assert told[0] == done
    assert len(told) == 2
    assert manifest.read_bytes().startswith(whole)
    assert len(manifest.read_bytes().splitlines()) == 2


def test_missing_line_of_a_manifest_leaves_a_gap_that_is_shipped(root, writer):
    """A full disk did not take the line of the first range; the second one's is there."""
    ends = [finished() for _ in range(3)]
    append(writer, ends[0])
    ship(root)
    append(writer, ends[1])
    ship(root)
    manifest = writer.folder / "00000001.ranges"
    manifest.write_bytes(manifest.read_bytes().splitlines(keepends=True)[1])
    append(writer, ends[2])
    told = ship(root)
    assert shipped_records(told) == [spans.encode(end) for end in ends]
    assert len(told) == 3


def test_planned_range_that_power_loss_took_from_the_disk_ends_with_the_file(root, organization):
    writer = Writer(root)
    ends = [finished(organization_id=organization.pk) for _ in range(2)]
    append(writer, *ends)
    writer.close()
    segment = writer.folder / "00000001.seg"
    size = segment.stat().st_size
    folders._append_manifest(segment.with_suffix(".ranges"), 0, size)
    folders._append_manifest(segment.with_suffix(".ranges"), size, size + 500)
    os.truncate(segment, size - 3)
    told = ship(root)
    assert shipped_records(told) == [spans.encode(ends[0])]
    assert spool.owners(root) == []


def test_segments_go_when_they_are_shipped_and_open_calls_are_remembered(root, organization):
    writer = Writer(root, segment_bytes=2_000, segment_age_s=1e9)
    stays, ends = accepted(organization_id=organization.pk), accepted(organization_id=organization.pk)
    append(writer, stays, ends)
    append(writer, *[finished(organization_id=organization.pk) for _ in range(12)])
    told = ship(root)
    kept = spool.segments(writer.folder)
    assert len(kept) == 1
    assert kept[0].number > 3
    assert sorted(path.name for path in writer.folder.iterdir()) == sorted(
        ["lock", "open", str(kept[0]), str(kept[0]).replace("seg", "ranges")]
    )
    append(writer, finished(ends))
    told += ship(root)
    writer.close()
    told += ship(root)
    load(told)
    assert statuses(organization) == {"ok": 13, "interrupted": 1}
    assert query("SELECT status FROM traces_span WHERE id = %s", stays.id) == [("interrupted",)]
    assert not writer.folder.exists()


def test_open_calls_of_a_dead_owner_are_closed_once_and_his_folder_goes(root, organization):
    program = """
import sys
from pathlib import Path
from traces.spool import Writer
writer = Writer(Path(sys.argv[1]))
for line in sys.stdin:
    writer.append(bytes.fromhex(line))
    print("ok", flush=True)
"""
    calls = [accepted(organization_id=organization.pk, held_nano=number % 2) for number in range(4)]
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for record in (*calls, finished(calls[0])):
        owner.stdin.write(spans.encode(record).hex() + "\n")
        owner.stdin.flush()
        owner.stdout.readline()
    told = ship(root)
    assert len(spool.owners(root)) == 1
    owner.kill()
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    told += ship(root)
    assert spool.owners(root) == []
    load(told)
    assert statuses(organization) == {"ok": 1, "interrupted": 3}
    held = query("SELECT paid_by, cost_nano, http_status FROM traces_span WHERE id = %s", calls[1].id)
    assert held == [("credits", 0, 500)]


def test_call_of_a_living_owner_is_closed_long_after_its_deadline(root, writer, organization):
    overdue = accepted(organization_id=organization.pk, deadline_us=now_us() - 61_000_000)
    late = accepted(organization_id=organization.pk, deadline_us=now_us() - 30_000_000)
    append(writer, overdue, late)
    told = ship(root)
    assert ship(root) == told  # its addition stays until the segment goes, and is the same batch
    load(told)
    assert statuses(organization) == {"interrupted": 1}
    append(writer, finished(overdue))
    load(ship(root))
    assert statuses(organization) == {"ok": 1}


def test_ledger_hears_of_every_owner_whose_records_are_under_way(root, writer):
    append(writer, accepted())
    one = Shipper(root, Told())
    one.tick()
    one.close()
    assert HoldOwner.objects.filter(owner=writer.owner).exists()


def test_record_that_cannot_be_read_is_shipped_for_the_worker_to_judge(root, writer):
    writer.append(b"\xc1junk")
    append(writer, finished())
    assert shipped_records(ship(root))[0] == b"\xc1junk"


def test_damaged_end_of_a_closed_segment_does_not_stop_the_next(root, organization):
    writer = Writer(root, segment_bytes=100, segment_age_s=1e9)
    append(writer, *[finished(organization_id=organization.pk) for _ in range(3)])
    with (writer.folder / "00000002.seg").open("ab") as file:
        file.write(b"\x00" * 100)
    writer.close()
    load(ship(root))
    assert statuses(organization) == {"ok": 3}
    assert spool.owners(root) == []


def test_folder_being_removed_when_the_shipper_died_is_removed(root):
    writer = Writer(root)
    writer.close()
    (writer.folder / "lock").unlink()
    assert ship(root) == []
    assert spool.owners(root) == []


def test_owner_who_died_at_birth_is_swept_away(root):
    hidden = root / "0123.new"
    hidden.mkdir(parents=True)
    (hidden / "lock").touch()
    shipper._sweep(root)
    assert not hidden.exists()


def test_full_disk_gives_the_reserve_up(root, tmp_path):
    root.mkdir()
    folders.keep_reserve(root)
    reserve = root / folders.RESERVE
    assert reserve.stat().st_blocks * 512 >= folders.RESERVE_BYTES
    attempts = []

    def write() -> None:
        attempts.append(reserve.exists())
        if reserve.exists():
            raise OSError("no room")

    folders._with_room(root, write)
    assert attempts == [True, False]


def test_only_one_shipper_serves_a_spool(root):
    root.mkdir()
    first = shipper._lock_spool(root, threading.Event())
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    assert shipper._lock_spool(root, stop) is None
    os.close(first)


def test_batches_are_loaded_here_while_the_broker_is_away(root, writer, organization):
    broken = threading.Event()
    broken.set()
    taken: list[str] = []

    def send(batch_id: str) -> None:
        if broken.is_set():
            raise ConnectionError("no broker")
        taken.append(batch_id)

    courier = Courier(send, patience_s=0.5)
    courier.start()
    one = Shipper(root, courier)
    append(writer, finished(organization_id=organization.pk))
    wait_until(one.tick, timeout_s=5)
    wait_until(lambda: statuses(organization) == {"ok": 1}, timeout_s=10)
    assert taken == []
    broken.clear()
    wait_until(lambda: len(taken) == 1, timeout_s=10)
    assert not courier.is_stranded
    courier.stop()
    one.close()


def test_spool_keeps_records_while_the_database_is_away(root, organization):
    """The whole loop of the process: the database refuses connections for a while, then everything arrives."""
    writer = Writer(root, segment_bytes=2_000)
    stop = threading.Event()
    courier = Told()
    one = Shipper(root, courier)
    name = connection.settings_dict["NAME"]
    admin = psycopg.connect(
        psycopg.conninfo.make_conninfo(
            host=connection.settings_dict["HOST"],
            port=connection.settings_dict["PORT"] or None,
            user=connection.settings_dict["USER"],
            password=connection.settings_dict["PASSWORD"],
            dbname="postgres",
        ),
        autocommit=True,
    )
    loop = threading.Thread(target=lambda: (shipper._tick_until(one, stop), connection.close()))
    loop.start()
    try:
        append(writer, finished(organization_id=organization.pk))
        wait_until(lambda: courier.ids)
        connection.close()
        # The thread that asynchronous tests of this process ask the database in has a connection of its own.
        SyncToAsync.single_thread_executor.submit(connections.close_all).result()
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        told = len(courier.ids)
        append(writer, *[finished(organization_id=organization.pk) for _ in range(30)])
        time.sleep(1.5)
        assert len(courier.ids) == told
        assert len(spool.segments(writer.folder)) > 10
    finally:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        admin.close()
    wait_until(lambda: len(spool.segments(writer.folder)) == 1)
    stop.set()
    loop.join()
    writer.close()
    load([*courier.ids, *ship(root)])
    assert statuses(organization) == {"ok": 31}
    one.close()


CRASHING = """
import os, random, signal, sys, time
from pathlib import Path
root, acknowledged, organization_id, seed, rounds = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
import django
django.setup()
from tests.traces.calls import accepted, finished
from traces import folders, shipper, spans, spool
FILES = {module.__file__ for module in (folders, shipper, spool)}
rng = random.Random(seed)

def write():
    writer = spool.Writer(root, segment_bytes=rng.choice([3_000, 20_000]), segment_age_s=rng.choice([0.05, 1e9]))
    log = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    calls = []
    for _ in range(rng.randrange(30)):
        if rng.random() < 0.3:
            time.sleep(0.01)
        if calls and rng.random() < 0.5:
            call = calls.pop(rng.randrange(len(calls)))
            writer.append(spans.encode(finished(call)))
            os.write(log, b"f " + call.id.hex.encode() + b"\\n")
        else:
            call = accepted(organization_id=organization_id)
            writer.append(spans.encode(call))
            calls.append(call)
            os.write(log, b"a " + call.id.hex.encode() + b"\\n")

def crash_at(line):
    left = [line]
    def trace(frame, event, _):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

def ship(line):
    one = shipper.Shipper(root, shipper.Courier(lambda _: None))
    if line:
        crash_at(line)
    idle = 0
    while idle < 3:
        idle = 0 if one.tick(is_last=True) else idle + 1

def child(work):
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        work()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

crashes = 0
for number in range(rounds):
    seeded = rng.random()
    rng.seed(seeded)
    assert child(write) == 0
    line = rng.randrange(1, 4_000 if number % 2 else 800)
    status = child(lambda: ship(line))
    assert status in (0, signal.SIGKILL), status
    crashes += status == signal.SIGKILL
assert child(lambda: ship(None)) == 0
print(crashes)
"""


def crash_and_compare(tmp_path: Path, organization, *, seed: int, rounds: int) -> int:
    """Kill a shipper at random lines between random writers' deaths; return how often it was killed."""
    root, acknowledged = tmp_path / "spool", tmp_path / "acknowledged"
    run = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            CRASHING,
            root,
            acknowledged,
            *map(str, (organization.pk, seed, rounds)),
        ],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "respan.settings"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert spool.owners(root) == []
    kinds: dict[str, set] = {"a": set(), "f": set()}
    for line in acknowledged.read_text().splitlines():
        kind, _, id_ = line.partition(" ")
        kinds[kind].add(uuid.UUID(id_))
    batches = list(IngestBatch.objects.filter(done_at=None).order_by("created_at"))
    assert sum(batch.records for batch in batches) == len(kinds["a"])
    load(batch.id for batch in batches)
    found = dict(query("SELECT id, status FROM traces_span WHERE organization_id = %s", organization.pk))
    assert len(query("SELECT 1 FROM traces_span WHERE organization_id = %s", organization.pk)) == len(found)
    assert found.keys() == kinds["a"]
    assert {id_ for id_, status in found.items() if status == "ok"} == kinds["f"]
    assert_rollups_equal_spans(organization.pk)
    return int(run.stdout)


def test_shipper_killed_at_any_line_loses_and_repeats_nothing(tmp_path, organization):
    IngestBatch.objects.filter(done_at=None).update(done_at=datetime.now(UTC))  # what other tests left
    assert crash_and_compare(tmp_path, organization, seed=int(time.time()), rounds=25) >= 8


@pytest.mark.long
@pytest.mark.timeout(600)
def test_shipper_killed_at_a_thousand_lines_loses_and_repeats_nothing(tmp_path, organization):
    IngestBatch.objects.filter(done_at=None).update(done_at=datetime.now(UTC))
    crashes = 0
    for seed in range(25):
        crashes += crash_and_compare(tmp_path / str(seed), organization, seed=seed, rounds=60)
        organization = type(organization).objects.create(name="Next")
        shutil.rmtree(tmp_path / str(seed))
    print(f"{crashes} kills, 0 lost, 0 repeated")
    assert crashes >= 600
