"""An owner's folder as the shipper sees it: what is read, cut into batches, shipped, and when its files may go.

Each finished record becomes part of exactly one batch: a range of a segment, written to the segment's manifest before
anybody sees the batch and never cut differently again. The batch's id is made of the range: inserting it twice inserts
it once. A folder's files tell all of its state, at whatever line the shipper was killed. Never talks to a database.
Neighbours: `spool.py` (files and records), `shipper.py` (batches on their way).
"""

import logging
import os
import time
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from traces import spans, spool
from traces.spans import Accepted
from traces.spool import SegmentName, Tail

logger = logging.getLogger(__name__)

# A batch waits so long for company; where many calls finish each second a longer wait is worth it.
LINGER_S = 0.1
LINGER_IN_COMPANY_S = 0.25
COMPANY = 50
BATCH_RECORDS = 500
BATCH_BYTES = 1024 * 1024
# So long after its deadline a call of a living owner counts as lost: its last record could not be written.
OVERDUE_S = 60.0
OPEN = "open"
RESERVE = "reserve"
RESERVE_BYTES = 4 * 1024 * 1024
_NAMESPACE = uuid.UUID("4f3a6f0e-8d0b-4f49-9c53-0a8c1c8c2b11")


@dataclass(frozen=True, slots=True)
class Batch:
    """A range of a segment, ready for the database."""

    id: uuid.UUID
    blob: bytes
    records: int
    segment: "Segment"


class Segment:
    """One segment as the shipper sees it: how far it is read, cut into ranges and shipped."""

    def __init__(self, folder: Path, name: SegmentName) -> None:
        self.name = name
        self.path = folder / str(name)
        self.manifest = self.path.with_suffix(".ranges")
        self.owner = folder.name
        self.tail = Tail(self.path)
        # No record will be added any more; and all there are have been read.
        self.is_closed = False
        self.is_read = False
        self.unshipped = 0
        self._planned = deque(_read_manifest(self.manifest))
        self._cut_at = 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._waiting_since = 0.0

    @property
    def is_done(self) -> bool:
        return self.is_read and not self._waiting and not self._planned and self.unshipped == 0

    def read(self, note: Callable[[bytes], bool], *, is_last: bool = False) -> Iterator[Batch]:
        """Read on, yielding the batches that are full or have waited long enough; with `is_last` all there is.

        `note` is told every record and says whether it goes into a batch.
        """
        was_closed = self.is_closed
        for record in self.tail.read():
            if note(record.data):
                if not self._waiting:
                    self._waiting_since = time.monotonic()
                self._waiting.append(record.data)
                self._waiting_bytes += len(record.data)
            if self._is_full(record.end):
                yield self._cut(record.end)
        # Only now: a consumer may leave us at any `yield` above, and reads on later.
        self.is_read = was_closed
        if self.is_read and self._planned:
            # The machine lost power before all of the planned ranges had reached the disk.
            is_begun = self._waiting and self._planned[0][0] == self._cut_at
            self._planned = deque([self._planned[0]] if is_begun else [])
        if self._waiting and (self.is_read or (not self._planned and (is_last or self._has_waited()))):
            yield self._cut(self.tail.offset)

    def _is_full(self, end: int) -> bool:
        if self._planned:
            begin, planned_end = self._planned[0]
            return end >= (planned_end if begin <= self._cut_at else begin)
        return len(self._waiting) >= BATCH_RECORDS or self._waiting_bytes >= BATCH_BYTES

    def _has_waited(self) -> bool:
        linger = LINGER_IN_COMPANY_S if len(self._waiting) >= COMPANY else LINGER_S
        return time.monotonic() - self._waiting_since >= linger

    def _cut(self, end: int) -> Batch:
        """Make the records read since the last cut a batch: of the range planned for them, else of a new one."""
        begin = self._cut_at
        if self._planned and self._planned[0][0] == begin:
            begin, end = self._planned.popleft()
        else:
            _append_manifest(self.manifest, begin, end)
        records, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._cut_at = end
        self.unshipped += 1
        range_name = f"{self.owner}/{self.name}/{begin}-{end}"
        return Batch(uuid.uuid5(_NAMESPACE, range_name), spans.pack(records), len(records), self)

    def remove(self) -> None:
        """Delete the segment, then its manifest: the other way round its records could be cut anew."""
        self.tail.close()
        self.path.unlink(missing_ok=True)
        self.manifest.unlink(missing_ok=True)


