"""The statement of a month, as it is read and printed."""

import re
from datetime import UTC, timedelta
from types import SimpleNamespace

import pytest
from django.utils import timezone

from billing import ledger
from tests.billing.test_credits_page import shown, signed_in
from tests.billing.wallets import held, settle

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "/platform/api/credits/statement/"


def row(html: str, head: str) -> str:
    """Return what stands beside a head of the summary."""
    found = re.search(rf'<th scope="row">{head}</th><td class="num">(.*?)</td>', html)
    assert found, head
    return re.sub(r"<[^>]+>", "", found[1])


@pytest.mark.parametrize("role", ["owner", "admin", "member"])
def test_the_running_month_adds_up(cast: SimpleNamespace, role: str) -> None:
    ledger.purchase(organization=cast.organization, amount_nano=5_000_000_000, reason="Paid", actor=None)
    ledger.grant(organization=cast.organization, amount_nano=1_000_000_000, reason="Welcome", actor=None)
    settle(cast.organization, held(cast.organization, 400), 400)
    html = shown(signed_in(getattr(cast, role)), PAGE)
    assert row(html, "Opening balance") == "$0.00"
    assert row(html, "Purchase") == "+$5.00"
    assert row(html, "Grant") == "+$1.00"
    assert row(html, "Charges for calls") == "-$0.0000004"
    assert row(html, "Closing balance") == "$5.9999996"
    assert "The month is not over" in html


def test_a_month_without_entries_says_so(cast: SimpleNamespace) -> None:
    assert "Nothing was booked in this month" in shown(signed_in(cast.owner), PAGE)


@pytest.mark.parametrize("month", ["", "x", "2026-13", "1999-12", "0001-01", "2999-01", "2026-1-1", "\x00"])
def test_a_month_that_has_no_statement_is_not_found(cast: SimpleNamespace, month: str) -> None:
    assert signed_in(cast.owner).get(PAGE, {"month": month}).status_code == 404


def test_the_month_is_chosen_by_its_name(cast: SimpleNamespace) -> None:
    this = timezone.now().astimezone(UTC).date()
    assert f"{this:%B %Y}" in shown(signed_in(cast.owner), f"{PAGE}?month={this:%Y-%m}")
    before = this.replace(day=1) - timedelta(days=1)
    assert signed_in(cast.owner).get(PAGE, {"month": f"{before:%Y-%m}"}).status_code == 404  # before the first entry


def test_an_outsider_reads_only_his_own(cast: SimpleNamespace) -> None:
    ledger.grant(organization=cast.organization, amount_nano=77_000_000_000, reason="Secret reason", actor=None)
    html = shown(signed_in(cast.outsider), PAGE)
    assert "Secret reason" not in html
    assert row(html, "Closing balance") == "$0.00"
