"""`manage.py doctor` on installations that are really broken: settings, no tables, no broker, silent processes."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import time_machine
from django.utils import timezone

from respan import doctor, doctor_parts
from tests.conftest import on_server
from tests.respan.test_redis import REDIS_URL, needs_redis
from tests.servers import REPOSITORY, free_port, wait_until

KEY = "q4Jd0v1m3k7ZxYb8cTn5sR2wUeHgLoPiA9fVtNyBz6E="
SOUND = {
    "SECRET_KEY": "mK2!x7Qp9z#Lr4vN8cWt1yB5hJ6dF0gSaEuIoPqRsTk3Xw",
    "RESPAN_KEY_PEPPER": "Zp8Wm3Kq7Xr2Vt5Ny9Bd4Fh6Js1Lc0Gae",
    "RESPAN_KEYS": f"k1:{KEY}",
}


def _has_rabbitmq() -> bool:
    try:
        with socket.create_connection(("127.0.0.1", 5672), timeout=0.5):
            return True
    except OSError:
        return False


needs_rabbitmq = pytest.mark.skipif(not _has_rabbitmq(), reason="no RabbitMQ runs on this machine")


@pytest.fixture
def examine(tmp_path: Path, django_db_setup: None) -> Callable[..., tuple[int, list[dict[str, str]]]]:
    """Run doctor as an operator does; return the exit code and the findings."""

    def run(*arguments: str, **env: str) -> tuple[int, list[dict[str, str]]]:
        done = subprocess.run(
            [sys.executable, "manage.py", "doctor", "--json", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **SOUND, "RESPAN_DATA_DIR": str(tmp_path), **env},
            capture_output=True,
            text=True,
            timeout=60,
        )
        told = json.loads(done.stdout)
        assert told["ok"] == (done.returncode == 0)
        for secret in (KEY, SOUND["SECRET_KEY"], SOUND["RESPAN_KEY_PEPPER"]):
            assert secret not in done.stdout + done.stderr
        return done.returncode, told["findings"]

    return run


def said(findings: list[dict[str, str]], state: str) -> str:
    return "\n".join(f"{each['area']}: {each['text']}" for each in findings if each["state"] == state)


def test_a_sound_installation_passes(running: Any) -> None:
    server = running(shipper=True, worker=True, beat=True, env=SOUND)

    def passes() -> bool:
        done = _doctor(server.env)
        seen.append(done.stdout + done.stderr)
        return done.returncode == 0 and "a shipper was heard of in the last 30 s" in done.stdout

    seen: list[str] = []
    try:
        wait_until(passes, timeout_s=60, what="doctor to be content")
    except AssertionError:
        pytest.fail(seen[-1])
    assert "fail " not in seen[-1]


def _doctor(env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    # Not the workers: dead letters and sweeps of this database are other tests' too.
    command = [sys.executable, "manage.py", "doctor", "--only", "secrets", "address", "database", "broker", "spool"]
    return subprocess.run(
        [*command, "shipper", *arguments],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RESPAN_KEYS", "k1:AAAA", "secrets: RESPAN_KEYS key k1 has 3 bytes instead of 32"),
        ("RESPAN_KEYS", "", "secrets: RESPAN_KEYS is missing"),
        ("RESPAN_KEYS", f"k1:{'A' * 43}=", "secrets: key k1 of RESPAN_KEYS is not random"),
        ("SECRET_KEY", "", "secrets: SECRET_KEY is missing"),
        ("SECRET_KEY", SOUND["RESPAN_KEY_PEPPER"], "SECRET_KEY and RESPAN_KEY_PEPPER have the same value"),
        ("RESPAN_BASE_URL", "http://respan.example.com", "address: RESPAN_BASE_URL is plain http on a public name"),
        ("RESPAN_TRUSTED_PROXIES", ["0.0.0.0/0"], "address: RESPAN_TRUSTED_PROXIES trusts every address"),
        ("RESPAN_UPSTREAM_ALLOW", ["169.254.169.254:80"], "address: RESPAN_UPSTREAM_ALLOW opens the cloud's metadata"),
    ],
)
def test_an_unsafe_setting_fails(settings: Any, name: str, value: Any, words: str) -> None:
    for each, sound in {**SOUND, name: value}.items():
        setattr(settings, each, sound)
    found = [*doctor.look_at_secrets(), *doctor.look_at_address()]
    assert words in "\n".join(f"{each.area}: {each.text}" for each in found if each.state == "fail")
    assert KEY not in str(found)


def test_behind_tls_without_a_trusted_proxy_every_page_would_redirect_to_itself(examine: Any) -> None:
    env = {"RESPAN_BASE_URL": f"https://127.0.0.1:{free_port()}", "SECURE_SSL_REDIRECT": "true"}
    code, findings = examine("--only", "address", **env)
    assert code == 1
    assert "every page redirects to itself" in said(findings, "fail")
    assert "could not be reached from here" in said(findings, "warn")


def test_a_grant_for_made_up_addresses_fails(examine: Any) -> None:
    env = {"RESPAN_BASE_URL": "https://respan.example.com", "HOST": "0.0.0.0", "RESPAN_SIGNUP_GRANT_USD": "1.00"}
    code, findings = examine("--only", "people", **env)
    assert code == 1
    assert "made-up address" in said(findings, "fail")


def test_a_database_that_is_away_fails_and_the_rest_is_not_looked_at(examine: Any) -> None:
    code, findings = examine(DATABASE_URL=f"postgres://respan:hunter2-hunter2@127.0.0.1:{free_port()}/respan")
    assert code == 1
    assert "database: PostgreSQL at 127.0.0.1:" in said(findings, "fail")
    assert "Connection refused" in said(findings, "fail")
    assert "not looked at: broker, shipper, workers" in said(findings, "warn")
    assert "hunter2" not in str(findings)


def test_tables_that_are_not_made_fail(examine: Any) -> None:
    name = f"doctor_{os.getpid()}"
    on_server(f'CREATE DATABASE "{name}"')
    try:
        url = os.environ["DATABASE_URL"].rpartition("/")[0] + f"/{name}"
        code, findings = examine("--only", "database", DATABASE_URL=url)
    finally:
        on_server(f'DROP DATABASE "{name}" WITH (FORCE)')
    assert code == 1
    assert "migrations are not applied" in said(findings, "fail")


def test_a_database_that_confirms_what_it_may_lose_fails(examine: Any) -> None:
    name = f"doctor_async_{os.getpid()}"
    on_server(f'CREATE DATABASE "{name}"')
    try:
        on_server(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
        url = os.environ["DATABASE_URL"].rpartition("/")[0] + f"/{name}"
        _, findings = examine("--only", "database", DATABASE_URL=url)
    finally:
        on_server(f'DROP DATABASE "{name}" WITH (FORCE)')
    assert "synchronous_commit is off" in said(findings, "fail")


@pytest.mark.parametrize(("number", "state"), [("140011", "fail"), ("150000", "ok"), ("180006", "ok")])
def test_the_oldest_postgresql_is_15(number: str, state: str) -> None:
    assert doctor_parts.version(number).state == state


@pytest.mark.parametrize(("seconds", "state"), [(0, "ok"), (4, "warn"), (60, "fail")])
def test_clocks_that_disagree_are_found(db: None, seconds: int, state: str) -> None:
    with time_machine.travel(timezone.now() - timedelta(seconds=seconds), tick=True):
        found = [each for each in doctor_parts.look_at_database() if "clock" in each.text]
    assert [each.state for each in found] == [state]


def test_a_broker_that_is_away_fails_without_showing_its_password(examine: Any) -> None:
    url = f"amqp://respan:hunter2-hunter2@127.0.0.1:{free_port()}//"
    code, findings = examine("--only", "broker", CELERY_BROKER_URL=url)
    assert code == 1
    assert "broker: RabbitMQ at 127.0.0.1 cannot be used" in said(findings, "fail")
    assert "hunter2" not in str(findings)


@needs_rabbitmq
def test_a_broker_that_knows_no_such_user_fails(examine: Any) -> None:
    url = "amqp://respan:hunter2-hunter2@127.0.0.1:5672//"
    code, findings = examine("--only", "broker", CELERY_BROKER_URL=url)
    assert code == 1
    assert "broker: RabbitMQ at 127.0.0.1 cannot be used (AccessRefused)" in said(findings, "fail")
    assert "hunter2" not in str(findings)


def test_a_broker_that_takes_connections_but_never_answers_fails_in_time(examine: Any) -> None:
    began = time.monotonic()
    examine("--only", "ways-out")
    start_s = time.monotonic() - began  # what every doctor takes on this machine, busy as it is
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        code, findings = examine("--only", "broker", CELERY_BROKER_URL=f"amqp://127.0.0.1:{silent.getsockname()[1]}//")
    assert code == 1
    assert "cannot be used" in said(findings, "fail")
    assert time.monotonic() - began - start_s < 20


def test_a_broker_of_another_kind_fails(examine: Any) -> None:
    code, findings = examine("--only", "broker", CELERY_BROKER_URL="redis://127.0.0.1:6379/0")
    assert code == 1
    assert "redis://, which is not supported" in said(findings, "fail")


def test_without_a_redis_there_is_nothing_to_find(examine: Any) -> None:
    code, findings = examine("--only", "redis", REDIS_URL="")
    assert code == 0
    assert [each["state"] for each in findings] == ["ok"]


@needs_redis
def test_a_redis_that_answers_is_named(examine: Any) -> None:
    code, findings = examine("--only", "redis", REDIS_URL=REDIS_URL)
    assert code == 0
    assert "redis: Redis " in said(findings, "ok") + said(findings, "warn")


def test_a_redis_that_is_away_fails_without_showing_its_password(examine: Any) -> None:
    code, findings = examine("--only", "redis", REDIS_URL=f"redis://:hunter2-hunter2@127.0.0.1:{free_port()}/0")
    assert code == 1
    assert "redis: Redis at 127.0.0.1 cannot be used: ConnectionError" in said(findings, "fail")
    assert "hunter2" not in str(findings)


def test_a_redis_that_takes_connections_but_never_answers_fails_in_time(settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.REDIS_URL = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        began = time.monotonic()
        (found,) = doctor_parts.look_at_redis()
    assert (found.state, found.text) == ("fail", "Redis at 127.0.0.1 cannot be used: TimeoutError")
    assert time.monotonic() - began < 5


def test_an_address_that_is_no_redis_fails(examine: Any) -> None:
    code, findings = examine("--only", "redis", REDIS_URL="http://:hunter2-hunter2@127.0.0.1:6379")
    assert code == 1
    assert "REDIS_URL is no address of a Redis" in said(findings, "fail")
    assert "hunter2" not in str(findings)


@pytest.mark.parametrize(
    ("told", "state", "words"),
    [
        ({"redis_version": "6.0.16"}, "fail", "is too old"),
        ({"redis_version": "6.2.0"}, "ok", "Redis 6.2.0 at r"),
        ({"redis_version": "8.2.1", "cluster_enabled": 1}, "fail", "is a cluster"),
        ({"redis_version": "7.4", "maxmemory": 10, "maxmemory_policy": "allkeys-lru"}, "warn", "evicts by allkeys-lru"),
        ({"redis_version": "7.4", "maxmemory": 0, "maxmemory_policy": "allkeys-lru"}, "ok", "Redis 7.4"),
        ({"redis_version": "7.4", "maxmemory": 10, "maxmemory_policy": "volatile-ttl"}, "ok", "Redis 7.4"),
    ],
)
def test_a_redis_is_judged_by_what_it_says_of_itself(told: dict[str, Any], state: str, words: str) -> None:
    (found,) = doctor_parts.judged(told, "r")
    assert (found.state, words in found.text) == (state, True)
    assert found.advice or state == "ok"


def test_a_spool_that_is_a_file_or_open_to_others_is_found(examine: Any, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    _, findings = examine("--only", "spool")
    assert "does not exist" in said(findings, "warn")
    spool.mkdir(mode=0o755)
    _, findings = examine("--only", "spool")
    assert "can be read by others (mode 755)" in said(findings, "warn")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a file system that nobody can write")
def test_a_spool_that_cannot_be_written_fails(examine: Any, tmp_path: Path) -> None:
    (tmp_path / "spool").symlink_to("/sys/kernel")  # even root cannot write there
    code, findings = examine("--only", "spool")
    assert code == 1
    assert "cannot be written" in said(findings, "fail")


def test_records_that_nobody_ships_fail(examine: Any, running: Any) -> None:
    server = running()  # no shipper
    answer = subprocess.run(
        [sys.executable, "-m", "tests.seed", '{"credits_usd": "1"}'],
        cwd=REPOSITORY, env=server.env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    from tests.stack import call

    body = b'{"model": "sandbox/priced", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}'
    key = json.loads(answer.stdout.splitlines()[-1])["api_key"]
    assert call(f"{server.base_url}/api/chat/completions", key=key, body=body).status == 200
    for segment in (server.data_dir / "spool").glob("*/*"):
        if segment.is_file():
            os.utime(segment, (time.time() - 1000, time.time() - 1000))
    code, findings = examine("--only", "spool", RESPAN_DATA_DIR=str(server.data_dir))
    assert code == 1
    assert "1 records wait, the oldest for 10" in said(findings, "fail")


def test_processes_that_fell_silent_fail(db: None) -> None:
    from billing.models import HoldOwner, Sweep

    # Seen from two hours later, whoever else is alive in this database.
    HoldOwner.objects.update_or_create(owner="silent", defaults={"seen_at": timezone.now()})
    Sweep.objects.get_or_create(name="holds", defaults={"ran_at": timezone.now()})
    with time_machine.travel(timezone.now() + timedelta(hours=2), tick=True):
        found = [*doctor_parts.look_at_shipper(), *doctor_parts.look_at_workers()]
    told = [each.text for each in found if each.state == "fail"]
    assert any(text.startswith("no shipper was heard of since") for text in told)
    assert any(text.startswith("the reaper of holds last ran at") for text in told)


def test_provider_keys_sealed_under_a_lost_key_fail(examine: Any, cast: Any, settings: Any) -> None:
    from gateway import credentials

    credentials.store(
        organization=cast.organization, provider="openai", name="x", secret="sk-0123456789abcdefghij", actor=cast.owner,
        address=None,
    )  # fmt: skip
    settings.RESPAN_KEYS = f"k9:{KEY}"
    credentials._opened.clear()
    found = {each.state: each for each in doctor.stored_keys()}
    assert "do not open" in found["fail"].text
    assert "rotate_keys" in found["warn"].advice


def test_a_platform_key_of_no_provider_and_a_missing_file_are_found(examine: Any, tmp_path: Path) -> None:
    code, findings = examine("--only", "provider-keys", RESPAN_PLATFORM_KEY_OPENAY="sk-hidden-hidden")
    assert "RESPAN_PLATFORM_KEY_OPENAY names no provider" in said(findings, "warn")
    assert "sk-hidden" not in str(findings)
    code, findings = examine("--only", "provider-keys", RESPAN_PLATFORM_KEY_OPENAI_FILE=str(tmp_path / "none"))
    assert code == 1
    assert "a key's file cannot be read" in said(findings, "fail")


def test_a_catalogue_file_with_a_mistake_fails(examine: Any, tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "mine.toml").write_text('id = "mine"\nnam = "Mine"\n')
    code, findings = examine("--only", "catalogue", RESPAN_CATALOG_EXTRA=str(tmp_path / "extra"))
    assert code == 1
    assert "mine.toml" in said(findings, "fail")


def test_an_env_file_that_others_can_read_is_found(examine: Any, tmp_path: Path) -> None:
    file = tmp_path / "respan.env"
    file.write_text("PORT=8000\n")
    file.chmod(0o644)
    code, findings = examine("--only", "secrets", RESPAN_ENV_FILE=str(file))
    assert code == 0
    assert "can be read by others (mode 644)" in said(findings, "warn")
    file.chmod(stat.S_IRUSR)
    assert said(examine("--only", "secrets", RESPAN_ENV_FILE=str(file))[1], "warn") == ""


def test_proxy_variables_that_are_not_obeyed_are_found(examine: Any) -> None:
    _, findings = examine("--only", "ways-out", HTTPS_PROXY="http://proxy.example.com:3128")
    assert "HTTPS_PROXY is set, but Respan calls providers directly" in said(findings, "warn")


def test_a_broken_look_is_a_finding(db: None) -> None:
    def look_at_nothing() -> Any:
        raise psycopg.OperationalError("password=hunter2")
        yield

    (found,) = doctor.guarded(look_at_nothing)
    assert (found.area, found.state) == ("nothing", "fail")
    assert "hunter2" not in found.text + found.advice
