"""`candidates.find` remembers what a plain call found, and forgets it with whatever it was found with.

Real keys and prices in the database, the real catalogue. Neighbours: `test_candidates.py` (the search itself).
"""

import json
import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from billing import prices
from billing.usage import Rates
from gateway import candidates, credentials, params
from gateway.call_settings import DEFAULTS
from gateway.dialects import openai_chat
from gateway.dialects.registry import OPENAI_CHAT
from gateway.entered import Secret
from gateway.providers import catalog
from gateway.routing import NothingToPayWith

GPT = "openai/gpt-4o-mini"


async def found(organization: Any, model: str = GPT, settings: Any = DEFAULTS) -> list[candidates.Candidate]:
    """Find the targets of a chat completion that says nothing about where it goes."""
    asked = openai_chat.read(json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]}).encode())
    caller = SimpleNamespace(organization_id=organization.pk, is_demo=False)
    call: Any = SimpleNamespace(asked=asked, params=params.NONE, settings=settings, client=OPENAI_CHAT, caller=caller)
    targets, skipped = await candidates.find(call)
    assert skipped == []
    return targets


@pytest.fixture
def store(transactional_db: None, cast: Any) -> Any:
    """Store a key for OpenAI of an organization's own, and return it."""

    @sync_to_async
    def make(organization: Any) -> Any:
        return credentials.store(
            organization=organization,
            provider="openai",
            name=f"Key {uuid.uuid4().hex[:8]}",
            secret=Secret("sk-canary-0123456789abcdef"),
            actor=cast.owner,
            address=None,
        )

    return make


async def test_the_same_call_finds_what_the_one_before_it_has_found(store: Any, organization: Any) -> None:
    key = await store(organization)
    (first,) = await found(organization)
    (again,) = await found(organization)
    assert first.target.key is not None
    assert first.target.key.public_id == key.public_id
    assert again is first


async def test_a_key_more_and_no_key_any_more_count_for_the_next_call(store: Any, organization: Any, cast: Any) -> None:
    first = await store(organization)
    assert len(await found(organization)) == 1
    second = await store(organization)
    both = {each.target.key.public_id for each in await found(organization) if each.target.key}
    assert both == {first.public_id, second.public_id}
    for key in (first, second):
        await sync_to_async(credentials.remove)(credential=key, actor=cast.owner, address=None)
    with pytest.raises(NothingToPayWith):
        await found(organization)


async def test_another_organization_finds_nothing_of_it(store: Any, organization: Any, other_organization: Any) -> None:
    await store(organization)
    assert await found(organization)
    with pytest.raises(NothingToPayWith):
        await found(other_organization)


async def test_a_new_price_counts_as_soon_as_it_is_read(store: Any, organization: Any) -> None:
    await store(organization)
    (before,) = await found(organization)
    model = before.target.model
    rates = Rates(input=123_000_000, output=456_000_000)
    await sync_to_async(prices.publish)([prices.Price(model.provider, model.id, rates)])
    await prices.refresh()
    (after,) = await found(organization)
    assert after.target.price is not None
    assert after.target.price.rates == rates
    assert model.rates is not None
    await sync_to_async(prices.publish)([prices.Price(model.provider, model.id, model.rates)])
    await prices.refresh()


async def test_a_changed_catalogue_is_searched_anew(store: Any, organization: Any) -> None:
    await store(organization)
    (before,) = await found(organization)
    added = replace(before.target.model, id="added-just-now", upstream="added-just-now", aliases=())
    try:
        assert catalog.add([added])
        (after,) = await found(organization)
        assert after is not before
        (of_added,) = await found(organization, "openai/added-just-now")
        assert of_added.target.model.upstream == "added-just-now"
    finally:
        catalog.add([])


async def test_a_list_of_fallbacks_is_never_answered_from_memory(store: Any, organization: Any) -> None:
    await store(organization)
    assert len(await found(organization)) == 1
    listed = replace(DEFAULTS, fallback_models=("openai/gpt-4o",))
    names = [each.target.model.id for each in await found(organization, settings=listed)]
    assert names == ["gpt-4o-mini", "gpt-4o"]
