"""The Logs pages: who sees them, what they show, filters in the URL, and strangers' text shown as nothing but text."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from html.parser import HTMLParser

import pytest

from accounts import keys
from accounts.models import User
from billing import prices, usage
from respan import ids
from tests.traces.rows import insert_call, insert_span
from traces import views

pytestmark = pytest.mark.django_db

LOGS = "/platform/logs/"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7|add:7 }}{% now %}javascript:alert(3)"


@pytest.fixture
def page(client):
    """Fetch a page as somebody and return (status, HTML)."""

    def fetch(user, path=LOGS, **params):
        client.logout()
        if user:
            client.force_login(user)
        response = client.get(path, params)
        return response.status_code, response.content.decode()

    return fetch


@pytest.fixture
def key(cast):
    issued = keys.issue(organization=cast.organization, name="Backend", environment="production", created_by=None)
    return issued.api_key


def span(cast, **values):
    return insert_span(organization_id=cast.organization.pk, **values)


def address(span_id):
    return f"{LOGS}{ids.encode('log', span_id)}/"


def previews(html):
    """Return the input column of the list, top to bottom."""
    return [text_of(cell) for cell in re.findall(r'<td class="input-words">(.*?)</td>', html)]


def tokens(html):
    """Return the filters in force as the page shows them."""
    return [text_of(token) for token in re.findall(r'<li class="token">(.*?)</li>', html)]


def removal(html, token):
    """Return the address without a filter."""
    [found] = [each for each in re.findall(r'<li class="token">(.*?)</li>', html) if text_of(each) == token]
    return unescape(re.search(r'href="([^"]*)"', found)[1])


def text_of(html):
    """Return what a reader sees: no tags, no entities, single spaces."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


# --- Who sees them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["owner", "admin", "member"])
def test_every_role_reads_logs(cast, page, role):
    span_id = span(cast, input_preview="Hello from Acme")
    for path in (LOGS, address(span_id)):
        assert page(getattr(cast, role), path)[0] == 200
    assert "Hello from Acme" in page(getattr(cast, role))[1]


def test_nobody_reads_logs_without_signing_in(cast, client):
    span_id = span(cast)
    for path in (LOGS, address(span_id)):
        response = client.get(path)
        assert response.status_code == 302
        assert response["Location"].startswith("/accounts/login/")


def test_a_user_without_an_organization_is_refused(cast, page):
    loner = User.objects.create_user(f"{ids.new('loner')}@example.test")
    span_id = span(cast, input_preview="Hello from Acme")
    for path in (LOGS, address(span_id)):
        status, html = page(loner, path)
        assert status == 403
        assert "Hello from Acme" not in html


def test_an_outsider_sees_nothing(cast, page, key):
    span_id = span(cast, input_preview="Hello from Acme", customer_identifier="anna", api_key_id=key.pk)
    for params in ({}, {"customer": "anna"}, {"text": "Acme"}, {"key": key.public_id}, {"range": "30d"}):
        status, html = page(cast.outsider, **params)
        assert status == 200
        assert "Hello from Acme" not in html
        assert "Backend" not in html
    for path in (address(span_id), f"{LOGS}{span_id}/"):
        assert page(cast.outsider, path)[0] == 404
        assert page(cast.member, path)[0] == 200


@pytest.mark.parametrize("text", ["log_", "nonsense", "%00", "log_" + "z" * 26, "..%2F..", "log_" + "0" * 26])
def test_an_id_that_is_none_is_not_found(cast, page, text):
    assert page(cast.member, f"{LOGS}{text}/")[0] == 404


# --- The list -------------------------------------------------------------------------------------------------------


def test_before_the_first_call_the_page_says_what_to_do(cast, page):
    status, html = page(cast.member)
    assert status == 200
    assert "No calls yet" in html
    assert "sandbox/echo" in html
    assert "<table" not in html


