"""Pure: the events of a stream out of blocks of bytes, however the network cut them: server-sent events, and AWS's
event stream.

Responsible for where an event ends and what its fields are; keeps each server-sent event's exact bytes, so that a
stream can be passed on as it came. Never decodes JSON, never looks at text, never uses `splitlines` (which knows line
ends that SSE does not). Neighbour: `gateway.dialects`. Sources:
https://html.spec.whatwg.org/multipage/server-sent-events.html,
https://smithy.io/2.0/aws/amazon-eventstream.html
"""

import re
import struct
from typing import NamedTuple
from zlib import crc32

# One event may not be larger: a provider that never ends a line must not fill our memory.
MAX_EVENT_BYTES = 1024 * 1024

# What is left over of a block and is put before the next one; more of it is not copied for each block.
_SHORT = 16 * 1024
_BOM = b"\xef\xbb\xbf"
# A line end and at once another one. Atomic, so that CR LF is never taken for two line ends.
_EVENT_END = re.compile(rb"(?>\r\n|\r|\n)(?>\r\n|\r|\n)")
_LINE_END = re.compile(rb"\r\n|\r|\n")


class FramingError(ValueError):
    """The bytes are no stream of events we are willing to read."""


class Event(NamedTuple):
    """One event. `raw` ends with its blank line; `data` is empty for comments and blank lines."""

    raw: bytes
    data: bytes
    event: bytes | None = None


_new = tuple.__new__  # half the time of calling the class


class SSE:
    """Splits a stream incrementally. The events do not depend on how the stream was cut into blocks."""

    __slots__ = ("_broken", "_first", "_limit", "_pending", "_searched")

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._searched = 0  # before this position of `_pending` no event ends
        self._first = True
        self._broken: FramingError | None = None

    def sole(self, block: bytes) -> bytes | None:
        """Return the data of a block that is one event of one line, the usual case of a stream; else None.

        `feed` takes what this does not.
        """
        if (
            block.startswith(b"data: ")
            and block.find(b"\n") == len(block) - 2
            and block.endswith(b"\n")
            and not self._pending
            and not self._first
            and self._broken is None
            and b"\r" not in block
            and len(block) <= self._limit
        ):
            return block[6:-2]
        return None

    def feed(self, block: bytes) -> list[Event]:
        """Return the events that are complete now.

        Raises: FramingError when an event is too large, after the events before it were returned.
        """
        if self._broken is not None:
            raise self._broken
        if b"\r" not in block and len(self._pending) <= _SHORT and b"\r" not in self._pending:
            whole = bytes(self._pending) + block if self._pending else block
            if len(whole) <= self._limit:  # usual line ends, no event too large: cut without searching
                *parts, rest = whole.split(b"\n\n")
                self._pending = bytearray(rest)
                self._searched = max(len(rest) - 3, 0)
                first = [self._made(parts.pop(0) + b"\n\n")] if self._first and parts else []
                return first + [_event(part + b"\n\n") for part in parts]
        self._pending += block
        return self._complete(final=False)

    def end(self) -> list[Event]:
        """Return what is left when the stream is over; a last event without its blank line counts."""
        if self._broken is not None:
            raise self._broken
        events = self._complete(final=True)
        if self._pending:
            events.append(self._taken(len(self._pending)))
        return events

    def _complete(self, *, final: bool) -> list[Event]:
        events: list[Event] = []
        pending = self._pending
        position = self._searched
        taken = 0
        while (match := _EVENT_END.search(pending, position)) is not None:
            if match.end() == len(pending) and pending.endswith(b"\r") and not final:
                break  # the next byte may be the LF of this CR
            raw = bytes(pending[taken : match.end()])
            if len(raw) > self._limit:
                return self._refuse(events)
            events.append(self._made(raw))
            taken = position = match.end()
        del pending[:taken]
        # An end may lie across the cut: at most CR LF CR of it can have been seen.
        self._searched = max(len(pending) - 3, 0)
        if len(pending) > self._limit:
            return self._refuse(events)
        return events

    def _taken(self, size: int) -> Event:
        raw = bytes(self._pending[:size])
        del self._pending[:size]
        return self._made(raw)

    def _made(self, raw: bytes) -> Event:
        if self._first:
            self._first = False
            if raw.startswith(_BOM):
                return _event(raw[len(_BOM) :])._replace(raw=raw)
        return _event(raw)

    def _refuse(self, events: list[Event]) -> list[Event]:
        self._broken = FramingError(f"An event of the stream is larger than {self._limit} bytes.")
        if events:
            return events
        raise self._broken


def _event(raw: bytes) -> Event:
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
        return _new(Event, (raw, raw[6:-2], None))
    if raw.startswith(b"event: ") and b"\r" not in raw:  # the usual event with a name: one line each
        name_line, _, value = raw.partition(b"\ndata: ")
        if value.find(b"\n") == len(value) - 2 and b"\n" not in name_line:
            return _new(Event, (raw, value[:-2], name_line[7:]))
    data: list[bytes] = []
    name: bytes | None = None
    for line in _LINE_END.split(raw):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return Event(raw, b"\n".join(data), name)


