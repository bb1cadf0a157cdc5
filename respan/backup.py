"""A backup of the database as one file, and its way back: pg_dump and pg_restore, streamed, with the books compared.

The file is a tar archive: `manifest.json`, `database.dump` (PostgreSQL's custom format), and `secrets.env` only where
it was asked for. Never holds a dump in memory, never puts a password on a command line, never overwrites a database
that holds anything unless told to. The manifest's figures and the dump are of one moment (one snapshot). Not in it: the
spool, which lives on each web host until it is shipped. Neighbours: the commands `backup` and `restore`,
`embedded.py` (the private server's binaries), `billing.verification` (the proof after a restore).
"""

import io
import json
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from django.conf import settings
from django.db import connection, transaction

from billing import verification
from respan import bootstrap, embedded

MANIFEST: Final = "manifest.json"
DUMP: Final = "database.dump"
SECRETS: Final = "secrets.env"
SECRET_NAMES: Final = ("SECRET_KEY", "RESPAN_KEY_PEPPER", "RESPAN_KEYS")
FORMAT: Final = 1
_BLOCK: Final = 1024 * 1024
_TELL_EVERY_S: Final = 2.0
# A newer pg_restore sets it first of all; an older server does not know it and needs no such setting.
_HARMLESS: Final = 'unrecognized configuration parameter "transaction_timeout"'
_OURS: Final = "nspname !~ '^pg_' AND nspname <> 'information_schema'"

Say = Callable[[str], None]


class BackupError(Exception):
    """It cannot be done; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds: its moment, who wrote it, and the size of the books at that moment."""

    format: int
    made_at: str
    server_major: int
    database_bytes: int
    migrations: int
    spans: int
    books: dict[str, int]
    accounts: dict[str, int]

    @classmethod
    def read(cls, data: bytes) -> "Manifest":
        """Raises: BackupError."""
        try:
            found = json.loads(data)
            manifest = cls(**found)
        except (ValueError, TypeError):
            raise BackupError("The manifest of this backup cannot be read.") from None
        if manifest.format != FORMAT:
            raise BackupError(f"This backup has format {manifest.format}; this version of Respan reads {FORMAT}.")
        return manifest


# --- Out --------------------------------------------------------------------------------------------------------------


