"""`manage.py up`: the whole installation in one command: tables, catalogue, first run; web, shipper, worker, beat.

`bootstrap.py` has taken the lock, made the secrets and started the private PostgreSQL before this runs, and stops the
latter afterwards. Neighbours: `supervisor.py` (keeps processes running), `firstrun.py`, `web.py`, `ship.py`.
"""

import http.client
import io
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import Tags
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connection, connections
from django.db.migrations.executor import MigrationExecutor

from respan import bootstrap, firstrun, web
from respan.supervisor import Child, GaveUp, Supervisor

# An advisory lock (any number, ours): hosts that start together migrate one after another.
_MIGRATION_LOCK = 7_274_002
# Web starts first; the rest follows when it answers, or after this long.
_HEAD_START_S = 5.0
# Except the worker, which takes longest, where it holds nobody up: beside web on a processor of its own.
_STARTS_BESIDE_WEB = "worker"
_DATABASE_LOOK_S = 1.0


class Command(BaseCommand):
    """Starts everything and stays until Ctrl-C or SIGTERM."""

    help = "Start Respan: database, tables, catalogue, web, shipper, worker and beat."
    requires_system_checks = (Tags.security,)  # ours; loading every URL here would slow the start

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            listener = web.bind(settings.HOST, settings.PORT)
        except OSError as problem:
            raise CommandError(
                f"Cannot listen on {settings.HOST}:{settings.PORT} ({problem.strerror}). Choose another PORT."
            ) from problem
        with listener:
            prepare_database(self.say)
            words = firstrun.prepare()
            connections.close_all()
            Installation(listener, words, self.say).run()

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


class Installation:
    """The running processes of one installation."""

    def __init__(self, listener: socket.socket, words: list[str], say: Callable[[str], None]) -> None:
        self.listener = listener
        self.words = words
        self.say = say
        self.supervisor = Supervisor(folder=settings.BASE_DIR, changed=self.publish, say=say)
        self.started_at = time.monotonic()
        self.is_complete = False
        self.is_ready = False
        self.looked_at = 0.0

    def run(self) -> None:
        """Keep everything running until somebody asks to stop.

        Raises: CommandError when a process keeps dying.
        """
        self.supervisor.listen()
        if bootstrap.is_asked_to_stop:
            return
        for child in _web_processes(self.listener.fileno()):
            self.supervisor.start(child)
        if (os.cpu_count() or 1) > settings.RESPAN_WEB_PROCESSES:
            self.start_background({_STARTS_BESIDE_WEB})
        try:
            self.supervisor.run(self.tend)
        except GaveUp as reason:
            raise CommandError(f"{reason} Stopped everything; the lines above say why.") from None
        finally:
            self.say("Stopping ...")
            self.listener.close()  # from now on nobody is let in
            self.supervisor.stop()
            _processes_file().unlink(missing_ok=True)
        self.say("Stopped.")

    def tend(self) -> None:
        """Complete the start, then look after the database."""
        now = time.monotonic()
        if not self.is_ready and _answers():
            self.is_ready = True
        if not self.is_complete and (self.is_ready or now - self.started_at > _HEAD_START_S):
            self.is_complete = True
            self.start_background()
        if self.words is not None and self.is_ready and self.is_complete:
            self.greet()
        if now - self.looked_at > _DATABASE_LOOK_S:
            self.looked_at = now
            self.look_after_database()

    def start_background(self, names: set[str] | None = None) -> None:
        """Start the processes of these names, or all that have not been started."""
        running = {child.name for child in self.supervisor.children}
        for child in _background_processes():
            if child.name not in running and (names is None or child.name in names):
                self.supervisor.start(child)

    def greet(self) -> None:
        """Tell the address and the first steps, once."""
        self.say(
            "\n".join(["", f"Respan is ready at {settings.RESPAN_BASE_URL}", *self.words, "", "Ctrl-C stops it.", ""])
        )
        self.words = None  # type: ignore[assignment]

    def look_after_database(self) -> None:
        """Start the private PostgreSQL again when it died; every process reconnects by itself."""
        cluster = bootstrap.cluster
        if cluster is None or cluster.pid() is not None:
            return
        self.say("The private PostgreSQL died; starting it again")
        before = cluster.url
        cluster.start()
        self.publish(self.supervisor.pids())
        if cluster.url != before:  # its port was taken meanwhile
            raise GaveUp("The database has moved to another port.")

    def publish(self, pids: dict[str, int]) -> None:
        """Write who runs to `processes.json`."""
        processes = {"up": os.getpid(), **pids}
        if bootstrap.cluster is not None and (database := bootstrap.cluster.pid()) is not None:
            processes["database"] = database
        partial = _processes_file().with_suffix(".partial")
        partial.write_text(json.dumps({"base_url": settings.RESPAN_BASE_URL, "processes": processes}) + "\n")
        partial.rename(_processes_file())


def _processes_file() -> Any:
    return settings.RESPAN_DATA_DIR / "processes.json"


def prepare_database(say: Callable[[str], None]) -> None:
    """Bring tables and catalogue up to date, one host at a time.

    Raises: CommandError when the database cannot be reached.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [_MIGRATION_LOCK])
        try:
            executor = MigrationExecutor(connection)
            pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
            if pending:
                say(f"Making the tables ({len(pending)} migrations) ...")
                call_command("migrate", verbosity=0, interactive=False)
            call_command("sync_catalog", verbosity=0, stdout=io.StringIO())
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_MIGRATION_LOCK])
    except OperationalError as problem:
        raise CommandError(f"The database cannot be reached: {str(problem).strip()}. Check DATABASE_URL.") from problem


def _web_processes(fd: int) -> list[Child]:
    count = settings.RESPAN_WEB_PROCESSES
    command = [sys.executable, "-m", "respan.web", "--fd", str(fd)]
    names = ["web"] if count == 1 else [f"web-{number}" for number in range(1, count + 1)]
    return [
        Child(name, command, stop_order=1, stop_timeout_s=web.GRACEFUL_SHUTDOWN_S + 10, pass_fds=(fd,))
        for name in names
    ]


def _background_processes() -> list[Child]:
    """Return the rest, in the order in which it may stop: what web produced still travels to the tables."""
    # Messages are JSON, never pickles: that the worker may run as root is no news in a container.
    celery = [sys.executable, "-W", "ignore:You're running the worker with superuser"]
    celery += ["-m", "celery", "--quiet", "--app", "respan"]
    level = ["--loglevel", settings.LOG_LEVEL]
    worker = ["worker", "--pool", "prefork", "--concurrency", "1", "--hostname", "worker@%h"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    pid_file = ["--pidfile", ""]
    return [
        Child("shipper", [sys.executable, "manage.py", "ship"], stop_order=2, stop_timeout_s=10),
        Child("worker", [*celery, *worker, *quiet, *level], stop_order=3, stop_timeout_s=25),
        Child("beat", [*celery, "beat", *pid_file, *level], stop_order=1, stop_timeout_s=10),
    ]


def _answers() -> bool:
    """Say whether the web process is ready to serve."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.HOST, settings.HOST)  # noqa: S104
    inquiry = http.client.HTTPConnection(host, settings.PORT, timeout=2)
    try:
        inquiry.request("GET", "/readyz", headers={"Host": urlsplit(settings.RESPAN_BASE_URL).netloc})
        return inquiry.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        inquiry.close()
