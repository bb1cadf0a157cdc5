"""Spans and bodies in PostgreSQL: written by COPY, counted into the roll-ups in the same transaction.

`Store` works inside the caller's transaction and opens savepoints only. Never decides what a call costs (that is
`traces.loading`), never reads for a page (that is `traces.reading`). Neighbours: `rollups.py`, `partitions.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
import zstandard
from django.db import connection, transaction

from traces import logs, spans
from traces.store.partitions import attach_partitions, drop_partitions
from traces.store.protocol import Charge, Refused, Row
from traces.store.rollups import SPAN_COLUMNS, RollUps

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_US = 10**12
_LARGEST_SMALLINT = 2**15 - 1
# An indexed text must fit into a B-tree entry (2,704 bytes).
_INDEXED_CHARS = 500
_MESSAGE_CHARS = 4_000
# What a record can be guilty of. Anything else (no connection, no table, no room) is not the record's fault.
_GUILTY = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded)


def raw_cursor() -> "psycopg.Cursor[tuple[Any, ...]]":
    """Open psycopg's own cursor on Django's connection: binary parameters, COPY, errors as psycopg raises them."""
    connection.ensure_connection()
    return psycopg.Cursor(connection.connection)


def moment(microseconds: int) -> datetime:
    """Return the exact moment of microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _text(value: str | None, chars: int = _INDEXED_CHARS) -> str | None:
    """Make a text storable: PostgreSQL has no NUL, an index no room for novels."""
    return None if value is None else value[:chars].replace("\0", "\ufffd")


def _json(value: Any) -> str:
    return msgspec.json.encode(spans.plain(value)).decode().replace("\\u0000", "\\ufffd")


def _duration(value: int | None) -> int | None:
    return None if value is None else max(0, min(value, _LONGEST_US))


def _small(value: int) -> int:
    return max(0, min(value, _LARGEST_SMALLINT))


def _attempt(attempt: spans.Attempt) -> dict[str, Any]:
    """Return an attempt for JSON, which has no bytes: its span id in hexadecimal, as traces are read."""
    plain: dict[str, Any] = spans.plain(attempt)
    return {**plain, "span_id": attempt.span_id.hex()} if attempt.span_id else plain


class _Column(NamedTuple):
    name: str
    of: Callable[[Row], Any]


def _field(name: str) -> _Column:
    return _Column(name, lambda row: getattr(row.record, name))


def _text_field(name: str, chars: int = _INDEXED_CHARS) -> _Column:
    return _Column(name, lambda row: _text(getattr(row.record, name), chars))


def _found(name: str) -> _Column:
    return _Column(name, lambda row: getattr(row, name))


def _tokens(name: str) -> _Column:
    return _Column(name, lambda row: None if row.usage is None else getattr(row.usage, name))


def _has_body(row: Row) -> bool:
    return row.record.request_body is not None or row.record.response_body is not None


