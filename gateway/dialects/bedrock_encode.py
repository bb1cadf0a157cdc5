"""Pure: the middle form as a request to Amazon Bedrock's Converse API, for every model family it serves.

Responsible for the order Converse insists on (user first, roles alternate, tool results before all else), for its
alphabets (tool names, tool use ids, names of documents) and for saying what was left out. Never signs, never downloads:
images and documents have to be there as bytes. Neighbours: `bedrock_schema.py` (tools, formats, reasoning),
`bedrock_decode.py`, `blocks.py`.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html (2026-11), botocore's model of
bedrock-runtime, and recorded traffic.
"""

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

import msgspec

from gateway.dialects import bedrock_schema, blocks
from gateway.dialects.bedrock_schema import Notes

_encode = msgspec.json.Encoder().encode

# Stands where Converse wants text and the client wrote none.
PLACEHOLDER = "."
NO_OUTPUT = "(no output)"

_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
# How the base64 of these begins, where nobody said what an image is.
_MAGIC = {"iVBOR": "png", "/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp"}
_OFFICE = "application/vnd.openxmlformats-officedocument"
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    f"{_OFFICE}.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    f"{_OFFICE}.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
# As botocore's model lists them.
_AUDIO = frozenset(
    ["mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "mka", "x-aac", "m4a", "mpeg", "mpga", "pcm", "webm"]
)
_USUAL_TIERS = (None, "auto", "default", "standard_only")
_TIERS = {"flex": "flex", "priority": "priority", "fast": "priority", "reserved": "reserved"}
# Members of Converse itself that a client may send by their own name; their price is not known.
_NATIVE = ("guardrailConfig", "performanceConfig", "requestMetadata", "promptVariables")
_METADATA = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,\-.]{0,256}")
_NAME_NOT = re.compile(r"[^A-Za-z0-9\s\-()\[\]]+")
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,5}$")


def request(request: blocks.Request, order: blocks.Order) -> blocks.Sent:
    """Return what to send. Raises: blocks.Unsupported."""
    _refuse(request)
    notes = Notes(request, order)
    plan = bedrock_schema.plan(notes)
    body: dict[str, Any] = {
        "messages": _Turns(notes).written(),
        "system": _system(notes, plan.hint),
        "inferenceConfig": _inference(notes, plan),
        "toolConfig": plan.tools,
        "additionalModelRequestFields": plan.fields | _native_fields(notes),
        "outputConfig": plan.output,
        **_rest(notes),
    }
    action = "converse-stream" if request.stream else "converse"
    return blocks.Sent(
        body=_encode({name: value for name, value in body.items() if value}),
        path=f"/model/{quote(order.model.upstream, safe='')}/{action}",
        dropped=notes.dropped,
        names=notes.names,
    )


def _refuse(request: blocks.Request) -> None:
    if request.n is not None and request.n > 1:
        raise blocks.Unsupported("n", "Amazon Bedrock writes one answer to a request: n must be 1.")
    if any(kind != "text" for kind in request.modalities or ()):
        raise blocks.Unsupported("modalities", "Amazon Bedrock's Converse API answers with text only.")


# --- Parameters -----------------------------------------------------------------------------------------------------


def _inference(notes: Notes, plan: bedrock_schema.Plan) -> dict[str, Any]:
    request, free = notes.request, not notes.thinks
    stop = [text for text in notes.wanted("stop", request.stop) or () if text.strip()]
    if request.stop and not stop:
        notes.drop("stop")
    limits = {
        "maxTokens": plan.max_tokens,
        "temperature": _unit(notes.wanted("temperature", request.temperature, allowed=free)),
        # A model that thinks samples from the likeliest only.
        "topP": _unit(notes.wanted("top_p", request.top_p, allowed=free or (request.top_p or 0) >= 0.95)),
        "stopSequences": stop or None,
    }
    return {name: value for name, value in limits.items() if value is not None}


def _unit(value: float | None) -> float | None:
    return None if value is None else min(max(value, 0), 1)


def _rest(notes: Notes) -> dict[str, Any]:
    """Return the members that few requests have, and note what Converse has no place for."""
    request = notes.request
    rest: dict[str, Any] = {name: notes.native(name) for name in _NATIVE}
    tier = _TIERS.get(request.service_tier or "")
    if tier and not notes.reprices("service_tier"):
        rest["serviceTier"] = {"type": tier}
    elif request.service_tier not in _USUAL_TIERS:
        notes.drop("service_tier")
    if request.user is not None:
        if _METADATA.fullmatch(request.user):
            rest["requestMetadata"] = {"user": request.user} | (rest["requestMetadata"] or {})
        else:
            notes.drop("user")
    if request.stop and request.dialect == "anthropic":  # this client is told which of them it was
        rest["additionalModelResponseFieldPaths"] = ["/delta/stop_sequence" if request.stream else "/stop_sequence"]
    _left_out(notes)
    return rest


