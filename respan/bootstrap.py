"""What happens before Django reads its settings: `.env`, the lock of `up`, generated secrets, the private PostgreSQL.

Imports no Django settings. Neighbours: `manage.py` (the only caller), `embedded.py`, `firstrun.py` (what comes after).
"""

import base64
import fcntl
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

import environ

from respan import embedded

BASE_DIR = Path(__file__).resolve().parent.parent
# Commands that read no table: they run on a machine without any database.
WITHOUT_DATABASE = frozenset(
    {"", "help", "version", "check", "makemigrations", "collectstatic", "findstatic", "diffsettings", "makemessages"}
)
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

# The private PostgreSQL this process uses, if any: `up` watches it.
cluster: embedded.Cluster | None = None
# Somebody asked to stop before anything could be stopped in order. The exception that the signal raises may be lost (in
# a finalizer, in a library that catches everything): `up` looks here before it starts a process.
is_asked_to_stop = False
_claim: IO[str] | None = None


class Refused(Exception):
    """The command cannot start; the message says what to do."""


@contextmanager
def prepared(arguments: list[str]) -> Iterator[None]:
    """Make the environment of a `manage.py` command; afterwards stop the private PostgreSQL if nobody else uses it."""
    global cluster
    command = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    environ.Env.read_env(_env_file())
    env = environ.FileAwareEnv()
    data_dir = Path(env.str("RESPAN_DATA_DIR", default=str(BASE_DIR / ".data"))).resolve()
    has_database = bool(env.str("DATABASE_URL", default=""))
    needs_database = command not in WITHOUT_DATABASE and not {"-h", "--help"} & set(arguments)
    is_up = command == "up" and needs_database
    if needs_database and (is_up or not has_database):
        signal.signal(signal.SIGTERM, _leave)  # so that the `finally` below runs
    if is_up:
        signal.signal(signal.SIGINT, _leave)
    try:
        if is_up:
            _claim_data_dir(data_dir)
            if not has_database or env.str("HOST", default="127.0.0.1") in LOOPBACK:
                make_secrets(_env_file(), data_dir=data_dir, env=env)
        if needs_database and not has_database:
            cluster = embedded.use(data_dir)
            os.environ["DATABASE_URL"] = cluster.url
        yield
    except (Refused, embedded.EmbeddedError) as refusal:
        sys.exit(f"respan: {refusal}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if cluster is not None:
            cluster.release()


def _env_file() -> Path:
    return Path(os.environ.get("RESPAN_ENV_FILE") or BASE_DIR / ".env")


def _leave(number: int, _: FrameType | None) -> None:
    global is_asked_to_stop
    is_asked_to_stop = True
    sys.exit(128 + number)


def _claim_data_dir(data_dir: Path) -> None:
    """Be the only `up` of this data directory until the process ends.

    Raises: Refused with the address of the one that runs.
    """
    global _claim
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        _claim = (data_dir / "lock").open("a")
    except PermissionError as problem:
        raise Refused(f"No permission for {problem.filename}: start as its owner, or set RESPAN_DATA_DIR.") from problem
    try:
        fcntl.flock(_claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"Respan is already running {_where(data_dir)}. Stop it first, or set RESPAN_DATA_DIR.") from None


def _where(data_dir: Path) -> str:
    try:
        running = json.loads((data_dir / "processes.json").read_text())
        return f"at {running['base_url']} (process {running['processes']['up']})"
    except (OSError, ValueError, KeyError):
        return f"with the data in {data_dir} (it is starting or stopping)"


# --- Secrets ----------------------------------------------------------------------------------------------------------

_GENERATORS = {
    "SECRET_KEY": lambda: secrets.token_urlsafe(50),
    "RESPAN_KEY_PEPPER": lambda: secrets.token_urlsafe(40),
    "RESPAN_KEYS": lambda: "k1:" + base64.b64encode(secrets.token_bytes(32)).decode(),
}
_NOTE = """\
# Made by `manage.py up` on {day}. BACK THIS FILE UP, apart from the database: without RESPAN_KEYS no stored provider
# key can be read again, without RESPAN_KEY_PEPPER every API key stops working.
"""


def make_secrets(env_file: Path, *, data_dir: Path, env: environ.FileAwareEnv) -> list[str]:
    """Generate the missing secrets into `.env` (0600) and the environment; return their names.

    Raises: Refused when the data directory was used with secrets before: new ones could not read its data.
    """
    missing = [name for name in _GENERATORS if not env.str(name, default="")]
    if not missing:
        return []
    if (data_dir / "first-run.json").exists():
        raise Refused(
            f"{', '.join(missing)} not found in {env_file} or the environment, but the data in {data_dir} was made with"
            " them. Restore .env from your backup. To start afresh instead, move the data directory away."
        )
    made = {name: _GENERATORS[name]() for name in missing}
    try:
        _write_env(env_file, made)
    except OSError as problem:
        raise Refused(
            f"Cannot write secrets to {env_file} ({problem.strerror}). Set {', '.join(missing)}."
        ) from problem
    os.environ.update(made)
    sys.stderr.write(f"Made {', '.join(missing)} in {env_file}. Back this file up.\n")
    return missing


def _write_env(env_file: Path, made: dict[str, str]) -> None:
    """Add settings to `.env`; whatever else it says stays, but for an empty line of the same setting."""
    lines = env_file.read_text().splitlines() if env_file.exists() else []
    lines = [line for line in lines if line.partition("=")[0].strip() not in made]
    lines += [
        _NOTE.format(day=time.strftime("%Y-%m-%d")).rstrip(),
        *(f"{name}={value}" for name, value in made.items()),
    ]
    partial = env_file.with_name(env_file.name + ".partial")
    partial.touch(0o600)
    partial.write_text("\n".join(lines) + "\n")
    partial.rename(env_file)
