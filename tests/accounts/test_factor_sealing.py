"""Secrets of second factors at rest: nothing plain in the table, bound to their user, rotated with the key ring."""

import json
import uuid
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, hotp_value, yield_hotp_counters_from_time
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from accounts import factor_sealing, factors
from accounts.models import User
from tests.conftest import PASSWORD, make_user

K1 = "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
K2 = "k2:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"

pytestmark = pytest.mark.django_db


def code_now(secret: str = SECRET) -> str:
    return str(format_hotp_value(hotp_value(secret, next(iter(yield_hotp_counters_from_time())))))


def kept(user: User) -> dict[str, dict[str, Any]]:
    """Return what the table holds of a user, past every hook."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT type, data FROM mfa_authenticator WHERE user_id = %s", [user.pk])
        rows = cursor.fetchall()
    return {type: data if isinstance(data, dict) else json.loads(data) for type, data in rows}


def overwrite(user: User, type: str, data: dict[str, Any]) -> None:
    Authenticator.objects.filter(user=user, type=type).update(data=data)


def read(user: User, type: str = "totp") -> Authenticator:
    return Authenticator.objects.get(user=user, type=type)


@pytest.fixture
def user() -> User:
    """Somebody with an authenticator app and recovery codes."""
    one: User = make_user(f"sealed-{uuid.uuid4().hex[:6]}")
    TOTP.activate(one, SECRET)
    RecoveryCodes.activate(one)
    return one


def test_nothing_in_the_table_is_plain(user: User) -> None:
    held = kept(user)
    assert held["totp"]["secret"].startswith("v1.k1.")
    assert held["recovery_codes"]["seed"].startswith("v1.k1.")
    assert SECRET not in json.dumps(held)
    codes = read(user, "recovery_codes").wrap().generate_codes()
    assert len(set(codes)) == 10
    assert not any(code in json.dumps(held) for code in codes)


def test_both_open_for_whoever_they_belong_to(user: User) -> None:
    assert read(user).wrap().validate_code(code_now())
    codes = RecoveryCodes(read(user, "recovery_codes"))
    first = codes.generate_codes()[0]
    assert codes.validate_code(first)
    assert not RecoveryCodes(read(user, "recovery_codes")).validate_code(first)
    assert kept(user)["recovery_codes"]["used_mask"] == 1
    assert kept(user)["recovery_codes"]["seed"].startswith("v1.k1.")


def test_a_secret_moved_to_somebody_else_does_not_open_there(user: User) -> None:
    other = make_user("other")
    TOTP.activate(other, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
    overwrite(other, "totp", kept(user)["totp"])

    with pytest.raises(factor_sealing.Unreadable):
        read(other).wrap().validate_code(code_now())

    browser = Client()
    browser.post("/accounts/login/", {"login": other.email, "password": PASSWORD})
    page = browser.post("/accounts/2fa/authenticate/", {"code": code_now()}).content.decode()
    assert "cannot be read any more" in page
    assert browser.get("/platform/account/").status_code == 302


def test_a_secret_in_another_place_of_the_row_does_not_open(user: User) -> None:
    overwrite(user, "recovery_codes", {"seed": kept(user)["totp"]["secret"], "used_mask": 0})
    with pytest.raises(factor_sealing.Unreadable):
        RecoveryCodes(read(user, "recovery_codes")).generate_codes()
    assert factors.facts(user)["codes"] == 0


def test_a_plain_value_from_before_works_and_is_sealed_with_its_next_use(user: User) -> None:
    overwrite(user, "totp", {"secret": SECRET})
    found = read(user)

    assert found.wrap().validate_code(code_now())
    found.record_usage()

    assert kept(user)["totp"]["secret"].startswith("v1.k1.")
    assert read(user).wrap().instance.last_used_at is not None
    assert factor_sealing.opened(read(user).data["secret"]) == SECRET


def test_codes_that_came_from_elsewhere_are_sealed_one_by_one(user: User) -> None:
    overwrite(user, "recovery_codes", {"migrated_codes": ["abc123", "def456"], "used_mask": 0})
    read(user, "recovery_codes").save()
    assert all(code.startswith("v1.k1.") for code in kept(user)["recovery_codes"]["migrated_codes"])

    assert RecoveryCodes(read(user, "recovery_codes")).validate_code("abc123")

    assert RecoveryCodes(read(user, "recovery_codes")).get_unused_codes() == ["def456"]


def test_an_upgrade_seals_what_was_plain_and_leaves_the_rest(user: User) -> None:
    seed = kept(user)["recovery_codes"]["seed"]
    overwrite(user, "totp", {"secret": SECRET})
    passkey = Authenticator.objects.create(user=user, type="webauthn", data={"name": "Laptop", "credential": {}})

    import_module("accounts.migrations.0005_seal_second_factors").seal(apps, None)

    assert kept(user)["totp"]["secret"].startswith("v1.k1.")
    assert kept(user)["recovery_codes"]["seed"] == seed
    passkey.refresh_from_db()
    assert passkey.data == {"name": "Laptop", "credential": {}}
    assert read(user).wrap().validate_code(code_now())


def test_a_rotation_seals_anew_and_lets_the_old_key_go(user: User, settings: Any, capsys: Any) -> None:
    settings.RESPAN_KEYS = K1
    plain = make_user("plain")
    TOTP.activate(plain, SECRET)
    overwrite(plain, "totp", {"secret": SECRET})
    before = RecoveryCodes(read(user, "recovery_codes")).generate_codes()
    settings.RESPAN_KEYS = f"{K2},{K1}"

    call_command("rotate_keys")

    settings.RESPAN_KEYS = K2
    assert read(user).wrap().validate_code(code_now())
    assert RecoveryCodes(read(user, "recovery_codes")).generate_codes() == before
    for one in (user, plain):
        assert kept(one)["totp"]["secret"].startswith("v1.k2.")
    assert SECRET not in capsys.readouterr().out
    assert factor_sealing.rotate() == (0, [])


def test_a_rotation_leaves_what_it_cannot_open_and_names_whose_it_is(user: User, settings: Any) -> None:
    other = make_user("other")
    TOTP.activate(other, SECRET)
    overwrite(other, "totp", kept(user)["totp"])
    settings.RESPAN_KEYS = f"{K2},{K1}"

    with pytest.raises(CommandError, match=f"totp of {other.email}"):
        call_command("rotate_keys", verbosity=0)

    assert kept(other)["totp"]["secret"].startswith("v1.k1.")
    assert kept(user)["totp"]["secret"].startswith("v1.k2.")
    # What nobody can read any more, an operator takes away.
    factors.reset(other, actor=user, reason="unreadable", address=None)
    assert kept(other) == {}


def test_setting_up_and_signing_in_go_as_before(cast: SimpleNamespace) -> None:
    from tests.accounts.test_account_page import PAGE, set_up_app, sign_in

    secret = set_up_app(sign_in(cast.member))
    assert secret not in json.dumps(kept(cast.member))
    browser = sign_in(cast.member)
    browser.post("/accounts/2fa/authenticate/", {"code": code_now(secret)})
    assert browser.get(PAGE).status_code == 200