def _left_out(notes: Notes) -> None:
    request = notes.request
    for name in ("seed", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "verbosity"):
        if getattr(request, name):
            notes.drop(name)
    if request.parallel is False:
        notes.drop("parallel_tool_calls")
    for name in request.extra:
        if name not in notes.order.ours and name not in notes.taken:
            notes.drop(name)


def _native_fields(notes: Notes) -> dict[str, Any]:
    fields = dict(notes.native("additionalModelRequestFields") or {})
    top_k = notes.wanted("top_k", notes.request.top_k, allowed=not notes.thinks)
    return fields if top_k is None else {"top_k": top_k} | fields


def _system(notes: Notes, hint: str | None) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for text in notes.request.system:
        if text.text.strip():
            parts += [{"text": text.text}, *notes.cache_point(text.cache)]
    return [*parts, {"text": hint}] if hint else parts


# --- Messages -------------------------------------------------------------------------------------------------------


class _Turns:
    """The conversation as Converse wants it. Blocks without meaning here go first: they must not split a turn."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._names: set[str] = set()  # of documents

    def written(self) -> list[dict[str, Any]]:
        turns: list[tuple[str, list[blocks.Block]]] = []
        for role, content in self._kept():
            if turns and turns[-1][0] == role:
                turns[-1][1].extend(content)
            else:
                turns.append((role, content))
        if not turns and any(text.text for text in self._notes.request.system):
            turns.append(("user", [blocks.Text(PLACEHOLDER)]))
        if not turns:
            raise blocks.Unsupported("messages", "Amazon Bedrock needs at least one message that is not empty.")
        if turns[0][0] != "user":
            turns.insert(0, ("user", [blocks.Text(PLACEHOLDER)]))
        if turns[-1][0] == "assistant":
            _trim(turns[-1][1])
        return [{"role": role, "content": self._content(role, content)} for role, content in turns]

    def _kept(self) -> Iterator[tuple[str, list[blocks.Block]]]:
        for message in self._notes.request.messages:
            kept = [block for block in message.blocks if self._means_something(block, message.role)]
            role = message.role
            if role == "system" and "system_anywhere" not in self._notes.order.model.capabilities:
                text = "\n".join(block.text for block in kept if isinstance(block, blocks.Text))
                role, kept = "user", [blocks.Text(f"<system>\n{text}\n</system>")] if text else []
            if kept:
                yield role, kept

    def _means_something(self, block: blocks.Block, role: str) -> bool:
        if isinstance(block, blocks.Text | blocks.Refusal):
            return bool(block.text.strip())  # blank text is refused
        if isinstance(block, blocks.Thinking | blocks.Redacted):
            return bedrock_schema.is_signed(block)
        is_foreign = isinstance(block, blocks.Opaque) and block.dialect != "bedrock"
        is_file = isinstance(block, blocks.Image | blocks.Document | blocks.Audio)
        if is_foreign or (is_file and role != "user"):
            self._notes.drop("messages")
            return False
        return True

    def _content(self, role: str, content: list[blocks.Block]) -> list[dict[str, Any]]:
        if role == "user":  # results first; the sort keeps the order among equals
            content = sorted(content, key=lambda block: not isinstance(block, blocks.ToolResult))
        parts = [part for block in content for part in self._parts(block)]
        if any("document" in part for part in parts) and not any("text" in part for part in parts):
            parts.append({"text": PLACEHOLDER})  # a document may not come without text
        return parts

    def _parts(self, block: blocks.Block) -> list[dict[str, Any]]:
        return [self._part(block), *self._notes.cache_point(_mark(block))]

    def _part(self, block: blocks.Block) -> dict[str, Any]:
        if isinstance(block, blocks.Text | blocks.Refusal):
            return {"text": block.text}
        if isinstance(block, blocks.Image | blocks.Document | blocks.Audio):
            return self._file(block)
        if isinstance(block, blocks.ToolCall):
            return {"toolUse": self._call(block)}
        if isinstance(block, blocks.ToolResult):
            return {"toolResult": self._result(block)}
        if isinstance(block, blocks.Thinking):
            return {"reasoningContent": {"reasoningText": {"text": block.text, "signature": block.signature}}}
        if isinstance(block, blocks.Redacted):
            return {"reasoningContent": {"redactedContent": block.data}}
        return block.value

    def _call(self, block: blocks.ToolCall) -> dict[str, Any]:
        given = {"input": block.arguments} if block.custom else bedrock_schema.parsed(block.arguments)
        return {"toolUseId": bedrock_schema.use_id(block.id), "name": self._notes.name(block.name), "input": given}

    def _result(self, block: blocks.ToolResult) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for inner in block.content:
            if isinstance(inner, blocks.Text | blocks.Refusal):
                content += [{"text": inner.text}] if inner.text.strip() else []
            elif isinstance(inner, blocks.Image | blocks.Document):
                content.append(self._file(inner))
            else:
                self._notes.drop("messages")
        result = {"toolUseId": bedrock_schema.use_id(block.id), "content": content or [{"text": NO_OUTPUT}]}
        return result | ({"status": "error"} if block.is_error else {})

    def _file(self, block: blocks.Image | blocks.Document | blocks.Audio) -> dict[str, Any]:
        if isinstance(block, blocks.Image):
            return {"image": _image(block)}
        if isinstance(block, blocks.Audio):
            return {"audio": _audio(block)}
        return {"document": self._document(block)}

    def _document(self, block: blocks.Document) -> dict[str, Any]:
        document = {
            "format": "txt" if block.text is not None else _document_format(block.media_type),
            "name": self._unique(_document_name(block.name)),
            "source": {"bytes": _document_data(block)},
        }
        if block.context:
            document["context"] = block.context
        return document | ({"citations": {"enabled": True}} if block.citations else {})

    def _unique(self, name: str) -> str:
        """Return a document's name that no other in the request has: Converse refuses two of one name."""
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name} ({count})"
        self._names.add(unique)
        return unique


