"""The Credits page as each of the cast sees it."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client

from billing import codes, ledger
from billing.templatetags.money import usd
from respan import ids
from tests.billing.wallets import held, kinds, settle
from tests.conftest import make_user

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "/platform/api/credits/"
REDEEM = "/platform/api/credits/redeem/"


def signed_in(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


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
    assert "$3.999987655" in html
    assert "Held for 1 call under way" in html
    assert "$4.999987655" in html
    assert "-$0.000012345" in html
    assert "+<data" in html
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
        assert "No entries yet" in html


def test_entries_go_on_page_by_page_with_the_running_balance(cast: SimpleNamespace) -> None:
    for number in range(1, 121):
        ledger.purchase(organization=cast.organization, amount_nano=number, reason=f"no. {number};", actor=None)
    client, path, seen = signed_in(cast.owner), PAGE, []
    while True:
        html = shown(client, path)
        seen += [int(number) for number in re.findall(r"no\. (\d+);", html)]
        balances = [int(value) for value in re.findall(r'<td class="num"><data class="num" value="(\d+)"', html)]
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


def test_redeeming_by_a_link_is_not_possible(cast: SimpleNamespace) -> None:
    assert signed_in(cast.owner).get(REDEEM).status_code == 405


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
