"""The Credits page as each of the cast sees it."""

import re
import uuid
from datetime import UTC, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.html import escape

from billing import codes, ledger, statement
from billing.models import Entry, ModelRates, RedeemCode
from billing.templatetags.money import usd
from billing.usage import NANO, nano_from_usd
from gateway import credentials
from respan import ids
from tests.billing.wallets import held, kinds, settle, settlement
from tests.conftest import make_user

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "/platform/api/credits/"
REDEEM = "/platform/api/credits/redeem/"
HTMX = {"HX-Request": "true"}


def signed_in(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def figure(html: str, id_: str) -> str:
    """Return the amount in the element with this id."""
    found = re.search(rf'id="{id_}">(<data.*?</data>)', html)
    assert found, html
    return re.sub(r"<[^>]+>", "", found[1])


def amounts(html: str) -> list[tuple[str, str]]:
    """Return what each entry of the page changed, and the balance after it, as they are written."""
    table = html.partition('<table class="table" id="entries"')[2].partition("</table>")[0]
    cells = [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r'<td class="num(?: up)?">(.*?)</td>', table)]
    return list(zip(cells[::2], cells[1::2], strict=True))


def entry_page(organization: Any, **of: Any) -> str:
    """Return the address of the newest entry like this."""
    entry = Entry.objects.filter(wallet_id=organization.pk, **of).order_by("-number")[0]
    return f"{PAGE}entries/{ids.encode('ent', entry.pk)}/"


def shown(client: Client, path: str = PAGE) -> str:
    response = client.get(path)
    assert response.status_code == 200
    return response.content.decode()


def test_an_anonymous_reader_is_asked_to_sign_in(cast: SimpleNamespace) -> None:
    for response in (Client().get(PAGE), Client().post(REDEEM, {"code": "RSP-1"})):
        assert response.status_code == 302
        assert "/login/" in response["Location"]


@pytest.mark.parametrize("role", ["owner", "admin", "member"])
def test_every_member_sees_balance_and_entries(cast: SimpleNamespace, role: str) -> None:
    ledger.grant(organization=cast.organization, amount_nano=5_000_000_000, reason="Welcome", actor=None)
    call = held(cast.organization, 30_000)
    settle(cast.organization, call, 12_345)
    held(cast.organization, 1_000_000_000)
    html = shown(signed_in(getattr(cast, role)))
    assert figure(html, "available") == "$3.999987655"
    assert "for 1 call under way" in html
    assert figure(html, "posted") == "$4.999987655"
    assert figure(html, "held") == "$1.00"
    assert amounts(html) == [("-$0.000012345", "$4.999987655"), ("+$5.00", "$5.00")]
    assert f'href="/platform/logs/{ids.encode("log", call)}/"' in html
    assert "Welcome" in html
    assert ('name="code"' in html) == (role != "member")


def test_an_outsider_sees_only_his_own_organization(cast: SimpleNamespace) -> None:
    entry = ledger.grant(organization=cast.organization, amount_nano=77_000_000_000, reason="Secret reason", actor=None)
    client = signed_in(cast.outsider)
    for path in (PAGE, f"{PAGE}?before={ids.encode('ent', entry.pk)}"):
        html = shown(client, path)
        assert "Secret reason" not in html
        assert "$77.00" not in html
        assert "$0.00" in html
        assert "No credits yet" in html


