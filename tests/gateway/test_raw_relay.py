"""/api/{provider}/v1/chat/completions from outside: byte for byte to one provider, with an own key, and traced."""

import json

import pytest

from tests.stack import OWN_KEY

PATH = "/api/local/v1/chat/completions"
HELLO = (
    b'{"model": "fake:chunks=3",  "messages":[{"role":"user","content":"Hello"}] , "max_tokens":9,"metadata":{"a":"b"}}'
)


def test_the_body_goes_on_byte_for_byte(tenant):
    one = tenant(local=True)
    answer = one.post(HELLO, path=PATH)
    assert (answer.status, answer.json["choices"][0]["message"]["content"]) == (200, "word0 word1 word2 ")
    received = one.stack.provider.last
    assert (received.body, received.path) == (HELLO, "/v1/chat/completions")
    assert received.headers["authorization"] == f"Bearer {OWN_KEY}"


def test_only_respans_carriers_are_taken_out(tenant):
    one = tenant(local=True)
    body = {"model": "fake", "messages": [{"role": "user", "content": "a"}], "customer_identifier": "kept"}
    answer = one.post(body | {"respan_params": {"customer_identifier": "c1"}}, path=PATH)
    assert one.stack.provider.last.json == body
    assert one.log(answer.log_id)["customer_identifier"] == "c1"


def test_a_literal_extra_body_is_merged(tenant):
    one = tenant(local=True)
    body = {"model": "fake", "messages": [{"role": "user", "content": "a"}], "top_k": 1}
    extra = {"top_k": 5, "respan_params": {"customer_identifier": "c2"}}
    answer = one.post(body | {"extra_body": extra}, path=PATH)
    assert one.stack.provider.last.json == body | {"top_k": 5}
    assert one.log(answer.log_id)["customer_identifier"] == "c2"
    refused = one.post(body | {"extra_body": "no"}, path=PATH)
    assert (refused.status, refused.error["param"]) == (400, "extra_body")


def test_a_stream_is_passed_on_with_what_was_asked_for_and_nothing_more(tenant):
    one = tenant(local=True)
    body = {"model": "fake", "messages": [{"role": "user", "content": "a"}], "stream": True}
    answer = one.post(body, path=PATH)
    assert one.stack.provider.last.json == body
    assert answer.body.endswith(b"data: [DONE]\n\n")
    with_usage = one.post(body | {"stream_options": {"include_usage": True}}, path=PATH)
    assert one.log(with_usage.log_id)["completion_tokens"] == 5


def test_the_call_is_traced_and_free_of_charge(tenant):
    one = tenant(local=True)
    answer = one.post(HELLO, path=PATH)
    log = one.log(answer.log_id)
    assert (log["prompt_tokens"], log["completion_tokens"], one.entries()) == (7, 3, 0)
    assert answer.headers["x-respan-upstream-request-id"].startswith("req_")


def test_only_listed_headers_reach_the_provider(tenant):
    one = tenant(local=True)
    one.post(HELLO, path=PATH, accept="application/json", accept_language="de", user_agent="client/1", cookie="a=b",
             x_custom_feature="on", x_custom_api_key="secret", x_other="no", openai_organization="org")  # fmt: skip
    received = one.stack.provider.last.headers
    assert (received["accept-language"], received["user-agent"]) == ("de", "client/1")
    assert received["x-custom-feature"] == "on"
    assert not {"cookie", "x-custom-api-key", "x-other", "openai-organization"} & received.keys()


def test_a_header_that_cannot_be_sent_is_left_out(tenant):
    one = tenant(local=True)
    assert one.post(HELLO, path=PATH, accept_language="fr-é").status == 200
    assert "accept-language" not in one.stack.provider.last.headers


def test_keys_in_the_body_stay_out_of_the_log(tenant):
    one = tenant(local=True)
    body = {"model": "fake", "messages": [{"role": "user", "content": "a"}]}
    answer = one.post(body | {"customer_credentials": {"openai": {"api_key": "sk-of-a-customer"}}}, path=PATH)
    assert "sk-of-a-customer" not in json.dumps(one.log(answer.log_id))


@pytest.mark.parametrize("name", ["nobody", "custom", "sandbox"])
def test_an_unknown_provider_is_a_404(tenant, name):
    answer = tenant(local=True).post(HELLO, path=f"/api/{name}/v1/chat/completions")
    assert (answer.status, answer.error["code"]) == (404, "provider_not_found")


def test_a_provider_without_a_key_is_a_400_even_with_credits(tenant):
    one = tenant(credits_usd="1")
    answer = one.post(HELLO, path="/api/fake/v1/chat/completions")
    assert (answer.status, answer.error["code"]) == (400, "no_credential")
    assert one.stack.provider.requests == []


def test_a_key_may_come_with_the_request_and_is_kept_nowhere(tenant):
    one = tenant()
    answer = one.post(HELLO, path="/api/fake/v1/chat/completions", x_fake_api_key="sk-of-the-request-1234567890")
    assert answer.status == 200
    received = one.stack.provider.last
    assert received.headers["authorization"] == "Bearer sk-of-the-request-1234567890"
    assert "x-fake-api-key" not in received.headers
    assert "sk-of-the-request" not in json.dumps(one.log(answer.log_id))


def test_the_providers_own_prefix_is_taken_off_a_model(tenant):
    one = tenant()
    body = {"model": "fake/vendor/model", "messages": [{"role": "user", "content": "a"}]}
    one.post(body, path="/api/fake/v1/chat/completions", x_fake_api_key="sk-1234567890123456")
    assert one.stack.provider.last.json["model"] == "vendor/model"


def test_a_refusal_is_the_providers_own(tenant):
    one = tenant(local=True)
    body = {"model": "fake:status=429,retry_after=4", "messages": [{"role": "user", "content": "a"}]}
    answer = one.post(body, path=PATH)
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, "scripted", "4")
