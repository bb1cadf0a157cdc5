"""Promises of `gateway.dialects.gemini_operations`: counting tokens and embeddings pass through."""

import json

import pytest

from billing.usage import Usage
from gateway.dialects import wire
from gateway.dialects.gemini_operations import OPERATIONS
from tests.gateway.dialects.gemini_cases import HELLO, Model, order

NAMED = wire.Named("mine", False)
TO = order(Model(upstream="gemini-embedding-001"))


def read(operation, **members):
    return OPERATIONS[operation].read(json.dumps(members).encode(), named=NAMED)


def test_an_untouched_request_is_the_identical_bytes():
    request = read("countTokens", contents=HELLO)
    sent = OPERATIONS["countTokens"].forward(request, TO)

    assert sent.body is request.body
    assert sent.path == "/models/gemini-embedding-001:countTokens"
    assert (request.model, request.input_bytes, request.stream) == ("mine", 5, False)


def test_the_model_has_its_providers_name_wherever_it_is_named():
    content = {"parts": [{"text": "abc"}]}
    batch = read("batchEmbedContents", requests=[{"model": "models/mine", "content": content, "taskType": "X"}] * 2)
    one = read("embedContent", model="models/mine", content=content)
    count = read("countTokens", generateContentRequest={"model": "models/mine", "contents": HELLO})

    name = "models/gemini-embedding-001"
    assert json.loads(OPERATIONS["batchEmbedContents"].forward(batch, TO).body) == {
        "requests": [{"model": name, "content": content, "taskType": "X"}] * 2
    }
    assert json.loads(OPERATIONS["embedContent"].forward(one, TO).body) == {"model": name, "content": content}
    assert json.loads(OPERATIONS["countTokens"].forward(count, TO).body)["generateContentRequest"]["model"] == name


def test_the_text_is_measured():
    batch = read("batchEmbedContents", requests=[{"content": {"parts": [{"text": "abc"}]}}] * 2)

    assert (batch.input_bytes, batch.message_count) == (6, 2)
    assert OPERATIONS["batchEmbedContents"].input_text(batch) == "abc\nabc"


def test_a_request_of_nothing_is_refused():
    with pytest.raises(wire.InvalidBody) as caught:
        read("embedContent")
    assert caught.value.param == "content"


def test_answers_tell_what_they_used():
    assert OPERATIONS["countTokens"].read_json(b'{"totalTokens":31}').usage == Usage()
    embedded = OPERATIONS["embedContent"].read_json(b'{"embedding":{},"usageMetadata":{"promptTokenCount":4}}')
    assert embedded.usage == Usage(input_tokens=4)
    assert OPERATIONS["embedContent"].read_json(b'{"embedding":{}}').usage is None
    assert OPERATIONS["embedContent"].read_json(b'{"error":{"code":400,"message":"No."}}').error == "No."
    assert OPERATIONS["embedContent"].read_json(b"<").error
