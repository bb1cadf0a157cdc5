"""A backup and its way back: the same books, the same traces, in another database; what must not happen does not."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from respan import backup
from tests.conftest import on_server
from tests.servers import REPOSITORY, Server, wait_until
from tests.stack import call

# One worker runs them all: they share a database that was lived in.
pytestmark = pytest.mark.xdist_group("backup")

TABLES = [
    "accounts_user", "accounts_organization", "accounts_apikey", "billing_wallet", "billing_entry", "billing_hold",
    "billing_grant", "gateway_credential", "traces_span", "django_migrations", "billing_modelrates",
]  # fmt: skip


class Place:
    """A database of its own with the commands run on it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.url = os.environ["DATABASE_URL"].rpartition("/")[0] + f"/{name}"
        self.env = {**os.environ, "DATABASE_URL": self.url}
        on_server(f'CREATE DATABASE "{name}"')

    def manage(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=REPOSITORY, env=self.env, capture_output=True, text=True,
            timeout=100,
        )  # fmt: skip

    def counts(self) -> dict[str, int]:
        with psycopg.connect(self.url) as connection:
            return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES}

    def rows(self, statement: str) -> list[Any]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture(scope="module")
def place(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Place]]:
    made: list[Place] = []

    def make() -> Place:
        made.append(Place(f"backup_{os.getpid()}_{len(made)}", tmp_path_factory.mktemp("place")))
        return made[-1]

    yield make
    for each in made:
        on_server(f'DROP DATABASE IF EXISTS "{each.name}" WITH (FORCE)')


@pytest.fixture(scope="module")
def lived_in(place: Any) -> Place:
    """A database with people, credits, a provider key, and calls that were traced and settled."""
    source = place()
    assert source.manage("prepare").returncode == 0
    with Server(data_dir=source.folder, shipper=True, worker=True, env={"DATABASE_URL": source.url}) as server:
        wanted = {"credits_usd": "5", "provider": "custom", "base_url": "https://api.example.com/v1"}
        seeded = subprocess.run(
            [sys.executable, "-m", "tests.seed", json.dumps(wanted)],
            cwd=REPOSITORY, env=server.env, capture_output=True, text=True, check=True,
        )  # fmt: skip
        key = json.loads(seeded.stdout.splitlines()[-1])["api_key"]
        for number in range(5):
            words = [{"role": "user", "content": f"{number} äöü"}]
            body = json.dumps({"model": "sandbox/priced", "messages": words, "max_tokens": 9}).encode()
            answer = call(f"{server.base_url}/api/chat/completions", key=key, body=body)
            assert answer.status == 200, answer.body
        wait_until(lambda: source.counts()["traces_span"] == 5, what="the traces")
        wait_until(lambda: source.rows("SELECT sum(held) FROM billing_wallet") == [(0,)], what="settlement")
    return source


@pytest.fixture(scope="module")
def made(lived_in: Place) -> "subprocess.CompletedProcess[str]":
    """A backup of it, as it was said to be made; the file is `made.args[-1]`."""
    return lived_in.manage("backup", str(lived_in.folder / "respan.tar"))


@pytest.fixture(scope="module")
def file(made: "subprocess.CompletedProcess[str]") -> Path:
    """The file of that backup."""
    assert made.returncode == 0, made.stderr
    return Path(made.args[-1])


def test_what_was_there_is_there_again_in_another_database(
    lived_in: Place, place: Any, made: "subprocess.CompletedProcess[str]", file: Path
) -> None:
    assert "5 traces" in made.stdout
    assert "without RESPAN_KEYS no stored provider key can be read" in made.stdout
    assert file.stat().st_mode & 0o777 == 0o600

    target = place()
    done = target.manage("restore", str(file))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "No differences." in done.stdout
    assert "stored provider keys open with RESPAN_KEYS" in done.stdout
    assert target.counts() == lived_in.counts()
    for table in ("billing_wallet", "billing_entry", "billing_hold", "traces_span", "gateway_credential"):
        statement = f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {table} t"
        assert target.rows(statement) == lived_in.rows(statement), table
    # Alive, not only alike: entries are still append-only, and no migration is missing.
    with psycopg.connect(target.url) as connection, pytest.raises(psycopg.Error):
        connection.execute("UPDATE billing_entry SET amount = 1")
    assert target.manage("doctor", "--only", "database").returncode == 0


