"""The life of a call: read it, route it, open it, hold its credits, attempt it, close it.

Every admitted call is closed exactly once, whatever happens to its client: the record goes to the spool before the last
byte is released. Never knows a wire format (that is `dialects`), never opens a socket itself (that is `upstream`),
never settles money (that is the worker). Neighbours: `api.py` before it, `routing.py`, `upstream.py`,
`billing.ledger.hold` and `traces.intake` after it.
"""

import asyncio
import re
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
from billing.usage import Rates, Usage, affordable_output, worst
from gateway import credentials, params, routing, sandbox, upstream
from gateway.answers import LOG_ID, CallFailed, Relay, StreamAnswer, content_type, passed_on, refused, without_keys
from gateway.credentials import Stored
from gateway.dialects import openai_chat
from gateway.params import InvalidRequest, Params
from gateway.providers import Model, Provider, catalog
from gateway.routing import Offer, Target
from respan import ids, outbound
from respan.errors import Error
from traces import intake
from traces.spans import Accepted, Attempt, Counting, Finished

log = structlog.get_logger(__name__)

DEFAULT_MAX_OUTPUT = 4_096
# Below this many tokens an answer is not worth giving: refuse instead of clamping.
LEAST_CLAMPED_OUTPUT = 256
# The chat template around each message and tool, in tokens, at most.
TOKENS_PER_MESSAGE = 16
LARGE_BODY_BYTES = 512 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
# What a provider may learn of the client's request headers, and with an own key only.
_OWN_KEY_REQUEST_HEADERS = (
    ("HTTP_OPENAI_ORGANIZATION", "openai-organization"),
    ("HTTP_OPENAI_PROJECT", "openai-project"),
    ("HTTP_OPENAI_BETA", "openai-beta"),
)


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


