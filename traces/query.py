"""From filters to SQL: what a list of spans is asked for, checked and compiled into parameterised fragments.

Pure: no Django, no clock, no settings. Values never enter the SQL text, only names from the tables below do. It knows
no organization either: `reading.py` adds it to every statement. Neighbours: `respan.api` (the filter grammar, whose
filters arrive here as plain tuples), `reading.py` (runs the fragments), `api.py` and `views.py` (build a SpanQuery).
"""

import binascii
import hashlib
import struct
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any, Final

from respan import ids
from respan.errors import Error

MAX_CONDITIONS: Final = 50
MAX_VALUES: Final = 200
MAX_VALUE_LENGTH: Final = 1_000
MAX_SEARCH_LENGTH: Final = 200
# A substring search reads every row of its window.
MAX_SEARCH_WINDOW: Final = timedelta(days=7)
_NUMBER_LIMIT: Final = Decimal(10) ** 18

STATUSES: Final[Mapping[str, str]] = {
    "ok": "ok",
    "success": "ok",
    "error": "error",
    "failed": "error",
    "aborted": "aborted",
    "interrupted": "interrupted",
}
ENVIRONMENTS: Final[Mapping[str, str]] = {"production": "production", "prod": "production", "test": "test"}
# What the gateway decided on a call, by the name of `decisions.marks`. The index `traces_span_decided` knows all four.
DECISIONS: Final[Mapping[str, str]] = {
    "cache": "cached",
    "fallback": "fallback > 0",
    "retried": """(retries > 0 AND attempts @> '[{"reason": "retry"}]'::jsonb)""",
    "limited": "limit_name IS NOT NULL",
}


class InvalidQuery(Error):
    """A filter, sort order or time range that cannot be answered; `param` names it."""

    status = 400
    code = "invalid_filter"
    message = "This filter cannot be used."


