"""OpenAI's endpoints beside chat, from outside: with the real SDK, against a provider over real HTTP."""

import base64
import json
import struct

import pytest

from tests.servers import wait_until
from tests.stack import OWN_KEY, PLATFORM_KEY

VECTOR = [0.5, -0.25, 1e-05]
SOUND = ("a.mp3", b"ID3\x00\r\n\xff", "audio/mpeg")


# --- Embeddings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/embeddings", "/v1/embeddings/", "/api/v1/embeddings", "/embeddings"])
def test_embeddings_answer_at_every_address(tenant, path):
    one = tenant(local=True)
    answer = one.post({"model": "local/fake", "input": "Hello"}, path=path)
    assert (answer.status, answer.json["data"][0]["embedding"]) == (200, VECTOR)


def test_the_sdk_reads_vectors_it_asked_for_in_base64(tenant):
    one = tenant(local=True)
    found = one.client.embeddings.create(model="local/fake", input=["a", "b"])
    assert [item.embedding for item in found.data] == [pytest.approx(VECTOR)] * 2
    received = one.stack.provider.last
    assert (received.path, received.json["encoding_format"]) == ("/v1/embeddings", "base64")
    assert received.headers["authorization"] == f"Bearer {OWN_KEY}"


def test_vectors_in_base64_are_the_providers_own_bytes(tenant):
    one = tenant(local=True)
    answer = one.post({"model": "local/fake", "input": [1, 2], "encoding_format": "base64"}, path="/api/embeddings")
    packed = answer.json["data"][0]["embedding"]
    assert struct.unpack("<3f", base64.b64decode(packed)) == pytest.approx(VECTOR)


def test_the_body_reaches_the_provider_byte_for_byte_but_for_the_model(tenant):
    one = tenant(local=True)
    body = b'{"input": [ "a","b" ],  "dimensions":3, "model":"local/fake", "customer_identifier":"c1"}'
    assert one.post(body, path="/api/embeddings").status == 200
    assert one.stack.provider.last.body == b'{"input":[ "a","b" ],"dimensions":3,"model":"fake"}'


def test_embeddings_on_credits_cost_what_the_provider_reports(tenant):
    one = tenant(credits_usd="1")
    answer = one.post({"model": "fake/embedding", "input": "Hello there"}, path="/api/embeddings")
    assert answer.status == 200
    assert one.stack.provider.last.headers["authorization"] == f"Bearer {PLATFORM_KEY}"
    log = one.log(answer.log_id)
    assert (log["log_type"], log["prompt_tokens"], log["cost"]) == ("embedding", 7, pytest.approx(7 * 10 / 1e6))
    assert wait_until(lambda: (one.balance.posted, one.balance.held) == (1_000_000_000 - 70_000, 0))


def test_embeddings_without_credits_are_refused_before_the_provider(tenant):
    one = tenant()
    answer = one.post({"model": "fake/embedding", "input": "Hello"}, path="/api/embeddings")
    assert (answer.status, answer.error["code"]) == (402, "insufficient_credits")
    assert one.stack.provider.requests == []


def test_a_chat_model_makes_no_embeddings(tenant):
    answer = tenant(credits_usd="1").post({"model": "fake/chat", "input": "Hello"}, path="/api/embeddings")
    assert (answer.status, answer.error["code"]) == (400, "unsupported_endpoint")


def test_a_wrong_body_is_refused_in_openais_shape(tenant):
    answer = tenant(local=True).post({"model": "local/fake"}, path="/api/embeddings")
    assert (answer.status, answer.error["param"]) == (400, "input")


def test_a_providers_refusal_comes_through(tenant):
    one = tenant(local=True)
    answer = one.post({"model": "local/fake:status=429,retry_after=3", "input": "a"}, path="/api/embeddings")
    assert (answer.status, answer.headers["retry-after"], answer.error["code"]) == (429, "3", "scripted")


# --- Sound ----------------------------------------------------------------------------------------------------------


def test_speech_comes_as_the_providers_sound(tenant):
    one = tenant(local=True)
    with one.client.audio.speech.with_streaming_response.create(
        model="local/fake:interval=0.05", input="Hello", voice="alloy"
    ) as spoken:
        assert spoken.headers["content-type"] == "audio/mpeg"
        blocks = list(spoken.iter_bytes(400))
    assert (len(b"".join(blocks)), len(blocks) > 1) == (1_600, True)
    log = one.log(spoken.headers["x-respan-log-id"])
    assert (log["log_type"], log["status_code"]) == ("speech", 200)
    assert "xf" not in json.dumps([log["output"], log["full_response"]])