class Call:
    """One call of one caller. `answer()` runs it to its response; a streamed response closes it later."""

    __slots__ = (
        "accepted_upstream", "asked", "attempts", "body", "caller", "clamped", "closed", "deadline", "dropped",
        "held_nano", "id", "log_id", "long_price", "max_output", "meta", "params", "started", "started_us",
        "stored_request", "target", "ttft_us",
    )  # fmt: skip

    def __init__(self, caller: Caller, meta: Mapping[str, Any], body: bytes) -> None:
        self.caller = caller
        self.meta = meta
        self.body = body
        self.id = ids.new_uuid()
        self.log_id = ids.encode("log", self.id)
        self.started = time.monotonic()
        self.started_us = time.time_ns() // 1000
        self.deadline = self.started + settings.RESPAN_TOTAL_TIMEOUT_S
        self.asked: openai_chat.Request | None = None
        self.params: Params = params.NONE
        self.target: Target[Stored, Priced] | None = None
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
                self.stored_request = await asyncio.to_thread(self._stored_request)
            target = self.target = await self._route(asked.model)
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

    def _read(self) -> openai_chat.Request:
        try:
            asked = self.asked = openai_chat.read(self.body)
        except openai_chat.InvalidBody as error:
            raise InvalidRequest(str(error), param=error.param) from error
        self.params = params.gather(asked.members, self.meta)
        return asked

    async def _route(self, name: str) -> Target[Stored, Priced]:
        own = await credentials.usable(self.caller.organization_id)
        current = await prices.current()
        offer = Offer(
            matches=catalog().find(name) or _unlisted(name, own),
            own=own,
            platform=await credentials.platform(),
            prices=current,
            keyless=keyless(),
            custom=custom_model,
        )
        target = routing.plan(name, offer, close_names=lambda: catalog().close_names(name))[0]
        if target.model.long_rates is not None:
            self.long_price = current.get((target.model.provider, target.model.long_price_id))
        return target

    def _open(self, asked: openai_chat.Request, target: Target[Stored, Priced]) -> None:
        """Write the `accepted` record: from here on this call ends as one trace, whatever dies.

        Raises: intake.SpoolUnavailable for a call on credits; others go on untraced (drops are counted).
        """
        if target.paid_by == "credits":
            if asked.max_output is None:
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

    def _worst(self, asked: openai_chat.Request, target: Target[Stored, Priced], output: int) -> int:
        bound = _input_bound(asked, target.model)
        return worst(input_tokens=bound, output_tokens=output * asked.n, rates=self._hold_rates(bound, target))

    async def _hold(self, asked: openai_chat.Request, target: Target[Stored, Priced]) -> None:
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

    async def _attempt(self, asked: openai_chat.Request, target: Target[Stored, Priced]) -> HttpResponseBase:
        provider = catalog().providers[target.model.provider]
        begun = time.monotonic()
        status: int | None = None
        failure: str | None = None
        try:
            response = await upstream.send(
                self._request(asked, target, provider), transport=self._transport(provider), deadline=self.deadline
            )
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
            own_key = target.paid_by == "own_key"
            headers = self._headers(response)
            raise await refused(response, provider=provider.name, secret=self.secret, own_key=own_key, headers=headers)
        self.accepted_upstream = True
        if content_type(response).startswith("text/event-stream"):
            relay = Relay(self, response, include_usage=asked.include_usage)
            return StreamAnswer(relay, headers=self._headers(response))
        return await self._whole(response)

    @property
    def secret(self) -> str:
        """Return the key the provider was sent: what it says of errors may repeat it."""
        return self.target.key.secret().reveal() if self.target and self.target.key else ""

    def _request(self, asked: openai_chat.Request, target: Target[Stored, Priced], provider: Provider) -> httpx.Request:
        key = target.key
        secret = key.secret().reveal() if key else ""
        headers = {
            "content-type": "application/json",
            "user-agent": "respan/0.1",
            "accept": "text/event-stream" if asked.stream else "application/json",
        }
        if secret:
            headers["authorization"] = f"Bearer {secret}"
        if target.paid_by == "own_key":
            for name, header in _OWN_KEY_REQUEST_HEADERS:
                if name in self.meta:
                    headers[header] = self.meta[name]
        base = key.effective_base_url() if key else provider.base_url
        return upstream.post(
            _url(base),
            headers=headers,
            body=self._upstream_body(asked, target, provider),
            limits=_STREAM_LIMITS if asked.stream else _WHOLE_LIMITS,
        )

    def _upstream_body(self, asked: openai_chat.Request, target: Target[Stored, Priced], provider: Provider) -> bytes:
        """Return the body for the provider: the client's bytes where nothing has to change."""
        model = target.model
        drop = asked.members.keys() & params.OURS
        if "metadata" in drop and asked.members.get("store") == b"true":
            drop = drop - {"metadata"}  # OpenAI keeps it with a stored completion
        left_out = asked.members.keys() & model.unsupported
        if target.paid_by == "credits":
            left_out |= asked.members.keys() & provider.repriced_by  # the price we hold and charge is the usual one
        self.dropped = tuple(sorted(left_out))
        set_members: dict[str, bytes] = {}
        limit = self.max_output or asked.max_output
        if limit is not None and (target.paid_by == "credits" or model.max_tokens_field not in asked.members):
            # The limit that was held is the only one that is sent, under the name this provider reads.
            drop = drop | (asked.members.keys() & {"max_tokens", "max_completion_tokens"})
            set_members[model.max_tokens_field] = str(limit).encode()
        if asked.stream and provider.usage_in_stream and not asked.include_usage:
            set_members["stream_options"] = openai_chat.with_usage(asked.members.get("stream_options"))
        for old, new in provider.rename.items():
            if old in asked.members:
                set_members[new] = bytes(asked.members[old])
                drop = drop | {old}
        return openai_chat.patched(asked, model=model.upstream, drop=drop | left_out, set_members=set_members)

    def _transport(self, provider: Provider) -> httpx.AsyncBaseTransport:
        if provider.transport == "sandbox":
            return sandbox.TRANSPORT
        return outbound.transport(_DEMO_POLICY if self.caller.is_demo else outbound.PUBLIC)

    async def _whole(self, response: httpx.Response) -> HttpResponseBase:
        body = await upstream.read(response, MAX_ANSWER_BYTES)
        answer = openai_chat.read_json(body)
        headers = self._headers(response)
        if answer.error is not None:  # some providers send their errors with a status of success
            body = without_keys(body, self.secret)
            shown = body if openai_chat.is_error_body(body) else None
            message = openai_chat.error_message(body) or answer.error
            raise CallFailed(502, message, body=shown, headers=headers)
        self.close(status="ok", answer=answer, response_body=body)
        return HttpResponse(body, status=response.status_code, content_type=content_type(response), headers=headers)

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
        answer: openai_chat.Answer | None = None,
        response_body: bytes | None = None,
    ) -> None:
        """Write the one `finished` record. Does nothing the second time; never raises."""
        if self.closed:
            return
        self.closed = True
        try:
            intake.finished(self._record(status, error, answer or openai_chat.NOTHING, response_body))
        except Exception:
            log.exception("call not recorded", call=self.log_id)

    def _record(
        self, status: str, error: Error | None, answer: openai_chat.Answer, response_body: bytes | None
    ) -> Finished:
        target, asked = self.target, self.asked
        trace_id, parent_span_id = _trace_context(self.meta)
        request, request_truncated = self.stored_request or self._stored_request()
        if isinstance(error, CallFailed):
            response_body = error.body
        response, response_truncated = (None, False)
        if response_body is not None and self._keeps_content:
            response, response_truncated = intake.redact(response_body)
        usage, usage_source, counting = self._usage(answer)
        warnings = [
            *self.params.warnings,
            *(f"{name} is not supported by this model and was left out" for name in self.dropped),
        ]
        return Finished(
            id=self.id,
            organization_id=self.caller.organization_id,
            api_key_id=self.caller.api_key_id,
            environment=self.caller.environment,
            trace_id=trace_id,
            parent_span_id=parent_span_id,
            name="chat.completions",
            log_type="chat",
            started_us=self.started_us,
            duration_us=int((time.monotonic() - self.started) * 1_000_000),
            ttft_us=self.ttft_us,
            status=status,
            http_status=error.status if error else 499 if status == "aborted" else 200,
            stream=asked.stream if asked else False,
            provider=target.model.provider if target else None,
            request_model=asked.model[:200] if asked else "",
            response_model=answer.model,
            credential=target.key.public_id if target and target.key else None,
            paid_by=target.paid_by if target else "nobody",
            held=self.held_nano > 0,
            rates_id=self._rates_id(usage),
            free=target is None or target.paid_by == "free",
            usage=usage,
            usage_source=usage_source,
            counting=counting,
            finish_reason=answer.finish_reason,
            error_code=error.code if error else "client_closed" if status == "aborted" else None,
            error_message=self._kept_message(error) if error else None,
            customer_identifier=self.params.customer_identifier,
            customer_name=self.params.customer_name,
            customer_email=self.params.customer_email,
            custom_identifier=self.params.custom_identifier,
            thread_identifier=self.params.thread_identifier,
            metadata=self.params.metadata,
            warnings=warnings,
            attempts=self.attempts,
            request_body=request,
            response_body=response,
            request_truncated=request_truncated,
            response_truncated=response_truncated,
            disable_log=self.params.disable_log,
        )

    def _rates_id(self, usage: Usage | None) -> int | None:
        """Return the version of the rates this call is charged at: by its real input, where a long one costs more."""
        if self.target is None or self.target.price is None:
            return None
        above = self.target.model.long_above_tokens
        if self.long_price is not None and usage is not None and above is not None and usage.input_tokens > above:
            return self.long_price.rates_id
        return self.target.price.rates_id

    def _stored_request(self) -> tuple[bytes | None, bool]:
        """Return the request as it may be kept: without Respan's own members, which may hold provider keys."""
        if not self._keeps_content:
            return None, False
        if self.asked is None:
            return None, False  # unreadable: it might be anything
        ours = self.asked.members.keys() & params.OURS
        return intake.redact(openai_chat.patched(self.asked, drop=ours) if ours else self.body)

    @property
    def _keeps_content(self) -> bool:
        return not (self.params.disable_log or self.caller.zero_retention)

    def _kept_message(self, error: Error) -> str:
        """Return what is kept of an error's text: a provider's, and some of ours, repeat what they were asked."""
        return _NOT_KEPT if self.caller.zero_retention else error.message[:2_000]

    def _usage(self, answer: openai_chat.Answer) -> tuple[Usage | None, str, Counting | None]:
        """Return the usage and its source; where the provider reported none, what the worker counts instead."""
        if answer.usage is not None:
            return answer.usage, "exact", None
        counting = self._counting(answer) if self.accepted_upstream else None
        if counting is not None and self.caller.zero_retention:
            return _estimated(counting), "counted", None
        return None, "none", counting

    def _counting(self, answer: openai_chat.Answer) -> Counting | None:
        """Return what the worker counts, because the provider has not reported usage."""
        if self.asked is None:
            return None
        return Counting(
            input_text=openai_chat.input_text(self.asked), output_text=answer.output_text, images=self.asked.images
        )


