"""Rows of the trace tables as the write path leaves them, for tests of the read path."""

import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
import zstandard
from django.db import connection

from respan import ids


def insert_span(*, organization_id: int, **values: Any) -> uuid.UUID:
    """Insert a span (a successful call of this moment unless told otherwise) and return its id."""
    started_at = values.get("started_at") or datetime.now(UTC)
    row = {
        "id": ids.new_uuid(int(started_at.timestamp() * 1000)),
        "started_at": started_at,
        "environment": "production",
        "api_key_id": 1,
        "trace_id": uuid.uuid4().bytes,
        "name": "chat.completions",
        "log_type": "chat",
        "duration_us": 820_000,
        "ttft_us": 120_000,
        "status": "ok",
        "http_status": 200,
        "stream": False,
        "provider": "openai",
        "request_model": "gpt-4o-mini",
        "response_model": "gpt-4o-mini-2024-07-18",
        "paid_by": "credits",
        "input_tokens": 10,
        "output_tokens": 20,
        "usage_source": "exact",
        "cost_nano": 13_500,
        "charged_nano": 13_500,
        "finish_reason": "stop",
        "input_preview": "Hello",
        "output_preview": "Hi there",
        **values,
        "organization_id": organization_id,
    }
    for name in ("metadata", "warnings", "attempts"):
        if name in row:
            row[name] = msgspec.json.encode(row[name]).decode()
    names = ", ".join(row)
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO traces_span ({names}) VALUES ({', '.join(['%s'] * len(row))})", list(row.values()))
    return row["id"]


def insert_call(*, organization_id: int, request: Any, response: Any, **values: Any) -> uuid.UUID:
    """Insert a span with its bodies (JSON values, or bytes as they are) and return its id."""
    truncated = {name: values.pop(name, False) for name in ("request_truncated", "response_truncated")}
    values.setdefault("started_at", datetime.now(UTC))
    span_id = insert_span(organization_id=organization_id, has_body=True, **values)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO traces_body (organization_id, id, started_at, request, response, request_truncated,"
            " response_truncated) VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [organization_id, span_id, values["started_at"], _stored(request), _stored(response), *truncated.values()],
        )
    return span_id


def _stored(body: Any) -> bytes | None:
    if body is None:
        return None
    return zstandard.compress(body if isinstance(body, bytes) else msgspec.json.encode(body))
