"""Scopes of API keys, asked over HTTP: what a key may do, and that a refusal leaves nothing behind."""

import json
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest

from accounts import keys
from accounts.models import ApiKey
from tests.servers import wait_until
from tests.stack import Answer, Tenant, call

BODY = {"model": "sandbox/echo", "messages": [{"role": "user", "content": "Hello"}]}


def secret(tenant: Tenant, *scopes: str) -> str:
    return keys.issue(
        organization=tenant.organization, name="Narrow", environment="production", created_by=None, scopes=scopes
    ).secret


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

    refused = one.stack.post({**BODY, "model": "local/fake:chunks=1"}, key=key)
    streamed = one.stack.post({**BODY, "stream": True}, key=key)
    models = call(f"{one.stack.base_url}/api/models", key=key)

    for answer in (refused, streamed, models):
        assert answer.status == 403
        assert answer.error["code"] == "insufficient_scope"
        assert "x-respan-log-id" not in answer.headers
    assert one.stack.provider.requests == []
    # The spool is read in order: once a later call is listed, a record of an earlier one would be, too.
    assert one.stack.post(BODY, key=one.key).status == 200
    listed = wait_until(lambda: read_logs(one, key).json["results"], what="the later call")
    assert [log["model"] for log in listed] == [BODY["model"]]
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