_NOT_KEPT = "The text of this error was not kept: this key keeps no content."
# About what a token is in UTF-8, across languages and code.
_BYTES_PER_TOKEN = 4
_TOKENS_PER_IMAGE = 1_000


def _estimated(counting: Counting) -> Usage:
    """Return about how many tokens a call used: with zero retention no text may reach the worker that counts."""
    images = _TOKENS_PER_IMAGE * counting.images
    return Usage(
        input_tokens=-(-len(counting.input_text.encode(errors="replace")) // _BYTES_PER_TOKEN) + images,
        output_tokens=-(-len(counting.output_text.encode(errors="replace")) // _BYTES_PER_TOKEN),
    )


_DEMO_POLICY = outbound.Policy(loopback=True)
_STREAM_LIMITS = {
    "connect": settings.RESPAN_CONNECT_TIMEOUT_S,
    "first_byte": settings.RESPAN_FIRST_BYTE_TIMEOUT_S,
    "read": settings.RESPAN_GAP_TIMEOUT_S,
    "total": settings.RESPAN_TOTAL_TIMEOUT_S,
}
# A whole answer's head comes when all of it is written.
_WHOLE_LIMITS = {**_STREAM_LIMITS, "first_byte": settings.RESPAN_ANSWER_TIMEOUT_S}


def _unlisted(name: str, own: tuple[Stored, ...]) -> list[Model]:
    """Return a model the catalogue does not list (a fine-tune), where an own key of its named provider may know it."""
    prefix, _, rest = name.partition("/")
    provider = catalog().providers.get(prefix)
    if not rest or provider is None or prefix == routing.CUSTOM or not any(key.provider == prefix for key in own):
        return []
    return [provider.unlisted(rest)]


@lru_cache(maxsize=2_000)
def _url(base_url: str) -> httpx.URL:
    return httpx.URL(f"{base_url.rstrip('/')}/chat/completions")


def _input_bound(asked: openai_chat.Request, model: Model) -> int:
    """Return the most input tokens a request can cost: a token is never less than a byte of UTF-8 text."""
    return asked.input_bytes + TOKENS_PER_MESSAGE * asked.message_count + model.image_tokens * asked.images


def _trace_context(meta: Mapping[str, Any]) -> tuple[bytes | None, bytes | None]:
    """Return trace and parent span id of a valid W3C traceparent header, else nothing. Never forwarded."""
    header = meta.get("HTTP_TRACEPARENT")
    match = _TRACEPARENT.fullmatch(header) if header else None
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return None, None
    return bytes.fromhex(match[1]), bytes.fromhex(match[2])
