"""What every API shares: the async view of the hot path, the shape of errors, pages, and the filter grammar."""

import asyncio
import json
from typing import ClassVar

import pytest
from django.core.signals import got_request_exception
from django.db import OperationalError
from django.http import HttpResponse, QueryDict
from django.test import AsyncRequestFactory
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView

from respan import api
from respan.api import AsyncAPIView, Filter, InvalidFilter, MalformedRequest
from respan.errors import Error

factory = AsyncRequestFactory()


class Unknown(Error):
    status = 401
    code = "unknown"
    message = "Nobody knows this key."


class Teapot(Error):
    status = 418
    code = "teapot"
    message = "Short and stout."


class Authenticator:
    built = 0

    def __init__(self):
        Authenticator.built += 1

    async def authenticate_call(self, request):
        await asyncio.sleep(0)
        if request.headers.get("Authorization") != "Bearer good":
            raise Unknown
        return "the caller"

    def authenticate_header(self, request):
        return 'Bearer realm="api"'


class Echo(AsyncAPIView):
    authentication_classes: ClassVar = [Authenticator]
    greeting = "hello"
    calls: ClassVar[list[str]] = []

    async def get(self, request):
        return HttpResponse(f"{self.greeting} {request.caller}")

    async def post(self, request, word):
        self.calls.append(word)
        if word == "teapot":
            raise Teapot(param="word", extra={"liters": 2}, headers={"X-Pot": "1"})
        if word == "bug":
            raise ZeroDivisionError
        return HttpResponse(f"{word} {request.caller} {id(self)}".encode())


class Public(AsyncAPIView):
    authenticated = False

    async def get(self, request):
        return HttpResponse(repr(request.caller))


def good(method, path="/"):
    return factory.generic(method, path, headers={"Authorization": "Bearer good"})


async def test_an_async_view_answers_with_what_its_method_returns():
    view = Echo.as_view()
    assert asyncio.iscoroutinefunction(view)
    assert (await view(good("GET"))).content == b"hello the caller"
    answer = (await view(good("POST"), word="hi")).content
    assert answer.startswith(b"hi the caller ")
    assert (await view(good("POST"), "hi")).content == answer, "one instance serves every request"


async def test_the_authenticator_is_built_once_for_a_view():
    Authenticator.built = 0
    view = Echo.as_view()
    for _ in range(5):
        await view(good("GET"))
    assert Authenticator.built == 1


async def test_a_caller_who_is_not_let_in_gets_a_401_and_reaches_nothing():
    Echo.calls.clear()
    answer = await Echo.as_view()(factory.post("/"), word="hi")
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == 'Bearer realm="api"'
    assert json.loads(answer.content) == {"detail": "Nobody knows this key.", "code": "unknown"}
    assert Echo.calls == []


async def test_a_public_view_asks_for_no_key():
    assert (await Public.as_view()(factory.get("/"))).content == b"None"


async def test_a_refusal_becomes_an_answer_with_its_headers_and_extras():
    answer = await Echo.as_view()(good("POST"), word="teapot")
    assert (answer.status_code, answer["X-Pot"], answer["Content-Type"]) == (418, "1", "application/json")
    assert json.loads(answer.content) == {"detail": "Short and stout.", "code": "teapot", "param": "word", "liters": 2}


async def test_a_view_may_word_refusals_in_its_own_dialect():
    class Curt(Echo):
        def refuse(self, request, error):
            return HttpResponse(error.code, status=error.status, headers=error.headers)

    answer = await Curt.as_view()(factory.post("/"), word="hi")
    assert (answer.content, answer["WWW-Authenticate"]) == (b"unknown", 'Bearer realm="api"')
    assert (await Curt.as_view()(good("PATCH"))).content == b"method_not_allowed"


async def test_an_unexpected_exception_is_left_to_the_handler():
    with pytest.raises(ZeroDivisionError):
        await Echo.as_view()(good("POST"), word="bug")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "BREW"])
