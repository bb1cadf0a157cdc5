"""Entries as CSV: every row, exact amounts, and nothing a spreadsheet would run."""

import asyncio
import csv
import io
import uuid
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import AsyncClient, Client
from django.utils import timezone

from billing import ledger
from billing.models import Entry
from respan import ids
from tests.billing.wallets import funded, held, settle, settlement

pytestmark = pytest.mark.django_db(transaction=True)

CSV = "/platform/api/credits/entries.csv"
# What starts a formula in one spreadsheet or another.
PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", " =", "  @", "＝", "＋", "－", "＠")


def exported(user: Any, query: str = "") -> list[dict[str, str]]:
    client = Client()
    client.force_login(user)
    response = client.get(CSV + query)
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/csv")
    assert response["Content-Disposition"].startswith("attachment;")
    return list(csv.DictReader(io.StringIO(response.getvalue().decode(), newline="")))  # type: ignore[attr-defined]


def test_every_entry_is_in_it_with_exact_amounts(cast: SimpleNamespace) -> None:
    ledger.purchase(organization=cast.organization, amount_nano=5_000_000_000, reason="Paid", actor=None)
    settlements = [settlement(cast.organization, uuid.uuid4(), 1 + each, description="m") for each in range(30)]
    ledger.settle(settlements, now=timezone.now())
    rows = exported(cast.member)
    assert len(rows) == 31
    assert [row["entry_id"] for row in rows] == [
        ids.encode("ent", entry.pk)
        for entry in Entry.objects.filter(wallet_id=cast.organization.pk).order_by("-number")
    ]
    for row in rows:
        assert Decimal(row["amount_usd"]) * 10**9 == int(row["amount_nano_usd"])
        assert Decimal(row["balance_usd"]) * 10**9 == int(row["balance_nano_usd"])
        assert "E" not in row["amount_usd"]
    assert sum(int(row["amount_nano_usd"]) for row in rows) == ledger.balance(cast.organization.pk).posted
    assert rows[-1]["amount_usd"] == "5.000000000"
    assert rows[0]["log_id"].startswith("log_")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_no_cell_is_a_formula(cast: SimpleNamespace, prefix: str) -> None:
    reason = prefix + 'HYPERLINK("http://example.test","x")'
    ledger.grant(organization=cast.organization, amount_nano=5, reason=reason, actor=None)
    [row] = exported(cast.owner)
    assert row["description"] == "'" + reason
    assert Decimal(row["amount_usd"]) == Decimal("0.000000005")


def test_commas_quotes_and_lines_stay_in_their_cell(cast: SimpleNamespace) -> None:
    reason = 'a,"b"\r\nc;' + "x" * 300
    ledger.grant(organization=cast.organization, amount_nano=5, reason=reason, actor=None)
    [row] = exported(cast.owner)
    assert row["description"] == reason


def test_filters_hold_for_the_export_too(cast: SimpleNamespace) -> None:
    ledger.grant(organization=cast.organization, amount_nano=500, reason="Welcome", actor=None)
    settle(cast.organization, held(cast.organization, 9), 9)
    today = timezone.now().date()
    assert [row["kind"] for row in exported(cast.owner, "?kind=grant")] == ["grant"]
    assert len(exported(cast.owner, f"?since={today}&until={today}")) == 2
    assert exported(cast.owner, f"?until={today - timedelta(days=2)}") == []


@pytest.mark.parametrize(
    "query", ["?kind=absorbed", "?since=x", "?since=2026-02-01&until=2026-01-01", "?since=0001-01-01"]
)
def test_a_filter_that_makes_no_sense_exports_nothing(cast: SimpleNamespace, query: str) -> None:
    client = Client()
    client.force_login(cast.owner)
    assert client.get(CSV + query).status_code == 404


def test_an_outsider_exports_only_his_own(cast: SimpleNamespace) -> None:
    ledger.grant(organization=cast.organization, amount_nano=5, reason="Secret reason", actor=None)
    assert exported(cast.outsider) == []


def test_an_anonymous_reader_exports_nothing(cast: SimpleNamespace) -> None:
    response = Client().get(CSV)
    assert response.status_code == 302
    assert "/login/" in response["Location"]


def test_it_is_sent_as_it_is_read_also_by_the_web_process(cast: SimpleNamespace) -> None:
    organization = funded(10**9, owner=cast.owner)
    ledger.settle([settlement(organization, uuid.uuid4(), 1) for _ in range(2_500)], now=timezone.now())
    session = Client()
    session.force_login(organization.memberships.get().user)

    async def read() -> list[bytes]:
        client = AsyncClient()
        client.cookies = session.cookies
        await client.post("/platform/organizations/switch/", {"organization": organization.public_id})
        response = await client.get(CSV)
        return [part async for part in response]  # type: ignore[attr-defined]

    parts = asyncio.run(read())
    assert len(parts) == 4  # the header, and what is read at once: 1,000 + 1,000 + 501
    assert b"".join(parts).count(b"\r\n") == 2_502