# In the order of COPY: every column of `traces_span` but `absorbed_nano` and `ingested_at`.
_COLUMNS = (
    _field("organization_id"),
    _field("id"),
    _Column("started_at", lambda row: moment(row.record.started_us)),
    _text_field("environment"),
    _field("api_key_id"),
    # A call that came without a trace is the root of its own.
    _Column("trace_id", lambda row: row.record.trace_id or row.record.id.bytes),
    _field("parent_span_id"),
    _text_field("name", 255),
    _text_field("log_type"),
    _Column("duration_us", lambda row: _duration(row.record.duration_us)),
    _Column("ttft_us", lambda row: _duration(row.record.ttft_us)),
    _text_field("status"),
    _field("http_status"),
    _field("stream"),
    _text_field("provider"),
    _text_field("request_model"),
    _text_field("response_model"),
    _text_field("credential"),
    _text_field("paid_by"),
    _field("rates_id"),
    _tokens("input_tokens"),
    _tokens("output_tokens"),
    _tokens("cache_read_input_tokens"),
    _tokens("cache_creation_input_tokens"),
    _tokens("reasoning_output_tokens"),
    _found("usage_source"),
    _found("cost_nano"),
    _found("charged_nano"),
    _text_field("finish_reason"),
    _text_field("error_code"),
    _text_field("error_message", _MESSAGE_CHARS),
    _text_field("customer_identifier"),
    _text_field("customer_name"),
    _text_field("customer_email"),
    _text_field("custom_identifier"),
    _text_field("thread_identifier"),
    _Column("metadata", lambda row: _json(row.record.metadata)),
    _Column("warnings", lambda row: _json(row.record.warnings)),
    _Column("attempts", lambda row: _json([_attempt(each) for each in row.record.attempts])),
    _Column("input_preview", lambda row: _text(logs.input_preview(row.record.request_body))),
    _Column("output_preview", lambda row: _text(logs.output_preview(row.record.response_body))),
    _Column("has_body", _has_body),
    _field("cached"),
    _Column("saved_nano", lambda row: None if row.record.saved_nano is None else max(0, row.record.saved_nano)),
    _Column("fallback", lambda row: _small(row.record.fallback)),
    _Column("retries", lambda row: _small(row.record.retries)),
    _Column("limit_name", lambda row: _text(row.record.limit)),
    _text_field("cache_key"),
    _field("cache_log_id"),
    _text_field("load_balance_group"),
)
_NAMES = tuple(column.name for column in _COLUMNS)
_COPY_SPANS = f"COPY traces_span ({', '.join(_NAMES)}) FROM STDIN"
_COPY_BODIES = """COPY traces_body
    (organization_id, id, started_at, request, response, request_truncated, response_truncated)
    FROM STDIN (FORMAT binary)"""
_BODY_TYPES = ["int8", "uuid", "timestamptz", "bytea", "bytea", "bool", "bool"]

# What a span is found by: `id` alone is unique among ours, but the index begins with the tenant and needs the day.
_Key = tuple[int, UUID, datetime]
_THESE = "unnest(%s::bigint[], %s::uuid[], %s::timestamptz[]) AS these (organization_id, id, started_at)"
_SELECT_STATUSES = f"""
    SELECT organization_id, id, started_at, status
    FROM traces_span JOIN {_THESE} USING (organization_id, id, started_at)
"""  # noqa: S608  (constants)
_DELETE_INTERRUPTED = f"""
    DELETE FROM traces_span AS span USING {_THESE}
    WHERE span.organization_id = these.organization_id AND span.id = these.id AND span.started_at = these.started_at
      AND span.status = '{spans.INTERRUPTED}'
    RETURNING {", ".join(f"span.{name}" for name in SPAN_COLUMNS)}
"""  # noqa: S608  (constants)
_CORRECT_CHARGE = f"""
    WITH before AS (
        SELECT organization_id, id, started_at, charged_nano AS was_nano FROM traces_span
        WHERE organization_id = %s AND id = %s AND started_at = %s AND status = %s
    )
    UPDATE traces_span AS span SET charged_nano = %s, absorbed_nano = %s
    FROM before
    WHERE span.organization_id = before.organization_id AND span.id = before.id AND span.started_at = before.started_at
    RETURNING before.was_nano, {", ".join(f"span.{name}" for name in SPAN_COLUMNS)}
"""  # noqa: S608  (constants)


class _Ready(NamedTuple):
    """A row and its values, made before the database sees any of them."""

    row: Row
    values: list[Any]


class _Change(NamedTuple):
    added: list[_Ready]
    taken_out: list[dict[str, Any]]


