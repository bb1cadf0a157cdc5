"""API keys: their format, what verifying them costs and how soon a revocation counts."""

import asyncio
import random
import string
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from accounts import keys
from accounts.models import ApiKey, AuditEvent, Environment
from respan import pool

EXAMPLE = keys._new_secret(Environment.PRODUCTION)


@pytest.fixture
def issued(organization: Any) -> keys.Issued:
    return issue(organization)


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    keys.forget_everything()


def issue(organization: Any, **fields: Any) -> keys.Issued:
    return keys.issue(organization=organization, name="Key", environment="production", created_by=None, **fields)


# These tests have no database: a question to it would fail them.


@hypothesis_settings(deadline=None, max_examples=500)
@given(st.integers(0, len(EXAMPLE) - 1), st.characters(codec="utf-8"))
def test_key_with_one_changed_character_is_refused_without_the_database(position: int, character: str) -> None:
    if EXAMPLE[position] == character:
        return
    mistyped = EXAMPLE[:position] + character + EXAMPLE[position + 1 :]

    with pytest.raises(keys.InvalidKey):
        keys.verify_sync(mistyped)


@hypothesis_settings(deadline=None)
@given(st.integers(0, len(EXAMPLE) - 2))
def test_key_with_two_characters_swapped_is_refused_without_the_database(position: int) -> None:
    swapped = EXAMPLE[:position] + EXAMPLE[position + 1] + EXAMPLE[position] + EXAMPLE[position + 2 :]
    if swapped == EXAMPLE:
        return

    with pytest.raises(keys.InvalidKey):
        keys.verify_sync(swapped)


def test_a_thousand_random_strings_are_refused_without_the_database() -> None:
    alphabet = string.ascii_letters + string.digits + "_-\x00\n é漢😀'\";--"
    for seed in range(1000):
        dice = random.Random(seed)  # noqa: S311
        length = dice.choice([0, 1, 46, 47, 48, 100, 10_000])
        junk = "".join(dice.choices(alphabet, k=length))
        for presented in (junk, f"rsp_live_{junk}", f"rsp_test_{junk}"[:47]):
            with pytest.raises(keys.InvalidKey):
                keys.verify_sync(presented)


def test_keys_carry_190_random_bits_and_are_never_alike() -> None:
    made = {keys._new_secret(Environment.TEST) for _ in range(2000)}

    assert len(made) == 2000
    assert {len(secret) for secret in made} == {47}
    assert all(secret.startswith("rsp_test_") for secret in made)
    assert {secret[9:41][place] for secret in made for place in range(32)} == set(string.ascii_letters + string.digits)


# From here on with a database.


@pytest.mark.django_db(transaction=True)
async def test_verified_key_says_whom_it_acts_for(organization: Any, issued: keys.Issued) -> None:

    caller = await keys.verify(issued.secret)

    assert caller.organization_id == organization.pk
    assert caller.organization_public_id == organization.public_id
    assert caller.api_key_id == issued.api_key.pk
    assert caller.environment == "production"
    assert caller.expires_at is None
    assert not caller.is_demo


@pytest.mark.django_db
def test_only_a_digest_is_stored(organization: Any) -> None:
    secret = issue(organization).secret

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT row_to_json(k)::text FROM accounts_apikey k WHERE organization_id = %s", [organization.pk]
        )
        row = cursor.fetchone()[0]
        cursor.execute(
            "SELECT row_to_json(e)::text FROM accounts_auditevent e WHERE organization_id = %s", [organization.pk]
        )
        events = str(cursor.fetchall())
    assert secret not in row
    assert secret not in events
    assert secret[13:43] not in row


@pytest.mark.django_db
def test_unknown_key_is_refused_and_asked_for_once(organization: Any, django_assert_num_queries: Any) -> None:
    unknown = keys._new_secret(Environment.PRODUCTION)

    with django_assert_num_queries(1):
        for _ in range(50):
            with pytest.raises(keys.InvalidKey, match="not known"):
                keys.verify_sync(unknown)


@pytest.mark.django_db
def test_cached_key_costs_no_query(organization: Any, django_assert_num_queries: Any) -> None:
    secret = issue(organization).secret
    keys.verify_sync(secret)

    with django_assert_num_queries(0):
        for _ in range(50):
            keys.verify_sync(secret)


@pytest.mark.django_db(transaction=True)
def test_revoked_key_is_refused_at_once_in_the_process_that_revoked_it(organization: Any) -> None:
    issued = issue(organization)
    keys.verify_sync(issued.secret)

    keys.revoke(api_key=issued.api_key, actor=None, now=timezone.now())

    with pytest.raises(keys.InvalidKey, match="revoked"):
        keys.verify_sync(issued.secret)


@pytest.mark.django_db(transaction=True)
async def test_key_revoked_by_another_process_is_refused_within_five_seconds(issued: keys.Issued) -> None:
    await keys.verify(issued.secret)
    async with pool.connection() as elsewhere:
        await elsewhere.execute("UPDATE accounts_apikey SET revoked_at = now() WHERE id = %s", (issued.api_key.pk,))
    revoked_at = time.monotonic()

    with pytest.raises(keys.InvalidKey, match="revoked"):  # noqa: PT012
        while time.monotonic() - revoked_at < 9:
            await keys.verify(issued.secret)
            await asyncio.sleep(0.01)
    assert time.monotonic() - revoked_at <= 6  # and what the last question takes on a busy machine


