"""The response cache: the same question of the same organization is answered once and given again for a while.

Responsible for which calls ask it, for what is kept of an answer and how it is given again, and for one call at a time
fetching what many want: the first one leads, the others wait for what it brings; where it brings nothing they go on
their own, two, then four, then eight at a time. A call waits at most until half of its time is over. Never keeps what
zero retention or `disable_log` forbids, nor answers with keys that came with the request, and never an answer that did
not end well. Neighbours: `cache_key.py`, `cache_store.py`, `call.py` (asks before it routes, and brings answers).
"""

import asyncio
import hmac
import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from uuid import UUID

from django.conf import settings
from django.http import HttpResponse

from billing import usage
from gateway import cache_key, cache_store, params
from gateway.cache_store import Facts, Kept, Lead
from gateway.dialects import blocks, wire
from gateway.dialects.exchange import JSON
from gateway.dialects.registry import CLIENTS, TARGETS
from gateway.dialects.translation import streamed
from gateway.recording import stored_request
from respan import ids

if TYPE_CHECKING:
    from gateway.call import Call

# Of an answer, and of its stream.
MAX_KEPT_BYTES: Final = 1024 * 1024
# Who sends a novel rarely sends it twice, and reading it again for its key would hold up others.
MAX_ASKED_BYTES: Final = 1024 * 1024
MAX_TTL_S: Final = 30 * 86_400
# Answers that are kept at the same time are not to end at the same time.
JITTER: Final = 0.1
# For how long others wait for who fetches an answer; then more of them try, soon.
LEAD_S: Final = 60.0
LATE_S: Final = 2.0
# What is listed of a prompt and of an answer, in characters.
MAX_TEXT: Final = 2_000

_KEPT_CLIENTS: Final = frozenset({*CLIENTS, "completions", "embeddings"})
_HEADERS: Final = ("HTTP_ANTHROPIC_VERSION", "HTTP_ANTHROPIC_BETA", "HTTP_OPENAI_BETA")
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Plan:
    """How a call uses the cache."""

    key: bytes
    ttl_s: int
    omit_log: bool


# --- Hits -------------------------------------------------------------------------------------------------------------


class Hit:
    """A kept answer for a call. `log_id` is the call that was answered first."""

    __slots__ = ("_content", "_content_type", "_kept", "body", "cache_key", "log_id", "omit_log", "saved_nano")

    def __init__(self, plan: Plan, kept: Kept, content: bytes, content_type: str) -> None:
        self._kept = kept
        self._content = content
        self._content_type = content_type
        self.body = kept.body
        self.saved_nano = kept.cost_nano
        self.log_id = kept.log_id
        self.cache_key = plan.key.hex()
        self.omit_log = plan.omit_log

    def response(self) -> HttpResponse:
        """Return the answer as the client wants it."""
        age = max(0, int(time.time() - self._kept.created_at))
        headers = {"X-Respan-Cache": "hit", "Age": str(age), "X-Accel-Buffering": "no"}
        return HttpResponse(self._content, content_type=self._content_type, headers=headers)


