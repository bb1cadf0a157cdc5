"""Pure: what a provider of chat completions answered -> blocks: whole answers, and streams however they were cut.

Responsible for the order of things: the wire format interleaves (parallel tool calls by index, text beside them), the
middle form never does. Which odd shapes exist, what usage and errors look like, is `openai_answer`'s knowledge; this
adds what only a translation needs. Never guesses by provider. Neighbours: `openai_chat_decode.py` (the door),
`openai_chat_lanes.py` (what is held back), `openai_chat_reasoning.py`.
"""

import re
from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects import blocks, openai_logprobs, wire
from gateway.dialects import openai_chat_reasoning as reasoning
from gateway.dialects.blocks import (
    ArgumentsDelta,
    CitationDelta,
    Event,
    Finish,
    Image,
    Reason,
    Redacted,
    Refusal,
    SignatureDelta,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
)
from gateway.dialects.openai_answer import Chunk, Delta, Meter, Writing, error_in, lenient, storable
from gateway.dialects.openai_chat_lanes import Lanes
from gateway.framing import SSE, FramingError

_REASONS: dict[str, Reason] = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "maximum_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "error": "error",
}
_DATA_IMAGE = re.compile(r"data:(image/[\w.+-]+);base64,")
_NOT_FOR_AN_ID = re.compile(r"[^a-zA-Z0-9_-]")
_TEXT, _REFUSAL = "text", "refusal"


# --- Nearly all of a stream -----------------------------------------------------------------------------------------


class _Delta(Delta, kw_only=True):
    """A delta that only writes text: nothing is in it either that only a translation reads."""

    images: None = None
    annotations: None = None
    thinking_blocks: None = None
    reasoning_details: None = None


class _Writing(Writing, kw_only=True):
    delta: _Delta
    logprobs: None = None


class _Chunk(Chunk, kw_only=True):
    choices: list[_Writing]  # type: ignore[assignment]
    base_resp: None = None


_chunk = msgspec.json.Decoder(_Chunk).decode


# --- The door -------------------------------------------------------------------------------------------------------


def answer(body: bytes) -> blocks.Answer:
    """Return a whole answer in the middle form. Never raises: what is no answer has an `error`."""
    value = lenient(body)
    if isinstance(value, list):
        value = next(iter(wire.dicts(value)), None)
    if not isinstance(value, dict):
        return blocks.Answer(error="The provider's answer is not JSON.")
    failed = error_in(value)
    if failed is None and not isinstance(value.get("choices"), list):
        failed = "The provider's answer has no choices."
    if failed is None and not any(
        isinstance(choice.get("message"), dict) or choice.get("finish_reason")
        for choice in wire.dicts(value["choices"])
    ):
        failed = "The provider's answer has no message."
    first = _gathered(value)
    first.error = failed or first.error
    further = [choice for choice in wire.dicts(value.get("choices")) if choice.get("index")][: wire.MAX_CHOICES]
    others = [_gathered({**value, "choices": [{**choice, "index": 0}]}) for choice in further]
    first.others = [other for other in others if other.error is None]
    return first


def _gathered(value: dict[str, Any]) -> blocks.Answer:
    """Return the first choice of a whole answer."""
    gathered = blocks.Gatherer(wire.MAX_KEPT_BYTES)
    try:
        for event in _Reading().whole(value):
            gathered.take(event)
    except wire.InvalidStream as error:
        gathered.answer.error = str(error)
    return gathered.answer


class StreamDecoder:
    """Reads a stream: server-sent events to those of the middle form."""

    __slots__ = ("_reading", "_sse")

    def __init__(self) -> None:
        self._sse = SSE()
        self._reading = _Reading()

    def feed(self, block: bytes) -> list[Event]:
        """Take a block of bytes, return the events that are complete now. Raises: wire.InvalidStream."""
        data = self._sse.sole(block)
        if data is not None:
            return self._reading.take(data)
        try:
            parts = self._sse.feed(block)
        except FramingError as error:
            raise wire.InvalidStream(str(error)) from error
        return [event for part in parts if part.data for event in self._reading.take(part.data)]

    def end(self) -> list[Event]:
        """Return what is left: `Ended` too where only `[DONE]` is missing. Raises: wire.InvalidStream."""
        try:
            parts = self._sse.end()
        except FramingError as error:
            raise wire.InvalidStream(str(error)) from error
        return [event for part in parts if part.data for event in self._reading.take(part.data)] + self._reading.end()


