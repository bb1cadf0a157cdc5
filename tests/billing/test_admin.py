"""The operator's console: grants, adjustments and codes go through ledger and audit log; the rest is read-only."""

import re
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import AuditEvent, User
from billing import approvals, ledger, prices
from billing.models import Entry, PendingAdjustment, RedeemCode
from billing.usage import Rates
from tests.billing.wallets import held, kinds, settle
from tests.conftest import make_organization, make_user
from tests.operators import confirm, make_operator, sign_in

pytestmark = pytest.mark.django_db(transaction=True)


def operator() -> User:
    user: User = make_operator()
    return user


def console(user: User) -> Client:
    return sign_in(user)


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
    assert event.actor == user
    assert event.address is not None
    assert event.address.startswith("198.51.100.")
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
    pending = approvals.adjust(organization=cast.organization, amount_nano=10**12, reason="a", actor=operator())
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
    pending = approvals.adjust(organization=cast.organization, amount_nano=10**12, reason="a", actor=operator())
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


# --- Refunds and second persons ---------------------------------------------------------------------------------------


def purchased(organization: Any, dollars: int) -> Entry:
    return ledger.purchase(organization=organization, amount_nano=dollars * 10**9, reason="Card", actor=None)


def test_a_purchase_is_refunded_in_part_then_whole_and_never_beyond(cast: SimpleNamespace) -> None:
    entry, user = purchased(cast.organization, 50), operator()
    client, path = console(user), f"/admin/billing/entry/{entry.pk}/refund/"
    assert 'value="50.00"' in client.get(path).content.decode()
    part = form(amount="20")
    for _ in range(2):  # the second press of the button refunds nothing
        assert client.post(path, part).status_code == 302
    assert 'value="30.00"' in client.get(path).content.decode()
    too_much = client.post(path, form(amount="30.01"))
    assert too_much.status_code == 400
    assert "$30.00 of $50.00 is left" in too_much.content.decode()
    assert client.post(path, form(amount="30")).status_code == 302
    assert kinds(cast.organization) == [("purchase", 50 * 10**9), ("refund", 20 * 10**9), ("refund", 30 * 10**9)]
    page = client.get(f"/admin/billing/entry/{entry.pk}/change/").content.decode()
    assert "$0.00 of $50.00 is left to refund" in page
    assert path not in page
    assert AuditEvent.objects.filter(action="credits.refund", actor=user).count() == 2


@pytest.mark.parametrize("wrong", [{"reason": ""}, {"amount": "0"}, {"amount": "-5"}, {"amount": ""}])
def test_a_refund_without_reason_or_amount_is_refused(cast: SimpleNamespace, wrong: dict[str, str]) -> None:
    entry = purchased(cast.organization, 50)
    path = f"/admin/billing/entry/{entry.pk}/refund/"
    assert console(operator()).post(path, form(**wrong)).status_code == 400
    assert kinds(cast.organization) == [("purchase", 50 * 10**9)]


def test_a_grant_is_no_entry_to_refund(cast: SimpleNamespace) -> None:
    entry = ledger.grant(organization=cast.organization, amount_nano=10**9, reason="a", actor=None)
    assert console(operator()).post(f"/admin/billing/entry/{entry.pk}/refund/", form()).status_code == 404
    assert kinds(cast.organization) == [("grant", 10**9)]


def test_a_large_grant_waits_for_a_second_operator_and_keeps_its_expiry(cast: SimpleNamespace) -> None:
    proposer, second = operator(), operator()
    data = form(amount="100.01", expires_at="2999-01-31 00:00")
    for _ in range(2):
        assert console(proposer).post(f"/admin/billing/wallet/{cast.organization.pk}/grant/", data).status_code == 302
    assert kinds(cast.organization) == []
    pending = PendingAdjustment.objects.get(wallet_id=cast.organization.pk)
    assert (pending.kind, pending.reason) == ("grant", "Because")
    path = f"/admin/billing/pendingadjustment/{pending.pk}/decide/"
    assert "second operator" in console(proposer).post(path).content.decode()
    assert kinds(cast.organization) == []
    assert "Because" in console(second).get(path).content.decode()
    for _ in range(2):
        assert console(second).post(path).status_code == 302
    assert kinds(cast.organization) == [("grant", 100_010_000_000)]
    entry = Entry.objects.get(pk=pending.pk)
    assert (entry.actor, entry.approver) == (proposer, second)
    assert entry.grant is not None
    assert entry.grant.expires_at is not None


