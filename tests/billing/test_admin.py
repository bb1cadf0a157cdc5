"""The operator's console: grants, adjustments and codes go through ledger and audit log; the rest is read-only."""

import re
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client

from accounts.models import AuditEvent, User
from billing import ledger, prices
from billing.models import Entry, PendingAdjustment, RedeemCode
from billing.usage import Rates
from tests.billing.wallets import held, kinds, settle
from tests.conftest import make_user

pytestmark = pytest.mark.django_db(transaction=True)


def operator() -> User:
    user: User = make_user("operator")
    user.is_staff = user.is_superuser = True
    user.save()
    return user


def console(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def form(**fields: Any) -> dict[str, Any]:
    return {"amount": "12.5", "reason": "Because", "request_id": str(uuid.uuid4())} | fields


def test_a_grant_writes_an_entry_and_an_audit_event(cast: SimpleNamespace) -> None:
    user, path = operator(), f"/admin/billing/wallet/{cast.organization.pk}/grant/"
    client, data = console(user), form()
    assert client.get(path).status_code == 200
    for _ in range(2):  # the second press of the button grants nothing
        assert client.post(path, data).status_code == 302
    assert kinds(cast.organization) == [("grant", 12_500_000_000)]
    entry = Entry.objects.get(wallet_id=cast.organization.pk)
    assert (entry.actor, entry.reason) == (user, "Because")
    event = AuditEvent.objects.get(organization=cast.organization, action="credits.grant")
    assert (event.actor, event.address) == (user, "127.0.0.1")
    assert event.detail == {"amount_nano": "12500000000", "reason": "Because"}


def test_a_grant_can_expire(cast: SimpleNamespace) -> None:
    path = f"/admin/billing/wallet/{cast.organization.pk}/grant/"
    console(operator()).post(path, form(expires_at="2999-01-31 00:00"))
    grant = Entry.objects.get(wallet_id=cast.organization.pk).grant
    assert grant is not None
    assert grant.remaining == 12_500_000_000


@pytest.mark.parametrize(
    "wrong", [{"reason": ""}, {"amount": "0"}, {"amount": "-5"}, {"amount": "1,5"}, {"amount": ""}]
)
def test_a_grant_without_reason_or_amount_is_refused(cast: SimpleNamespace, wrong: dict[str, str]) -> None:
    path = f"/admin/billing/wallet/{cast.organization.pk}/grant/"
    assert console(operator()).post(path, form(**wrong)).status_code == 400
    assert kinds(cast.organization) == []
    assert not AuditEvent.objects.filter(organization=cast.organization, action="credits.grant").exists()


def test_a_small_adjustment_is_booked_and_audited(cast: SimpleNamespace) -> None:
    ledger.purchase(organization=cast.organization, amount_nano=10**10, reason="", actor=None)
    path = f"/admin/billing/wallet/{cast.organization.pk}/adjust/"
    assert console(operator()).post(path, form(amount="-4")).status_code == 302
    assert ledger.balance(cast.organization.pk).posted == 6 * 10**9
    assert AuditEvent.objects.filter(organization=cast.organization, action="credits.adjustment").count() == 1


def test_an_adjustment_beyond_the_balance_is_explained(cast: SimpleNamespace) -> None:
    path = f"/admin/billing/wallet/{cast.organization.pk}/adjust/"
    response = console(operator()).post(path, form(amount="-4"))
    assert response.status_code == 400
    assert "$0.00 is available" in response.content.decode()
    assert kinds(cast.organization) == []


def test_a_large_adjustment_waits_for_a_second_operator(cast: SimpleNamespace) -> None:
    proposer, second = operator(), operator()
    path = f"/admin/billing/wallet/{cast.organization.pk}/adjust/"
    assert console(proposer).post(path, form(amount="100.01")).status_code == 302
    assert kinds(cast.organization) == []
    pending = PendingAdjustment.objects.get(wallet_id=cast.organization.pk)
    action = {"action": "approve", "_selected_action": str(pending.pk)}
    alone = console(proposer).post("/admin/billing/pendingadjustment/", action, follow=True)
    assert "second operator" in alone.content.decode()
    assert kinds(cast.organization) == []
    console(second).post("/admin/billing/pendingadjustment/", action, follow=True)
    assert kinds(cast.organization) == [("adjustment", 100_010_000_000)]
    actions = AuditEvent.objects.filter(organization=cast.organization).values_list("action", flat=True)
    assert {"adjustment.proposed", "credits.adjustment", "adjustment.approved"} <= set(actions)


def test_an_operator_can_reject_a_waiting_adjustment(cast: SimpleNamespace) -> None:
    pending = ledger.propose_adjustment(
        organization=cast.organization, amount_nano=10**12, reason="a", actor=operator()
    )
    action = {"action": "reject", "_selected_action": str(pending.pk)}
    console(operator()).post("/admin/billing/pendingadjustment/", action)
    assert PendingAdjustment.objects.get(pk=pending.pk).state == "rejected"
    assert kinds(cast.organization) == []


def test_a_redeem_code_is_shown_once(cast: SimpleNamespace) -> None:
    client = console(operator())
    data = {"amount": "5", "max_uses": "3", "note": "Fair", "organization": cast.organization.public_id}
    page = client.post("/admin/billing/redeemcode/add/", data).content.decode()
    found = re.search(r'<code id="code">(RSP(?:-[0-9A-Z]{4}){4})</code>', page)
    assert found is not None
    made = RedeemCode.objects.get(note="Fair", organization=cast.organization)
    assert (made.amount, made.max_uses) == (5 * 10**9, 3)
    for path in ("/admin/billing/redeemcode/", f"/admin/billing/redeemcode/{made.pk}/change/"):
        response = client.get(path)
        assert response.status_code == 200
        assert found[1] not in response.content.decode()


def test_a_redeem_code_for_nobody_we_know_is_refused() -> None:
    data = {"amount": "5", "max_uses": "1", "organization": "org_nobody", "note": "Refused"}
    response = console(operator()).post("/admin/billing/redeemcode/add/", data)
    assert response.status_code == 400
    assert not RedeemCode.objects.filter(note="Refused").exists()


TABLES = ["wallet", "entry", "hold", "grant", "modelrates", "pendingadjustment", "redeemcode"]


@pytest.fixture
def records(cast: SimpleNamespace) -> dict[str, Any]:
    """One record of each table."""
    prices.publish([prices.Price("tests", f"model-{uuid.uuid4().hex}", Rates(input=1, output=1))])
    granted = ledger.grant(organization=cast.organization, amount_nano=500, reason="a", actor=cast.owner)
    call = held(cast.organization, 10)
    settle(cast.organization, call, 10)
    pending = ledger.propose_adjustment(
        organization=cast.organization, amount_nano=10**12, reason="a", actor=operator()
    )
    from billing import codes
    from billing.models import ModelRates

    made, _ = codes.create(amount_nano=5, actor=operator())
    return {
        "wallet": cast.organization.pk,
        "entry": call,
        "hold": call,
        "grant": granted.grant_id,
        "modelrates": ModelRates.objects.latest("pk").pk,
        "pendingadjustment": pending.pk,
        "redeemcode": made.pk,
    }


@pytest.mark.parametrize("table", TABLES)
def test_operators_read_every_table_of_money_and_change_or_delete_nothing(
    cast: SimpleNamespace, records: dict[str, Any], table: str
) -> None:
    client, before = console(operator()), kinds(cast.organization)
    changelist, record = f"/admin/billing/{table}/", f"/admin/billing/{table}/{records[table]}/"
    assert client.get(changelist).status_code == 200
    assert client.get(f"{changelist}?q=x").status_code == 200
    assert client.get(f"{record}change/").status_code == 200
    assert client.post(f"{record}change/", {"amount": "7", "reason": "x"}).status_code == 403
    assert client.post(f"{record}delete/", {"post": "yes"}).status_code == 403
    deletion = {"action": "delete_selected", "_selected_action": str(records[table]), "post": "yes"}
    assert client.post(changelist, deletion).status_code in (200, 302)
    if table != "redeemcode":
        assert client.post(f"{changelist}add/", {}).status_code == 403
    assert client.get(f"{record}change/").status_code == 200
    assert kinds(cast.organization) == before


@pytest.mark.parametrize("path", ["wallet/{}/grant/", "wallet/{}/adjust/", "redeemcode/add/"])
def test_staff_who_are_no_operators_move_no_money(cast: SimpleNamespace, path: str) -> None:
    clerk: User = make_user("clerk")
    clerk.is_staff = True
    clerk.save()
    address = f"/admin/billing/{path.format(cast.organization.pk)}"
    for user in (clerk, cast.owner):
        assert console(user).post(address, form(max_uses="1")).status_code in (302, 403)
    assert kinds(cast.organization) == []
    assert not RedeemCode.objects.filter(created_by=clerk).exists()