@pytest.mark.django_db(transaction=True)
def test_revoking_twice_changes_nothing(organization: Any) -> None:
    api_key = issue(organization).api_key
    first = timezone.now()
    keys.revoke(api_key=api_key, actor=None, now=first)

    keys.revoke(api_key=api_key, actor=None, now=first + timedelta(hours=1))

    api_key.refresh_from_db()
    assert api_key.revoked_at == first
    assert AuditEvent.objects.filter(target=api_key.public_id, action="api_key.revoked").count() == 1


@pytest.mark.django_db
def test_expired_key_is_refused_although_it_is_remembered(organization: Any) -> None:
    secret = issue(organization, expires_at=timezone.now() + timedelta(seconds=0.5)).secret
    keys.verify_sync(secret)

    time.sleep(0.6)

    with pytest.raises(keys.InvalidKey, match="expired"):
        keys.verify_sync(secret)


@pytest.mark.django_db
def test_the_same_request_makes_one_key(organization: Any, other_organization: Any) -> None:
    request_id = uuid.uuid4()
    first = issue(organization, request_id=request_id)

    with pytest.raises(keys.AlreadyIssued) as repeated:
        issue(organization, request_id=request_id)
    issue(other_organization, request_id=request_id)  # another tenant's request ids are their own

    assert repeated.value.api_key == first.api_key
    assert ApiKey.objects.filter(organization=organization).count() == 1
    assert AuditEvent.objects.filter(organization=organization, action="api_key.created").count() == 1


@pytest.mark.django_db(transaction=True)
async def test_calls_that_find_a_key_stale_ask_the_database_once(issued: keys.Issued) -> None:
    lent = await pool._pool()
    before = lent.get_stats().get("requests_num", 0)

    await asyncio.gather(*(keys.verify(issued.secret) for _ in range(500)))

    assert lent.get_stats()["requests_num"] - before == 1


@pytest.mark.django_db(transaction=True)
async def test_caller_who_leaves_does_not_take_the_answer_from_the_others(issued: keys.Issued) -> None:
    leaver = asyncio.create_task(keys.verify(issued.secret))
    stayer = asyncio.create_task(keys.verify(issued.secret))
    await asyncio.sleep(0)

    leaver.cancel()

    assert (await stayer).api_key_id == issued.api_key.pk
    with pytest.raises(asyncio.CancelledError):
        await leaver


async def last_used_at(issued: keys.Issued) -> Any:
    async with pool.connection() as lent:
        found = await lent.execute("SELECT last_used_at FROM accounts_apikey WHERE id = %s", (issued.api_key.pk,))
        row = await found.fetchone()
    assert row is not None
    return row[0]


@pytest.mark.django_db(transaction=True)
async def test_use_of_a_key_is_written_soon_and_then_once_a_minute(issued: keys.Issued) -> None:
    assert await last_used_at(issued) is None
    await keys.verify(issued.secret)
    await asyncio.sleep(1.5)
    used = await last_used_at(issued)

    keys.forget_everything()
    await keys.verify(issued.secret)
    await keys.flush_last_used()

    assert used is not None
    assert await last_used_at(issued) == used


@pytest.mark.django_db
def test_use_of_a_key_through_the_management_api_is_written(issued: keys.Issued) -> None:
    keys.verify_sync(issued.secret)

    issued.api_key.refresh_from_db()
    assert issued.api_key.last_used_at is not None


@pytest.fixture
def stranger(organization: Any) -> keys.Issued:
    return issue(organization)


@pytest.fixture
def database_that_can_go_away() -> Iterator[Any]:
    config = settings.DATABASES["default"]
    port = config["PORT"]

    async def leave() -> None:
        await pool.close()
        config["PORT"] = "1"

    async def come_back() -> None:
        await pool.close()
        config["PORT"] = port

    yield leave, come_back
    config["PORT"] = port


@pytest.mark.django_db(transaction=True)
async def test_known_key_outlives_the_database_and_unknown_ones_get_503(
    issued: keys.Issued, stranger: keys.Issued, database_that_can_go_away: Any
) -> None:
    leave, come_back = database_that_can_go_away
    caller = await keys.verify(issued.secret)
    await keys.flush_last_used()
    await leave()
    await asyncio.sleep(keys.FRESH_S + 0.1)

    assert await keys.verify(issued.secret) == caller
    started = time.monotonic()
    for _ in range(20):
        assert await keys.verify(issued.secret) == caller
    assert time.monotonic() - started < 0.9  # the second call on does not wait a second for the database
    with pytest.raises(keys.KeyCheckUnavailable) as refusal:
        await keys.verify(stranger.secret)
    assert refusal.value.status == 503

    await come_back()
    assert (await keys.verify(stranger.secret)).api_key_id == stranger.api_key.pk
