"""The life of a call: read, let in, looked up in the cache, routed, opened, its credits held, attempted, closed.

Every admitted call is closed exactly once, whatever happens to its client: the record goes to the spool before the last
byte is released. Never knows a wire format (that is `dialects`), never opens a socket itself (that is `upstream`),
never settles money (that is the worker). Neighbours: `api.py` before it, `throttle.py`, `cache.py` and `candidates.py`
on its way, `attempts.py` (which target is asked when), `billing.ledger.hold` and `traces.intake` after it.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import structlog
from django.conf import settings
from django.http import HttpResponseBase

from accounts.keys import Caller
from billing import ledger
from billing.prices import Priced
from billing.usage import Rates, affordable_output, worst
from gateway import attachments, breakdown, cache, call_settings, candidates, outgoing, params, throttle, upstream
from gateway.answers import (
    LOG_ID,
    Relay,
    StreamAnswer,
    WholeAnswer,
    content_type,
    failed,
    passed_on,
    refused,
    without_keys,
)
from gateway.attempts import Trail, retry_after_s
from gateway.call_settings import Settings
from gateway.candidates import Candidate, Skipped
from gateway.credentials import Stored
from gateway.dialects import openai_chat, thinking, variables, wire
from gateway.dialects.exchange import JSON, Exchange, Passing, Translating
from gateway.dialects.registry import EVENTS, TARGETS, Client
from gateway.dialects.wire import Asked, Context, Named
from gateway.outgoing import Way
from gateway.params import InvalidRequest, Params
from gateway.providers import Model, Provider, catalog
from gateway.recording import record, stored_request
from gateway.retrying import Policy
from gateway.routing import Target
from respan import ids
from respan.errors import Error
from respan.messages import raw_headers
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


class Call:
    """One call of one caller. `answer()` runs it to its response; a streamed response closes it later."""

    # What is known from the beginning of each call only; the rest below is set on its way.
    asked: Asked | None = None
    params: Params = params.NONE
    settings: Settings = call_settings.DEFAULTS
    permit: throttle.Permit | None = None
    hit: cache.Hit | None = None
    flight: cache.Flight | None = None
    trail: Trail | None = None
    # What follows is of the attempt under way, in the end of the one that answered.
    rank = 0
    upstream_status: int | None = None
    target: Target[Stored, Priced] | None = None
    way: Way | None = None
    exchange: Exchange | None = None
    sent: Asked | None = None  # what was asked, less what is bound to another model
    long_price: Priced | None = None  # what the provider charges for a whole call with a long input
    clamped = False
    max_output: int | None = None  # what we set because the client set nothing (credits only)
    dropped: tuple[str, ...] = ()
    held_nano = 0
    is_held = False  # a hold was asked for and not refused: `finished` has to resolve it
    is_open = False
    accepted_upstream = False
    stored_request: tuple[bytes | None, bool] | None = None
    ttft_us: int | None = None
    closed = False

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
        self.attempts: list[Attempt] = []

    async def answer(self) -> HttpResponseBase:
        """Run the call. Raises: Error, after the call was closed with it; asyncio.CancelledError likewise."""
        try:
            self._read()
            if len(self.body) > LARGE_BODY_BYTES:
                # Hashing data URLs takes 3 ms a MiB: not on the loop.
                self.stored_request = await asyncio.to_thread(stored_request, self)
            self.settings = await call_settings.of(self.caller.organization_id)
            self.permit = await throttle.enter(self)
            found = await cache.look(self)
            if isinstance(found, cache.Hit):
                return self._answered_before(found)
            self.flight = found
            targets, skipped = await self._candidates()
            self.trail = Trail(self, targets, skipped, policy=self._policy())
            return await self.trail.run()
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
            asked = self.asked = self._asked()
            self.params = params.gather(asked.members, self.meta, not_ours=self.client.keeps)
            if (timeouts := self.params.timeouts) is not None and timeouts.total_s is not None:
                self.deadline = min(self.deadline, self.started + timeouts.total_s)
            if self.params.variables and isinstance(asked, openai_chat.Request):
                filled = variables.filled(asked.members, asked.messages, self.params.variables)
                if filled is not None:
                    asked = self.asked = openai_chat.read(wire.patched(asked, set_members={"messages": filled}))
        except wire.InvalidBody as error:
            raise InvalidRequest(str(error), param=error.param) from error
        return asked

    def _asked(self) -> Asked:
        """Read the body: one that names only candidates (`models`, a group) as if it named the first of them."""
        try:
            return self.client.read(self.body, named=self.named)
        except wire.InvalidBody as error:
            body = params.with_model(self.body, self.meta) if error.param == "model" else None
            if body is None:
                raise
            return self.client.read(body, named=self.named)

    async def _candidates(self) -> tuple[list[Candidate], list[Skipped]]:
        """Return the targets in the order they are to be asked. Raises: Error, when there is none."""
        return await candidates.find(self)

    def _policy(self) -> Policy:
        asked, settings_ = self.params.retry, self.settings
        if asked is not None:
            return Policy(asked.enabled, asked.num_retries, asked.retry_after_s)
        return Policy(settings_.retry_enabled, settings_.num_retries, settings_.retry_after_s)

    def _answered_before(self, hit: cache.Hit) -> HttpResponseBase:
        self.hit = hit
        response = hit.response()
        response[LOG_ID] = self.log_id
        response["Cache-Control"] = "private, no-store"
        self.close(status="ok", response_body=hit.body)
        if breakdown.is_wanted(self):
            answer, kind = self.client.read_json(hit.body), response["Content-Type"]
            response.content = breakdown.told(self, response.content, kind, answer=answer, kept=hit.body)
        return response

    async def prepare(self, candidate: Candidate, *, is_other_model: bool) -> None:
        """Settle how a target will be spoken to, and read all that a translation needs. Raises: Error.

        For another model than the one asked, what an earlier answer has bound to that one is taken out.
        """
        assert self.asked is not None  # noqa: S101  (nothing is prepared before it was read)
        target, client, asked = candidate.target, self.client, self.asked
        if is_other_model and (stripped := thinking.stripped_body(client.dialect, asked)) is not None:
            asked = client.read(stripped, named=self.named)
        self.target, self.long_price, self.rank, self.sent = target, candidate.long_price, candidate.rank, asked
        provider = catalog().providers[target.model.provider]
        self._check_reachable(candidate, provider)
        way = candidate.ways.get((client.dialect, client.id, asked.has_tools))
        if way is None:
            way = outgoing.way(client, provider, target.model, target.key, has_tools=asked.has_tools)
            candidate.ways[client.dialect, client.id, asked.has_tools] = way
        self.way = way
        on_credits = target.paid_by == "credits"
        outgoing.check_files(asked, provider, way, on_credits=on_credits)
        self.max_output, self.clamped, self.dropped = self._usual_limit(candidate), False, ()
        if on_credits:
            outgoing.check_priced(asked, target.model)
        if way.is_passed:
            self.exchange = Passing(client, asked)
            return
        request = outgoing.decoded(client, asked)
        if is_other_model:
            thinking.strip(request)
        if kinds := TARGETS[way.dialect].fetches:
            transport = outgoing.fetching(is_demo=self.caller.is_demo)
            await attachments.inline(request, transport=transport, asked=asked, kinds=kinds)
        context = Context(call_id=self.id.hex, created=self.started_us // 1_000_000)
        self.exchange = Translating(client, TARGETS[way.dialect], asked, request, context)

    def _check_reachable(self, candidate: Candidate, provider: Provider) -> None:
        """Check that a later target needs nothing the first one's account keeps. Raises: UnsupportedParameter."""
        first = self.trail.first.target if self.trail is not None else candidate.target
        if first is candidate.target or self.asked is None:
            return
        is_there = (candidate.target.model.provider, candidate.target.key) == (first.model.provider, first.key)
        if not is_there and (name := thinking.kept_there(self.client.dialect, self.asked)) is not None:
            raise outgoing.UnsupportedParameter(
                f"{provider.name} cannot have {name}: it is kept in the account that was asked first.", param=name
            )

    def open(self, targets: Sequence[Candidate]) -> None:
        """Write the `accepted` record: from here on this call ends as one trace, whatever dies. Once.

        Raises: intake.SpoolUnavailable for a call on credits; others go on untraced (drops are counted).
        """
        if self.is_open:
            return
        assert self.asked is not None  # noqa: S101  (nothing is opened before it was read)
        try:
            intake.opened(
                Accepted(
                    id=self.id,
                    organization_id=self.caller.organization_id,
                    api_key_id=self.caller.api_key_id,
                    environment=self.caller.environment,
                    started_us=self.started_us,
                    deadline_us=self.started_us + int(settings.RESPAN_TOTAL_TIMEOUT_S * 1_000_000),
                    model=self.asked.model,
                    stream=self.asked.stream,
                    held_nano=max(map(self._usual_worst, targets)),
                )
            )
            self.is_open = True
        except intake.SpoolUnavailable:
            if targets[0].target.paid_by == "credits":
                raise

    def _usual_limit(self, candidate: Candidate) -> int | None:
        """Return the output limit we set because the client set none (credits only)."""
        target = candidate.target
        if target.paid_by != "credits" or not self.client.writes or self.asked is None or self.asked.max_output:
            return None
        return min(target.model.max_output_tokens or DEFAULT_MAX_OUTPUT, DEFAULT_MAX_OUTPUT)

    def _usual_worst(self, candidate: Candidate) -> int:
        if candidate.target.paid_by != "credits":
            return 0
        assert self.asked is not None  # noqa: S101
        return self._worst(candidate, self._usual_limit(candidate) or self.asked.max_output or 0)

    @staticmethod
    def _hold_rates(input_bound: int, candidate: Candidate) -> Rates:
        """Return the rates to hold at: those of a long input where the input may turn out to be one."""
        target, long_price = candidate.target, candidate.long_price
        assert target.price is not None  # noqa: S101  (routing sells nothing without a price)
        above = target.model.long_above_tokens
        is_long = long_price is not None and above is not None and input_bound > above
        return long_price.rates if long_price is not None and is_long else target.price.rates

    def _worst(self, candidate: Candidate, output: int) -> int:
        assert self.asked is not None  # noqa: S101
        bound = _input_bound(self.asked, candidate.target.model)
        rates = self._hold_rates(bound, candidate)
        return worst(input_tokens=bound, output_tokens=output * self.asked.n, rates=rates)

    async def hold(self, candidate: Candidate, others: Sequence[Candidate]) -> None:
        """Hold the worst case of the dearest target that may be asked, if the next one is paid by credits.

        Where that does not fit, the next one's own worst case; without a limit of the client's own, a smaller one that
        fits is set instead. From the moment a hold is asked for, `is_held` stays set unless it was refused for certain:
        the finished record then releases whatever the ledger did. Raises: InsufficientCredits, LedgerUnavailable.
        """
        if candidate.target.paid_by != "credits":
            return
        needed = self._usual_worst(candidate)
        if self.is_held:
            self._check_covered(needed)
            return
        dearest = max([needed, *map(self._usual_worst, others)])
        if dearest > needed:
            try:
                await self._ask_for_hold(dearest)
                return
            except ledger.InsufficientCredits:
                pass
        if needed:
            await self._hold_own(candidate, needed)

    def _check_covered(self, needed: int) -> None:
        """Check that what is held for an earlier target is enough for this one. Raises: InsufficientCredits."""
        if needed > self.held_nano:
            raise ledger.InsufficientCredits(needed_nano=needed, available_nano=self.held_nano)

    async def _hold_own(self, candidate: Candidate, needed: int) -> None:
        assert self.asked is not None  # noqa: S101
        try:
            await self._ask_for_hold(needed)
            return
        except ledger.InsufficientCredits as error:
            bound = _input_bound(self.asked, candidate.target.model)
            rates = self._hold_rates(bound, candidate)
            affordable = affordable_output(available=error.available_nano, input_tokens=bound, rates=rates)
            affordable //= self.asked.n
            if self.max_output is None or affordable < LEAST_CLAMPED_OUTPUT:
                error.extra["affordable_max_tokens"] = max(affordable, 0)
                raise
        self.max_output = min(affordable, self.max_output)
        self.clamped = True
        await self._ask_for_hold(self._worst(candidate, self.max_output))

    async def _ask_for_hold(self, amount_nano: int) -> None:
        begun_at = datetime.fromtimestamp(self.started_us / 1_000_000, UTC)
        self.held_nano, self.is_held = amount_nano, True
        try:
            await ledger.hold(
                ledger.HoldRequest(
                    id=self.id,
                    organization_id=self.caller.organization_id,
                    amount_nano=amount_nano,
                    owner=intake.owner(),
                    deadline_at=begun_at + timedelta(seconds=settings.RESPAN_TOTAL_TIMEOUT_S),
                )
            )
        except ledger.InsufficientCredits:
            self.held_nano, self.is_held = 0, False
            raise

    # --- the provider ----------------------------------------------------------------------------------------------

    async def attempt(self, candidate: Candidate) -> HttpResponseBase:
        """Ask the prepared target. Returns when the answer has begun: nobody else may answer after that.

        Raises: Error; whatever the provider said has been closed then.
        """
        target, asked, exchange = candidate.target, self.sent, self.exchange
        assert asked is not None and exchange is not None  # noqa: S101, PT018  (`prepare` has made them)
        provider = catalog().providers[target.model.provider]
        transport = outgoing.transport(provider, is_demo=self.caller.is_demo)
        self.upstream_status, self.accepted_upstream = None, False
        request = await self._request(asked, target, provider, transport)
        response = await upstream.send(request, transport=transport, deadline=self.deadline)
        status = self.upstream_status = response.status_code
        if status >= 400:
            error = await refused(self, response, provider=provider.name, headers=self._headers(response))
            error.upstream_status, error.retry_after_s = status, retry_after_s(raw_headers(response))
            raise error
        self.accepted_upstream = True
        kind = content_type(response)
        # A provider may stream unasked (sound always): passed on as it comes, unless it is a whole answer in JSON.
        is_stream = asked.stream or (exchange.is_passed and not kind.startswith(JSON))
        if is_stream and kind.startswith(exchange.stream_type):
            relay = Relay(self, response, exchange.reader())
            await relay.begin()
            if self.flight is not None:
                relay.keep(cache.MAX_KEPT_BYTES, lambda complete, events: self._fill(relay, complete, events))
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
            limits=outgoing.limits(target.model, self.params.timeouts, stream=asked.stream),
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
        if self.trail is not None:
            self.trail.answered()
        self.close(status="ok", answer=whole.answer, response_body=whole.kept)
        if self.flight is not None:
            if whole.content_type.startswith((JSON, EVENTS)):
                events = whole.body if whole.content_type.startswith(EVENTS) else None
                self.flight.filled(whole.kept, JSON, events)
            else:
                self.flight.gave_up()
        shown = whole.body
        if breakdown.is_wanted(self):
            shown = breakdown.told(self, shown, whole.content_type, answer=whole.answer, kept=whole.kept)
        headers["Content-Type"] = whole.content_type
        return WholeAnswer(shown, status=response.status_code, headers=headers)

    def _headers(self, response: httpx.Response) -> dict[str, str]:
        own_key = self.target is not None and self.target.paid_by == "own_key"
        headers = passed_on(response, own_key=own_key)
        headers[LOG_ID] = self.log_id
        headers["Cache-Control"] = "private, no-store"
        if self.dropped:
            headers["X-Respan-Dropped-Params"] = ", ".join(self.dropped)
        if self.clamped and self.max_output:
            headers["X-Respan-Max-Tokens"] = str(self.max_output)
        if self.flight is not None:
            headers["X-Respan-Cache"] = "miss"
        return headers

    def _fill(self, relay: Relay, complete: bool, events: bytes | None) -> None:
        """Give the cache a stream that has ended well; of any other end `close` has told it."""
        if complete and self.flight is not None:
            # A breakdown tells of this call: it is nothing for the next one.
            self.flight.filled(relay.reader.assembled(), JSON, None if breakdown.is_wanted(self) else events)

    def stumbled(self, status: str) -> None:
        """Note that a stream which had begun did not end well; a client that left says nothing of the provider."""
        if status == "error" and self.trail is not None and self.trail.health is not None:
            self.trail.health.failed(time.monotonic())

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
        answer = answer or wire.NOTHING
        if self.permit is not None:
            self.permit.leave(answer.usage)
        if self.flight is not None and status != "ok":
            self.flight.gave_up()
        if self.hit is not None and self.hit.omit_log:
            return
        try:
            intake.finished(record(self, status=status, error=error, answer=answer, response_body=response_body))
        except Exception:
            log.exception("call not recorded", call=self.log_id)


# A document's pages are read as pictures too: its bytes are no bound.
_DOCUMENTS = (b'"file_data"', b"application/pdf", b'"document"')


def _input_bound(asked: Asked, model: Model) -> int:
    """Return the most input tokens a request can cost: a token is never less than a byte of UTF-8 text."""
    bound = asked.input_bytes + TOKENS_PER_MESSAGE * asked.message_count + model.image_tokens * asked.images
    if model.context_tokens and any(mark in asked.body for mark in _DOCUMENTS):
        return max(bound, model.context_tokens)
    return bound
