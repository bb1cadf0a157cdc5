"""A half-open breaker lets three calls through: one that asks nobody after all must not keep its place.

Whole calls in this process, of the sandbox's model that credits pay for. The breaker by itself: `test_health.py`.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from accounts.models import Organization
from billing import ledger
from billing.models import Hold
from gateway import health
from gateway.call import Call
from gateway.dialects.registry import OPENAI_CHAT, OPENAI_RESPONSES, Client
from gateway.params import InvalidRequest
from respan import pool
from tests.conftest import make_organization, make_user
from tests.gateway.asking import caller

pytestmark = pytest.mark.django_db(transaction=True)

MODEL = "sandbox/priced"
QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}


@pytest.fixture(autouse=True)
def _own_breakers() -> Iterator[None]:
    health.forget()
    yield
    health.forget()


@sync_to_async
def organization(credits_nano: int = 0) -> Organization:
    owner = make_user("owner")
    made = make_organization(f"Tenant {uuid.uuid4().hex[:8]}", owner=owner)
    if credits_nano:
        ledger.grant(organization=made, amount_nano=credits_nano, reason="test", actor=owner)
    return made


async def ask(who: Organization, members: dict[str, Any] = QUESTION, client: Client = OPENAI_CHAT) -> int:
    """Make a call; return its status. Raises what the call raises."""
    body = json.dumps({"model": MODEL, **members}).encode()
    return (await Call(caller(who.pk), {}, body, client=client).answer()).status_code


async def half_open(rich: Organization) -> health.Health:
    """Return the breaker of the model, which is about to be probed."""
    assert await ask(rich) == 200
    [place] = health._targets
    record = health.at(place)
    record.hold_open(time.monotonic() - 1)
    assert record.state(time.monotonic()) == "half_open"
    return record


async def closes(record: health.Health, rich: Organization) -> bool:
    """Tell whether three probes are let through and close the breaker."""
    for _ in range(health.PROBES):
        assert await ask(rich) == 200
    return record.state(time.monotonic()) == "closed"


async def test_calls_that_cannot_be_paid_leave_the_probes_to_others() -> None:
    rich, poor = await organization(5 * 10**9), await organization()
    record = await half_open(rich)
    for _ in range(2 * health.PROBES):
        with pytest.raises(ledger.InsufficientCredits):
            await ask(poor)

    assert (record.probing, record.state(time.monotonic())) == (0, "half_open")
    assert not await sync_to_async(Hold.objects.filter(wallet_id=poor.pk).exists)()
    assert await closes(record, rich)


async def test_calls_that_cannot_be_written_for_the_target_leave_the_probes_to_others() -> None:
    rich = await organization(5 * 10**9)
    record = await half_open(rich)
    held = await sync_to_async(Hold.objects.filter(wallet_id=rich.pk).count)()
    for _ in range(2 * health.PROBES):
        with pytest.raises(InvalidRequest):
            await ask(rich, {"input": "And?", "previous_response_id": "resp_1"}, OPENAI_RESPONSES)

    assert (record.probing, record.state(time.monotonic())) == (0, "half_open")
    assert await sync_to_async(Hold.objects.filter(wallet_id=rich.pk).count)() == held
    assert await closes(record, rich)


async def test_clients_that_leave_while_credits_are_held_leave_the_probes_to_others() -> None:
    rich = await organization(5 * 10**9)
    record = await half_open(rich)
    async with pool.connection() as lent, lent.transaction():
        await lent.execute("SELECT 1 FROM billing_wallet WHERE organization_id = %s FOR UPDATE", [rich.pk])
        waiting = [asyncio.create_task(ask(rich)) for _ in range(health.PROBES)]
        async with asyncio.timeout(10):
            while record.probing < health.PROBES:  # noqa: ASYNC110  (nothing tells of it)
                await asyncio.sleep(0.01)
        for task in waiting:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*waiting, return_exceptions=True)
        )

    assert (record.probing, record.state(time.monotonic())) == (0, "half_open")
    assert await closes(record, rich)