# --- AWS event stream -----------------------------------------------------------------------------------------------

# As AWS's own clients have it: 16 MiB of payload, and 128 KiB of headers.
MAX_FRAME_BYTES = 16 * 1024 * 1024
MAX_HEADER_BYTES = 128 * 1024

_PRELUDE = struct.Struct(">III")  # length of the frame, length of its headers, checksum of both
_CHECKSUM = struct.Struct(">I")
_LENGTH = struct.Struct(">H")
_SMALLEST = _PRELUDE.size + _CHECKSUM.size

HeaderValue = bool | int | bytes | str

# By the type of a header's value: bytes with a length before them, and numbers (8 is a time in milliseconds).
_BYTES, _STRING, _UUID = 6, 7, 9
_NUMBERS = {2: struct.Struct(">b"), 3: struct.Struct(">h"), 4: struct.Struct(">i"), 5: struct.Struct(">q")}
_NUMBERS[8] = _NUMBERS[5]


class Frame(NamedTuple):
    """One message of an AWS event stream. The value of a UUID is its 16 bytes, that of a time its milliseconds."""

    headers: dict[str, HeaderValue]
    payload: bytes

    def header(self, name: str) -> str:
        """Return a header that is text, empty where it is missing or something else."""
        value = self.headers.get(name)
        return value if isinstance(value, str) else ""


class EventStream:
    """Splits `application/vnd.amazon.eventstream` incrementally, and checks both checksums of each frame."""

    __slots__ = ("_broken", "_limit", "_pending")

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._broken: FramingError | None = None

    def feed(self, block: bytes) -> list[Frame]:
        """Return the frames that are complete now.

        Raises: FramingError when one is corrupt or too large, after the frames before it were returned.
        """
        if self._broken is not None:
            raise self._broken
        pending = self._pending
        pending += block
        frames: list[Frame] = []
        taken = 0
        try:
            while (size := _frame_size(pending, taken, self._limit)) and len(pending) - taken >= size:
                frames.append(_frame(bytes(pending[taken : taken + size])))
                taken += size
        except FramingError as error:
            self._broken = error
            if not frames:
                raise
        del pending[:taken]
        return frames

    def end(self) -> list[Frame]:
        """Return nothing: a frame ends where it says. Raises: FramingError when the stream was cut inside of one."""
        if self._broken is None and self._pending:
            self._broken = FramingError("The stream ended inside a frame.")
        if self._broken is not None:
            raise self._broken
        return []


def _frame_size(data: bytearray, start: int, limit: int) -> int:
    """Return the size of the frame at a position, 0 when its prelude is not there yet. Raises: FramingError."""
    if len(data) - start < _PRELUDE.size:
        return 0
    size, headers, checksum = _PRELUDE.unpack_from(data, start)
    if crc32(data[start : start + 8]) != checksum:
        raise FramingError("The stream is no AWS event stream, or it was damaged: the checksum of a prelude is wrong.")
    if headers > MAX_HEADER_BYTES or size < _SMALLEST + headers:
        raise FramingError("A frame of the stream has impossible lengths.")
    if size > limit:
        raise FramingError(f"A frame of the stream is larger than {limit} bytes.")
    return int(size)


def _frame(raw: bytes) -> Frame:
    (checksum,) = _CHECKSUM.unpack_from(raw, len(raw) - 4)
    if crc32(raw[:-4]) != checksum:
        raise FramingError("A frame of the stream was damaged: its checksum is wrong.")
    end = _PRELUDE.size + _PRELUDE.unpack_from(raw)[1]
    return Frame(_headers(raw[_PRELUDE.size : end]), raw[end:-4])


def _headers(data: bytes) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    position = 0
    try:
        while position < len(data):
            start = position + 1
            position = start + data[position]
            name, kind = data[start:position].decode(), data[position]
            headers[name], position = _value(kind, data, position + 1)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise FramingError("A frame of the stream has headers that cannot be read.") from error
    return headers


def _value(kind: int, data: bytes, position: int) -> tuple[HeaderValue, int]:
    """Return a header's value and where the next header begins. Raises: as `_headers` expects."""
    if kind in (0, 1):
        return kind == 0, position
    if number := _NUMBERS.get(kind):
        return int(number.unpack_from(data, position)[0]), position + number.size
    if kind == _UUID:
        size = 16
    elif kind in (_BYTES, _STRING):
        (size,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
    else:
        raise FramingError(f"A frame of the stream has a header of the unknown type {kind}.")
    value = data[position : position + size]
    if len(value) != size:
        raise IndexError
    return value.decode() if kind == _STRING else value, position + size
