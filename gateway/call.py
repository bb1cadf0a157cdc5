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
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse

from accounts.keys import Caller
from billing import ledger, prices
from billing.prices import Priced
from billing.usage import affordable_output, worst
from gateway import credentials, params, routing, sandbox, upstream
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

LOG_ID = "X-Respan-Log-Id"
DEFAULT_MAX_OUTPUT = 4_096
# Below this many tokens an answer is not worth giving: refuse instead of clamping.
LEAST_CLAMPED_OUTPUT = 256
# The chat template around each message and tool, in tokens, at most.
TOKENS_PER_MESSAGE = 16
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 256 * 1024
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
# Fragments of keys that providers put into their error messages.
_KEY_FRAGMENT = re.compile(rb"\b(?:sk|gsk|xai|pk|key)-?[A-Za-z0-9_-]*[*.]{2,}[A-Za-z0-9_-]*|\bsk-[A-Za-z0-9_-]{16,}")

# What a provider may learn of the client's request headers, and with an own key only.
_OWN_KEY_REQUEST_HEADERS = (
    ("HTTP_OPENAI_ORGANIZATION", "openai-organization"),
    ("HTTP_OPENAI_PROJECT", "openai-project"),
    ("HTTP_OPENAI_BETA", "openai-beta"),
)
# What a client may learn of the provider's response headers; the second list with an own key only.
_RESPONSE_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")
_OWN_KEY_RESPONSE_HEADERS = ("openai-processing-ms", "openai-version")


