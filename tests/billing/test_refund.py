"""Refunds: never more than what they refund, once for each key, whoever presses at the same time."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import AuditEvent
from billing import ledger
from billing.models import Entry
from respan import ids
from tests.billing.wallets import books_are_right, funded, held, kinds, settle
from tests.conftest import make_user

pytestmark = pytest.mark.django_db(transaction=True)


def charged(nano: int, *, of: int = 10_000) -> tuple[Any, Entry]:
    """Return an organization and its one charge."""
    organization = funded(of)
    call = held(organization, nano)
    settle(organization, call, nano)
    return organization, Entry.objects.get(pk=call)


def refunded(entry: Entry) -> int:
    return sum(Entry.objects.filter(corrects=entry, kind="refund").values_list("amount", flat=True))


@given(amounts=st.lists(st.one_of(st.none(), st.integers(1, 500)), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_refunds_in_any_sequence_never_exceed_the_charge(db: None, amounts: list[int | None]) -> None:
    organization, charge = charged(600)
    operator, expected = make_user("operator"), 0
    for amount in amounts:
        wanted = 600 - expected if amount is None else amount
        try:
            booked = ledger.refund(entry=charge, amount_nano=amount, reason="a", actor=operator)
            assert booked.amount == wanted
            assert expected + wanted <= 600
            expected += wanted
        except ledger.RefundTooLarge:
            assert wanted == 0 or expected + wanted > 600
    assert refunded(charge) == expected
    assert ledger.refundable(charge) == 600 - expected
    assert ledger.balance(organization.pk).posted == 10_000 - 600 + expected
    assert books_are_right(organization)


def test_a_refund_names_its_charge_and_stands_in_the_audit_log() -> None:
    organization, charge = charged(600)
    operator = make_user("operator")
    back = ledger.refund(entry=charge, reason="The answer was cut", actor=operator, address="192.0.2.7")
    assert (back.kind, back.debit, back.credit, back.amount) == ("refund", "revenue", "wallet", 600)
    assert back.corrects_id == charge.pk
    event = AuditEvent.objects.get(organization=organization, action="credits.refund")
    assert (event.actor, event.target, event.address) == (operator, ids.encode("ent", back.pk), "192.0.2.7")
    assert event.detail == {"amount_nano": "600", "reason": "The answer was cut"}


@pytest.mark.parametrize("amount", [None, 250])
def test_a_refund_with_the_same_key_books_once(amount: int | None) -> None:
    organization, charge = charged(600)
    operator, key = make_user("operator"), uuid.uuid4()
    first = ledger.refund(entry=charge, amount_nano=amount, reason="a", actor=operator, id=key)
    again = ledger.refund(entry=charge, amount_nano=amount, reason="a", actor=operator, id=key)
    assert first == again
    assert [kind for kind, _ in kinds(organization)] == ["purchase", "usage", "refund"]
    assert AuditEvent.objects.filter(organization=organization, action="credits.refund").count() == 1


def test_the_key_of_a_refund_is_refused_for_another_charge_and_another_amount() -> None:
    organization, charge = charged(600)
    other_call = held(organization, 500)
    settle(organization, other_call, 500)
    operator, key = make_user("operator"), uuid.uuid4()
    ledger.refund(entry=charge, amount_nano=100, reason="a", actor=operator, id=key)
    before = kinds(organization)
    for entry, amount in ((charge, 101), (Entry.objects.get(pk=other_call), 100)):
        with pytest.raises(ledger.IdempotencyConflict):
            ledger.refund(entry=entry, amount_nano=amount, reason="a", actor=operator, id=key)
    assert kinds(organization) == before


def test_a_second_refund_of_everything_is_refused_and_says_what_is_left() -> None:
    organization, charge = charged(600)
    operator = make_user("operator")
    ledger.refund(entry=charge, reason="a", actor=operator)
    before = kinds(organization)
    with pytest.raises(ledger.RefundTooLarge, match=r"\$0\.00 of \$0\.0000006 is left"):
        ledger.refund(entry=charge, reason="a", actor=operator)
    assert kinds(organization) == before


@pytest.mark.parametrize("amount", [0, -1, 1 << 62])
def test_an_amount_that_is_none_is_refused(amount: int) -> None:
    organization, charge = charged(600)
    before = kinds(organization)
    with pytest.raises((ValueError, ledger.RefundTooLarge)):
        ledger.refund(entry=charge, amount_nano=amount, reason="a", actor=make_user("operator"))
    assert kinds(organization) == before


@pytest.mark.parametrize("kind", ["grant", "refund", "adjustment"])
def test_only_charges_and_purchases_are_refunded(kind: str) -> None:
    organization, charge = charged(600)
    operator = make_user("operator")
    entry = {
        "grant": lambda: ledger.grant(organization=organization, amount_nano=9, reason="a", actor=None),
        "refund": lambda: ledger.refund(entry=charge, reason="a", actor=operator),
        "adjustment": lambda: ledger.adjust(organization=organization, amount_nano=9, reason="a", actor=operator),
    }[kind]()
    before = kinds(organization)
    with pytest.raises(ValueError, match="adjustment"):
        ledger.refund(entry=entry, amount_nano=1, reason="a", actor=operator)
    assert kinds(organization) == before


def test_refunds_from_all_sides_at_once_never_exceed_the_charge() -> None:
    organization, charge = charged(600)
    operator, everyone = make_user("operator"), threading.Barrier(4)

    def press(_: int) -> int:
        everyone.wait(timeout=30)
        try:
            return ledger.refund(entry=charge, amount_nano=250, reason="a", actor=operator).amount
        except ledger.RefundTooLarge:
            return 0
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(press, range(4)))
    assert sorted(got) == [0, 0, 250, 250]
    assert refunded(charge) == 500
    assert books_are_right(organization)
