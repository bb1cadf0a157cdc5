"""`/api/request-logs/…` in Respan's shape: what a key sees, pages, filters, refusals."""

import uuid
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest

from accounts import keys
from respan import ids
from tests.traces.rows import insert_call, insert_span

pytestmark = pytest.mark.django_db

LIST = "/api/request-logs/list/"
REQUEST = {
    "model": "gpt-4o-mini",
    "temperature": 0.5,
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Héllo"}],
    "tools": [{"type": "function", "function": {"name": "add"}}],
}
RESPONSE = {
    "id": "chatcmpl-1",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
            },
        }
    ],
}


@pytest.fixture
def issued(cast):
    """Keys of the organization: live and test; and a stranger's."""

    def issue(organization, environment, name):
        return keys.issue(organization=organization, name=name, environment=environment, created_by=None)

    cast.live = issue(cast.organization, "production", "Backend")
    cast.test = issue(cast.organization, "test", "Laptop")
    cast.foreign = issue(cast.other_organization, "production", "Backend")
    return cast


@pytest.fixture
def call(client):
    """Send a request with a key and return (status, body); every answer must be JSON and never a redirect."""

    def send(key, path=LIST, body=None, *, method="post"):
        headers = {"Authorization": f"Bearer {key.secret}"} if key else {}
        options = {"data": body if body is not None else {}, "content_type": "application/json"}
        if method == "get":
            options = {}
        response = getattr(client, method)(path, headers=headers, **options)
        assert response["Content-Type"] == "application/json", response.content[:200]
        assert not 300 <= response.status_code < 400
        return response.status_code, response.json()

    return send


def span(issued, **values):
    values.setdefault("api_key_id", issued.live.api_key.pk)
    return insert_span(organization_id=issued.organization.pk, **values)


def found(body):
    return [row["span_name"] for row in body["results"]]


def test_a_log_has_respans_fields_with_exact_figures(issued, call):
    started_at = datetime.now(UTC) - timedelta(minutes=1)
    span_id = insert_call(
        organization_id=issued.organization.pk, request=REQUEST, response=RESPONSE, started_at=started_at,
        api_key_id=issued.live.api_key.pk, duration_us=1_500_000, ttft_us=250_000, cost_nano=310, charged_nano=310,
        input_tokens=12, output_tokens=3, metadata={"plan": "pro"}, warnings=["“cache_enabled” is not served yet"],
        customer_identifier="anna", custom_identifier="c1", thread_identifier="t1", trace_id=bytes(range(16)),
        attempts=[{"provider": "openai", "model": "gpt-4o-mini", "started_us": 1, "duration_us": 2, "status": 200}],
    )  # fmt: skip
    public_id = ids.encode("log", span_id)
    status, body = call(issued.live)
    assert (status, body["count"], body["next"], body["previous"]) == (200, 1, None, None)
    [row] = body["results"]
    expected = {
        "id": public_id, "unique_id": public_id, "model": "gpt-4o-mini", "response_model": "gpt-4o-mini-2024-07-18",
        "provider_id": "openai", "status": "success", "status_code": 200, "failed": False,
        "prompt_tokens": 12, "completion_tokens": 3, "total_request_tokens": 15, "latency": 1.5,
        "time_to_first_token": 0.25, "tokens_per_second": 2.0, "cost": 3.1e-07, "cost_nano": "310",
        "charged_nano": "310", "covered_by": "credits", "used_custom_credential": False,
        "customer_identifier": "anna", "custom_identifier": "c1", "thread_identifier": "t1",
        "metadata": {"plan": "pro"}, "warnings": ["“cache_enabled” is not served yet"], "has_warnings": True,
        "environment": "prod", "is_test": False, "log_type": "chat", "finish_reason": "stop", "stream": False,
        "organization_id": issued.organization.public_id,
        "organization_key_id": issued.live.api_key.public_id, "organization_key_name": "Backend",
        "trace_unique_id": bytes(range(16)).hex(), "prompt_messages": REQUEST["messages"],
        "completion_message": RESPONSE["choices"][0]["message"], "full_request": REQUEST, "full_response": RESPONSE,
        "temperature": 0.5, "tools": REQUEST["tools"], "is_log_omitted": False,
        "tool_calls": RESPONSE["choices"][0]["message"]["tool_calls"],
        "start_time": started_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "timestamp": (started_at + timedelta(seconds=1.5)).isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }  # fmt: skip
    assert {name: row.get(name) for name in expected} == expected
    assert "Héllo" in row["input"]
    for path in (public_id, f"{public_id}/", span_id.hex, f"{span_id}/"):
        assert call(issued.live, f"/api/request-logs/{path}", method="get") == (200, row | {"limit_info": None})