def test_a_large_refund_waits_and_is_judged_anew_when_it_is_approved(cast: SimpleNamespace) -> None:
    entry, proposer, second = purchased(cast.organization, 300), operator(), operator()
    path = f"/admin/billing/entry/{entry.pk}/refund/"
    assert console(proposer).post(path, form(amount="300.01")).status_code == 400
    assert not PendingAdjustment.objects.filter(wallet_id=cast.organization.pk).exists()
    assert console(proposer).post(path, form(amount="250")).status_code == 302
    assert kinds(cast.organization) == [("purchase", 300 * 10**9)]
    pending = PendingAdjustment.objects.get(wallet_id=cast.organization.pk)
    assert pending.corrects_id == entry.pk
    console(proposer).post(path, form(amount="60"))  # within one person's limit
    decide = f"/admin/billing/pendingadjustment/{pending.pk}/decide/"
    refused = console(second).post(decide)
    assert refused.status_code == 400
    assert "is left" in refused.content.decode()
    assert kinds(cast.organization) == [("purchase", 300 * 10**9), ("refund", 60 * 10**9)]
    assert console(second).post(f"{decide}?as=reject").status_code == 302
    assert PendingAdjustment.objects.get(pk=pending.pk).state == "rejected"


# --- A fresh sign-in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["wallet/{0}/grant/", "wallet/{0}/adjust/", "entry/{1}/refund/", "redeemcode/add/"])
def test_an_old_sign_in_moves_no_money_until_it_is_confirmed(cast: SimpleNamespace, path: str) -> None:
    entry = purchased(cast.organization, 50)
    user = operator()
    client, address = sign_in(user, seconds_ago=601), f"/admin/billing/{path.format(cast.organization.pk, entry.pk)}"
    data = form(max_uses="1")
    for answer in (client.get(address), client.post(address, data)):
        assert answer.status_code == 302
        assert answer["Location"].startswith("/accounts/reauthenticate/?next=")
    assert kinds(cast.organization) == [("purchase", 50 * 10**9)]
    assert not RedeemCode.objects.filter(created_by=user).exists()
    assert confirm(client, address)["Location"] == address
    assert client.post(address, data).status_code in (200, 302)
    assert len(kinds(cast.organization)) == 2 or RedeemCode.objects.filter(created_by=user).count() == 1


def test_an_old_sign_in_approves_nothing(cast: SimpleNamespace) -> None:
    pending = approvals.adjust(organization=cast.organization, amount_nano=10**12, reason="a", actor=operator())
    client = sign_in(operator(), seconds_ago=601)
    chosen = {"action": "approve", "_selected_action": str(pending.pk)}
    assert "reauthenticate" in client.post("/admin/billing/pendingadjustment/", chosen)["Location"]
    assert "reauthenticate" in client.post(f"/admin/billing/pendingadjustment/{pending.pk}/decide/")["Location"]
    assert PendingAdjustment.objects.get(pk=pending.pk).state == "waiting"
    assert kinds(cast.organization) == []


# --- Codes, rates, lists ----------------------------------------------------------------------------------------------


def test_a_disabled_code_adds_nothing_any_more_and_shows_who_redeemed_it(cast: SimpleNamespace) -> None:
    from billing import codes

    user = operator()
    made, text = codes.create(amount_nano=5 * 10**9, max_uses=2, actor=user)
    codes.redeem(organization=cast.organization, text=text, user=cast.owner)
    client = console(user)
    page = client.get(f"/admin/billing/redeemcode/{made.pk}/change/").content.decode()
    assert cast.owner.email in page
    path = f"/admin/billing/redeemcode/{made.pk}/disable/"
    assert client.get(path).status_code == 200
    for _ in range(2):
        assert client.post(path).status_code == 302
    with pytest.raises(codes.CodeExpired):
        codes.redeem(organization=cast.other_organization, text=text, user=cast.outsider)
    assert kinds(cast.other_organization) == []
    assert AuditEvent.objects.filter(action="redeem_code.disabled", actor=user).count() == 1


def test_a_models_versions_stand_beside_its_rates() -> None:
    from billing.models import ModelRates

    model = f"model-{uuid.uuid4().hex}"
    for dollars in (1, 2):
        prices.publish([prices.Price("tests", model, Rates(input=dollars * 10**9, output=10**9))])
    newest = ModelRates.objects.filter(model=model).latest("pk")
    client = console(operator())
    page = client.get(f"/admin/billing/modelrates/{newest.pk}/change/").content.decode()
    assert page.count("charged now") == 2  # in the caption, and at the newest
    assert ">$1.00<" in page
    listed = client.get(f"/admin/billing/modelrates/?q={model}&version=now").content.decode()
    assert "$2.00" in listed
    assert "$1.00" in listed  # the output
    assert listed.count(f">{model}<") == 1


@pytest.mark.parametrize("table", TABLES)
def test_a_list_asks_as_much_for_thirty_rows_as_for_few(cast: SimpleNamespace, table: str) -> None:
    from billing import codes

    user, client = operator(), console(operator())
    with CaptureQueriesContext(connection) as before:
        assert client.get(f"/admin/billing/{table}/").status_code == 200
    for number in range(30):
        organization = make_organization(f"Many {number}", owner=cast.owner)
        _, text = codes.create(amount_nano=10**9, actor=user, organization=organization)
        codes.redeem(organization=organization, text=text, user=cast.owner)
        settle(organization, held(organization, 10), 10)
        approvals.grant(organization=organization, amount_nano=10**12, reason="a", actor=user)
    with CaptureQueriesContext(connection) as after:
        assert client.get(f"/admin/billing/{table}/").status_code == 200
    assert len(after) <= len(before)
