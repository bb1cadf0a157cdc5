"""Servers under test, always subprocesses: `Server` on the test database, `Installation` as a newcomer starts it.

Each writes its output to `<data_dir>/<name>.log`; a failure shows the end of it. Neighbours: `conftest.py` (fixtures
`server`, `running`, `installation`), `tests/drills/`.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from respan import embedded, web

REPOSITORY = Path(__file__).resolve().parent.parent
SECRETS = ("SECRET_KEY", "RESPAN_KEY_PEPPER", "RESPAN_KEYS")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    condition: Callable[[], Any], *, timeout_s: float = 30.0, every_s: float = 0.02, what: str = "the condition"
) -> Any:
    """Return the first true value of a condition; fail after a while."""
    give_up_at = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > give_up_at:
            raise AssertionError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(every_s)
    return value


def is_alive(pid: int) -> bool:
    """Say whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def status(base_url: str, path: str, *, timeout_s: float = 5.0) -> int:
    """Return the status of a GET, 0 when nobody answers."""
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


class Server:
    """Web processes on a free port, and on demand shipper, worker and beat, with the test database and its secrets."""

    def __init__(
        self,
        *,
        data_dir: Path,
        env: Mapping[str, str] | None = None,
        web_processes: int = 1,
        shipper: bool = False,
        worker: bool = False,
        beat: bool = False,
    ) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        self.listener = web.bind("127.0.0.1", 0)
        port = self.listener.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{port}"
        self.env = {**os.environ, "RESPAN_DATA_DIR": str(data_dir), "PORT": str(port), **(env or {})}
        self.env.setdefault("CELERY_SKIP_CHECKS", "true")  # as `up` does
        self.commands: dict[str, list[str]] = {}
        celery = ["-m", "celery", "--quiet", "--app", "respan"]
        for number in range(web_processes):
            name = "web" if web_processes == 1 else f"web-{number + 1}"
            self.commands[name] = ["-m", "respan.web", "--fd", str(self.listener.fileno())]
        if shipper:
            self.commands["shipper"] = ["manage.py", "ship"]
        if worker:
            quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            self.commands["worker"] = [*celery, "worker", "--pool", "prefork", "--concurrency", "1", *quiet]
        if beat:
            self.commands["beat"] = [*celery, "beat", "--pidfile", ""]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> Self:
        """Start everything; return when calls can be served."""
        for name in self.commands:
            self.start_process(name)
        wait_until(self._is_ready, what="the server to be ready")
        return self

    def start_process(self, name: str) -> None:
        """Start one process (again)."""
        with (self.data_dir / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *self.commands[name]],
                cwd=REPOSITORY,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(self.listener.fileno(),),
            )

    def pid(self, name: str = "web") -> int:
        return self.processes[name].pid

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Kill a process and what it started, and wait for its end."""
        process = self.processes[name]
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait(timeout=30)

    def stop(self) -> None:
        """Let web end its answers; the rest is killed: nothing of theirs is needed any more."""
        self.listener.close()
        for name, process in self.processes.items():
            if name.startswith("web"):
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=20)
            self.kill(name)

    def log(self, name: str = "web") -> str:
        return (self.data_dir / f"{name}.log").read_text(errors="replace")

    def _is_ready(self) -> bool:
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}")
        return status(self.base_url, "/readyz") == 200

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()


class Installation:
    """`manage.py up` with a data directory, an `.env`, a port and (unless one is given) a database of its own."""

    def __init__(
        self,
        *,
        data_dir: Path,
        env: Mapping[str, str] | None = None,
        database_url: str | None = None,
        root: Path = REPOSITORY,
    ) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.port = free_port()
        inherited = {name: value for name, value in os.environ.items() if name not in {*SECRETS, "DATABASE_URL"}}
        self.env = {
            **inherited,
            "RESPAN_DATA_DIR": str(data_dir),
            "RESPAN_ENV_FILE": str(data_dir / ".env"),
            "PORT": str(self.port),
            **({"DATABASE_URL": database_url} if database_url else {}),
            **(env or {}),
        }
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.seconds_to_ready = 0.0

    def start(self, *, timeout_s: float = 90.0) -> Self:
        """Start and wait until all processes run and calls can be served."""
        began = time.monotonic()
        with (self.data_dir / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=self.root,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._is_ready, timeout_s=timeout_s, what=f"the installation ({self.data_dir / 'up.log'})")
        self.seconds_to_ready = time.monotonic() - began
        wait_until(lambda: {"worker", "shipper", "beat"} <= self.pids.keys(), what="all processes")
        return self

    @property
    def facts(self) -> dict[str, Any]:
        """What the first start wrote down: base_url, email, password, api_key."""
        facts: dict[str, Any] = json.loads((self.data_dir / "first-run.json").read_text())
        return facts

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name: up, web (or web-1, ...), shipper, worker, beat, database."""
        try:
            pids: dict[str, int] = json.loads((self.data_dir / "processes.json").read_text())["processes"]
            return pids
        except (OSError, ValueError):
            return {}

    @property
    def database_url(self) -> str:
        given = self.env.get("DATABASE_URL")
        return given or (self.data_dir / "database-url").read_text().strip()

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Kill one process by its name; return the pid it had."""
        pid = self.pids[name]
        os.kill(pid, number)
        return pid

    def wait_restarted(self, name: str, old_pid: int, *, timeout_s: float = 30.0) -> int:
        """Return the pid of the process that took a killed one's place."""
        return int(wait_until(lambda: self.pids.get(name, old_pid) != old_pid and self.pids[name], timeout_s=timeout_s))

    def stop(self, *, number: int = signal.SIGINT) -> int:
        """Stop in order, as Ctrl-C does; return the exit code. The data stays."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=90)
        finally:
            self.process.kill()
            self.process = None

    def discard(self) -> None:
        """End it at once and remove what lies outside the data directory."""
        if self.process is not None:
            self.process.kill()  # the children die with it
            self.process.wait()
            self.process = None
        home = embedded.home_of(self.data_dir)
        with suppress(OSError, ValueError, IndexError):
            pid = int((home / "postgres" / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGQUIT)
            wait_until(lambda: not is_alive(pid), what="the database to end")
        if home != self.data_dir:
            shutil.rmtree(home, ignore_errors=True)

    def log(self) -> str:
        return (self.data_dir / "up.log").read_text(errors="replace")

    def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"manage.py up ended with {self.process.returncode}:\n{self.log()[-4000:]}")
        return status(self.base_url, "/readyz") == 200

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.discard()
            raise

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.discard()
