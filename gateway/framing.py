"""Pure: server-sent events out of blocks of bytes, however the network cut them.

Responsible for where an event ends and what its fields are; keeps each event's exact bytes, so that a stream can be
passed on as it came. Never decodes JSON, never looks at text, never uses `splitlines` (which knows line ends that SSE
does not). Neighbour: `gateway.dialects`. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import re
from typing import NamedTuple

# One event may not be larger: a provider that never ends a line must not fill our memory.
MAX_EVENT_BYTES = 1024 * 1024

# What is left over of a block and is put before the next one; more of it is not copied for each block.
_SHORT = 16 * 1024
_BOM = b"\xef\xbb\xbf"
# A line end and at once another one. Atomic, so that CR LF is never taken for two line ends.
_EVENT_END = re.compile(rb"(?>\r\n|\r|\n)(?>\r\n|\r|\n)")
_LINE_END = re.compile(rb"\r\n|\r|\n")


class FramingError(ValueError):
    """The bytes are no server-sent events we are willing to read."""


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
