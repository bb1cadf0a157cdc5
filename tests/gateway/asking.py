"""Calls that ask the cache without a server: read as the gateway reads them, and brought answers by hand."""

import json
import os
import time
from datetime import timedelta
from typing import Any

from django.utils import timezone

from accounts.keys import Caller
from gateway import cache, params
from gateway.call import Call
from gateway.call_settings import Settings
from gateway.dialects.registry import CLIENTS
from gateway.dialects.wire import Named
from gateway.models import CachedAnswer

ON = Settings(cache_enabled=True)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


# Redis outlives the databases of tests, in which the numbers of organizations come again.
_RUN = os.urandom(8).hex()


def caller(organization_id: int, *, environment: str = "production", zero_retention: bool = False) -> Caller:
    """Return a caller of an organization."""
    return Caller(
        organization_id=organization_id,
        api_key_id=1,
        environment=environment,
        organization_public_id=f"org_{organization_id}_{_RUN}",
        is_demo=False,
        key_name="Test",
        expires_at=None,
        zero_retention=zero_retention,
        scopes=frozenset({"call"}),
    )


def asking(
    who: Caller,
    body: dict[str, Any] = CHAT,
    *,
    client: str = "openai_chat",
    settings: Settings = ON,
    named: Named | None = None,
    within_s: float = 30.0,
    **meta: str,
) -> Call:
    """Return a call that was read and goes nowhere."""
    call = Call(who, meta, json.dumps(body).encode(), client=CLIENTS[client], named=named)
    call.asked = call.client.read(call.body, named=named)
    call.params = params.gather(call.asked.members, meta, not_ours=call.client.keeps)
    call.settings = settings
    call.deadline = time.monotonic() + within_s
    return call


def answer(text: str = "Hi") -> bytes:
    """Return a chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m-1", "choices": [choice]}
    return json.dumps({**whole, "usage": USAGE}).encode()


async def brought(call: Call, body: bytes | None = None, events: bytes | None = None) -> cache.Flight:
    """Let a call bring an answer, and wait until it is kept."""
    flight = await cache.look(call)
    assert isinstance(flight, cache.Flight), flight
    flight.filled(body or answer(), "application/json", events)
    await cache.settled()
    return flight


def keep(organization: Any, **fields: Any) -> CachedAnswer:
    """Keep an answer of an organization without a call."""
    now = timezone.now()
    usual = {
        "key": os.urandom(32),
        "environment": "production",
        "dialect": "openai_chat",
        "model": "openai/gpt-4o-mini",
        "request": json.dumps(CHAT).encode(),
        "prompt_text": "Hello",
        "answer_text": "Hi",
        "body": answer(),
        "content_type": "application/json",
        "size": 100,
        "input_tokens": 7,
        "output_tokens": 3,
        "cost_nano": 1_500,
        "duration_us": 250_000,
        "hit_count": 2,
        "created_at": now,
        "expires_at": now + timedelta(minutes=30),
    }
    return CachedAnswer.objects.create(organization=organization, **{**usual, **fields})