def test_a_search_without_results_says_so_and_offers_a_way_out(cast, page):
    span(cast)
    html = page(cast.member, model="nonsense")[1]
    assert "No calls match" in html
    assert tokens(html) == ["Model nonsense"]
    assert "Clear filters" in html


def test_a_row_shows_the_figures_of_a_call(cast, page, key):
    span(
        cast, api_key_id=key.pk, duration_us=1_240_000, ttft_us=120_000, input_tokens=1234, output_tokens=56,
        cost_nano=310_000, customer_identifier="anna", input_preview="What is 2+2?",
    )  # fmt: skip
    text = text_of(page(cast.member)[1])
    for shown in (
        "OK",
        "openai",
        "gpt-4o-mini",
        "What is 2+2?",
        "1,234 / 56",
        "1.24 s",
        "120 ms",
        "$0.00031",
        "Backend",
        "anna",
    ):
        assert shown in text


def test_states_have_a_word_and_an_unknown_cost_is_not_zero(cast, page):
    span(cast, status="error", http_status=502, error_message="No such key", input_preview=None, cost_nano=None)
    span(cast, status="aborted", http_status=499, cost_nano=0)
    span(cast, status="interrupted", http_status=500)
    text = text_of(page(cast.member)[1])
    for shown in ("Error 502", "No such key", "Aborted", "Interrupted", "unknown", "$0.00"):
        assert shown in text


@pytest.mark.parametrize(
    ("params", "expected", "shown"),
    [
        ({}, "abc", []),
        ({"status": "ok"}, "a", ["Status OK"]),
        ({"status": "failed"}, "bc", ["Status Not OK"]),
        ({"status": "aborted"}, "c", ["Status Aborted"]),
        ({"status": ["ok", "aborted"]}, "ac", ["Status OK", "Status Aborted"]),
        ({"status": ["ok", "failed"]}, "abc", ["Status OK", "Status Not OK"]),
        ({"model": "gpt-5"}, "a", ["Model gpt-5"]),
        ({"model": ["gpt-5", "llama"]}, "ac", ["Model gpt-5", "Model llama"]),
        ({"provider": "anthropic"}, "b", ["Provider anthropic"]),
        ({"environment": "test"}, "b", ["Environment Test"]),
        ({"environment": ""}, "abc", []),
        ({"customer": "anna"}, "a", ["Customer anna"]),
        ({"paid_by": "own_key"}, "c", ["Paid by Own key"]),
        ({"text": "100%"}, "a", ["Text 100%"]),
        ({"text": "%"}, "a", ["Text %"]),
        ({"text": "_"}, "c", ["Text _"]),
        ({"range": "1h"}, "ab", []),
        ({"range": "7d", "model": "llama", "status": "failed"}, "c", ["Status Not OK", "Model llama"]),
        ({"key": "key_of_nobody"}, "", ["API key Unknown key"]),
    ],
)
def test_filters_narrow_the_list_and_stand_above_it_as_tokens(cast, page, params, expected, shown):
    now = datetime.now(UTC)
    span(cast, input_preview="a 100%", request_model="gpt-5", customer_identifier="anna", started_at=now)
    span(
        cast, input_preview="b 100", request_model="claude", provider="anthropic", environment="test", status="error",
        started_at=now - timedelta(minutes=30),
    )  # fmt: skip
    span(
        cast, input_preview="c x_y", request_model="llama", provider=None, status="aborted", paid_by="own_key",
        started_at=now - timedelta(hours=2),
    )  # fmt: skip
    status, html = page(cast.member, **params)
    assert status == 200
    assert "".join(preview[0] for preview in previews(html)) == expected
    assert tokens(html) == shown
    if "range" in params:
        assert {"1h": "Last hour", "7d": "Last 7 days"}[params["range"]] in text_of(html)