class CallFailed(Error):
    """The provider answered with an error: same status family, its message, never a key.

    `body` is the provider's own body where it may be shown as it came.
    """

    code = "upstream_error"

    def __init__(self, status: int, message: str, *, body: bytes | None, headers: dict[str, str]) -> None:
        super().__init__(message, headers=headers)
        self.status = status  # type: ignore[misc]
        self.body = body


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
        "accepted_upstream", "asked", "attempt", "attempts", "body", "caller", "closed", "deadline", "dropped",
        "held_nano", "id", "log_id", "max_output", "meta", "params", "started", "started_us", "target", "ttft_us",
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
        self.max_output: int | None = None  # what we set because the client set nothing (credits only)
        self.dropped: tuple[str, ...] = ()
        self.held_nano = 0
        self.accepted_upstream = False
        self.attempts: list[Attempt] = []
        self.ttft_us: int | None = None
        self.closed = False

    async def answer(self) -> HttpResponseBase:
        """Run the call. Raises: Error, after the call was closed with it; asyncio.CancelledError likewise."""
        try:
            asked = self._read()
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
        offer = Offer(
            matches=catalog().find(name),
            own=own,
            platform=await credentials.platform(),
            prices=await prices.current(),
            keyless=keyless(),
            custom=custom_model,
        )
        return routing.plan(name, offer, close_names=lambda: catalog().close_names(name))[0]

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

    def _worst(self, asked: openai_chat.Request, target: Target[Stored, Priced], output: int) -> int:
        assert target.price is not None  # noqa: S101  (routing sells nothing without a price)
        return worst(
            input_tokens=_input_bound(asked, target.model), output_tokens=output * asked.n, rates=target.price.rates
        )

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
            affordable = affordable_output(
                available=error.available_nano,
                input_tokens=_input_bound(asked, target.model),
                rates=target.price.rates,
            )
            affordable //= asked.n
            if self.max_output is None or affordable < LEAST_CLAMPED_OUTPUT:
                error.extra["affordable_max_tokens"] = max(affordable, 0)
                raise
        self.max_output = min(affordable, self.max_output)
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
            raise await self._failure(response, target, provider)
        self.accepted_upstream = True
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            reader = openai_chat.StreamReader(include_usage=asked.include_usage)
            return StreamAnswer(Relay(self, response, reader), headers=self._headers(response))
        return await self._whole(response)

    def _request(self, asked: openai_chat.Request, target: Target[Stored, Priced], provider: Provider) -> httpx.Request:
        key = target.key
        secret = key.secret().reveal() if key else None
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream" if asked.stream else "application/json",
            "accept-encoding": "identity",
            "user-agent": "respan/0.1",
        }
        if secret:
            headers["authorization"] = f"Bearer {secret}"
        if target.paid_by == "own_key":
            for name, header in _OWN_KEY_REQUEST_HEADERS:
                if name in self.meta:
                    headers[header] = self.meta[name]
        base = key.effective_base_url() if key else provider.base_url
        return httpx.Request(
            "POST",
            _url(base),
            headers=headers,
            content=self._upstream_body(asked, target, provider),
            extensions={"timeout": _TIMEOUTS},
        )

    def _upstream_body(self, asked: openai_chat.Request, target: Target[Stored, Priced], provider: Provider) -> bytes:
        """Return the body for the provider: the client's bytes where nothing has to change."""
        model = target.model
        drop = asked.members.keys() & params.OURS
        if "metadata" in drop and asked.members.get("store") == b"true":
            drop = drop - {"metadata"}  # OpenAI keeps it with a stored completion
        refused = asked.members.keys() & model.unsupported
        self.dropped = tuple(sorted(refused))
        set_members: dict[str, bytes] = {}
        limit = self.max_output or asked.max_output
        if limit is not None and (self.max_output or model.max_tokens_field not in asked.members):
            drop = drop | (asked.members.keys() & {"max_tokens", "max_completion_tokens"})
            set_members[model.max_tokens_field] = str(limit).encode()
        if asked.stream and provider.usage_in_stream and not asked.include_usage:
            set_members["stream_options"] = openai_chat.with_usage(asked.members.get("stream_options"))
        for old, new in provider.rename.items():
            if old in asked.members:
                set_members[new] = bytes(asked.members[old])
                drop = drop | {old}
        return openai_chat.patched(asked, model=model.upstream, drop=drop | refused, set_members=set_members)

    def _transport(self, provider: Provider) -> httpx.AsyncBaseTransport:
        if provider.transport == "sandbox":
            return sandbox.TRANSPORT
        return outbound.transport(_DEMO_POLICY if self.caller.is_demo else outbound.PUBLIC)

    async def _failure(
        self, response: httpx.Response, target: Target[Stored, Priced], provider: Provider
    ) -> CallFailed:
        """Turn the provider's refusal into ours.

        With an own key its body goes on as it came, less what looks like a key. On credits the operator's troubles with
        a key (401, 402, 403) are not the caller's: 502, and nothing of the provider's text.
        """
        body = await upstream.read(response, MAX_ERROR_BYTES)
        status = response.status_code
        if target.paid_by != "own_key" and status in (401, 402, 403):
            message = f"{provider.name} refused the operator's key ({status}). Tell the operator of this installation."
            return CallFailed(502, message, body=None, headers={})
        secret = target.key.secret().reveal() if target.key else ""
        body = _without_keys(body, secret)
        message = openai_chat.error_message(body) or f"{provider.name} answered {status}."
        shown = body if openai_chat.is_error_body(body) else None
        return CallFailed(status, message, body=shown, headers=self._headers(response))

    async def _whole(self, response: httpx.Response) -> HttpResponseBase:
        body = await upstream.read(response, MAX_ANSWER_BYTES)
        answer = openai_chat.read_json(body)
        headers = self._headers(response)
        self.close(status="error" if answer.error else "ok", answer=answer, response_body=body)
        content_type = response.headers.get("content-type", "application/json")
        return HttpResponse(body, status=response.status_code, content_type=content_type, headers=headers)

    def _headers(self, response: httpx.Response) -> dict[str, str]:
        own_key = self.target is not None and self.target.paid_by == "own_key"
        headers = {LOG_ID: self.log_id, "Cache-Control": "private, no-store"}
        for name in _RESPONSE_HEADERS:
            if name in response.headers:
                headers[name] = response.headers[name]
        if own_key:
            for name, value in response.headers.items():
                if name in _OWN_KEY_RESPONSE_HEADERS or name.startswith("x-ratelimit-"):
                    headers[name] = value
        if own_key and "x-request-id" in response.headers:
            headers["X-Respan-Upstream-Request-Id"] = response.headers["x-request-id"]
        if self.dropped:
            headers["X-Respan-Dropped-Params"] = ", ".join(self.dropped)
        if self.max_output and self.max_output < DEFAULT_MAX_OUTPUT:
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
        request, request_truncated = self._stored_request()
        if isinstance(error, CallFailed):
            response_body = error.body
        response, response_truncated = (None, False)
        if response_body is not None and not self.params.disable_log:
            response, response_truncated = intake.redact(response_body)
        usage = answer.usage
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
            rates_id=target.price.rates_id if target and target.price else None,
            free=target is None or target.paid_by == "free",
            usage=usage,
            usage_source="exact" if usage else "none",
            counting=self._counting(answer) if usage is None and self.accepted_upstream else None,
            finish_reason=answer.finish_reason,
            error_code=error.code if error else "client_closed" if status == "aborted" else None,
            error_message=error.message[:2_000] if error else None,
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

    def _stored_request(self) -> tuple[bytes | None, bool]:
        """Return the request as it may be kept: without Respan's own members, which may hold provider keys."""
        if self.params.disable_log:
            return None, False
        if self.asked is None:
            return None, False  # unreadable: it might be anything
        return intake.redact(
            openai_chat.patched(self.asked, model=self.asked.model, drop=self.asked.members.keys() & params.OURS)
        )

    def _counting(self, answer: openai_chat.Answer) -> Counting | None:
        """Return what the worker counts, because the provider has not reported usage."""
        if self.asked is None:
            return None
        return Counting(
            input_text=openai_chat.input_text(self.asked), output_text=answer.output_text, images=self.asked.images
        )