class InvalidCursor(Error):
    """A page position that was not issued by us, or was issued for other filters."""

    status = 400
    code = "invalid_cursor"
    message = "This page position does not belong to these filters. Start again from the first page."


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of SQL and its parameters, in order."""

    sql: str
    params: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """A filterable field: its SQL expression and the kind of its values."""

    sql: str
    kind: str = "text"
    # How many of the column's units make one unit of the public field.
    scale: int = 1


@dataclass(frozen=True, slots=True)
class Condition:
    """One checked filter. `connector` joins it to the next one; conditions are applied in order."""

    field: str
    operator: str
    values: tuple[Any, ...]
    connector: str = "AND"


_TOTAL_TOKENS = "(COALESCE(input_tokens, 0) + COALESCE(output_tokens, 0))"
_NANO, _MICRO = 10**9, 10**6

FIELDS: Final[Mapping[str, Field]] = {
    "id": Field("id", "log id"),
    "unique_id": Field("id", "log id"),
    "trace_unique_id": Field("encode(trace_id, 'hex')", "hex"),
    "trace_id": Field("encode(trace_id, 'hex')", "hex"),
    "span_parent_id": Field("encode(parent_span_id, 'hex')", "hex"),
    "is_root_span": Field("(parent_span_id IS NULL)", "flag"),
    "span_name": Field("name"),
    "log_type": Field("log_type"),
    "status": Field("status", "status"),
    "failed": Field("(status <> 'ok')", "flag"),
    "status_code": Field("http_status", "number"),
    "error_code": Field("error_code"),
    "error_message": Field("error_message"),
    "has_warnings": Field("(warnings IS NOT NULL AND warnings <> '[]'::jsonb)", "flag"),
    "model": Field("request_model"),
    "response_model": Field("response_model"),
    "provider_id": Field("provider"),
    "provider": Field("provider"),
    "deployment_name": Field("credential"),
    "deployment_id": Field("credential"),
    "load_balance_group_id": Field("load_balance_group"),
    "organization_key_id": Field("api_key_id", "api key"),
    "organization_key_name": Field("api_key_id", "api key"),
    "organization_key__name": Field("api_key_id", "api key"),
    "environment": Field("environment", "environment"),
    "customer_identifier": Field("customer_identifier"),
    "customer_name": Field("customer_name"),
    "customer_email": Field("customer_email"),
    "custom_identifier": Field("custom_identifier"),
    "thread_identifier": Field("thread_identifier"),
    "covered_by": Field("paid_by"),
    "paid_by": Field("paid_by"),
    "used_custom_credential": Field("(paid_by = 'own_key')", "flag"),
    "stream": Field("stream", "flag"),
    "cached": Field("cached", "flag"),
    "cache_hit": Field("cached", "flag"),
    "cache_key": Field("cache_key"),
    "fallback": Field("fallback", "number"),
    "retries": Field("retries", "number"),
    "limit_name": Field("limit_name"),
    "decision": Field("", "decision"),
    "finish_reason": Field("finish_reason"),
    "usage_source": Field("usage_source"),
    "cost": Field("cost_nano", "number", _NANO),
    "total_cost": Field("cost_nano", "number", _NANO),
    "saved": Field("saved_nano", "number", _NANO),
    "latency": Field("duration_us", "number", _MICRO),
    "time_to_first_token": Field("ttft_us", "number", _MICRO),
    "ttft": Field("ttft_us", "number", _MICRO),
    "tokens_per_second": Field("(output_tokens * 1000000.0 / NULLIF(duration_us, 0))", "number"),
    "prompt_tokens": Field("input_tokens", "number"),
    "input_tokens": Field("input_tokens", "number"),
    "completion_tokens": Field("output_tokens", "number"),
    "output_tokens": Field("output_tokens", "number"),
    "total_request_tokens": Field(_TOTAL_TOKENS, "number"),
    "total_tokens": Field(_TOTAL_TOKENS, "number"),
    "all_tokens": Field(_TOTAL_TOKENS, "number"),
    "reasoning_tokens": Field("reasoning_output_tokens", "number"),
    "prompt_cache_hit_tokens": Field("cache_read_input_tokens", "number"),
    "prompt_cache_creation_tokens": Field("cache_creation_input_tokens", "number"),
    "start_time": Field("started_at", "moment"),
    "timestamp": Field("(started_at + duration_us * interval '1 microsecond')", "moment"),
    "input": Field("input_preview", "preview"),
    "output": Field("output_preview", "preview"),
}
METADATA_PREFIX: Final = "metadata__"
_METADATA = Field("metadata ->> %s", "metadata")

# What a list may be ordered by. The first two follow the primary order of time and can be paged by cursor.
SORTS: Final[Mapping[str, str]] = {
    "id": "started_at",
    "timestamp": "started_at",
    "start_time": "started_at",
    "cost": "cost_nano",
    "total_cost": "cost_nano",
    "latency": "duration_us",
    "time_to_first_token": "ttft_us",
    "ttft": "ttft_us",
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "all_tokens": _TOTAL_TOKENS,
    "total_request_tokens": _TOTAL_TOKENS,
    "total_tokens": _TOTAL_TOKENS,
    "tokens_per_second": "(output_tokens * 1000000.0 / NULLIF(duration_us, 0))",
}

_EQUALITY = frozenset({"in", "not_in", "isnull", "empty", "not_empty"})
_ORDER = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_MATCH = frozenset(
    {"contains", "not_contains", "icontains", "startswith", "not_startswith", "endswith", "not_endswith"}
)
_TEXT = _EQUALITY | _MATCH | {"iexact"}
_OPERATORS: Final[Mapping[str, frozenset[str]]] = {
    "text": _TEXT,
    "preview": _TEXT,
    "metadata": _TEXT,
    "number": _EQUALITY | _ORDER.keys(),
    "moment": _EQUALITY | _ORDER.keys(),
    "flag": _EQUALITY,
    "status": _EQUALITY,
    "environment": _EQUALITY,
    "log id": _EQUALITY,
    "hex": _EQUALITY,
    "api key": _EQUALITY,
    "decision": frozenset({"in", "not_in"}),
}
# Kinds whose empty value is the empty text, not only NULL.
_TEXTUAL = frozenset({"text", "preview", "metadata"})


@dataclass(frozen=True, slots=True)
class Sort:
    """An order: a key of SORTS and its direction. Rows without a value come last."""

    key: str = "id"
    descending: bool = True

    @property
    def is_by_time(self) -> bool:
        return SORTS[self.key] == "started_at"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanQuery:
    """What a list of spans is asked for: a time window (both ends included) and what narrows it."""

    since: datetime
    until: datetime
    environment: str | None = None
    conditions: tuple[Condition, ...] = ()
    text: str = ""
    sort: Sort = Sort()

    def __post_init__(self) -> None:
        if self.since > self.until:
            raise InvalidQuery("The start of the time range lies after its end.", param="start_time")
        if len(self.text) > MAX_SEARCH_LENGTH:
            raise InvalidQuery(f"Search for at most {MAX_SEARCH_LENGTH} characters.", param="text")
        _storable(self.text, "text")
        if self._searches_text() and self.until - self.since > MAX_SEARCH_WINDOW:
            days = MAX_SEARCH_WINDOW.days
            raise InvalidQuery(
                f"A text search covers at most {days} days. Narrow the time range to {days} days or less.",
                param="start_time",
            )

    def _searches_text(self) -> bool:
        return bool(self.text) or any(field_of(condition.field).kind == "preview" for condition in self.conditions)


# --- Checking ---------------------------------------------------------------------------------------------------------


def field_of(name: str) -> Field:
    """Return the field of this public name. Raises: InvalidQuery."""
    if name.startswith(METADATA_PREFIX) and len(name) > len(METADATA_PREFIX):
        return _METADATA
    field = FIELDS.get(name)
    if field is None:
        raise InvalidQuery(f"Unknown field “{name[:100]}”. Metadata is filtered as metadata__<key>.", param=name[:100])
    return field


def parse_conditions(
    filters: Iterable[tuple[str, str, Sequence[Any], str]],
    *,
    api_keys: Mapping[str, Collection[int]],
) -> tuple[Condition, ...]:
    """Check filters (field, operator, values, connector) and convert their values to the columns' units.

    `api_keys` gives the row ids behind the public id or name of an API key. Raises: InvalidQuery naming the field.
    """
    conditions = tuple(_parse_condition(each, api_keys) for each in filters)
    if len(conditions) > MAX_CONDITIONS:
        raise InvalidQuery(f"At most {MAX_CONDITIONS} filters at once.", param="filters")
    return conditions


def _parse_condition(
    filter_: tuple[str, str, Sequence[Any], str], api_keys: Mapping[str, Collection[int]]
) -> Condition:
    name, operator, values, connector = filter_
    field = field_of(name)
    if len(name) > MAX_VALUE_LENGTH:
        raise InvalidQuery("This field name is too long.", param=name[:100])
    _storable(name, "filters")
    if operator not in _OPERATORS[field.kind]:
        raise InvalidQuery(f"The operator “{operator}” cannot be used with “{name}”.", param=name)
    if len(values) > MAX_VALUES:
        raise InvalidQuery(f"At most {MAX_VALUES} values for one filter.", param=name)
    if operator in {"empty", "not_empty"}:
        return Condition(name, operator, (), connector)
    if operator not in {"in", "not_in"} and len(values) != 1:
        raise InvalidQuery(f"The operator “{operator}” takes one value.", param=name)
    if not values:
        raise InvalidQuery(f"“{name}” has no value to compare with.", param=name)
    if operator == "isnull":
        return Condition(name, operator, (_flag(values[0], name),), connector)
    if field.kind == "api key":
        found = sorted({row for value in values for row in api_keys.get(_text(value, name), ())})
        return Condition(name, operator, tuple(found) or (0,), connector)  # no API key has the id 0
    return Condition(name, operator, tuple(_convert(field, value, name, operator) for value in values), connector)


def _convert(field: Field, value: Any, name: str, operator: str) -> Any:
    match field.kind:
        case "number":
            return _number(value, name) * field.scale
        case "flag":
            return _flag(value, name)
        case "moment":
            return parse_moment(value, name)
        case "status":
            return _one_of(STATUSES, value, name)
        case "environment":
            return _one_of(ENVIRONMENTS, value, name)
        case "decision":
            return _one_of({each: each for each in DECISIONS}, value, name)
        case "log id":
            return parse_log_id(_text(value, name)) or uuid.UUID(int=0)  # no log has the id 0
        case "hex":
            return _text(value, name).lower().replace("-", "")
    text = _text(value, name)
    if operator in _MATCH and len(text) > MAX_SEARCH_LENGTH:
        raise InvalidQuery(f"Search for at most {MAX_SEARCH_LENGTH} characters.", param=name)
    return text


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str | int | float):
        text = str(value)
    else:
        raise InvalidQuery(f"“{name}” needs a text to compare with.", param=name)
    if len(text) > MAX_VALUE_LENGTH:
        raise InvalidQuery(f"A value of “{name}” is longer than {MAX_VALUE_LENGTH} characters.", param=name)
    return _storable(text, name)


def _storable(text: str, name: str) -> str:
    """Refuse what PostgreSQL cannot hold in a text: NUL, and half a surrogate pair."""
    if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidQuery("A value holds characters that no log can hold.", param=name)
    return text


def _number(value: Any, name: str) -> Decimal:
    if isinstance(value, str | int | float) and not isinstance(value, bool) and len(text := str(value).strip()) <= 40:
        try:
            number = Decimal(text)
        except InvalidOperation:
            number = Decimal("NaN")
        if number.is_finite() and abs(number) < _NUMBER_LIMIT and number.adjusted() >= -18:
            return number
    raise InvalidQuery(f"“{name}” needs a number to compare with.", param=name)


def _flag(value: Any, name: str) -> bool:
    flag = {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower())
    if flag is None:
        raise InvalidQuery(f"“{name}” needs true or false.", param=name)
    return flag


def _one_of(choices: Mapping[str, str], value: Any, name: str) -> str:
    choice = choices.get(str(value).lower())
    if choice is None:
        raise InvalidQuery(f"“{name}” is one of {', '.join(choices)}.", param=name)
    return choice


def parse_moment(value: Any, name: str) -> datetime:
    """Return an ISO 8601 moment in UTC (without an offset it is UTC). Raises: InvalidQuery."""
    if isinstance(value, str):
        # An unescaped `+` of a URL arrives as a space.
        for text in (value.strip(), value.strip().replace(" ", "+")):
            try:
                moment = datetime.fromisoformat(text)
                return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
            except (ValueError, OverflowError):
                continue
    raise InvalidQuery(f"“{name}” needs a time such as 2026-11-22T14:00:00Z.", param=name)


def parse_sort(text: str) -> Sort:
    """Return the order behind `-id`, `cost`, `-latency` and so on. Raises: InvalidQuery."""
    key = text.removeprefix("-")
    if key not in SORTS:
        raise InvalidQuery(f"Sort by one of {', '.join(SORTS)}, with - in front for descending.", param="sort_by")
    return Sort(key=key, descending=text.startswith("-"))


def parse_log_id(text: str) -> uuid.UUID | None:
    """Return the id behind a public log id (`log_...`) or a bare UUID in hexadecimal, or None."""
    found = ids.decode("log", text)
    if found is None and len(text) in {32, 36} and text.isascii():
        try:
            found = uuid.UUID(text)
        except ValueError:
            return None
    return found


# A public log id begins with its time: with so many characters after `log_` a few minutes are meant.
_LEAST_OF_AN_ID: Final = 7
_ID_LENGTH: Final = 26


def log_ids_from(text: str) -> tuple[uuid.UUID | None, uuid.UUID | None]:
    """Return the first and the last log id that begin like `log_01jd8x…`; nothing when that is too little to go by."""
    head, _, body = text.partition("_")
    if not _LEAST_OF_AN_ID <= len(body) <= _ID_LENGTH:
        return None, None
    return ids.decode(head, f"log_{body.ljust(_ID_LENGTH, '0')}"), ids.decode(
        head, f"log_{body.ljust(_ID_LENGTH, 'z')}"
    )


def containing(text: str) -> str:
    """Return the pattern of LIKE for texts that contain this one."""
    return f"%{_literal(text)}%"


# --- Compiling --------------------------------------------------------------------------------------------------------


def where(query: SpanQuery) -> Fragment:
    """Return the condition of a query, without the organization's."""
    parts = [Fragment("started_at BETWEEN %s AND %s", (query.since, query.until))]
    if query.environment is not None:
        parts.append(Fragment("environment = %s", (query.environment,)))
    if query.text:
        pattern = containing(query.text)
        parts.append(
            Fragment("(input_preview ILIKE %s OR output_preview ILIKE %s OR error_message ILIKE %s)", (pattern,) * 3)
        )
    if query.conditions:
        parts.append(_joined(query.conditions))
    return Fragment(" AND ".join(part.sql for part in parts), tuple(p for part in parts for p in part.params))


