"""The door into traces: what the gateway tells about its calls goes to the spool of this process.

Responsible for the process's one writer (made at first use, anew after a fork) and for making bodies fit to be kept.
Never waits for a database or a broker. Neighbours: `gateway.call` before it, `traces.spool` under it.
"""

import base64
import binascii
import hashlib
import logging
import os
import re
import threading
from dataclasses import dataclass

import msgspec
from django.conf import settings

from traces import spans
from traces.spans import Accepted, Counting, Finished
from traces.spool import SpoolUnavailable, Writer

__all__ = ["SpoolUnavailable", "close", "drops", "finished", "opened", "owner", "redact"]

logger = logging.getLogger(__name__)

# A text to count is longer than any model reads; cut, it keeps a record far below the spool's limit.
_MOST_COUNTED_CHARS = 4_000_000
# A data URL in JSON (where a slash may be written `\/`): first the whole of a string, then a part of one.
_DATA_URL = re.compile(
    rb'(?P<quote>(?<!\\)"|)data:(?P<type>[\w.+-]{1,100}\\?/[\w.+-]{1,100})?(?:;[\w.+-]{1,100}=[\w.+-]{1,100}){0,4}'
    rb';base64,(?P<data>[A-Za-z0-9+/=_-]*(?:\\/[A-Za-z0-9+/=_-]*)*)(?P<end>"(?!\s*:)|)',
    re.ASCII,
)
# Content of Anthropic's sources, Gemini's inline data, sound and generated images: base64 without a data URL.
_BARE = re.compile(rb'(?P<head>"(?:data|file_data|b64_json|result)"\s*:\s*)"(?P<data>[A-Za-z0-9+/_\\-]{512,}={0,2})"')
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")


@dataclass(slots=True)
class _State:
    writer: Writer | None = None
    dropped: int = 0


_state = _State()
_mutex = threading.Lock()


def _writer() -> Writer:
    writer = _state.writer  # a forked child has none: see `_disown`
    if writer is not None:
        return writer
    with _mutex:
        if _state.writer is None:
            _state.writer = Writer(settings.RESPAN_SPOOL_DIR)
        return _state.writer


def _disown() -> None:
    """In a forked child: the parent's folder is not ours, and its lock must not live on in us."""
    global _mutex
    _mutex = threading.Lock()
    if _state.writer is not None:
        _state.writer.disown()
        _state.writer = None


os.register_at_fork(after_in_child=_disown)


def _append(record: Accepted | Finished) -> None:
    writer, data = _writer(), spans.encode(record)
    try:
        writer.append(data)
    except SpoolUnavailable:
        if writer.folder.exists():
            raise
        # Somebody removed the data directory under us: begin a new folder.
        with _mutex:
            if _state.writer is writer:
                _state.writer = None
        writer.close()
        _writer().append(data)


def opened(record: Accepted) -> None:
    """Record that a call was admitted, before anything is spent on it. Raises: SpoolUnavailable."""
    _append(record)


def finished(record: Finished) -> None:
    """Record that a call has ended, before its last byte is released. Never raises: what cannot be kept is counted."""
    try:
        _append(_bounded(record))
    except Exception as error:
        _state.dropped += 1
        logger.error("a finished call could not be recorded (%d so far): %s", _state.dropped, error)


def _bounded(record: Finished) -> Finished:
    counting = record.counting
    if counting is None or len(counting.input_text) + len(counting.output_text) <= _MOST_COUNTED_CHARS:
        return record
    cut = Counting(
        input_text=counting.input_text[:_MOST_COUNTED_CHARS],
        output_text=counting.output_text[:_MOST_COUNTED_CHARS],
        images=counting.images,
    )
    return msgspec.structs.replace(record, counting=cut)


def owner() -> str:
    """Return the name this process's holds are opened under: its folder's. Raises: SpoolUnavailable."""
    return _writer().owner


def drops() -> int:
    """Return how many finished calls this process could not record."""
    return _state.dropped


def close() -> None:
    """Close the writer at the end of the process: calls still open become interrupted at once."""
    with _mutex:
        writer, _state.writer = _state.writer, None
    if writer is not None:
        writer.close()


def redact(body: bytes) -> tuple[bytes, bool]:
    """Return a JSON body as it may be stored, and whether it was cut.

    A data URL becomes `{"sha256":…,"bytes":…,"type":…}` (within a longer string, the same as text); what is left is cut
    at `RESPAN_MAX_STORED_BODY_BYTES`, between characters.
    Takes some 5 ms for each MiB of data URLs: large bodies belong into a thread.
    """
    if b"data:" in body:
        body = _DATA_URL.sub(_digest, body)
    if b'data"' in body or b'b64_json"' in body or b'result"' in body:
        body = _BARE.sub(_bare_digest, body)
    limit = settings.RESPAN_MAX_STORED_BODY_BYTES
    if len(body) <= limit:
        return body, False
    while limit and body[limit] & 0xC0 == 0x80:
        limit -= 1
    return body[:limit], True


def _bare_digest(found: "re.Match[bytes]") -> bytes:
    data = found["data"].replace(b"\\/", b"/").translate(_STANDARD_ALPHABET).rstrip(b"=")
    try:
        content = base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error:
        return found[0]
    digest = hashlib.sha256(content).hexdigest()
    return found["head"] + msgspec.json.encode({"sha256": digest, "bytes": len(content), "type": ""})


def _digest(found: "re.Match[bytes]") -> bytes:
    data = found["data"].rstrip(b"=")
    if b"\\" in data:
        data = data.replace(b"\\/", b"/")
    if b"-" in data or b"_" in data:
        data = data.translate(_STANDARD_ALPHABET)
    try:
        content = base64.b64decode(data + b"=" * (-len(data) % 4))
    except binascii.Error:
        return found[0]
    media_type = (found["type"] or b"text/plain").replace(b"\\/", b"/").decode()
    digest = hashlib.sha256(content).hexdigest()
    if found["quote"] and found["end"]:
        return msgspec.json.encode({"sha256": digest, "bytes": len(content), "type": media_type})
    text = f"[{media_type}, {len(content)} bytes, sha256 {digest}]"
    return found["quote"] + text.encode() + found["end"]
