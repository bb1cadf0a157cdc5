"""The spool: where a call's records are safe before its last byte leaves. One folder for each writing process.

    <spool>/<owner>/lock                    flock'ed by the owner while he lives: a pid is no identity
                    00000001.seg ...        records `length | crc32 | bytes`, appended by the owner only
                    00000004.closed-01.seg  records the shipper added for calls the owner did not end
                    00000001.ranges         the shipper's manifest of a segment (traces/shipper.py)
                    open                    the shipper's list of calls still open in segments that are gone

The CRC covers the length and a length of 0 is invalid: a torn or zero-filled tail never parses. Never reads a record's
meaning, never talks to a database. Neighbours: `traces.intake` writes through `Writer`, `traces.shipper` reads.
"""

import contextlib
import fcntl
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from respan import ids
from respan.errors import Error

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 8 * 1024 * 1024
SEGMENT_AGE_S = 1.0
SYNC_INTERVAL_S = 0.1
# Beyond this a length is taken for damage. A record holds two bodies of 256 KiB and, rarely, a text to count.
MAX_RECORD_BYTES = 64 * 1024 * 1024
LOCK = "lock"

_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<II")


class SpoolUnavailable(Error):
    """The disk does not take records (full, read-only, gone): what must not be lost cannot be admitted."""

    status = 503
    code = "spool_unavailable"
    message = "The gateway cannot record this call at the moment. Try again shortly."


class Record(NamedTuple):
    """A record of a segment: its bytes and the offset just after it."""

    data: bytes
    end: int


class SegmentName(NamedTuple):
    """A segment's place in its folder's order; `addition` counts what the shipper added after the owner's segment."""

    number: int
    addition: int = 0

    def __str__(self) -> str:
        added = f".closed-{self.addition:02d}" if self.addition else ""
        return f"{self.number:08d}{added}.seg"

    @classmethod
    def parse(cls, file_name: str) -> "SegmentName | None":
        stem, _, suffix = file_name.rpartition(".")
        if suffix != "seg":
            return None
        number, _, addition = stem.partition(".closed-")
        if not number.isdigit() or not (addition or "0").isdigit():
            return None
        return cls(int(number), int(addition or 0))


def frame(data: bytes) -> bytes:
    """Return a record as a segment holds it."""
    size = len(data)
    if not 0 < size <= MAX_RECORD_BYTES:
        raise ValueError(f"a record of {size} bytes")
    return _HEAD.pack(size, zlib.crc32(data, zlib.crc32(_LENGTH.pack(size)))) + data


def scan(block: bytes, *, offset: int = 0) -> Iterator[Record]:
    """Yield the whole records at the front of `block`, which begins at `offset` of its segment.

    Ends at the first byte that is no whole record: a record still being written, or a torn tail.
    """
    view, position, size = memoryview(block), 0, len(block)
    while size - position > _HEAD.size:
        length, crc = _HEAD.unpack_from(view, position)
        end = position + _HEAD.size + length
        if not 0 < length <= MAX_RECORD_BYTES or end > size:
            return
        data = bytes(view[position + _HEAD.size : end])
        if zlib.crc32(data, zlib.crc32(view[position : position + _LENGTH.size])) != crc:
            return
        yield Record(data, offset + end)
        position = end


def segments(folder: Path) -> list[SegmentName]:
    """List a folder's segments in the order of their records."""
    return sorted(name for entry in os.listdir(folder) if (name := SegmentName.parse(entry)))


