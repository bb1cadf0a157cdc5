"""Decisions from the call to the log: what the gateway did about a provider's failures is what the log tells."""

import re

from accounts.models import Membership
from tests.conftest import PASSWORD

LOGS = "/platform/logs/"


def attempts_of(log):
    return [(each["reason"], each["status"], each["error"], each["skipped"]) for each in log["attempts"]]


def test_a_call_at_the_first_try_has_one_attempt_and_nothing_to_tell(tenant):
    one = tenant(local=True)
    log = one.log(one.chat("local/fake").log_id)
    assert attempts_of(log) == [("first", 200, None, False)]
    assert (log["fallback"], log["retries"], log["decision"]) == (0, 0, None)
    [attempt] = log["attempts"]
    assert attempt["credential_name"] == "local"
    assert (attempt["prompt_tokens"], attempt["completion_tokens"]) == (7, 5)
    assert re.fullmatch("[0-9a-f]{16}", attempt["span_id"])
    assert attempt["parent_span_id"] == log["span_unique_id"]


def test_a_stream_at_the_first_try_has_one_attempt(tenant):
    one = tenant(local=True)
    log = one.log(one.chat("local/fake", stream=True).log_id)
    assert attempts_of(log) == [("first", 200, None, False)]
    assert log["attempts"][0]["completion_tokens"] == 5


def test_a_retry_that_succeeds_is_told(tenant, client):
    one = tenant(local=True, retries=True)
    answer = one.chat(f"local/fake:times=1:status=503,{one.organization.public_id}")
    assert answer.status == 200
    log = one.log(answer.log_id)
    assert attempts_of(log) == [("first", 503, "upstream_error", False), ("retry", 200, None, False)]
    assert (log["fallback"], log["retries"]) == (0, 1)
    assert re.fullmatch(
        r"answered by retry 1 after 503, \d+ ms|answered by retry 1 after 503, [\d.]+ s", log["decision"]
    )
    first, second = log["attempts"]
    assert first["next"].startswith("retry after")
    assert first["span_id"] != second["span_id"]
    assert (first["completion_tokens"], second["completion_tokens"]) == (0, 5)
    client.login(email=one.owner.email, password=PASSWORD)
    assert answer.log_id in client.get(f"{LOGS}?decision=retried").content.decode()
    assert answer.log_id not in client.get(f"{LOGS}?decision=fallback").content.decode()


def test_a_fallback_that_answers_is_told_with_what_was_passed_over(tenant, client):
    one = tenant(local=True)
    answer = one.chat("local/fake:status=429", fallback_models=["no-such-model-anywhere", "local/fake"])
    assert answer.status == 200
    log = one.log(answer.log_id)
    tried = [each for each in log["attempts"] if not each["skipped"]]
    skipped = [each for each in log["attempts"] if each["skipped"]]
    assert [(each["reason"], each["status"]) for each in tried] == [("first", 429), ("fallback", 200)]
    assert [each["model"] for each in skipped] == ["no-such-model-anywhere"]
    assert skipped[0]["error"]
    assert (log["fallback"], log["retries"]) == (2, 1)
    assert re.match("answered by fallback 2 after 429, ", log["decision"])
    assert tried[0]["next"] == "fallback: 429"
    client.login(email=one.owner.email, password=PASSWORD)
    page = client.get(f"{LOGS}{answer.log_id}/").content.decode()
    assert "Answered by fallback 2 after 429, " in page
    assert "no-such-model-anywhere" in page
    assert answer.log_id in client.get(f"{LOGS}?decision=fallback").content.decode()
    assert Membership.objects.filter(organization=one.organization).count() == 1


def test_when_all_have_failed_every_attempt_is_told(tenant):
    one = tenant(local=True)
    answer = one.chat("local/fake:status=500", fallback_models=["local/fake:status=503", "local/fake:status=529"])
    assert answer.status >= 500
    log = one.log(answer.log_id)
    assert [each["status"] for each in log["attempts"]] == [500, 503, 529]
    assert (log["status"], log["fallback"], log["retries"]) == ("error", 0, 2)
    assert log["decision"] == "failed after 3 attempts: 500, 503, 529"
    assert sum(each["prompt_tokens"] for each in log["attempts"]) == 0
    assert one.balance.held == 0


def test_a_hit_is_told_with_its_savings_and_the_call_that_filled_it(tenant):
    one = tenant(credits_usd="1")
    first = one.chat("fake/chat", cache_enabled=True, max_tokens=50)
    second = one.chat("fake/chat", cache_enabled=True, max_tokens=50)
    assert (first.headers["x-respan-cache"], second.headers["x-respan-cache"]) == ("miss", "hit")
    filled, hit = one.log(first.log_id), one.log(second.log_id)
    assert (filled["cached"], filled["cache_miss_bit"]) == (False, 1)
    assert (hit["cached"], hit["cache_hit"], hit["cache_bit"], hit["cost"]) == (True, True, 1, 0)
    assert (hit["saved_nano"], hit["cache_key"]) == (filled["cost_nano"], filled["cache_key"])
    assert hit["cache_log_id"] == first.log_id
    assert hit["decision"] == "answered from the cache, $0.000017 saved"
    assert hit["attempts"] == []