async def test_other_methods_are_refused_by_name_before_anybody_is_asked_for_a_key(method):
    answer = await Echo.as_view()(factory.generic(method, "/"))
    assert (answer.status_code, answer["Allow"]) == (405, "GET, POST, HEAD, OPTIONS")
    assert json.loads(answer.content)["code"] == "method_not_allowed"


async def test_options_and_head_are_answered():
    options = await Echo.as_view()(factory.options("/"))
    assert (options.status_code, options.content, options["Allow"]) == (204, b"", "GET, POST, HEAD, OPTIONS")
    assert (await Echo.as_view()(good("HEAD"))).status_code == 200
    assert (await Public.as_view()(factory.post("/"))).status_code == 405


async def test_options_of_a_view_reach_its_instance_and_its_attributes_the_resolver():
    view = Echo.as_view(greeting="welcome")
    assert (await view(good("GET"))).content == b"welcome the caller"
    assert (view.cls, view.view_class, view.initkwargs, view.csrf_exempt) == (Echo, Echo, {"greeting": "welcome"}, True)


# --- Errors of the management API -----------------------------------------------------------------------------------


class Failing(APIView):
    authentication_classes: ClassVar = []
    permission_classes: ClassVar = []
    error: Exception | None = None

    def get_authenticate_header(self, request):
        return 'Bearer realm="api"'

    def post(self, request):
        if self.error is not None:
            raise self.error
        return Response(request.data)


def refused(error, data=None):
    request = APIRequestFactory().post("/", data if data is not None else {}, format="json")
    response = Failing.as_view(error=error)(request).render()
    return response, json.loads(response.content)


def test_our_own_errors_are_answered_as_detail_and_code():
    response, body = refused(Teapot(param="word", headers={"X-Pot": "1"}))
    assert (response.status_code, response["X-Pot"]) == (418, "1")
    assert body == {"detail": "Short and stout.", "code": "teapot", "param": "word"}


def test_a_401_says_how_to_authenticate():
    response, body = refused(Unknown())
    assert (response.status_code, response["WWW-Authenticate"]) == (401, 'Bearer realm="api"')
    assert body["detail"] == "Nobody knows this key."


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (exceptions.NotFound("No such thing."), 404, {"detail": "No such thing.", "code": "not_found"}),
        (exceptions.ValidationError({"name": ["Too long."]}), 400, {"name": ["Too long."]}),
        (exceptions.ValidationError(["Too long.", "Too loud."]), 400, {"detail": "Too long. Too loud."}),
    ],
)
def test_errors_of_drf_keep_their_shape(error, status, body):
    response, answered = refused(error)
    assert (response.status_code, answered) == (status, body)


def test_a_database_that_is_down_is_a_503_that_asks_to_try_again():
    response, body = refused(OperationalError("connection refused: 10.1.2.3"))
    assert (response.status_code, response["Retry-After"], body["code"]) == (503, "1", "database_unavailable")
    assert "10.1.2.3" not in body["detail"]


def test_a_body_nested_too_deeply_is_a_400():
    request = APIRequestFactory().post("/", "[" * 200_000, content_type="application/json")
    assert Failing.as_view()(request).status_code == 400


def test_a_bug_is_a_500_in_json_that_is_reported_and_gives_nothing_away():
    reported = []

    def report(sender, request, **_):
        reported.append(request)

    got_request_exception.connect(report)
    try:
        response, body = refused(ZeroDivisionError("secret detail"))
    finally:
        got_request_exception.disconnect(report)
    assert (response.status_code, body["code"]) == (500, "internal_error")
    assert "secret" not in str(body)
    assert len(reported) == 1


# --- Lists ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "number", "size", "offset"),
    [
        ({}, 1, 100, 0),
        ({"page": "3", "page_size": "10"}, 3, 10, 20),
        ({"page": 2, "page_size": 5000}, 2, 1000, 1000),
        ({"page": "", "page_size": None}, 1, 100, 0),
    ],
)
def test_pages_are_read_and_their_size_is_cut(params, number, size, offset):
    page = api.page_number(params)
    assert (page.number, page.size, page.offset) == (number, size, offset)


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", 1.5, True, [], {}, "٣", "9" * 30])
def test_a_page_that_is_no_whole_number_is_refused_by_name(value):
    with pytest.raises(MalformedRequest) as refusal:
        api.page_number({"page": value})
    assert (refusal.value.status, refusal.value.param) == (400, "page")


