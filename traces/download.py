"""A filtered list of logs as a file: CSV for spreadsheets or one JSON object a line, streamed page by page.

Responsible for memory (a page at a time), for the limit, and for cells that no spreadsheet takes for formulas. Holds no
SQL, decides nothing about who may export. Neighbours: `reading.py` (the pages), `export.py` (names of the fields),
`views.py`.
"""

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any, Final

import msgspec
from asgiref.sync import sync_to_async

from accounts.models import ApiKey, Organization
from respan import sheets
from traces import export, reading
from traces.query import SpanQuery
from traces.reading import Log

MAX_ROWS: Final = 50_000
FORMATS: Final = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
_PAGE_SIZE: Final = 500
_COLUMNS: Final = (
    *("id", "start_time", "status", "status_code", "model", "response_model", "provider_id", "environment"),
    *("organization_key_name", "customer_identifier", "thread_identifier", "custom_identifier"),
    *("prompt_tokens", "completion_tokens", "prompt_cache_hit_tokens", "reasoning_tokens", "latency"),
    *("time_to_first_token", "cost_usd", "charged_usd", "covered_by", "finish_reason", "error_code", "error_message"),
    *("input", "output"),
)
# A list is exported without the bodies; `input` and `output` are their first words.
_LEFT_OUT: Final = export.CONTENT_FIELDS - {"input", "output"} | {"is_log_omitted"}


def chunks(
    *,
    organization: Organization,
    query: SpanQuery,
    format: str,
    max_rows: int = MAX_ROWS,
    page_size: int = _PAGE_SIZE,
) -> Iterator[bytes]:
    """Yield the file in pieces, newest log first. Raises: reading.SearchTooSlow."""
    if format == "csv":
        yield _csv([_COLUMNS])
    names: dict[int, export.KeyName] = {}
    left, cursor = max_rows, None
    while left > 0:
        page = reading.logs(organization_id=organization.pk, query=query, cursor=cursor, limit=min(page_size, left))
        if page.logs:
            names |= _key_names(organization, {log.api_key_id for log in page.logs} - names.keys())
            shapes = [_shape(log, names.get(log.api_key_id), organization) for log in page.logs]
            yield _csv([_cells(shape) for shape in shapes]) if format == "csv" else _lines(shapes)
        left, cursor = left - len(page.logs), page.next
        if cursor is None:
            return


async def chunks_async(*, organization: Organization, query: SpanQuery, format: str) -> AsyncIterator[bytes]:
    """Yield what `chunks` yields, without holding up the event loop."""
    iterator = chunks(organization=organization, query=query, format=format)

    def following() -> bytes | None:
        return next(iterator, None)

    while (chunk := await sync_to_async(following)()) is not None:
        yield chunk


def _key_names(organization: Organization, rows: set[int]) -> dict[int, export.KeyName]:
    if not rows:
        return {}
    found = ApiKey.objects.filter(organization=organization, pk__in=rows).values_list("pk", "public_id", "name")
    return {pk: export.KeyName(public_id, name) for pk, public_id, name in found}


def _shape(log: Log, key: export.KeyName | None, organization: Organization) -> dict[str, Any]:
    shape = export.public_log(log, None, key=key, organization_id=organization.public_id)
    return {name: value for name, value in shape.items() if name not in _LEFT_OUT} | {
        "cost_usd": _usd(log.cost_nano),
        "charged_usd": _usd(log.charged_nano),
    }


def _usd(nano: int | None) -> str | None:
    return None if nano is None else f"{Decimal(nano).scaleb(-9):f}"


def _lines(shapes: list[dict[str, Any]]) -> bytes:
    return b"".join(msgspec.json.encode(shape) + b"\n" for shape in shapes)


def _csv(rows: Any) -> bytes:
    return sheets.written(rows).encode("utf-8")


def _cells(shape: dict[str, Any]) -> list[Any]:
    return [safe_cell(shape.get(name)) for name in _COLUMNS]


def safe_cell(value: Any) -> Any:
    """Return a text so that a spreadsheet takes it for a text; numbers stay numbers."""
    return sheets.cell(value) if isinstance(value, str) else value
