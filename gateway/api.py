"""The gateway's endpoints: one for each dialect that clients speak, and the lists of models.

Translates in, makes one domain call, translates out: never routes, pays or talks to a provider itself. Errors leave in
the caller's dialect. Neighbours: `gateway.call` (the life of a call), `gateway.dialects.registry` (the dialects),
`gateway.listing` (shapes of the lists), `gateway.idempotency` and `gateway.retried` (no call twice).
"""

from collections.abc import Awaitable
from functools import partial
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse, HttpResponseBase

from accounts.authentication import CallingKey
from gateway import credentials, idempotency, listing, retried
from gateway.answers import CallFailed
from gateway.call import Call
from gateway.dialects import registry
from gateway.dialects.registry import Client
from gateway.dialects.wire import Named
from gateway.providers import catalog
from respan.api import AsyncAPIView, CallRequest, Method
from respan.errors import Error


def refusal(error: Error, client: Client) -> HttpResponse:
    """Answer an error in a client's dialect."""
    body = error.body if isinstance(error, CallFailed) else None
    if body is None:
        body = client.errors.body(
            status=error.status, code=error.code, message=error.message, param=error.param, extra=error.extra
        )
    response = HttpResponse(body, status=error.status, content_type="application/json", headers=error.headers)
    if error.status == 401:
        response["WWW-Authenticate"] = 'Bearer realm="api"'
    return response


def spoken_at(path: str) -> Client:
    """Return the dialect of who calls an address, also one where nothing is."""
    if "/anthropic/" in path:
        return registry.ANTHROPIC
    return registry.GEMINI if "/google/" in path else registry.OPENAI_CHAT


class GatewayView(AsyncAPIView):
    """A view whose refusals are in the dialect of its clients."""

    authentication_classes = (CallingKey,)
    client: ClassVar[Client] = registry.OPENAI_CHAT

    def refuse(self, request: HttpRequest, error: Error) -> HttpResponse:
        return refusal(error, self.client)

    def around(self, post: Method) -> Method:
        """Let a key of the client's, or an SDK's retry of the same call, have one execution only."""

        def once(request: CallRequest, *args: Any, **kwargs: Any) -> Awaitable[HttpResponseBase]:
            meta = request.META
            if idempotency.HEADER in meta:
                return idempotency.answer(request, partial(post, request, *args, **kwargs))
            if retried.HEADER in meta:
                return retried.answer(request, partial(post, request, *args, **kwargs))
            return post(request, *args, **kwargs)

        return once


class CallView(GatewayView):
    """A view that makes a call of a model, in the dialect of its clients."""

    async def post(self, request: CallRequest) -> HttpResponseBase:
        return await Call(request.caller, request.META, request.body, client=self.client).answer()


class ChatCompletions(CallView):
    """POST /api/chat/completions."""


class Responses(CallView):
    """POST /api/responses."""

    client = registry.OPENAI_RESPONSES


class Messages(CallView):
    """POST /api/anthropic/v1/messages."""

    client = registry.ANTHROPIC


class GenerateContent(GatewayView):
    """POST /api/google/{gemini|vertexai}/v1beta/models/{model}:generateContent and :streamGenerateContent."""

    client = registry.GEMINI

    async def post(self, request: CallRequest, model: str, operation: str) -> HttpResponseBase:
        named = Named(model, stream=operation == "streamGenerateContent", sse=request.GET.get("alt") == "sse")
        speaks = registry.GEMINI if named.sse or not named.stream else registry.GEMINI_ARRAY
        return await Call(request.caller, request.META, request.body, client=speaks, named=named).answer()


class EmbedContent(GatewayView):
    """POST /api/google/{gemini|vertexai}/v1beta/models/{model}:embedContent and :batchEmbedContents."""

    client = registry.GEMINI

    async def post(self, request: CallRequest, model: str, operation: str) -> HttpResponseBase:
        speaks = registry.GEMINI_EMBEDDINGS[operation]
        named = Named(model, stream=False)
        return await Call(request.caller, request.META, request.body, client=speaks, named=named).answer()


class Models(GatewayView):
    """GET /api/models: what this key may call, in OpenAI's list shape with Respan's fields."""

    async def get(self, request: CallRequest) -> HttpResponse:
        own = await credentials.usable(request.caller.organization_id)
        return _json(listing.models(catalog(), own=own, platform=await credentials.platform()))


class PublicModels(GatewayView):
    """GET /api/models/public/: the catalogue with prices, without a key."""

    authenticated = False

    async def get(self, request: HttpRequest) -> HttpResponse:
        unnest = request.GET.get("unnest", "").lower() in {"1", "true"}
        return _json(listing.public(catalog(), unnest=unnest))


def _json(body: bytes) -> HttpResponse:
    return HttpResponse(body, content_type="application/json", headers={"Cache-Control": "private, no-store"})
