"""Pure: a provider's answer in Gemini's wire format -> the middle form, whole or as a stream.

Responsible for what real models answer: calls without ids, signatures on any part, arguments in pieces, prompts that
were refused, citations counted in bytes. Never reads a request. Neighbours: `gemini_decode.py` (the door to this),
`gemini_answer.py` (frames, usage, reasons).

Source: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse (2026-11), and recorded traffic.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from gateway.dialects import blocks, gemini_answer, openai_logprobs
from gateway.dialects.blocks import Audio, Block, Image, Logprob, Text, Thinking, ToolCall
from gateway.dialects.gemini_answer import Frames, Object, PartialCall, objects, read_object, whole
from gateway.dialects.gemini_seal import standard
from gateway.dialects.openai_answer import lenient
from gateway.dialects.wire import MAX_CHOICES

_encode = msgspec.json.Encoder().encode
_NOT_ID = re.compile(r"[^A-Za-z0-9_-]")
# OpenAI refuses ids of calls that are longer than 40 characters.
_MAX_ID = 28
# Formats of sound by their MIME types, where these are not the same.
AUDIO_FORMATS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "x-m4a": "m4a", "mp4": "m4a"}


def answer(body: bytes) -> blocks.Answer:
    """Return a provider's whole answer (or the array of a stream) in the middle form. Never raises."""
    items = objects(lenient(body))
    found = _gathered(body, items)
    if found.error is None and found.finish is None:
        problem = "has no candidates" if items else "is not JSON"
        found.error = f"The provider's answer {problem}."
    others = [_gathered(body, items, index) for index in _further(items)]
    found.others = [other for other in others if other.error is None]
    return found


def _gathered(body: bytes, items: list[Object], index: int = 0) -> blocks.Answer:
    """Return one candidate of a whole answer."""
    events = _Events(body, index)
    gathered = blocks.Gatherer(len(body) * 2)
    for item in items:
        for event in events.take(item):
            gathered.take(event)
    if not events.finished and events.started:
        events.finish("STOP")  # a whole answer that does not say why it ended
    for event in events.end():
        gathered.take(event)
    return gathered.answer


def _further(items: list[Object]) -> list[int]:
    """Return the numbers of all candidates but the first."""
    found = {_number(candidate) for item in items for candidate in objects(item.get("candidates"))}
    return sorted(found - {0})[:MAX_CHOICES]


def _number(candidate: Object) -> int:
    return whole(candidate.get("index")) or 0


class StreamDecoder:
    """Reads a provider's stream, however it was cut: server-sent events, or one JSON array."""

    def __init__(self) -> None:
        self._frames = Frames()
        self._events: _Events | None = None

    def feed(self, block: bytes) -> list[blocks.Event]:
        """Take a block of bytes, return the events that are complete now. Raises: wire.InvalidStream."""
        return [event for frame in self._frames.feed(block) for event in self._read(frame.data)]

    def end(self) -> list[blocks.Event]:
        """Return what is left at the end: `Ended` only when the model said why it ended. Raises: wire.InvalidStream."""
        last = [event for frame in self._frames.end() for event in self._read(frame.data)]
        return last + (self._events.end() if self._events is not None else [])

    def _read(self, data: bytes) -> list[blocks.Event]:
        value = read_object(data) if data else None
        if value is None:
            return []
        if self._events is None:
            self._events = _Events(data)
        return self._events.take(value)


