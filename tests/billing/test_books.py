"""The books themselves: what the database refuses whoever asks, and the proof that balances are what was booked."""

from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction

from billing.models import Entry, Wallet
from tests.billing.wallets import books_are_right, funded, granted, held, kinds, settle

pytestmark = pytest.mark.django_db(transaction=True)


# --- The database refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "abuse",
    [
        "UPDATE billing_entry SET amount = amount + 1 WHERE wallet_id = {wallet}",
        "UPDATE billing_entry SET reason = 'x' WHERE wallet_id = {wallet}",
        "DELETE FROM billing_entry WHERE wallet_id = {wallet}",
        "TRUNCATE billing_entry CASCADE",
        "TRUNCATE billing_wallet CASCADE",
        "TRUNCATE billing_hold",
        "TRUNCATE billing_grant CASCADE",
        "TRUNCATE billing_modelrates",
        "DELETE FROM billing_hold WHERE wallet_id = {wallet}",
        "UPDATE billing_hold SET amount = 1 WHERE wallet_id = {wallet}",
        "UPDATE billing_hold SET state = 'open', resolved_at = NULL WHERE wallet_id = {wallet} AND state = 'settled'",
        "UPDATE billing_hold SET state = 'released' WHERE wallet_id = {wallet} AND state = 'settled'",
        "DELETE FROM billing_wallet WHERE organization_id = {wallet}",
        "UPDATE billing_wallet SET held = -1 WHERE organization_id = {wallet}",
        "UPDATE billing_wallet SET held = held + 10000 WHERE organization_id = {wallet}",
        "UPDATE billing_wallet SET posted = posted - 10000 WHERE organization_id = {wallet}",
        "UPDATE billing_wallet SET credit_limit = -1 WHERE organization_id = {wallet}",
        "DELETE FROM billing_grant WHERE wallet_id = {wallet}",
        "UPDATE billing_grant SET remaining = amount + 1 WHERE wallet_id = {wallet}",
    ],
)
def test_the_database_refuses_to_bend_the_books(abuse: str) -> None:
    organization = funded(1_000)
    granted(organization, 100, days=1)
    settle(organization, held(organization, 10), 10)
    held(organization, 20)
    before = kinds(organization)
    with pytest.raises(IntegrityError), connection.cursor() as cursor:
        cursor.execute(abuse.format(wallet=organization.pk))
    assert kinds(organization) == before
    assert books_are_right(organization)


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": -5},
        {"amount": 0},
        {"debit": "wallet"},
        {"kind": "gift"},
        {"credit": "revenue"},
        {"kind": "usage", "debit": "wallet", "credit": "revenue"},
        {"kind": "refund", "debit": "revenue"},
    ],
)
def test_the_database_refuses_impossible_entries(wrong: dict[str, Any]) -> None:
    organization = funded(0)
    entry = {"kind": "purchase", "debit": "cash", "credit": "wallet", "amount": 5, "balance": 5} | wrong
    with pytest.raises(IntegrityError):
        Entry.objects.create(wallet_id=organization.pk, **entry)
    assert kinds(organization) == []


def test_the_database_refuses_a_second_charge_of_a_hold() -> None:
    organization = funded(100)
    id_ = held(organization, 10)
    settle(organization, id_, 10)
    with pytest.raises(IntegrityError):
        Entry.objects.create(
            wallet_id=organization.pk, kind="usage", debit="wallet", credit="revenue", amount=10, balance=80,
            hold_id=id_,
        )  # fmt: skip
    assert books_are_right(organization)


# --- Proof -----------------------------------------------------------------------------------------------------------


def test_verify_ledger_finds_a_bent_balance(capsys: pytest.CaptureFixture[str]) -> None:
    organization = funded(100)
    with transaction.atomic():
        Wallet.objects.filter(pk=organization.pk).update(posted=101, held=7)
        with pytest.raises(CommandError, match="differences"):
            call_command("verify_ledger")
        transaction.set_rollback(True)
    output = capsys.readouterr()
    assert f"organization {organization.pk} : posted is the sum of entries; expected 100, found 101" in output.err
    assert f"organization {organization.pk} : held is the sum of open holds; expected 0, found 7" in output.err


def test_verify_ledger_finds_bent_history() -> None:
    organization = funded(100)
    id_ = held(organization, 10)
    settle(organization, id_, 10)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_entry DISABLE TRIGGER USER")
        cursor.execute("DELETE FROM billing_entry WHERE id = %s", [id_])
        assert not books_are_right(organization)
        transaction.set_rollback(True)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_entry DISABLE TRIGGER USER")
        cursor.execute("UPDATE billing_entry SET balance = 12 WHERE id = %s", [id_])
        assert not books_are_right(organization)
        transaction.set_rollback(True)
    assert books_are_right(organization)


def test_verify_ledger_says_when_the_books_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    organization = funded(12)
    held(organization, 5)
    call_command("verify_ledger")
    assert "No differences." in capsys.readouterr().out