def test_a_list_links_to_its_neighbours_and_keeps_the_other_parameters():
    request = Request(APIRequestFactory().get("/api/things/?page=2&name=a%20b"))
    body = api.paginated(request, [1], count=3, next_params={"page": "3", "cursor": "x="}, previous_params=None)
    assert body == {
        "count": 3,
        "next": "http://testserver/api/things/?cursor=x%3D&name=a+b&page=3",
        "previous": None,
        "results": [1],
    }


# --- The filter grammar ---------------------------------------------------------------------------------------------


def test_filters_are_read_with_one_or_several_conditions_for_a_field():
    assert api.parse_filters(
        {
            "model": {"operator": "", "value": ["a", "b"]},
            "cost": [{"operator": "gt", "value": [1]}, {"operator": "lt", "value": 2, "connector": "OR"}],
            "status": {"value": ["error"]},
            "note": {"operator": None, "value": ["x"], "connector": None},
        }
    ) == [
        Filter("model", "in", ("a", "b"), "AND"),
        Filter("cost", "gt", (1,), "AND"),
        Filter("cost", "lt", (2,), "OR"),
        Filter("status", "in", ("error",), "AND"),
        Filter("note", "in", ("x",), "AND"),
    ]
    assert api.parse_filters(None) == []
    assert api.parse_filters({}) == []


@pytest.mark.parametrize(
    ("spelling", "operator"),
    [
        ("=", "in"),
        ("==", "in"),
        ("eq", "in"),
        ("equals", "in"),
        ("not", "not_in"),
        ("notEmpty", "not_empty"),
        ("gte", "gte"),
    ],
)
def test_operators_have_several_spellings(spelling, operator):
    assert api.parse_filters({"a": {"operator": spelling, "value": ["x"]}})[0].operator == operator


@pytest.mark.parametrize(
    ("filters", "param"),
    [
        ([], "filters"),
        ("model", "filters"),
        ({"model": "gpt"}, "model"),
        ({"model": ["gpt"]}, "model"),
        ({"model": {"operator": ""}}, "model"),
        ({"model": {"operator": "regex", "value": ["x"]}}, "model"),
        ({"model": {"operator": 7, "value": ["x"]}}, "model"),
        ({"model": {"operator": ["in"], "value": ["x"]}}, "model"),
        ({"model": {"value": ["x"], "connector": "XOR"}}, "model"),
        ({"model": {"value": ["x"], "connector": ["OR"]}}, "model"),
        ({"x" * 500: 1}, "x" * 100),
    ],
)
def test_what_is_no_filter_is_refused_by_name(filters, param):
    with pytest.raises(InvalidFilter) as refusal:
        api.parse_filters(filters)
    assert (refusal.value.status, refusal.value.code, refusal.value.param) == (400, "invalid_filter", param)


def quick(text, **options):
    return api.parse_quick_filters(QueryDict(text), known={"model", "cost"}, reserved={"page"}, **options)


def test_quick_filters_of_a_url_are_read():
    assert quick("page=2&model=a&model=b") == [Filter("model", "in", ("a", "b"), "AND")]
    assert quick("cost[value]=1&cost[operator]=gt&cost[connector]=OR&plan=pro") == [
        Filter("cost", "gt", ("1",), "OR"),
        Filter("metadata__plan", "in", ("pro",), "AND"),
    ]
    assert quick("metadata__plan=pro", connector="OR") == [Filter("metadata__plan", "in", ("pro",), "OR")]


@pytest.mark.parametrize(
    "text", ["cost[operator]=gt", "cost[op]=gt", "cost[value=1", "[value]=1", "cost[operator]=~&cost[value]=1"]
)
def test_malformed_quick_filters_are_refused(text):
    with pytest.raises(InvalidFilter):
        quick(text)
