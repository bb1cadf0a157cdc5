"""Pure: the streams of OpenAI's endpoints beside chat, read on their way to the client: events, and plain sound.

Responsible for the usage and the text in them, for whether they reached their end, and for what a trace may keep (sizes
of sound and pictures, never these themselves). Never changes a byte. Neighbours: `openai_rest.py`, whose answers these
are; `gateway.framing`.
"""

from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects import wire
from gateway.dialects.openai_answer import MAX_TOKENS, error_in, lenient
from gateway.dialects.wire import Answer, InvalidStream
from gateway.framing import SSE, Event, FramingError

EVENTS = "text/event-stream"
# One event holds a whole picture in base64.
MAX_EVENT_BYTES = 32 * 1024 * 1024
# Members that hold sound or a picture in base64.
BYTES = (b'"b64_json"', b'"audio"')
_BYTES = tuple(name.decode().strip('"') for name in BYTES)
_encode = msgspec.json.Encoder().encode


class _Said(msgspec.Struct):
    """What is read of an event; sound and pictures are not copied."""

    type: str = ""
    delta: str | None = None
    text: str | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    message: str | None = None
    b64_json: msgspec.Raw = msgspec.Raw()
    audio: msgspec.Raw = msgspec.Raw()


_said = msgspec.json.Decoder(_Said).decode


class EventReader:
    """Reads the events of a transcription, of speech or of pictures. `feed` returns whole events as they came."""

    def __init__(self) -> None:
        self.saw_done = False
        self.started = False
        self.error: str | None = None
        self._sse = SSE(MAX_EVENT_BYTES)
        self._texts: list[str] = []
        self._text: str | None = None  # all of it, as the last event says it
        self._kept = 0
        self._sound = 0
        self._pictures: list[int] = []
        self._reported: Any = None
        self._has_finished = False

    def feed(self, block: bytes) -> bytes:
        """Take a block, return what to forward. Raises: InvalidStream."""
        try:
            return b"".join([self._take(event) for event in self._sse.feed(block)])
        except FramingError as error:
            raise InvalidStream(str(error)) from error

    def end(self) -> bytes:
        """Return what is still to forward when the provider has ended; an event that was cut off is not.

        Raises: InvalidStream.
        """
        try:
            events = self._sse.end()
        except FramingError as error:
            raise InvalidStream(str(error)) from error
        last = b""
        for event in events:
            if event.data.startswith(b"[DONE]") or isinstance(lenient(event.data), dict):
                last += self._take(event._replace(raw=event.raw.rstrip(b"\r\n") + b"\n\n"))
        self.saw_done = self.saw_done or self.complete
        return last

    @property
    def complete(self) -> bool:
        """Whether the answer reached its end: `[DONE]`, or the event that says so; and no error."""
        return self.error is None and (self.saw_done or self._has_finished)

    def answer(self) -> Answer:
        """Return what the stream has said so far."""
        usage = usage_in({"usage": self._reported})
        return Answer(usage, None, "stop" if self.complete else None, self._said_text(), self.error)

    def assembled(self) -> bytes:
        """Return the stream so far as one answer, for the trace: of sound and pictures their sizes."""
        whole: dict[str, Any] = {}
        if self._texts or self._text is not None:
            whole["text"] = self._said_text()
        if self._pictures:
            whole["data"] = [{"b64_json": {"bytes": size}} for size in self._pictures]
        if self._sound:
            whole["audio"] = {"bytes": self._sound}
        if self._reported is not None:
            whole["usage"] = self._reported
        if self.error is not None:
            whole["error"] = {"message": self.error}
        return _encode(whole)

    def _said_text(self) -> str:
        return self._text if self._text is not None else "".join(self._texts)

    def _take(self, event: Event) -> bytes:
        data = event.data
        if self.saw_done:
            return b""
        if not data:
            return event.raw
        if data.startswith(b"[DONE]"):
            self.saw_done = True
            return b"" if self.error is not None else event.raw
        try:
            self._note(_said(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = lenient(data)
            if isinstance(value, dict):
                self.error = self.error or error_in(value)
        self.started = self.started or self.error is None
        return event.raw

    def _note(self, said: _Said) -> None:
        if _is_given(said.error) or said.type == "error":
            told = {"type": said.type, "error": lenient(bytes(said.error)), "message": said.message}
            self.error = self.error or error_in(told)
        if said.delta and self._kept <= wire.MAX_KEPT_BYTES:
            self._kept += len(said.delta)
            self._texts.append(said.delta)
        self._sound += _size(said.audio)
        if _is_given(said.usage):
            self._reported = lenient(bytes(said.usage))
        if said.type.endswith((".done", ".completed")):
            self._has_finished = True
            self._text = said.text if said.text is not None else self._text
            if _is_given(said.b64_json):
                self._pictures.append(_size(said.b64_json))


class SoundReader:
    """Counts sound that is passed on as it comes. It ends where the provider ends it."""

    def __init__(self) -> None:
        self.saw_done = False
        self.started = False
        self.error: str | None = None
        self._size = 0

    def feed(self, block: bytes) -> bytes:
        self._size += len(block)
        self.started = self._size > 0
        return block

    def end(self) -> bytes:
        self.saw_done = True
        return b""

    @property
    def complete(self) -> bool:
        return self.saw_done and self._size > 0

    def answer(self) -> Answer:
        return wire.NOTHING

    def assembled(self) -> bytes:
        """Return how much sound there was."""
        return _encode({"audio": {"bytes": self._size}})


def usage_in(value: dict[str, Any]) -> Usage | None:
    """Return the usage an answer reports in tokens, normalised; None where there is none (or seconds of sound)."""
    reported = value.get("usage")
    if not isinstance(reported, dict) or reported.get("type") == "duration":
        return None
    given = _tokens(reported, "prompt_tokens", "input_tokens")
    written = _tokens(reported, "completion_tokens", "output_tokens")
    if given is None:  # some say only how much it was in all
        total = _tokens(reported, "total_tokens")
        given = total - (written or 0) if total is not None and total >= (written or 0) else None
    if given is None:
        return None
    details: dict[str, Any] = next((reported[name] for name in _DETAILS if isinstance(reported.get(name), dict)), {})
    cached = _tokens(details, "cached_tokens") or 0
    return Usage(input_tokens=given, output_tokens=written or 0, cache_read_input_tokens=min(cached, given))


# The details of the input, as embeddings and pictures, transcriptions, and the other providers name them.
_DETAILS = ("input_tokens_details", "input_token_details", "prompt_tokens_details")


def _tokens(reported: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = reported.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is int and 0 <= value <= MAX_TOKENS:
            return value
    return None


def without_bytes(body: bytes) -> bytes:
    """Return a JSON answer with the sizes of its sound and pictures in their place."""
    value = lenient(body)
    if not isinstance(value, dict):
        return _encode({"bytes": len(body)})
    items = value.get("data")
    for item in (value, *(items if isinstance(items, list) else ())):
        if isinstance(item, dict):
            for name in _BYTES:
                if isinstance(item.get(name), str):
                    item[name] = {"bytes": len(item[name]) * 3 // 4}
    return _encode(value)


def _is_given(raw: msgspec.Raw) -> bool:
    size = len(memoryview(raw))
    return size > 4 or (size > 0 and bytes(raw) != b"null")


def _size(raw: msgspec.Raw) -> int:
    """Return how many bytes a string of base64 stands for."""
    return max(len(memoryview(raw)) - 2, 0) * 3 // 4 if _is_given(raw) else 0
