"""Pure: a call whose client and provider speak different dialects: both ends joined by the middle form.

Responsible for the order of things (decode, encode, what is gathered for the trace), for every pair of dialects alike.
Knows no wire format. Neighbours: `blocks.py` (the middle form), `registry.py` (the ends), `gateway.answers.Relay`
(which treats a `Translation` like the reader of a stream that is only passed on).
"""

from typing import Protocol

from gateway.dialects import blocks, wire


class Encode(Protocol):
    """A client dialect's writing of a whole answer."""

    def __call__(self, answer: blocks.Answer, asked: wire.Asked, context: "wire.Context") -> bytes: ...


class Translation:
    """A provider's stream on its way to a client of another dialect: event by event, nothing is buffered."""

    __slots__ = ("_asked", "_context", "_decoder", "_encode", "_gathered", "_writer", "error", "saw_done", "started")

    def __init__(
        self, decoder: blocks.Decoder, writer: blocks.Writer, encode: Encode, asked: wire.Asked, context: wire.Context
    ) -> None:
        self._decoder = decoder
        self._writer = writer
        self._encode = encode
        self._asked = asked
        self._context = context
        self._gathered = blocks.Gatherer(wire.MAX_KEPT_BYTES)
        self.started = False
        self.saw_done = False
        self.error: str | None = None

    def feed(self, block: bytes) -> bytes:
        """Take a block of the provider's, return the client's bytes. Raises: wire.InvalidStream."""
        return self._written(self._decoder.feed(block))

    def end(self) -> bytes:
        """Return what is still to write when the provider has ended. Raises: wire.InvalidStream."""
        return self._written(self._decoder.end())

    def _written(self, events: list[blocks.Event]) -> bytes:
        written = []
        for event in events:
            if self.saw_done:
                break
            self._gathered.take(event)
            kind = type(event)
            if kind is blocks.Opened:
                self.started = True
            elif isinstance(event, blocks.Failed):
                self.error, self.saw_done = event.message, True
            elif kind is blocks.Ended:
                self.started = self.saw_done = True
            written.append(self._writer.write(event))
        return b"".join(written)

    @property
    def complete(self) -> bool:
        """Whether the answer reached its end, without an error."""
        return self.error is None and self.saw_done

    def answer(self) -> wire.Answer:
        """Return what the stream has said so far."""
        return said(self._gathered.answer)

    def assembled(self) -> bytes:
        """Return the stream so far as one answer in the client's dialect, for the trace."""
        return self._encode(self._gathered.answer, self._asked, self._context)


def said(answer: blocks.Answer) -> wire.Answer:
    """Return what a whole answer said, as the trace wants it."""
    finish = answer.finish
    return wire.Answer(
        usage=answer.usage,
        model=wire.storable(answer.model),
        finish_reason=finish.reason if finish else None,
        output_text=blocks.output_text(answer),
        error=answer.error,
    )


def streamed(answer: blocks.Answer, writer: blocks.Writer) -> bytes:
    """Return a whole answer as a stream, for a client that asked for one where the provider sent none."""
    return b"".join([writer.write(event) for event in blocks.events(answer)])
