"""Limits as calls meet them: how many pass, what is refused and how, what is booked, what an outage costs."""

import asyncio
import time
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from billing.usage import Rates, Usage
from gateway import counting, fairness, limit_changes, limits, throttle
from gateway.limit_changes import Draft, Rule
from tests.conftest import make_organization
from tests.respan.test_redis import REDIS_URL, needs_redis

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["postgres", pytest.param("redis", marks=needs_redis)])
def place(request, settings):
    """Each place where limits can be counted."""
    settings.REDIS_URL = REDIS_URL if request.param == "redis" else ""
    return request.param


@pytest.fixture
async def organization():
    return await sync_to_async(make_organization)(f"Tenant {uuid.uuid4().hex[:8]}")


def call(organization, *, customer=None, rate=None, model="sandbox/echo", key=1, operation="chat.completions") -> Any:
    """What of a call limits look at."""
    return SimpleNamespace(
        caller=SimpleNamespace(organization_id=organization.pk, api_key_id=key, environment="production"),
        params=SimpleNamespace(customer_identifier=customer, customer_rate_limit=rate),
        asked=SimpleNamespace(model=model, input_bytes=400),
        client=SimpleNamespace(operation=operation),
        log_id="log_test",
        accepted_upstream=True,
        target=SimpleNamespace(price=SimpleNamespace(rates=Rates(input=1_000_000, output=2_000_000))),
    )


@sync_to_async
def limit(organization, metric="request_count", *, soft=None, hard=None, compose=("organization_id",), **more):
    """Set a limit; `hard` is what the counter blocks at."""
    rules = [Rule(severity=name, value=value) for name, value in (("hard", hard), ("soft", soft)) if value is not None]
    if metric != "concurrency":
        more.setdefault("period", "day")
    draft = Draft(name=more.pop("name", "Ours"), compose=compose, metric=metric, rules=rules, **more)
    return limit_changes.create(organization=organization, draft=draft, actor=None, address=None)


async def entered(calls):
    """Enter with all calls at once; return the permits and the refusals."""
    found = await asyncio.gather(*(throttle.enter(each) for each in calls), return_exceptions=True)
    permits = [each for each in found if isinstance(each, throttle.Permit)]
    refusals = [each for each in found if isinstance(each, throttle.LimitReached)]
    assert len(permits) + len(refusals) == len(calls), [each for each in found if each not in permits + refusals]
    return permits, refusals


