"""The management API of logs, in Respan's shape: `/api/request-logs/list/` and `/api/request-logs/<id>/`.

Translates a request into a SpanQuery, reads, translates into Respan's fields; holds no SQL. A key sees its own
organization, and by default the records of its own environment. Neighbours: `respan.api` (grammar, pages, errors),
`query.py`, `reading.py`, `export.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import msgspec
from django.http import QueryDict
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.authentication import LogsKey
from accounts.keys import Caller
from accounts.models import ApiKey
from respan.api import (
    MAX_PAGE,
    InvalidFilter,
    MalformedRequest,
    PageNumber,
    page_number,
    paginated,
    parse_filters,
    parse_quick_filters,
)
from respan.errors import Error
from traces import export, query, reading
from traces.export import KeyName
from traces.query import SpanQuery

DEFAULT_WINDOW: Final = timedelta(hours=1)
# Parameters of a list that are no filters; `log_type` is a filter of the same name.
_PARAMETERS: Final = frozenset(
    {
        *("page", "page_size", "cursor", "sort_by", "start_time", "end_time", "environment", "is_test", "all_envs"),
        *("include_fields", "fetch_filters", "operator", "filters", "format"),
    }
)


class LogNotFound(Error):
    """The organization has no log with this id."""

    status = 404
    code = "log_not_found"
    message = "Log not found"


@dataclass(frozen=True, slots=True)
class _Ask:
    """A list request, read: what to query, which part, which fields."""

    query: SpanQuery
    page: PageNumber
    cursor: str | None
    only: frozenset[str] | None


class RequestLogList(APIView):
    """List and filter logs. Parameters are read from the URL and, on POST, from the body; the URL's win."""

    authentication_classes = (LogsKey,)

    def get(self, request: Request) -> Response:
        return self._list(request, {})

    def post(self, request: Request) -> Response:
        if not isinstance(request.data, dict) or isinstance(request.data, QueryDict):
            raise MalformedRequest
        return self._list(request, request.data)

    def _list(self, request: Request, body: Mapping[str, Any]) -> Response:
        caller = cast(Caller, request.auth)
        keys = key_names(caller.organization_id)
        ask = _read(request.query_params, body, caller=caller, keys=keys)
        found = reading.logs(
            organization_id=caller.organization_id,
            query=ask.query,
            cursor=ask.cursor,
            limit=ask.page.size,
            offset=ask.page.offset,
        )
        is_content_wanted = ask.only is None or not ask.only.isdisjoint(export.CONTENT_FIELDS)
        bodies = reading.bodies(organization_id=caller.organization_id, logs=found.logs) if is_content_wanted else {}
        results = [
            export.public_log(
                log,
                bodies.get(log.id),
                key=keys.get(log.api_key_id),
                organization_id=caller.organization_public_id,
                only=ask.only,
            )
            for log in found.logs
        ]
        return Response(_envelope(request, ask, found, results, _count(caller.organization_id, ask, len(results))))


class RequestLog(APIView):
    """One log with its content."""

    authentication_classes = (LogsKey,)

    def get(self, request: Request, log_id: str) -> Response:
        caller = cast(Caller, request.auth)
        found_id = query.parse_log_id(log_id)
        detail = reading.log(organization_id=caller.organization_id, id=found_id) if found_id else None
        if detail is None:
            raise LogNotFound
        shape = export.public_log(
            detail.log,
            detail.body,
            key=key_names(caller.organization_id).get(detail.log.api_key_id),
            organization_id=caller.organization_public_id,
        )
        return Response(shape | {"limit_info": export.limit_info(detail.log)})


def key_names(organization_id: int) -> dict[int, KeyName]:
    """Return how the organization's API keys, revoked ones too, are called outside, by row id."""
    rows = ApiKey.objects.filter(organization_id=organization_id).values_list("pk", "public_id", "name")
    return {pk: KeyName(public_id, name) for pk, public_id, name in rows}


def rows_of_keys(keys: Mapping[int, KeyName]) -> dict[str, list[int]]:
    """Return the row ids behind each public id and each name of an API key; several keys may share a name."""
    rows: dict[str, list[int]] = {}
    for pk, key in keys.items():
        rows.setdefault(key.public_id, []).append(pk)
        rows.setdefault(key.name, []).append(pk)
    return rows


