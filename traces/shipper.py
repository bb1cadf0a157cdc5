"""The shipper: one process a host that carries what the spools hold into the database, and nudges the workers.

Responsible for batch rows, for messages to the workers (and their work, while there is no broker), for finding dead
owners and reporting living ones to the ledger. Nothing is lost when it dies at any line. Never looks into a record,
never writes a span itself. Neighbours: `folders.py` (files), `loading.py` (what becomes of a batch), `manage.py ship`.
"""

import contextlib
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import django.db
import psycopg
from celery.app import app_or_default
from django.conf import settings
from django.db import connection
from django.utils import timezone

from billing import ledger
from traces import loading, spool
from traces.folders import Batch, Folder, keep_reserve
from traces.store.postgres import raw_cursor

logger = logging.getLogger(__name__)

TICK_S = 0.05
# Batches taken from one owner before the next one's turn.
INSERT_BATCHES = 4
LOOK_FOR_DEAD_S = 1.0
HEARTBEAT_S = 5.0
RETRY_S = 0.5
BROKER_PATIENCE_S = 10.0
LOCK = "shipper.lock"


class Courier:
    """Nudges the workers through the broker and, while there is no broker, does their work.

    Two threads, so that neither a broker that does not answer nor a long load keeps records out of the database.
    """

    def __init__(self, send: Callable[[str], object], *, patience_s: float = BROKER_PATIENCE_S) -> None:
        self._send = send
        self._patience_s = patience_s
        # Batch ids not yet told, with the moment since when; what falls out at the front is nudged by the beat.
        self._untold: deque[tuple[uuid.UUID, float]] = deque(maxlen=10_000)
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._tell_until_stopped, name="courier-tell", daemon=True),
            threading.Thread(target=self._load_until_stopped, name="courier-load", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def tell(self, batch_id: uuid.UUID) -> None:
        """Tell the workers of a batch, soon."""
        self._untold.append((batch_id, time.monotonic()))
        self._news.set()

    def stop(self, *, timeout_s: float = 2.0) -> None:
        """Stop, having told what can be told in time."""
        self._stopping.set()
        self._news.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def is_stranded(self) -> bool:
        """Whether the broker has not taken a message for too long."""
        try:
            return time.monotonic() - self._untold[0][1] > self._patience_s
        except IndexError:
            return False

    def _tell_until_stopped(self) -> None:
        was_away = False
        while not (self._stopping.is_set() and (was_away or not self._untold)):
            if not was_away:
                self._news.wait(1.0)
            self._news.clear()
            try:
                while self._untold:
                    first = self._untold[0]
                    self._send(str(first[0]))
                    # Not what fell out in the meantime.
                    with contextlib.suppress(ValueError):
                        self._untold.remove(first)
                if was_away:
                    logger.info("the broker is back")
                was_away = False
            except Exception as error:
                if not was_away:
                    logger.warning("the broker does not take messages: %s", error)
                was_away = True
                self._stopping.wait(1.0)

    def _load_until_stopped(self) -> None:
        while not self._stopping.wait(1.0):
            if not self.is_stranded:
                continue
            try:
                for batch_id in loading.waiting(created_before=timezone.now()):
                    loading.load(batch_id, now=timezone.now())
            except Exception as error:
                logger.warning("a batch could not be loaded here: %s", error)
                connection.close()
        connection.close()


class Shipper:
    """Carries all owners' records, tick by tick."""

    def __init__(self, root: Path, courier: Courier) -> None:
        self._root = root
        self._courier = courier
        self._folders: dict[str, Folder] = {}
        self._unsent: list[Batch] = []
        self._next_dead = 0.0
        self._next_beat = 0.0

    def tick(self, *, is_last: bool = False) -> bool:
        """Ship what is ready; with `is_last` all there is. False when there was nothing to do.

        Raises: the database's errors; nothing is lost by them, the next tick tries again.
        """
        self._insert()
        self._discover()
        is_time = time.monotonic() >= self._next_dead
        if is_time or is_last:
            self._next_dead = time.monotonic() + LOOK_FOR_DEAD_S
        for folder in list(self._folders.values()):
            with self._starting_over(folder):
                if is_time or is_last:
                    folder.find_dead()
                folder.look()
                self._unsent += islice(folder.batches(is_last=is_last), INSERT_BATCHES)
        shipped = self._insert()
        closed = 0
        for folder in list(self._folders.values()):
            with self._starting_over(folder):
                closed += self._close_and_tidy(folder)
        self._beat()
        return shipped + closed > 0

    def _discover(self) -> None:
        names = spool.owners(self._root)
        for name in names:
            if name not in self._folders:
                with contextlib.suppress(FileNotFoundError):
                    self._folders[name] = Folder(self._root / name)
                    self._next_beat = 0.0  # the ledger knows an owner before anything happens to him
        for name in self._folders.keys() - set(names):
            self._forget(self._folders[name])

    @contextlib.contextmanager
    def _starting_over(self, folder: Folder) -> Iterator[None]:
        """Where a folder's files fail us, forget what we know of it: its files know it all."""
        try:
            yield
        except OSError as error:
            logger.error("spool %s: %s", folder.path, error)
            self._forget(folder)

    def _forget(self, folder: Folder) -> None:
        folder.close()
        self._folders.pop(folder.owner, None)

    def _insert(self) -> int:
        """Insert the batches at hand and have the workers told of them; return how many records they had."""
        if not self._unsent:
            return 0
        _insert(self._unsent)
        batches, self._unsent = self._unsent, []
        for batch in batches:
            batch.segment.unshipped -= 1
            self._courier.tell(batch.id)
        return sum(batch.records for batch in batches)

    def _close_and_tidy(self, folder: Folder) -> int:
        closed = 0
        if folder.is_caught_up and folder.open:
            closed = folder.close_calls(now_us=time.time_ns() // 1000)
            if closed:
                logger.warning("owner %s: %d calls were interrupted", folder.owner, closed)
                return closed
        if folder.tidy():
            self._folders.pop(folder.owner)
            return 1
        return closed

    def _beat(self) -> None:
        """Tell the ledger whose holds are not orphans: of everyone whose records may still be on their way."""
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + HEARTBEAT_S
        keep_reserve(self._root)
        if self._folders:
            ledger.alive(sorted(self._folders))

    def close(self) -> None:
        for folder in list(self._folders.values()):
            self._forget(folder)


def _insert(batches: Sequence[Batch]) -> None:
    """Insert batch rows, in one statement that may be repeated."""
    values = ", ".join(["(%s, %b, %s, now(), 0)"] * len(batches))
    with raw_cursor() as cursor:
        cursor.execute(
            f"INSERT INTO traces_ingestbatch (id, blob, records, created_at, attempts) VALUES {values}"  # noqa: S608
            " ON CONFLICT (id) DO NOTHING",
            [value for batch in batches for value in (batch.id, batch.blob, batch.records)],
        )


def _lock_spool(root: Path, stop: threading.Event) -> int | None:
    """Wait to be the host's only shipper; None when told to stop before."""
    path = root / LOCK
    path.touch(mode=0o600)
    while not stop.is_set():
        descriptor = spool.take_lock(path)
        if descriptor is not None:
            return descriptor
        stop.wait(RETRY_S)
    return None


def _sweep(root: Path) -> None:
    """Remove folders whose owner died before they were open for business."""
    for hidden in root.glob("*.new"):
        with contextlib.suppress(OSError):
            descriptor = spool.take_lock(hidden / spool.LOCK)
            if descriptor is not None:
                (hidden / spool.LOCK).unlink()
                hidden.rmdir()
                os.close(descriptor)


def run(stop: threading.Event) -> None:
    """Ship until told to stop; then ship what is there and return. What is left the next start ships."""
    root = settings.RESPAN_SPOOL_DIR
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    app = app_or_default()
    lock = _lock_spool(root, stop)
    if lock is None:
        return
    _sweep(root)
    courier = Courier(lambda batch_id: app.send_task("traces.load_batch", [batch_id]))
    courier.start()
    shipper = Shipper(root, courier)
    try:
        _tick_until(shipper, stop)
        _tick_last(shipper)
    finally:
        courier.stop()
        shipper.close()
        os.close(lock)
        connection.close()


def _tick_until(shipper: Shipper, stop: threading.Event) -> None:
    is_away = False
    while not stop.is_set():
        try:
            is_busy = shipper.tick()
            if is_away:
                logger.info("the database is back")
            is_away = False
            stop.wait(0 if is_busy else TICK_S)
        except (django.db.Error, psycopg.Error) as error:
            if not is_away:
                logger.error("the database takes no batches, the spool keeps them: %s", error)
            is_away = True
            connection.close()
            stop.wait(RETRY_S)
        except Exception:
            logger.exception("the shipper stumbled")
            stop.wait(RETRY_S)


def _tick_last(shipper: Shipper, *, limit_s: float = 5.0) -> None:
    deadline = time.monotonic() + limit_s
    try:
        while shipper.tick(is_last=True) and time.monotonic() < deadline:
            pass
    except (django.db.Error, psycopg.Error) as error:
        logger.error("the database takes no batches, the next start ships them: %s", error)