class _Events:
    """The events of one answer: of the candidate with a number.

    `seed` makes ids of calls unique where the answer has no id of its own.
    """

    def __init__(self, seed: bytes, number: int = 0) -> None:
        self.started = False
        self.finished = False
        self._seed = seed
        self._number = number
        self._id: str | None = None
        self._ended = False
        self._index = -1  # of the open block, or the last one
        self._open: type[Block] | None = None
        self._partial: PartialCall | None = None
        self._signature: str | None = None  # of the open text: it follows it
        self._calls = 0
        self._usage: object = None
        self._finish: blocks.Finish | None = None
        self._text: list[str] = []  # of the open text, for the offsets of citations
        self._cited: list[Object] = []

    def take(self, value: Object) -> list[blocks.Event]:
        """Return the events of a further piece of the answer."""
        if self._ended:
            return []
        failed = gemini_answer.error_in(value)
        if failed is not None:
            self._ended = True
            status = whole(failed.get("code"))
            return [blocks.Failed(failed["message"], failed.get("status") or None, status)]
        events: list[blocks.Event] = [] if self.started else self._start(value)
        candidates = objects(value.get("candidates"))
        candidate = next((each for each in candidates if _number(each) == self._number), None)
        if candidate is not None:
            self._candidate(candidate, events)
        feedback = value.get("promptFeedback")
        if type(feedback) is dict and feedback.get("blockReason") and self._finish is None:
            self._blocked(feedback)
        self._meter(value.get("usageMetadata"), events)
        return events

    def end(self) -> list[blocks.Event]:
        """Return the last events, none of which comes before the provider has ended."""
        if self._ended or not self.started or self._finish is None:
            return []
        events: list[blocks.Event] = []
        self._close(events)
        self._ended = True
        finish = self._finish
        if finish.reason == "error":
            message = finish.message or f"The model ended its answer with {finish.native}."
            return [*events, blocks.Failed(message, finish.native, 502)]
        return [*events, blocks.Finished(finish), blocks.Ended()]

    def finish(self, native: str, message: str | None = None) -> None:
        self.finished = True
        reason = gemini_answer.reason(native, calls_tools=self._calls > 0 or self._partial is not None)
        self._finish = blocks.Finish(reason=reason, native=native, message=message)

    def _start(self, value: Object) -> list[blocks.Event]:
        self.started = "candidates" in value or "promptFeedback" in value
        if not self.started:
            return []
        id, model = value.get("responseId"), value.get("modelVersion")
        self._id = id if isinstance(id, str) and id else None
        usage = gemini_answer.usage(value.get("usageMetadata"))
        model = model if isinstance(model, str) and model else None
        return [blocks.Started(self._id, model, _seconds(value.get("createTime")), usage)]

    def _blocked(self, feedback: Object) -> None:
        message = feedback.get("blockReasonMessage")
        self.finished = True
        self._finish = blocks.Finish(
            reason="content_filter",
            native=str(feedback["blockReason"]),
            message=message if isinstance(message, str) else None,
        )

    def _meter(self, reported: object, events: list[blocks.Event]) -> None:
        if reported is None or reported == self._usage:
            return
        self._usage = reported
        if self.started and (usage := gemini_answer.usage(reported)) is not None:
            events.append(blocks.Metered(usage, gemini_answer.service_tier(reported)))

    def _candidate(self, candidate: Object, events: list[blocks.Event]) -> None:
        content = candidate.get("content")
        for part in objects(content.get("parts")) if type(content) is dict else ():
            self._part(part, events)
        if "groundingMetadata" in candidate or "citationMetadata" in candidate:
            self._cite(candidate, events)
        if logprobs := _logprobs(candidate.get("logprobsResult")):
            events.append(blocks.LogprobsDelta(logprobs))
        native = gemini_answer.native_reason(candidate.get("finishReason"))
        if native is not None:
            message = candidate.get("finishMessage")
            self.finish(native, message if isinstance(message, str) else None)

    def _part(self, part: Object, events: list[blocks.Event]) -> None:
        text, signature = part.get("text"), part.get("thoughtSignature")
        signature = signature if isinstance(signature, str) and signature else None
        if isinstance(text, str):
            self._written(text, part.get("thought") is True, signature, events)
        elif type(part.get("functionCall")) is dict:
            self._called(part["functionCall"], signature, events)
        else:
            self._whole(_other(part), events)
            if signature:
                self._whole_thinking(signature, events)

    def _written(self, text: str, thought: bool, signature: str | None, events: list[blocks.Event]) -> None:
        if text:
            self._continue(Thinking if thought else Text, events)
            if thought:
                events.append(blocks.ThinkingDelta(self._index, text))
            else:
                self._text.append(text)
                events.append(blocks.TextDelta(self._index, text))
        if signature is None:
            return
        if self._open is Thinking:
            events.append(blocks.SignatureDelta(self._index, signature))
            self._close(events)
        elif self._open is Text:
            self._signature = signature
        else:
            self._whole_thinking(signature, events)

    def _called(self, call: Object, signature: str | None, events: list[blocks.Event]) -> None:
        """Take a call, or a piece of one: only the first has a name, and all but the last say that more will come."""
        if call.get("name"):
            self._close(events)
            self._partial = PartialCall(call, signature)
        elif self._partial is not None:
            self._partial.take(call)
        if call.get("willContinue") is not True:
            self._end_call(events)

    def _end_call(self, events: list[blocks.Event]) -> None:
        partial, self._partial = self._partial, None
        if partial is None:
            return
        self._calls += 1
        call = ToolCall(
            id=partial.id if isinstance(partial.id, str) and partial.id else self._made_id(),
            name=partial.name,
            arguments=_encode(partial.args).decode(),
            signature=partial.signature,
            dialect="gemini" if partial.signature else None,
        )
        arguments, call.arguments = call.arguments, ""
        self._index += 1
        events += [
            blocks.Opened(self._index, call),
            blocks.ArgumentsDelta(self._index, arguments),
            blocks.Closed(self._index),
        ]

    def _made_id(self) -> str:
        """Return an id for a call: the answer's own id makes it unique in the conversation."""
        base = self._id or hashlib.blake2s(self._seed, digest_size=10).hexdigest()
        return f"call_{_NOT_ID.sub('', base)[:_MAX_ID]}_{self._calls}"

    def _continue(self, kind: type[Text] | type[Thinking], events: list[blocks.Event]) -> None:
        if self._open is kind:
            return
        self._close(events)
        self._index += 1
        self._open = kind
        events.append(blocks.Opened(self._index, Thinking(dialect="gemini") if kind is Thinking else Text()))

    def _close(self, events: list[blocks.Event]) -> None:
        self._end_call(events)
        if self._open is None:
            return
        self._open = None
        self._text, self._cited = [], []
        events.append(blocks.Closed(self._index))
        if self._signature is not None:
            signature, self._signature = self._signature, None
            self._whole_thinking(signature, events)

    def _whole(self, block: Block | None, events: list[blocks.Event]) -> None:
        if block is not None:
            self._close(events)
            self._index += 1
            events += [blocks.Opened(self._index, block), blocks.Closed(self._index)]

    def _whole_thinking(self, signature: str, events: list[blocks.Event]) -> None:
        """Add the signature of a part that is no thought as reasoning without text: so it finds its way back."""
        self._continue(Thinking, events)
        events.append(blocks.SignatureDelta(self._index, signature))
        self._close(events)

    def _cite(self, candidate: Object, events: list[blocks.Event]) -> None:
        if self._open is Text:
            text = "".join(self._text)
            for citation in _citations(candidate, text):
                if citation not in self._cited:  # metadata may come with every event
                    self._cited.append(citation)
                    events.append(blocks.CitationDelta(self._index, citation))