def _read_manifest(path: Path) -> list[tuple[int, int]]:
    """Return the ranges of a manifest. A torn last line was never acted upon: it is cut off."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    ranges, size = [], 0
    for line in content.splitlines(keepends=True):
        numbers, _, crc = line.rpartition(b" ")
        if not line.endswith(b"\n") or crc.strip() != b"%08x" % zlib.crc32(numbers):
            break
        begin, end = numbers.split()
        ranges.append((int(begin), int(end)))
        size += len(line)
    if size != len(content):
        os.truncate(path, size)
    return sorted(ranges)


def _append_manifest(path: Path, begin: int, end: int) -> None:
    numbers = b"%d %d" % (begin, end)
    line = b"%s %08x\n" % (numbers, zlib.crc32(numbers))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if os.write(descriptor, line) != len(line):
                os.ftruncate(descriptor, size)
                raise OSError("no room for a line")
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # A full disk must not keep us from emptying it. If we die now the range may be cut differently next time; then
        # the store finds the spans it has already.
        logger.error("manifest %s: %s", path, error)


class Folder:
    """One owner's folder: his segments, and his calls that have no last word yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = path.name
        self.segments: list[Segment] = []
        self.open: dict[uuid.UUID, bytes] = dict(_read_open(path / OPEN))
        self._open_is_saved = True
        self._lock: int | None = None
        self.is_dead = False
        # All there was at the last look has been read, and handed over for shipping.
        self.is_caught_up = False

    def look(self) -> None:
        """Find new segments and which of them are closed."""
        known = {segment.name for segment in self.segments}
        names = spool.segments(self.path)
        self.segments += [Segment(self.path, name) for name in names if name not in known]
        self.segments.sort(key=lambda segment: segment.name)
        newest = max((name.number for name in names), default=0)
        for segment in self.segments:
            segment.is_closed = self.is_dead or segment.name.addition > 0 or segment.name.number < newest

    def find_dead(self) -> None:
        """Take the owner's lock: who gets it knows that he is gone."""
        if self.is_dead:
            return
        try:
            self._lock = spool.take_lock(self.path / spool.LOCK)
            self.is_dead = self._lock is not None
        except FileNotFoundError:
            self.is_dead = True  # we were removing this folder when we were killed

    def batches(self, *, is_last: bool = False) -> Iterator[Batch]:
        """Yield what is ready to be shipped, oldest first; with `is_last` all there is."""
        self.is_caught_up = False
        for segment in self.segments:
            if not segment.is_read:
                yield from segment.read(self._note, is_last=is_last)
        self.is_caught_up = True

    def _note(self, data: bytes) -> bool:
        record = spans.outline(data)
        if isinstance(record, Accepted):
            self.open[record.id] = data
            self._open_is_saved = False
            return False
        if record is not None and self.open.pop(record.id, None) is not None:
            self._open_is_saved = False
        return True

    def close_calls(self, *, now_us: int) -> int:
        """Write the last word on calls that will get no other: a dead owner's, and a living one's long overdue.

        Only for a folder that is caught up: the word may be written already. Returns: how many calls were closed.
        """
        overdue_us = now_us - int(OVERDUE_S * 1_000_000)
        lost = []
        for data in self.open.values():
            record = spans.outline(data)
            if isinstance(record, Accepted) and (self.is_dead or record.deadline_us < overdue_us):
                lost.append(spans.encode(spans.interrupted(record, now_us=now_us)))
        if not lost:
            return 0
        last = max((segment.name for segment in self.segments), default=SegmentName(0))
        name = SegmentName(last.number, last.addition + 1)
        # Whole or not at all: then it is read like any other segment, which closes the calls exactly once.
        _with_room(self.path.parent, lambda: spool.write_file(self.path / str(name), b"".join(map(spool.frame, lost))))
        return len(lost)

    def tidy(self) -> bool:
        """Delete the segments that are done; True when that was all of a dead owner's and the folder is gone."""
        done = 0
        while done < len(self.segments) and self.segments[done].is_closed and self.segments[done].is_done:
            done += 1
        is_over = self.is_dead and done == len(self.segments) and not self.open
        if not done and not is_over:
            return False
        # In order, and never without the open calls written down: a restart must not forget or invent one.
        self._save_open()
        for segment in self.segments[:done]:
            segment.remove()
        del self.segments[:done]
        if is_over:
            self._remove()
        return is_over

    def _save_open(self) -> None:
        if self._open_is_saved:
            return
        path = self.path / OPEN
        if self.open:
            content = b"".join(map(spool.frame, self.open.values()))
            _with_room(self.path.parent, lambda: spool.write_file(path, content))
        else:
            path.unlink(missing_ok=True)
        self._open_is_saved = True

    def _remove(self) -> None:
        """Remove the folder, its lock last: until then nobody else takes it for a living one's."""
        for entry in os.listdir(self.path):
            if entry != spool.LOCK:
                (self.path / entry).unlink()
        (self.path / spool.LOCK).unlink(missing_ok=True)
        self.path.rmdir()
        self.close()

    def close(self) -> None:
        for segment in self.segments:
            segment.tail.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _read_open(path: Path) -> Iterator[tuple[uuid.UUID, bytes]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for record in spool.scan(content):
        accepted = spans.outline(record.data)
        if accepted is not None:
            yield accepted.id, record.data


def _with_room(root: Path, write: Callable[[], None]) -> None:
    """Write a file that lets us delete others, giving up our reserve where the disk is full."""
    try:
        write()
    except OSError:
        (root / RESERVE).unlink(missing_ok=True)
        write()


def keep_reserve(root: Path) -> None:
    """Keep some room that a full disk leaves us, to write down what lets us delete segments."""
    path = root / RESERVE
    if path.exists():
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        path.unlink(missing_ok=True)
        logger.warning("spool: no room for a reserve: %s", error)
