"""An SDK's own retry attaches to the first execution: its answer, not a second charge.

OpenAI's and Anthropic's SDKs number the attempts of a call (`x-stainless-retry-count`: 0, 1, 2) and send no key. Each
execution is remembered in this process for two minutes after its end: a retry with the same API key, address and body
waits for it, or is given its answer again, when it may not have arrived. Two calls that are both the first of theirs
never share anything; an execution that failed is not attached to. When a client is seen leaving without its answer, the
answer goes into the table as well, for a retry that reaches another process.
Never refuses, never fails a call of its own accord. Neighbours: `api.py` (puts this around every POST),
`idempotency.py` (the promise a client can rely on), `replays.py`, `respan/leaving.py` (tells that a client left).

Sources: `_base_client.py` of openai-python and anthropic-sdk-python, `client.ts` of openai-node: the header, two
retries by default after 0.5 to 8 s, none once a stream has begun.
"""

import asyncio
import hashlib
import time
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import psycopg
import structlog
from django.conf import settings
from django.http import HttpResponse, HttpResponseBase
from psycopg.types.json import Jsonb

from accounts.keys import Caller
from gateway import idempotency, replays
from gateway.idempotency import Produce
from gateway.replays import Kept
from respan import ids, leaving, pool
from respan.api import CallRequest
from respan.errors import Error

log = structlog.get_logger(__name__)

HEADER: Final = "HTTP_X_STAINLESS_RETRY_COUNT"
OPT_OUT: Final = "HTTP_X_RESPAN_NO_COALESCE"
_YES: Final = frozenset({"1", "true", "yes"})
KEPT_S: Final = 120.0
# An SDK comes back within eight seconds: this holds some ten seconds of a thousand answers a second.
MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
# What an execution costs beside its answer.
_ENTRY_BYTES: Final = 2_048
# An SDK comes back after half a second, and a second: so long a call goes on whose client left before its answer began.
# Still less than the second within which a provider is told that nobody listens.
GRACE_S: Final = 0.9
LOOK_EVERY_S: Final = 0.05
# Between processes: so long word is believed that a call is under way, or that a retry waits for it.
ALIVE_S: Final = 3.0
WANTED_S: Final = 2.0
WANT_EVERY: Final = 10  # looks
# A retry may reach another process before the word that its client left: so long it is waited for.
WORD_S: Final = 0.3
# After these an SDK tries again of its own accord.
_RETRIED_STATUSES: Final = frozenset({408, 409, 429})

_RUNNING, _STREAMING, _DONE, _FAILED = range(4)

_SAVE: Final = """
INSERT INTO gateway_idempotentcall AS known (
    organization_id, api_key_id, scope, fingerprint, claim, is_done, retry_count, status, content_type, headers,
    is_stream, withheld, body, created_at, deadline_at, expires_at
) VALUES (
    %(organization)s, %(api_key)s, %(scope)s, %(scope)s, %(claim)s, %(is_done)s, %(retry_count)s, %(status)s,
    %(content_type)s, %(headers)s, %(is_stream)s, '', %(body)s, now(), now(), now() + %(kept_s)s * interval '1 second'
)
ON CONFLICT (organization_id, api_key_id, scope) DO UPDATE SET
    retry_count = CASE WHEN known.claim = EXCLUDED.claim THEN known.retry_count ELSE EXCLUDED.retry_count END,
    deadline_at = CASE WHEN known.claim = EXCLUDED.claim THEN known.deadline_at ELSE EXCLUDED.deadline_at END,
    claim = EXCLUDED.claim, is_done = EXCLUDED.is_done, status = EXCLUDED.status, body = EXCLUDED.body,
    content_type = EXCLUDED.content_type, headers = EXCLUDED.headers, is_stream = EXCLUDED.is_stream,
    created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at
"""
# Until `deadline_at` somebody in another process waits for what is not done.
_TAKE: Final = """
UPDATE gateway_idempotentcall
SET retry_count = %(retry_count)s, deadline_at = now() + %(wanted_s)s * interval '1 second'
WHERE organization_id = %(organization)s AND api_key_id = %(api_key)s AND scope = %(scope)s
    AND retry_count < %(retry_count)s AND expires_at > now()
RETURNING claim
"""
_LOOK: Final = """
SELECT is_done, status, content_type, headers, is_stream, body FROM gateway_idempotentcall
WHERE organization_id = %(organization)s AND api_key_id = %(api_key)s AND scope = %(scope)s
    AND claim = %(claim)s AND expires_at > now()
"""
_MINE: Final = """
organization_id = %(organization)s AND api_key_id = %(api_key)s AND scope = %(scope)s AND claim = %(claim)s
    AND NOT is_done"""