def _other(part: Object) -> Block | None:
    """Return the block of a part that is neither text nor a call: an image, sound, or what only Gemini understands."""
    inline = part.get("inlineData")
    if type(inline) is dict and isinstance(inline.get("data"), str):
        kind = str(inline.get("mimeType") or "")
        if kind.startswith("image/"):
            return Image(media_type=kind, data=standard(inline["data"]))
        if kind.startswith("audio/"):
            subtype = kind.partition(";")[0].partition("/")[2].lower()
            return Audio(data=standard(inline["data"]), format=AUDIO_FORMATS.get(subtype, subtype))
    value = {name: item for name, item in part.items() if name not in ("thought", "thoughtSignature")}
    return blocks.Opaque(dialect="gemini", value=part) if value else None


def _logprobs(result: object) -> list[Logprob]:
    """Return the tokens of `logprobsResult`, each with the likeliest at its place."""
    if type(result) is not dict:
        return []
    tops = objects(result.get("topCandidates"))
    found = []
    for place, chosen in enumerate(objects(result.get("chosenCandidates"))):
        token = _token(chosen)
        if token is not None:
            top = objects(tops[place].get("candidates")) if place < len(tops) else []
            token.top = [other for each in top if (other := _token(each)) is not None]
            found.append(token)
    return found


def _token(candidate: Object) -> Logprob | None:
    token, logprob = candidate.get("token"), openai_logprobs.number(candidate.get("logProbability"))
    return Logprob(token, logprob) if isinstance(token, str) and logprob is not None else None


def _citations(candidate: Object, text: str) -> Iterator[Object]:
    """Yield citations of an answer's text as OpenAI's `url_citation`; Google counts bytes of UTF-8."""
    grounding = candidate.get("groundingMetadata")
    grounding = grounding if type(grounding) is dict else {}
    chunks = objects(grounding.get("groundingChunks"))
    encoded = text.encode("utf-8", "surrogatepass")
    for support in objects(grounding.get("groundingSupports")):
        segment = support.get("segment")
        span = _span(segment if type(segment) is dict else {}, encoded, text)
        indices = support.get("groundingChunkIndices")
        for index in indices if type(indices) is list else ():
            source = chunks[index] if type(index) is int and 0 <= index < len(chunks) else {}
            web = source.get("web") or source.get("retrievedContext")
            if type(web) is dict and (found := _citation(web, span)):
                yield found
    cited = candidate.get("citationMetadata")
    for citation in objects((cited.get("citations") or cited.get("citationSources")) if type(cited) is dict else None):
        if found := _citation(citation, _span(citation, encoded, text)):
            yield found


def _span(segment: Mapping[str, Any], encoded: bytes, text: str) -> tuple[int, int]:
    """Return where a segment begins and ends, in characters; all of the text where it does not fit."""
    begin, end = whole(segment.get("startIndex")) or 0, whole(segment.get("endIndex"))
    quoted = segment.get("text")
    if end is not None and 0 <= begin <= end <= len(encoded):
        before, inside = encoded[:begin].decode("utf-8", "ignore"), encoded[begin:end].decode("utf-8", "ignore")
        if not isinstance(quoted, str) or inside == quoted:
            return len(before), len(before) + len(inside)
    if isinstance(quoted, str) and quoted and (found := text.find(quoted)) >= 0:
        return found, found + len(quoted)
    return 0, len(text)


def _citation(source: Object, span: tuple[int, int]) -> Object | None:
    url, title = source.get("uri"), source.get("title")
    if not isinstance(url, str) or not url:
        return None
    named = title if isinstance(title, str) else ""
    return {"start_index": span[0], "end_index": span[1], "title": named, "url": url}


def _seconds(created: object) -> int | None:
    if not isinstance(created, str):
        return None
    try:
        return int(datetime.fromisoformat(created).timestamp())
    except ValueError:
        return None
