"""Zero retention: what a call asked and was answered is found nowhere; its figures are.

A canary is in prompts, system texts, tool results, images, in what the provider answers and in the errors it makes of
them. The calls end in every way a call can; then the spool, every table (while batches wait in it and afterwards), the
processes' logs and the page of each log are searched for it.
"""

import base64
import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.test import Client

from accounts import keys
from tests.security.test_canaries import every_value, needles, spool, stopped
from tests.servers import wait_until
from tests.stack import Stack, Tenant

pytestmark = pytest.mark.xdist_group("canaries")

ENDINGS = {
    "answered": ("local/fake:chunks=3", {}, 200),
    "streamed": ("local/fake:chunks=3", {"stream": True}, 200),
    "without usage": ("local/fake:chunks=5,usage=none", {"stream": True}, 200),
    "cut": ("local/fake:chunks=9,cut=2", {"stream": True}, 200),
    "failed on the way": ("local/fake:chunks=9,fail=2", {"stream": True}, 200),
    "refused": ("local/fake:status=400", {}, 400),
    "broken": ("local/fake:status=500", {}, 500),
    "echoed": ("sandbox/echo", {}, 200),
    "echoed in a stream": ("sandbox/echo", {"stream": True}, 200),
    "unknown model": ("no-such-model", {}, 404),
    "on credits": ("fake/chat", {"max_tokens": 40}, 200),
    "on credits without usage": ("fake/mute", {"stream": True, "max_tokens": 40}, 200),
    "dear": ("fake/dear", {"max_tokens": 16000}, 402),
}


def zero_retention_key(tenant: Tenant) -> str:
    return keys.issue(
        organization=tenant.organization, name="Zero", environment="production", created_by=None, zero_retention=True
    ).secret


def body(model: str, canary: str, **members: Any) -> bytes:
    image = f"data:image/png;base64,{base64.b64encode(canary.encode()).decode()}"
    messages = [
        {"role": "system", "content": f"Obey {canary}"},
        {
            "role": "user",
            "content": [{"type": "text", "text": canary}, {"type": "image_url", "image_url": {"url": image}}],
        },
        {"role": "assistant", "content": f"I said {canary}"},
        {"role": "user", "content": f"Repeat: {canary}"},
    ]
    tool = {"type": "function", "function": {"name": f"f_{canary}", "parameters": {}}}
    return json.dumps({"model": model, "messages": messages, "tools": [tool], **members}).encode()


def hits(stack: Stack, canary: str, *, database: bool = True) -> list[str]:
    wanted = needles(canary)
    found = [
        path.name for path in spool(stack) if path.exists() and any(needle in path.read_bytes() for needle in wanted)
    ]
    found += [path.name for path in stack.server.data_dir.rglob("*.log") if canary.encode() in path.read_bytes()]
    if database:
        found += [where for where, value in every_value() if any(needle in value for needle in wanted)]
    return found


def abandon(tenant: Tenant, key: str, canary: str) -> None:
    """Leave in the middle of a stream."""
    content = body("local/fake:chunks=400,interval=0.02", canary, stream=True)
    url = f"{tenant.stack.base_url}/api/chat/completions"
    with httpx.stream("POST", url, content=content, headers={"Authorization": f"Bearer {key}"}) as answer:
        assert next(answer.iter_bytes()).startswith(b"data: ")


def spans(tenant: Tenant) -> list[dict[str, Any]]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(s) FROM traces_span s WHERE organization_id = %s", [tenant.organization.pk])
        rows = [row for (row,) in cursor.fetchall()]
    return [json.loads(row) if isinstance(row, str) else row for row in rows]


def test_canary_is_found_nowhere_and_the_figures_are_there(stack: Stack, tenant: Callable[..., Tenant]) -> None:
    one = tenant(local=True, credits_usd="1")
    key = zero_retention_key(one)
    canary = f"canary{uuid.uuid4().hex}"
    with stopped(stack.server, "worker"):
        with stopped(stack.server, "shipper"):
            for name, (model, members, status) in ENDINGS.items():
                answer = stack.post(body(model, canary, **members), key=key)
                assert (name, answer.status) == (name, status), answer.body[:300]
            abandon(one, key, canary)
            assert hits(stack, canary, database=False) == []
        wait_until(lambda: len(_waiting()) > 0, what="a batch on its way")
        assert hits(stack, canary) == []
    wait_until(lambda: len(spans(one)) == len(ENDINGS) + 1, what="the calls to be loaded")

    assert hits(stack, canary) == []
    _figures_are_there(one)
    _pages_say_why(one, canary)


def _waiting() -> Any:
    from traces.models import IngestBatch

    return IngestBatch.objects.filter(done_at=None)


def _figures_are_there(one: Tenant) -> None:
    found = {row["request_model"]: row for row in spans(one)}
    assert not any(row["has_body"] or row["input_preview"] or row["output_preview"] for row in found.values())
    answered = found["local/fake:chunks=3"]
    assert answered["input_tokens"] > 0
    assert answered["output_tokens"] > 0
    mute = found["fake/mute"]
    assert (mute["usage_source"], mute["input_tokens"] > 0) == ("counted", True)
    assert 0 < mute["charged_nano"] == mute["cost_nano"]
    assert found["fake/chat"]["charged_nano"] > 0
    refused = found["local/fake:status=400"]
    assert refused["error_code"] == "upstream_error"
    assert "not kept" in refused["error_message"]


def _pages_say_why(one: Tenant, canary: str) -> None:
    from respan import ids

    client = Client()
    client.force_login(one.owner)
    for row in spans(one):
        page = client.get(f"/platform/logs/{ids.encode('log', uuid.UUID(row['id']))}/")
        assert page.status_code == 200
        assert canary not in page.content.decode()


def test_content_of_other_keys_is_kept(stack: Stack, tenant: Callable[..., Tenant]) -> None:
    one = tenant()
    canary = f"canary{uuid.uuid4().hex}"

    log_id = one.post(body("sandbox/echo", canary)).log_id

    assert canary in json.dumps(one.log(log_id))  # so that the search above would find it


def test_organization_may_say_so_for_all_its_keys(stack: Stack, tenant: Callable[..., Tenant]) -> None:
    one = tenant()
    one.organization.zero_retention = True
    one.organization.save()
    canary = f"canary{uuid.uuid4().hex}"

    log = one.log(one.post(body("sandbox/echo", canary)).log_id)

    assert canary not in json.dumps(log)
    assert log["prompt_tokens"] > 0
    assert hits(stack, canary) == []
