"""The headers a key may come in."""

import random
import string
from typing import Any

import pytest
from django.test import RequestFactory
from rest_framework.request import Request

from accounts import keys
from accounts.authentication import ApiKeyAuthentication, ConflictingKeys, MissingKey, presented
from respan.errors import Error

HEADERS = ("HTTP_AUTHORIZATION", "HTTP_X_API_KEY", "HTTP_X_GOOG_API_KEY")


def authenticate(**headers: str) -> Any:
    return ApiKeyAuthentication().authenticate(Request(RequestFactory().get("/api/models", **headers)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_AUTHORIZATION": "Bearer the-key"},
        {"HTTP_AUTHORIZATION": "bearer  the-key "},
        {"HTTP_AUTHORIZATION": "BEARER the-key"},
        {"HTTP_X_API_KEY": "the-key"},
        {"HTTP_X_GOOG_API_KEY": " the-key"},
        {"HTTP_AUTHORIZATION": "Bearer the-key", "HTTP_X_API_KEY": "the-key"},
        {"HTTP_AUTHORIZATION": "Basic dXNlcjpwYXNz", "HTTP_X_API_KEY": "the-key"},
    ],
)
def test_key_is_read_from_each_header(headers: dict[str, str]) -> None:
    assert presented(headers) == "the-key"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"HTTP_AUTHORIZATION": ""},
        {"HTTP_AUTHORIZATION": "Bearer "},
        {"HTTP_AUTHORIZATION": "Basic abc"},
        {"HTTP_X_API_KEY": " "},
    ],
)
def test_request_without_a_key_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(MissingKey) as refusal:
        presented(headers)
    assert refusal.value.status == 401


def test_two_different_keys_are_refused() -> None:
    with pytest.raises(ConflictingKeys) as refusal:
        presented({"HTTP_AUTHORIZATION": "Bearer one", "HTTP_X_API_KEY": "two"})
    assert refusal.value.status == 400
    with pytest.raises(ConflictingKeys):
        presented({"HTTP_X_API_KEY": "one", "HTTP_X_GOOG_API_KEY": "two"})


@pytest.mark.django_db
def test_valid_key_authenticates_a_rest_framework_request(api_key: str, organization: Any) -> None:
    user, caller = authenticate(HTTP_X_API_KEY=api_key)

    assert user.is_authenticated
    assert not user.is_staff
    assert caller.organization_id == organization.pk


@pytest.mark.django_db(transaction=True)
async def test_valid_key_authenticates_a_call(api_key: str, organization: Any) -> None:
    request = RequestFactory().get("/api/models", HTTP_AUTHORIZATION=f"Bearer {api_key}")

    caller = await ApiKeyAuthentication().authenticate_call(request)

    assert caller.organization_id == organization.pk


@pytest.mark.django_db
def test_no_header_value_makes_more_than_a_refusal(api_key: str) -> None:
    hostile = [
        "\x00",
        "\r\nX-Injected: 1",
        "' OR 1=1 --",
        "%00",
        "é",
        "漢" * 47,
        "a" * 1_000_000,
        api_key[:-1],
        api_key + "\x00",
    ]
    alphabet = string.printable + "\x00\x7f\xa0éŁ漢😀"
    for seed in range(2000):
        dice = random.Random(seed)  # noqa: S311
        value = dice.choice(hostile) if dice.random() < 0.2 else "".join(dice.choices(alphabet, k=dice.randrange(80)))
        value = dice.choice(["", "Bearer ", "bearer\t", "Bearer"]) + value
        headers = {header: value for header in HEADERS if dice.random() < 0.6}
        with pytest.raises(Error) as refusal:
            keys.verify_sync(presented(headers))
        assert refusal.value.status in {400, 401}


def test_refusal_carries_a_challenge() -> None:
    assert ApiKeyAuthentication().authenticate_header(None) == 'Bearer realm="api"'  # type: ignore[arg-type]
