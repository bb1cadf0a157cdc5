"""Pure: the middle form -> what a client of Google's reads: a whole `GenerateContentResponse`, or a stream of them.

Responsible for answers of other vendors' models that Google's SDKs accept: calls as whole objects, thoughts shown only
to those who asked, other vendors' signatures sealed. Never writes a request. Neighbours: `gemini_encode.py`,
`gemini_seal.py`, `gemini_answer.py` (names of reasons and usage).

Source: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse (2026-11), google-genai 3.4.
"""

from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects import blocks, gemini, gemini_answer, wire
from gateway.dialects.blocks import Audio, Block, Image, Logprob, Redacted, Refusal, Text, Thinking, ToolCall
from gateway.dialects.gemini_answer import Object
from gateway.dialects.gemini_seal import sealed
from gateway.dialects.openai_answer import lenient

_encode = msgspec.json.Encoder().encode
# Text of one block, in characters: beyond it citations have no place in it.
_MAX_CITED = 4_000_000
_AUDIO = {"mp3": "audio/mp3", "wav": "audio/wav", "pcm16": "audio/L16;codec=pcm;rate=24000"}


def arguments(call: ToolCall) -> Object:
    """Return the arguments of a call as the object that Google wants; what is none travels inside of one."""
    if call.custom:
        return {"input": call.arguments}
    if not call.arguments.strip():
        return {}
    value = lenient(call.arguments.encode("utf-8", "replace"))
    return value if isinstance(value, dict) else {"__raw": call.arguments}


def answer(answer: blocks.Answer, asked: wire.Asked, context: wire.Context) -> bytes:
    """Return a whole answer for a client of Google's."""
    shown = _shows_thoughts(asked)
    body: Object = {
        "candidates": [_candidate(each, index, shown) for index, each in enumerate((answer, *answer.others))]
    }
    if answer.usage is not None:
        body["usageMetadata"] = gemini_answer.usage_metadata(answer.usage)
    return _encode(body | {"modelVersion": answer.model or asked.model, "responseId": answer.id or context.call_id})


def _candidate(answer: blocks.Answer, index: int, shown: bool) -> Object:
    parts: list[Object] = []
    grounding = _Grounding()
    for block in answer.blocks:
        if isinstance(block, Text) and block.citations:
            grounding.add(block.text, block.citations, len(parts))
        parts += _parts(block, shown)
    candidate: Object = {"content": {"parts": parts or [{"text": ""}], "role": "model"}, "index": index}
    return candidate | _ending(answer.finish) | grounding.written() | _likely(answer.logprobs)


def _likely(logprobs: list[Logprob]) -> Object:
    """Return how likely the tokens were, as a candidate has it."""
    if not logprobs:
        return {}
    total = sum(each.logprob for each in logprobs)
    result: Object = {"chosenCandidates": [_token(each) for each in logprobs], "logProbabilitySum": total}
    if any(each.top for each in logprobs):
        result["topCandidates"] = [{"candidates": [_token(other) for other in each.top]} for each in logprobs]
    return {"avgLogprobs": total / len(logprobs), "logprobsResult": result}


def _token(each: Logprob) -> Object:
    return {"token": each.token, "logProbability": each.logprob}


def _shows_thoughts(asked: wire.Asked) -> bool:
    return asked.shows_thoughts if isinstance(asked, gemini.Request) else True


def _ending(finish: blocks.Finish | None) -> Object:
    if finish is None:
        return {}
    said: Object = {"finishReason": gemini_answer.NATIVE.get(finish.reason, "OTHER")}
    return said | ({"finishMessage": finish.message} if finish.message else {})


def _parts(block: Block, shown: bool) -> list[Object]:
    """Return the parts of a block; a server tool of another vendor has none."""
    if isinstance(block, Text | Refusal):
        return [{"text": block.text}] if block.text else []
    if isinstance(block, ToolCall):
        return [_call(block, arguments(block))]
    if isinstance(block, Thinking | Redacted):
        return _thought(block, shown)
    if isinstance(block, Image):
        return _image(block)
    if isinstance(block, Audio):
        kind = _AUDIO.get(block.format, f"audio/{block.format}")
        return [{"inlineData": {"mimeType": kind, "data": block.data}}]
    return [block.value] if isinstance(block, blocks.Opaque) and block.dialect == "gemini" else []


