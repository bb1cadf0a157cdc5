"""Promises of `gateway.call_settings`: what an organization has set, soon after a change; never a reason to fail."""

import time

import pytest
from asgiref.sync import sync_to_async

from gateway import call_settings
from gateway.call_settings import DEFAULTS, Group
from gateway.models import CallSettings, LoadBalanceGroup
from gateway.params import Member
from respan import pool

pytestmark = pytest.mark.django_db(transaction=True)


async def change(organization, **fields):
    await sync_to_async(CallSettings.objects.update_or_create)(organization=organization, defaults=fields)


async def test_an_organization_without_settings_has_the_defaults(organization):
    assert await call_settings.of(organization.pk) is DEFAULTS


def test_the_defaults_are_those_of_the_table():
    row = CallSettings()
    assert DEFAULTS.fallback_models == tuple(row.fallback_models)
    assert DEFAULTS.retry_after_s == row.retry_after_ms / 1000
    for name in (
        "fallback_enabled", "retry_enabled", "num_retries", "strategy", "cache_enabled", "cache_ttl_s",
        "cache_by_customer", "cache_by_model", "cache_omit_log",
    ):  # fmt: skip
        assert getattr(DEFAULTS, name) == getattr(row, name)


async def test_settings_are_read_as_they_were_written(organization):
    written = {
        "fallback_models": ["a", "b"], "fallback_enabled": False, "retry_enabled": False, "num_retries": 1,
        "retry_after_ms": 1500, "strategy": "cost", "cache_enabled": True, "cache_ttl_s": 60,
        "cache_by_customer": True, "cache_by_model": True, "cache_omit_log": True,
    }  # fmt: skip
    await change(organization, **written)
    found = await call_settings.of(organization.pk)
    read = {name: getattr(found, name) for name in written if name not in ("retry_after_ms", "fallback_models")}
    assert read == {name: written[name] for name in read}
    assert (found.fallback_models, found.retry_after_s) == (("a", "b"), 1.5)
    assert isinstance(found.retry_after_s, float)


async def test_groups_are_the_organizations_own(organization, other_organization):
    members = [{"model": "gpt-4o", "weight": 3, "credentials": ["cred_1"]}, {"model": "b"}]
    await sync_to_async(LoadBalanceGroup.objects.create)(
        organization=organization, group_id="fast", name="Fast", strategy="latency", members=members
    )
    found = (await call_settings.of(organization.pk)).groups
    assert found == {"fast": Group("fast", "latency", (Member("gpt-4o", 3, ("cred_1",)), Member("b", 1, ())))}
    assert (await call_settings.of(other_organization.pk)).groups == {}


async def test_a_change_is_seen_at_once_here_and_within_five_seconds_elsewhere(organization):
    now = time.monotonic()
    await call_settings.of(organization.pk, now=now)
    await change(organization, num_retries=1)
    assert (await call_settings.of(organization.pk, now=now + 4.9)).num_retries == DEFAULTS.num_retries
    assert (await call_settings.of(organization.pk, now=now + 5.1)).num_retries == 1
    await change(organization, num_retries=0)
    call_settings.forget(organization.pk)
    assert (await call_settings.of(organization.pk, now=now + 5.2)).num_retries == 0


async def test_without_the_database_what_was_read_counts_for_ten_minutes_and_then_the_defaults(
    organization, settings, monkeypatch
):
    await change(organization, num_retries=1)
    organization_id, now = organization.pk, time.monotonic()
    assert (await call_settings.of(organization_id, now=now)).num_retries == 1
    await pool.close()
    monkeypatch.setitem(settings.DATABASES["default"], "PORT", 1)
    assert (await call_settings.of(organization_id, now=now + 60)).num_retries == 1
    assert (await call_settings.of(organization_id, now=now + 601)) is DEFAULTS
    assert (await call_settings.of(-1, now=now)) is DEFAULTS
    call_settings.forget(-1)