def test_what_is_unknown_is_null_and_a_cut_body_is_marked(issued, call):
    insert_call(
        organization_id=issued.organization.pk, request=b'{"messages":[{"ro', response=None, request_truncated=True,
        status="aborted", cost_nano=None, ttft_us=None, output_tokens=None, provider=None,
    )  # fmt: skip
    [row] = call(issued.live)[1]["results"]
    assert (row["status"], row["cost"], row["cost_nano"], row["time_to_first_token"]) == ("aborted", None, None, None)
    assert (row["prompt_messages"], row["full_request"], row["request_truncated"]) == (None, None, True)
    assert (row["input"], row["organization_key_name"], row["tokens_per_second"]) == ("Hello", None, None)


@pytest.mark.parametrize(
    ("request_body", "response_body"),
    [
        (b"[1, 2]", b'"text"'),
        ({"messages": "no list"}, {"choices": {"a": 1}}),
        ({"messages": [1, None, "x"]}, {"choices": [None, {"message": "x"}, {}]}),
        (b"[" * 100_000, b"\xff\xfe"),
        (b"", b"nul\x00l"),
    ],
)
def test_bodies_of_any_shape_are_listed(issued, call, request_body, response_body):
    insert_call(organization_id=issued.organization.pk, request=request_body, response=response_body)
    status, body = call(issued.live)
    assert (status, body["count"]) == (200, 1)
    assert body["results"][0]["prompt_messages"] is None


def test_a_key_lists_its_own_environment_unless_asked_for_others(issued, call):
    span(issued, name="live")
    span(issued, name="trial", environment="test", api_key_id=issued.test.api_key.pk)
    assert found(call(issued.live)[1]) == ["live"]
    assert found(call(issued.test)[1]) == ["trial"]
    assert found(call(issued.live, f"{LIST}?environment=test")[1]) == ["trial"]
    assert found(call(issued.live, f"{LIST}?is_test=true")[1]) == ["trial"]
    assert found(call(issued.test, body={"is_test": False})[1]) == ["live"]
    assert sorted(found(call(issued.live, f"{LIST}?all_envs=true")[1])) == ["live", "trial"]
    assert found(call(issued.live, body={"filters": {"environment": {"value": ["test"]}}})[1]) == ["trial"]


def test_a_list_covers_the_last_hour_unless_asked_for_more(issued, call):
    now = datetime.now(UTC)
    span(issued, name="now", started_at=now - timedelta(minutes=1))
    span(issued, name="earlier", started_at=now - timedelta(hours=2))
    assert found(call(issued.live)[1]) == ["now"]
    since = (now - timedelta(hours=3)).isoformat()
    assert found(call(issued.live, body={"start_time": since})[1]) == ["now", "earlier"]
    until = (now - timedelta(hours=1)).isoformat().replace("+", "%2B")
    assert found(call(issued.live, f"{LIST}?end_time={until}", {"start_time": since})[1]) == ["earlier"]


