"""What a load balancer asks: `/healthz` (the process answers) and `/readyz` (it can serve a call).

Plain views without login; they tell states, never data, and change nothing. Neighbours: `urls.py`, `supervisor.py`.
"""

import os
from functools import cache
from typing import Any

import psycopg
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db.migrations.loader import MigrationLoader
from django.http import HttpRequest, JsonResponse
from psycopg_pool import PoolTimeout

from gateway.providers import catalog
from respan import pool

# Once every migration was seen applied it stays so for the life of the process.
_applied: set[str] = set()


async def healthz(_: HttpRequest) -> JsonResponse:
    """Answer 200 as long as the process answers at all."""
    return JsonResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


async def readyz(_: HttpRequest) -> JsonResponse:
    """Answer 200 when a call could be served, else 503, naming each part."""
    database, migrations = await _database()
    parts = {"database": database, "migrations": migrations, "spool": _spool(), "catalog": _catalog()}
    ready = all(state == "ok" for state in parts.values())
    body: dict[str, Any] = {"status": "ok" if ready else "unavailable", **parts}
    return JsonResponse(body, status=200 if ready else 503, headers={"Cache-Control": "no-store"})


async def _database() -> tuple[str, str]:
    """Return the states of the database and of the tables in it."""
    try:
        async with pool.connection() as connection:
            if _applied:
                await connection.execute("SELECT 1")
                return "ok", "ok"
            rows = await (await connection.execute("SELECT app, name FROM django_migrations")).fetchall()
    except psycopg.errors.UndefinedTable:
        return "ok", "pending"
    except (psycopg.Error, PoolTimeout, OSError):
        return "unreachable", "unknown"
    ours = await sync_to_async(_migrations)()
    if not ours <= {f"{app}.{name}" for app, name in rows}:
        return "ok", "pending"
    _applied.update(ours)
    return "ok", "ok"


@cache
def _migrations() -> frozenset[str]:
    """Return every migration of this code."""
    loader = MigrationLoader(None, ignore_no_migrations=True)
    return frozenset(f"{app}.{name}" for app, name in loader.disk_migrations)


def _spool() -> str:
    """Say whether this host can keep the records of calls."""
    folder = settings.RESPAN_SPOOL_DIR
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        space = os.statvfs(folder)
    except OSError:
        return "unwritable"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "unwritable"
    return "ok" if space.f_bavail * space.f_frsize >= settings.RESPAN_MAX_BODY_BYTES else "full"


def _catalog() -> str:
    return "ok" if catalog().providers else "empty"