def _joined(conditions: Sequence[Condition]) -> Fragment:
    """Join conditions from left to right, each by the connector of the one before it."""
    first = _compile(conditions[0])
    sql, params = first.sql, list(first.params)
    for before, condition in pairwise(conditions):
        part = _compile(condition)
        sql = f"({sql} {'OR' if before.connector == 'OR' else 'AND'} {part.sql})"
        params += part.params
    return Fragment(sql, tuple(params))


def _compile(condition: Condition) -> Fragment:
    field = field_of(condition.field)
    if field.kind == "flag" and condition.operator in {"in", "not_in"}:
        return _flagged(field, condition)
    if field.kind == "metadata":
        return _compile_metadata(field, condition)
    if field.kind == "decision":
        any_of = " OR ".join(DECISIONS[value] for value in condition.values)
        return Fragment(f"({any_of})" if condition.operator == "in" else f"(NOT ({any_of}))")
    return _comparison(Fragment(field.sql), condition, is_textual=field.kind in _TEXTUAL)


def _flagged(field: Field, condition: Condition) -> Fragment:
    """Write a flag as the bare expression: only so can the partial index of failed calls serve it."""
    wanted = condition.operator == "in"
    if len(set(condition.values)) == 2:
        return Fragment("TRUE" if wanted else "FALSE")
    return Fragment(f"({field.sql})" if condition.values[0] is wanted else f"(NOT {field.sql})")


