"""Liveness and readiness, as a load balancer sees them."""

import http.client
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.test import AsyncClient

from respan import health

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


def test_unreachable_database_is_not_ready_but_alive(running: Callable[..., Any]) -> None:
    server = running()
    gone = {"DATABASE_URL": "postgres://nobody:wrong@127.0.0.1:1/nothing"}
    server.kill("web")
    server.env.update(gone)
    server.start_process("web")
    status = 0
    for _ in range(200):
        try:
            status, body = _get(server.base_url, "/readyz")
            break
        except OSError:
            continue
    assert status == 503
    assert body["database"] == "unreachable"
    assert _get(server.base_url, "/healthz")[0] == 200


async def test_missing_migration_is_not_ready(settings: Any) -> None:
    from asgiref.sync import sync_to_async

    ours = await sync_to_async(health._migrations)()
    assert {"accounts.0001_initial", "billing.0001_initial", "traces.0001_initial", "gateway.0001_initial"} <= ours
    assert os.environ["DATABASE_URL"]
