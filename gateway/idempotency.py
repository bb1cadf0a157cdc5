"""`Idempotency-Key`: one execution and one charge for a key, and its answer again for whoever sends the key again.

One INSERT decides who executes; the others are given the answer, or told to wait. Only answers of success are kept: a
call that failed, or whose client left, gives the key back. Without the database nothing is executed: the guarantee is
what the caller asked for. Never traces a replay, never makes a call itself.
Neighbours: `api.py` (puts this around every POST), `replays.py` (the answers), `retried.py` (an SDK's own retries,
which carry no key), `tasks.py` (forgets what has expired).

Sources: IETF draft-ietf-httpapi-idempotency-key-header-07, sections 2.2 to 2.7; what OpenAI's SDKs do with a 409 is in
`_should_retry` of openai-python (retries it, honouring `Retry-After` and `x-should-retry`).
"""

import asyncio
import hashlib
import re
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import psycopg
import structlog
from django.conf import settings
from django.db import connection
from django.http import HttpResponseBase
from psycopg.types.json import Jsonb

from gateway import replays
from gateway.answers import LOG_ID
from gateway.replays import Kept
from respan import pool
from respan.api import CallRequest
from respan.errors import Error

log = structlog.get_logger(__name__)

HEADER: Final = "HTTP_IDEMPOTENCY_KEY"
MAX_CHARS: Final = 255
KEPT_S: Final = 24 * 3_600
# Beyond the longest call: then the process that executed it is dead.
GRACE_S: Final = 60
# What is larger is digested off the loop.
LARGE_BODY_BYTES: Final = 512 * 1024
_PAUSES_S: Final = (1, 2, 5, 10, 30, 60, 120, 240)
_BOUNDARY = re.compile(r"boundary=\"?([^\";,]+)")

Produce = Callable[[], Awaitable[HttpResponseBase]]


class InvalidIdempotencyKey(Error):
    """A key that is empty, too long, or not printable."""

    status = 400
    code = "invalid_idempotency_key"
    message = "Idempotency-Key must be 1 to 255 printable ASCII characters."


class IdempotencyKeyReused(Error):
    """The same key with another body."""

    status = 422
    code = "idempotency_key_reused"
    message = "This Idempotency-Key was sent before with another request. Use a new key for a new request."


class IdempotencyInProgress(Error):
    """The first request with this key has no answer yet."""

    status = 409
    code = "idempotency_in_progress"
    message = "A request with this Idempotency-Key is being answered. Try again in a moment to get its answer."


class IdempotencyAnswerTooLarge(Error):
    """The call was made, but its answer was too large to be kept."""

    status = 409
    code = "idempotency_answer_too_large"
    message = "This request was answered before; the answer was larger than 1 MiB and was not kept."


class IdempotencyAnswerNotKept(Error):
    """The call was made with an API key of which no content is kept."""

    status = 409
    code = "idempotency_answer_not_kept"
    message = "This request was answered before; the answer was not kept, because this API key keeps no content."


class IdempotencyUnavailable(Error):
    """Without the database nobody can say whether the call was made already."""

    status = 503
    code = "idempotency_unavailable"
    message = "Idempotency-Key cannot be checked at the moment; the request was not carried out. Try again."


_WITHHELD: Final[dict[str, type[Error]]] = {
    "too_large": IdempotencyAnswerTooLarge,
    "not_kept": IdempotencyAnswerNotKept,
}

