"""The life of a call: read it, route it, open it, hold its credits, attempt it, close it.

Every admitted call is closed exactly once, whatever happens to its client: the record goes to the spool before the last
byte is released. Never knows a wire format (that is `dialects`), never opens a socket itself (that is `upstream`),
never settles money (that is the worker). Neighbours: `api.py` before it, `routing.py`, `upstream.py`,
`billing.ledger.hold` and `traces.intake` after it.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import httpx
import structlog
from django.conf import settings
from django.http import HttpResponse, HttpResponseBase

from accounts.keys import Caller
from billing import ledger, prices
from billing.prices import Priced
from billing.usage import Rates, affordable_output, worst
from gateway import attachments, credentials, files, outgoing, params, routing, upstream
from gateway.answers import LOG_ID, Relay, StreamAnswer, content_type, failed, passed_on, refused, without_keys
from gateway.credentials import Stored
from gateway.dialects import file_ids, openai_chat, variables, wire
from gateway.dialects.exchange import JSON, Exchange, Passing, Translating
from gateway.dialects.registry import EVENTS, TARGETS, Client
from gateway.dialects.wire import Asked, Context, Named
from gateway.outgoing import Way
from gateway.params import InvalidRequest, Params
from gateway.providers import Model, Provider, catalog
from gateway.recording import record, stored_request
from gateway.routing import Offer, Target
from respan import ids
from respan.errors import Error
from traces import intake
from traces.spans import Accepted, Attempt

log = structlog.get_logger(__name__)

DEFAULT_MAX_OUTPUT = 4_096
# Below this many tokens an answer is not worth giving: refuse instead of clamping.
LEAST_CLAMPED_OUTPUT = 256
# The chat template around each message and tool, in tokens, at most.
TOKENS_PER_MESSAGE = 16
LARGE_BODY_BYTES = 512 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024


@lru_cache(maxsize=1)
def keyless() -> frozenset[str]:
    """Return the providers that need no key (the sandbox)."""
    providers = catalog().providers.values()
    return frozenset(
        provider.id for provider in providers if provider.auth == "none" and not provider.credential_fields
    )


def custom_model(key: Stored, name: str) -> Model:
    """Return the model of a custom provider's key: the catalogue knows nothing about it."""
    return catalog().providers[key.provider].unlisted(name)


async def offered(name: str, organization_id: int, asked: Asked | None = None) -> Offer[Stored, Priced]:
    """Return what there is to answer a model's name with. Of the organization's keys those come first whose accounts
    have the files that `asked` names. Raises: Error, when not even what is remembered can be used.
    """
    own = await credentials.usable(organization_id)
    if asked is not None and (named := file_ids.named_in(asked)):
        owners = (await files.owner_of(organization_id, [file.file_id for file in named])).values()
        own = tuple(sorted(own, key=lambda key: key.public_id not in owners))
    return Offer(
        matches=catalog().find(name) or _unlisted(name, own),
        own=own,
        platform=await credentials.platform(),
        prices=await prices.current(),
        keyless=keyless(),
        custom=custom_model,
    )


