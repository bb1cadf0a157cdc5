"""Pure: the two ends of one call: what is sent to the provider, and what its answer becomes for the client.

`Passing` where both speak one dialect (bytes are forwarded), `Translating` where they do not (the middle form). Never
opens a socket, never chooses. Neighbours: `registry.py` (the dialects), `translation.py` (streams), `gateway.outgoing`
(chooses between the two), `gateway.call`.
"""

from typing import Protocol

import msgspec

from gateway.dialects import blocks, wire
from gateway.dialects.registry import Client, Target
from gateway.dialects.translation import Translation, said, streamed

JSON = "application/json"


class Whole(msgspec.Struct, frozen=True):
    """A whole answer: what it said, and the bytes for the client. `kept` is what the trace may keep."""

    answer: wire.Answer
    body: bytes
    content_type: str
    kept: bytes


class Exchange(Protocol):
    """What `gateway.call` needs of both ends."""

    @property
    def is_passed(self) -> bool: ...
    @property
    def stream_type(self) -> str:
        """What the provider calls a stream."""

    def sent(self, order: blocks.Order) -> blocks.Sent:
        """Return what goes to the provider. Raises: blocks.Unsupported."""

    def reader(self) -> wire.StreamReader:
        """Return what takes the provider's stream."""

    def whole(self, body: bytes, content_type: str) -> Whole:
        """Return what the provider's whole answer becomes. Never raises: `answer.error` says when it is none."""

    def error_message(self, body: bytes) -> str | None:
        """Return the message of a provider's error."""


class Passing:
    """One dialect at both ends."""

    __slots__ = ("_asked", "_client")

    is_passed = True

    def __init__(self, client: Client, asked: wire.Asked) -> None:
        self._client = client
        self._asked = asked

    @property
    def stream_type(self) -> str:
        return self._client.stream_type(self._asked)

    def sent(self, order: blocks.Order) -> blocks.Sent:
        return self._client.forward(self._asked, order)

    def reader(self) -> wire.StreamReader:
        return self._client.reader(self._asked)

    def whole(self, body: bytes, content_type: str) -> Whole:
        client = self._client
        kept = body if client.kept is None else client.kept(body, content_type)
        return Whole(client.read_json(body), body, content_type, kept)

    def error_message(self, body: bytes) -> str | None:
        return self._client.errors.message(body)


class Translating:
    """Two dialects and the middle form between them. `request` may be changed until it is sent."""

    __slots__ = ("_asked", "_client", "_context", "_names", "_target", "_writing", "request")

    is_passed = False

    def __init__(
        self, client: Client, target: Target, asked: wire.Asked, request: blocks.Request, context: wire.Context
    ) -> None:
        assert client.translated is not None  # noqa: S101  (`gateway.outgoing.way` has seen to it)
        self._client = client
        self._writing = client.translated
        self._target = target
        self._asked = asked
        self._context = context
        self._names: dict[str, str] = {}
        self.request = request

    @property
    def stream_type(self) -> str:
        return self._target.stream_type

    def sent(self, order: blocks.Order) -> blocks.Sent:
        self.request.model = order.model.upstream
        sent = self._target.encode(self.request, order)
        self._names = dict(sent.names)
        return sent

    def reader(self) -> wire.StreamReader:
        writer = self._writing.writer(self._asked, self._context)
        return Translation(self._decoder(), writer, self._writing.encode, self._asked, self._context)

    def whole(self, body: bytes, content_type: str) -> Whole:
        if content_type.startswith(self._target.stream_type):  # a server that streams unasked
            answer = self._gathered(body)
        else:
            answer = self._renamed(self._target.answer(body))
        if answer.error is not None:
            return Whole(said(answer), b"", JSON, b"")
        kept = self._writing.encode(answer, self._asked, self._context)
        if not self._asked.stream:
            return Whole(said(answer), kept, JSON, kept)
        written = streamed(answer, self._writing.writer(self._asked, self._context))
        return Whole(said(answer), written, self._client.stream_type(self._asked), kept)

    def error_message(self, body: bytes) -> str | None:
        return self._target.error_message(body)

    def _decoder(self) -> blocks.Decoder:
        decoder = self._target.decoder()
        return _Renaming(decoder, self._names) if self._names else decoder

    def _gathered(self, body: bytes) -> blocks.Answer:
        decoder, gathered = self._decoder(), blocks.Gatherer(wire.MAX_KEPT_BYTES)
        try:
            for event in (*decoder.feed(body), *decoder.end()):
                gathered.take(event)
        except wire.InvalidStream as error:
            return blocks.Answer(error=str(error))
        return gathered.answer

    def _renamed(self, answer: blocks.Answer) -> blocks.Answer:
        for block in blocks.every_block(answer) if self._names else ():
            if isinstance(block, blocks.ToolCall):
                block.name = self._names.get(block.name, block.name)
        return answer


class _Renaming:
    """A decoder whose tools get their own names back, where the provider's rules for names made others of them."""

    __slots__ = ("_decoder", "_names")

    def __init__(self, decoder: blocks.Decoder, names: dict[str, str]) -> None:
        self._decoder = decoder
        self._names = names

    def feed(self, block: bytes) -> list[blocks.Event]:
        return [self._renamed(event) for event in self._decoder.feed(block)]

    def end(self) -> list[blocks.Event]:
        return [self._renamed(event) for event in self._decoder.end()]

    def _renamed(self, event: blocks.Event) -> blocks.Event:
        if isinstance(event, blocks.Opened) and isinstance(event.block, blocks.ToolCall):
            event.block.name = self._names.get(event.block.name, event.block.name)
        return event