def test_a_token_is_taken_away_and_leaves_the_others(cast, page):
    span(cast, input_preview="mine", request_model="gpt-5", customer_identifier="anna")
    span(cast, input_preview="other", request_model="llama", customer_identifier="anna")
    html = page(cast.member, model=["gpt-5", "nothing"], customer="anna", range="7d")[1]
    assert previews(html) == ["mine"]
    html = page(cast.member, removal(html, "Model nothing"))[1]
    assert tokens(html) == ["Model gpt-5", "Customer anna"]
    html = page(cast.member, removal(html, "Model gpt-5"))[1]
    assert (tokens(html), previews(html)) == (["Customer anna"], ["other", "mine"])
    assert "Last 7 days" in text_of(html)


def test_the_environment_switch_is_the_default_and_the_address_wins(cast, client):
    span(cast, input_preview="production call")
    span(cast, input_preview="test call", environment="test")
    client.force_login(cast.member)
    client.post("/platform/environment/", {"environment": "test"})

    def listed(address):
        html = client.get(LOGS + address).content.decode()
        return previews(html), tokens(html), html

    calls, shown, html = listed("")
    assert (calls, shown) == (["test call"], ["Environment Test"])
    assert removal(html, "Environment Test") == f"{LOGS}?environment="
    assert listed("?environment=")[:2] == (["test call", "production call"], [])
    assert listed("?environment=production")[:2] == (["production call"], ["Environment Production"])


def test_the_key_filter_and_a_custom_window_narrow_the_list(cast, page, key):
    span(cast, input_preview="mine", api_key_id=key.pk, started_at=datetime(2026, 3, 1, 12, 30, tzinfo=UTC))
    span(cast, input_preview="other", api_key_id=key.pk + 1, started_at=datetime(2026, 3, 1, 13, tzinfo=UTC))
    window = {"from": "2026-03-01T12:00", "to": "2026-03-01T14:00"}
    assert previews(page(cast.member, **window)[1]) == ["other", "mine"]
    assert previews(page(cast.member, **window, key=key.public_id)[1]) == ["mine"]
    assert previews(page(cast.member, **window | {"to": "2026-03-01T12:45"})[1]) == ["mine"]


@pytest.mark.parametrize(
    "params",
    [
        {"status": "nonsense"},
        {"environment": "staging"},
        {"range": "1y"},
        {"from": "yesterday"},
        {"from": "2026-03-02", "to": "2026-03-01"},
        {"to": "0001-01-01"},
        {"text": "x", "range": "30d"},
        {"text": "x" * 201},
        {"model": "a\x00b"},
        {"cursor": "nonsense"},
    ],
)
def test_a_filter_that_cannot_be_used_is_explained_on_the_page(cast, page, params):
    span(cast, input_preview="Hello")
    status, html = page(cast.member, **params)
    assert status == 400
    assert 'role="alert"' in html
    assert previews(html) == []


def test_older_and_newer_lead_through_the_whole_list_and_keep_the_filters(cast, page):
    now = datetime.now(UTC)
    total = views.PAGE_SIZE * 2 + 5
    for number in range(total):
        span(cast, input_preview=f"row {number:03}", started_at=now - timedelta(seconds=number), request_model="gpt-5")
    span(cast, input_preview="other", request_model="claude")

    def link(html, rel):
        found = re.search(rf'rel="{rel}" href="([^"]*)"', html)
        return LOGS + unescape(found[1]) if found else None

    pages = [page(cast.member, model="gpt-5")[1]]
    assert link(pages[0], "prev") is None
    while path := link(pages[-1], "next"):
        assert "model=gpt-5" in path
        pages.append(page(cast.member, path)[1])
    assert [name for html in pages for name in previews(html)] == [f"row {number:03}" for number in range(total)]
    back = page(cast.member, link(pages[2], "prev"))[1]
    assert previews(back) == previews(pages[1])
    assert previews(page(cast.member, link(back, "prev"))[1]) == previews(pages[0])


# --- One log --------------------------------------------------------------------------------------------------------