def _compile_metadata(field: Field, condition: Condition) -> Fragment:
    key = condition.field.removeprefix(METADATA_PREFIX)
    if condition.operator == "in":
        # Containment is what the index on metadata answers.
        contains = " OR ".join(["metadata @> jsonb_build_object(%s::text, %s::text)"] * len(condition.values))
        return Fragment(f"({contains})", tuple(part for value in condition.values for part in (key, value)))
    value = Fragment(f"({field.sql})", (key,))
    compared = _comparison(value, condition, is_textual=True)
    if condition.operator.startswith("not_"):
        # A log without the key never matches, not even a negation.
        return Fragment(f"({value.sql} IS NOT NULL AND {compared.sql})", value.params + compared.params)
    return compared


def _comparison(expression: Fragment, condition: Condition, *, is_textual: bool) -> Fragment:
    sql, params, operator, values = expression.sql, expression.params, condition.operator, condition.values
    if operator == "isnull":
        return Fragment(f"({sql} IS {'' if values[0] else 'NOT '}NULL)", params)
    if operator in {"empty", "not_empty"}:
        empty = f"COALESCE({sql}, '') = ''" if is_textual else f"{sql} IS NULL"
        return Fragment(f"({empty})" if operator == "empty" else f"(NOT ({empty}))", params)
    if operator in {"in", "not_in"}:
        inside = f"{sql} IN ({', '.join(['%s'] * len(values))})"
        # A row without a value differs from every value.
        return Fragment(f"({inside})" if operator == "in" else f"(({inside}) IS NOT TRUE)", params + values)
    if operator in _ORDER:
        return Fragment(f"({sql} {_ORDER[operator]} %s)", params + values)
    return _match(expression, operator, values[0])


