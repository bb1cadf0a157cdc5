"""What every API of Respan shares: the async view of the hot path, error answers, pagination, the filter grammar.

Part of the floor: knows no app, no table and no dialect. `AsyncAPIView` carries the gateway's endpoints; the rest
serves the management API (stock DRF). Neighbours: `gateway/api.py`, every app's `api.py`, `settings.REST_FRAMEWORK`.
"""

import re
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import msgspec
from django.core.signals import got_request_exception
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, QueryDict
from rest_framework.exceptions import APIException, ErrorDetail
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView
from rest_framework.views import exception_handler as _drf_exception_handler
from structlog import get_logger

from respan.errors import Error

log = get_logger(__name__)


class MethodNotAllowed(Error):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"
    message = "This method is not allowed here."


class CallRequest(HttpRequest):
    """A request as `AsyncAPIView` hands it to its methods: `caller` is what the authenticator returned, or None."""

    caller: Any


Method = Callable[..., Awaitable[HttpResponseBase]]


def envelope(error: Error) -> dict[str, Any]:
    """Return an error in the shape of the management API."""
    body: dict[str, Any] = {"detail": error.message, "code": error.code}
    if error.param is not None:
        body["param"] = error.param
    return body | error.extra


class AsyncAPIView(APIView):
    """An API view for the hot path: one shared, stateless instance, `async def get`, `post` and `delete`.

    It skips DRF's request, negotiation and `initial`: methods get Django's request with `caller` set and return a
    Django response. A subclass says in `refuse` how its dialect words an error; any other exception propagates.
    """

    authenticated: ClassVar[bool] = True

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Callable[..., Awaitable[HttpResponseBase]]:  # type: ignore[override]
        """Return the coroutine function that answers; its authenticator is built here, once."""
        shared = cls(**initkwargs)
        methods = {
            name: getattr(shared, name.lower()) for name in ("GET", "POST", "DELETE") if hasattr(shared, name.lower())
        }
        if "POST" in methods:
            methods["POST"] = shared.around(methods["POST"])
        if "GET" in methods:
            methods["HEAD"] = methods["GET"]
        allow = ", ".join([*methods, "OPTIONS"])
        authenticator: Any = cls.authentication_classes[0]() if cls.authenticated else None

        async def view(request: CallRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            request.caller = None
            method = methods.get(request.method or "")
            try:
                if method is None:
                    if request.method == "OPTIONS":
                        return HttpResponse(status=204, headers={"Allow": allow})
                    raise MethodNotAllowed(headers={"Allow": allow})
                if authenticator is not None:
                    request.caller = await authenticator.authenticate_call(request)
                response: HttpResponseBase = await method(request, *args, **kwargs)
                return response
            except Error as error:
                if error.status == 401 and authenticator is not None:
                    error.headers.setdefault("WWW-Authenticate", authenticator.authenticate_header(request))
                return shared.refuse(request, error)

        view.cls = view.view_class = cls  # type: ignore[attr-defined]
        view.initkwargs = initkwargs  # type: ignore[attr-defined]
        view.csrf_exempt = True  # type: ignore[attr-defined]
        view.__doc__ = cls.__doc__
        return view

    def around(self, post: Method) -> Method:
        """Return what answers a POST; a subclass may put something around its method."""
        return post

    def refuse(self, request: HttpRequest, error: Error) -> HttpResponse:
        """Return the answer to an error; a subclass answers in the dialect of the caller."""
        return HttpResponse(
            msgspec.json.encode(envelope(error)),
            status=error.status,
            content_type="application/json",
            headers=error.headers,
        )


# --- Errors of the management API -----------------------------------------------------------------------------------


class DatabaseUnavailable(Error):
    """The database did not answer; nothing was changed."""

    status = 503
    code = "database_unavailable"
    message = "The database is not reachable right now. Try again in a moment."


class MalformedRequest(Error):
    """A request that is no JSON object, or holds a parameter of the wrong type; `param` names it."""

    status = 400
    code = "invalid_request"
    message = "The request body must be a JSON object."


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response:
    """Answer any exception of a DRF view in the shape `{"detail", "code"}` (field errors: `{field: [...]}`)."""
    if isinstance(exc, (OperationalError, InterfaceError)):
        log.error("database unavailable", error=str(exc))
        exc = DatabaseUnavailable(headers={"Retry-After": "1"})
    elif isinstance(exc, RecursionError):  # JSON nested a thousand levels deep
        exc = MalformedRequest("The request body is nested too deeply.")
    if isinstance(exc, Error):
        return _error_response(exc, context)
    response = _drf_exception_handler(exc, context)
    if response is None:
        log.error("management view failed", view=type(context.get("view")).__name__, exc_info=exc)
        got_request_exception.send(sender=exception_handler, request=context.get("request"))
        return _error_response(Error(), context)
    if isinstance(response.data, list):
        response.data = {"detail": " ".join(str(each) for each in response.data)}
    detail = response.data.get("detail") if isinstance(response.data, dict) else None
    if isinstance(detail, ErrorDetail) and isinstance(exc, APIException):
        response.data["code"] = detail.code
    return response


def _error_response(error: Error, context: dict[str, Any]) -> Response:
    headers = dict(error.headers)
    if error.status == 401 and (view := context.get("view")) is not None:
        headers.setdefault("WWW-Authenticate", view.get_authenticate_header(context["request"]) or "Bearer")
    return Response(envelope(error), status=error.status, headers=headers)


# --- Lists ----------------------------------------------------------------------------------------------------------

MAX_PAGE_SIZE: Final = 1_000
# Deeper pages are reached by following `next`, which continues at a row instead of skipping rows.
MAX_PAGE: Final = 200


class PageNumber(NamedTuple):
    """Which page of a list is asked for; pages count from 1."""

    number: int
    size: int

    @property
    def offset(self) -> int:
        return (self.number - 1) * self.size


def page_number(params: Mapping[str, Any], *, default_size: int = 100) -> PageNumber:
    """Read `page` and `page_size`; a larger size than allowed is cut. Raises: MalformedRequest."""
    size = _positive(params, "page_size", default_size)
    return PageNumber(_positive(params, "page", 1), min(size, MAX_PAGE_SIZE))


def _positive(params: Mapping[str, Any], name: str, default: int) -> int:
    value = params.get(name)
    if value is None or value == "":
        return default
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and 0 < len(text) < 10) or int(text) < 1:
        raise MalformedRequest(f"“{name}” must be a whole number from 1.", param=name)
    return int(text)