REQUEST = {
    "model": "gpt-4o-mini",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is **this**?"},
                {"type": "image_url", "image_url": {"url": "https://example.test/cat.png"}},
                {"type": "input_audio", "input_audio": {"format": "wav"}},
                {"type": "file", "file": {"file_id": "f1"}},
            ],
        },
        {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": '{"at": 1}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "A cat"},
    ],
}
RESPONSE = {
    "choices": [{"message": {"role": "assistant", "content": "A cat.\n\nReally.", "reasoning_content": "Hm, whiskers"}}]
}


def test_a_log_shows_the_whole_call(cast, page, key):
    started_at = datetime.now(UTC)
    span_id = insert_call(
        organization_id=cast.organization.pk, request=REQUEST, response=RESPONSE, started_at=started_at,
        api_key_id=key.pk, duration_us=65_000_000, ttft_us=120_000, metadata={"plan": "pro", "items": "three"},
        warnings=["cache_enabled is not served"], customer_identifier="anna", credential="cred_1", paid_by="own_key",
        charged_nano=0, usage_source="counted",
        attempts=[
            {"provider": "groq", "model": "m1", "started_us": int(started_at.timestamp() * 1e6), "duration_us": 40_000,
             "status": 503, "error": "overloaded"},
            {"provider": "openai", "model": "m2", "started_us": int(started_at.timestamp() * 1e6) + 50_000,
             "duration_us": 700_000, "status": 200, "reason": "fallback", "credential": "cred_1"},
        ],
    )  # fmt: skip
    status, html = page(cast.member, address(span_id))
    assert status == 200
    text = text_of(html)
    for shown in (
        ids.encode("log", span_id), "gpt-4o-mini", "gpt-4o-mini-2024-07-18", "1 min 5 s", "120 ms", "Own key",
        "counted by Respan", "Backend", "anna", "cache_enabled is not served", "plan pro", "items three",
        "groq m1 failed 503 overloaded after 0 ms 40 ms 0 / 0, $0.00",
        "openai m2 with the key cred_1 answered 200 after 50 ms 700 ms 10 / 20 $0.0000135", "First try", "Fallback",
        "Be brief.", "What is **this**?", "Image (not loaded) Open at example.test https://example.test/cat.png",
        "Audio", "File", 'Tool call look c1 {"at": 1} Result A cat', "A cat. Really.", "Thinking",
        "Hm, whiskers", '"model": "gpt-4o-mini"',
    ):  # fmt: skip
        assert shown in text, shown
    assert re.findall(r"<img[^>]*>", html) == re.findall(r'<img src="/static/[^>]*>', html), "nothing is loaded"
    assert "A cat.\n\nReally." in html


def test_the_cost_is_explained_by_its_arithmetic(cast, page):
    model = ids.new("model")
    rates = usage.Rates(input=150_000_000, output=600_000_000)
    prices.publish([prices.Price("openai", model, rates)])
    [rates_id] = [pk for pk, found in _published(model)]
    used = usage.Usage(input_tokens=1000, output_tokens=200)
    nano = usage.cost(used, rates)
    span_id = span(cast, rates_id=rates_id, input_tokens=1000, output_tokens=200, cost_nano=nano, charged_nano=nano)
    text = text_of(page(cast.member, address(span_id))[1])
    for shown in (
        "How the cost adds up",
        "Input 1,000 $0.15 / 1 M",
        "Output 200 $0.60 / 1 M",
        usage.usd(nano),
        "Credits",
    ):
        assert shown in text, shown
    failed = span(cast, rates_id=rates_id, input_tokens=1000, output_tokens=0, cost_nano=0, status="error")
    text = text_of(page(cast.member, address(failed))[1])
    assert "How the cost adds up" not in text
    assert "This call cost nothing" in text


def _published(model):
    from billing.models import ModelRates

    return [(row.pk, row) for row in ModelRates.objects.filter(model=model)]