def test_speech_that_breaks_off_is_no_whole_answer(tenant):
    one = tenant(local=True)
    with pytest.raises(Exception, match=r"incomplete|closed|Connection"):  # noqa: PT011, RUF100
        one.client.audio.speech.create(model="local/fake:cut_raw=1", input="Hello", voice="alloy").read()


def test_speech_in_events_ends_with_its_usage(tenant):
    one = tenant(local=True)
    body = {"model": "local/fake", "input": "Hello", "voice": "alloy", "stream_format": "sse"}
    answer = one.post(body, path="/api/audio/speech")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.count(b"data: ") == 2
    assert one.log(answer.log_id)["completion_tokens"] == 30


@pytest.mark.parametrize("stream", [False, True])
def test_a_transcription_with_the_sdk(tenant, stream):
    one = tenant(local=True)
    heard = one.client.audio.transcriptions.create(
        model="local/fake", file=SOUND, stream=stream, extra_body={"customer_identifier": "c1"}
    )
    text = "".join(event.delta for event in heard if event.type.endswith("delta")) if stream else heard.text
    assert text == "Hello there"
    received = one.stack.provider.last
    assert (b'name="model"\r\n\r\nfake\r\n' in received.body, SOUND[1] in received.body) == (True, True)
    assert b"customer_identifier" not in received.body


def test_a_transcriptions_log_has_its_text_and_usage_but_no_sound(tenant):
    one = tenant(local=True)
    raw = one.client.audio.transcriptions.with_raw_response.create(model="local/fake", file=SOUND)
    log = one.log(raw.headers["x-respan-log-id"])
    assert (log["log_type"], log["prompt_tokens"], log["completion_tokens"]) == ("transcription", 14, 3)
    shown = json.dumps(log)
    assert ("a.mp3" in shown, "Hello there" in shown, "ID3" in shown) == (True, True, False)


def test_a_transcription_as_plain_text_stays_plain_text(tenant):
    one = tenant(local=True)
    assert (
        one.client.audio.transcriptions.create(model="local/fake", file=SOUND, response_format="text")
        == "Hello there\n"
    )


def test_the_documented_address_without_an_s_answers_too(tenant):
    one = tenant(local=True)
    body = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nlocal/fake\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'  # noqa: E501
    answer = one.post(body, path="/api/audio/transcription", content_type="multipart/form-data; boundary=b")
    assert (answer.status, answer.json["text"]) == (200, "Hello there")


# --- Pictures, moderations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_pictures_with_the_sdk(tenant, stream):
    one = tenant(local=True)
    drawn = one.client.images.generate(model="local/fake:huge=1500000", prompt="a cat", stream=stream)
    last = list(drawn)[-1] if stream else drawn
    picture = last.b64_json if stream else last.data[0].b64_json
    assert (len(picture), last.usage.output_tokens) == (2_000_008, 100)


def test_a_log_of_pictures_has_their_sizes(tenant):
    one = tenant(local=True)
    answer = one.post({"model": "local/fake", "prompt": "a cat"}, path="/api/images/generations")
    assert one.stack.provider.last.json["prompt"] == "a cat"
    assert one.log(answer.log_id)["warnings"] == []
    log = one.log(answer.log_id)
    assert (log["completion_tokens"], '"bytes"' in json.dumps(log).replace("\\", "")) == (100, True)


def test_moderations_with_the_sdk(tenant):
    one = tenant(local=True)
    assert one.client.moderations.create(model="local/fake", input=["a"]).results[0].flagged is False
    with pytest.raises(Exception, match="model is missing"):
        one.client.moderations.create(input="a")


@pytest.mark.parametrize("stream", [False, True])
def test_plain_completions_with_the_sdk(tenant, stream):
    one = tenant(local=True)
    raw = one.client.completions.with_raw_response.create(model="local/fake", prompt="Once", stream=stream)
    written = raw.parse()
    text = "".join(chunk.choices[0].text for chunk in written) if stream else written.choices[0].text
    assert text == "word0 word1 word2 word3 word4 "
    assert one.stack.provider.last.json["model"] == "fake"
    log = one.log(raw.headers["x-respan-log-id"])
    assert (log["log_type"], log["prompt_tokens"], log["completion_tokens"]) == ("completion", 7, 5)


def test_only_an_own_key_pays_for_what_is_not_sold_by_tokens(tenant):
    answer = tenant(credits_usd="1").post({"model": "sandbox/echo", "prompt": "a"}, path="/api/images/generations")
    assert answer.status == 400