def _read(params: QueryDict, body: Mapping[str, Any], *, caller: Caller, keys: Mapping[int, KeyName]) -> _Ask:
    """Read a list request. Raises: MalformedRequest; InvalidFilter; InvalidQuery."""
    asked: dict[str, Any] = {name: body[name] for name in _PARAMETERS if body.get(name) is not None}
    asked |= {name: params[name] for name in _PARAMETERS if params.get(name)}
    connector = str(asked.get("operator") or "AND").upper()
    filters = parse_filters(body.get("filters"), connector=connector)
    if params.get("filters"):
        filters += parse_filters(_json(str(params["filters"])), connector=connector)
    if body.get("log_type"):
        filters += parse_filters({"log_type": {"value": body["log_type"]}})
    filters += parse_quick_filters(params, known=query.FIELDS, reserved=_PARAMETERS, connector=connector)
    page = page_number(asked)
    cursor = _text(asked, "cursor")
    if page.number > MAX_PAGE and not cursor:
        raise MalformedRequest(f"Pages end at {MAX_PAGE}. Follow “next”, or narrow the time range.", param="page")
    since, until = _window(asked)
    return _Ask(
        query=SpanQuery(
            since=since,
            until=until,
            environment=None if any(each.field == "environment" for each in filters) else _environment(asked, caller),
            conditions=query.parse_conditions(filters, api_keys=rows_of_keys(keys)),
            sort=query.parse_sort(_text(asked, "sort_by") or "-id"),
        ),
        page=page,
        cursor=cursor,
        only=_only(asked.get("include_fields")),
    )


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidFilter(param="filters") from error


def _text(asked: Mapping[str, Any], name: str) -> str | None:
    value = asked.get(name)
    if value is not None and not isinstance(value, str):
        raise MalformedRequest(f"“{name}” must be a text.", param=name)
    return value or None


def _window(asked: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """Return the window of time, by default the last hour."""
    until = query.parse_moment(asked["end_time"], "end_time") if "end_time" in asked else timezone.now()
    if "start_time" in asked:
        return query.parse_moment(asked["start_time"], "start_time"), until
    earliest = datetime(1970, 1, 1, tzinfo=UTC)
    return max(until, earliest + DEFAULT_WINDOW) - DEFAULT_WINDOW, until


def _environment(asked: Mapping[str, Any], caller: Caller) -> str | None:
    """Return the environment to list: the key's own, another one by name, or all (None)."""
    if _flag(asked, "all_envs"):
        return None
    if "environment" in asked:
        found = query.ENVIRONMENTS.get(str(asked["environment"]).lower())
        if found is None:
            raise MalformedRequest("“environment” is prod or test.", param="environment")
        return found
    if "is_test" in asked:
        return "test" if _flag(asked, "is_test") else "production"
    return caller.environment


def _flag(asked: Mapping[str, Any], name: str) -> bool:
    value = str(asked.get(name, "false")).lower()
    if value not in {"true", "false", "1", "0"}:
        raise MalformedRequest(f"“{name}” is true or false.", param=name)
    return value in {"true", "1"}


def _only(asked: Any) -> frozenset[str] | None:
    if not asked:
        return None
    names = asked.split(",") if isinstance(asked, str) else asked
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MalformedRequest("“include_fields” is a list of field names.", param="include_fields")
    return frozenset(name.strip() for name in names)


def _count(organization_id: int, ask: _Ask, shown: int) -> reading.Count:
    """Count the whole list; where that takes too long, say what is known."""
    try:
        return reading.count(organization_id=organization_id, query=ask.query)
    except reading.SearchTooSlow:
        return reading.Count(ask.page.offset + shown, is_capped=True)


def _envelope(
    request: Request, ask: _Ask, found: reading.Page, results: list[dict[str, Any]], count: reading.Count
) -> dict[str, Any]:
    """Return the list with links that keep the window of time still and continue at a row where the order allows."""
    window = {"start_time": _iso(ask.query.since), "end_time": _iso(ask.query.until)}
    number, size = ask.page

    def link(page: int, cursor: str | None) -> dict[str, str]:
        return window | {"page": str(page), "page_size": str(size), "cursor": cursor or ""}

    is_reachable = found.next is not None or number < MAX_PAGE
    body = paginated(
        request,
        results,
        count=count.value,
        next_params=link(number + 1, found.next) if found.has_next and is_reachable else None,
        previous_params=link(number - 1, found.previous) if number > 1 else None,
    )
    return body | {"count_is_capped": count.is_capped}


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