def test_a_log_without_content_or_with_cut_content_is_shown(cast, page):
    bare = span(cast, ttft_us=None, response_model=None, provider=None, cost_nano=None, input_tokens=None, trace_id=b"")
    text = text_of(page(cast.member, address(bare))[1])
    assert "Content was not stored" in text
    assert "No price is known" in text
    cut = insert_call(
        organization_id=cast.organization.pk, request=b'{"messages":[{"role":"us', response=None, request_truncated=True
    )
    text = text_of(page(cast.member, address(cut))[1])
    assert "cut at 256 KiB" in text
    assert '{"messages":[{"role":"us' in text


@pytest.mark.parametrize(
    "body",
    [
        b"[1]",
        {"messages": {"a": 1}},
        {"messages": [1, None, {"role": 7, "content": 5}, {"content": [None, "x", {"type": "text"}, {"type": 1}]}]},
        {
            "messages": [
                {"role": "assistant", "tool_calls": [None, {"function": None}, {"function": {"arguments": {"a": 1}}}]}
            ]
        },
        {"messages": [{"role": "assistant", "tool_calls": {}, "function_call": {"name": "f", "arguments": "{}"}}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": {"sha256": "ab"}}}]}]},
        {"choices": [{"message": {"content": None, "refusal": "No."}}]},
    ],
)
def test_content_of_any_shape_is_shown(cast, page, body):
    span_id = insert_call(organization_id=cast.organization.pk, request=body, response=body)
    assert page(cast.member, address(span_id))[0] == 200


# --- Strangers' text ------------------------------------------------------------------------------------------------


def test_whatever_a_caller_wrote_is_shown_as_text(cast, page):
    message = {
        "role": EVIL, "name": EVIL,
        "content": [{"type": "text", "text": EVIL}, {"type": "image_url", "image_url": EVIL}],
        "tool_calls": [{"function": {"name": EVIL, "arguments": EVIL}}], "reasoning_content": EVIL, "refusal": EVIL,
    }  # fmt: skip
    key = keys.issue(organization=cast.organization, name=EVIL[:100], environment="production", created_by=None).api_key
    span_id = insert_call(
        organization_id=cast.organization.pk, api_key_id=key.pk, request={"messages": [message]},
        response={"choices": [{"message": message}]}, request_model=EVIL, response_model=EVIL, provider=EVIL,
        credential=EVIL, finish_reason=EVIL, error_code=EVIL, error_message=EVIL, customer_identifier=EVIL,
        customer_name=EVIL, customer_email=EVIL, custom_identifier=EVIL, thread_identifier=EVIL, input_preview=EVIL,
        output_preview=EVIL, metadata={EVIL: EVIL}, warnings=[EVIL], environment=EVIL, paid_by=EVIL, status=EVIL,
        usage_source=EVIL,
        attempts=[{"provider": EVIL, "model": EVIL, "credential": EVIL, "error": EVIL, "reason": EVIL, "status": EVIL}],
    )  # fmt: skip
    asked = {"model": EVIL[:100], "provider": EVIL, "customer": EVIL, "text": EVIL, "key": EVIL}
    for html in (page(cast.member)[1], page(cast.member, **asked)[1], page(cast.member, address(span_id))[1]):
        assert "alert(1)" in html
        assert "{{ 7|add:7 }}" in html, "never a template of ours"
        elements = Elements(html).found
        assert not {"iframe", "object", "embed", "style", "base"} & {name for name, _ in elements}
        for name, attributes in elements:
            assert name != "img" or attributes["src"].startswith("/static/")
            assert not any(each.startswith("on") or each == "style" for each in attributes)
            assert name != "script" or (attributes.get("src") or "").startswith("/static/")
            for each in ("href", "src", "action"):
                assert not (attributes.get(each) or "").lower().startswith(("javascript:", "data:"))


class Elements(HTMLParser):
    """The elements of a page as a browser reads them: (name, attributes)."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