def _match(expression: Fragment, operator: str, text: str) -> Fragment:
    name = operator.removeprefix("not_")
    like = f"{expression.sql} {'ILIKE' if name in {'icontains', 'iexact'} else 'LIKE'} %s"
    before = "%" if name in {"contains", "icontains", "endswith"} else ""
    after = "%" if name in {"contains", "icontains", "startswith"} else ""
    pattern = f"{before}{_literal(text)}{after}"
    return Fragment(f"({like})" if name == operator else f"(({like}) IS NOT TRUE)", (*expression.params, pattern))


def _literal(text: str) -> str:
    """Escape what LIKE would read as a pattern."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def order(sort: Sort, *, reverse: bool = False) -> str:
    """Return the ORDER BY list of a sort order, ties broken by time and id so that it is total."""
    direction = "DESC" if sort.descending is not reverse else "ASC"
    by_time = f"started_at {direction}, id {direction}"
    return by_time if sort.is_by_time else f"{SORTS[sort.key]} {direction} NULLS LAST, {by_time}"


# --- Cursors ----------------------------------------------------------------------------------------------------------

_CURSOR = struct.Struct(">BQ16s8s")  # version and direction, microseconds since 1970, id, digest of the filters
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_US = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_ONWARD, _BACK = 0x10, 0x11


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position between two rows in the order of time; `back` reads against the sort order, towards its start."""

    started_at: datetime
    id: uuid.UUID
    back: bool = False


