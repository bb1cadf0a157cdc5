"""Redeem codes: once for each organization, as often as they were made for, and not to be guessed."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from accounts.models import AuditEvent
from billing import codes, ledger
from billing.models import RedeemCode, RedeemFailure, Redemption
from tests.billing.wallets import books_are_right, funded, kinds
from tests.conftest import make_user

pytestmark = pytest.mark.django_db(transaction=True)


def make(**fields: Any) -> str:
    values: dict[str, Any] = {"amount_nano": 500, "actor": make_user("operator")}
    _, text = codes.create(**values | fields)
    return text


def test_a_code_adds_its_credits_once_for_an_organization() -> None:
    organization, user, text = funded(0), make_user("owner"), make(max_uses=5)
    first = codes.redeem(organization=organization, text=text, user=user)
    again = codes.redeem(organization=organization, text=text, user=user)
    assert (first.is_new, again.is_new) == (True, False)
    assert first.redemption == again.redemption
    assert kinds(organization) == [("grant", 500)]
    assert first.redemption.entry.actor == user
    assert books_are_right(organization)


@pytest.mark.parametrize("write", [str.lower, lambda text: text.replace("-", " "), lambda text: f" {text[4:]} "])
def test_a_code_is_read_as_people_write_it(write: Any) -> None:
    organization = funded(0)
    codes.redeem(organization=organization, text=write(make()), user=make_user("owner"))
    assert kinds(organization) == [("grant", 500)]


def test_a_code_is_stored_without_what_it_says() -> None:
    text = make()
    code = RedeemCode.objects.latest("created_at")
    assert len(text) == len("RSP-XXXX-XXXX-XXXX-XXXX")
    assert text.endswith(code.hint)
    assert text.replace("-", "")[3:].encode() not in bytes(code.digest)
    event = AuditEvent.objects.filter(action="redeem_code.created").latest("created_at")
    assert text not in f"{event.target} {event.detail}"


def test_a_code_serves_as_many_organizations_as_it_was_made_for() -> None:
    text = make(max_uses=2)
    lucky, late = [funded(0), funded(0)], funded(0)
    for organization in lucky:
        codes.redeem(organization=organization, text=text, user=make_user("owner"))
    with pytest.raises(codes.CodeUsedUp):
        codes.redeem(organization=late, text=text, user=make_user("owner"))
    assert kinds(late) == []
    # Who has redeemed it hears so, not that it is used up.
    assert not codes.redeem(organization=lucky[0], text=text, user=make_user("owner")).is_new


def test_many_who_redeem_one_code_at_once_share_one_use() -> None:
    text, organizations = make(), [funded(0) for _ in range(6)]
    users = [make_user("owner") for _ in organizations]

    def redeem(index: int) -> bool:
        try:
            return codes.redeem(organization=organizations[index], text=text, user=users[index]).is_new
        except codes.CodeUsedUp:
            return False
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(redeem, range(6))) == 1
    assert sum(ledger.balance(each.pk).posted for each in organizations) == 500


def test_a_form_sent_twice_at_once_adds_once() -> None:
    text, organization, user = make(max_uses=9), funded(0), make_user("owner")

    def redeem(_: int) -> bool:
        try:
            return codes.redeem(organization=organization, text=text, user=user).is_new
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(redeem, range(4))) == 1
    assert kinds(organization) == [("grant", 500)]


def test_an_expired_code_is_refused() -> None:
    organization = funded(0)
    text = make(expires_at=timezone.now() + timedelta(hours=1))
    with pytest.raises(codes.CodeExpired):
        codes.redeem(
            organization=organization, text=text, user=make_user("owner"), now=timezone.now() + timedelta(hours=1)
        )
    assert kinds(organization) == []
    assert not Redemption.objects.filter(wallet_id=organization.pk).exists()


def test_a_code_of_another_organization_is_unknown() -> None:
    invited, stranger = funded(0), funded(0)
    text = make(organization=invited)
    with pytest.raises(codes.UnknownCode):
        codes.redeem(organization=stranger, text=text, user=make_user("outsider"))
    assert kinds(stranger) == []
    codes.redeem(organization=invited, text=text, user=make_user("owner"))
    assert kinds(invited) == [("grant", 500)]


def test_guessing_stops_after_ten_wrong_codes_for_the_organization_and_the_person() -> None:
    organization, other, user, text = funded(0), funded(0), make_user("owner"), make(max_uses=9)
    now = timezone.now()
    for number in range(codes.MAX_FAILURES):
        with pytest.raises(codes.UnknownCode):
            codes.redeem(organization=organization, text=f"RSP-{number:016}", user=user, now=now)
    for where, who in ((organization, user), (organization, make_user("admin")), (other, user)):
        with pytest.raises(codes.TooManyGuesses):
            codes.redeem(organization=where, text=text, user=who, now=now)
    assert kinds(organization) == []
    assert RedeemFailure.objects.filter(wallet_id=organization.pk).count() == codes.MAX_FAILURES
    later = now + codes.FAILURE_WINDOW
    assert codes.redeem(organization=organization, text=text, user=user, now=later).is_new
