"""The cache from outside: one upstream call for the same question, nothing paid for a hit, nothing kept unduly."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.models import CachedAnswer, CallSettings
from tests.servers import wait_until

ON = {"cache_enabled": True}


def entries(tenant):
    """Return how many answers are kept of a tenant, those that are being fetched too."""
    return CachedAnswer.objects.filter(organization=tenant.organization).count()


def cached(answer):
    return answer.headers.get("x-respan-cache")


def kept(tenant, number=1):
    wait_until(
        lambda: CachedAnswer.objects.filter(organization=tenant.organization, body__isnull=False).count() == number,
        what="the answers are kept",
    )


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_second_call_is_a_hit_that_costs_nothing_even_at_balance_zero(tenant, stack, stream):
    asker = tenant(credits_usd="0.001")
    first = asker.chat("fake/chat", stream=stream, max_tokens=20, **ON)
    assert (first.status, cached(first)) == (200, "miss")
    kept(asker)
    cost = asker.log(first.log_id)["cost"]
    wait_until(lambda: asker.balance.held == 0, what="the first call is settled")
    posted, booked = asker.balance.posted, asker.entries()
    second = asker.chat("fake/chat", stream=stream, max_tokens=20, **ON)
    assert (second.status, cached(second)) == (200, "hit")
    assert second.body == first.body
    assert int(second.headers["age"]) >= 0
    assert len(stack.provider.requests) == 1
    log = asker.log(second.log_id)
    assert (log["cached"], log["cost"], log["response_model"]) == (True, 0, "respan/cache")
    assert log["saved"] == cost > 0
    assert (asker.balance.posted, asker.balance.held, asker.entries()) == (posted, 0, booked)


def test_a_tenant_without_credits_gets_a_hit_of_his_own_answer_only(tenant, stack):
    rich, poor = tenant(credits_usd="1"), tenant()
    assert cached(rich.chat("fake/chat", **ON)) == "miss"
    kept(rich)
    assert poor.chat("fake/chat", **ON).status == 402
    wait_until(lambda: entries(poor) == 0, what="nothing is kept of a refused call")


def test_two_tenants_with_the_same_question_get_their_own_answers(tenant, stack):
    one, two = tenant(local=True), tenant(local=True)
    assert cached(one.chat("local/fake:chunks=3", **ON)) == "miss"
    assert cached(two.chat("local/fake:chunks=3", **ON)) == "miss"
    assert len(stack.provider.requests) == 2
    assert cached(one.chat("local/fake:chunks=3", **ON)) == "hit"


def test_the_organization_may_ask_for_all_its_calls(tenant, stack):
    asker = tenant(local=True)
    CallSettings.objects.update_or_create(
        organization=asker.organization, defaults={"cache_enabled": True, "cache_omit_log": True}
    )
    assert cached(asker.chat("local/fake")) == "miss"
    hit = asker.chat("local/fake")
    assert cached(hit) == "hit"
    assert cached(asker.chat("local/fake", cache_enabled=False)) is None
    assert (
        asker.post(
            {"model": "local/fake", "messages": [{"role": "user", "content": "Hello there"}]}, Cache_Control="no-store"
        ).headers.get("x-respan-cache")
        is None
    )


@pytest.mark.parametrize("script", ["cut=3", "fail=2", "shy,status=400", "status=500", "junk"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_does_not_end_well_is_not_kept(tenant, script, stream):
    if script in {"cut=3", "fail=2"} and not stream:
        script = "status=429"
    asker = tenant(local=True)
    for _ in range(2):
        answer = asker.chat(f"local/fake:{script}", stream=stream, **ON)
        assert cached(answer) != "hit"
    wait_until(lambda: entries(asker) == 0, what="nothing is kept")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_stampede_is_one_upstream_call(tenant, stack, stream):
    asker = tenant(local=True)

    def ask(number):
        return asker.chat("local/fake:chunks=20,interval=0.02", stream=stream, **ON)

    with ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(ask, range(100)))
    assert [answer.status for answer in answers] == [200] * 100
    assert len({answer.body for answer in answers}) == 1
    assert sorted(map(cached, answers)) == ["hit"] * 99 + ["miss"]
    assert len(stack.provider.requests) == 1


@pytest.mark.long
def test_a_thousand_at_once_are_one_upstream_call(tenant, stack):
    asker = tenant(local=True)
    with ThreadPoolExecutor(200) as threads:
        answers = list(
            threads.map(lambda _: asker.chat("local/fake:chunks=50,interval=0.1", stream=True, **ON), range(1_000))
        )
    assert [answer.status for answer in answers] == [200] * 1_000
    print(f"1,000 calls, {len(stack.provider.requests)} upstream")
    assert len(stack.provider.requests) == 1


def test_embeddings_are_kept_and_speech_is_not(tenant, stack):
    asker = tenant(local=True)
    for _ in range(2):
        embedded = asker.post({"model": "local/fake", "input": "Hello", **ON}, path="/api/embeddings")
        spoken = asker.post({"model": "local/fake", "input": "Hello", "voice": "alloy", **ON}, path="/api/audio/speech")
    assert (embedded.status, cached(embedded)) == (200, "hit")
    assert (spoken.status, cached(spoken)) == (200, None)


def test_keys_without_retention_keep_nothing(tenant, stack):
    from accounts.models import ApiKey

    asker = tenant(local=True)
    ApiKey.objects.filter(organization=asker.organization).update(zero_retention=True)
    for _ in range(2):
        assert cached(asker.chat("local/fake", **ON)) is None
    assert len(stack.provider.requests) == 2
    assert entries(asker) == 0


def test_a_hit_says_in_its_log_which_call_was_answered_first(tenant):
    asker = tenant(local=True)
    first = asker.chat("local/fake", **ON)
    kept(asker)
    again = asker.chat("local/fake", **ON)
    log = asker.log(again.log_id)
    (row,) = CachedAnswer.objects.filter(organization=asker.organization)
    assert (log["cache_key"], log["cache_log_id"]) == (row.public_key, first.log_id)
    assert json.loads(log["output"])
