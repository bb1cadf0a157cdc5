"""The door out of the trace store: lists of logs, one log with its bodies, and a few sums, always of one organization.

Reads the partitioned tables with SQL of its own, through Django's connection; never writes. Every public function
takes `organization_id` and puts it into the statement itself, so that no filter can leave the organization.
Neighbours: `query.py` (compiles filters), `export.py` (Respan's shape), `api.py`, `views.py`, the home page.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import psycopg.errors
import zstandard
from django.db import OperationalError, connection, transaction

from respan.errors import Error
from traces import query as queries
from traces.query import Cursor, SpanQuery

# A search that takes longer is refused: it would hold a connection and a core for one reader.
STATEMENT_TIMEOUT_MS: Final = 3_000
COUNT_LIMIT: Final = 10_001
# Bodies are cut at 256 KiB when they are stored; more than this is no body of ours.
_MAX_BODY_BYTES: Final = 4 * 1024 * 1024
# Bodies of one list, decompressed; logs beyond it are listed without them.
_MAX_LIST_BYTES: Final = 32 * 1024 * 1024
_BODIES_AT_ONCE: Final = 50


class SearchTooSlow(Error):
    """The statement timeout ended a search."""

    status = 400
    code = "search_too_slow"
    message = "This search takes too long. Narrow the time range or add a filter such as model, key or customer."


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One row of traces_span; the fields are its columns."""

    id: uuid.UUID
    started_at: datetime
    environment: str
    api_key_id: int
    trace_id: bytes | None
    parent_span_id: bytes | None
    name: str
    log_type: str
    duration_us: int
    ttft_us: int | None
    status: str
    http_status: int
    stream: bool
    provider: str | None
    request_model: str
    response_model: str | None
    credential: str | None
    paid_by: str
    rates_id: int | None
    input_tokens: int | None
    output_tokens: int | None
    cache_read_input_tokens: int | None
    cache_creation_input_tokens: int | None
    reasoning_output_tokens: int | None
    usage_source: str
    cost_nano: int | None
    charged_nano: int
    absorbed_nano: int
    finish_reason: str | None
    error_code: str | None
    error_message: str | None
    customer_identifier: str | None
    customer_name: str | None
    customer_email: str | None
    custom_identifier: str | None
    thread_identifier: str | None
    metadata: dict[str, Any]
    warnings: list[Any]
    attempts: list[dict[str, Any]]
    input_preview: str | None
    output_preview: str | None
    has_body: bool
    cached: bool
    saved_nano: int | None
    fallback: int
    retries: int
    limit_name: str | None
    cache_key: str | None
    cache_log_id: uuid.UUID | None
    load_balance_group: str | None

    @property
    def ended_at(self) -> datetime:
        return self.started_at + timedelta(microseconds=self.duration_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What was asked and answered: JSON as the client sent it and got it, perhaps cut."""

    request: bytes | None
    response: bytes | None
    request_truncated: bool
    response_truncated: bool


@dataclass(frozen=True, slots=True)
class LogDetail:
    """A log with its bodies; `body` is None where logging them was switched off."""

    log: Log
    body: Body | None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, in its order. The cursors lead to the neighbouring parts, None where there is none.

    Orders other than by time have no cursors: there `has_next` says whether the list goes on.
    """

    logs: tuple[Log, ...]
    has_next: bool = False
    next: str | None = None
    previous: str | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """How many logs there are, counted up to a limit."""

    value: int
    is_capped: bool


_COLUMNS = tuple(field.name for field in fields(Log))
_JSON_COLUMNS = tuple(_COLUMNS.index(name) for name in ("metadata", "warnings", "attempts"))
# How far back a search while typing looks, and the columns it compares.
_NEWEST: Final = 2_000
_NAMING: Final = ("request_model", "customer_identifier", "customer_name", "thread_identifier", "custom_identifier")
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM traces_span WHERE organization_id = %s AND "  # noqa: S608


def run(sql: str, params: Sequence[Any], *, timeout_ms: int = STATEMENT_TIMEOUT_MS) -> list[tuple[Any, ...]]:
    """Run one statement of this app under a time limit. Raises: SearchTooSlow."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{timeout_ms}ms"])
            cursor.execute(sql, params)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise SearchTooSlow from error
        raise


def _log(row: Sequence[Any]) -> Log:
    values = list(row)
    for index in _JSON_COLUMNS:
        if isinstance(values[index], str):  # Django leaves JSON of raw statements undecoded
            values[index] = msgspec.json.decode(values[index])
    return Log(**dict(zip(_COLUMNS, values, strict=True)))


def logs(*, organization_id: int, query: SpanQuery, cursor: str | None = None, limit: int, offset: int = 0) -> Page:
    """Return a part of the list: behind `cursor` when there is one, else behind `offset` rows.

    Cursors exist for orders by time only. Raises: queries.InvalidCursor; SearchTooSlow.
    """
    position = queries.decode_cursor(cursor, query) if cursor else None
    where = queries.where(query)
    sql, params = _SELECT + where.sql, [organization_id, *where.params]
    if position is not None:
        beyond = queries.beyond(position, query.sort)
        sql, params, offset = f"{sql} AND {beyond.sql}", [*params, *beyond.params], 0
    is_back = position is not None and position.back
    sql += f" ORDER BY {queries.order(query.sort, reverse=is_back)} LIMIT %s OFFSET %s"
    found = [_log(row) for row in run(sql, [*params, limit + 1, offset])]
    has_more, found = len(found) > limit, found[:limit]
    if is_back:
        found.reverse()
    has_next = has_more or is_back
    has_previous = has_more if is_back else position is not None or offset > 0
    if not query.sort.is_by_time or not found:
        return Page(tuple(found), has_next)
    return Page(
        tuple(found),
        has_next,
        _cursor(found[-1], query) if has_next else None,
        _cursor(found[0], query, back=True) if has_previous else None,
    )


def _cursor(log: Log, query: SpanQuery, *, back: bool = False) -> str:
    return queries.encode_cursor(Cursor(log.started_at, log.id, back), query)


def count(*, organization_id: int, query: SpanQuery, limit: int = COUNT_LIMIT) -> Count:
    """Count the logs of a query, up to a limit. Raises: SearchTooSlow."""
    where = queries.where(query)
    sql = (
        "SELECT count(*) FROM (SELECT 1 FROM traces_span WHERE organization_id = %s"  # noqa: S608
        f" AND {where.sql} LIMIT %s) AS counted"
    )
    [(value,)] = run(sql, [organization_id, *where.params, limit])
    return Count(value, is_capped=value >= limit)


def count_newer(*, organization_id: int, query: SpanQuery, cursor: str, limit: int) -> int:
    """Count the logs that came before a page since it was read, up to a limit; `cursor` is its `start_cursor`.

    Raises: queries.InvalidCursor; SearchTooSlow.
    """
    where = queries.where(query)
    beyond = queries.beyond(queries.decode_cursor(cursor, query), query.sort)
    sql = (
        "SELECT count(*) FROM (SELECT 1 FROM traces_span WHERE organization_id = %s"  # noqa: S608
        f" AND {where.sql} AND {beyond.sql} LIMIT %s) AS counted"
    )
    [(value,)] = run(sql, [organization_id, *where.params, *beyond.params, limit])
    return int(value)


def start_cursor(page: Page, query: SpanQuery, *, now: datetime) -> str:
    """Return the position before a newest page's first log (of an empty one: now), for `count_newer`."""
    if page.logs:
        return _cursor(page.logs[0], query, back=True)
    return queries.encode_cursor(Cursor(now, uuid.UUID(int=0), back=True), query)


def log(*, organization_id: int, id: uuid.UUID) -> LogDetail | None:
    """Return one log with its bodies, or None when the organization has none with this id."""
    window = _window(id)
    found = run(f"{_SELECT} id = %s AND started_at BETWEEN %s AND %s", [organization_id, id, *window])
    if not found:
        return None
    row = _log(found[0])
    return LogDetail(row, bodies(organization_id=organization_id, logs=[row]).get(id) if row.has_body else None)


def _window(id: uuid.UUID) -> tuple[datetime, datetime]:
    """Return when a log with this id can have started: our ids begin with their time, so few partitions are read."""
    if id.version != 7:
        return datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
    try:
        made_at = datetime.fromtimestamp((id.int >> 80) / 1000, tz=UTC)
        return made_at - timedelta(hours=1), made_at + timedelta(hours=1)
    except (ValueError, OverflowError):
        return datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)