def encode_cursor(cursor: Cursor, query: SpanQuery) -> str:
    """Return the text form of a position, bound to the query's filters and order (not to its moving time window)."""
    microseconds = (cursor.started_at - _EPOCH) // timedelta(microseconds=1)
    packed = _CURSOR.pack(_BACK if cursor.back else _ONWARD, microseconds, cursor.id.bytes, _digest(query))
    return urlsafe_b64encode(packed).decode()


def decode_cursor(text: str, query: SpanQuery) -> Cursor:
    """Return the position behind its text form. Raises: InvalidCursor, also when it was issued for other filters."""
    try:
        packed = urlsafe_b64decode(text.encode("ascii"))
        kind, microseconds, id_bytes, digest = _CURSOR.unpack(packed)
    except (ValueError, binascii.Error, struct.error) as error:
        raise InvalidCursor(param="cursor") from error
    is_ours = kind in {_ONWARD, _BACK} and microseconds <= _LATEST_US and urlsafe_b64encode(packed).decode() == text
    if not is_ours or digest != _digest(query) or not query.sort.is_by_time:
        raise InvalidCursor(param="cursor")
    return Cursor(_EPOCH + timedelta(microseconds=microseconds), uuid.UUID(bytes=id_bytes), back=kind == _BACK)


def beyond(cursor: Cursor, sort: Sort) -> Fragment:
    """Return the condition of the rows that follow a position in the direction of reading."""
    sign = "<" if sort.descending is not cursor.back else ">"
    return Fragment(f"(started_at, id) {sign} (%s, %s)", (cursor.started_at, cursor.id))


def _digest(query: SpanQuery) -> bytes:
    parts = (query.environment, query.conditions, query.text, query.sort)
    return hashlib.blake2b(repr(parts).encode("utf-8", "backslashreplace"), digest_size=8).digest()
