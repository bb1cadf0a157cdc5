"""The breakdown a caller asks for: one more member of an answer, one more chunk of a stream, exact and without keys."""

import json
from decimal import Decimal

import pytest

from gateway import breakdown
from tests.stack import OWN_KEY, PLATFORM_KEY

FIGURES = {"cost": Decimal("0.000000007"), "model": "m", "completion_message": None}


# --- Pure -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": 1,  "b":\n[2]}', b'{"a": 1,  "b":\n[2],"request_breakdown":{"cost":0.1}}'),
        (b"{}", b'{"request_breakdown":{"cost":0.1}}'),
        (b"{ \n}", b'{ \n"request_breakdown":{"cost":0.1}}'),
        (b' {"a":{}} \n', b' {"a":{},"request_breakdown":{"cost":0.1}} \n'),
        (b"", b""),
        (b"[1]", b"[1]"),
        (b"text}", b"text}"),
        (b'{"cut":', b'{"cut":'),
    ],
)
def test_a_whole_answer_gains_one_member_and_keeps_its_other_bytes(body, expected):
    assert breakdown.in_whole(body, {"cost": Decimal("0.1")}) == expected


def test_amounts_are_numbers_with_all_their_digits():
    told = json.loads(breakdown.in_whole(b"{}", FIGURES), parse_float=Decimal)
    assert told["request_breakdown"]["cost"] == Decimal("0.000000007")


def test_the_event_has_the_documented_shape():
    event = breakdown.event(FIGURES | {"completion_message": {"role": "assistant", "content": "Hi"}})
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    chunk = json.loads(event.removeprefix(b"data: "))
    assert (chunk["id"], chunk["model"], chunk["object"]) == (
        "request_breakdown",
        "extra_parameter",
        "chat.completion.chunk",
    )
    [choice] = chunk["choices"]
    assert choice["delta"] == {"content": None, "role": "assistant"}
    assert (choice["finish_reason"], choice["index"]) == ("stop", 0)
    assert choice["message"] == {"role": "assistant", "content": "Hi"}
    assert choice["request_breakdown"]["model"] == "m"
    assert chunk["usage"] == {}


def test_it_stands_before_the_end_of_a_stream_or_nowhere():
    last = b'data: {"x":1}\n\ndata: [DONE]\n\n'
    told = breakdown.in_events(last, FIGURES)
    assert told.startswith(b'data: {"x":1}\n\ndata: {"id":"request_breakdown"')
    assert told.endswith(b"}\n\ndata: [DONE]\n\n")
    for broken in (b"", b"E]\n\n", b'data: {"x":1}\n\n'):
        assert breakdown.in_events(broken, FIGURES) == broken


# --- In answers -------------------------------------------------------------------------------------------------------


def test_a_whole_answer_tells_what_it_came_to(tenant):
    one = tenant(credits_usd="1")
    asked = {"metadata": {"team": "red"}, "max_tokens": 50}
    plain = one.chat("fake/chat", **asked).json
    told = one.chat("fake/chat", **asked, request_breakdown=True).json
    found = told.pop("request_breakdown")
    assert told.keys() == plain.keys()
    assert (found["prompt_tokens"], found["completion_tokens"]) == (7, 5)
    assert Decimal(str(found["cost"])) == Decimal("0.000017")
    assert (found["cached"], found["stream"], found["status_code"]) == (False, False, 200)
    assert (found["fallback"], found["retries"], found["provider_id"]) == (0, 0, "fake")
    assert found["completion_message"] == told["choices"][0]["message"]
    assert found["prompt_messages"] == [{"role": "user", "content": "Hello there"}]
    assert found["metadata"] == {"team": "red"}
    assert 0 < found["latency"] < 60
    log = one.log(found["log_id"])
    assert (log["cost_nano"], log["prompt_tokens"]) == ("17000", 7)
    assert "request_breakdown" not in log["full_response"]
    assert PLATFORM_KEY not in json.dumps(found)


def test_nobody_is_told_who_did_not_ask(tenant):
    one = tenant(local=True)
    answer = one.chat("local/fake")
    assert b"request_breakdown" not in answer.body
    assert b"request_breakdown" not in one.chat("local/fake", stream=True).body
    assert b"request_breakdown" not in one.chat("local/fake", request_breakdown=False).body
    assert not any(b"request_breakdown" in each.body for each in one.stack.provider.requests)


def test_a_stream_ends_with_one_chunk_more_that_the_sdk_can_read(tenant):
    one = tenant(local=True)
    answer = one.chat("local/fake:chunks=3", stream=True, respan_params={"request_breakdown": True})
    *events, done = [each for each in answer.body.decode().split("\n\n") if each]
    assert done == "data: [DONE]"
    chunk = json.loads(events[-1].removeprefix("data: "))
    found = chunk["choices"][0]["request_breakdown"]
    assert chunk["id"] == "request_breakdown"
    assert (found["stream"], found["completion_tokens"]) == (True, 3)
    assert found["time_to_first_token"] > 0
    assert OWN_KEY not in answer.body.decode()
    stream = one.client.chat.completions.create(
        model="local/fake:chunks=3",
        messages=[{"role": "user", "content": "Hello"}],
        stream=True,
        extra_body={"request_breakdown": True},
    )
    chunks = list(stream)
    assert "".join(each.choices[0].delta.content or "" for each in chunks if each.choices).startswith("word0")
    assert chunks[-1].id == "request_breakdown"


def test_a_fallback_is_told_in_the_answer(tenant):
    one = tenant(local=True)
    found = one.chat("local/fake:status=500", fallback_models=["local/fake"], request_breakdown=True).json
    assert (found["request_breakdown"]["fallback"], found["request_breakdown"]["retries"]) == (1, 1)


def test_a_responses_answer_gains_it_and_its_stream_does_not(tenant):
    one = tenant(local=True)
    body = {"model": "local/fake", "input": "Hello", "request_breakdown": True}
    whole = one.post(body, path="/api/responses")
    assert whole.status == 200
    assert whole.json["request_breakdown"]["completion_tokens"] == 5
    stream = one.post({**body, "stream": True}, path="/api/responses")
    assert (stream.status, b"request_breakdown" in stream.body) == (200, False)


def test_an_answer_of_the_cache_costs_nothing_and_keeps_no_breakdown_of_another_call(tenant):
    one = tenant(local=True)
    asked = {"model": "local/fake", "messages": [{"role": "user", "content": "Once"}], "cache_enabled": True}
    first = one.post({**asked, "request_breakdown": True})
    second = one.post({**asked, "request_breakdown": True})
    third = one.post(asked)
    assert [each.headers["x-respan-cache"] for each in (first, second, third)] == ["miss", "hit", "hit"]
    found = second.json["request_breakdown"]
    assert (found["cached"], found["cost"], found["log_id"]) == (True, 0, second.log_id)
    assert b"request_breakdown" not in third.body
    stream = one.post({**asked, "stream": True, "request_breakdown": True})
    assert stream.headers["x-respan-cache"] == "hit"
    assert stream.body.count(b'"request_breakdown":{') == 1
    assert stream.body.endswith(b"data: [DONE]\n\n")