# Expired, or its process is dead: whoever comes with the same body takes it over.
_CLAIM: Final = """
INSERT INTO gateway_idempotentcall AS known (
    organization_id, api_key_id, scope, fingerprint, claim, is_done, retry_count, content_type, headers, is_stream,
    withheld, created_at, deadline_at, expires_at
) VALUES (
    %(organization)s, %(api_key)s, %(scope)s, %(fingerprint)s, %(claim)s, false, 0, '', '{}', false,
    '', now(), now() + %(deadline_s)s * interval '1 second', now() + %(kept_s)s * interval '1 second'
)
ON CONFLICT (organization_id, api_key_id, scope) DO UPDATE SET
    fingerprint = EXCLUDED.fingerprint, claim = EXCLUDED.claim, is_done = false, retry_count = 0, status = NULL,
    content_type = '', headers = '{}', is_stream = false, withheld = '', body = NULL,
    created_at = EXCLUDED.created_at, deadline_at = EXCLUDED.deadline_at, expires_at = EXCLUDED.expires_at
WHERE known.expires_at < now()
    OR (NOT known.is_done AND known.deadline_at < now() AND known.fingerprint = EXCLUDED.fingerprint)
RETURNING true
"""
_FIND: Final = """
SELECT fingerprint = %(fingerprint)s, is_done, withheld, status, content_type, headers, is_stream,
    CASE WHEN fingerprint = %(fingerprint)s THEN body END
FROM gateway_idempotentcall
WHERE organization_id = %(organization)s AND api_key_id = %(api_key)s AND scope = %(scope)s
"""
_MINE: Final = "organization_id = %(organization)s AND api_key_id = %(api_key)s AND scope = %(scope)s"
_DONE: Final = f"""
UPDATE gateway_idempotentcall SET is_done = true, status = %(status)s, content_type = %(content_type)s,
    headers = %(headers)s, is_stream = %(is_stream)s, withheld = %(withheld)s, body = %(body)s
WHERE {_MINE} AND claim = %(claim)s
"""  # noqa: S608  (constants)
_LET_GO: Final = f"DELETE FROM gateway_idempotentcall WHERE {_MINE} AND claim = %(claim)s AND NOT is_done"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Execution:
    """Who wants to execute what; `claim` tells this execution from any other of the same scope."""

    organization_id: int
    api_key_id: int
    zero_retention: bool
    scope: bytes
    fingerprint: bytes
    claim: uuid.UUID = field(default_factory=uuid.uuid4)

    @property
    def named(self) -> dict[str, Any]:
        return {
            "organization": self.organization_id,
            "api_key": self.api_key_id,
            "scope": self.scope,
            "fingerprint": self.fingerprint,
            "claim": self.claim,
        }


# Answers of this process on their way into the table: who asks for one waits for it.
_storing: dict[tuple[int, int, bytes], asyncio.Task[None]] = {}


async def answer(request: CallRequest, produce: Produce) -> HttpResponseBase:
    """Execute a request that carries a key, or give the answer of whoever did.

    Raises: InvalidIdempotencyKey; IdempotencyKeyReused; IdempotencyInProgress; IdempotencyAnswerTooLarge;
    IdempotencyAnswerNotKept; IdempotencyUnavailable; whatever the call raises.
    """
    execution = await _read(request)
    claiming = replays.start(_claimed(execution))
    try:
        earlier: Kept | None = await asyncio.shield(claiming)
    except asyncio.CancelledError:
        replays.start(_forsake(claiming, execution))
        raise
    if earlier is not None:
        return earlier.response()
    try:
        response = await produce()
    except BaseException:
        await asyncio.shield(replays.start(_surely(_LET_GO, execution.named)))
        raise
    return await _kept(execution, response)


async def _read(request: CallRequest) -> Execution:
    key = request.META[HEADER]
    if not (0 < len(key) <= MAX_CHARS and key.isascii() and key.isprintable()):
        raise InvalidIdempotencyKey
    scope = hashlib.sha256(b"\0".join((b"key", request.path.rstrip("/").encode(), key.encode()))).digest()
    if len(request.body) > LARGE_BODY_BYTES:
        digest = await asyncio.to_thread(fingerprint, request)
    else:
        digest = fingerprint(request)
    caller = request.caller
    return Execution(caller.organization_id, caller.api_key_id, caller.zero_retention, scope, digest)


def fingerprint(request: CallRequest) -> bytes:
    """Return a digest of what is asked: equal for the same JSON in another order, and for a form sent once more."""
    body = without_boundary(request.body, request.META.get("CONTENT_TYPE", ""))
    with suppress(msgspec.MsgspecError, RecursionError, ValueError):  # no JSON: the bytes themselves
        body = msgspec.json.encode(msgspec.json.decode(body), order="sorted")
    return hashlib.sha256(request.META.get("QUERY_STRING", "").encode() + b"\0" + body).digest()


def without_boundary(body: bytes, content_type: str) -> bytes:
    """Return a form without what separates its parts: clients make that anew for every attempt."""
    if not content_type.startswith("multipart/"):
        return body
    found = _BOUNDARY.search(content_type)
    return body.replace(b"--" + found[1].encode("latin-1"), b"--") if found else body


async def _claimed(execution: Execution) -> Kept | None:
    """Return the answer there is; None when this execution is the one. Raises: Error, see `answer`."""
    storing = _storing.get((execution.organization_id, execution.api_key_id, execution.scope))
    if storing is not None:
        await asyncio.wait({storing}, timeout=1)
    named = execution.named | {"deadline_s": settings.RESPAN_TOTAL_TIMEOUT_S + GRACE_S, "kept_s": KEPT_S}
    try:
        async with pool.connection() as lent:
            for _ in range(3):  # a row may go between the two statements
                if await (await lent.execute(_CLAIM, named)).fetchone():
                    return None
                found = await (await lent.execute(_FIND, named)).fetchone()
                if found is not None:
                    return _earlier(found)
    except psycopg.OperationalError as error:
        log.warning("idempotency key not checked", error=str(error))
        raise IdempotencyUnavailable(headers={"Retry-After": "1"}) from error
    raise _in_progress()


