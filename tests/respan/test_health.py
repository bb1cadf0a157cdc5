"""Liveness and readiness, as a load balancer sees them."""

import http.client
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.test import AsyncClient

from tests.conftest import on_server
from tests.servers import Server, status, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def _get(base_url: str, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    return response.status, body


async def test_process_that_answers_is_alive(async_client: AsyncClient) -> None:
    response = await async_client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}
    assert response["Cache-Control"] == "no-store"


async def test_complete_installation_is_ready(async_client: AsyncClient) -> None:
    response = await async_client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "database": "ok", "migrations": "ok", "spool": "ok", "catalog": "ok"}


async def test_unwritable_spool_is_not_ready(async_client: AsyncClient, settings: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings.RESPAN_SPOOL_DIR = tmp_path / "file" / "spool"
    response = await async_client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["spool"] == "unwritable"


@pytest.fixture
def answers_of(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Start a web process on some database and return what it says of itself: (readyz, healthz)."""
    started: list[Server] = []

    def answers(database_url: str) -> Any:
        server = Server(data_dir=tmp_path / "server", env={"DATABASE_URL": database_url})
        started.append(server)
        server.start_process("web")
        wait_until(lambda: status(server.base_url, "/healthz") == 200, what="a living process")
        return _get(server.base_url, "/readyz")

    yield answers
    for server in started:
        server.stop()


def test_unreachable_database_is_not_ready_but_alive(answers_of: Callable[[str], Any]) -> None:
    code, body = answers_of("postgres://nobody:wrong@127.0.0.1:1/nothing")
    assert code == 503
    assert body == {
        "status": "unavailable", "database": "unreachable", "migrations": "unknown", "spool": "ok", "catalog": "ok"
    }  # fmt: skip


def test_database_without_tables_is_not_ready_but_alive(answers_of: Callable[[str], Any]) -> None:
    server = urlsplit(os.environ["DATABASE_URL"])
    name = f"{server.path.strip('/')}_empty"
    on_server(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    on_server(f'CREATE DATABASE "{name}"')
    code, body = answers_of(urlunsplit(server._replace(path=f"/{name}")))
    assert code == 503
    assert body["database"] == "ok"
    assert body["migrations"] == "pending"
    on_server(f'DROP DATABASE "{name}" WITH (FORCE)')