def _call(call: ToolCall, args: Object) -> Object:
    part: Object = {"functionCall": {"id": call.id, "name": call.name, "args": args}}
    if call.signature and call.dialect == "gemini":
        part["thoughtSignature"] = call.signature
    return part


def _thought(block: Thinking | Redacted, shown: bool) -> list[Object]:
    """Return reasoning: its text for those who want to see it, its signature for the way back in any case."""
    text, signature = block.text if shown else "", sealed(block)
    if not text and signature is None:
        return []
    part: Object = {"text": text, "thought": True}
    return [part | ({"thoughtSignature": signature} if signature else {})]


def _image(image: Image) -> list[Object]:
    kind = image.media_type or "image/png"
    if image.data is not None:
        return [{"inlineData": {"mimeType": kind, "data": image.data}}]
    return [{"fileData": {"mimeType": kind, "fileUri": image.url}}] if image.url else []


class _Grounding:
    """Citations as `groundingMetadata`; Google counts bytes of UTF-8."""

    __slots__ = ("_places", "_sources", "_supports")

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._sources: list[Object] = []
        self._supports: list[Object] = []

    def add(self, text: str, citations: list[dict[str, Any]], part: int) -> None:
        for citation in citations:
            inner = citation.get("url_citation")
            said = inner if isinstance(inner, dict) else citation
            url, title = said.get("url"), said.get("title")
            if not isinstance(url, str) or not url:
                continue
            if url not in self._places:
                self._places[url] = len(self._sources)
                web = {"uri": url, "title": title if isinstance(title, str) and title else url}
                self._sources.append({"web": web})
            segment = _segment(text, said.get("start_index"), said.get("end_index"))
            if segment is not None:
                segment |= {"partIndex": part} if part else {}
                self._supports.append({"segment": segment, "groundingChunkIndices": [self._places[url]]})

    def written(self) -> Object:
        if not self._sources:
            return {}
        found: Object = {"groundingChunks": self._sources}
        return {"groundingMetadata": found | ({"groundingSupports": self._supports} if self._supports else {})}


def _segment(text: str, begin: object, end: object) -> Object | None:
    if type(begin) is not int or type(end) is not int or not 0 <= begin < end <= len(text):
        return None
    before, inside = text[:begin].encode("utf-8", "replace"), text[begin:end]
    start = len(before)
    return {"startIndex": start, "endIndex": start + len(inside.encode("utf-8", "replace")), "text": inside}


# --- Streams --------------------------------------------------------------------------------------------------------