def owners(spool: Path) -> list[str]:
    """List the owners that have a folder, sorted. Names with a dot are folders not yet open for business."""
    try:
        with os.scandir(spool) as entries:
            return sorted(e.name for e in entries if "." not in e.name and e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def take_lock(path: Path) -> int | None:
    """Take a lock file without waiting; None while another process holds it. The lock lives as long as the descriptor.

    Raises: FileNotFoundError.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, surviving loss of power."""
    scratch = path.with_name(path.name + ".tmp")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(scratch, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make created, renamed and removed names of a folder survive loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Writer:
    """Appends a process's records. Thread-safe; the file system is only waited for in a thread of its own.

    A record survives `kill -9` once `append` has returned, and loss of power about 100 ms later.
    """

    def __init__(
        self, spool: Path, *, segment_bytes: int = SEGMENT_BYTES, segment_age_s: float = SEGMENT_AGE_S
    ) -> None:
        """Open a new folder. Raises: SpoolUnavailable."""
        self.owner = ids.new_uuid().hex
        self.folder = spool / self.owner
        self._segment_bytes = segment_bytes
        self._segment_age_s = segment_age_s
        self._mutex = threading.Lock()
        self._closed = threading.Event()
        self._number = 0
        self._descriptor: int | None = None
        self._size = 0
        self._began = 0.0
        self._dirty = False
        self._retired: list[int] = []
        try:
            self._lock = self._open_folder(spool)
        except OSError as error:
            raise SpoolUnavailable from error
        self._syncing = threading.Thread(target=self._sync_until_closed, name="spool-sync", daemon=True)
        self._syncing.start()

    def _open_folder(self, spool: Path) -> int:
        """Make the folder with its lock taken, then let it appear: the shipper never sees it without its owner."""
        hidden = spool / f"{self.owner}.new"
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        hidden.mkdir(mode=0o700)
        descriptor = os.open(hidden / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.rename(hidden, self.folder)
            sync_folder(spool)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def append(self, data: bytes) -> None:
        """Add a record. Raises: SpoolUnavailable, and then nothing was added."""
        record = frame(data)
        with self._mutex:
            try:
                self._append(record)
            except OSError as error:
                logger.error("spool: cannot append: %s", error)
                raise SpoolUnavailable from error

    def _append(self, record: bytes) -> None:
        if self._closed.is_set():
            raise OSError("the spool is closed")
        if self._descriptor is None or self._size >= self._segment_bytes:
            self._next_segment()
        descriptor = self._descriptor
        assert descriptor is not None  # noqa: S101  (`_next_segment` opened it or raised)
        try:
            written = os.write(descriptor, record)
        except OSError:
            self._mend(descriptor)
            raise
        if written != len(record):
            self._mend(descriptor)
            raise OSError(f"only {written} of {len(record)} bytes were written")
        self._size += written
        self._dirty = True

    def _mend(self, descriptor: int) -> None:
        """Take a half-written record off the segment; if even that fails, leave the torn segment behind."""
        try:
            os.ftruncate(descriptor, self._size)
            os.lseek(descriptor, self._size, os.SEEK_SET)
        except OSError:
            self._retired.append(descriptor)
            self._descriptor = None

    def _next_segment(self) -> None:
        path = self.folder / str(SegmentName(self._number + 1))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        if self._descriptor is not None:
            self._retired.append(self._descriptor)
        self._number += 1
        self._descriptor, self._size, self._began = descriptor, 0, time.monotonic()

    def _sync_until_closed(self) -> None:
        while not self._closed.wait(SYNC_INTERVAL_S):
            try:
                self.sync()
            except OSError as error:
                logger.error("spool: cannot sync: %s", error)

    def sync(self) -> None:
        """Close a segment that is old enough and bring all records to the disk."""
        with self._mutex:
            # The shipper can only delete a segment when a later one exists.
            if self._size and time.monotonic() - self._began >= self._segment_age_s and not self._closed.is_set():
                self._rotate()
            retired, self._retired = self._retired, []
            current = os.dup(self._descriptor) if self._dirty and self._descriptor is not None else None
            self._dirty = False
        try:
            for descriptor in (*retired, *([current] if current is not None else [])):
                os.fdatasync(descriptor)  # without the interpreter's lock
            if retired:
                with contextlib.suppress(FileNotFoundError):
                    sync_folder(self.folder)
        finally:
            for descriptor in (*retired, *([current] if current is not None else [])):
                os.close(descriptor)

    def _rotate(self) -> None:
        """Close the segment, also where no next one can be made: then the next record finds out why."""
        try:
            self._next_segment()
        except OSError as error:
            logger.error("spool: no new segment: %s", error)
            if self._descriptor is not None:
                self._retired.append(self._descriptor)
            self._descriptor, self._size = None, 0

    def close(self) -> None:
        """Sync and let go of the lock: from now on the owner counts as dead and his open calls as interrupted."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._syncing.join()
        with contextlib.suppress(OSError):
            self.sync()
        self._let_go()

    def disown(self) -> None:
        """Forget the folder in a forked child: the parent's lock must not outlive the parent in us."""
        self._closed.set()
        self._let_go()

    def _let_go(self) -> None:
        for descriptor in (*self._retired, self._descriptor, self._lock):
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._descriptor, self._retired = None, []


class Tail:
    """Reads a segment that may still grow, up to its last whole record. Use as `for record in tail.read(): ...`."""

    def __init__(self, path: Path, *, block_bytes: int = 1024 * 1024) -> None:
        self._path = path
        self._block_bytes = block_bytes
        self._descriptor: int | None = None
        self.offset = 0

    def read(self) -> Iterator[Record]:
        """Yield the whole records not read yet. `offset` always is the end of the last one yielded."""
        want = self._block_bytes
        while block := self._block(want):
            before = self.offset
            for record in scan(block, offset=before):
                self.offset = record.end
                yield record
            if self.offset == before:
                # Nothing whole: either the end, or a record larger than the block.
                if len(block) < want or want > MAX_RECORD_BYTES:
                    return
                want *= 2

    def _block(self, want: int) -> bytes:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY)
        return os.pread(self._descriptor, want, self.offset)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