class Store:
    """The `TraceStore` of PostgreSQL."""

    def write(self, rows: Sequence[Row]) -> list[Refused]:
        """Add spans, bodies and roll-ups of the rows not there yet; a finished call replaces an interrupted one.

        Each call may be among the rows once.
        """
        refused: list[Refused] = []
        ready: list[_Ready] = []
        for row in rows:
            try:
                ready.append(_Ready(row, [column.of(row) for column in _COLUMNS]))
            except (TypeError, ValueError, OverflowError, AttributeError) as error:
                refused.append(Refused(row, f"{type(error).__name__}: {error}"))
        rollups = RollUps()
        self._add(ready, rollups, refused)
        with raw_cursor() as cursor:
            rollups.save(cursor)
        return refused

    def _add(self, ready: list[_Ready], rollups: RollUps, refused: list[Refused]) -> None:
        """Copy the rows. One that the database refuses is found by halving: it must not sink the others."""
        if not ready:
            return
        try:
            change = _copy_new(ready)
        except _GUILTY as error:
            if len(ready) == 1:
                refused.append(Refused(ready[0].row, f"{type(error).__name__}: {error}"))
                return
            half = len(ready) // 2
            self._add(ready[:half], rollups, refused)
            self._add(ready[half:], rollups, refused)
            return
        for one in change.added:
            rollups.add(dict(zip(_NAMES, one.values, strict=True)))
        for span in change.taken_out:
            rollups.take_out(span)

    def correct(self, charges: Mapping[UUID, Charge], rows: Sequence[Row]) -> None:
        """Put the final charges of the rows with these ids into spans and roll-ups."""
        rollups = RollUps()
        with raw_cursor() as cursor:
            for row in rows:
                charge = charges.get(row.record.id)
                if charge is None:
                    continue
                cursor.execute(
                    _CORRECT_CHARGE, [*_key(row), row.record.status, charge.charged_nano, charge.absorbed_nano]
                )
                found = cursor.fetchone()
                if found is not None:
                    span = dict(zip(SPAN_COLUMNS, found[1:], strict=True))
                    rollups.charge(span, charge.charged_nano - found[0])
            rollups.save(cursor)

    def maintain(self, *, now: datetime, retention_days: int) -> None:
        """Make room for the days to come and drop those beyond the retention. Idempotent."""
        attach_partitions(now=now)
        drop_partitions(now=now, retention_days=retention_days)


def _key(row: Row) -> _Key:
    return row.record.organization_id, row.record.id, moment(row.record.started_us)


def _copy_new(ready: list[_Ready]) -> _Change:
    """Copy all rows at once or, where some are there already, those that are new."""
    try:
        with transaction.atomic():
            _copy(ready)
        return _Change(ready, [])
    except psycopg.errors.UniqueViolation:
        # Another batch brought some of them, and has committed: until then COPY waited for it.
        with transaction.atomic():
            new, taken_out = _not_there(ready)
            if len(new) == len(ready) and not taken_out:
                raise
            change = _copy_new(new) if new else _Change([], [])
        return _Change(change.added, taken_out + change.taken_out)


def _copy(ready: Sequence[_Ready]) -> None:
    with raw_cursor() as cursor:
        with cursor.copy(_COPY_SPANS) as copy:
            for one in ready:
                copy.write_row(one.values)
        with_body = [one.row for one in ready if _has_body(one.row)]
        if not with_body:
            return
        compressor = zstandard.ZstdCompressor(level=3)
        with cursor.copy(_COPY_BODIES) as copy:
            copy.set_types(_BODY_TYPES)
            for row in with_body:
                copy.write_row(_body(row, compressor))


def _body(row: Row, compressor: zstandard.ZstdCompressor) -> tuple[Any, ...]:
    record = row.record
    request, response = record.request_body, record.response_body
    return (
        *_key(row),
        None if request is None else compressor.compress(request),
        None if response is None else compressor.compress(response),
        record.request_truncated,
        record.response_truncated,
    )


def _not_there(ready: list[_Ready]) -> tuple[list[_Ready], list[dict[str, Any]]]:
    """Leave out the rows that are there; where a finished call meets its interrupted span, that span is taken out."""
    with raw_cursor() as cursor:
        cursor.execute(_SELECT_STATUSES, _arrays(one.row for one in ready))
        there = {(organization, id_, at.astimezone(UTC)): status for organization, id_, at, status in cursor}
        better = [
            one.row
            for one in ready
            if (key := _key(one.row)) in there and spans.supersedes(one.row.record.status, there[key])
        ]
        taken_out = []
        if better:
            cursor.execute(_DELETE_INTERRUPTED, _arrays(better))
            taken_out = [dict(zip(SPAN_COLUMNS, values, strict=True)) for values in cursor.fetchall()]
    gone = {_key(row) for row in better}
    return [one for one in ready if (key := _key(one.row)) not in there or key in gone], taken_out


def _arrays(rows: Iterable[Row]) -> list[list[Any]]:
    return [list(column) for column in zip(*(_key(row) for row in rows), strict=True)]