def make(path: Path, *, with_secrets: bool, say: Say) -> Manifest:
    """Write a backup to `path`, whole or not at all, readable by its owner only.

    Raises: BackupError; FileExistsError when there is such a file.
    """
    if path.exists():
        raise FileExistsError(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with (
            _snapshot() as (snapshot, manifest),
            os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as file,
        ):
            _write(file, manifest, snapshot, with_secrets=with_secrets, say=say)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return manifest


@contextmanager
def _snapshot() -> Iterator[tuple[str, Manifest]]:
    """Hold one moment of the database for pg_dump, and describe it."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SELECT pg_export_snapshot(), pg_database_size(current_database())")
        snapshot, size = cursor.fetchone()
        yield snapshot, _manifest(size)


def _manifest(size: int) -> Manifest:
    return Manifest(
        format=FORMAT,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        server_major=_server_major(),
        database_bytes=size,
        migrations=_count("django_migrations"),
        spans=_count("traces_span"),
        books=asdict(verification.totals()),
        accounts=verification.accounts(),
    )


def _server_major() -> int:
    return int(_value("SELECT current_setting('server_version_num')::int / 10000"))


def _count(table: str) -> int:
    return int(_value(f"SELECT count(*) FROM {table}"))  # noqa: S608


def _value(statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def _write(file: IO[bytes], manifest: Manifest, snapshot: str, *, with_secrets: bool, say: Say) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        _add(archive, MANIFEST, json.dumps(asdict(manifest), indent=2).encode() + b"\n")
        if with_secrets:
            _add(archive, SECRETS, _secrets())
    # The dump comes last, because its size is known only afterwards: its header is written twice. The two empty blocks
    # that `tarfile` ended with are where it begins.
    begin = _end_of_members(file)
    file.seek(begin)
    file.write(_header(0))
    size = _dump(file, snapshot, manifest, say)
    file.write(bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE))
    file.truncate()
    file.seek(begin)
    file.write(_header(size))


def _end_of_members(file: IO[bytes]) -> int:
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r") as archive:
        last = archive.getmembers()[-1]
        return last.offset_data + last.size + -last.size % tarfile.BLOCKSIZE


def _header(size: int) -> bytes:
    info = tarfile.TarInfo(DUMP)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info.tobuf(tarfile.GNU_FORMAT)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), 0o600, int(time.time())
    archive.addfile(info, io.BytesIO(content))


def _secrets() -> bytes:
    return "".join(f"{name}={getattr(settings, name)}\n" for name in SECRET_NAMES).encode()


def _dump(file: IO[bytes], snapshot: str, manifest: Manifest, say: Say) -> int:
    """Stream pg_dump into the file; return how many bytes it said."""
    command = [str(program("pg_dump", manifest.server_major)), "--format=custom", "--no-owner", "--no-privileges"]
    of = _mib(manifest.database_bytes)
    with _running([*command, f"--snapshot={snapshot}"], stdout=subprocess.PIPE) as (process, errors):
        assert process.stdout is not None  # noqa: S101  (asked for above)
        size = _copy(process.stdout, file, lambda done: say(f"{_mib(done)} written (the database has {of})"))
    if process.returncode:
        raise BackupError(f"pg_dump failed: {_last(errors)}")
    return size


# --- And back ---------------------------------------------------------------------------------------------------------


def restore(path: Path, *, force: bool, secrets_to: Path | None, say: Say) -> Manifest:
    """Put a backup into the configured database; return its manifest.

    Raises: BackupError when the file is none, the database is in use or (without `force`) not empty, or PostgreSQL
    refuses.
    """
    try:
        with tarfile.open(path, mode="r:") as archive:
            names = archive.getnames()
            if names[:1] != [MANIFEST] or DUMP not in names:
                raise BackupError(f"{path} is not a backup of Respan.")
            manifest = Manifest.read(_member(archive, MANIFEST).read())
            _prepare(force=force)
            if secrets_to is not None:
                _unpack_secrets(archive, secrets_to)
            _load(_member(archive, DUMP), archive.getmember(DUMP).size, say)
    except tarfile.TarError as error:
        raise BackupError(f"{path} cannot be read as a backup: {error}.") from error
    return manifest


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    found = archive.extractfile(name)
    if found is None:
        raise BackupError(f"{name} in this backup is not a file.")
    return found


def _unpack_secrets(archive: tarfile.TarFile, target: Path) -> None:
    if SECRETS not in archive.getnames():
        raise BackupError("This backup was made without --with-secrets.")
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise BackupError(f"{target} exists; secrets are never overwritten.") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(_member(archive, SECRETS).read())


def _prepare(*, force: bool) -> None:
    """See to it that the database is ours alone and empty."""
    others = _value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    if others:
        raise BackupError(f"{others} connections use this database. Stop every process of Respan first.")
    full = _value(
        f"SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE {_OURS}"  # noqa: S608
    )
    if full and not force:
        name = settings.DATABASES["default"]["NAME"]
        raise BackupError(f"The database {name!r} is not empty. Choose an empty one, or say --force to replace it.")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SELECT quote_ident(nspname) FROM pg_namespace WHERE {_OURS}")  # noqa: S608
        for (schema,) in cursor.fetchall():
            cursor.execute(f"DROP SCHEMA {schema} CASCADE")
        cursor.execute("CREATE SCHEMA public")


def _load(source: IO[bytes], size: int, say: Say) -> None:
    """Stream a dump into pg_restore."""
    name = str(settings.DATABASES["default"]["NAME"])
    command = [str(program("pg_restore", _server_major())), "--no-owner", "--no-privileges", f"--dbname={name}"]
    with _running(command, stdin=subprocess.PIPE) as (process, errors):
        assert process.stdin is not None  # noqa: S101  (asked for above)
        try:
            _copy(source, process.stdin, lambda done: say(f"{_mib(done)} of {_mib(size)} read"))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it gave up; its last words say why
    if process.returncode and not _is_harmless(errors):
        raise BackupError(f"pg_restore failed: {_last(errors)}")


def _is_harmless(errors: list[str]) -> bool:
    """Tell whether nothing went wrong but a setting that the server is too old to know."""
    wrong = [line for line in errors if "error:" in line]
    return bool(wrong) and all(_HARMLESS in line for line in wrong)


def differences(manifest: Manifest) -> list[str]:
    """Compare what is in the database with what a backup says it held; empty when they agree."""
    found = _manifest(manifest.database_bytes)
    names = ("migrations", "spans", "accounts")
    wrong = [name for name in names if getattr(found, name) != getattr(manifest, name)]
    # Time passes: holds become overdue.
    wrong += [key for key, value in manifest.books.items() if key != "overdue_holds" and found.books.get(key) != value]
    return wrong


# --- PostgreSQL's programs --------------------------------------------------------------------------------------------


def program(name: str, server_major: int) -> Path:
    """Return PostgreSQL's own program, of the server's version or else the next newer one.

    Raises: BackupError when there is none.
    """
    if bootstrap.cluster is not None:
        return bootstrap.cluster.binaries.folder / name
    candidates = [found for found in embedded.clients() if (found.folder / name).exists()]
    usable = sorted((found.major, found.folder) for found in candidates if found.major >= server_major)
    if not usable:
        here = ", ".join(str(found.major) for found in candidates) or "none"
        raise BackupError(
            f"No {name} for PostgreSQL {server_major} (found: {here}). Install postgresql-client-{server_major}."
        )
    return usable[0][1] / name


@contextmanager
def _running(command: list[str], **pipes: int) -> Iterator[tuple["subprocess.Popen[bytes]", list[str]]]:
    """Run a program on the configured database; its words on stderr are complete when the block has ended."""
    errors: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=_environment(), **pipes) as process:  # type: ignore[call-overload]
        assert process.stderr is not None  # noqa: S101  (asked for above)
        listener = threading.Thread(target=_listen, args=(process.stderr, errors))
        listener.start()
        try:
            yield process, errors
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
            listener.join()


def _listen(said: IO[bytes], errors: list[str]) -> None:
    for line in said:
        errors.append(line.decode(errors="replace").strip())
        del errors[:-200]


def _environment() -> dict[str, str]:
    """Return what libpq reads: a password in a command line could be read by everybody on the machine."""
    database = settings.DATABASES["default"]
    parts = {"HOST": "PGHOST", "PORT": "PGPORT", "USER": "PGUSER", "PASSWORD": "PGPASSWORD", "NAME": "PGDATABASE"}
    env = {name: value for name, value in os.environ.items() if name not in SECRET_NAMES}
    env |= {variable: str(database[part]) for part, variable in parts.items() if database.get(part)}
    options = database.get("OPTIONS", {})
    return env | {f"PG{name.upper()}": str(value) for name, value in options.items() if name.startswith("ssl")}


def _copy(source: IO[bytes], target: IO[bytes], tell: Callable[[int], None]) -> int:
    """Copy block by block, telling every few seconds how far it is; return the number of bytes."""
    done, told_at = 0, time.monotonic()
    while block := source.read(_BLOCK):
        target.write(block)
        done += len(block)
        if time.monotonic() - told_at > _TELL_EVERY_S:
            told_at = time.monotonic()
            tell(done)
    return done


def _mib(size: int) -> str:
    return f"{size / 1024**2:,.1f} MiB"


def _last(errors: list[str]) -> str:
    return "; ".join(errors[-3:]) or "it said nothing"