_WANT: Final = f"""
UPDATE gateway_idempotentcall SET deadline_at = now() + %(wanted_s)s * interval '1 second' WHERE {_MINE} RETURNING true
"""  # noqa: S608  (constants)
_WITHDRAW: Final = f"DELETE FROM gateway_idempotentcall WHERE {_MINE} RETURNING true"  # noqa: S608
_WITHDRAW_UNWANTED: Final = f"DELETE FROM gateway_idempotentcall WHERE {_MINE} AND deadline_at < now() RETURNING true"  # noqa: S608
_GO_ON: Final = f"""
UPDATE gateway_idempotentcall SET expires_at = now() + %(alive_s)s * interval '1 second' WHERE {_MINE} RETURNING true
"""  # noqa: S608


class Execution:
    """One execution of a call, and who waits for it; `count` is that of the last request that had a part in it."""

    __slots__ = (
        "announced", "answer", "caller", "claim", "count", "digest", "ended_at", "followers", "is_gone", "is_saved",
        "size", "state", "task", "waiting",
    )  # fmt: skip

    def __init__(self, caller: Caller, digest: bytes, count: int) -> None:
        self.caller = caller
        self.digest = digest
        self.count = count
        self.state = _RUNNING
        self.answer: Kept | HttpResponse | None = None
        self.size = _ENTRY_BYTES
        self.task = asyncio.current_task()
        self.waiting: asyncio.Future[None] | None = None
        self.followers = 0
        self.claim: uuid.UUID | None = None
        self.announced: asyncio.Task[None] | None = None
        self.is_gone = False
        self.is_saved = False
        self.ended_at = 0.0

    @property
    def kept(self) -> Kept | None:
        """Return what can be given again. A whole answer is looked at when it is needed: it hardly ever is."""
        answer = self.answer
        if isinstance(answer, HttpResponse):
            is_stream = answer.get("Content-Type", "").startswith("text/event-stream")
            answer = self.answer = replays.kept(answer, answer.content, is_stream=is_stream)
        return answer

    # --- the client it was made for ---

    def left(self) -> bool:
        """Hear that the client is gone; tell whether the work goes on: for a retry that waits, or may come."""
        self.is_gone = True
        if self.state in (_DONE, _FAILED):
            self._save()
            return False
        if self.followers:
            return True
        if self.state == _STREAMING:
            return False  # an SDK retries no stream that has begun
        self._wait_for_a_retry()
        if not self.caller.zero_retention:
            self.announced = replays.start(_saved(self, None))
        return True

    def _wait_for_a_retry(self) -> None:
        asyncio.get_running_loop().call_later(GRACE_S, self._give_up)

    def _give_up(self) -> None:
        """Cancel the work unless a retry waits for it, here or in another process."""
        if self._is_unread() and self.announced is not None:
            replays.start(self._give_up_unless_wanted())
        elif self._is_unread() and self.task is not None:
            self.task.cancel()

    async def _give_up_unless_wanted(self) -> None:
        is_wanted = await _wanted(self)
        if not self._is_unread():
            return
        if is_wanted:
            self._wait_for_a_retry()
        elif self.task is not None:
            self.task.cancel()

    def _is_unread(self) -> bool:
        return self.state in (_RUNNING, _STREAMING) and not self.followers

    # --- a retry ---

    async def outcome(self, count: int) -> Kept | None:
        """Wait for the answer, for a retry; None when it failed or is too large to be given twice."""
        self.count = count
        if self.state in (_RUNNING, _STREAMING):
            if self.waiting is None:
                self.waiting = asyncio.get_running_loop().create_future()
            self.followers += 1
            try:
                await asyncio.shield(self.waiting)
            finally:
                self.followers -= 1
                if self.is_gone and not self.followers:
                    self._wait_for_a_retry()
        return self.kept

    # --- its end ---

    def finish(self, response: HttpResponseBase) -> None:
        """Take note of an answer; of a stream, when it has ended."""
        relay = getattr(response, "relay", None)
        if relay is not None:
            self.state = _STREAMING
            relay.keep(replays.MAX_BYTES, lambda complete, body: self._streamed(response, body if complete else None))
            return
        if isinstance(response, HttpResponse) and response.status_code < 400:
            self._answered(response, len(response.content))
        self._end()

    def _streamed(self, response: HttpResponseBase, body: bytes | None) -> None:
        if body is not None:
            self._answered(replays.kept(response, body, is_stream=True), len(body))
        self._end()

    def _answered(self, answer: Kept | HttpResponse, size: int) -> None:
        if size <= replays.MAX_BYTES:
            self.answer = answer
            self.size += size

    def fail(self, error: BaseException) -> None:
        """Take note that there will be no answer."""
        status = error.status if isinstance(error, Error) else 500
        self._end(is_forgotten=400 <= status < 500 and status not in _RETRIED_STATUSES)

    def _end(self, *, is_forgotten: bool = False) -> None:
        self.state = _FAILED if self.answer is None else _DONE
        self.task = None
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)
        if is_forgotten:
            memory.drop(self)
        else:
            memory.ended(self)
        if self.is_gone:
            self._save()
            if self.announced is not None and self.answer is None:
                replays.start(_withdrawn(self))

    def _save(self) -> None:
        """Put an answer that its client did not get where a retry finds it that reaches another process."""
        if self.is_saved or self.caller.zero_retention or (kept := self.kept) is None:
            return
        self.is_saved = True
        replays.start(_saved(self, kept))


