"""Home: three steps that tick themselves off from facts, what each role may do there, then today's figures."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import keys
from accounts.models import ApiKey
from billing import codes, ledger
from billing.usage import NANO
from respan import ids
from tests.traces.test_store import row, write

pytestmark = pytest.mark.django_db

HOME = "/platform/"
WAITING = "/platform/first-call/"


@pytest.fixture
def page(client):
    def fetch(user, path=HOME):
        client.force_login(user)
        response = client.get(path)
        assert response.status_code == 200
        html = response.content.decode()
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split()), html

    return fetch


def call(organization, *, ago=timedelta(), **values):
    started_us = int((datetime.now(UTC) - ago).timestamp() * 1_000_000)
    one = row(organization_id=organization.pk, id=ids.new_uuid(started_us // 1000), started_us=started_us, **values)
    assert write(one) == []
    return ids.encode("log", one.record.id)


def ticks(html):
    return [
        bool(re.search(rf'id="tick-{number}"[^>]*><span class="badge" data-state="ok"', html)) for number in (1, 2, 3)
    ]


def test_steps_tick_themselves_off_from_facts(cast, page):
    assert ticks(page(cast.owner)[1]) == [False, False, False]
    keys.issue(organization=cast.organization, name="k", environment="production", created_by=None)
    assert ticks(page(cast.owner)[1]) == [True, False, False]
    ledger.grant(organization=cast.organization, amount_nano=NANO, reason="test", actor=None)
    assert ticks(page(cast.owner)[1]) == [True, True, False]
    assert ticks(page(cast.owner, WAITING)[1]) == [True, True, False]
    call(cast.organization)
    assert ticks(page(cast.owner, WAITING)[1]) == [True, True, True]


def test_revoked_and_expired_keys_do_not_count(cast, page):
    now = datetime.now(UTC)
    revoked = keys.issue(organization=cast.organization, name="k", environment="production", created_by=None).api_key
    keys.revoke(api_key=revoked, actor=None, now=now)
    keys.issue(
        organization=cast.organization, name="k", environment="test", created_by=None, expires_at=now - timedelta(1)
    )
    assert ticks(page(cast.owner)[1]) == [False, False, False]


def fields_of(html, action):
    """Return what a form on the page would send."""
    (form,) = re.findall(rf'<form[^>]*action="{re.escape(action)}".*?</form>', html, re.DOTALL)
    pairs = re.findall(r'<input[^>]*name="([^"]+)"[^>]*?(?:value="([^"]*)")?[^>]*>', form)
    values = {name: unescape(value) for name, value in pairs}
    for each in re.findall(r"<input[^>]*>", form):
        name, value = re.search(r'name="([^"]+)"', each), re.search(r'value="([^"]*)"', each)
        values[name[1]] = unescape(value[1]) if value else ""
    for name, options in re.findall(r'<select[^>]*name="([^"]+)"[^>]*>(.*?)</select>', form, re.DOTALL):
        values[name] = re.search(r'value="([^"]*)"', options)[1]
    return values


def test_key_is_created_right_here_and_shown_once_on_its_own_page(cast, page, client):
    _, html = page(cast.member)
    answer = client.post("/platform/api/api-keys/", fields_of(html, "/platform/api/api-keys/"))
    assert answer.status_code == 200
    assert "rsp_live_" in answer.content.decode()
    key = ApiKey.objects.get(organization=cast.organization)
    assert (key.name, key.environment, key.scopes) == ("First key", "production", ["call", "logs"])


def test_code_is_redeemed_right_here(cast, page, client):
    _, text = codes.create(amount_nano=NANO, actor=cast.owner, organization=None, note="")
    _, html = page(cast.admin)
    answer = client.post(
        "/platform/api/credits/redeem/", fields_of(html, "/platform/api/credits/redeem/") | {"code": text}
    )
    assert answer.status_code == 302
    assert ledger.balance(cast.organization.pk).posted == NANO


def test_provider_key_is_connected_right_here(cast, page, client):
    from gateway import credentials

    _, html = page(cast.admin)
    sent = fields_of(html, "/platform/api/integrations/") | {"provider": "openai", "secret": "sk-" + "a" * 40}
    assert client.post("/platform/api/integrations/", sent).status_code == 302
    assert credentials.count(cast.organization) == 1


def test_member_is_told_whom_to_ask_and_gets_no_form_that_would_be_refused(cast, page):
    text, html = page(cast.member)
    assert f"ask {cast.owner.email}" in text
    assert 'action="/platform/api/credits/redeem/"' not in html
    assert 'action="/platform/api/integrations/"' not in html
    assert 'action="/platform/api/api-keys/"' in html


def test_waiting_turns_into_the_first_call(cast, page):
    _, html = page(cast.owner)
    assert f'hx-get="{WAITING}"' in html
    text, html = page(cast.owner, WAITING)
    assert "Waiting for your first call" in text
    assert "<html" not in html
    log_id = call(cast.organization, request_model="sandbox/echo")
    text, html = page(cast.owner, WAITING)
    assert "Your first call is here." in text
    assert f"/platform/logs/{log_id}/" in html
    assert "hx-trigger" not in html


def test_call_of_another_organization_is_not_the_first_one(cast, page):
    call(cast.other_organization, request_model="theirs")
    assert "Waiting" in page(cast.owner, WAITING)[0]
    assert "theirs" not in page(cast.owner)[1]


def test_snippets_name_this_installation_in_three_languages(cast, page, settings):
    text, html = page(cast.owner)
    for word in ("Python", "TypeScript", "curl", f"{settings.RESPAN_BASE_URL}/api/", "sandbox/echo"):
        assert word in text
    assert 'role="tablist"' in html


def test_afterwards_today_stands_beside_yesterday(cast, page):
    for _ in range(3):
        call(cast.organization)
    call(cast.organization, status="error", http_status=500, error_message="It broke <b>badly</b>", error_code="x")
    text, html = page(cast.member)
    assert "Calls in the last 24 hours" in text
    assert "It broke <b>badly</b>" in text
    assert "<b>badly" not in html
    assert "25.0 %" in text
    assert "Latest errors" in text


def test_environment_switch_narrows_home(cast, page, client):
    call(cast.organization, request_model="in-production")
    call(cast.organization, request_model="in-test", environment="test")
    page(cast.owner)
    session = client.session
    session["environment"] = "test"
    session.save()
    html = client.get(HOME).content.decode()
    assert ("in-test" in html, "in-production" in html) == (True, False)


def test_balance_says_how_long_it_lasts_only_when_it_is_known(cast, page):
    call(cast.organization)
    ledger.grant(organization=cast.organization, amount_nano=5 * NANO, reason="test", actor=None)
    text, _ = page(cast.owner)
    assert "$5.00" in text
    assert "No credits are being spent." in text


def test_number_of_queries_is_the_same_for_one_call_and_for_thirty(cast, client):
    client.force_login(cast.owner)

    def queries():
        with CaptureQueriesContext(connection) as captured:
            assert client.get(HOME).status_code == 200
        return len(captured)

    call(cast.organization, status="error")
    one = queries()
    for number in range(30):
        call(cast.organization, request_model=f"m{number}", status=("ok", "error")[number % 2])
    assert queries() == one


def test_nobody_sees_it_without_signing_in(client, db):
    for path in (HOME, WAITING):
        assert client.get(path).status_code == 302