@pytest.mark.parametrize("path", ["/api/request-logs/list/", "/api/request-logs/list"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_every_spelling_of_the_list_is_answered(issued, call, path, method):
    span(issued, name="x")
    assert found(call(issued.live, path, method=method)[1]) == ["x"]


def test_filters_come_in_the_body_and_in_the_url(issued, call):
    span(issued, name="a", request_model="gpt-5", metadata={"plan": "pro"}, cost_nano=20_000_000)
    span(issued, name="b", request_model="claude", metadata={"plan": "free"}, api_key_id=issued.test.api_key.pk)
    body = {
        "filters": {"model": {"operator": "in", "value": ["gpt-5"]}, "cost": [{"operator": "gte", "value": [0.02]}]}
    }
    assert found(call(issued.live, body=body)[1]) == ["a"]
    assert found(call(issued.live, f"{LIST}?model=claude")[1]) == ["b"]
    assert found(call(issued.live, f"{LIST}?plan=pro", method="get")[1]) == ["a"]
    assert found(call(issued.live, f"{LIST}?cost[value]=0.01&cost[operator]=gt", method="get")[1]) == ["a"]
    assert found(call(issued.live, LIST + '?filters={"model":{"value":["claude"]}}', method="get")[1]) == ["b"]
    assert found(
        call(issued.live, body={"log_type": "chat", "filters": {"metadata__plan": {"value": ["free"]}}})[1]
    ) == ["b"]
    assert found(call(issued.live, f"{LIST}?organization_key_id={issued.test.api_key.public_id}")[1]) == ["b"]
    assert found(call(issued.live, f"{LIST}?organization_key_id={issued.foreign.api_key.public_id}")[1]) == []
    either = {"operator": "OR", "filters": {"model": {"value": ["gpt-5"]}, "metadata__plan": {"value": ["free"]}}}
    assert sorted(found(call(issued.live, body=either)[1])) == ["a", "b"]


def test_fields_can_be_chosen(issued, call):
    insert_call(organization_id=issued.organization.pk, request=REQUEST, response=RESPONSE)
    [row] = call(issued.live, f"{LIST}?include_fields=model,cost,nonsense")[1]["results"]
    assert sorted(row) == ["cost", "id", "model", "unique_id"]
    [row] = call(issued.live, body={"include_fields": ["prompt_messages"]})[1]["results"]
    assert row["prompt_messages"] == REQUEST["messages"]


def follow(call, key, body, *, start=LIST):
    """Return all rows by following `next`, checking each page's neighbours on the way."""
    rows, path, pages = [], start, 0
    while path:
        status, page = call(key, path, body)
        assert status == 200, page
        rows += found(page)
        pages += 1
        path = page["next"] and "{0.path}?{0.query}".format(urlsplit(page["next"]))
        span_name = f"late {pages}"
        call.insert(span_name)
    return rows


@pytest.mark.parametrize("sort_by", ["-id", "id", "-timestamp", "-cost", "latency", "total_tokens"])
def test_following_next_gives_every_row_once(issued, call, sort_by):
    now = datetime.now(UTC)
    names = [f"row {number:02}" for number in range(25)]
    for number, name in enumerate(names):
        span(
            issued, name=name, started_at=now - timedelta(minutes=1, seconds=number), cost_nano=number % 4 or None,
            duration_us=1000 * (number % 3), input_tokens=number % 5,
        )  # fmt: skip
    # A row that arrives while paging lies after the window, which the links keep still.
    call.insert = lambda name: span(issued, name=name, started_at=datetime.now(UTC) + timedelta(minutes=5))
    rows = follow(call, issued.live, {"page_size": 4, "sort_by": sort_by})
    assert sorted(rows) == names
    if sort_by in {"-id", "-timestamp"}:
        assert rows == names
    if sort_by == "id":
        assert rows == names[::-1]


def test_pages_by_number_and_back(issued, call):
    now = datetime.now(UTC)
    for number in range(5):
        span(issued, name=f"row {number}", started_at=now - timedelta(seconds=number + 1))
    body = call(issued.live, f"{LIST}?page=2&page_size=2")[1]
    assert (found(body), body["count"], body["count_is_capped"]) == (["row 2", "row 3"], 5, False)
    previous = urlsplit(body["previous"])
    assert dict(parse_qsl(previous.query))["page"] == "1"
    assert found(call(issued.live, f"{previous.path}?{previous.query}")[1]) == ["row 0", "row 1"]
    past = call(issued.live, f"{LIST}?page=9&page_size=2")[1]
    assert (past["results"], past["next"], past["count"]) == ([], None, 5)


@pytest.mark.parametrize(
    ("query", "body", "param"),
    [
        ("page=0", {}, "page"),
        ("page=x", {}, "page"),
        ("page=201", {}, "page"),
        ("", {"page_size": 1.5}, "page_size"),
        ("sort_by=nonsense", {}, "sort_by"),
        ("", {"sort_by": 7}, "sort_by"),
        ("start_time=yesterday", {}, "start_time"),
        ("", {"end_time": 5}, "end_time"),
        ("start_time=2026-01-02&end_time=2026-01-01", {}, "start_time"),
        ("end_time=0001-01-01", {"start_time": "2026-01-01"}, "start_time"),
        ("environment=staging", {}, "environment"),
        ("all_envs=perhaps", {}, "all_envs"),
        ("cursor=nonsense", {}, "cursor"),
        ("", {"include_fields": {"a": 1}}, "include_fields"),
        ("", {"filters": []}, "filters"),
        ("filters={", {}, "filters"),
        ("", {"filters": {"modell": {"value": ["x"]}}}, "modell"),
        ("", {"filters": {"cost": {"operator": "contains", "value": ["x"]}}}, "cost"),
        ("", {"filters": {"model": {"value": ["a\u0000b"]}}}, "model"),
        ("model=%00", {}, "model"),
        ("cost=cheap", {}, "cost"),
        ("", {"operator": "XOR", "filters": {"model": {"value": ["a"]}}}, "model"),
    ],
)
def test_what_cannot_be_read_is_a_400_that_names_it(issued, call, query, body, param):
    status, answer = call(issued.live, f"{LIST}?{query}", body)
    assert (status, answer["param"]) == (400, param)
    assert answer["detail"]
    assert answer["code"] in {"invalid_request", "invalid_filter", "invalid_cursor"}


@pytest.mark.parametrize("body", ["[]", "1", '"x"', "null", "{", pytest.param("[" * 100_000, id="deep")])
def test_a_body_that_is_no_json_object_is_a_400(issued, client, body):
    response = client.post(
        LIST, data=body, content_type="application/json", headers={"Authorization": f"Bearer {issued.live.secret}"}
    )
    assert response.status_code == 400
    assert response.json()["detail"]


def test_a_cursor_of_another_query_is_refused(issued, call):
    for number in range(3):
        span(issued, started_at=datetime.now(UTC) - timedelta(seconds=number + 1))
    cursor = dict(parse_qsl(urlsplit(call(issued.live, f"{LIST}?page_size=1")[1]["next"]).query))["cursor"]
    assert call(issued.live, f"{LIST}?page_size=1&cursor={cursor}")[0] == 200
    status, body = call(issued.live, f"{LIST}?model=gpt-4o-mini&cursor={cursor}")
    assert (status, body["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("path", [LIST, "/api/request-logs/list", "/api/request-logs/log_x/"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_without_a_key_there_is_a_401(db, client, path, method):
    response = getattr(client, method)(path)
    assert response.status_code == 401
    assert response["WWW-Authenticate"].startswith("Bearer")
    assert response.json()["code"] == "missing_api_key"


def test_a_session_is_no_key(issued, client):
    client.force_login(issued.owner)
    assert client.post(LIST, data={}, content_type="application/json").status_code == 401


def test_a_revoked_key_sees_nothing(issued, call):
    keys.revoke(api_key=issued.live.api_key, actor=issued.owner, now=datetime.now(UTC))
    assert call(issued.live)[0] == 401


def test_one_organization_reaches_nothing_of_another(issued, call):
    span_id = span(issued, name="secret", request_model="gpt-5", customer_identifier="anna")
    for path in (LIST, f"{LIST}?all_envs=true", f"{LIST}?customer_identifier=anna"):
        assert call(issued.foreign, path)[1]["results"] == []
    assert call(issued.foreign, f"{LIST}?organization_id={issued.organization.public_id}")[1]["count"] == 0
    for text in (ids.encode("log", span_id), span_id.hex):
        assert call(issued.foreign, f"/api/request-logs/{text}/", method="get") == (
            404, {"detail": "Log not found", "code": "log_not_found"},
        )  # fmt: skip
    assert call(issued.live, f"/api/request-logs/{span_id}/", method="get")[0] == 200


@pytest.mark.parametrize(
    "text", ["log_", "nonsense", "log_zzzzzzzzzzzzzzzzzzzzzzzzzz", "%00", "%F0%9F%92%A9", "key_" + "0" * 26]
)
def test_an_id_that_is_none_is_not_found(issued, call, text):
    assert call(issued.live, f"/api/request-logs/{text}/", method="get")[0] == 404
    assert call(issued.live, f"/api/request-logs/{uuid.uuid4()}", method="get")[0] == 404


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_logs_cannot_be_changed(issued, call, method):
    span_id = span(issued)
    assert call(issued.live, f"/api/request-logs/{span_id}/", method=method)[0] == 405
    assert call(issued.live, f"/api/request-logs/{span_id}/", method="get")[0] == 200
