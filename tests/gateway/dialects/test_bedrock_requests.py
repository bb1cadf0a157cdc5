"""Promises of `bedrock_encode` for any request at all, with botocore's own model of the API as the judge."""

import base64
import json
import re
from itertools import pairwise
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings

from gateway.dialects import bedrock_encode, blocks
from tests.gateway.dialects.any_request import orders, requests

botocore_session = pytest.importorskip("botocore.session")


@pytest.fixture(scope="module")
def shape():
    model = botocore_session.get_session().get_service_model("bedrock-runtime")
    return model.operation_model("Converse").input_shape


def assert_fits(shape, value, where=""):
    """Assert that JSON is what a shape of botocore's model describes, with lengths, patterns, enums and unions."""
    kinds = {
        "structure": assert_structure_fits,
        "list": assert_list_fits,
        "map": assert_map_fits,
        "string": assert_text_fits,
        "blob": assert_blob_fits,
        "boolean": assert_flag_fits,
    }
    kinds.get(shape.type_name, assert_number_fits)(shape, value, where)


def assert_structure_fits(shape, value, where):
    if getattr(shape, "is_document_type", False):
        return
    assert isinstance(value, dict), where
    assert set(value) <= set(shape.members), (where, set(value) - set(shape.members))
    assert set(shape.required_members) <= set(value), (where, value)
    assert not getattr(shape, "is_tagged_union", False) or len(value) == 1, (where, value)
    for name, inner in value.items():
        assert_fits(shape.members[name], inner, f"{where}.{name}")


def assert_list_fits(shape, value, where):
    assert isinstance(value, list), where
    assert_within(shape, len(value), where)
    for inner in value:
        assert_fits(shape.member, inner, f"{where}[]")


def assert_map_fits(shape, value, where):
    for inner in value.values():
        assert_fits(shape.value, inner, f"{where}{{}}")


def assert_blob_fits(shape, value, where):
    assert base64.b64decode(value, validate=True), where


def assert_flag_fits(shape, value, where):
    assert type(value) is bool, where


def assert_number_fits(shape, value, where):
    wanted = (int,) if shape.type_name in ("integer", "long") else (int, float)
    assert type(value) in wanted, (where, value)
    assert_within(shape, value, where)


def assert_text_fits(shape, value, where):
    assert isinstance(value, str), where
    assert_within(shape, len(value), where)
    assert not shape.enum or value in shape.enum, (where, value)
    if pattern := shape.metadata.get("pattern"):
        assert re.fullmatch(pattern, value), (where, value)


def assert_within(shape, number, where):
    limits = shape.metadata
    assert limits.get("min", number) <= number <= limits.get("max", number), (where, number)


def assert_in_order(messages):
    """Assert what Converse wants beyond its shapes."""
    assert messages[0]["role"] == "user"
    for before, after in pairwise(messages):
        assert before["role"] != after["role"]
    names = []
    for message in messages:
        kinds = [next(iter(part)) for part in message["content"]]
        assert message["content"]
        results = [at for at, kind in enumerate(kinds) if kind == "toolResult"]
        last = kinds[: results[-1] + 1] if results else []
        assert set(last) <= {"toolResult", "cachePoint"}
        assert "document" not in kinds or "text" in kinds
        assert all(part["text"].strip() for part in message["content"] if "text" in part)
        names += [part["document"]["name"] for part in message["content"] if "document" in part]
        for part in message["content"]:
            inside = part.get("toolResult", {}).get("content", [])
            names += [inner["document"]["name"] for inner in inside if "document" in inner]
            assert all(inner["text"].strip() for inner in inside if "text" in inner)
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9\-()\[\]]+( [A-Za-z0-9\-()\[\]]+)*", name) for name in names)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(requests, orders)
def test_whatever_is_asked_the_body_is_one_botocore_would_have_sent(shape, request_, order):
    try:
        sent = bedrock_encode.request(request_, order)
    except blocks.Unsupported as error:
        assert error.param  # noqa: PT017
        return
    body = json.loads(sent.body)
    model = unquote(sent.path.split("/")[2])
    assert_fits(shape, {"modelId": model, **body})
    assert_in_order(body["messages"])
    assert_consistent(body, order)
    assert set(sent.names.values()).isdisjoint({""})
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in sent.names)


def assert_consistent(body, order):
    """Assert that members which exclude or need each other go together."""
    used = {next(iter(part)) for message in body["messages"] for part in message["content"]}
    if used & {"toolUse", "toolResult"}:
        assert body["toolConfig"]["tools"]
    fields = body.get("additionalModelRequestFields", {})
    limit = body.get("inferenceConfig", {}).get("maxTokens")
    thinking = fields.get("thinking", {})
    if thinking.get("type") == "enabled":
        assert thinking["budget_tokens"] >= 1024
        assert limit is None or limit > thinking["budget_tokens"]
    if thinking.get("type") in ("enabled", "adaptive"):
        assert "toolChoice" not in body.get("toolConfig", {})
        assert "temperature" not in body.get("inferenceConfig", {})
        assert "top_k" not in fields
    if order.max_output is not None:
        assert limit == min(order.max_output, order.model.max_output_tokens or order.max_output)
    if order.model.max_output_tokens is not None and limit is not None:
        assert limit <= order.model.max_output_tokens
    chosen = body.get("toolConfig", {}).get("toolChoice", {}).get("tool", {}).get("name")
    assert chosen is None or chosen in [
        tool["toolSpec"]["name"] for tool in body["toolConfig"]["tools"] if "toolSpec" in tool
    ]
