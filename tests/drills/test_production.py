"""The production set-up, no containers: the commands of compose.yaml, RabbitMQ, Redis, two web processes, `kill -9`.

Needs a RabbitMQ (RESPAN_TEST_BROKER_URL, by default the one on this machine) and is left out where none answers; the
database is the run's. Where a Redis answers (RESPAN_TEST_REDIS_URL) it is part of the set-up, as with compose's profile
of that name. Where nginx is installed (or RESPAN_TEST_NGINX names it) calls go through deploy/nginx.conf,
else each half of them to one process. Neighbours: `test_kills.py` (the same of `manage.py up`), `test_deploy.py`.
"""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kombu
import psycopg
import pytest
import yaml

from tests import stack
from tests.drills.conftest import Site
from tests.provider import Provider
from tests.servers import REPOSITORY, free_port, status, wait_until
from tests.traffic import Traffic

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

BROKER = os.environ.get("RESPAN_TEST_BROKER_URL", "amqp://guest:guest@127.0.0.1:5672//")
REDIS = os.environ.get("RESPAN_TEST_REDIS_URL", "redis://127.0.0.1:6379/7")
NGINX = os.environ.get("RESPAN_TEST_NGINX") or shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
WEB = ["web-1", "web-2"]
CALL_NANO = 20 * 10_000


def has_redis() -> bool:
    address = urlsplit(REDIS)
    try:
        with socket.create_connection((address.hostname, address.port or 6379), timeout=1):
            return True
    except OSError:
        return False


def commands() -> dict[str, list[str]]:
    """Return what compose.yaml starts for each of our services."""
    services = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]
    ours = {name: each["command"] for name, each in services.items() if each.get("image", "").startswith("respan:")}
    return {name: [sys.executable, *words[1:]] for name, words in ours.items()}