class Memory:
    """The executions of this process: those that run, and those that ended lately."""

    def __init__(self) -> None:
        self.known: dict[bytes, list[Execution]] = {}
        self.over: deque[Execution] = deque()
        self.bytes = 0

    def begin(self, caller: Caller, digest: bytes, count: int) -> Execution:
        self._forget_old()
        execution = Execution(caller, digest, count)
        same = self.known.get(digest)
        if same is None:
            self.known[digest] = [execution]
        else:
            same.append(execution)
        return execution

    def find(self, digest: bytes, count: int) -> Execution | None:
        """Return the execution a retry belongs to most likely: of the attempt before it, best one that nobody reads."""
        self._forget_old()
        fitting = [execution for execution in self.known.get(digest, ()) if execution.count < count]
        return max(reversed(fitting), key=_likelihood, default=None)

    def ended(self, execution: Execution) -> None:
        execution.ended_at = time.monotonic()
        self.over.append(execution)
        self.bytes += execution.size
        self._forget_old()

    def drop(self, execution: Execution) -> None:
        """Have nobody find an execution any more."""
        same = self.known.get(execution.digest, [])
        if execution in same:
            same.remove(execution)
            if not same:
                del self.known[execution.digest]

    def _forget_old(self) -> None:
        over = self.over
        while over and (self.bytes > MAX_KEPT_BYTES or over[0].ended_at < time.monotonic() - KEPT_S):
            old = over.popleft()
            self.bytes -= old.size
            self.drop(old)


def _likelihood(execution: Execution) -> tuple[int, int]:
    if execution.state == _FAILED:
        return execution.count, 2
    if execution.is_gone:
        return execution.count, 3
    return execution.count, 0 if execution.state == _DONE else 1


memory: Final = Memory()


async def answer(request: CallRequest, produce: Produce) -> HttpResponseBase:
    """Execute a request of an SDK, or give a retry the answer of the attempt before. Raises: what the call raises."""
    meta = request.META
    count = _count(meta)
    if count is None or meta.get(OPT_OUT, "").lower() in _YES:
        return await produce()
    if len(request.body) > idempotency.LARGE_BODY_BYTES:
        digest = await asyncio.to_thread(_digest, request)
    else:
        digest = _digest(request)
    if count:
        earlier = await _earlier(request.caller, digest, count)
        if earlier is not None:
            return earlier.response()
    execution = memory.begin(request.caller, digest, count)
    leaving.stay(request.scope, execution)  # type: ignore[attr-defined]
    try:
        response = await produce()
    except BaseException as error:
        execution.fail(error)
        raise
    execution.finish(response)
    return response


def _count(meta: Mapping[str, Any]) -> int | None:
    text = meta[HEADER]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 3 else None


def _digest(request: CallRequest) -> bytes:
    meta, caller = request.META, request.caller
    said = (
        f"{caller.organization_id}\0{caller.api_key_id}\0{request.path}\0{meta.get('QUERY_STRING', '')}"
        f"\0{meta.get('HTTP_X_DATA_RESPAN_PARAMS', '')}\0"
    )
    digest = hashlib.blake2b(said.encode("utf-8", "surrogateescape"), digest_size=32)
    digest.update(idempotency.without_boundary(request.body, meta.get("CONTENT_TYPE", "")))
    return digest.digest()


