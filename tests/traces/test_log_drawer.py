"""One log as drawer and page, its files, the live pill, the empty page, the export: what they send, and to whom."""

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from django.db import connection
from django.test import AsyncClient
from django.test.utils import CaptureQueriesContext

from accounts import keys
from accounts.models import AuditEvent
from respan import ids
from tests.traces.rows import insert_call, insert_span
from traces import detail, download, export, reading
from traces.query import SpanQuery

pytestmark = pytest.mark.django_db

LOGS = "/platform/logs/"
HTMX = {"HX-Request": "true"}
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "Hi there"}}]}


@pytest.fixture
def reader(client, cast):
    client.force_login(cast.member)
    return client


def span(cast, **values):
    return insert_span(organization_id=cast.organization.pk, **values)


def call(cast, request=CHAT, response=ANSWER, **values):
    return insert_call(organization_id=cast.organization.pk, request=request, response=response, **values)


def address(span_id):
    return f"{LOGS}{ids.encode('log', span_id)}/"


# --- The drawer -------------------------------------------------------------------------------------------------------


def test_the_drawer_gets_the_content_of_the_page_without_its_frame(cast, reader):
    span_id = call(cast)
    page = reader.get(address(span_id)).content.decode()
    drawer = reader.get(address(span_id), headers=HTMX).content.decode()
    assert page.count("<h1>") == 1
    assert "<h1" not in drawer
    assert "<html" not in drawer
    for part in ("Hi there", ids.encode("log", span_id), 'id="log-cost"', "curl "):
        assert part in drawer
        assert part in page


def test_the_drawer_says_when_a_log_is_gone_or_of_somebody_else(cast, client):
    span_id = call(cast)
    client.force_login(cast.outsider)
    answer = client.get(address(span_id), headers=HTMX)
    assert answer.status_code == 404
    assert "There is no such log" in answer.content.decode()
    assert "<html" not in answer.content.decode()


def test_an_expired_session_sends_the_whole_page_to_the_sign_in(cast, client):
    span_id = call(cast)
    current = {**HTMX, "HX-Current-URL": f"http://testserver{LOGS}?range=7d"}
    for path in (address(span_id), f"{LOGS}new/", f"{LOGS}by/model/"):
        answer = client.get(path, headers=current)
        assert answer["HX-Redirect"] == "/accounts/login/?next=/platform/logs/%3Frange%3D7d"
        assert not answer.content


def test_rows_open_the_drawer_and_are_links_without_scripts(cast, reader):
    span_id = span(cast)
    html = reader.get(LOGS).content.decode()
    assert re.search(rf'<tr data-row>\s*<th scope="row"><a [^>]*href="{address(span_id)}" data-drawer', html)
    assert '<dialog class="drawer-side" id="log-drawer"' in html
    assert "<table" in html
    assert "data-rows" in html


def test_without_content_the_page_says_so_and_offers_no_code(cast, reader):
    html = reader.get(address(span(cast))).content.decode()
    assert "Content was not stored" in html
    assert 'id="log-code"' not in html
    assert "request.json" not in html


def test_code_is_offered_for_whole_requests_only(cast, reader):
    cut = call(cast, request=b'{"messages":[{"role":"us', request_truncated=True)
    assert 'id="log-code"' not in reader.get(address(cut)).content.decode()
    sent = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": {"sha256": "ab", "bytes": 1}}}]}
    html = reader.get(address(call(cast, request={"messages": [sent]}))).content.decode()
    assert "put yours where their sha256 stands" in html


def test_a_very_long_conversation_shows_its_end_and_the_rest_as_a_file(cast, reader):
    messages = [{"role": "user", "content": f"message {number} {'x' * 2_000}"} for number in range(200)]
    span_id = call(cast, request={"messages": messages})
    answer = reader.get(address(span_id))
    html = answer.content.decode()
    assert "message 199 " in html
    assert "message 0 " not in html.split('id="log-raw"')[0]
    assert "earlier messages would make this page too long" in html
    assert len(answer.content) < 250_000
    file = reader.get(f"{address(span_id)}request.json")
    assert json.loads(file.content)["messages"] == messages


def test_what_a_tool_answered_stands_under_its_call():
    request = {
        "messages": [
            {"role": "assistant", "tool_calls": [{"id": n, "function": {"name": f"f{n}"}} for n in ("a", "b")]},
            {"role": "tool", "tool_call_id": "b", "content": "of b"},
            {"role": "tool", "tool_call_id": "a", "content": "of a"},
            {"role": "tool", "tool_call_id": "c", "content": "of nobody"},
        ]
    }
    calls, lost = export.paired(export.turns(request, None))
    assert [(part.title, [each.text for each in part.results]) for part in calls.parts] == [
        ("fa", ["of a"]),
        ("fb", ["of b"]),
    ]
    assert lost.parts[0].text == "of nobody"


