"""What a call sends to its provider: in which dialect, to which address, with whose key, and what is left out.

Responsible for choosing between passing a request through and translating it, for the headers that go out, and for
putting the key where the provider wants it. Never opens a socket itself, never chooses a provider, never reads an
answer. Neighbours: `call.py` (whose request it is), `dialects.registry` (how it is written), `upstream.py` (sends it),
`signing.py` and `google_account.py` (keys that are more than a header).
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import httpx
from django.conf import settings
from msgspec import Struct

from gateway import files, google_account, params, sandbox, signing, upstream
from gateway.credentials import Stored
from gateway.dialects import blocks, file_ids, wire
from gateway.dialects.exchange import Exchange
from gateway.dialects.registry import TARGETS, Client
from gateway.params import InvalidRequest
from gateway.providers import Model, Provider
from respan import outbound
from respan.errors import Error

STREAM_LIMITS = {
    "connect": settings.RESPAN_CONNECT_TIMEOUT_S,
    "first_byte": settings.RESPAN_FIRST_BYTE_TIMEOUT_S,
    "read": settings.RESPAN_GAP_TIMEOUT_S,
    "total": settings.RESPAN_TOTAL_TIMEOUT_S,
}
# A whole answer's head comes when all of it is written; a model that thinks first may be silent as long.
WHOLE_LIMITS = {**STREAM_LIMITS, "first_byte": settings.RESPAN_ANSWER_TIMEOUT_S}

# What a provider of the client's own dialect may learn of its headers: (Django's name, the header).
_ANYWAY = {"anthropic": (("HTTP_ANTHROPIC_VERSION", "anthropic-version"), ("HTTP_ANTHROPIC_BETA", "anthropic-beta"))}
_WITH_OWN_KEY = {
    "openai_chat": (
        ("HTTP_OPENAI_ORGANIZATION", "openai-organization"),
        ("HTTP_OPENAI_PROJECT", "openai-project"),
        ("HTTP_OPENAI_BETA", "openai-beta"),
    )
}
_WITH_OWN_KEY["openai_responses"] = _WITH_OWN_KEY["openai_chat"]
_DEFAULTS = {"anthropic": {"anthropic-version": "2023-06-01"}}
_SOUND = (b'"input_audio"', b'"audio/')
# A header that lists features, some of which may change the price.
_FEATURES = "anthropic-beta"


class UnsupportedParameter(Error):
    """The model's provider cannot do what was asked, and leaving it out would change the meaning."""

    status = 400
    code = "unsupported_parameter"


class UnsupportedEndpoint(Error):
    """The model exists, but its provider has nothing like this endpoint."""

    status = 400
    code = "unsupported_endpoint"


class KeyOfNoUse(Error):
    """A stored key opens, but no request can be signed with it. The message never shows it."""

    status = 424
    code = "key_of_no_use"


class Way(Struct, frozen=True):
    """How a call reaches its provider: the dialect spoken there, the base URL, and whether bytes are passed through."""

    dialect: str
    base_url: str
    is_passed: bool


def way(client: Client, provider: Provider, model: Model, key: Stored | None, *, has_tools: bool) -> Way:
    """Choose the dialect: the client's own where the provider speaks it, else the provider's first.

    A model that answers, or calls tools, only through the Responses API is asked there. Raises: UnsupportedEndpoint.
    """
    elsewhere = bool(key and key.base_url)
    spoken = [provider.dialect, *(name for name, path in provider.also.items() if not (path and elsewhere))]
    chosen = client.dialect if client.dialect in spoken else provider.dialect
    needed = "needs_responses" in model.capabilities or (
        has_tools and "needs_responses_for_tools" in model.capabilities
    )
    if chosen == "openai_chat" and needed and "openai_responses" in spoken:
        chosen = "openai_responses"
    if chosen != client.dialect and client.translated is None:
        raise UnsupportedEndpoint(f"{provider.name} does not offer this endpoint for {model.id}.", param="model")
    base_url = key.effective_base_url() if key else provider.base_url
    return Way(chosen, _at(base_url, provider.also.get(chosen, "")), chosen == client.dialect)


@lru_cache(maxsize=2_000)
def _at(base_url: str, path: str) -> str:
    """Return the base URL, or another path behind its origin."""
    if not path:
        return base_url.rstrip("/")
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc}{path}"


def _usual_limits(stream: bool) -> Mapping[str, float]:
    return STREAM_LIMITS if stream else WHOLE_LIMITS


def limits(model: Model, asked: params.Timeouts | None, *, stream: bool) -> Mapping[str, float]:
    """Return the time-outs of an attempt, in seconds by phase; a request's own are within bounds already."""
    usual = _usual_limits(stream and model.thinking == "none")
    if asked is None:
        return usual
    own = dict(usual)
    if asked.total_s is not None:
        own["total"] = min(own["total"], asked.total_s)
        own["first_byte"] = max(own["first_byte"], asked.total_s)
    if asked.first_token_s is not None and stream:
        own["first_byte"] = asked.first_token_s
    return own


def order(client: Client, provider: Provider, model: Model, *, credits: bool, max_output: int | None) -> blocks.Order:
    """Return what the writers of the body have to know. `max_output` is the limit that replaces the client's."""
    return blocks.Order(
        model=model,
        max_output=max_output,
        credits=credits,
        ours=params.ours_beside(client.keeps),
        rename=provider.rename,
        repriced_by=provider.repriced_by,
        usage_in_stream=provider.usage_in_stream,
        variant=provider.variant,
    )


