"""Cmd-K: what it finds, for whom, and how much it asks the database."""

import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import keys
from gateway import credentials
from respan import ids
from traces import seeding
from traces.spans import Finished

URL = "/platform/search/"

pytestmark = pytest.mark.django_db


def signed_in(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def found(user: Any, text: str) -> list[dict[str, str]]:
    answer = signed_in(user).get(URL, {"q": text})
    assert answer.status_code == 200
    assert answer["Cache-Control"] == "private, no-store"
    results: list[dict[str, str]] = answer.json()["results"]
    return results


def in_group(results: list[dict[str, str]], group: str) -> list[dict[str, str]]:
    return [result for result in results if result["group"] == group]


def log(organization: Any, *, ago: timedelta = timedelta(minutes=5), **fields: Any) -> str:
    """Put one call into an organization; return its public id."""
    started_us = int((datetime.now(UTC) - ago).timestamp() * 1_000_000)
    record = Finished(
        **{
            "id": ids.new_uuid(started_us // 1_000),
            "organization_id": organization.pk,
            "api_key_id": 1,
            "environment": "production",
            "started_us": started_us,
            "duration_us": 1_000,
            "status": "ok",
            "http_status": 200,
            "request_model": "sandbox/echo",
            "paid_by": "free",
            "free": True,
            "request_body": b'{"messages": [{"role": "user", "content": "a secret question"}]}',
            **fields,
        }
    )
    seeding.add([record], now=timezone.now())
    return ids.encode("log", record.id)


def connect(organization: Any, name: str) -> Any:
    return credentials.store(
        organization=organization,
        provider="openai",
        name=name,
        secret=credentials.Secret("sk-not-a-key-0000000000"),
        actor=None,
        address=None,
    )


def test_key_is_found_by_name_and_by_what_is_shown_of_it(cast: SimpleNamespace) -> None:
    issued = keys.issue(
        organization=cast.organization, name="Checkout service", environment="production", created_by=None
    )

    for text in ("checkout", "OUT SERV", issued.api_key.prefix, issued.secret):
        results = in_group(found(cast.member, text), "API keys")
        assert [result["label"] for result in results] == ["Checkout service"]
        assert issued.secret not in str(results)


def test_revoked_key_is_found_by_its_logs(cast: SimpleNamespace) -> None:
    api_key = keys.issue(organization=cast.organization, name="Old", environment="production", created_by=None).api_key
    keys.revoke(api_key=api_key, actor=None, now=timezone.now())

    (result,) = in_group(found(cast.member, "Old"), "API keys")

    assert result["detail"].endswith("revoked")
    assert f"key={api_key.public_id}" in result["url"]


def test_models_are_found_and_their_page_opens(cast: SimpleNamespace) -> None:
    results = in_group(found(cast.member, "echo"), "Models")

    assert results[0]["label"] == "echo"
    assert signed_in(cast.member).get(results[0]["url"]).status_code == 200
    assert in_group(found(cast.member, "ECHO"), "Models") == results
    assert len(in_group(found(cast.member, "e"), "Models")) == 6


def test_log_is_found_by_id_beginning_of_id_model_customer_and_thread(cast: SimpleNamespace) -> None:
    public_id = log(
        cast.organization,
        request_model="openai/gpt-special",
        customer_identifier="cus_acorn",
        customer_name="Acorn & Söhne",
        thread_identifier="chat-77",
        custom_identifier="order-9",
    )
    log(cast.organization, ago=timedelta(hours=9), customer_identifier="somebody else")

    texts = (public_id, public_id[:14], public_id[:20], "gpt-spec", "ACORN", "söhne", "chat-77", "order-9")
    for text in texts:
        results = in_group(found(cast.member, text), "Recent logs")
        assert [result["url"] for result in results] == [f"/platform/logs/{public_id}/"], text
    assert in_group(found(cast.member, "question"), "Recent logs") == []  # content is not searched


@pytest.mark.parametrize(
    "text",
    ["log_", "log_0", "log_zzzzzzzzzzzzzzzz", "log_01!!!!!!!", f"log_{'z' * 26}", "log_7zzzzzzzzzzz", "LOG_01jd8x",
     "%", "_", "%%%", "\\", "'; --", "\x00", "a\x00b", "\ud800", "x" * 5_000, "<script>alert(1)</script>", "سلام"],
)  # fmt: skip
def test_any_text_is_answered(cast: SimpleNamespace, text: str) -> None:
    log(cast.organization)
    answer = signed_in(cast.owner).get(URL, {"q": text.encode("utf-8", "surrogatepass")})

    assert answer.status_code == 200
    assert in_group(answer.json()["results"], "Recent logs") == []


@pytest.mark.parametrize("text", ["", "   ", "\x00"])
def test_nothing_asked_is_nothing_found(cast: SimpleNamespace, text: str) -> None:
    assert found(cast.owner, text) == []


def test_provider_keys_lead_admins_to_the_key_and_members_to_the_page(cast: SimpleNamespace) -> None:
    credential = connect(cast.organization, "main account")

    for text in ("main", "OpenAI"):
        (for_admin,) = in_group(found(cast.admin, text), "Integrations")
        (for_member,) = in_group(found(cast.member, text), "Integrations")
        assert for_admin["url"] == f"/platform/api/integrations/{credential.public_id}/"
        assert for_member["url"] == "/platform/api/integrations/"
        assert "sk-not" not in str(for_admin)


def test_members_are_found_by_admins_only(cast: SimpleNamespace) -> None:
    name = cast.member.email[:14]

    assert [each["detail"].split()[0] for each in in_group(found(cast.admin, name), "Members")] == [cast.member.email]
    assert in_group(found(cast.member, name), "Members") == []
    assert in_group(found(cast.owner, cast.outsider.email), "Members") == []


def test_nothing_of_another_organization_is_found(cast: SimpleNamespace) -> None:
    token = f"zq{uuid.uuid4().hex[:10]}"
    issued = keys.issue(organization=cast.organization, name=token, environment="test", created_by=None)
    connect(cast.organization, f"c-{token}")
    public_id = log(cast.organization, customer_identifier=token, request_model=f"m-{token}")

    for text in (token, public_id, public_id[:16], issued.api_key.prefix, issued.secret, issued.api_key.public_id):
        assert found(cast.outsider, text) == []
        assert found(cast.owner, text) != []


def test_search_asks_four_questions_whatever_there_is(cast: SimpleNamespace) -> None:
    client = signed_in(cast.owner)

    def questions() -> int:
        with CaptureQueriesContext(connection) as captured:
            client.get(URL, {"q": "key"})
        tables = ("accounts_apikey", "traces_span", "gateway_credential", 'FROM "accounts_membership"')
        asked = [query["sql"] for query in captured if any(table in query["sql"] for table in tables)]
        return len(asked) - 1  # the reader's own membership

    for number in range(2):
        keys.issue(organization=cast.organization, name=f"key {number}", environment="test", created_by=None)
    few = questions()
    for number in range(30):
        keys.issue(organization=cast.organization, name=f"key {number}", environment="test", created_by=None)
        log(cast.organization, customer_identifier=f"key-{number}")

    assert questions() == few == 4
    assert all(len(in_group(found(cast.owner, "key"), group)) <= 6 for group in ("API keys", "Recent logs"))


def test_anonymous_readers_are_sent_to_sign_in(client: Client) -> None:
    assert client.get(URL, {"q": "x"}).status_code == 302
    assert client.post(URL, {"q": "x"}).status_code == 405