def test_bodies_are_files_for_members_only(cast, client):
    span_id = call(cast)
    paths = [f"{address(span_id)}{part}.json" for part in ("request", "response")]
    for path in paths:
        assert client.get(path).status_code == 302
    client.force_login(cast.outsider)
    for path in paths:
        assert client.get(path).status_code == 404
    client.force_login(cast.member)
    request, response = (client.get(path) for path in paths)
    assert (json.loads(request.content), json.loads(response.content)) == (CHAT, ANSWER)
    assert request["Content-Disposition"].startswith("attachment")
    assert request["X-Content-Type-Options"] == "nosniff"
    assert client.get(f"{address(span_id)}other.json").status_code == 404
    assert client.get(f"{address(span(cast))}request.json").status_code == 404


def test_long_names_and_right_to_left_are_shown_whole_and_escaped(cast, reader):
    for name in ("m" * 300, "שלום <script>alert(1)</script> \u202e"):
        span_id = call(
            cast,
            request_model=name,
            response_model=name,
            customer_identifier=name,
            thread_identifier=name,
            provider=name,
        )
        for path in (LOGS, address(span_id)):
            html = reader.get(path).content.decode()
            assert "<script>alert" not in html
        assert unescape(html).count(name) >= 4


def test_the_attempts_lie_on_the_scale_of_the_call(cast, reader):
    started_at = datetime.now(UTC)
    us = int(started_at.timestamp() * 1e6)
    tries = [
        {"provider": "a", "model": "m", "started_us": us, "duration_us": 500_000, "status": 503},
        {"provider": "b", "model": "m", "started_us": us + 500_000, "duration_us": 500_000, "status": 200},
        {"provider": "c", "model": "m", "started_us": us * 2, "duration_us": 10**12},
    ]
    span_id = span(cast, started_at=started_at, duration_us=1_000_000, attempts=tries)
    log = reading.log(organization_id=cast.organization.pk, id=span_id).log
    found = detail.detail(log, None, base_url="https://x.test/api/").attempts
    assert [(each.x, each.width) for each in found[:2]] == [(0.0, 50.0), (50.0, 50.0)]
    assert all(each.x + each.width <= 100 for each in found)


# --- Live -------------------------------------------------------------------------------------------------------------


def poll(reader, html):
    [path] = re.findall(r'data-poll[^>]* hx-get="([^"]*)"', html)
    return reader.get(unescape(path), headers=HTMX).content.decode()


def test_new_calls_are_counted_not_pushed_into_the_list(cast, reader):
    now = datetime.now(UTC)
    span(cast, started_at=now - timedelta(minutes=1), request_model="gpt-5")
    html = reader.get(LOGS, {"model": "gpt-5"}).content.decode()
    assert poll(reader, html).strip() == ""
    for number in range(3):
        span(cast, started_at=now + timedelta(milliseconds=number), request_model="gpt-5")
    span(cast, started_at=now, request_model="claude")
    insert_span(organization_id=cast.other_organization.pk, started_at=now, request_model="gpt-5")
    pill = poll(reader, html)
    assert "3 new" in " ".join(re.sub(r"<[^>]*>", " ", pill).split())
    assert f'href="{LOGS}?model=gpt-5"' in pill


def test_an_empty_filtered_list_hears_of_its_first_call(cast, reader):
    span(cast, request_model="claude", started_at=datetime.now(UTC) - timedelta(minutes=1))
    html = reader.get(LOGS, {"model": "gpt-5"}).content.decode()
    assert poll(reader, html).strip() == ""
    span(cast, request_model="gpt-5")
    assert "1" in poll(reader, html)


def test_only_the_newest_page_is_live(cast, reader):
    now = datetime.now(UTC)
    for number in range(60):
        span(cast, started_at=now - timedelta(seconds=number))
    html = reader.get(LOGS).content.decode()
    assert "data-poll" in html
    older = unescape(re.search(r'rel="next" href="([^"]*)"', html)[1])
    for path in (LOGS + older, f"{LOGS}?to=2026-01-01T00:00:00", f"{LOGS}?range=1y"):
        assert "data-poll" not in reader.get(path).content.decode()


def test_a_pill_without_scripts_or_with_a_bad_position_is_harmless(cast, reader):
    span(cast)
    answer = reader.get(f"{LOGS}new/?model=gpt-5&after=x")
    assert (answer.status_code, answer["Location"]) == (302, f"{LOGS}?model=gpt-5")
    assert reader.get(f"{LOGS}new/?after=nonsense", headers=HTMX).content.strip() == b""


def test_the_empty_page_waits_for_the_first_call(cast, reader):
    html = reader.get(LOGS).content.decode()
    assert "Waiting for your first call" in html
    assert "sandbox/echo" in html
    waiting = f"{LOGS}new/?waiting=1"
    assert waiting in html
    assert "HX-Refresh" not in reader.get(waiting, headers=HTMX)
    insert_span(organization_id=cast.other_organization.pk)
    assert "HX-Refresh" not in reader.get(waiting, headers=HTMX)
    span(cast)
    assert reader.get(waiting, headers=HTMX)["HX-Refresh"] == "true"


# --- The file ---------------------------------------------------------------------------------------------------------