def bodies(*, organization_id: int, logs: Sequence[Log]) -> dict[uuid.UUID, Body]:
    """Return the bodies of these logs, as many of the first ones as fit into memory set aside for a list."""
    found: dict[uuid.UUID, Body] = {}
    left = _MAX_LIST_BYTES
    wanted = [each for each in logs if each.has_body]
    for start in range(0, len(wanted), _BODIES_AT_ONCE):
        part = wanted[start : start + _BODIES_AT_ONCE]
        stored = {row[0]: row for row in _stored_bodies(organization_id, part)}
        for each in part:
            if each.id not in stored:
                continue
            body = _body(stored[each.id])
            left -= len(body.request or b"") + len(body.response or b"")
            if left < 0:
                return found
            found[each.id] = body
    return found


def _stored_bodies(organization_id: int, logs: Sequence[Log]) -> list[tuple[Any, ...]]:
    """Read compressed bodies; the bounds of time keep the statement to the partitions of these logs."""
    times = [each.started_at for each in logs]
    return run(
        "SELECT id, request, response, request_truncated, response_truncated FROM traces_body"
        " WHERE organization_id = %s AND started_at BETWEEN %s AND %s AND id = ANY(%s)",
        [organization_id, min(times), max(times), [each.id for each in logs]],
    )


