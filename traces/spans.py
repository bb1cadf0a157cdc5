"""The records a call leaves behind: `Accepted` when it is admitted, `Finished` when it has ended, and their bytes.

Pure: no Django, no clock, no disk. Never knows SQL. Neighbours: `gateway.call` fills them in, `traces.intake` writes
them to the spool, `traces.shipper` carries them, `traces.loading` turns `Finished` into rows. Token names follow the
OTel GenAI conventions; all times are integer microseconds, moments counted from the Unix epoch.
"""

import math
from typing import Any
from uuid import UUID

import msgspec
import zstandard
from msgspec import Struct, field

from billing.usage import Usage

OK, ERROR, ABORTED, INTERRUPTED = "ok", "error", "aborted", "interrupted"

# Roll-ups keep latencies as histograms of 40 buckets, each sqrt(2) times wider than the one before: 1 ms to 17 min.
HISTOGRAM_BUCKETS = 40


class Accepted(Struct, tag="a", frozen=True, kw_only=True, omit_defaults=True):
    """A call was admitted. `held_nano` is the amount of the hold that carries the same id (0: no hold)."""

    id: UUID
    organization_id: int
    api_key_id: int
    environment: str
    started_us: int
    deadline_us: int
    model: str
    stream: bool
    held_nano: int = 0


class Attempt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One try at one provider, a child span of its call; `reason` says why: `first`, `fallback` or `retry`.

    `skipped` means a target that was passed over without a try: `error` holds why. `next` says what followed this
    attempt and why ("retry after 1.2 s", "fallback: 429"); None for the attempt that answered.
    """

    provider: str
    model: str
    started_us: int
    duration_us: int
    reason: str = "first"
    credential: str | None = None
    status: int | None = None
    error: str | None = None
    span_id: bytes = b""  # 8 bytes; its parent is the call's span
    credential_name: str | None = None
    skipped: bool = False
    next: str | None = None
    message: str | None = None


class Counting(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the worker counts tokens in when the provider reported no usage."""

    input_text: str = ""
    output_text: str = ""
    images: int = 0


class Finished(Struct, tag="f", frozen=True, kw_only=True, omit_defaults=True):
    """A call has ended: everything its trace will show.

    `started_us` equals the `Accepted` record's: both are part of the trace's key. `held` says that a hold with this id
    exists and has to be resolved. `free` says that the cost is 0 by rule. Bodies are JSON as the client sent it and as
    it was answered (a stream is assembled into one answer), data URLs replaced, cut at 256 KiB. `cached` says that no
    provider was asked, `saved_nano` what that spared, `cache_log_id` whose answer was given again. `fallback` is the
    rank of the target that answered (0: the model asked for), `retries` counts attempts beyond the first that reached a
    provider, `limit` names what refused or warned.
    """

    id: UUID
    organization_id: int
    api_key_id: int
    environment: str
    started_us: int
    duration_us: int
    status: str  # ok | error | aborted | interrupted
    http_status: int
    request_model: str
    paid_by: str  # credits | own_key | free | nobody
    stream: bool = False
    name: str = "chat.completions"
    log_type: str = "chat"
    trace_id: bytes | None = None
    parent_span_id: bytes | None = None
    ttft_us: int | None = None
    provider: str | None = None
    response_model: str | None = None
    credential: str | None = None
    held: bool = False
    rates_id: int | None = None
    free: bool = False
    usage: Usage | None = None
    usage_source: str = "none"  # exact | counted | none
    counting: Counting | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    customer_identifier: str | None = None
    customer_name: str | None = None
    customer_email: str | None = None
    custom_identifier: str | None = None
    thread_identifier: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    request_body: bytes | None = None
    response_body: bytes | None = None
    request_truncated: bool = False
    response_truncated: bool = False
    disable_log: bool = False
    cached: bool = False
    saved_nano: int | None = None
    fallback: int = 0
    retries: int = 0
    limit: str | None = None
    cache_key: str | None = None
    cache_log_id: UUID | None = None
    load_balance_group: str | None = None


class Mark(Struct, tag="f", frozen=True):
    """The id of a `Finished` record, without the cost of decoding the rest."""

    id: UUID


class Identity(Struct, frozen=True):
    """What can still be said of a record that cannot be read in full."""

    id: UUID
    organization_id: int
    held: bool = False


_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
_finished = msgspec.msgpack.Decoder(Finished)
_outline: "msgspec.msgpack.Decoder[Accepted | Mark]" = msgspec.msgpack.Decoder(Accepted | Mark)
_identity = msgspec.msgpack.Decoder(Identity)


def encode(record: Accepted | Finished) -> bytes:
    """Return the record's bytes, as the spool keeps them."""
    return _encoder.encode(record)


def decode_finished(data: bytes) -> Finished:
    """Read a finished record. Raises: msgspec.DecodeError (its kin ValidationError included)."""
    return _finished.decode(data)


def outline(data: bytes) -> Accepted | Mark | None:
    """Tell which record the bytes are; None when they are neither (the worker will say what is wrong with them)."""
    try:
        return _outline.decode(data)
    except msgspec.DecodeError:
        return None


def identify(data: bytes) -> Identity | None:
    """Read only id and `held` of a finished record that does not decode; None when not even those can be read."""
    try:
        return _identity.decode(data)
    except msgspec.DecodeError:
        return None


def pack(records: list[bytes]) -> bytes:
    """Return the blob of a batch: the records' bytes, each readable without its neighbours, compressed."""
    return zstandard.ZstdCompressor(level=3).compress(msgspec.msgpack.encode(records))


def unpack(blob: bytes) -> list[bytes]:
    """Return the records' bytes of a batch. Raises: ValueError when the blob is not one of `pack`'s."""
    try:
        data = zstandard.ZstdDecompressor().decompress(blob)
        return msgspec.msgpack.decode(data, type=list[bytes])
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise ValueError(f"not a batch: {error}") from error


def supersedes(status: str, other: str) -> bool:
    """Tell whether a record with this status replaces one of the same call with the other."""
    return other == INTERRUPTED and status != INTERRUPTED


def interrupted(accepted: Accepted, *, now_us: int) -> Finished:
    """Make the last word on a call whose process died: nobody knows its usage, so it costs nothing."""
    return Finished(
        id=accepted.id,
        organization_id=accepted.organization_id,
        api_key_id=accepted.api_key_id,
        environment=accepted.environment,
        started_us=accepted.started_us,
        duration_us=max(0, now_us - accepted.started_us),
        status=INTERRUPTED,
        http_status=500,
        request_model=accepted.model,
        paid_by="credits" if accepted.held_nano else "nobody",
        stream=accepted.stream,
        held=accepted.held_nano > 0,
        free=True,
        error_code=INTERRUPTED,
        error_message="The gateway process ended before this call did.",
    )


def histogram_bucket(duration_us: int) -> int:
    """Return the bucket of a latency: bucket `i` holds `[2**(i/2), 2**((i+1)/2))` milliseconds, the ends everything."""
    if duration_us < 1000:
        return 0
    return min(HISTOGRAM_BUCKETS - 1, int(2 * math.log2(duration_us / 1000)))


def plain(value: Any) -> Any:
    """Return a record's part as plain lists and dicts, ready for JSON."""
    return msgspec.to_builtins(value)
