"""The gateway's endpoints: OpenAI-compatible chat completions and the lists of models.

Translates in, makes one domain call, translates out: never routes, pays or talks to a provider itself. Errors leave in
the caller's dialect. Neighbours: `gateway.call` (the life of a call), `gateway.listing` (shapes of the lists).
"""

from django.http import HttpRequest, HttpResponse, HttpResponseBase

from accounts.authentication import CallingKey
from gateway import credentials, listing
from gateway.answers import CallFailed
from gateway.call import Call
from gateway.dialects import openai_chat
from gateway.providers import catalog
from respan.api import AsyncAPIView
from respan.errors import Error


def refusal(error: Error) -> HttpResponse:
    """Answer an error in OpenAI's shape; `detail` repeats the message for clients of the management API."""
    body = error.body if isinstance(error, CallFailed) else None
    if body is None:
        body = openai_chat.error(
            status=error.status, code=error.code, message=error.message, param=error.param, extra=error.extra
        )
    response = HttpResponse(body, status=error.status, content_type="application/json", headers=error.headers)
    if error.status == 401:
        response["WWW-Authenticate"] = 'Bearer realm="api"'
    return response


class GatewayView(AsyncAPIView):
    """A view whose refusals are in OpenAI's dialect."""

    authentication_classes = (CallingKey,)

    def refuse(self, request: HttpRequest, error: Error) -> HttpResponse:
        return refusal(error)


class ChatCompletions(GatewayView):
    """POST /api/chat/completions."""

    async def post(self, request: HttpRequest) -> HttpResponseBase:
        return await Call(request.caller, request.META, request.body).answer()  # type: ignore[attr-defined]


class Models(GatewayView):
    """GET /api/models: what this key may call, in OpenAI's list shape with Respan's fields."""

    async def get(self, request: HttpRequest) -> HttpResponse:
        own = await credentials.usable(request.caller.organization_id)  # type: ignore[attr-defined]
        return _json(listing.models(catalog(), own=own, platform=await credentials.platform()))


class PublicModels(GatewayView):
    """GET /api/models/public/: the catalogue with prices, without a key."""

    authenticated = False

    async def get(self, request: HttpRequest) -> HttpResponse:
        unnest = request.GET.get("unnest", "").lower() in {"1", "true"}
        return _json(listing.public(catalog(), unnest=unnest))


def _json(body: bytes) -> HttpResponse:
    return HttpResponse(body, content_type="application/json", headers={"Cache-Control": "private, no-store"})