class Production:
    """The processes of compose.yaml on this machine, each restarted when it dies, as containers and units are."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.database_url = os.environ["DATABASE_URL"]
        self.ports = {name: free_port() for name in WEB}
        self.commands = commands()
        self.front = free_port() if NGINX else 0
        base = f"http://127.0.0.1:{self.front or self.ports['web-1']}"
        self.env = {**os.environ, "RESPAN_DATA_DIR": str(folder), "CELERY_BROKER_URL": BROKER, **env}
        self.env |= {"RESPAN_BASE_URL": base, "PORT": str(self.ports["web-1"])}
        self.env |= {"REDIS_URL": REDIS} if has_redis() else {}
        self.base_urls = [base] if NGINX else [f"http://127.0.0.1:{port}" for port in self.ports.values()]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        done = self.run(self.commands["prepare"])
        assert done.returncode == 0, done.stderr
        for name in self.commands:
            if name != "prepare":
                self.spawn(name)
        if NGINX:
            self._spawn_nginx(NGINX)
        for url in {*self.base_urls, *(f"http://127.0.0.1:{port}" for port in self.ports.values())}:
            wait_until(lambda url=url: status(url, "/readyz") == 200, timeout_s=60, what=f"{url} to be ready")

    def run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command, cwd=REPOSITORY, env=self.env, capture_output=True, text=True, timeout=180)

    def spawn(self, name: str) -> None:
        port = {"PORT": str(self.ports[name])} if name in self.ports else {}
        self._spawn(name, self.commands[name], self.env | port)

    def _spawn(self, name: str, command: list[str], env: dict[str, str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _spawn_nginx(self, binary: str) -> None:
        conf = self.folder / "nginx.conf"
        conf.write_text(nginx_conf(front=self.front, ports=list(self.ports.values()), folder=self.folder))
        self._spawn("nginx", [binary, "-c", str(conf), "-e", "stderr", "-g", "daemon off;"], dict(os.environ))

    def kill(self, name: str) -> None:
        """`kill -9` a process with all it started, then start it again."""
        process = self.processes[name]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=20)
        time.sleep(0.5)
        self.spawn(name)
        if name in WEB:
            url = f"http://127.0.0.1:{self.ports[name]}"
            wait_until(lambda: status(url, "/readyz") == 200, timeout_s=60, what=f"{name} to be back")

    def stop(self) -> None:
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=20)


def nginx_conf(*, front: int, ports: list[int], folder: Path) -> str:
    """Return deploy/nginx.conf for this machine: other addresses, plain http, nothing else changed."""
    text = (REPOSITORY / "deploy" / "nginx.conf").read_text()
    for number, port in enumerate(ports, start=1):
        text = text.replace(f"web-{number}:8000", f"127.0.0.1:{port}")
    text = re.sub(r"listen 8080;", f"listen 127.0.0.1:{free_port()};", text)
    text = re.sub(r"listen 8443 ssl;", f"listen 127.0.0.1:{front};", text)
    text = re.sub(r"\n\s+ssl_[^\n]+", "", text)
    text = text.replace("proxy_set_header Host $host;", "proxy_set_header Host $http_host;")
    text = re.sub(r"^pid .*$", f"pid {folder}/nginx.pid;", text, flags=re.MULTILINE)
    return text.replace("_temp_path /tmp/", f"_temp_path {folder}/nginx-")


@pytest.fixture
def production(django_db_setup: None, tmp_path: Path) -> Iterator[tuple[Production, Site]]:
    try:
        with kombu.Connection(BROKER, connect_timeout=2) as broker:
            broker.connect()
            channel: Any = broker.default_channel
            channel.queue_delete("respan")
    except (OSError, ConnectionError) as error:
        pytest.skip(f"no RabbitMQ at {BROKER.rpartition('@')[2]}: {error}")
    provider = Provider().start()
    running = Production(tmp_path, stack.environment(tmp_path, provider))
    site = Site(running, provider, cluster=None)  # type: ignore[arg-type]
    try:
        running.start()
        yield running, site
    finally:
        site.close()
        running.stop()
        provider.stop()


def test_two_web_processes_on_rabbitmq_lose_no_call_when_each_process_is_killed(production):
    running, site = production
    site.customer("1000")
    traffics = [
        Traffic(url, site.api_key, model="fake/exact-slow", connections=8 // len(running.base_urls)).start()
        for url in running.base_urls
    ]
    time.sleep(2)
    hits = []
    for name in [*WEB, *WEB, "shipper", *WEB, "worker", *WEB, "beat"]:
        wait_until(lambda: sum(each.in_flight for each in traffics) > 0, timeout_s=10, what="an open call")
        hits.append((name, sum(each.in_flight for each in traffics)))
        running.kill(name)
        time.sleep(2 + random.random())  # noqa: S311
    for each in traffics:
        each.stop()

    check(running, site, traffics)
    print(f"through {'nginx' if NGINX else 'two ports'}: killed {hits}")


def check(running: Production, site: Site, traffics: list[Traffic]) -> None:
    """Each call that was admitted is exactly one trace; money and queue agree."""
    from respan import ids

    seen = set().union(*(each.log_ids() for each in traffics))
    outcomes = [outcome for each in traffics for outcome in each.outcomes]
    books = site.settled(spans=len(seen), timeout_s=90)
    with psycopg.connect(running.database_url) as connection:
        traced = [
            ids.encode("log", row[0])
            for row in connection.execute(
                "SELECT id FROM traces_span WHERE organization_id = %s", [site.organization_id]
            ).fetchall()
        ]
        version = connection.execute("SHOW server_version").fetchone()
    assert len(traced) == len(set(traced)) == books["count"]
    assert seen - set(traced) == set()
    assert books["spans"]["ok"]["count"] >= sum(outcome.complete for outcome in outcomes) > 500
    charged = sum(row["charged_nano"] for row in books["spans"].values())
    assert books["posted"] == site.granted_nano - charged
    done = site.verify_ledger()
    assert done.returncode == 0, done.stdout
    with kombu.Connection(BROKER) as broker:
        channel: Any = broker.default_channel
        left = channel.queue_declare("respan", passive=True).message_count
        # Declared once more as it is: RabbitMQ refuses (406) where the type is another.
        channel.queue_declare("respan", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    statuses = {status: sum(o.status == status for o in outcomes) for status in {o.status for o in outcomes}}
    print(f"PostgreSQL {version[0]}; {len(outcomes)} calls {statuses}; {books['spans']}; {books['holds']}; {left} left")
    examined = running.run(
        [sys.executable, "manage.py", "doctor", "--only", "redis", "broker", "shipper", "workers", "database"]
    )
    assert examined.returncode == 0, examined.stdout
    print(examined.stdout)