class Process:
    """Another web process: the same store, a memory of its own."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.own = counting.Here()

    def __enter__(self):
        self.before = counting.here()
        counting._loops[self.loop] = self.own
        return self

    def __exit__(self, *_):
        counting._loops[self.loop] = self.before


async def settled():
    """Wait until what no call waits for is done."""
    while counting.here().tasks:
        await asyncio.gather(*counting.here().tasks)


async def test_without_limits_nothing_is_counted(place, organization):
    permits, refusals = await entered([call(organization) for _ in range(50)])

    assert (len(permits), refusals) == (50, [])
    assert counting._loops.get(asyncio.get_running_loop()) is None
    for permit in permits:
        permit.leave(None)
    assert fairness.here().taken == 0


async def test_exactly_so_many_pass_at_once(place, organization):
    await limit(organization, hard=101)
    permits, refusals = await entered([call(organization) for _ in range(300)])

    assert (len(permits), len(refusals)) == (100, 200)
    again, _ = await entered([call(organization)])
    assert again == []


async def test_several_processes_together_let_no_more_pass(place, organization):
    await limit(organization, hard=501)
    processes = [Process() for _ in range(4)]
    passed = 0
    for _ in range(20):
        for process in processes:
            with process:
                passed += len((await entered([call(organization) for _ in range(10)]))[0])

    assert passed == 500 if place == "redis" else 475 <= passed <= 500


async def test_a_refusal_says_which_limit_and_when_to_come_again(place, organization):
    row = await limit(organization, hard=1, name="Nothing", period="3600")
    with pytest.raises(throttle.LimitReached) as refused:
        await throttle.enter(call(organization))

    error = refused.value
    assert (error.status, error.code, error.limit) == (429, "rate_limit_exceeded", "Nothing")
    assert 1 <= int(error.headers["Retry-After"]) <= 3600
    assert error.extra["limit"] == {
        "id": row.public_id,
        "name": "Nothing",
        "metric": "request_count",
        "value": 0,
        "window": "3600",
        "scope": ["organization_id"],
    }
    assert fairness.here().taken == 0


async def test_a_limit_for_life_asks_nobody_to_come_again(place, organization):
    await limit(organization, hard=1, period="")
    with pytest.raises(throttle.LimitReached) as refused:
        await throttle.enter(call(organization))

    assert refused.value.headers == {"x-should-retry": "false"}


async def test_customers_keys_models_and_endpoints_are_counted_apart(place, organization):
    await limit(organization, hard=3, compose=("customer_identifier", "model"), values={"model": "sandbox/echo"})
    calls = [call(organization, customer=customer) for customer in ("ann", "bob") for _ in range(5)]

    assert len((await entered(calls))[0]) == 4
    # Whoever is not named by the limit does not meet it, and another spelling of the model does.
    others = [call(organization), call(organization, customer="ann", model="sandbox/priced")]
    assert len((await entered(others))[0]) == 2
    assert (await entered([call(organization, customer="ann", model="sandbox/echo", key=9)]))[0] == []


async def test_each_key_by_itself(place, organization):
    await limit(organization, hard=2, compose=("api_key_id",))

    permits, _ = await entered([call(organization, key=key) for key in (1, 2, 3) for _ in range(3)])
    assert sorted(permit._call.caller.api_key_id for permit in permits) == [1, 2, 3]


async def test_one_endpoint(place, organization):
    await limit(organization, hard=1, compose=("endpoint",), values={"endpoint": "embeddings"})

    assert len((await entered([call(organization), call(organization, operation="embeddings")]))[1]) == 1


async def test_another_organization_is_not_counted(place, organization):
    other = await sync_to_async(make_organization)("Other")
    await limit(organization, hard=1)

    assert len((await entered([call(other), call(organization)]))[0]) == 1


async def test_what_is_refused_by_one_limit_is_not_counted_by_another(place, organization):
    await limit(organization, hard=6, name="Ten")
    await limit(organization, hard=2, compose=("customer_identifier",), priority=5)
    assert len((await entered([call(organization, customer="ann") for _ in range(9)]))[0]) == 1

    assert len((await entered([call(organization, customer=f"no {n}") for n in range(9)]))[0]) == 4


async def test_a_limit_that_the_request_brings_along(place, organization):
    permits, refusals = await entered([call(organization, customer="ann", rate=2) for _ in range(3)])
    assert (len(permits), refusals[0].extra["limit"]["name"]) == (2, "customer_params.rate_limit")

    [permit], _ = await entered([call(organization, rate=1)])
    assert "without a customer_identifier" in permit.warnings[0]


async def test_tokens_are_booked_when_a_call_is_over(place, organization):
    await limit(organization, "token_count", hard=1_000)
    (first, second), _ = await entered([call(organization), call(organization)])
    first.leave(Usage(input_tokens=300, output_tokens=200))
    await settled()
    assert len((await entered([call(organization)]))[0]) == 1
    second.leave(Usage(input_tokens=500))
    second.leave(Usage(input_tokens=500))
    await settled()

    _, [refusal] = await entered([call(organization)])
    assert refusal.extra["limit"]["value"] == 1_000
    with Process():
        assert (await entered([call(organization)]))[0] == []


async def test_a_call_without_usage_counts_about_its_input(place, organization):
    row = await limit(organization, "token_count", hard=1_000)
    [permit], _ = await entered([call(organization)])
    permit.leave(None)
    await settled()

    assert counting.here().known.popitem()[1].used == 100
    assert row.metric == limits.TOKENS


async def test_cost_is_booked_in_nano_usd_and_shown_in_usd(place, organization):
    await limit(organization, "cost", hard="0.000005")
    [permit], _ = await entered([call(organization)])
    permit.leave(Usage(input_tokens=1_000, output_tokens=2_000))  # 1 + 4 millionths of a dollar
    await settled()

    _, [refusal] = await entered([call(organization)])
    assert refusal.extra["limit"]["value"] == "0.000005"


async def test_calls_at_once_are_bounded_over_all_processes(place, organization):
    await limit(organization, "concurrency", hard=6)
    one, two = Process(), Process()
    with one:
        mine, _ = await entered([call(organization) for _ in range(3)])
    with two:
        yours, refusals = await entered([call(organization) for _ in range(9)])
    assert (len(mine), len(yours), len(refusals)) == (3, 2, 7)
    assert refusals[0].headers["Retry-After"] == "1"

    with one:
        for permit in mine:
            permit.leave(None)
        await settled()
    with two:
        assert len((await entered([call(organization) for _ in range(9)]))[0]) == 3
        yours[0].leave(None)
        assert len((await entered([call(organization)]))[0]) == 1


async def test_a_place_comes_back_however_often_it_is_taken(place, organization):
    await limit(organization, "concurrency", hard=4)

    async def one():
        permit = await throttle.enter(call(organization))
        await asyncio.sleep(0)
        permit.leave(None)

    for _ in range(30):
        await asyncio.gather(*(one() for _ in range(3)))
    await settled()
    assert len((await entered([call(organization) for _ in range(5)]))[0]) == 3


async def test_whoever_leaves_while_waiting_takes_no_place(place, organization):
    await limit(organization, "concurrency", hard=4)
    for _ in range(10):
        waiting = [asyncio.create_task(throttle.enter(call(organization))) for _ in range(3)]
        await asyncio.sleep(0)
        for each in waiting:
            each.cancel()
        for each in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(each, throttle.Permit):
                each.leave(None)
    await settled()

    assert fairness.here().taken == 0
    assert len((await entered([call(organization) for _ in range(5)]))[0]) == 3


async def test_a_soft_limit_warns_and_lets_pass(place, organization):
    await limit(organization, soft=3, name="Watch")
    permits = [(await entered([call(organization)]))[0][0] for _ in range(4)]

    assert [permit.limit for permit in permits] == [None, None, "Watch", "Watch"]
    assert permits[2].warnings == ("the soft limit “Watch” is reached: 3 requests a day",)


async def test_a_changed_limit_counts_on_and_another_one_begins_anew(place, organization):
    row = await limit(organization, hard=3)
    assert len((await entered([call(organization) for _ in range(5)]))[0]) == 2

    async def changed(**members):
        draft = await sync_to_async(limit_changes.draft_of)(row, **members)
        await sync_to_async(limit_changes.change)(row=row, draft=draft, actor=None, address=None)

    await changed(rules=[Rule(severity="hard", value=6)])
    assert len((await entered([call(organization) for _ in range(5)]))[0]) == 3
    await changed(rules=[Rule(severity="hard", value=6)], period="hour")
    assert len((await entered([call(organization) for _ in range(9)]))[0]) == 5
    await sync_to_async(limit_changes.remove)(row=row, actor=None, address=None)
    assert len((await entered([call(organization) for _ in range(9)]))[0]) == 9


async def test_while_the_store_is_away_a_process_allows_its_share(place, organization, settings):
    await limit(organization, hard=41)
    await limit(organization, "token_count", hard=1_000, name="Tokens")
    await limit(organization, "concurrency", hard=101, name="At once")
    await limits.of(organization.pk)
    settings.RESPAN_WEB_PROCESSES = 4
    here = counting.here()
    if place == "redis":
        settings.REDIS_URL = "redis://127.0.0.1:1/0"
    else:
        here.away_until = time.monotonic() + 60

    permits, refusals = await entered([call(organization) for _ in range(60)])
    assert (len(permits), {refusal.limit for refusal in refusals}) == (10, {"Ours"})
    begun = time.monotonic()
    await entered([call(organization) for _ in range(200)])
    assert time.monotonic() - begun < 5


async def test_whoever_comes_as_a_question_is_answered_asks_again_and_holds_nobody_up(place, organization, settings):
    """He must not wait for what is answered already: that never gives way, and the whole process would stand still."""
    await limit(organization, hard=41)
    await limits.of(organization.pk)
    settings.RESPAN_WEB_PROCESSES, settings.REDIS_URL = 4, ""
    counting.here().away_until = time.monotonic() + 60
    assert len((await entered([call(organization) for _ in range(10)]))[0]) == 10

    async def a_step_later():
        # Its first step runs after the one that answers the question of those who were there before.
        return await asyncio.create_task(throttle.enter(call(organization)))

    found = await asyncio.gather(
        throttle.enter(call(organization)), a_step_later(), a_step_later(), return_exceptions=True
    )
    assert [type(each) for each in found] == [throttle.LimitReached] * 3


async def test_what_is_not_booked_at_the_end_of_a_process_is_booked_then(place, organization):
    await limit(organization, "token_count", hard=1_000)
    [permit], _ = await entered([call(organization)])
    permit.leave(Usage(input_tokens=2_000))
    await throttle.close()

    assert (await entered([call(organization)]))[0] == []
