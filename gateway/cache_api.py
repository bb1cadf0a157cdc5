"""The management API of the cache, in Respan's shape: `/api/caches/`, its summary, and one answer by its key.

Translates in, makes one domain call, translates out; holds no SQL. A key sees what its own organization and its own
environment keep; reading needs the scope “Read logs”, changing “Call models” as well, because what is deleted is paid
for again. Neighbours: `cache_entries.py`, `respan.api` (grammar, pages, errors), `api_schema.py`.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, cast

from django.db.models import QuerySet
from django.http import QueryDict
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.authentication import InsufficientScope, LogsKey
from accounts.keys import Caller
from accounts.models import Scope
from gateway import cache_entries
from gateway.cache import MAX_TTL_S
from gateway.cache_entries import Savings
from gateway.models import CachedAnswer
from respan.api import MAX_PAGE, MalformedRequest, page_number, paginated, parse_filters
from respan.errors import Error

MAX_DELETED: Final = 1_000
_SELECTORS: Final = ("cache_keys", "ids", "all")


class CacheNotFound(Error):
    """The organization keeps no answer under this key."""

    status = 404
    code = "cache_not_found"
    message = "There is no cached answer with this key; it may have expired."


class Caches(APIView):
    """List cached answers, and what their hits have saved."""

    authentication_classes = (LogsKey,)

    def get(self, request: Request) -> Response:
        return self._list(request, {})

    def post(self, request: Request) -> Response:
        return self._list(request, _object(request))

    def _list(self, request: Request, body: Mapping[str, Any]) -> Response:
        found = cache_entries.filtered(_entries(request), parse_filters(body.get("filters")))
        asked = {**body, **request.query_params.dict()}
        page = page_number(asked)
        if page.number > MAX_PAGE:
            raise MalformedRequest(f"Pages end at {MAX_PAGE}. Narrow the list by filters.", param="page")
        summary = cache_entries.savings(found)
        rows = list(found[page.offset : page.offset + page.size])
        has_next = page.offset + len(rows) < summary.entries and page.number < MAX_PAGE
        data = paginated(
            request,
            [cache_entries.listed(row) for row in rows],
            count=summary.entries,
            next_params={"page": str(page.number + 1), "page_size": str(page.size)} if has_next else None,
            previous_params={"page": str(page.number - 1), "page_size": str(page.size)} if page.number > 1 else None,
        )
        return Response({"summary": _saved(summary), "data": data})


class CachesSummary(APIView):
    """Count cached answers and what their hits have saved."""

    authentication_classes = (LogsKey,)

    def get(self, request: Request) -> Response:
        return self._sum(request, {})

    def post(self, request: Request) -> Response:
        return self._sum(request, _object(request))

    def _sum(self, request: Request, body: Mapping[str, Any]) -> Response:
        found = cache_entries.filtered(_entries(request), parse_filters(body.get("filters")))
        summary = cache_entries.savings(found)
        return Response({"total_count": summary.entries, **_saved(summary)})


class CachesBulk(APIView):
    """Delete several cached answers, or all."""

    authentication_classes = (LogsKey,)

    def delete(self, request: Request) -> Response:
        _may_change(request)
        body = _object(request)
        given = [name for name in _SELECTORS if body.get(name) is not None]
        if len(given) != 1:
            raise MalformedRequest("Send one of cache_keys, ids and all.", param="cache_keys")
        found = _entries(request)
        if given == ["all"]:
            if body["all"] is not True:
                raise MalformedRequest("“all” deletes everything, so it has to be true.", param="all")
        else:
            found = found.filter(key__in=_keys(body[given[0]], given[0]))
        deleted = cache_entries.delete(found)
        return Response(
            {
                "deleted_count": deleted,
                "success_count": deleted,
                "error_count": 0,
                "errors": [],
                "message": f"{deleted} cached answers deleted.",
            }
        )


class Cache(APIView):
    """One cached answer: shown, given another end, deleted."""

    authentication_classes = (LogsKey,)

    def get(self, request: Request, cache_key: str) -> Response:
        return Response(cache_entries.listed(_entry(request, cache_key)))

    def patch(self, request: Request, cache_key: str) -> Response:
        _may_change(request)
        entry, body, now = _entry(request, cache_key), _object(request), timezone.now()
        latest = now + timedelta(seconds=MAX_TTL_S)
        if "expiry_date" in body:
            asked = body["expiry_date"]
            at = latest if asked is None else cache_entries.moment(asked, "expiry_date")
        elif "ttl" in body:
            at = now + timedelta(seconds=_seconds(body["ttl"]))
        else:
            raise MalformedRequest("Send expiry_date, or ttl in seconds.", param="expiry_date")
        cache_entries.expire(entry, at=min(at, latest), now=now)
        return Response(cache_entries.listed(entry))

    def delete(self, request: Request, cache_key: str) -> Response:
        _may_change(request)
        key = bytes(_entry(request, cache_key).key)
        cache_entries.delete(_entries(request).filter(key=key))
        return Response(status=204)


def _entries(request: Request) -> QuerySet[CachedAnswer]:
    caller = cast(Caller, request.auth)
    return cache_entries.entries(caller.organization_id, environment=caller.environment)


def _entry(request: Request, cache_key: str) -> CachedAnswer:
    key = cache_entries.key_of(cache_key)
    entry = _entries(request).filter(key=key).first() if key is not None else None
    if entry is None:
        raise CacheNotFound
    return entry


def _may_change(request: Request) -> None:
    if Scope.CALL not in cast(Caller, request.auth).scopes:
        raise InsufficientScope("This API key may only read. To change the cache it needs the scope “Call models” too.")


def _object(request: Request) -> Mapping[str, Any]:
    if not isinstance(request.data, dict) or isinstance(request.data, QueryDict):
        raise MalformedRequest
    return request.data


def _keys(value: Any, param: str) -> list[bytes]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_DELETED:
        raise MalformedRequest(f"“{param}” is a list of 1 to {MAX_DELETED:,} cache keys.", param=param)
    return [key for key in (cache_entries.key_of(str(each)) for each in value) if key is not None]


def _seconds(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TTL_S:
        raise MalformedRequest(f"“ttl” is a whole number of seconds up to {MAX_TTL_S:,}.", param="ttl")
    return value


def _saved(summary: Savings) -> dict[str, Any]:
    return {
        "total_cost": summary.saved_nano / 1e9,
        "total_hit_count": summary.hits,
        "total_tokens": summary.tokens,
        "total_time": summary.saved_us / 1e6,
    }