async def _earlier(caller: Caller, digest: bytes, count: int) -> Kept | None:
    """Return the answer of an earlier attempt; None when the retry has to be executed."""
    found = memory.find(digest, count)
    if found is None:
        return await _taken(caller, digest, count)
    if found.state == _FAILED:
        memory.drop(found)  # this retry stands for it now
        return None
    kept = await found.outcome(count)
    if kept is None:
        memory.drop(found)
    return kept


# --- Between processes -----------------------------------------------------------------------------------------------


async def _saved(execution: Execution, kept: Kept | None) -> None:
    """Leave an answer for the other processes, or word that one may still come."""
    if execution.announced is not None and kept is not None:
        await asyncio.wait({execution.announced})
    if execution.claim is None:
        execution.claim = ids.new_uuid()
    row = {
        "organization": execution.caller.organization_id,
        "api_key": execution.caller.api_key_id,
        "scope": execution.digest,
        "claim": execution.claim,
        "is_done": kept is not None,
        "retry_count": execution.count,
        "status": kept.status if kept else None,
        "content_type": kept.content_type[:200] if kept else "",
        "headers": Jsonb(dict(kept.headers) if kept else {}),
        "is_stream": kept.is_stream if kept else False,
        "body": kept.body if kept else None,
        "kept_s": KEPT_S if kept else ALIVE_S,
    }
    try:
        async with pool.connection() as lent:
            await lent.execute(_SAVE, row)
    except psycopg.Error as error:
        log.warning("dropped answer not kept", error=str(error))


async def _wanted(execution: Execution) -> bool:
    """Tell whether a retry waits in another process; if none does, take back the word, so that none begins to."""
    row = _named(execution)
    if execution.announced is not None:
        await asyncio.wait({execution.announced})
    try:
        if await _row(_WITHDRAW_UNWANTED, row) is not None:
            return False
        return await _row(_GO_ON, row) is not None
    except psycopg.Error as error:
        log.warning("dropped answer not asked about", error=str(error))
        return False


async def _withdrawn(execution: Execution) -> None:
    """Take back the word of an answer that does not come: its retry need not wait any longer."""
    if execution.announced is not None:
        await asyncio.wait({execution.announced})
    with suppress(psycopg.Error):  # it is believed for seconds only
        await _row(_WITHDRAW, _named(execution))


def _named(execution: Execution) -> dict[str, Any]:
    return {
        "organization": execution.caller.organization_id,
        "api_key": execution.caller.api_key_id,
        "scope": execution.digest,
        "claim": execution.claim,
        "alive_s": ALIVE_S,
    }


async def _taken(caller: Caller, digest: bytes, count: int) -> Kept | None:
    """Return an answer that another process has left, or is about to, for this retry alone.

    Without the database there is none.
    """
    row: dict[str, Any] = {
        "organization": caller.organization_id, "api_key": caller.api_key_id, "scope": digest, "retry_count": count,
        "wanted_s": WANTED_S,
    }  # fmt: skip
    # Alone there is nobody whose word could come late.
    until = time.monotonic() + (WORD_S if settings.RESPAN_WEB_PROCESSES > 1 else 0.0)
    try:
        while (found := await _row(_TAKE, row)) is None:
            if time.monotonic() >= until:
                return None
            await asyncio.sleep(LOOK_EVERY_S)
        row["claim"] = found[0]
        return await _awaited(row)
    except psycopg.Error as error:
        log.warning("dropped answer not looked for", error=str(error))
    return None


async def _awaited(row: Mapping[str, Any]) -> Kept | None:
    """Return an answer once it is there; None when it does not come: its process withdrew its word, or is dead."""
    looks = 0
    while (found := await _row(_LOOK, row)) is not None:
        is_done, status, content_type, headers, is_stream, body = found
        if is_done:
            return Kept(status, content_type, headers, is_stream, bytes(body))
        await asyncio.sleep(LOOK_EVERY_S)
        looks += 1
        if looks % WANT_EVERY == 0:
            await _row(_WANT, row)
    return None


async def _row(statement: str, row: Mapping[str, Any]) -> tuple[Any, ...] | None:
    async with pool.connection() as lent:
        return await (await lent.execute(statement, row)).fetchone()
