"""What happens when a provider fails, seen from outside: who is asked again, who takes over, who pays, what is told.

The rules by themselves are in `test_retrying.py` and `test_health.py`; sixteen ways to fail are drilled with real SDKs
in `tests/drills/test_failures.py`. Scripts of the providers: `tests/provider.py`.
"""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.stack import OWN_KEY, connect

NO_RETRIES = {"retry_enabled": False}
HEALTHY = "local/fake:chunks=4"
SAID = "word0 word1 word2 word3 "


def once(script, times=1):
    """Return a model of the custom provider whose first calls follow a script."""
    return f"local/fake:chunks=4,times={times}:{script};nonce={uuid.uuid4().hex}"


def asked(one, model):
    """Return the requests for a model the fake provider has got."""
    return [request for request in one.stack.provider.requests if request.json["model"] == model.partition("/")[2]]


def tried(log):
    return [attempt for attempt in log["attempts"] if not attempt["skipped"]]


def text(answer):
    return answer.json["choices"][0]["message"]["content"]


def at_once(calls):
    """Make calls at the same time; return their answers."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result() for future in [threads.submit(call) for call in calls]]


# --- Trying again ---------------------------------------------------------------------------------------------------


def test_a_short_retry_after_is_waited_for_at_the_same_target(tenant):
    one, model = tenant(local=True, retries=True), once("status=429;retry_after=1")
    answer = one.chat(model, fallback_models=[HEALTHY])
    log = one.log(answer.log_id)

    assert (answer.status, text(answer)) == (200, SAID)
    first, second = asked(one, model)
    assert second.at - first.at >= 0.99
    assert [attempt["status"] for attempt in tried(log)] == [429, 200]
    assert tried(log)[0]["next"].startswith("retry after 1.0 s")
    assert (log["fallback"], log["retries"], tried(log)[1]["reason"]) == (0, 1, "retry")


@pytest.mark.long
def test_ten_seconds_are_waited_for_too(tenant):
    one, model = tenant(local=True, retries=True), once("status=429;retry_after=10")
    answer = one.chat(model, fallback_models=[HEALTHY])
    first, second = asked(one, model)
    assert (answer.status, one.log(answer.log_id)["fallback"]) == (200, 0)
    assert second.at - first.at >= 9.99
    print(f"Retry-After 10 s: waited {second.at - first.at:.2f} s")


def test_an_hour_is_not_waited_for_but_another_asked_at_once(tenant):
    one, model = tenant(local=True, retries=True), "local/fake:status=429,retry_after=3600"
    answer = one.chat(model, fallback_models=[HEALTHY])
    log = one.log(answer.log_id)
    assert (answer.status, text(answer), log["fallback"]) == (200, SAID, 1)
    assert len(asked(one, model)) == 1
    assert tried(log)[0]["next"] == "fallback: 429"


def test_an_hour_without_another_target_is_told_at_once(tenant):
    one, model = tenant(local=True, retries=True), "local/fake:status=429,retry_after=3600"
    answer = one.chat(model)
    assert (answer.status, answer.headers["retry-after"]) == (429, "3600")
    assert answer.headers["x-should-retry"] == "false"
    assert len(asked(one, model)) == 1


@pytest.mark.parametrize("script", ["status=500", "status=503", "status=529", "empty", "status=500;shy"])
def test_what_passes_is_tried_again_at_the_only_target(tenant, script):
    one, model = tenant(local=True, retries=True), once(script)
    answer = one.chat(model)
    assert (answer.status, text(answer)) == (200, SAID)
    log = one.log(answer.log_id)
    assert (len(tried(log)), log["retries"], log["fallback"]) == (2, 1, 0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_will_not_pass_is_asked_once(tenant, status):
    one, model = tenant(local=True, retries=True), f"local/fake:status={status},nonce={uuid.uuid4().hex}"
    assert one.chat(model).status == status
    assert len(asked(one, model)) == 1


def test_a_request_that_is_at_fault_is_sent_to_nobody_else(tenant):
    one = tenant(local=True, retries=True)
    answer = one.chat("local/fake:status=400", fallback_models=[HEALTHY])
    assert answer.status == 400
    assert asked(one, HEALTHY) == []


def test_retries_can_be_switched_off(tenant):
    one, model = tenant(local=True, retries=True), once("status=500")
    assert one.chat(model, retry_params=NO_RETRIES).status == 500
    assert len(asked(one, model)) == 1


@pytest.mark.parametrize(
    "members",
    [
        {"retry_params": {"num_retries": 9, "retry_after": 0.01}},
        {"retry_params": NO_RETRIES, "fallback_models": [f"local/fake:status=500,n={n}" for n in range(5)]},
    ],
    ids=["retries", "fallbacks"],
)
def test_a_call_is_three_attempts_at_most(tenant, members):
    one = tenant(local=True, retries=True)
    answer = one.chat("local/fake:status=500,n=first", **members)
    assert answer.status == 500
    assert len(one.stack.provider.requests) <= 3
    assert answer.headers["x-should-retry"] == "false"


def test_retries_of_a_failing_provider_are_a_small_share_of_its_calls(tenant):
    one = tenant(local=True, retries=True)
    # Models of their own: no breaker ends the drill before the budget does.
    models = [f"local/fake:status=500,n={number}" for number in range(60)]
    answers = at_once([lambda model=model: one.chat(model) for model in models])
    assert {answer.status for answer in answers} == {500}
    # 120 retries were wanted. There are 20 in the purse at most, 6 earned, and 3 a second while it lasts.
    spent = len(one.stack.provider.requests) - len(models)
    lasted = one.stack.provider.requests[-1].at - one.stack.provider.requests[0].at
    assert spent <= 20 + 6 + 3 * (lasted + 1)


# --- Somebody else --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_fallback_of_another_dialect_answers_in_the_clients_own(tenant, stream):
    one = tenant(credits_usd="5")
    members = {"fallback_models": ["fake-anthropic/claude"], "retry_params": NO_RETRIES, "max_tokens": 100}
    answer = one.chat("fake/broken", stream=stream, **members)
    assert answer.status == 200
    said = answer.body.decode() if stream else text(answer)
    assert ("[DONE]" in said) if stream else (said == "You said: Hello there")
    assert one.log(answer.log_id)["fallback"] == 1


def test_fallbacks_can_be_switched_off(tenant):
    one = tenant(credits_usd="5")
    assert one.chat("fake/broken", disable_fallback=True, retry_params=NO_RETRIES).status == 500
    assert len(one.stack.provider.requests) == 1


def test_reasoning_of_the_first_model_is_not_shown_to_the_second(tenant):
    one = tenant(credits_usd="5")
    claude = one.stack.vendors.anthropic
    asking = {"role": "user", "content": "Hello"}
    budget = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}
    path = "/api/anthropic/v1/messages"
    first = one.post({"model": "fake-anthropic/claude-budget", "messages": [asking], **budget}, path=path)
    history = [asking, {"role": "assistant", "content": first.json["content"]}, {"role": "user", "content": "And?"}]
    assert first.json["content"][0]["type"] == "thinking"

    more = {"respan_params": {"fallback_models": ["fake-anthropic/claude-adaptive"], "retry_params": NO_RETRIES}}
    body = {"model": "fake-anthropic/claude-overloaded", "messages": history, "max_tokens": 2000, **more}
    answer = one.post(body, path=path)
    assert answer.status == 200, answer.body
    assert claude.last.json["model"].startswith("claude-adaptive")
    assert [block["type"] for block in claude.last.json["messages"][1]["content"]] == ["text"]
    assert one.log(answer.log_id)["fallback"] == 1

    # The same through another dialect of the client's.
    thought = {"type": "thinking", **{name: first.json["content"][0][name] for name in ("thinking", "signature")}}
    told = {"role": "assistant", "content": "You said: Hello", "thinking_blocks": [thought]}
    body = {"model": "fake-anthropic/claude-overloaded", "messages": [asking, told, history[2]], **more}
    assert one.post(body).status == 200
    assert [block["type"] for block in claude.last.json["messages"][1]["content"]] == ["text"]


def test_reasoning_that_any_member_of_a_group_may_have_made_is_shown_to_none(tenant):
    one = tenant(credits_usd="5")
    claude = one.stack.vendors.anthropic
    asking, path = {"role": "user", "content": "Hello"}, "/api/anthropic/v1/messages"
    budget = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}
    first = one.post({"model": "fake-anthropic/claude-budget", "messages": [asking], **budget}, path=path)
    history = [asking, {"role": "assistant", "content": first.json["content"]}, {"role": "user", "content": "And?"}]
    assert first.json["content"][0]["type"] == "thinking"

    def reached(*models):
        members = [{"model": f"fake-anthropic/{model}", "weight": 1} for model in models]
        body = {"model": "shared", "messages": history, "max_tokens": 2000}
        answer = one.post({**body, "respan_params": {"load_balance_models": members}}, path=path)
        assert answer.status == 200, answer.body
        return [block["type"] for block in claude.last.json["messages"][1]["content"]]

    assert all(reached("claude-budget", "claude-adaptive") == ["text"] for _ in range(6))
    assert reached("claude-budget") == ["thinking", "text"]


@pytest.mark.parametrize("carrier", ["body", "respan_params", "header"])
def test_models_without_a_model_are_asked_in_their_order(tenant, carrier):
    one = tenant(credits_usd="5")
    members = {"models": ["fake/broken", "fake/chat"], "retry_params": NO_RETRIES}
    body, headers = {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 50}, {}
    if carrier == "header":
        headers = {"X_Data_Respan_Params": json.dumps(members)}
    else:
        body |= members if carrier == "body" else {"respan_params": members}
    answer = one.post(body, **headers)
    log = one.log(answer.log_id)
    assert (answer.status, log["model"], log["fallback"]) == (200, "fake/broken", 1)
    assert [attempt["status"] for attempt in tried(log)] == [500, 200]
    sent = one.stack.provider.requests[-1].json
    assert sent["model"].startswith("fake:chunks=5")
    assert sent.keys() == {"model", "messages", "max_tokens"}


def test_a_group_needs_no_model_beside_it(tenant):
    one = tenant(credits_usd="5")
    body = {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 50}
    answer = one.post({**body, "load_balance_models": [{"model": "fake/chat", "weight": 1}]})
    assert answer.status == 200
    for nothing in ({}, {"models": []}, {"model": "", "models": []}):
        refused = one.post({**body, **nothing})
        assert (refused.status, refused.error["param"]) == (400, "model")
    assert len(one.stack.provider.requests) == 1


def test_what_only_the_first_account_knows_is_no_question_for_another(tenant):
    one = tenant()
    vendors = one.stack.vendors
    connect(one.organization, "openai", secret=OWN_KEY, base_url=vendors.openai.base_url)
    connect(one.organization, "anthropic", secret="sk-ant-own-1b7e", base_url=vendors.anthropic.base_url)
    asking = {"model": "openai/gpt:status=500", "input": "And?", "max_output_tokens": 100}
    more = {"respan_params": {"fallback_models": ["anthropic/claude"]}}
    answer = one.post({**asking, **more, "previous_response_id": "resp_1"}, path="/api/responses")
    assert answer.status == 500
    assert "previous_response_id" in answer.error["message"]
    assert vendors.anthropic.requests == []
    log = one.log(answer.log_id)
    [passed_over] = [attempt for attempt in log["attempts"] if attempt["skipped"]]
    why = "Anthropic cannot have previous_response_id: it is kept in the account that was asked first."
    assert (passed_over["provider"], passed_over["error"]) == ("anthropic", why)
    assert f"anthropic/claude was skipped: {why}" in answer.error["message"]
    assert "scripted 500" in answer.error["message"]

    answer = one.post({**asking, **more}, path="/api/responses")
    assert (answer.status, len(vendors.anthropic.requests)) == (200, 1)


def test_a_file_in_the_first_account_is_no_question_for_another(tenant):
    one = tenant(local=True)
    claude = one.stack.vendors.anthropic
    connect(one.organization, "anthropic", secret="sk-ant-own-1b7e", base_url=claude.base_url)
    place = {"X-Respan-Provider": "local"}
    document = ("contract.pdf", b"%PDF-1.7", "application/pdf")
    file = one.client.files.create(file=document, purpose="user_data", extra_headers=place)
    content = [{"type": "text", "text": "What does it say?"}, {"type": "file", "file": {"file_id": file.id}}]
    body = {"model": "local/fake:status=500", "messages": [{"role": "user", "content": content}]}

    answer = one.post({**body, "fallback_models": ["anthropic/claude"]})
    assert (answer.status, claude.requests) == (500, [])
    log = one.log(answer.log_id)
    [passed_over] = [attempt for attempt in log["attempts"] if attempt["skipped"]]
    why = "a file of the request is in the account of another provider key"
    assert passed_over["model"] == "anthropic/claude"
    assert why in passed_over["error"]
    for said in ("scripted 500", "anthropic/claude was skipped", why):
        assert said in answer.error["message"]


def test_a_fallback_list_that_cannot_serve_is_told_with_the_primarys_error(tenant):
    one = tenant(credits_usd="5")
    answer = one.chat("fake/broken", fallback_models=["fake/embedding", "no-such-model"], retry_params=NO_RETRIES)
    assert answer.status == 500
    message = answer.error["message"]
    assert "scripted 500" in message
    assert "fake/embedding" in message
    assert "no-such-model" in message
    assert len(one.stack.provider.requests) == 1
    log = one.log(answer.log_id)
    assert len(tried(log)) == 1
    passed_over = {attempt["model"]: attempt["error"] for attempt in log["attempts"] if attempt["skipped"]}
    assert passed_over.keys() == {"fake/embedding", "no-such-model"}
    assert all(why and why in message for why in passed_over.values())


def test_what_another_dialect_cannot_say_is_the_fallbacks_trouble_only(tenant):
    one = tenant(local=True)
    claude = one.stack.vendors.anthropic
    connect(one.organization, "anthropic", secret="sk-ant-own-1b7e", base_url=claude.base_url)
    message = {"role": "user", "content": [{"type": "hologram", "hologram": "x"}]}
    body = {"model": "local/fake:status=500", "messages": [message], "fallback_models": ["anthropic/claude"]}
    answer = one.post(body)
    assert (answer.status, claude.requests) == (500, [])
    assert "scripted 500" in answer.error["message"]
    assert "messages[0].content[0].type" in answer.error["message"]


def test_a_time_limit_holds_for_all_attempts_together(tenant):
    one = tenant(local=True)
    answer = one.chat("local/fake:first=30", timeout=1, fallback_models=["local/fake:first=31"])
    log = one.log(answer.log_id)
    assert (answer.status, log["error_code"]) == (504, "upstream_timeout")
    assert sum(attempt["duration_us"] for attempt in tried(log)) < 2_500_000  # the installation's own limit is 3 s


def test_a_time_limit_for_the_first_token_leaves_time_for_another(tenant):
    one = tenant(local=True)
    answer = one.chat("local/fake:first=30", first_token_timeout=1, fallback_models=[HEALTHY], stream=True)
    assert (answer.status, one.log(answer.log_id)["fallback"]) == (200, 1)


# --- Breakers -------------------------------------------------------------------------------------------------------


def test_one_organizations_limited_key_is_no_trouble_for_another(tenant):
    limited, other = tenant(retries=True), tenant(local=True)
    connect(limited.organization, "custom", secret="sk-a:status=429", base_url=limited.stack.provider.base_url)
    model = f"local/shared-{uuid.uuid4().hex}"
    calls = [lambda: limited.chat(model, retry_params=NO_RETRIES), lambda: other.chat(model)] * 15
    answers = at_once(calls) + at_once(calls)
    assert {answer.status for answer in answers[0::2]} <= {429, 503}
    assert {answer.status for answer in answers[1::2]} == {200}

    before = len(other.stack.provider.requests)
    refused = limited.chat(model)
    assert (refused.status, refused.error["code"]) == (503, "upstream_unavailable")
    assert refused.headers["x-should-retry"] == "false"
    assert 1 <= int(refused.headers["retry-after"]) <= 15
    assert len(other.stack.provider.requests) == before
    assert other.chat(model).status == 200
    log = limited.log(refused.log_id)
    assert (tried(log), len(log["attempts"])) == ([], 1)
    assert "breaker" in log["attempts"][0]["error"] or "failed too often" in log["attempts"][0]["error"]


def test_an_open_breaker_lets_the_fallback_answer_without_asking(tenant):
    one, model = tenant(local=True), f"local/fake:status=503,n={uuid.uuid4().hex}"
    at_once([lambda: one.chat(model, retry_params=NO_RETRIES)] * 20)
    before = len(asked(one, model))
    answer = one.chat(model, fallback_models=[HEALTHY])
    assert (answer.status, text(answer)) == (200, SAID)
    assert len(asked(one, model)) == before


@pytest.mark.long
def test_a_breaker_closes_again_when_the_target_answers(tenant):
    import time

    one, model = tenant(local=True), once("status=503", times=20)
    at_once([lambda: one.chat(model, retry_params=NO_RETRIES)] * 20)
    assert one.chat(model).status == 503
    assert len(asked(one, model)) == 20
    time.sleep(15.5)
    assert {one.chat(model).status for _ in range(6)} == {200}
    assert len(asked(one, model)) == 26


# --- Who pays -------------------------------------------------------------------------------------------------------


def settled(one):
    """Wait until no hold of an organization is open; return how many it had."""
    from billing.models import Hold
    from tests.servers import wait_until

    mine = Hold.objects.filter(wallet_id=one.organization.pk)
    wait_until(lambda: not mine.filter(state="open").exists(), timeout_s=20, what="the holds to be resolved")
    return mine.count()


def test_only_the_attempt_that_answered_is_charged(tenant):
    one = tenant(credits_usd="5")
    granted, entries = one.balance.posted, one.entries()
    answer = one.chat("fake/broken", fallback_models=["fake/chat"], retry_params=NO_RETRIES, max_tokens=50)
    log = one.log(answer.log_id)
    settled(one)
    # 7 tokens in at $1, 5 out at $2 a million.
    assert (answer.status, granted - one.balance.posted, one.entries() - entries) == (200, 7 * 1_000 + 5 * 2_000, 1)
    assert [attempt["cost"] for attempt in tried(log)] == [0.0, pytest.approx(0.000017)]
    assert one.balance.held == 0


def test_the_dearest_candidate_is_held_and_what_failed_is_released(tenant):
    one = tenant(credits_usd="5")
    granted, entries = one.balance.posted, one.entries()
    members = {"fallback_models": ["fake/limited", "fake/refused"], "retry_params": NO_RETRIES, "max_tokens": 50}
    answer = one.chat("fake/broken", **members)
    one.log(answer.log_id)
    settled(one)
    assert answer.status == 500
    assert (one.balance.posted, one.balance.held, one.entries()) == (granted, 0, entries)


def test_a_fallback_that_cannot_be_paid_is_passed_over(tenant):
    one = tenant(credits_usd="0.01")
    answer = one.chat(
        "fake/broken", fallback_models=["fake/dear", "fake/chat"], retry_params=NO_RETRIES, max_tokens=500
    )
    assert answer.status == 200
    log = one.log(answer.log_id)
    settled(one)
    assert [attempt["model"] for attempt in log["attempts"] if attempt["skipped"]] == ["fake:chunks=900"]
    assert one.balance.posted > 0


def test_own_keys_fall_back_to_each_other_at_no_cost(tenant):
    one = tenant(local=True)
    answer = one.chat("local/fake:status=500", fallback_models=[HEALTHY], retry_params=NO_RETRIES)
    log = one.log(answer.log_id)
    assert (answer.status, log["cost"] or 0, one.entries()) == (200, 0, 0)
    assert OWN_KEY not in str(log)
