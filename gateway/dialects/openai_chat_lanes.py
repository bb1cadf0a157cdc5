"""Pure: blocks one after the other, out of a stream that interleaves them.

Each block has a lane. One lane is open and its deltas go on at once; what comes for another lane closes it, except
that a tool call which is not whole yet stays open: the other lane waits, and everything behind it. Knows nothing of
JSON beyond when an object is whole. Neighbour: `openai_chat_decode_answer.py`.
"""

import re
from collections.abc import Callable
from typing import Any

from gateway.dialects.blocks import Block, Closed, Event, Opened, ToolCall
from gateway.dialects.wire import InvalidStream

# Characters of deltas that may wait: a provider that interleaves without end must not fill our memory.
MAX_WAITING = 1024 * 1024
# What a delta costs beside its text.
_PIECE = 200
# Pieces of arguments that are kept unread.
_MANY = 1000
_MARKS = re.compile(r'\\.|["{}\[\]]', re.DOTALL)


class Lanes:
    """Puts blocks in order. `out` holds the events until they are `taken`."""

    __slots__ = ("_count", "_index", "_object", "_open", "_waiting", "_waiting_size", "out")

    def __init__(self) -> None:
        self.out: list[Event] = []
        self._index = -1  # of the open block
        self._count = 0
        self._open: str | None = None
        self._object: Object | None = None  # of the open lane, when it is that of a call
        self._waiting: dict[str, _Lane] = {}
        self._waiting_size = 0

    def taken(self) -> list[Event]:
        """Return the events since the last time."""
        out, self.out = self.out, []
        return out

    def write(
        self, key: str, begin: Callable[[], Block] | None, delta: Any, piece: Any, *, may_open: bool = True
    ) -> None:
        """Write a delta (its class and what it carries) into a lane; `begin` makes its block where it is a new one.

        Without `begin`, or without `may_open`, a delta for a lane that is closed is left out.
        Raises: InvalidStream when more is waiting than we keep.
        """
        if key == self._open:
            self.out.append(delta(self._index, piece))
            if self._object is not None:
                self._object.add(piece)
            return
        lane = self._waiting.get(key)
        if lane is None:
            if begin is None or not may_open:
                return
            lane = self._lane(key, begin())
            if lane is None:
                self.out.append(delta(self._index, piece))
                return
        lane.pieces.append((delta, piece))
        self._weigh(piece)
        self._advance()

    def call(self, key: str, begun: ToolCall) -> None:
        """Begin the lane of a tool call."""
        self._lane(key, begun)

    def whole(self, block: Block) -> None:
        """Write a block that is whole already."""
        self._count += 1
        self._lane(f"whole{self._count}", block)

    def finish(self) -> None:
        """Close what is open and write all that waits."""
        self._close()
        for key, lane in self._waiting.items():
            self._begin(key, lane)
            self._close()
        self._waiting.clear()

    def _lane(self, key: str, block: Block) -> "_Lane | None":
        """Begin a lane: open it now (None), or let it wait."""
        if not self._waiting and self._may_close():
            self._close()
            self._begin(key, _Lane(block))
            return None
        self._waiting[key] = _Lane(block)
        self._weigh("")
        self._advance()
        return self._waiting.get(key)

    def _advance(self) -> None:
        """Open what waits, as far as what is open may be closed."""
        while self._waiting and self._may_close():
            self._close()
            key = next(iter(self._waiting))
            self._begin(key, self._waiting.pop(key))
        if not self._waiting:
            self._waiting_size = 0

    def _may_close(self) -> bool:
        return self._object is None or self._object.is_whole()

    def _begin(self, key: str, lane: "_Lane") -> None:
        self._index += 1
        self._open = key
        call = lane.block if isinstance(lane.block, ToolCall) else None
        self._object = Object(is_text=call.custom) if call is not None else None
        self.out.append(Opened(self._index, lane.block))
        for delta, piece in lane.pieces:
            self.out.append(delta(self._index, piece))
            if self._object is not None:
                self._object.add(piece)

    def _close(self) -> None:
        if self._open is not None:
            self.out.append(Closed(self._index))
            self._open = self._object = None

    def _weigh(self, piece: Any) -> None:
        self._waiting_size += _PIECE + (len(piece) if isinstance(piece, str) else _PIECE)
        if self._waiting_size > MAX_WAITING:
            raise InvalidStream("The provider's answer interleaves more than can be put in order.")


class _Lane:
    """A lane that waits: its block, and the deltas to write into it."""

    __slots__ = ("block", "pieces")

    def __init__(self, block: Block) -> None:
        self.block = block
        self.pieces: list[tuple[Any, Any]] = []


class Object:
    """Tells when the JSON object that a call's arguments are is whole, in one pass over them, when asked."""

    __slots__ = ("_depth", "_in_string", "_is_text", "_is_whole", "_pieces")

    def __init__(self, *, is_text: bool = False) -> None:
        self._pieces: list[str] = []
        self._depth = 0
        self._in_string = False
        self._is_whole = False
        self._is_text = is_text  # free text is never known to be whole

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        if len(self._pieces) > _MANY:
            self._read("".join(self._pieces))

    def is_whole(self) -> bool:
        """Tell whether the object has been closed."""
        if self._pieces:
            self._read("".join(self._pieces))
        return self._is_whole

    def _read(self, text: str) -> None:
        if self._is_text or self._is_whole:
            self._pieces.clear()
            return
        slashes = len(text) - len(text.rstrip("\\"))
        # The character that a last backslash escapes is still to come.
        self._pieces = ["\\"] if slashes % 2 else []
        for match in _MARKS.finditer(text):
            mark = match[0]
            if mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string and mark[0] != "\\":
                self._depth += 1 if mark in "{[" else -1
                self._is_whole = self._is_whole or self._depth <= 0