def paginated(
    request: Request,
    results: Sequence[Any],
    *,
    count: int,
    next_params: Mapping[str, str] | None,
    previous_params: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return the list envelope; the links are this request's address with these query parameters changed."""
    return {
        "count": count,
        "next": _link(request, next_params),
        "previous": _link(request, previous_params),
        "results": results,
    }


def _link(request: Request, params: Mapping[str, str] | None) -> str | None:
    if params is None:
        return None
    url = request.build_absolute_uri()
    for name, value in params.items():
        url = replace_query_param(url, name, value)
    return url


# --- The filter grammar ---------------------------------------------------------------------------------------------

# Spellings of operators -> the one every field table uses.
OPERATORS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("", "=", "==", "eq", "equals", "in"), "in"),
    **dict.fromkeys(("not", "!=", "not_in"), "not_in"),
    **{
        name: name
        for name in (
            *("lt", "lte", "gt", "gte", "contains", "not_contains", "icontains", "iexact"),
            *("startswith", "not_startswith", "endswith", "not_endswith", "isnull", "empty", "not_empty"),
        )
    },
    "notEmpty": "not_empty",
}


class InvalidFilter(Error):
    """A filter that does not follow the grammar; `param` names its field."""

    status = 400
    code = "invalid_filter"
    message = "“filters” must be an object of {field: {operator, value}}."


class Filter(NamedTuple):
    """One filter as it was asked for. `connector` (AND or OR) joins it to the next one."""

    field: str
    operator: str
    values: tuple[Any, ...]
    connector: str


def parse_filters(filters: Any, *, connector: str = "AND") -> list[Filter]:
    """Return the filters of a body's `{field: {operator, value, connector}}`; several for one field come as a list.

    `connector` is for filters that name none. Raises: InvalidFilter.
    """
    if filters is None:
        return []
    if not isinstance(filters, dict):
        raise InvalidFilter(param="filters")
    return [
        _parse_filter(field, each, connector)
        for field, asked in filters.items()
        for each in (asked if isinstance(asked, list) else [asked])
    ]


def _parse_filter(field: str, asked: Any, connector: str) -> Filter:
    if not isinstance(asked, dict) or "value" not in asked:
        raise InvalidFilter(f"The filter “{field[:100]}” needs an object of operator and value.", param=field[:100])
    operator = asked.get("operator")
    value = asked["value"]
    values = tuple(value) if isinstance(value, list) else (value,)
    return Filter(
        field, _operator(field, "" if operator is None else operator), values, _connector(field, asked, connector)
    )


def _operator(field: str, spelling: Any) -> str:
    operator = OPERATORS.get(spelling) if isinstance(spelling, str) else None
    if operator is None:
        raise InvalidFilter(
            f"The filter “{field[:100]}” has the unknown operator “{spelling!s:.40}”.", param=field[:100]
        )
    return operator


def _connector(field: str, asked: Mapping[str, Any], default: str) -> str:
    connector = asked.get("connector") or default
    if connector not in ("AND", "OR"):
        raise InvalidFilter(f"The connector of “{field[:100]}” is AND or OR.", param=field[:100])
    return str(connector)


_QUICK_FILTER = re.compile(r"(?P<field>[^\[\]]+)(?:\[(?P<part>value|operator|connector)\])?")


def parse_quick_filters(
    params: QueryDict,
    *,
    known: Container[str],
    reserved: Container[str],
    connector: str = "AND",
) -> list[Filter]:
    """Return the filters of a URL: `?field=v`, or `?field[value]=v&field[operator]=gt&field[connector]=OR`.

    `reserved` are the parameters that are no filters; an unknown field is one of metadata. Raises: InvalidFilter.
    """
    asked: dict[str, dict[str, Any]] = {}
    for name in params:
        if name in reserved:
            continue
        match = _QUICK_FILTER.fullmatch(name)
        if match is None:
            raise InvalidFilter(f"“{name[:100]}” is no filter.", param=name[:100])
        field = match["field"]
        if field not in known and not field.startswith("metadata__"):
            field = f"metadata__{field}"
        parts = asked.setdefault(field, {})
        if match["part"] in {None, "value"}:
            parts["value"] = [*parts.get("value", []), *params.getlist(name)]
        else:
            parts[match["part"]] = params[name]
    return [_parse_filter(field, parts, connector) for field, parts in asked.items()]