def _mark(block: blocks.Block) -> blocks.CacheTtl | None:
    """Return the cache mark of a block; one inside a tool's result moves behind the result."""
    inside = block.content if isinstance(block, blocks.ToolResult) else ()
    marks: Iterable[blocks.CacheTtl | None] = (getattr(part, "cache", None) for part in (block, *inside))
    return next((mark for mark in marks if mark), None)


def _trim(content: list[blocks.Block]) -> None:
    """Take white space off the end of an answer the model is to continue: models refuse it."""
    if isinstance(content[-1], blocks.Text):
        content[-1] = blocks.Text(content[-1].text.rstrip(), cache=content[-1].cache)


# --- Files ----------------------------------------------------------------------------------------------------------


def _image(block: blocks.Image) -> dict[str, Any]:
    if block.data is None:
        raise _needs_bytes("image", block.file_id)
    kind = _IMAGES.get((block.media_type or "").lower())
    if block.media_type is None:
        kind = next((kind for magic, kind in _MAGIC.items() if block.data.startswith(magic)), None)
    if kind is None:
        raise blocks.Unsupported("messages", "Amazon Bedrock takes images in PNG, JPEG, GIF and WebP only.")
    return {"format": kind, "source": {"bytes": block.data}}


def _audio(block: blocks.Audio) -> dict[str, Any]:
    if block.format not in _AUDIO:
        raise blocks.Unsupported("messages", f"Amazon Bedrock takes no sound in the format {block.format[:40]!r}.")
    return {"format": block.format, "source": {"bytes": block.data}}


def _document_format(media_type: str) -> str:
    kind = _DOCUMENTS.get(media_type.partition(";")[0].strip().lower())
    if kind is None:
        raise blocks.Unsupported(
            "messages", f"Amazon Bedrock takes documents as {', '.join(_DOCUMENTS.values())}, not {media_type[:80]!r}."
        )
    return kind


def _document_data(block: blocks.Document) -> str:
    if block.text is not None:
        # An empty one is refused.
        return base64.b64encode((block.text if block.text.strip() else PLACEHOLDER).encode()).decode()
    if block.data is None:
        raise _needs_bytes("document", block.file_id)
    return block.data


def _document_name(name: str | None) -> str:
    """Return a name of letters, digits, single spaces, hyphens and brackets."""
    text = _NAME_NOT.sub("-", _EXTENSION.sub("", name or ""))
    return " ".join(text.split())[:180].strip(" -") or "document"


def _needs_bytes(kind: str, file_id: str | None) -> blocks.Unsupported:
    where = f"the file {file_id[:80]!r} belongs to another provider's account" if file_id else "a URL is not enough"
    return blocks.Unsupported("messages", f"Amazon Bedrock needs the {kind} itself, base64-encoded: {where}.")
