"""The raw relay: `POST /api/{provider}/v1/chat/completions`, one named provider and nothing decided for the client.

The body goes on byte for byte, less Respan's carriers and with the members of a literal `extra_body` in their place;
own keys only, no fallback, no limit of ours, no usage asked for. Otherwise a call like any other: traced, its usage
read where the provider reports it. Neighbours: `call.py` (the life of a call, of which this pins the route), `api.py`.

Source: Respan's public documentation of the provider pass-through.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
from django.http import HttpResponseBase

from accounts.keys import Caller
from billing import prices
from billing.prices import Priced
from gateway import credentials, given_keys, params
from gateway.api import GatewayView
from gateway.call import Call
from gateway.candidates import Candidate, Skipped
from gateway.credentials import Secret, Stored
from gateway.dialects import blocks, openai_chat, registry, wire
from gateway.providers import Model, Provider, catalog
from gateway.retrying import Policy
from gateway.routing import CUSTOM, Target
from respan.api import CallRequest
from respan.errors import Error

DIALECT = "openai_chat"
_EXTRA = "extra_body"
# What says that a model has to be called in another format: here the client has chosen.
_REROUTED = frozenset({"needs_responses_for_tools"})
# The client's headers that are its provider's business: Django's names.
_FORWARDED = {
    "HTTP_ACCEPT": "accept",
    "HTTP_ACCEPT_LANGUAGE": "accept-language",
    "CONTENT_TYPE": "content-type",
    "HTTP_USER_AGENT": "user-agent",
}
_KEY = "API_KEY"
_MAX_KEY_CHARS = 8_192
_members = msgspec.json.Decoder(wire.Members).decode
_encode = msgspec.json.Encoder().encode


class UnknownProvider(Error):
    """The address names no provider that speaks OpenAI's chat completions."""

    status = 404
    code = "provider_not_found"


class NoProviderKey(Error):
    """The provider is known, but there is no key of it to call it with."""

    status = 400
    code = "no_credential"


# --- The body --------------------------------------------------------------------------------------------------------


def read(body: bytes, *, named: wire.Named | None = None) -> openai_chat.Request:
    """Check a request like a chat completion; the members of `extra_body` go to the top. Raises: wire.InvalidBody."""
    asked = openai_chat.read(body)
    extra = asked.members.get(_EXTRA)
    if extra is None:
        return asked
    try:
        merged = _members(extra) if bytes(extra) != b"null" else {}
    except msgspec.DecodeError as error:
        raise wire.InvalidBody("extra_body must be an object.", _EXTRA) from error
    kept = {name: raw for name, raw in asked.members.items() if name != _EXTRA}
    return openai_chat.read(_encode(kept | merged))


def forward(asked: openai_chat.Request, order: blocks.Order) -> blocks.Sent:
    """Return the client's bytes; only the carriers of Respan's parameters are taken out, and a prefix of the model."""
    drop = asked.members.keys() & set(params.CARRIERS)
    return blocks.Sent(body=wire.patched(asked, model=order.model.upstream, drop=drop), path="/chat/completions")


CLIENT = replace(
    registry.OPENAI_CHAT,
    id="raw",
    read=read,
    forward=forward,
    reader=lambda asked: openai_chat.StreamReader(include_usage=True),  # nobody else asked for usage
    translated=None,
    sells=False,
)


# --- The call --------------------------------------------------------------------------------------------------------


class RawCall(Call):
    """A call whose address has named its provider."""

    __slots__ = ("provider_name",)

    def __init__(self, caller: Caller, meta: Mapping[str, Any], body: bytes, *, provider_name: str) -> None:
        super().__init__(caller, meta, body, client=CLIENT)
        self.provider_name = provider_name

    async def _candidates(self) -> tuple[list[Candidate], list[Skipped]]:
        assert self.asked is not None  # noqa: S101  (read before)
        name = self.asked.model
        own = await credentials.usable(self.caller.organization_id)
        provider, key = _chosen(self.provider_name, own, self.meta, self.caller.organization_id)
        model = _model(provider, name)
        price = (await prices.current()).get((provider.id, model.id))
        target: Target[Stored, Priced] = Target(model, key, price, "own_key")
        return [Candidate(target, name, 0, None)], []

    def _policy(self) -> Policy:
        return Policy(enabled=False)  # nothing is decided for the client

    def _client_headers(self, provider: Provider, *, own_key: bool) -> Mapping[str, str]:
        return forwarded(self.meta, provider)


def forwarded(meta: Mapping[str, Any], provider: Provider) -> dict[str, str]:
    """Return the client's headers that its provider is sent: a few, and those named `x-<provider>-…` but the key."""
    headers = {header: str(meta[name]) for name, header in _FORWARDED.items() if meta.get(name)}
    prefix = _own_prefix(provider)
    for name, value in meta.items():
        if name.startswith(prefix) and name != prefix + _KEY:
            headers[name.removeprefix("HTTP_").lower().replace("_", "-")] = str(value)
    return {header: value for header, value in headers.items() if _is_sendable(value)}


def _is_sendable(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _own_prefix(provider: Provider) -> str:
    return f"HTTP_X_{provider.id.upper().replace('-', '_')}_"


def _chosen(
    name: str, own: tuple[Stored, ...], meta: Mapping[str, Any], organization_id: int
) -> tuple[Provider, Stored]:
    """Return the provider an address names, and the key: that of the request's own header, else the saved one.

    Raises: UnknownProvider; NoProviderKey.
    """
    for key in own:
        if key.provider == CUSTOM and key.name == name:
            return catalog().providers[CUSTOM], key
    provider = next((each for each in catalog().providers.values() if name in (each.id, *each.prefixes)), None)
    if provider is None or provider.id == CUSTOM or not _speaks_chat(provider):
        raise UnknownProvider(f"There is no provider called {name[:60]} that speaks OpenAI's chat completions.")
    given = str(meta.get(_own_prefix(provider) + _KEY, "")).strip()
    if given and len(given) <= _MAX_KEY_CHARS and _is_sendable(given) and provider.base_url:
        return provider, given_keys.key(Secret(given), provider, organization_id)
    for key in own:
        if key.provider == provider.id:
            return provider, key
    raise NoProviderKey(f"Add a key of {provider.name} under Integrations: credits do not pay for this address.")


def _speaks_chat(provider: Provider) -> bool:
    return provider.transport == "http" and (provider.dialect == DIALECT or DIALECT in provider.also)


def _model(provider: Provider, name: str) -> Model:
    """Return what is known of a model under the name the provider is sent: the client's, less `provider/` before it."""
    known = _known(provider, name)
    prefix, _, rest = name.partition("/")
    if known is None and rest and prefix in (provider.id, *provider.prefixes):
        name = rest
        known = _known(provider, rest)
    model = known or provider.unlisted(name)
    return replace(model, upstream=name, capabilities=model.capabilities - _REROUTED)


def _known(provider: Provider, name: str) -> Model | None:
    return next((model for model in provider.models.values() if name in (model.upstream, model.id)), None)


class RawChatCompletions(GatewayView):
    """POST /api/{provider}/v1/chat/completions."""

    client = CLIENT

    async def post(self, request: CallRequest, provider: str) -> HttpResponseBase:
        return await RawCall(request.caller, request.META, request.body, provider_name=provider).answer()