class Relay:
    """A provider's stream on its way to the client. `aclose()` is called whether it was ever started or not."""

    __slots__ = ("blocks", "call", "ended", "reader", "response")

    def __init__(self, call: Call, response: httpx.Response, reader: openai_chat.StreamReader) -> None:
        self.call = call
        self.response = response
        self.reader = reader
        self.blocks = upstream.blocks(response, deadline=call.deadline)
        self.ended = False

    def __aiter__(self) -> "Relay":
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes for the client; the call is closed before the last of them are released."""
        while not self.ended:
            try:
                block = await anext(self.blocks)
                forward = self.reader.feed(block)
            except StopAsyncIteration:
                return self._finish(self.reader.end())
            except Error as error:
                return self._broken(error)
            except openai_chat.InvalidStream as error:
                return self._broken(upstream.UpstreamInvalid(str(error)))
            if self.call.ttft_us is None and self.reader.started:
                self.call.ttft_us = int((time.monotonic() - self.call.started) * 1_000_000)
            if self.reader.saw_done:
                return self._finish(forward)
            if forward:
                return forward
        raise StopAsyncIteration

    def _finish(self, last: bytes) -> bytes:
        self.ended = True
        if self.reader.complete:
            self._close("ok")
            return last
        if self.reader.error is not None:  # the provider said so itself, and the client has read it
            self._close("error", CallFailed(502, self.reader.error, body=None, headers={}))
            return last
        return last + self._broken(
            upstream.UpstreamDisconnected("The provider ended its stream before the answer's end.")
        )

    def _broken(self, error: Error) -> bytes:
        """End in-band and without `[DONE]`: a truncated answer must not look complete."""
        self.ended = True
        self._close("error", error)
        return openai_chat.stream_error(status=error.status, code=error.code, message=error.message)

    def _close(self, status: str, error: Error | None = None) -> None:
        body = self.reader.assembled() if not self.call.params.disable_log else None
        self.call.close(status=status, error=error, answer=self.reader.answer(), response_body=body)

    async def aclose(self) -> None:
        """Close the call, as aborted if its end was not reached, and cancel the provider if it still sends."""
        if not self.call.closed:
            self.ended = True
            self._close("aborted")
        if self.reader.saw_done:
            await upstream.finish(self.response)
        else:
            await self.response.aclose()


class StreamAnswer(StreamingHttpResponse):
    """A streamed answer the lean handler relays block by block; Django's own handler can serve it too."""

    def __init__(self, relay: Relay, *, headers: dict[str, str]) -> None:
        super().__init__(relay, content_type="text/event-stream", headers=headers)
        self.relay = relay
        self["X-Accel-Buffering"] = "no"
        self["Cache-Control"] = "no-cache"


_DEMO_POLICY = outbound.Policy(loopback=True)
_TIMEOUTS = {
    "connect": settings.RESPAN_CONNECT_TIMEOUT_S,
    "first_byte": settings.RESPAN_FIRST_BYTE_TIMEOUT_S,
    "read": settings.RESPAN_GAP_TIMEOUT_S,
    "total": settings.RESPAN_TOTAL_TIMEOUT_S,
}


@lru_cache(maxsize=2_000)
def _url(base_url: str) -> httpx.URL:
    return httpx.URL(f"{base_url.rstrip('/')}/chat/completions")


def _input_bound(asked: openai_chat.Request, model: Model) -> int:
    """Return the most input tokens a request can cost: a token is never less than a byte of UTF-8 text."""
    return asked.input_bytes + TOKENS_PER_MESSAGE * asked.message_count + model.image_tokens * asked.images


def _without_keys(body: bytes, secret: str) -> bytes:
    if secret:
        body = body.replace(secret.encode(), b"***")
    return _KEY_FRAGMENT.sub(b"***", body)


def _trace_context(meta: Mapping[str, Any]) -> tuple[bytes | None, bytes | None]:
    """Return trace and parent span id of a valid W3C traceparent header, else nothing. Never forwarded."""
    header = meta.get("HTTP_TRACEPARENT")
    match = _TRACEPARENT.fullmatch(header) if header else None
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return None, None
    return bytes.fromhex(match[1]), bytes.fromhex(match[2])