def test_a_backup_can_be_made_while_calls_are_traced_and_says_one_moment(file: Path, tmp_path: Path) -> None:
    with tarfile.open(file) as archive:
        assert archive.getnames() == [backup.MANIFEST, backup.DUMP]
        manifest = json.load(archive.extractfile(backup.MANIFEST))
        (tmp_path / backup.DUMP).write_bytes(archive.extractfile(backup.DUMP).read())
    assert manifest["spans"] == 5
    assert sum(manifest["accounts"].values()) == 0
    # PostgreSQL's own tools read the dump without us.
    program = backup.program("pg_restore", manifest["server_major"])
    listed = subprocess.run([program, "--list", tmp_path / backup.DUMP], capture_output=True, text=True, check=True)
    assert "TABLE DATA public billing_entry" in listed.stdout


def test_secrets_are_inside_only_when_asked_for(lived_in: Place, place: Any, file: Path, tmp_path: Path) -> None:
    plain, whole, secrets = file, tmp_path / "whole.tar", tmp_path / "secrets.env"
    made = lived_in.manage("backup", str(whole), "--with-secrets")
    assert "It holds the secrets" in made.stdout
    ring = os.environ["RESPAN_KEYS"].encode()
    assert ring not in plain.read_bytes()
    assert ring in whole.read_bytes()
    target = place()
    refused = target.manage("restore", str(plain), "--secrets-to", str(secrets))
    assert "made without --with-secrets" in refused.stderr
    assert target.manage("restore", str(whole), "--secrets-to", str(secrets)).returncode == 0
    assert secrets.stat().st_mode & 0o777 == 0o600
    assert f"RESPAN_KEYS={os.environ['RESPAN_KEYS']}\n" in secrets.read_text()


def test_a_database_that_holds_something_is_replaced_only_by_force(lived_in: Place, file: Path) -> None:
    refused = lived_in.manage("restore", str(file))
    assert refused.returncode == 1
    assert "is not empty" in refused.stderr
    assert lived_in.counts()["traces_span"] == 5
    with psycopg.connect(lived_in.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE left_over (id int)")
        in_use = lived_in.manage("restore", str(file), "--force")
    assert "Stop every process of Respan first" in in_use.stderr
    assert lived_in.manage("restore", str(file), "--force").returncode == 0
    assert lived_in.counts()["traces_span"] == 5
    assert lived_in.rows("SELECT to_regclass('left_over')") == [(None,)]


def test_a_damaged_backup_is_refused_before_anything_is_dropped(lived_in: Place, file: Path, tmp_path: Path) -> None:
    torn, other = tmp_path / "torn.tar", tmp_path / "other.tar"
    torn.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    other.write_bytes(b"no archive at all")
    for wrong in (torn, other):
        refused = lived_in.manage("restore", str(wrong), "--force")
        assert refused.returncode == 1
        assert "cannot be read as a backup" in refused.stderr
        assert lived_in.counts()["traces_span"] == 5


def test_a_backup_never_overwrites_and_leaves_no_half_file(place: Any, tmp_path: Path) -> None:
    empty, file = place(), tmp_path / "respan.tar"
    file.write_text("mine")
    assert "never overwrites" in empty.manage("backup", str(file)).stderr
    assert file.read_text() == "mine"
    assert "no tables of Respan" in empty.manage("backup", str(tmp_path / "new.tar")).stderr
    assert sorted(path.name for path in tmp_path.glob("*.tar*")) == ["respan.tar"]


def test_the_program_is_the_servers_own_version_or_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backup.program("pg_dump", 15).is_file()
    with pytest.raises(backup.BackupError, match="Install postgresql-client-99"):
        backup.program("pg_dump", 99)