def taken(reader, **params):
    answer = reader.get(f"{LOGS}export/", params)
    assert answer.status_code == 200
    return answer, b"".join(answer.streaming_content).decode()


def test_the_filtered_list_is_a_csv_and_a_json_file(cast, reader):
    key = keys.issue(organization=cast.organization, name="Backend", environment="production", created_by=None).api_key
    now = datetime.now(UTC)
    span(cast, request_model="gpt-5", cost_nano=1_230, started_at=now, api_key_id=key.pk, input_preview='Hello, "you"')
    span(cast, request_model="gpt-5", cost_nano=None, started_at=now - timedelta(minutes=1), ttft_us=None)
    span(cast, request_model="claude")
    insert_span(organization_id=cast.other_organization.pk, request_model="gpt-5")
    answer, text = taken(reader, model="gpt-5", format="csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["cost_usd"] for row in rows] == ["0.000001230", ""]
    assert rows[0]["organization_key_name"] == "Backend"
    assert rows[0]["input"] == 'Hello, "you"'
    assert answer["Content-Disposition"].endswith('.csv"')
    assert "no-store" in answer["Cache-Control"]
    _, text = taken(reader, model="gpt-5", format="jsonl")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["cost_nano"] for line in lines] == ["1230", None]
    assert "full_request" not in lines[0]


def test_an_export_is_written_into_the_audit_log_once(cast, reader):
    span(cast)
    before = AuditEvent.objects.filter(organization=cast.organization).count()
    taken(reader, format="csv", model="gpt-4o-mini")
    events = AuditEvent.objects.filter(organization=cast.organization)
    assert events.count() == before + 1
    event = events.latest("pk")
    assert (event.action, event.actor) == ("logs.exported", cast.member)
    assert event.detail == {"format": "csv", "filters": "?model=gpt-4o-mini", "rows": 1}


def test_an_export_that_is_refused_is_not_audited(cast, reader, client):
    exports = AuditEvent.objects.filter(organization=cast.organization, action="logs.exported")
    assert reader.get(f"{LOGS}export/", {"format": "xls"}).status_code == 404
    assert reader.get(f"{LOGS}export/", {"format": "csv", "range": "1y"}).status_code == 302
    assert reader.post(f"{LOGS}export/", {"format": "csv"}).status_code == 405
    client.logout()
    assert client.get(f"{LOGS}export/", {"format": "csv"})["Location"].startswith("/accounts/login/")
    assert not exports.exists()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "\uff1d", "\uff20"])
def test_no_cell_is_a_formula(cast, reader, start):
    evil = f'{start}HYPERLINK("https://evil.test","x")'
    span(cast, input_preview=evil, request_model=evil, customer_identifier=evil, error_message=evil, status="error")
    _, text = taken(reader, format="csv")
    [row] = csv.DictReader(io.StringIO(text, newline=""))
    for name in ("input", "model", "customer_identifier", "error_message"):
        assert row[name] == f"'{evil}"
    assert download.safe_cell(-5) == -5, "numbers stay numbers"


def test_a_long_export_comes_in_pieces_and_ends_at_its_limit(cast):
    now = datetime.now(UTC)
    for number in range(7):
        span(cast, started_at=now - timedelta(seconds=number), input_preview=f"row {number}")
    spans = SpanQuery(since=now - timedelta(hours=1), until=now)
    pieces = list(download.chunks(organization=cast.organization, query=spans, format="csv", max_rows=5, page_size=2))
    assert len(pieces) == 4, "the head, and three pages"
    rows = csv.DictReader(io.StringIO(b"".join(pieces).decode()))
    assert [row["input"] for row in rows] == [f"row {number}" for number in range(5)]


@pytest.mark.django_db(transaction=True)
async def test_under_asgi_the_file_is_streamed_too(cast):
    from asgiref.sync import sync_to_async

    await sync_to_async(span)(cast, input_preview="Hello")
    client = AsyncClient()
    await client.aforce_login(cast.member)
    answer = await client.get(f"{LOGS}export/", {"format": "csv"})
    assert answer.is_async
    text = b"".join([part async for part in answer.streaming_content]).decode()
    assert [row["input"] for row in csv.DictReader(io.StringIO(text))] == ["Hello"]


# --- Queries ----------------------------------------------------------------------------------------------------------


def test_a_long_list_takes_as_many_queries_as_a_short_one(cast, reader):
    issued = [
        keys.issue(organization=cast.organization, name=f"Key {n}", environment="production", created_by=None).api_key
        for n in range(5)
    ]

    def queries(path):
        with CaptureQueriesContext(connection) as context:
            assert reader.get(path).status_code == 200
        return len(context)

    span(cast, api_key_id=issued[0].pk)
    paths = (LOGS, f"{LOGS}?model=gpt-4o-mini&key={issued[0].public_id}", f"{LOGS}by/key/", f"{LOGS}by/model/")
    few = [queries(path) for path in paths]
    for number in range(30):
        span(cast, api_key_id=issued[number % 5].pk, request_model=f"model {number}")
    assert [queries(path) for path in paths] == few