def _body(row: tuple[Any, ...]) -> Body:
    _, request, response, request_truncated, response_truncated = row
    return Body(
        request=_decompressed(request),
        response=_decompressed(response),
        request_truncated=request_truncated,
        response_truncated=response_truncated,
    )


def _decompressed(data: bytes | memoryview | None) -> bytes | None:
    if data is None:
        return None
    reader = zstandard.ZstdDecompressor().stream_reader(bytes(data))
    return reader.read(_MAX_BODY_BYTES)


def recent(*, organization_id: int, text: str, limit: int) -> list[Log]:
    """Return the newest logs that a text means: a beginning of their id, or a part of their model or of who called.

    Looks at the newest few thousand only: this answers while somebody types.
    """
    if text.startswith("log_"):
        first, last = queries.log_ids_from(text)
        if first is None or last is None:
            return []
        sql = f"{_SELECT} id BETWEEN %s AND %s AND started_at BETWEEN %s AND %s"
        bounds = [organization_id, first, last, _window(first)[0], _window(last)[1]]
        return [_log(row) for row in run(f"{sql} ORDER BY started_at DESC LIMIT %s", [*bounds, limit])]
    newest = f"{_SELECT} TRUE ORDER BY started_at DESC, id DESC LIMIT {_NEWEST}"
    named = " OR ".join(f"{column} ILIKE %s" for column in _NAMING)
    sql = f"SELECT {', '.join(_COLUMNS)} FROM ({newest}) AS newest WHERE {named} ORDER BY started_at DESC LIMIT %s"  # noqa: S608
    pattern = queries.containing(text)
    return [_log(row) for row in run(sql, [organization_id, *[pattern] * len(_NAMING), limit])]


def has_logs(*, organization_id: int) -> bool:
    """Tell whether the organization ever made a call that is still kept."""
    return bool(run("SELECT 1 FROM traces_span WHERE organization_id = %s LIMIT 1", [organization_id]))


def spend_by_key(*, organization_id: int, since: datetime) -> dict[int, int]:
    """Return what each API key's calls were charged since a moment, in nano-USD, by the key's row id."""
    rows: Iterable[tuple[int, Any]] = run(
        "SELECT api_key_id, sum(charged_nano) FROM traces_span"
        " WHERE organization_id = %s AND started_at >= %s GROUP BY api_key_id",
        [organization_id, since],
    )
    return {api_key_id: int(nano) for api_key_id, nano in rows}


def cost_by_key(*, organization_id: int, since: datetime) -> dict[int, int]:
    """Return what each API key's calls cost since the beginning of a day, whoever paid, by the key's row id."""
    rows: Iterable[tuple[str, Any]] = run(
        "SELECT value, sum(cost_nano) FROM traces_usage_part"
        " WHERE organization_id = %s AND dimension = 'key' AND resolution = 'd' AND bucket >= %s GROUP BY value",
        [organization_id, since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)],
    )
    return {int(api_key_id): int(nano) for api_key_id, nano in rows}
