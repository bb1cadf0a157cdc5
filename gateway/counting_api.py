"""Counting the tokens of a prompt, and the lists of models, in Anthropic's and Google's words.

Counting costs nothing and is no call of a model: it is neither held nor traced. A provider of the same dialect that an
own key reaches is asked; for any other model the count is an estimate, and the header `X-Respan-Estimated` says so.
Translates in and out only. Neighbours: `api.py` (the calls themselves), `outgoing.py`, `listing.py`.
"""

import time
from typing import Any, ClassVar, Final

import msgspec
from django.conf import settings
from django.http import HttpResponse

from gateway import credentials, listing, outgoing, routing, upstream
from gateway.answers import CallFailed, content_type, passed_on, without_keys
from gateway.api import GatewayView
from gateway.call import MAX_ANSWER_BYTES, TOKENS_PER_MESSAGE
from gateway.candidates import offered
from gateway.credentials import Stored
from gateway.dialects import anthropic, blocks, gemini_operations, registry, wire
from gateway.dialects.registry import Client
from gateway.dialects.wire import Named
from gateway.params import InvalidRequest
from gateway.providers import Model, catalog
from respan.api import CallRequest
from respan.errors import Error

ESTIMATED: Final = "X-Respan-Estimated"
# About what a token is in UTF-8, across languages and code.
_BYTES_PER_TOKEN: Final = 4
_encode = msgspec.json.Encoder().encode
_COUNTING: Final = gemini_operations.OPERATIONS["countTokens"]


class ModelUnknown(Error):
    """No model of this name in the catalogue."""

    status = 404
    code = "model_not_found"


class _CountView(GatewayView):
    async def _counted(self, request: CallRequest, named: Named | None) -> HttpResponse:
        client = self.client
        try:
            asked = self._read(request.body, named)
        except wire.InvalidBody as error:
            raise InvalidRequest(str(error), param=error.param) from error
        offer = await offered(asked.model, request.caller.organization_id)
        targets = routing.plan(asked.model, offer, close_names=lambda: catalog().close_names(asked.model))
        for target in targets:
            if target.paid_by != "own_key" or target.key is None:
                continue
            provider = catalog().providers[target.model.provider]
            way = outgoing.way(client, provider, target.model, target.key, has_tools=False)
            if way.is_passed:
                return await self._asked_for(request, asked, target.model, target.key, way)
        return HttpResponse(self._answer(estimate(asked)), content_type="application/json", headers={ESTIMATED: "true"})

    async def _asked_for(
        self, request: CallRequest, asked: wire.Asked, model: Model, key: Stored, way: outgoing.Way
    ) -> HttpResponse:
        client, provider = self.client, catalog().providers[model.provider]
        transport = outgoing.transport(provider, is_demo=request.caller.is_demo)
        order = outgoing.order(client, provider, model, credits=False, max_output=None)
        secret = key.secret().reveal()
        sealed = await outgoing.sealed(
            self._sent(asked, order),
            way=way,
            provider=provider,
            secret=secret,
            headers=outgoing.client_headers(client, request.META, provider, own_key=True),
            stream=False,
            transport=transport,
        )
        deadline = time.monotonic() + settings.RESPAN_FIRST_BYTE_TIMEOUT_S
        response = await upstream.send(sealed, transport=transport, deadline=deadline)
        kind, headers = content_type(response), passed_on(response, own_key=True)
        body = await upstream.read(response, MAX_ANSWER_BYTES)
        if response.status_code < 400:
            return HttpResponse(body, content_type=kind, headers=headers)
        body = without_keys(body, secret)
        told = client.errors.message(body) or f"{provider.name} answered {response.status_code}."
        shown = body if client.errors.is_body(body) else None
        raise CallFailed(response.status_code, told, body=shown, headers=headers)

    def _read(self, body: bytes, named: Named | None) -> wire.Asked:
        return self.client.read(body, named=named)

    def _sent(self, asked: Any, order: blocks.Order) -> blocks.Sent:
        raise NotImplementedError

    def _answer(self, tokens: int) -> bytes:
        raise NotImplementedError


def estimate(asked: wire.Asked) -> int:
    """Return about how many tokens a prompt has."""
    return -(-asked.input_bytes // _BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE // 4 * asked.message_count


class CountTokens(_CountView):
    """POST /api/anthropic/v1/messages/count_tokens."""

    client: ClassVar[Client] = registry.ANTHROPIC

    async def post(self, request: CallRequest) -> HttpResponse:
        return await self._counted(request, None)

    def _sent(self, asked: anthropic.Request, order: blocks.Order) -> blocks.Sent:
        return anthropic.count_tokens(asked, order)

    def _answer(self, tokens: int) -> bytes:
        return anthropic.count_answer(tokens)


class GeminiCountTokens(_CountView):
    """POST /api/google/{gemini|vertexai}/v1beta/models/{model}:countTokens."""

    client: ClassVar[Client] = registry.GEMINI

    async def post(self, request: CallRequest, model: str) -> HttpResponse:
        return await self._counted(request, Named(model, stream=False))

    def _read(self, body: bytes, named: Named | None) -> wire.Asked:
        return _COUNTING.read(body, named=named)

    def _sent(self, asked: gemini_operations.Request, order: blocks.Order) -> blocks.Sent:
        return _COUNTING.forward(asked, order)

    def _answer(self, tokens: int) -> bytes:
        return _encode({"totalTokens": tokens})


# --- Lists of models ------------------------------------------------------------------------------------------------


class AnthropicModels(GatewayView):
    """GET /api/anthropic/v1/models, and one of them."""

    client: ClassVar[Client] = registry.ANTHROPIC

    async def get(self, request: CallRequest, model: str = "") -> HttpResponse:
        reached = await _reached(request.caller.organization_id)
        if not model:
            return _json(anthropic.models_page(map(_listed, reached)))
        found = next((each for each in reached if model in (each.full_name, each.id, *each.aliases)), None)
        if found is None:
            raise ModelUnknown(f"There is no model called {model[:200]} that your keys reach.")
        return _json(anthropic.model_info(_listed(found)))


class GeminiModels(GatewayView):
    """GET /api/google/{gemini|vertexai}/v1beta/models."""

    client: ClassVar[Client] = registry.GEMINI

    async def get(self, request: CallRequest) -> HttpResponse:
        reached = await _reached(request.caller.organization_id)
        return _json(_encode({"models": [_google(model) for model in reached]}))


async def _reached(organization_id: int) -> list[Model]:
    own = await credentials.usable(organization_id)
    reach = listing.Reach.of(own=own, platform=await credentials.platform())
    providers = catalog().providers
    return [
        model
        for model in catalog().models()
        if model.kind == "chat" and reach.way(model, providers[model.provider]) is not None
    ]


def _listed(model: Model) -> anthropic.Listed:
    # Anthropic's word for a day nobody knows is the epoch.
    return anthropic.Listed(model.full_name, model.name, 0, model.context_tokens, model.max_output_tokens)


def _google(model: Model) -> dict[str, Any]:
    listed: dict[str, Any] = {
        "name": f"models/{model.full_name}",
        "displayName": model.name,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }
    if model.context_tokens is not None:
        listed["inputTokenLimit"] = model.context_tokens
    if model.max_output_tokens is not None:
        listed["outputTokenLimit"] = model.max_output_tokens
    return listed


def _json(body: bytes) -> HttpResponse:
    return HttpResponse(body, content_type="application/json", headers={"Cache-Control": "private, no-store"})