class Call:
    """One call of one caller. `answer()` runs it to its response; a streamed response closes it later."""

    __slots__ = (
        "accepted_upstream", "asked", "attempts", "body", "caller", "clamped", "client", "closed", "deadline",
        "dropped", "exchange", "held_nano", "id", "log_id", "long_price", "max_output", "meta", "named", "params",
        "started", "started_us", "stored_request", "target", "ttft_us", "way",
    )  # fmt: skip

    def __init__(
        self, caller: Caller, meta: Mapping[str, Any], body: bytes, *, client: Client, named: Named | None = None
    ) -> None:
        self.caller = caller
        self.client = client
        self.named = named  # what the address says instead of the body
        self.meta = meta
        self.body = body
        self.id = ids.new_uuid()
        self.log_id = ids.encode("log", self.id)
        self.started = time.monotonic()
        self.started_us = time.time_ns() // 1000
        self.deadline = self.started + settings.RESPAN_TOTAL_TIMEOUT_S
        self.asked: Asked | None = None
        self.params: Params = params.NONE
        self.target: Target[Stored, Priced] | None = None
        self.way: Way | None = None
        self.exchange: Exchange | None = None
        self.long_price: Priced | None = None  # what the provider charges for a whole call with a long input
        self.clamped = False
        self.max_output: int | None = None  # what we set because the client set nothing (credits only)
        self.dropped: tuple[str, ...] = ()
        self.held_nano = 0
        self.accepted_upstream = False
        self.attempts: list[Attempt] = []
        self.stored_request: tuple[bytes | None, bool] | None = None
        self.ttft_us: int | None = None
        self.closed = False

    async def answer(self) -> HttpResponseBase:
        """Run the call. Raises: Error, after the call was closed with it; asyncio.CancelledError likewise."""
        try:
            asked = self._read()
            if len(self.body) > LARGE_BODY_BYTES:
                # Hashing data URLs takes 3 ms a MiB: not on the loop.
                self.stored_request = await asyncio.to_thread(stored_request, self)
            target = self.target = await self._route(asked.model)
            await self._prepare(asked, target)
            self._open(asked, target)
            await self._hold(asked, target)
            return await self._attempt(asked, target)
        except Error as error:
            self.close(status="error", error=error)
            error.headers[LOG_ID] = self.log_id
            raise
        except asyncio.CancelledError:
            self.close(status="aborted")
            raise
        except Exception as error:
            log.exception("call failed", call=self.log_id)
            refusal = Error(headers={LOG_ID: self.log_id})
            self.close(status="error", error=refusal)
            raise refusal from error

    # --- before the provider ---------------------------------------------------------------------------------------

    def _read(self) -> Asked:
        try:
            asked = self.asked = self.client.read(self.body, named=self.named)
            self.params = params.gather(asked.members, self.meta, not_ours=self.client.keeps)
            if self.params.variables and isinstance(asked, openai_chat.Request):
                filled = variables.filled(asked.members, asked.messages, self.params.variables)
                if filled is not None:
                    asked = self.asked = openai_chat.read(wire.patched(asked, set_members={"messages": filled}))
        except wire.InvalidBody as error:
            raise InvalidRequest(str(error), param=error.param) from error
        return asked

    async def _route(self, name: str) -> Target[Stored, Priced]:
        offer = await offered(name, self.caller.organization_id, self.asked)
        targets = routing.plan(name, offer, close_names=lambda: catalog().close_names(name))
        target = self._fitting(targets)
        if target.model.long_rates is not None:
            self.long_price = offer.prices.get((target.model.provider, target.model.long_price_id))
        return target

    def _fitting(self, targets: list[Target[Stored, Priced]]) -> Target[Stored, Priced]:
        """Return the first target this endpoint can use. Raises: UnsupportedEndpoint; NothingToPayWith."""
        client, first = self.client, targets[0].model
        fitting = [target for target in targets if target.model.kind == client.kind or not _is_listed(target.model)]
        if not fitting:
            raise outgoing.UnsupportedEndpoint(
                f"{first.full_name} is for another endpoint: the catalogue lists it as {first.kind}.", param="model"
            )
        payable = [target for target in fitting if client.sells or target.paid_by != "credits"]
        if not payable:
            raise routing.NothingToPayWith(
                f"Credits do not cover this endpoint: add a provider key for {first.provider} under Integrations.",
                param="model",
            )
        return payable[0]

    async def _prepare(self, asked: Asked, target: Target[Stored, Priced]) -> None:
        """Settle how the provider will be spoken to, and read all that a translation needs. Raises: Error."""
        provider, client = catalog().providers[target.model.provider], self.client
        way = self.way = outgoing.way(client, provider, target.model, target.key, has_tools=asked.has_tools)
        on_credits = target.paid_by == "credits"
        outgoing.check_files(asked, provider, way, on_credits=on_credits)
        if on_credits:
            outgoing.check_priced(asked, target.model)
        if way.is_passed:
            self.exchange = Passing(client, asked)
            return
        request = outgoing.decoded(client, asked)
        if kinds := TARGETS[way.dialect].fetches:
            transport = outgoing.fetching(is_demo=self.caller.is_demo)
            await attachments.inline(request, transport=transport, asked=asked, kinds=kinds)
        context = Context(call_id=self.id.hex, created=self.started_us // 1_000_000)
        self.exchange = Translating(client, TARGETS[way.dialect], asked, request, context)

    def _open(self, asked: Asked, target: Target[Stored, Priced]) -> None:
        """Write the `accepted` record: from here on this call ends as one trace, whatever dies.

        Raises: intake.SpoolUnavailable for a call on credits; others go on untraced (drops are counted).
        """
        if target.paid_by == "credits":
            if asked.max_output is None and self.client.writes:
                self.max_output = min(target.model.max_output_tokens or DEFAULT_MAX_OUTPUT, DEFAULT_MAX_OUTPUT)
            self.held_nano = self._worst(asked, target, self.max_output or asked.max_output or 0)
        try:
            intake.opened(
                Accepted(
                    id=self.id,
                    organization_id=self.caller.organization_id,
                    api_key_id=self.caller.api_key_id,
                    environment=self.caller.environment,
                    started_us=self.started_us,
                    deadline_us=self.started_us + int(settings.RESPAN_TOTAL_TIMEOUT_S * 1_000_000),
                    model=asked.model,
                    stream=asked.stream,
                    held_nano=self.held_nano,
                )
            )
        except intake.SpoolUnavailable:
            if target.paid_by == "credits":
                self.held_nano = 0
                raise

    def _hold_rates(self, input_bound: int, target: Target[Stored, Priced]) -> Rates:
        """Return the rates to hold at: those of a long input where the input may turn out to be one."""
        assert target.price is not None  # noqa: S101  (routing sells nothing without a price)
        above = target.model.long_above_tokens
        is_long = self.long_price is not None and above is not None and input_bound > above
        return self.long_price.rates if self.long_price is not None and is_long else target.price.rates

    def _worst(self, asked: Asked, target: Target[Stored, Priced], output: int) -> int:
        bound = _input_bound(asked, target.model)
        return worst(input_tokens=bound, output_tokens=output * asked.n, rates=self._hold_rates(bound, target))

    async def _hold(self, asked: Asked, target: Target[Stored, Priced]) -> None:
        """Hold the worst case. Without a limit of the client's own, a smaller one that fits is set instead.

        From the moment a hold is asked for, `held_nano` stays set unless it was refused for certain: the finished
        record then releases whatever the ledger did. Raises: InsufficientCredits, LedgerUnavailable.
        """
        if not self.held_nano or target.price is None:
            return
        try:
            await self._ask_for_hold()
            return
        except ledger.InsufficientCredits as error:
            self.held_nano = 0
            bound = _input_bound(asked, target.model)
            rates = self._hold_rates(bound, target)
            affordable = affordable_output(available=error.available_nano, input_tokens=bound, rates=rates) // asked.n
            if self.max_output is None or affordable < LEAST_CLAMPED_OUTPUT:
                error.extra["affordable_max_tokens"] = max(affordable, 0)
                raise
        self.max_output = min(affordable, self.max_output)
        self.clamped = True
        self.held_nano = self._worst(asked, target, self.max_output)
        try:
            await self._ask_for_hold()
        except ledger.InsufficientCredits:
            self.held_nano = 0
            raise

    async def _ask_for_hold(self) -> None:
        deadline = datetime.fromtimestamp(self.started_us / 1_000_000, UTC)
        await ledger.hold(
            ledger.HoldRequest(
                id=self.id,
                organization_id=self.caller.organization_id,
                amount_nano=self.held_nano,
                owner=intake.owner(),
                deadline_at=deadline + timedelta(seconds=settings.RESPAN_TOTAL_TIMEOUT_S),
            )
        )

    # --- the provider ----------------------------------------------------------------------------------------------

    async def _attempt(self, asked: Asked, target: Target[Stored, Priced]) -> HttpResponseBase:
        provider = catalog().providers[target.model.provider]
        transport = outgoing.transport(provider, is_demo=self.caller.is_demo)
        begun = time.monotonic()
        status: int | None = None
        failure: str | None = None
        try:
            request = await self._request(asked, target, provider, transport)
            response = await upstream.send(request, transport=transport, deadline=self.deadline)
            status = response.status_code
        except Error as error:
            failure = error.code
            raise
        finally:
            self.attempts.append(
                Attempt(
                    provider=provider.id,
                    model=target.model.upstream,
                    credential=target.key.public_id if target.key else None,
                    started_us=self.started_us + int((begun - self.started) * 1_000_000),
                    duration_us=int((time.monotonic() - begun) * 1_000_000),
                    status=status,
                    error=failure,
                    reason="first",
                )
            )
        if status >= 400:
            raise await refused(self, response, provider=provider.name, headers=self._headers(response))
        self.accepted_upstream = True
        exchange, kind = self.exchange, content_type(response)
        assert exchange is not None  # noqa: S101  (`_prepare` has made it)
        # A provider may stream unasked (sound always): passed on as it comes, unless it is a whole answer in JSON.
        is_stream = asked.stream or (exchange.is_passed and not kind.startswith(JSON))
        if is_stream and kind.startswith(exchange.stream_type):
            relay = Relay(self, response, exchange.reader())
            shown = self.client.stream_type(asked) if kind.startswith(EVENTS) or not exchange.is_passed else kind
            return StreamAnswer(relay, headers=self._headers(response), content_type=shown)
        return await self._whole(exchange, response, kind)

    @property
    def secret(self) -> str:
        """Return the key the provider was sent: what it says of errors may repeat it."""
        return self.target.key.secret().reveal() if self.target and self.target.key else ""

    async def _request(
        self, asked: Asked, target: Target[Stored, Priced], provider: Provider, transport: httpx.AsyncBaseTransport
    ) -> httpx.Request:
        exchange, way = self.exchange, self.way
        assert exchange is not None and way is not None  # noqa: S101, PT018  (`_prepare` has made them)
        on_credits = target.paid_by == "credits"
        # The limit that was held is the only one that is sent.
        limit = self.max_output or (asked.max_output if on_credits else None)
        order = outgoing.order(self.client, provider, target.model, credits=on_credits, max_output=limit)
        sent = outgoing.written(exchange, order)
        self.dropped = tuple(sent.dropped)
        headers: Mapping[str, str] = {}
        if exchange.is_passed:
            headers = self._client_headers(provider, own_key=target.paid_by == "own_key")
        return await outgoing.sealed(
            sent,
            way=way,
            provider=provider,
            secret=target.key.secret().reveal() if target.key else "",
            headers=headers,
            stream=asked.stream,
            transport=transport,
            query=outgoing.client_query(self.client, self.meta) if exchange.is_passed else "",
        )

    def _client_headers(self, provider: Provider, *, own_key: bool) -> Mapping[str, str]:
        return outgoing.client_headers(self.client, self.meta, provider, own_key=own_key)

    async def _whole(self, exchange: Exchange, response: httpx.Response, kind: str) -> HttpResponseBase:
        body = await upstream.read(response, MAX_ANSWER_BYTES)
        headers = self._headers(response)
        whole = exchange.whole(body, kind)
        if whole.answer.error is not None:  # some providers send their errors with a status of success
            raise failed(self, without_keys(body, self.secret), whole.answer.error, headers)
        self.close(status="ok", answer=whole.answer, response_body=whole.kept)
        return HttpResponse(whole.body, status=response.status_code, content_type=whole.content_type, headers=headers)

    def _headers(self, response: httpx.Response) -> dict[str, str]:
        own_key = self.target is not None and self.target.paid_by == "own_key"
        headers = passed_on(response, own_key=own_key)
        headers[LOG_ID] = self.log_id
        headers["Cache-Control"] = "private, no-store"
        if self.dropped:
            headers["X-Respan-Dropped-Params"] = ", ".join(self.dropped)
        if self.clamped and self.max_output:
            headers["X-Respan-Max-Tokens"] = str(self.max_output)
        return headers

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(
        self,
        *,
        status: str,
        error: Error | None = None,
        answer: wire.Answer | None = None,
        response_body: bytes | None = None,
    ) -> None:
        """Write the one `finished` record. Does nothing the second time; never raises."""
        if self.closed:
            return
        self.closed = True
        try:
            intake.finished(
                record(self, status=status, error=error, answer=answer or wire.NOTHING, response_body=response_body)
            )
        except Exception:
            log.exception("call not recorded", call=self.log_id)


def _is_listed(model: Model) -> bool:
    return model.id in catalog().providers[model.provider].models


def _unlisted(name: str, own: tuple[Stored, ...]) -> list[Model]:
    """Return a model the catalogue does not list (a fine-tune), where an own key of its named provider may know it."""
    prefix, _, rest = name.partition("/")
    provider = catalog().providers.get(prefix)
    if not rest or provider is None or prefix == routing.CUSTOM or not any(key.provider == prefix for key in own):
        return []
    return [provider.unlisted(rest)]


# A document's pages are read as pictures too: its bytes are no bound.
_DOCUMENTS = (b'"file_data"', b"application/pdf", b'"document"')


def _input_bound(asked: Asked, model: Model) -> int:
    """Return the most input tokens a request can cost: a token is never less than a byte of UTF-8 text."""
    bound = asked.input_bytes + TOKENS_PER_MESSAGE * asked.message_count + model.image_tokens * asked.images
    if model.context_tokens and any(mark in asked.body for mark in _DOCUMENTS):
        return max(bound, model.context_tokens)
    return bound
