"""From a request's headers to a caller: the only authenticator of `/api/`, for every header a vendor's SDK may use.

Reads `Authorization: Bearer`, `x-api-key` and `x-goog-api-key`; two different keys are refused, because a rule checked
on one of them would not hold for the other. Sessions never count here, keys never count on the pages. A view names the
scope a key needs by its authenticator: a key without it is refused before anything is read or written.
Neighbours: `keys.py` (what a key is worth), `respan.api.AsyncAPIView` (async), DRF's views (sync).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts import keys
from accounts.keys import Caller
from accounts.models import Scope
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


class InsufficientScope(Error):
    """The key is valid, but not for this."""

    status = 403
    code = "insufficient_scope"


_REFUSALS = {
    Scope.CALL: "This API key may not call models. Use one with the scope “Call models”, or create one under API keys.",
    Scope.LOGS: "This API key may not read logs. Use one with the scope “Read logs”, or create one under API keys.",
    Scope.MANAGE: "This API key may not change limits. Create one with the scope “Change limits” under API keys.",
}


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

    # What the key has to be allowed; None: any valid key will do.
    scope: ClassVar[Scope | None] = None

    def authenticate(self, request: Request) -> tuple[CallerUser, Caller]:
        """Return the caller twice, as DRF's user and auth.

        Raises: MissingKey; ConflictingKeys; keys.InvalidKey; keys.KeyCheckUnavailable; InsufficientScope.
        """
        caller = self._allowed(keys.verify_sync(presented(request.META)))
        return CallerUser(caller), caller

    async def authenticate_call(self, request: HttpRequest) -> Caller:
        """Return the caller.

        Raises: MissingKey; ConflictingKeys; keys.InvalidKey; keys.KeyCheckUnavailable; InsufficientScope.
        """
        return self._allowed(await keys.verify(presented(request.META)))

    def _allowed(self, caller: Caller) -> Caller:
        if self.scope is not None and self.scope not in caller.scopes:
            raise InsufficientScope(_REFUSALS[self.scope])
        return caller

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class CallingKey(ApiKeyAuthentication):
    """For the routes of the gateway."""

    scope = Scope.CALL


class LogsKey(ApiKeyAuthentication):
    """For the routes that read logs."""

    scope = Scope.LOGS


class ManagingKey(ApiKeyAuthentication):
    """For the routes that change what bounds calls."""

    scope = Scope.MANAGE
