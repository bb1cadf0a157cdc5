"""POST /api/chat/completions from outside: what reaches the provider, what comes back, is logged, and is charged."""

import gzip
import json
import socket
import time
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from django.utils import timezone

from tests.servers import wait_until
from tests.stack import OWN_KEY, PLATFORM_KEY, call

HELLO = {"model": "sandbox/echo", "messages": [{"role": "user", "content": "Hello"}]}


def spans(tenant):
    """Return how many calls of a tenant were traced."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM traces_span WHERE organization_id = %s", [tenant.organization.pk])
        return cursor.fetchone()[0]


def holds(tenant):
    from billing.models import Hold

    return Hold.objects.filter(wallet_id=tenant.organization.pk).count()


# --- Addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/api", "", "/v1", "/api/v1"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_every_spelling_of_the_address_answers_without_a_redirect(tenant, prefix, slash):
    answer = tenant().post(HELLO, path=f"{prefix}/chat/completions{slash}")
    assert (answer.status, answer.json["choices"][0]["message"]["role"]) == (200, "assistant")


def test_an_unknown_address_is_a_json_404(stack):
    answer = stack.post({}, path="/api/chat/completion")
    assert (answer.status, answer.error["code"]) == (404, "not_found")


def test_a_wrong_method_is_a_json_405(stack):
    from tests.stack import call

    answer = call(f"{stack.base_url}/api/chat/completions")
    assert (answer.status, answer.error["code"], answer.headers["allow"]) == (
        405,
        "method_not_allowed",
        "POST, OPTIONS",
    )


# --- Keys -----------------------------------------------------------------------------------------------------------


def test_no_key_is_refused_and_not_logged(stack):
    answer = stack.post(HELLO)
    assert (answer.status, answer.error["code"]) == (401, "missing_api_key")
    assert "x-respan-log-id" not in answer.headers


def test_an_unknown_key_is_refused(tenant):
    one = tenant()
    answer = one.stack.post(HELLO, key=one.key[:-1] + ("a" if one.key[-1] != "a" else "b"))
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


def test_a_revoked_key_is_refused_within_five_seconds(tenant):
    from accounts import keys
    from accounts.models import ApiKey

    one = tenant()
    assert one.post(HELLO).status == 200
    api_key = ApiKey.objects.get(organization=one.organization)
    keys.revoke(api_key=api_key, actor=one.owner, now=timezone.now())

    revoked_at = time.monotonic()
    answer = wait_until(lambda: (found := one.post(HELLO)).status == 401 and found, timeout_s=10)
    assert time.monotonic() - revoked_at < 7
    assert answer.error["message"].startswith("This API key was revoked")


def test_an_expired_key_is_refused(tenant):
    from accounts import keys

    one = tenant()
    issued = keys.issue(
        organization=one.organization,
        name="old",
        environment="test",
        created_by=one.owner,
        expires_at=timezone.now() - timedelta(seconds=1),
    )
    answer = one.stack.post(HELLO, key=issued.secret)
    assert (answer.status, "expired" in answer.error["message"]) == (401, True)


def test_two_different_keys_are_refused(tenant):
    one, other = tenant(), tenant()
    answer = one.post(HELLO, x_api_key=other.key)
    assert (answer.status, answer.error["code"]) == (400, "conflicting_api_keys")


def test_the_key_may_come_in_x_api_key(tenant):
    one = tenant()
    assert one.stack.post(HELLO, x_api_key=one.key).status == 200


# --- Bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'"text"', None),
        (b"\xff\xfe{}", None),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": 7, "messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": "sandbox/echo"}', "messages"),
        (b'{"model": "sandbox/echo", "messages": []}', "messages"),
        (b'{"model": "sandbox/echo", "messages": ["x"]}', "messages[0]"),
        (b'{"model": "sandbox/echo", "messages": [{"content": "x"}]}', "messages[0].role"),
        (b'{"model": "sandbox/echo", "messages": [{"role": "user"}], "stream": "yes"}', "stream"),
        (b'{"model": "sandbox/echo", "messages": [{"role": "user"}], "max_tokens": 0}', "max_tokens"),
        (b'{"model": "sandbox/echo", "messages": [{"role": "user"}], "n": "2"}', "n"),
        (b'{"model": "sandbox/echo", "messages": [{"role": "user"}], "metadata": 1}', "metadata"),
        (b'{"model": "sandbox/echo", "messages": ' + b"[" * 100_000, None),
    ],
)
def test_a_body_that_cannot_be_understood_is_refused_by_name_and_logged(tenant, body, param):
    one = tenant()
    answer = one.post(body)
    assert (answer.status, answer.error["param"]) == (400, param)
    log = one.log(answer.log_id)
    assert (log["status"], log["status_code"], log["cost"]) == ("error", 400, 0)
    assert one.stack.provider.requests == []


def test_a_body_over_the_limit_is_refused_while_it_is_read(tenant):
    one = tenant()
    parts = urlsplit(one.stack.base_url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        head = f"POST /api/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {one.key}\r\n"
        connection.sendall(f"{head}Content-Length: {33 * 1024 * 1024}\r\n\r\n".encode())
        answer = b""
        while block := connection.recv(65536):
            answer += block
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b"request_too_large" in answer
    assert spans(one) == 0


def test_an_unknown_model_is_refused_with_close_names(tenant):
    one = tenant()
    answer = one.chat("sandbox/ecko")
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
    assert "sandbox/echo" in answer.error["message"]
    assert one.log(answer.log_id)["error_code"] == "model_not_found"


def test_a_model_nobody_pays_for_is_refused_saying_what_to_add(tenant):
    one = tenant(credits_usd="1")
    answer = one.chat("openai/gpt-4o-mini")
    assert (answer.status, answer.error["code"]) == (400, "no_credential")
    assert "provider key for openai" in answer.error["message"]
    assert holds(one) == 0


# --- Own keys -------------------------------------------------------------------------------------------------------


def test_an_own_key_call_reaches_the_provider_byte_for_byte_and_costs_nothing(tenant):
    one = tenant(local=True)
    body = (
        b'{ "messages":[{"role":"user","content":"caf\\u00e9  \xc3\xa9"}],'
        b'"unknown_beta" : {"b":1,"a":[ 2 ]}, "model":"fake:chunks=3"}'
    )
    from gateway.models import Credential

    Credential.objects.filter(organization=one.organization).update(allowed_models=["fake:chunks=3"])

    answer = one.post(body)

    assert answer.status == 200
    sent = one.stack.provider.last
    assert sent.body == body
    assert sent.headers["authorization"] == f"Bearer {OWN_KEY}"
    log = one.log(answer.log_id)
    assert (log["covered_by"], log["used_custom_credential"], log["charged_nano"]) == ("own_key", True, "0")
    assert (log["prompt_tokens"], log["completion_tokens"], log["usage_source"]) == (7, 3, "exact")
    assert one.entries() == 0


def test_the_answer_of_the_provider_comes_back_byte_for_byte(tenant):
    one = tenant(local=True)
    answer = one.chat("local/fake:chunks=3,flavour=mistral")
    direct = one.stack.provider
    from tests.stack import call

    same = call(f"{direct.base_url}/chat/completions", key="x", body=direct.last.body)
    assert answer.json["choices"] == same.json["choices"]
    assert set(answer.json) == set(same.json)


def test_only_the_model_changes_where_only_the_model_has_to(tenant):
    one = tenant(local=True)
    body = (
        b'{"temperature" : 0.70, "model":"local/fake:chunks=1",'
        b' "messages":[{"role":"user","content":"x"}], "z": [1 ,2]}'
    )
    assert one.post(body).status == 200
    sent = one.stack.provider.last.json
    assert sent == json.loads(body) | {"model": "fake:chunks=1"}
    assert b"0.70" in one.stack.provider.last.body
    assert b"[1 ,2]" in one.stack.provider.last.body


def test_nothing_of_the_client_but_its_body_reaches_the_provider(tenant):
    one = tenant(local=True)
    assert one.chat("local/fake:chunks=1").status == 200
    answer = one.post(
        {"model": "local/fake:chunks=1", "messages": [{"role": "user", "content": "x"}]},
        Cookie="a=b",
        X_Forwarded_For="1.2.3.4",
        X_Stainless_Retry_Count="1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    sent = one.stack.provider.last.headers
    allowed = {"host", "content-type", "content-length", "accept", "accept-encoding", "user-agent", "authorization"}
    assert set(sent) <= allowed
    assert one.key not in str(sent)
    assert one.log(answer.log_id)["trace_unique_id"] == "0af7651916cd43dd8448eb211c80319c"


def test_the_answer_carries_no_header_of_the_provider_that_is_not_allowed(tenant):
    one = tenant(local=True)
    answer = one.chat("local/fake:chunks=1,cookie")
    assert "set-cookie" not in answer.headers
    assert "openai-organization" not in answer.headers
    assert answer.headers["x-respan-upstream-request-id"].startswith("req_")


def test_respans_own_parameters_stay_here_and_act(tenant):
    one = tenant(local=True)
    answer = one.chat(
        "local/fake:chunks=1",
        customer_identifier="customer-1",
        metadata={"team": "blue"},
        thread_identifier="thread-1",
        respan_params={"custom_identifier": "mine"},
        positive_feedback=True,
    )
    assert set(one.stack.provider.last.json) == {"model", "messages"}
    log = one.log(answer.log_id)
    assert (log["customer_identifier"], log["custom_identifier"], log["thread_identifier"]) == (
        "customer-1",
        "mine",
        "thread-1",
    )
    assert log["metadata"] == {"team": "blue"}
    assert log["warnings"] == ["positive_feedback has no effect yet"]


def test_disable_log_keeps_the_figures_and_no_word(tenant):
    one = tenant(local=True)
    answer = one.post(
        {
            "model": "local/fake:chunks=2",
            "messages": [{"role": "user", "content": "secret-word-11"}],
            "disable_log": True,
        }
    )
    log = one.log(answer.log_id)
    assert (log["completion_tokens"], log["prompt_messages"], log["full_request"]) == (2, None, None)
    assert "secret-word-11" not in json.dumps(log)


def test_provider_keys_in_the_body_are_never_stored(tenant):
    one = tenant(local=True)
    answer = one.chat("local/fake:chunks=1", customer_credentials={"openai": {"api_key": "sk-canary-of-a-customer"}})
    assert answer.status == 200
    assert "sk-canary" not in json.dumps(one.log(answer.log_id))
    assert b"sk-canary" not in one.stack.provider.last.body


# --- Errors of the provider -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_a_providers_error_is_passed_on_with_its_status_and_message(tenant, status):
    one = tenant(local=True)
    answer = one.chat(f"local/fake:status={status}")
    assert (answer.status, answer.error["message"]) == (status, f"scripted {status}")
    log = one.log(answer.log_id)
    assert (log["status"], log["status_code"], log["error_message"]) == ("error", status, f"scripted {status}")


@pytest.mark.parametrize("shape", ["flat", "detail", "html"])
def test_an_error_in_another_shape_is_put_into_openais(tenant, shape):
    answer = tenant(local=True).chat(f"local/fake:status=500,error={shape}")
    assert answer.status == 500
    assert answer.error["code"] == "upstream_error"
    assert answer.error["message"]


def test_retry_after_is_passed_on(tenant):
    answer = tenant(local=True).chat("local/fake:status=429,retry_after=7")
    assert (answer.status, answer.headers["retry-after"]) == (429, "7")


def test_a_refusal_of_the_operators_key_is_not_the_callers(tenant):
    one = tenant(credits_usd="1")
    answer = one.chat("fake/refused")
    assert (answer.status, "scripted" in answer.body.decode()) == (502, False)
    assert PLATFORM_KEY not in answer.body.decode()
    log = one.log(answer.log_id)
    assert (log["cost"], one.balance.posted, one.balance.held) == (0, 10**9, 0)


def test_a_provider_that_never_answers_is_a_504(tenant):
    one = tenant(credits_usd="1")
    answer = one.chat("fake/silent")
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert one.log(answer.log_id)["cost"] == 0
    assert (one.balance.posted, one.balance.held) == (10**9, 0)


def test_a_provider_that_cannot_be_reached_is_a_502(tenant):
    from gateway.models import Credential

    one = tenant(local=True)
    Credential.objects.filter(organization=one.organization).update(base_url="http://127.0.0.1:1/v1")
    answer = one.chat("local/x")
    # The key was sealed for another origin: it does not even open.
    assert (answer.status, answer.error["code"]) == (503, "credential_unreadable")


@pytest.mark.parametrize("script", ["reset=head", "drop"])
def test_a_provider_that_hangs_up_is_a_502(tenant, script):
    answer = tenant(local=True).chat(f"local/fake:{script}")
    assert (answer.status, answer.error["code"]) == (502, "upstream_disconnected")


# --- Streams --------------------------------------------------------------------------------------------------------


def events(body):
    return [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]


def test_a_stream_comes_through_and_its_usage_is_logged_although_nobody_asked(tenant):
    one = tenant(local=True)
    answer = one.chat("local/fake:chunks=4", stream=True)
    assert answer.headers["content-type"] == "text/event-stream"
    found = events(answer.body)
    assert found[-1] == "[DONE]"
    assert all("usage" not in json.loads(event) for event in found[:-1])
    assert one.stack.provider.last.json["stream_options"] == {"include_usage": True}
    log = one.log(answer.log_id)
    assert (log["prompt_tokens"], log["completion_tokens"], log["usage_source"]) == (7, 4, "exact")
    assert log["time_to_first_token"] is not None
    assert log["completion_message"]["content"] == "word0 word1 word2 word3 "


def test_a_stream_with_usage_asked_for_comes_through_unchanged(tenant):
    from tests.stack import call

    one = tenant(local=True)
    answer = one.chat("local/fake:chunks=4", stream=True, stream_options={"include_usage": True})
    provider = one.stack.provider
    direct = call(f"{provider.base_url}/chat/completions", key="x", body=provider.last.body)
    assert answer.body.count(b"data: ") == direct.body.count(b"data: ")
    assert json.loads(events(answer.body)[-2])["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("script", ["cut=3", "reset=3", "cut_raw=3"])
def test_a_stream_that_ends_early_ends_with_an_error_and_without_done(tenant, script):
    one = tenant(local=True)
    answer = one.chat(f"local/fake:chunks=9,{script}", stream=True)
    found = events(answer.body)
    assert json.loads(found[-1])["error"]["code"] == "upstream_disconnected"
    assert "[DONE]" not in found
    log = one.log(answer.log_id)
    assert (log["status"], log["error_code"]) == ("error", "upstream_disconnected")


def test_a_stream_cut_short_on_credits_is_charged_what_was_delivered(tenant):
    one = tenant(credits_usd="1")
    answer = one.chat("fake/cut-mute", stream=True)
    log = one.log(answer.log_id)
    assert (log["usage_source"], log["completion_tokens"] > 0) == ("counted", True)
    assert one.balance.posted == 10**9 - int(log["cost_nano"])
    assert int(log["cost_nano"]) > 0


def leave(tenant, model, after):
    """Stream a call by hand and leave as soon as so many words have come; return its log id and when that was."""
    parts = urlsplit(tenant.stack.base_url)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        head = f"POST /api/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        received = b""
        while received.count(b"word") < after or b"\r\n\r\n" not in received:
            received += connection.recv(65536)
    return received.split(b"x-respan-log-id: ")[1].split(b"\r\n")[0].decode(), time.monotonic()


def test_a_client_that_leaves_cancels_the_provider_and_pays_for_what_it_got(tenant):
    one = tenant(credits_usd="1")
    log_id, left_at = leave(one, "fake/slow", after=5)

    log = one.log(log_id)

    request = one.stack.provider.last
    assert request.gone_at is not None
    assert request.gone_at - left_at < 5  # the answer would last 8 s
    assert (log["status"], log["usage_source"]) == ("aborted", "counted")
    assert 5 <= log["completion_tokens"] < 200
    assert (one.balance.posted, one.balance.held) == (10**9 - int(log["cost_nano"]), 0)


def test_a_client_that_leaves_before_the_first_word_pays_for_its_input(tenant):
    one = tenant(credits_usd="1")
    body = json.dumps({"model": "fake/pondering", "messages": [{"role": "user", "content": "Hi"}], "stream": True})
    with socket.create_connection(urlsplit(one.stack.base_url).netloc.split(":"), timeout=10) as connection:
        head = f"POST /api/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {one.key}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        wait_until(lambda: one.stack.provider.requests, what="the provider's head")
        time.sleep(0.5)  # the head is on its way, and nothing more for eight seconds

    address = f"{one.stack.base_url}/api/request-logs/list/"
    (row,) = wait_until(lambda: call(address, key=one.key).json["results"], what="the log")
    log = one.log(row["id"])

    assert (log["status"], log["completion_tokens"], log["prompt_tokens"] > 0) == ("aborted", 0, True)
    assert int(log["cost_nano"]) == log["prompt_tokens"] * 1_000
    assert (one.balance.posted, one.balance.held) == (10**9 - int(log["cost_nano"]), 0)


# --- Credits --------------------------------------------------------------------------------------------------------


def test_a_call_on_credits_moves_the_balance_by_exactly_the_cost_shown(tenant):
    one = tenant(credits_usd="1")
    answer = one.chat("fake/chat")
    log = one.log(answer.log_id)
    assert one.stack.provider.last.headers["authorization"] == f"Bearer {PLATFORM_KEY}"
    assert log["cost_nano"] == "17000"  # 7 input tokens at $1, 5 output tokens at $2 a million
    assert (one.balance.posted, one.balance.held) == (10**9 - 17_000, 0)


def test_a_provider_without_usage_is_counted(tenant):
    one = tenant(credits_usd="1")
    log = one.log(one.chat("fake/mute").log_id)
    assert (log["usage_source"], log["completion_tokens"] > 0, log["prompt_tokens"] > 0) == ("counted", True, True)
    assert one.balance.posted == 10**9 - int(log["cost_nano"])


def test_the_limit_that_is_held_is_the_limit_that_is_sent(tenant):
    one = tenant(credits_usd="1")
    assert one.chat("fake/chat").status == 200
    assert one.stack.provider.last.json["max_tokens"] == 4096


def test_a_clients_limit_is_sent_under_the_providers_name(tenant):
    one = tenant(credits_usd="1")
    assert one.chat("fake/chat", max_completion_tokens=3).status == 200
    sent = one.stack.provider.last.json
    assert (sent["max_tokens"], "max_completion_tokens" in sent) == (3, False)


def test_without_credits_the_refusal_says_what_is_needed_and_nothing_is_sent(tenant):
    one = tenant()
    answer = one.chat("fake/chat", max_tokens=100)
    assert (answer.status, answer.error["code"]) == (402, "insufficient_credits")
    assert (int(answer.error["needed_nano"]) > 0, answer.error["available_nano"]) == (True, "0")
    assert answer.error["affordable_max_tokens"] == 0
    assert one.stack.provider.requests == []
    log = one.log(answer.log_id)
    assert (log["status_code"], log["cost_nano"]) == (402, "0")
    assert (holds(one), one.entries()) == (0, 0)


def test_a_refusal_names_the_maximum_that_can_be_afforded(tenant):
    one = tenant(credits_usd="1")  # fake/dear: $2,000 a million output tokens
    answer = one.chat("fake/dear", max_tokens=600)
    affordable = answer.error["affordable_max_tokens"]
    assert (answer.status, 490 < affordable < 500) == (402, True)
    assert one.chat("fake/dear", max_tokens=affordable).status == 200


def test_without_a_limit_of_its_own_a_call_gets_what_can_be_afforded(tenant):
    one = tenant(credits_usd="1")
    answer = one.chat("fake/dear")
    assert answer.status == 200
    limit = int(answer.headers["x-respan-max-tokens"])
    assert (one.stack.provider.last.json["max_tokens"], 490 < limit < 500) == (limit, True)
    assert one.log(answer.log_id)["completion_tokens"] == limit
    assert one.balance.posted >= 0


def test_failed_calls_cost_nothing(tenant):
    one = tenant(credits_usd="1")
    for model in ("fake/broken", "fake/limited"):
        assert one.log(one.chat(model).log_id)["cost_nano"] == "0"
    assert (one.balance.posted, one.balance.held) == (10**9, 0)


def test_a_compressed_answer_to_us_is_never_passed_on_as_plain(tenant):
    answer = tenant(local=True).chat("local/fake:chunks=1,gzip")
    assert answer.status == 502
    assert not answer.body.startswith(gzip.compress(b"")[:2])


# --- Models ---------------------------------------------------------------------------------------------------------


def test_the_public_list_needs_no_key(stack):
    from tests.stack import call

    listed = call(f"{stack.base_url}/api/models/public/").json["models"]
    names = {model["model_name"] for model in listed}
    assert {"sandbox/echo", "sandbox/priced"} <= names
    assert call(f"{stack.base_url}/api/models/public?unnest=true").json == listed


def test_the_list_of_models_needs_a_key(stack):
    from tests.stack import call

    assert call(f"{stack.base_url}/api/models").status == 401