def test_entries_go_on_page_by_page_with_the_running_balance(cast: SimpleNamespace) -> None:
    for number in range(1, 121):
        ledger.purchase(organization=cast.organization, amount_nano=number, reason=f"no. {number};", actor=None)
    client, path, seen = signed_in(cast.owner), PAGE, []
    while True:
        html = shown(client, path)
        seen += [int(number) for number in re.findall(r"no\. (\d+);", html)]
        balances = [nano_from_usd(balance) for _, balance in amounts(html)]
        assert balances[:2] == [n * (n + 1) // 2 for n in range(seen[-len(balances)], 0, -1)][:2]
        older = re.search(r'href="([^"]+)" rel="next"', html)
        if older is None:
            break
        path = older[1]
    assert seen == list(range(120, 0, -1))


@pytest.mark.parametrize("cursor", ["ent_nonsense", "ent_" + "0" * 26, "x" * 300, "%00"])
def test_a_cursor_that_leads_nowhere_shows_the_newest_entries(cast: SimpleNamespace, cursor: str) -> None:
    ledger.purchase(organization=cast.organization, amount_nano=5, reason="Newest", actor=None)
    assert "Newest" in shown(signed_in(cast.owner), f"{PAGE}?before={cursor}")


@pytest.mark.parametrize("role", ["owner", "admin"])
def test_a_redeemed_code_adds_credits_and_a_second_press_says_so(cast: SimpleNamespace, role: str) -> None:
    _, code = codes.create(amount_nano=2_500_000_000, actor=make_user("operator"))
    client = signed_in(getattr(cast, role))
    first = client.post(REDEEM, {"code": code}, follow=True)
    assert "$2.50 of credits added" in first.content.decode()
    again = client.post(REDEEM, {"code": code}, follow=True)
    assert "redeemed this code already" in again.content.decode()
    assert kinds(cast.organization) == [("grant", 2_500_000_000)]


def test_a_member_cannot_redeem(cast: SimpleNamespace) -> None:
    _, code = codes.create(amount_nano=5, actor=make_user("operator"))
    assert signed_in(cast.member).post(REDEEM, {"code": code}).status_code == 403
    assert kinds(cast.organization) == []


def test_a_wrong_code_is_explained_and_guessing_ends(cast: SimpleNamespace) -> None:
    client = signed_in(cast.owner)
    for _ in range(codes.MAX_FAILURES):
        response = client.post(REDEEM, {"code": "RSP-0000-0000-0000-0000"})
        assert response.status_code == 404
        assert "not a code we know" in response.content.decode()
    response = client.post(REDEEM, {"code": "RSP-0000-0000-0000-0000"})
    assert response.status_code == 429
    assert "Too many wrong codes" in response.content.decode()
    assert kinds(cast.organization) == []


@pytest.mark.parametrize("code", ["", " ", "x" * 61, "a\0b"])
def test_a_code_that_is_none_is_refused_by_the_form(cast: SimpleNamespace, code: str) -> None:
    assert signed_in(cast.owner).post(REDEEM, {"code": code}).status_code == 400
    assert kinds(cast.organization) == []


def test_redeeming_needs_the_forms_token(cast: SimpleNamespace) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(cast.owner)
    assert client.post(REDEEM, {"code": "RSP-0000-0000-0000-0000"}).status_code == 403


def test_redeeming_by_a_link_only_shows_the_form(cast: SimpleNamespace) -> None:
    _, code = codes.create(amount_nano=5, actor=make_user("operator"))
    assert 'name="code"' in shown(signed_in(cast.owner), f"{REDEEM}?code={code}")
    assert signed_in(cast.member).get(REDEEM).status_code == 403
    assert kinds(cast.organization) == []


@pytest.mark.parametrize(("expired", "uses", "words"), [(True, 1, "has expired"), (False, 0, "has been used already")])
def test_a_code_that_is_over_is_explained(cast: SimpleNamespace, expired: bool, uses: int, words: str) -> None:
    expires_at = timezone.now() - timedelta(minutes=1) if expired else None
    _, code = codes.create(amount_nano=5, actor=make_user("operator"), expires_at=expires_at)
    if not expired:
        codes.redeem(organization=cast.other_organization, text=code, user=cast.outsider)
    response = signed_in(cast.owner).post(REDEEM, {"code": code})
    assert response.status_code == (410 if expired else 409)
    assert words in response.content.decode()
    assert f'value="{code}"' in response.content.decode()  # stays in its field
    assert kinds(cast.organization) == []


def test_htmx_gets_the_form_with_its_error_or_is_sent_to_the_page(cast: SimpleNamespace) -> None:
    _, code = codes.create(amount_nano=5, actor=make_user("operator"))
    client = signed_in(cast.owner)
    refused = client.post(REDEEM, {"code": "RSP-0000-0000-0000-0000"}, headers=HTMX)
    assert refused.status_code == 404
    assert "not a code we know" in refused.content.decode()
    assert "<html" not in refused.content.decode()
    done = client.post(REDEEM, {"code": code}, headers=HTMX)
    assert (done.status_code, done["HX-Redirect"]) == (204, PAGE)
    assert kinds(cast.organization) == [("grant", 5)]


# --- Entries ---------------------------------------------------------------------------------------------------------


def test_entries_are_filtered_by_kind_and_by_day(cast: SimpleNamespace) -> None:
    ledger.grant(organization=cast.organization, amount_nano=500, reason="Welcome", actor=None)
    settle(cast.organization, held(cast.organization, 9), 9)
    client, today = signed_in(cast.member), timezone.now().astimezone(UTC).date()
    assert amounts(shown(client, f"{PAGE}?kind=grant")) == [("+$0.0000005", "$0.0000005")]
    assert len(amounts(shown(client, f"{PAGE}?since={today}&until={today}"))) == 2
    late = shown(client, f"{PAGE}?since={today + timedelta(days=2)}")
    assert amounts(late) == []
    assert "No entries match" in late
    assert "kind=grant" in shown(client, f"{PAGE}?kind=grant")  # the export keeps the filter


@pytest.mark.parametrize(
    "query", ["kind=absorbed", "kind=x", "since=yesterday", "since=2026-02-01&until=2026-01-01", "until=9999-12-31"]
)
def test_filters_that_make_no_sense_are_marked(cast: SimpleNamespace, query: str) -> None:
    ledger.grant(organization=cast.organization, amount_nano=500, reason="Welcome", actor=None)
    response = signed_in(cast.owner).get(f"{PAGE}?{query}")
    assert response.status_code == 400
    assert "These filters make no sense" in response.content.decode()
    assert "Welcome" not in response.content.decode()


def test_htmx_gets_the_entries_only(cast: SimpleNamespace) -> None:
    ledger.grant(organization=cast.organization, amount_nano=500, reason="Welcome", actor=None)
    html = signed_in(cast.owner).get(f"{PAGE}?kind=grant", headers=HTMX).content.decode()
    assert "Welcome" in html
    assert "<html" not in html
    assert 'id="available"' not in html


@pytest.mark.parametrize("reason", ["x" * 300, "<script>alert(1)</script>", "\u202eمرحبا بالعالم"])
def test_any_reason_is_shown_as_text_on_every_page(cast: SimpleNamespace, reason: str) -> None:
    ledger.grant(organization=cast.organization, amount_nano=500, reason=reason, actor=None)
    client = signed_in(cast.owner)
    for path in (PAGE, entry_page(cast.organization), f"{PAGE}statement/"):
        html = shown(client, path)
        assert escape(reason) in html
        assert "<script>alert" not in html


def test_the_number_of_queries_does_not_grow_with_the_entries(cast: SimpleNamespace) -> None:
    client, counts = signed_in(cast.owner), []
    paths = (PAGE, f"{PAGE}?kind=usage", f"{PAGE}statement/", f"{PAGE}entries.csv")
    ledger.grant(organization=cast.organization, amount_nano=10**9, reason="Welcome", actor=None)
    for number in (1, 30, 45):
        now = timezone.now()
        ledger.settle([settlement(cast.organization, uuid.uuid4(), 5) for _ in range(number)], now=now)
        for _ in range(2):
            counts.append([])
            for path in paths:
                with CaptureQueriesContext(connection) as asked:
                    b"".join(client.get(path))  # type: ignore[call-overload]
                counts[-1].append(len(asked))
    assert counts[1] == counts[3] == counts[5]
    assert max(counts[1]) < 25


# --- One entry -------------------------------------------------------------------------------------------------------


def test_a_charge_without_its_log_shows_hold_release_and_prices(cast: SimpleNamespace) -> None:
    rates = ModelRates.objects.create(provider="tests", model="dear", input=3 * NANO, output=15 * NANO)
    ledger.grant(organization=cast.organization, amount_nano=NANO, reason="Welcome", actor=None)
    call = held(cast.organization, 30_000)
    ledger.settle(
        [settlement(cast.organization, call, 12_345, rates_id=rates.pk, description="fake/dear")], now=timezone.now()
    )
    text = text_of(shown(signed_in(cast.member), entry_page(cast.organization)))
    assert "Held before the call $0.00003" in text
    assert "Came back $0.000017655" in text
    assert "no longer kept" in text
    assert f"rates version {rates.pk}" in text
    assert "$3.00 / 1 M" in text
    assert "$15.00 / 1 M" in text


def test_a_charge_says_what_the_operator_bore(cast: SimpleNamespace) -> None:
    ledger.grant(organization=cast.organization, amount_nano=100, reason="Welcome", actor=None)
    settle(cast.organization, held(cast.organization, 60), 250)
    detail = statement.detail(
        organization_id=cast.organization.pk, entry_id=entry_page(cast.organization, kind="usage").split("/")[-2]
    )
    assert detail is not None
    assert (detail.charged, detail.absorbed, detail.cost, detail.beyond_hold, detail.released) == (100, 150, 250, 40, 0)


def test_a_refund_and_its_charge_lead_to_each_other(cast: SimpleNamespace) -> None:
    ledger.grant(organization=cast.organization, amount_nano=1_000, reason="Welcome", actor=None)
    call = held(cast.organization, 400)
    settle(cast.organization, call, 400)
    charge = Entry.objects.get(pk=call)
    operator = make_user("operator")
    ledger.refund(entry=charge, amount_nano=150, reason="The answer was cut", actor=operator)
    client = signed_in(cast.member)
    of_charge = shown(client, entry_page(cast.organization, kind="usage"))
    assert "The answer was cut" in of_charge
    assert "$0.00000015 of $0.0000004" in text_of(of_charge)
    of_refund = shown(client, entry_page(cast.organization, kind="refund"))
    assert entry_page(cast.organization, kind="usage") in of_refund
    assert "An operator of this installation" in of_refund
    assert operator.email not in of_refund


def test_an_entry_below_its_row_is_a_fragment(cast: SimpleNamespace) -> None:
    ledger.grant(organization=cast.organization, amount_nano=500, reason="Welcome", actor=cast.owner)
    html = signed_in(cast.owner).get(entry_page(cast.organization), headers=HTMX).content.decode()
    assert "<html" not in html
    assert cast.owner.email in html


def test_a_foreign_or_absorbed_or_unknown_entry_is_not_found(cast: SimpleNamespace) -> None:
    ledger.grant(organization=cast.organization, amount_nano=100, reason="Secret reason", actor=None)
    settle(cast.organization, held(cast.organization, 60), 250)
    absorbed = entry_page(cast.organization, kind="absorbed")
    assert signed_in(cast.outsider).get(entry_page(cast.organization, kind="grant")).status_code == 404
    for path in (absorbed, f"{PAGE}entries/ent_nonsense/", f"{PAGE}entries/{'x' * 300}/"):
        assert signed_in(cast.owner).get(path).status_code == 404


# --- Nothing yet -----------------------------------------------------------------------------------------------------


def test_who_has_only_an_own_key_is_told_that_credits_are_not_needed(cast: SimpleNamespace) -> None:
    with override_settings(RESPAN_UPSTREAM_ALLOW=["127.0.0.1:9"]):
        credentials.store(
            organization=cast.organization, provider="custom", name="mine", secret=credentials.Secret("sk-1"),
            base_url="http://127.0.0.1:9", models=["a"], actor=cast.owner, address=None,
        )  # fmt: skip
    assert "No credits, and none needed" in shown(signed_in(cast.member))
    assert "No credits yet" in shown(signed_in(cast.outsider))


def test_without_any_code_an_operator_is_led_to_where_they_are_made(cast: SimpleNamespace) -> None:
    cast.owner.is_superuser = cast.owner.is_staff = True
    cast.owner.save()
    RedeemCode.objects.update(expires_at=timezone.now())  # other tests' too, until this one is rolled back
    assert "/admin/billing/redeemcode/add/" in shown(signed_in(cast.owner))
    member = shown(signed_in(cast.member))
    assert "/admin/" not in member
    assert "whoever operates it makes them" in member


def test_the_page_has_no_inline_script_or_style(cast: SimpleNamespace) -> None:
    html = shown(signed_in(cast.owner))
    assert "<style" not in html
    assert " style=" not in html
    assert not re.search(r"<script(?![^>]* src=)", html)


def test_a_reason_is_shown_as_text_never_as_markup(cast: SimpleNamespace) -> None:
    ledger.grant(organization=cast.organization, amount_nano=5, reason="<script>alert(1)</script>", actor=None)
    assert "<script>alert(1)" not in shown(signed_in(cast.owner))


def test_an_amount_in_a_page_carries_its_exact_nano_amount() -> None:
    assert usd(310_000) == '<data class="num" value="310000" title="310,000 nano-USD">$0.00031</data>'
    assert usd(None) == ""