def decoded(client: Client, asked: wire.Asked) -> blocks.Request:
    """Return a request in the middle form. Raises: InvalidRequest; UnsupportedParameter."""
    assert client.translated is not None  # noqa: S101  (`way` has seen to it)
    try:
        return client.translated.decode(asked)
    except wire.InvalidBody as error:
        raise InvalidRequest(str(error), param=error.param) from error
    except blocks.Unsupported as error:
        raise UnsupportedParameter(str(error), param=error.param) from error


def check_files(asked: wire.Asked, provider: Provider, way: Way, *, on_credits: bool) -> None:
    """Check that the provider can have the files a request names by id. Raises: UnsupportedParameter."""
    if not (named := file_ids.named_in(asked)):
        return
    try:
        file_ids.check(
            named,
            dialect=way.dialect,
            keeps_files=files.keeps_files(provider),
            provider=provider.name,
            on_credits=on_credits,
        )
    except blocks.Unsupported as error:
        raise UnsupportedParameter(str(error), param=error.param) from error


def check_priced(asked: wire.Asked, model: Model) -> None:
    """Check that all a request holds has a price, for a call on credits. Raises: UnsupportedParameter."""
    if "audio" in model.unpriced and any(mark in asked.body for mark in _SOUND):
        raise UnsupportedParameter(
            f"Sound has a price of its own at {model.full_name}, which credits do not know: send text, or add a "
            "provider key of your own under Integrations.",
            param="messages",
        )


def written(exchange: Exchange, order: blocks.Order) -> blocks.Sent:
    """Return what to send. Raises: UnsupportedParameter."""
    try:
        return exchange.sent(order)
    except blocks.Unsupported as error:
        raise UnsupportedParameter(str(error), param=error.param) from error


async def sealed(
    sent: blocks.Sent,
    *,
    way: Way,
    provider: Provider,
    secret: str,
    headers: Mapping[str, str],
    stream: bool,
    transport: httpx.AsyncBaseTransport,
    limits: Mapping[str, float] | None = None,
    query: str = "",
) -> httpx.Request:
    """Return the request as it leaves, with the key where the provider wants it. Raises: Error (a key of no use)."""
    wanted = TARGETS[way.dialect].stream_type if stream else "application/json"
    leaving = {"content-type": "application/json", "user-agent": "respan/0.1", "accept": wanted, **headers}
    leaving.update(sent.headers)
    url = _url(way.base_url + sent.path + query)
    if secret:
        leaving.update(await _key_headers(provider.auth, secret, url, sent.body, leaving, transport))
    return upstream.post(url, headers=leaving, body=sent.body, limits=limits or _usual_limits(stream))


@lru_cache(maxsize=4_000)
def _url(url: str) -> str:
    """Return an address with what may not stand in one escaped."""
    return str(httpx.URL(url))


async def _key_headers(
    auth: str, secret: str, url: str, body: bytes, headers: Mapping[str, str], transport: httpx.AsyncBaseTransport
) -> Mapping[str, str]:
    if auth == "bearer":
        return {"authorization": f"Bearer {secret}"}
    if auth == "google" and secret.lstrip().startswith("{"):
        token = await google_account.token(secret, transport=transport, now=time.time())
        return {"authorization": f"Bearer {token}"}
    if auth == "google":  # Vertex's express mode: a plain key
        return {"x-goog-api-key": secret}
    if auth == "aws":
        try:
            return signing.aws_headers(secret, url=url, headers=headers, body=body, now=datetime.now(UTC))
        except ValueError as error:
            raise KeyOfNoUse(str(error)) from None
    return {auth: secret} if auth != "none" else {}


def client_headers(client: Client, meta: Mapping[str, Any], provider: Provider, *, own_key: bool) -> dict[str, str]:
    """Return the client's headers that a provider of the same dialect is sent."""
    headers = dict(_DEFAULTS.get(client.dialect, ()))
    wanted = [*_ANYWAY.get(client.dialect, ()), *(_WITH_OWN_KEY.get(client.dialect, ()) if own_key else ())]
    for name, header in wanted:
        value = meta.get(name)
        if value and value.isascii() and value.isprintable():
            headers[header] = value
    if not own_key and _FEATURES in headers:
        features = _at_usual_price(headers.pop(_FEATURES), provider.repriced_by)
        return headers | ({_FEATURES: features} if features else {})
    return headers


def client_query(client: Client, meta: Mapping[str, Any]) -> str:
    """Return what of the client's query a provider of the same dialect is sent: Anthropic's mark of its beta API."""
    is_beta = client.dialect == "anthropic" and "beta=true" in meta.get("QUERY_STRING", "").split("&")
    return "?beta=true" if is_beta else ""


def _at_usual_price(features: str, repriced_by: frozenset[str]) -> str:
    words = [word.strip() for word in features.split(",")]
    return ",".join(word for word in words if word and not word.startswith(tuple(repriced_by)))


def transport(provider: Provider, *, is_demo: bool) -> httpx.AsyncBaseTransport:
    """Return what the provider is reached by; only the demo may call servers on this machine."""
    return sandbox.TRANSPORT if provider.transport == "sandbox" else fetching(is_demo=is_demo)


def fetching(*, is_demo: bool) -> httpx.AsyncBaseTransport:
    """Return what files behind URLs are fetched by, whoever the provider is."""
    return outbound.transport(_DEMO_POLICY if is_demo else outbound.PUBLIC)


_DEMO_POLICY = outbound.Policy(loopback=True)
