"""Scopes of API keys, asked over HTTP: what a key may do, and that a refusal leaves nothing behind."""

import json
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest

from accounts import keys
from accounts.models import ApiKey
from tests.stack import Answer, Stack, Tenant, call

BODY = {"model": "sandbox/echo", "messages": [{"role": "user", "content": "Hello"}]}


def secret(tenant: Tenant, *scopes: str) -> str:
    return keys.issue(
        organization=tenant.organization, name="Narrow", environment="production", created_by=None, scopes=scopes
    ).secret


def records(stack: Stack) -> int:
    """Return how many bytes the spool holds or has held: its segments only grow until they are shipped."""
    return sum(path.stat().st_size for path in (stack.server.data_dir / "spool").rglob("*") if path.is_file())


def read_logs(tenant: Tenant, key: str) -> Answer:
    return call(f"{tenant.stack.base_url}/api/request-logs/list/?all_envs=true", key=key)


def test_key_for_calls_calls_and_reads_no_logs(tenant: Callable[..., Tenant]) -> None:
    one = tenant()
    key = secret(one, "call")

    assert one.stack.post(BODY, key=key).status == 200
    assert call(f"{one.stack.base_url}/api/models", key=key).status == 200
    for path in ("/api/request-logs/list/", "/api/request-logs/log_01jd8x00000000000000000000/"):
        refused = call(one.stack.base_url + path, key=key)
        assert (refused.status, refused.json["code"]) == (403, "insufficient_scope")
        assert "results" not in refused.json
    posted = call(f"{one.stack.base_url}/api/request-logs/list/", key=key, body=b"{}")
    assert posted.status == 403


def test_key_for_logs_reads_logs_and_calls_nothing(tenant: Callable[..., Tenant]) -> None:
    one = tenant(local=True)
    key = secret(one, "logs")
    before = records(one.stack)

    refused = one.stack.post({**BODY, "model": "local/fake:chunks=1"}, key=key)
    streamed = one.stack.post({**BODY, "stream": True}, key=key)
    models = call(f"{one.stack.base_url}/api/models", key=key)

    for answer in (refused, streamed, models):
        assert answer.status == 403
        assert answer.error["code"] == "insufficient_scope"
        assert "x-respan-log-id" not in answer.headers
    assert one.stack.provider.requests == []
    assert records(one.stack) == before
    listed = read_logs(one, key)
    assert (listed.status, listed.json["count"]) == (200, 0)
    assert one.entries() == 0


def test_key_without_any_scope_may_do_nothing(tenant: Callable[..., Tenant]) -> None:
    one = tenant()
    key = secret(one, "call")
    ApiKey.objects.filter(organization=one.organization, name="Narrow").update(scopes=[])

    assert one.stack.post(BODY, key=key).status == 403
    assert read_logs(one, key).status == 403


@pytest.mark.parametrize("presented", ["bearer", "x-api-key", "x-goog-api-key"])
def test_scope_is_checked_whatever_header_the_key_comes_in(tenant: Callable[..., Tenant], presented: str) -> None:
    one = tenant()
    key = secret(one, "logs")
    headers = {"Authorization": f"Bearer {key}"} if presented == "bearer" else {presented: key}
    address = f"{one.stack.base_url}/api/chat/completions?{urllib.parse.urlencode({'v': 1})}"

    assert call(address, body=json.dumps(BODY).encode(), headers=headers).status == 403


@pytest.mark.django_db
def test_unknown_scope_is_no_scope(organization: Any) -> None:
    with pytest.raises(ValueError, match="everything"):
        keys.issue(
            organization=organization, name="K", environment="test", created_by=None, scopes=["call", "everything"]
        )

    assert not ApiKey.objects.filter(organization=organization).exists()
