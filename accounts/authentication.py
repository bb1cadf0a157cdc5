"""From a request's headers to a caller: the only authenticator of `/api/`, for every header a vendor's SDK may use.

Reads `Authorization: Bearer`, `x-api-key` and `x-goog-api-key`; two different keys are refused, because a rule checked
on one of them would not hold for the other. Sessions never count here, keys never count on the pages.
Neighbours: `keys.py` (what a key is worth), `respan.api.AsyncAPIView` (async), DRF's views (sync).
"""

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts import keys
from accounts.keys import Caller
from respan.errors import Error

_KEY_HEADERS = ("HTTP_X_API_KEY", "HTTP_X_GOOG_API_KEY")


class MissingKey(Error):
    """No header carries a key."""

    status = 401
    code = "missing_api_key"
    message = "No API key was sent. Send it as `Authorization: Bearer rsp_live_…`; create one under API keys."


class ConflictingKeys(Error):
    """Two headers carry different keys."""

    status = 400
    code = "conflicting_api_keys"
    message = "Two different API keys were sent. Send one of Authorization, x-api-key and x-goog-api-key."


class CallerUser:
    """What DRF calls the user of a request: the caller behind an API key, never a person."""

    is_authenticated = True
    is_active = True
    is_staff = False

    def __init__(self, caller: Caller) -> None:
        self.caller = caller


def presented(headers: Mapping[str, Any]) -> str:
    """Return the key that was sent; `headers` is a request's META.

    Raises: MissingKey; ConflictingKeys.
    """
    scheme, _, token = headers.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
    sent = {token.strip()} if scheme.lower() == "bearer" else set()
    for header in _KEY_HEADERS:
        sent.add(headers.get(header, "").strip())
    sent.discard("")
    if not sent:
        raise MissingKey
    if len(sent) > 1:
        raise ConflictingKeys
    key: str = sent.pop()
    return key


class ApiKeyAuthentication(BaseAuthentication):
    """DRF's authenticator; `authenticate_call` is its asynchronous twin for the hot path."""

    def authenticate(self, request: Request) -> tuple[CallerUser, Caller]:
        """Return the caller twice, as DRF's user and auth.

        Raises: MissingKey; ConflictingKeys; keys.InvalidKey; keys.KeyCheckUnavailable.
        """
        caller = keys.verify_sync(presented(request.META))
        return CallerUser(caller), caller

    async def authenticate_call(self, request: HttpRequest) -> Caller:
        """Return the caller.

        Raises: MissingKey; ConflictingKeys; keys.InvalidKey; keys.KeyCheckUnavailable.
        """
        return await keys.verify(presented(request.META))

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'