class StreamWriter:
    """Writes a client's stream: each event a whole response, as server-sent events or as one JSON array."""

    def __init__(self, asked: wire.Asked, context: wire.Context) -> None:
        self._asked = asked
        self._sse = asked.sse if isinstance(asked, gemini.Request) else True
        self._shown = _shows_thoughts(asked)
        self._id = context.call_id
        self._model = asked.model
        self._block: Block | None = None
        self._pieces: list[str] = []  # of a call's arguments, or a signature, or a text that may be cited
        self._kept = 0
        self._citations: list[dict[str, Any]] = []
        self._grounding = _Grounding()
        self._usage: Usage | None = None
        self._finish: blocks.Finish | None = None
        self._begun = False
        self._ended = False
        self._text_tail: bytes | None = None

    def write(self, event: blocks.Event) -> bytes:
        """Return the client's bytes for an event, often none. After `Ended` or `Failed` nothing more is written."""
        if self._ended:
            return b""
        if isinstance(event, blocks.TextDelta):
            return self._write_text(event.text)
        if isinstance(event, blocks.ThinkingDelta):
            return self._event([{"text": event.text, "thought": True}]) if self._shown and event.text else b""
        if isinstance(event, blocks.ArgumentsDelta):
            self._pieces.append(event.text)
            return b""
        if isinstance(event, blocks.Opened):
            return self._open(event.block)
        if isinstance(event, blocks.Closed):
            return self._close()
        if isinstance(event, blocks.Ended):
            return self._end()
        if isinstance(event, blocks.Failed):
            return self._fail(event)
        return self._noted(event)

    def _noted(self, event: blocks.Event) -> bytes:
        if isinstance(event, blocks.LogprobsDelta):
            return self._event([{"text": ""}], _likely(event.logprobs))
        if isinstance(event, blocks.SignatureDelta):
            self._pieces.append(event.signature)
        elif isinstance(event, blocks.CitationDelta):
            self._citations.append(event.citation)
        elif isinstance(event, blocks.Metered):
            self._usage = event.usage
        elif isinstance(event, blocks.Finished):
            self._finish = event.finish
        elif isinstance(event, blocks.Started):
            self._id, self._model = event.id or self._id, event.model or self._model
            self._usage = event.usage or self._usage
        return b""

    def _write_text(self, text: str) -> bytes:
        if not text:
            return b""
        self._kept += len(text)
        if self._kept <= _MAX_CITED:
            self._pieces.append(text)
        if self._text_tail is None:
            around = self._response([{"text": ""}])
            self._text_tail = around[around.index(b'""') + 2 :]
        return self._framed(b'{"candidates":[{"content":{"parts":[{"text":' + _encode(text) + self._text_tail)

    def _open(self, block: Block) -> bytes:
        self._block = block
        self._pieces, self._citations, self._kept = [], [], 0
        if isinstance(block, Text | Refusal):
            self._citations = list((block.citations or ()) if isinstance(block, Text) else ())
            return self._write_text(block.text)
        if isinstance(block, Thinking):
            self._pieces = [block.signature] if block.signature else []
            return self._event([{"text": block.text, "thought": True}]) if block.text and self._shown else b""
        if isinstance(block, ToolCall):
            self._pieces = [block.arguments] if block.arguments else []
            return b""
        parts = _parts(block, self._shown)
        return self._event(parts) if parts else b""

    def _close(self) -> bytes:
        block, said = self._block, "".join(self._pieces)
        self._block, self._pieces = None, []
        if isinstance(block, ToolCall):
            whole = ToolCall(id=block.id, name=block.name, arguments=said, custom=block.custom)
            return self._event([_call(block, arguments(whole))])
        if isinstance(block, Text) and self._citations:
            self._grounding.add(said, self._citations, 0)
        if isinstance(block, Thinking) and said:
            signed = Thinking(signature=said, dialect=block.dialect)
            return self._event(_thought(signed, shown=False))
        return b""

    def _end(self) -> bytes:
        self._ended = True
        finish = self._finish or blocks.Finish(reason="stop")
        last = self._event([{"text": ""}], _ending(finish) | self._grounding.written())
        return last + (b"" if self._sse else b"]")

    def _fail(self, event: blocks.Failed) -> bytes:
        self._ended = True
        status = event.status if event.status is not None and 400 <= event.status <= 599 else 502
        code = event.code or "upstream_error"
        if self._sse:
            return gemini.stream_error(status=status, code=code, message=event.message)
        return self._framed(gemini.error(status=status, code=code, message=event.message)) + b"]"

    def _event(self, parts: list[Object], more: Object | None = None) -> bytes:
        return self._framed(self._response(parts, more))

    def _response(self, parts: list[Object], more: Object | None = None) -> bytes:
        candidate: Object = {"content": {"parts": parts, "role": "model"}, "index": 0, **(more or {})}
        body: Object = {"candidates": [candidate]}
        if more is not None and self._usage is not None:
            body["usageMetadata"] = gemini_answer.usage_metadata(self._usage)
        return _encode(body | {"modelVersion": self._model, "responseId": self._id})

    def _framed(self, response: bytes) -> bytes:
        if self._sse:
            return b"data: " + response + b"\r\n\r\n"
        begin = b",\r\n" if self._begun else b"["
        self._begun = True
        return begin + response