# --- One answer -----------------------------------------------------------------------------------------------------


class _Call(msgspec.Struct):
    """A tool call as it comes in; `key` is its lane."""

    key: str
    id: str | None = None
    name: str = ""
    custom: bool = False
    signature: str | None = None
    waiting: str = ""  # arguments that came before the name
    is_open: bool = False


class _Thought(msgspec.Struct):
    """A block of reasoning as it comes in: its number here and on the wire, and whose it is."""

    number: int = 0
    index: Any = None
    is_signed: bool = False
    dialect: str | None = None

    def block(self) -> Thinking:
        return Thinking(dialect=self.dialect or reasoning.CHAT)


class _Reading:
    """The state of one answer: its only (first) choice, the lanes of its blocks, usage, why it ended."""

    __slots__ = (
        *("_by_index", "_calls", "_id", "_is_whole", "_lanes", "_meter", "_over", "_reason", "_started"),
        *("_thought", "_usage"),
    )

    def __init__(self) -> None:
        self._lanes = Lanes()
        self._meter = Meter()
        self._usage: Usage | None = None
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._thought = _Thought()
        self._reason: str | None = None
        self._id = ""
        self._is_whole = False
        self._started = False
        self._over = False

    def take(self, data: bytes) -> list[Event]:
        """Take the data of one event."""
        if self._over:
            return []
        if self._started:
            try:
                chunk = _chunk(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
            else:
                return self._written(chunk.choices)
        if data.startswith(b"[DONE]"):
            return self._finished() if self._started else self._nothing()
        value = lenient(data)
        if isinstance(value, list):
            value = next(iter(wire.dicts(value)), None)
        return self._value(value) if isinstance(value, dict) else []

    def end(self) -> list[Event]:
        """The provider says no more."""
        return [] if self._over or self._reason is None else self._finished()

    def _nothing(self) -> list[Event]:
        self._over = True
        return [blocks.Failed("The provider ended its stream without an answer.")]

    def whole(self, value: dict[str, Any]) -> list[Event]:
        """Take a whole answer."""
        self._is_whole = True
        self._start(value)
        self._choice(value)
        self._metered(value)
        return self._finished()

    def _written(self, choices: list[_Writing]) -> list[Event]:
        lanes = self._lanes
        for choice in choices:
            delta = choice.delta
            if choice.index:
                continue
            if thought := delta.reasoning_content or delta.reasoning:
                self._think(thought)
            if delta.content:
                lanes.write(_TEXT, Text, TextDelta, delta.content)
        return lanes.taken()

    def _value(self, value: dict[str, Any]) -> list[Event]:
        if (message := error_in(value)) is not None:
            self._over = True
            return [*self._lanes.taken(), _failed(value, message)]
        if value.get("choices"):
            if not self._started:
                self._start(value)
            self._choice(value)
        self._metered(value)
        return self._lanes.taken() if self._started else []

    def _start(self, value: dict[str, Any]) -> None:
        self._started = True
        id, created = storable(value.get("id")), value.get("created")
        self._id = id or str(created or "")
        created = int(created) if isinstance(created, int | float) and 0 < created < 1e11 else None
        self._lanes.out.append(blocks.Started(id=id, model=storable(value.get("model")), created=created))

    def _metered(self, value: dict[str, Any]) -> None:
        self._meter.take(value)
        usage = self._meter.usage
        if usage is not None and usage != self._usage:
            self._usage = usage
            tier = value.get("service_tier")
            self._lanes.out.append(blocks.Metered(usage, tier if isinstance(tier, str) else None))

    def _choice(self, value: dict[str, Any]) -> None:
        for choice in wire.dicts(value.get("choices")):
            if choice.get("index"):
                continue  # clients of other dialects have one answer
            delta = choice.get("delta")
            self._delta(delta if delta is not None else choice.get("message"))
            if choice.get("logprobs") and (found := openai_logprobs.of_choice(choice)):
                self._lanes.out.append(blocks.LogprobsDelta(found))
            self._reason = self._reason or storable(choice.get("finish_reason"))

    def _finished(self) -> list[Event]:
        self._over = True
        if not self._started:
            self._start({})
        for call in self._calls:
            if not call.is_open:
                self._open(call)
        self._lanes.finish()
        native = self._reason
        reason = _REASONS.get(native.lower(), "stop") if native else "stop"
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        return [*self._lanes.taken(), blocks.Finished(Finish(reason=reason, native=native)), blocks.Ended()]

    # --- Deltas

    def _delta(self, delta: object) -> None:
        if not isinstance(delta, dict):
            return
        self._reasoning(delta)
        content = delta.get("content")
        if isinstance(content, str) and content:
            self._lanes.write(_TEXT, Text, TextDelta, content)
        else:
            self._parts(content)
        if isinstance(delta.get("refusal"), str) and delta["refusal"]:
            self._lanes.write(_REFUSAL, Refusal, TextDelta, delta["refusal"])
        self._beside(delta)
        for piece in wire.dicts(delta.get("tool_calls")):
            self._call(piece)
        if isinstance(delta.get("function_call"), dict):
            self._call({"index": 0, "function": delta["function_call"]})

    def _beside(self, delta: dict[str, Any]) -> None:
        """Take what accompanies a text: citations, images, sound."""
        for annotation in wire.dicts(delta.get("annotations")):
            citation = annotation.get("url_citation")
            if isinstance(citation, dict):
                self._lanes.write(_TEXT, Text, CitationDelta, citation, may_open=not self._calls)
        for image in wire.dicts(delta.get("images")):
            if (found := _image(image)) is not None:
                self._lanes.whole(found)
        audio = delta.get("audio")
        if isinstance(audio, dict) and isinstance(audio.get("transcript"), str) and audio["transcript"]:
            self._lanes.write(_TEXT, Text, TextDelta, audio["transcript"])

    def _parts(self, content: object) -> None:
        """Take content that is a list: text, and the thinking of Mistral's reasoning models."""
        for part in wire.dicts(content):
            thinking = part.get("thinking")
            if isinstance(part.get("text"), str):
                if part["text"]:
                    self._lanes.write(_TEXT, Text, TextDelta, part["text"])
            elif isinstance(part.get("refusal"), str):
                self._lanes.write(_REFUSAL, Refusal, TextDelta, part["refusal"])
            elif isinstance(thinking, str):
                self._think(thinking)
            elif part.get("type") == "image_url" and (found := _image(part)) is not None:
                self._lanes.whole(found)
            for piece in wire.dicts(thinking):
                if isinstance(piece.get("text"), str) and piece["text"]:
                    self._think(piece["text"])

    # --- Reasoning

    def _reasoning(self, delta: dict[str, Any]) -> None:
        told = wire.dicts(delta.get("thinking_blocks"))
        for position, entry in enumerate(told):
            # In a stream an entry without an index is a further piece; in a whole answer each is a block.
            self._entry(entry, entry.get("index", position if self._is_whole else None))
        if told:
            return
        text = reasoning.text_of(delta)
        for detail in wire.dicts(delta.get("reasoning_details")):
            found = reasoning.from_detail(detail)
            if isinstance(found, Redacted):
                self._lanes.whole(found)
            elif found is not None:
                self._think(found.text, found.signature, index=detail.get("index"))
                text = ""
        if text:
            self._think(text)

    def _entry(self, entry: dict[str, Any], index: object) -> None:
        """Take an entry of `thinking_blocks`: a whole block, or a further piece of one."""
        if entry.get("type") == "thinking":
            entry = {"thinking": "", **entry}
        found = reasoning.from_entry(entry)
        if isinstance(found, Redacted):
            self._lanes.whole(found)
        elif found is not None:
            self._think(found.text, found.signature, found.dialect, index)

    def _think(self, text: str, signature: str | None = None, dialect: str | None = None, index: object = None) -> None:
        """Write reasoning. Another index begins another block, and so does text behind a signature."""
        thought = self._thought
        is_another = index is not None and thought.index is not None and index != thought.index
        if is_another or (thought.is_signed and text):
            thought = self._thought = _Thought(number=thought.number + 1)
        thought.index = thought.index if index is None else index
        thought.dialect = thought.dialect or dialect  # only the first piece says whose it is
        key = f"thinking{thought.number}"
        if text:
            self._lanes.write(key, thought.block, ThinkingDelta, text)
        if signature is not None:
            self._lanes.write(key, thought.block, SignatureDelta, signature)
            thought.is_signed = True

    # --- Tool calls

    def _call(self, piece: dict[str, Any]) -> None:
        call = self._placed(piece)
        custom = piece.get("custom")
        inner = custom if isinstance(custom, dict) else piece.get("function")
        call.custom = call.custom or isinstance(custom, dict)
        call.id = call.id or storable(piece.get("id"))
        call.signature = call.signature or reasoning.signature_of(piece)
        if not isinstance(inner, dict):
            return
        if not call.name and isinstance(inner.get("name"), str):
            call.name = inner["name"]
        given = inner.get("arguments", inner.get("input"))
        if given is not None and not isinstance(given, str):
            given = msgspec.json.encode(given).decode()
        call.waiting += given or ""
        if call.is_open or call.name:
            self._open(call)

    def _open(self, call: _Call) -> None:
        """Write a call as far as it is known."""
        if not call.is_open:
            call.is_open = True
            call.id = call.id or self._made_id()
            dialect = "gemini" if call.signature is not None else None
            begun = ToolCall(id=call.id, name=call.name, custom=call.custom, signature=call.signature, dialect=dialect)
            self._lanes.call(call.key, begun)
        if call.waiting:
            self._lanes.write(call.key, None, ArgumentsDelta, call.waiting)
            call.waiting = ""

    def _placed(self, piece: dict[str, Any]) -> _Call:
        """Return the call that a piece belongs to, a new one where it begins one.

        By its index; without one, an id or a name begins a call. Some servers give all calls the index 0: there an id
        that is another one, together with a name, begins a call too.
        """
        index, id = piece.get("index"), piece.get("id")
        inner = piece.get("function") or piece.get("custom")
        has_name = isinstance(inner, dict) and bool(inner.get("name"))
        if type(index) is int:
            known = self._by_index.get(index)
        else:
            known = self._calls[-1] if self._calls else None
            if known is not None and (has_name if not id else id != known.id):
                known = None
        if known is not None and id and known.id and id != known.id and has_name and known.name:
            known = None
        if known is None:
            known = _Call(key=f"call{len(self._calls)}")
            self._calls.append(known)
        if type(index) is int:
            self._by_index[index] = known
        return known

    def _made_id(self) -> str:
        """Return an id for a call that came without one: another one for each call of each answer."""
        stem = _NOT_FOR_AN_ID.sub("", self._id)[-24:]
        return f"call_{stem}_{len(self._calls) - 1}"


def _failed(value: dict[str, Any], message: str) -> blocks.Failed:
    inner = value.get("error")
    inner = inner if isinstance(inner, dict) else {}
    code, status = inner.get("code"), inner.get("status_code")
    if isinstance(code, int) and not isinstance(code, bool):
        code, status = None, code
    return blocks.Failed(
        message,
        code=code if isinstance(code, str) and code else None,
        status=status if isinstance(status, int) and 400 <= status <= 599 else None,
    )


def _image(part: dict[str, Any]) -> Image | None:
    holder = part.get("image_url")
    url = holder.get("url") if isinstance(holder, dict) else holder
    if not isinstance(url, str) or not url:
        return None
    head = _DATA_IMAGE.match(url)
    if head is None:
        return Image(url=url)
    return Image(media_type=head[1], data=url[head.end() :])