def _hit(call: "Call", plan: Plan, kept: Kept) -> Hit | None:
    """Return a kept answer in the form that a call wants; None where it cannot be had in that form."""
    client, asked = call.client, call.asked
    assert asked is not None  # noqa: S101  (`look` has a plan)
    if not asked.stream:
        return Hit(plan, kept, kept.body, kept.content_type)
    shown = client.stream_type(asked)
    if kept.events is not None and kept.events_type == shown and kept.include_usage == asked.include_usage:
        return Hit(plan, kept, kept.events, shown)
    if client.translated is None:
        return None
    answer = TARGETS[client.dialect].answer(kept.body)
    if answer.error is not None:
        return None
    context = wire.Context(call_id=call.id.hex, created=call.started_us // 1_000_000)
    return Hit(plan, kept, streamed(answer, client.translated.writer(asked, context)), shown)


async def settled() -> None:
    """Wait until everything that was brought is kept, and every hit counted (shutdown, tests)."""
    await cache_store.settled()
    await cache_store.count_hits()


# --- Which calls ------------------------------------------------------------------------------------------------------


async def look(call: "Call") -> "Hit | Flight | None":
    """Return a kept answer, else the duty to bring one, else nothing: the call has nothing to do with the cache."""
    plan = _plan(call)
    if plan is None:
        return None
    left_s = max(call.deadline - time.monotonic(), 0.0)
    line = _lines.get(plan.key)
    if line is None or line.loop is not asyncio.get_running_loop():
        line = _lines[plan.key] = _Line(plan.key, call.caller.organization_id, lead_s=min(LEAD_S, left_s))
        found: Kept | Lead | None = "leads"
    else:
        found = await line.wait(left_s / 2)
    if found == "leads":
        found = await line.ask(left_s / 2)
    if isinstance(found, Kept):
        hit = _hit(call, plan, found)
        if hit is not None:
            cache_store.note_hit(plan.key)
        return hit
    return Flight(call, plan, line) if found == "leads" else None


def _plan(call: "Call") -> Plan | None:
    """Return how a call uses the cache, None if not at all."""
    asked, usual = call.params.cache, call.settings
    if asked is None:
        if not usual.cache_enabled:
            return None
        asked = params.Cache()
    if not _chosen(asked.enabled, usual.cache_enabled):
        return None
    reason = _why_not(call)
    if reason is not None:
        if call.params.cache is not None and asked.enabled:
            call.params.warnings.append(f"the cache was not used: {reason}")
        return None
    key = _key(
        call,
        by_model=_chosen(asked.by_model, usual.cache_by_model),
        by_customer=_chosen(asked.by_customer, usual.cache_by_customer),
    )
    if key is None:
        return None
    ttl_s = min(usual.cache_ttl_s if asked.ttl_s is None else asked.ttl_s, MAX_TTL_S)
    return Plan(key, ttl_s, _chosen(asked.omit_log, usual.cache_omit_log))


def _chosen(asked: bool | None, usual: bool) -> bool:
    return usual if asked is None else asked


def _why_not(call: "Call") -> str | None:
    """Return why a call that asks for the cache may not use it."""
    known, asked = call.params, call.asked
    if call.caller.zero_retention:
        return "this key keeps no content"
    if known.disable_log:
        return "disable_log keeps no content"
    if known.customer_credentials or known.credential_override:
        return "the request brings provider keys of its own"
    if "no-store" in call.meta.get("HTTP_CACHE_CONTROL", "").lower():
        return "the request says Cache-Control: no-store"
    if asked is None or call.client.id not in _KEPT_CLIENTS:
        return "answers of this endpoint are not kept"
    if len(call.body) > MAX_ASKED_BYTES:
        return "the request is larger than 1 MiB"
    if cache_key.is_stateful(asked.members):
        return "the request goes on with a conversation that the provider keeps"
    return None


def _key(call: "Call", *, by_model: bool, by_customer: bool) -> bytes | None:
    client, asked, known, meta = call.client, call.asked, call.params, call.meta
    assert asked is not None  # noqa: S101  (`_why_not` has seen to it)
    form = None
    if client.translated is None or cache_key.is_bound_to_form(asked.members, choices=asked.n):
        form = f"{asked.stream} {asked.include_usage} {client.stream_type(asked)}"
    scope = cache_key.Scope(
        tenant=call.caller.organization_public_id,
        environment=call.caller.environment,
        dialect=client.id,
        model="\n".join(_models(call)) if by_model else None,
        customer=known.customer_identifier if by_customer else None,
        headers=[meta.get(name) or "" for name in _HEADERS],
    )
    return cache_key.build(_secret(), scope, asked.members, drop=params.OURS - client.keeps, form=form)


def _models(call: "Call") -> Iterator[str]:
    """Yield what decides which model answers."""
    known, asked = call.params, call.asked
    assert asked is not None  # noqa: S101  (`_why_not` has seen to it)
    yield asked.model
    yield from known.models
    yield known.route_provider or ""
    if known.load_balance is not None:
        yield known.load_balance.group_id or ""
        yield from (member.model for member in known.load_balance.members)


@lru_cache(maxsize=1)
def _secret() -> bytes:
    return hmac.digest(settings.RESPAN_KEY_PEPPER.encode(), b"respan response cache", "sha256")


# --- Answers that are brought ----------------------------------------------------------------------------------------


class Flight:
    """The duty to bring an answer; one of `filled` and `gave_up` is called, and a second time does nothing."""

    __slots__ = ("_call", "_is_over", "_line", "_plan", "cache_key")

    def __init__(self, call: "Call", plan: Plan, line: "_Line") -> None:
        self._call = call
        self._plan = plan
        self._line = line
        self._is_over = False
        self.cache_key = plan.key.hex()

    def filled(self, body: bytes, content_type: str, events: bytes | None) -> None:
        """Keep an answer that ended well: whole, in the client's dialect, and where it was streamed those bytes."""
        if self._is_over:
            return
        self._is_over = True
        call, asked = self._call, self._call.asked
        assert asked is not None  # noqa: S101  (`look` has a plan)
        answer = call.client.read_json(body)
        if len(body) > MAX_KEPT_BYTES or not body.lstrip().startswith(b"{") or answer.error is not None:
            self._line.failed()
            return
        now = time.time()
        kept = Kept(
            body=body,
            content_type=content_type if content_type.startswith(JSON) else JSON,
            events=events if events is not None and len(events) <= MAX_KEPT_BYTES else None,
            events_type=call.client.stream_type(asked) if events is not None else "",
            include_usage=asked.include_usage,
            cost_nano=_cost(call, answer),
            log_id=call.id,
            created_at=now,
            expires_at=now + self._plan.ttl_s * (1 - JITTER * random.random()),  # noqa: S311  (no secret)
        )
        self._line.end(kept)
        cache_store.aside(_keep(call, self._plan.key, kept, answer, leader=self._line.id))

    def gave_up(self) -> None:
        """Tell who waits that no answer comes of this call."""
        if not self._is_over:
            self._is_over = True
            self._line.failed()


async def _keep(call: "Call", key: bytes, kept: Kept, answer: wire.Answer, *, leader: UUID) -> None:
    asked, target, used = call.asked, call.target, answer.usage or usage.Usage()
    assert asked is not None  # noqa: S101  (`look` has a plan)
    request, _ = call.stored_request or stored_request(call)
    facts = Facts(
        organization_id=call.caller.organization_id,
        environment=call.caller.environment,
        dialect=call.client.id,
        model=asked.model,
        provider=target.model.provider if target else "",
        response_model=answer.model or "",
        customer_identifier=call.params.customer_identifier,
        request=request,
        prompt_text=_shown(call.client.input_text(asked)),
        answer_text=_shown(_written(call, kept.body) or answer.output_text),
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        duration_us=int((time.monotonic() - call.started) * 1_000_000),
    )
    await cache_store.fill(key, kept, facts, leader=leader)


def _written(call: "Call", body: bytes) -> str:
    """Return what a whole answer says; nothing of one that is no conversation's."""
    client = call.client
    return blocks.output_text(TARGETS[client.dialect].answer(body)) if client.translated is not None else ""


def _shown(text: str) -> str:
    """Return the beginning of a text as a table can hold it."""
    return text[:MAX_TEXT].replace("\0", "").encode("utf-8", "replace").decode()


def _cost(call: "Call", answer: wire.Answer) -> int | None:
    """Return what an answer costs by the catalogue's prices: a hit saves that, on credits as with an own key."""
    target = call.target
    if target is None or answer.usage is None:
        return None
    if target.paid_by == "free":
        return 0
    above, price = target.model.long_above_tokens, target.price
    if call.long_price is not None and above is not None and answer.usage.input_tokens > above:
        price = call.long_price
    return usage.cost(answer.usage, price.rates) if price is not None else None


# --- One at a time ----------------------------------------------------------------------------------------------------


class _Line:
    """Those in this process who want the same answer: one leads, and asks what is kept; the others wait."""

    __slots__ = ("_alarm", "_failures", "_is_late", "_lead_s", "_organization_id", "_waiting", "id", "key", "loop")

    def __init__(self, key: bytes, organization_id: int, *, lead_s: float) -> None:
        self.key = key
        self.id = ids.new_uuid()
        self.loop = asyncio.get_running_loop()
        self._organization_id = organization_id
        self._lead_s = lead_s
        self._waiting: deque[asyncio.Future[Kept | Lead | None]] = deque()
        self._failures = 0
        self._is_late = False
        self._alarm: asyncio.TimerHandle | None = None

    async def wait(self, limit_s: float) -> Kept | Lead | None:
        """Wait for the answer. `leads`: it is this caller's turn to bring it; None: he goes on his own."""
        place: asyncio.Future[Kept | Lead | None] = self.loop.create_future()
        self._waiting.append(place)
        try:
            await asyncio.wait({place}, timeout=limit_s)
        except asyncio.CancelledError:
            if place.done() and place.result() == "leads":
                self._pass_on()
            raise
        finally:
            place.cancel()  # changes nothing where it is done
        return None if place.cancelled() else place.result()

    async def ask(self, limit_s: float) -> Kept | Lead | None:
        """Ask for what is kept, as long as another process is fetching it. Returns as `wait`."""
        until, pause_s = time.monotonic() + limit_s, _FIRST_PAUSE_S
        try:
            while (found := await self._look()) == "waits" and time.monotonic() < until:
                await asyncio.sleep(pause_s)
                pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
        except BaseException:
            self._pass_on()
            raise
        if isinstance(found, Kept):
            self.end(found)
        elif found == "leads":
            self._watch()
        else:
            self._pass_on()
            return None
        return found

    async def _look(self) -> Kept | Lead:
        return await cache_store.look(
            self.key, organization_id=self._organization_id, leader=self.id, lead_s=self._lead_s
        )

    def end(self, kept: Kept) -> None:
        """Give the answer to all who wait."""
        self._leave()
        while (place := self._next()) is not None:
            place.set_result(kept)

    def failed(self) -> None:
        """Let others try: each time twice as many as the time before, one of them for those who go on waiting."""
        self._failures += 1
        self._pass_on()
        for _ in range(2**self._failures - 1):
            if (place := self._next()) is None:
                return
            place.set_result(None)

    def _pass_on(self) -> None:
        """Let the next one lead; without one there is nothing to wait for."""
        place = self._next()
        if place is not None:
            place.set_result("leads")
            return
        self._leave()
        cache_store.aside(cache_store.release(self.key, leader=self.id))

    def _next(self) -> "asyncio.Future[Kept | Lead | None] | None":
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                return place
        return None

    def _leave(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if _lines.get(self.key) is self:
            del _lines[self.key]

    def _watch(self) -> None:
        """Let others try when the answer takes too long."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self.loop.call_later(LATE_S if self._is_late else self._lead_s, self._late)

    def _late(self) -> None:
        self._is_late = True
        self.failed()


_lines: dict[bytes, _Line] = {}