def _earlier(found: tuple[Any, ...]) -> Kept:
    is_same, is_done, withheld, status, content_type, headers, is_stream, body = found
    if not is_same:
        raise IdempotencyKeyReused
    if not is_done:
        raise _in_progress()
    if withheld:
        told = {replays.REPLAYED: "true", "x-should-retry": "false"}
        if LOG_ID in headers:
            told[LOG_ID] = headers[LOG_ID]
        raise _WITHHELD[withheld](headers=told, extra={"answered_status": status})
    return Kept(status, content_type, headers, is_stream, bytes(body))


def _in_progress() -> Error:
    return IdempotencyInProgress(headers={"Retry-After": "1"})


async def _forsake(claiming: "asyncio.Task[Kept | None]", execution: Execution) -> None:
    """Give back what was claimed for a client that had left by then."""
    await asyncio.wait({claiming})
    if claiming.exception() is None and claiming.result() is None:
        await _surely(_LET_GO, execution.named)


# --- The answer ------------------------------------------------------------------------------------------------------


async def _kept(execution: Execution, response: HttpResponseBase) -> HttpResponseBase:
    """Return the response, whose answer is in the table by then; a stream's is written there as it ends."""
    if response.status_code >= 400:
        await asyncio.shield(replays.start(_surely(_LET_GO, execution.named)))
        return response
    relay = getattr(response, "relay", None)
    if relay is None:
        content: bytes = response.content  # type: ignore[attr-defined]
        is_stream = response.get("Content-Type", "").startswith("text/event-stream")
        await asyncio.shield(_store(execution, replays.kept(response, content, is_stream=is_stream)))
        return response

    def ended(is_complete: bool, body: bytes | None) -> None:
        if not is_complete:
            replays.start(_surely(_LET_GO, execution.named))
            return
        too_large = b"" if body is None else body
        _store(execution, replays.kept(response, too_large, is_stream=True), is_withheld=body is None)

    relay.keep(replays.MAX_BYTES, ended)
    return response


def _store(execution: Execution, kept: Kept, *, is_withheld: bool = False) -> "asyncio.Task[None]":
    """Write an answer down, or why it is not there."""
    withheld = "too_large" if is_withheld or len(kept.body) > replays.MAX_BYTES else ""
    if execution.zero_retention:
        withheld = "not_kept"
    headers = dict(kept.headers)
    if execution.zero_retention:
        headers = {name: value for name, value in headers.items() if name == LOG_ID}
    row = execution.named | {
        "status": kept.status,
        "content_type": kept.content_type[:200],
        "headers": Jsonb(headers),
        "is_stream": kept.is_stream,
        "withheld": withheld,
        "body": None if withheld else kept.body,
    }
    place = (execution.organization_id, execution.api_key_id, execution.scope)
    task = _storing[place] = replays.start(_surely(_DONE, row))
    task.add_done_callback(lambda _: _storing.pop(place, None))
    return task


async def _surely(statement: str, row: dict[str, Any]) -> None:
    """Write now; with the database away, once it is back. Who waits, waits for the first try only.

    Until then the row says that the call is in progress: nobody makes it a second time.
    """
    try:
        async with pool.connection() as lent:
            await lent.execute(statement, row)
    except psycopg.OperationalError as error:
        log.warning("idempotent call not written down yet", error=str(error))
        replays.start(_later(statement, row))


async def _later(statement: str, row: dict[str, Any]) -> None:
    for pause_s in _PAUSES_S:
        await asyncio.sleep(pause_s)
        try:
            async with pool.connection() as lent:
                await lent.execute(statement, row)
                return
        except psycopg.OperationalError:
            continue
    log.error("idempotent call not written down", claim=str(row["claim"]))


def forget_expired(*, limit: int = 5_000) -> int:
    """Delete rows that are of no use any more; return how many. At most `limit`, the oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM gateway_idempotentcall WHERE id IN"
            " (SELECT id FROM gateway_idempotentcall WHERE expires_at < now() ORDER BY expires_at LIMIT %s"
            " FOR UPDATE SKIP LOCKED)",
            [limit],
        )
        return int(cursor.rowcount)
