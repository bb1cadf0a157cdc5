"""Pure: Gemini's wire format -> the middle form. A client's request is read here, answers in `gemini_decode_answer.py`.

Responsible for what real clients send: snake_case, single objects for lists, base64 of either alphabet, calls and
results without ids. Never writes JSON for a provider. Neighbour: `gemini_encode.py` (the way back).

Source: https://ai.google.dev/api/generate-content, https://ai.google.dev/gemini-api/docs/thought-signatures (2026-11).
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.dialects import blocks, gemini_schema
from gateway.dialects.blocks import Audio, Block, Document, Image, Message, Text, Thinking, ToolCall, ToolResult
from gateway.dialects.gemini import Request, camel, either
from gateway.dialects.gemini_answer import Object, objects, whole
from gateway.dialects.gemini_decode_answer import AUDIO_FORMATS, StreamDecoder, answer
from gateway.dialects.gemini_seal import standard, unsealed
from gateway.dialects.wire import InvalidBody

__all__ = ["StreamDecoder", "answer", "request"]

_encode = msgspec.json.Encoder().encode
_LEVELS = {"MINIMAL": "minimal", "LOW": "low", "MEDIUM": "medium", "HIGH": "high", "XHIGH": "xhigh"}
_TIERS = {"standard": "default", "flex": "flex", "priority": "priority"}
_OBJECTS = ("functionCall", "functionResponse", "inlineData", "fileData")
_SEARCHES = frozenset({"googleSearch", "googleSearchRetrieval", "enterpriseWebSearch"})


# --- Requests -------------------------------------------------------------------------------------------------------

# What becomes a field of its own; everything else of the two levels travels in `extra`.
_READ = frozenset(
    {"contents", "systemInstruction", "generationConfig", "tools", "toolConfig", "serviceTier", "model", "respanParams"}
)
_READ_SETTINGS = frozenset(
    {
        "maxOutputTokens", "temperature", "topP", "topK", "stopSequences", "candidateCount", "seed", "presencePenalty",
        "frequencyPenalty", "responseLogprobs", "logprobs", "responseMimeType", "responseSchema", "responseJsonSchema",
        "_responseJsonSchema", "responseModalities", "thinkingConfig",
    }
)  # fmt: skip


def request(asked: Request) -> blocks.Request:
    """Return a client's request in the middle form.

    Raises: wire.InvalidBody naming the member; blocks.Unsupported where it refers to what only Google can read.
    """
    body = {camel(name): _member(raw, name) for name, raw in asked.members.items() if name != "contents"}
    if body.get("cachedContent"):
        raise blocks.Unsupported("cachedContent", "Cached content is kept by Google; this model cannot read it.")
    settings = {camel(name): value for name, value in asked.settings.items()}
    extra = {name: value for name, value in body.items() if name not in _READ}
    extra |= {name: value for name, value in settings.items() if name not in _READ_SETTINGS}
    return blocks.Request(
        dialect="gemini",
        model=asked.model,
        messages=_Contents().messages(asked.contents),
        system=_system(body.get("systemInstruction")),
        stream=asked.stream,
        max_output=asked.max_output,
        temperature=_number(settings, "temperature"),
        top_p=_number(settings, "topP"),
        top_k=whole(settings.get("topK")),
        stop=_texts(settings, "stopSequences"),
        n=asked.n if asked.n > 1 else None,
        seed=whole(settings.get("seed")),
        presence_penalty=_number(settings, "presencePenalty"),
        frequency_penalty=_number(settings, "frequencyPenalty"),
        logprobs=True if settings.get("responseLogprobs") is True else None,
        top_logprobs=whole(settings.get("logprobs")),
        tools=list(_tools(body.get("tools"))),
        choice=_choice(body.get("toolConfig")),
        format=_format(settings),
        reasoning=_reasoning(settings.get("thinkingConfig")),
        service_tier=_TIERS.get(str(body.get("serviceTier")).lower()),
        modalities=[kind.lower() for kind in _texts(settings, "responseModalities")] or None,
        extra={name: value for name, value in extra.items() if value is not None},
    )


def _member(raw: msgspec.Raw, name: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidBody(f"{name} is not valid JSON.", name) from error


def _number(settings: Object, name: str) -> float | None:
    value = settings.get(name)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise InvalidBody(f"{name} must be a number.", f"generationConfig.{name}")


def _texts(settings: Object, name: str) -> list[str]:
    value = settings.get(name)
    if value is None:
        return []
    if type(value) is not list or not all(isinstance(item, str) for item in value):
        raise InvalidBody(f"{name} must be a list of strings.", f"generationConfig.{name}")
    return value


def _system(value: object) -> list[Text]:
    if isinstance(value, str):
        return [Text(value)]
    parts = objects(value.get("parts")) if type(value) is dict else []
    return [Text(part["text"]) for part in parts if isinstance(part.get("text"), str) and part["text"]]


def _tools(value: object) -> Iterator[blocks.Tool | blocks.ServerTool]:
    for group in objects(value):
        for name, item in group.items():
            if camel(name) == "functionDeclarations":
                yield from map(_tool, objects(item))
            elif item is not None:
                kind = "web_search" if camel(name) in _SEARCHES else "other"
                yield blocks.ServerTool(dialect="gemini", value={camel(name): item}, kind=kind)


def _tool(declaration: Object) -> blocks.Tool:
    name = declaration.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidBody("A function declaration has no name.", "tools")
    parameters = either(declaration, "parametersJsonSchema")
    if type(parameters) is not dict:
        schema = declaration.get("parameters")
        parameters = gemini_schema.to_json_schema(schema) if type(schema) is dict else None
    description = declaration.get("description")
    return blocks.Tool(
        name=name, description=description if isinstance(description, str) else None, parameters=parameters
    )


def _choice(config: object) -> blocks.Choice | None:
    calling = either(config, "functionCallingConfig") if type(config) is dict else None
    if type(calling) is not dict:
        return None
    allowed = either(calling, "allowedFunctionNames")
    names = [name for name in allowed if isinstance(name, str)] if type(allowed) is list else []
    mode = str(calling.get("mode") or "AUTO").upper()
    if mode == "NONE":
        return blocks.Choice(mode="none")
    if mode == "ANY":
        return _forced(names)
    return blocks.Choice(mode="allowed", names=names) if names else blocks.Choice(mode="auto")


def _forced(names: list[str]) -> blocks.Choice:
    if len(names) == 1:
        return blocks.Choice(mode="named", names=names)
    return blocks.Choice(mode="allowed", names=names, required=True) if names else blocks.Choice(mode="required")


def _format(settings: Object) -> blocks.Format | None:
    schema = settings.get("responseJsonSchema") or settings.get("_responseJsonSchema")
    if type(schema) is not dict and type(settings.get("responseSchema")) is dict:
        schema = gemini_schema.to_json_schema(settings["responseSchema"])
    kind = settings.get("responseMimeType")
    if type(schema) is dict and kind in (None, "application/json"):
        return blocks.Format(kind="json_schema", schema=schema, name="answer")
    if kind in (None, "", "text/plain"):
        return None
    if kind != "application/json":
        raise blocks.Unsupported("generationConfig.responseMimeType", f"This model cannot answer as {kind}.")
    return blocks.Format(kind="json_object")


def _reasoning(config: object) -> blocks.Reasoning | None:
    if type(config) is not dict:
        return None
    effort = _LEVELS.get(str(either(config, "thinkingLevel")).upper())
    budget = whole(either(config, "thinkingBudget"))
    # Thoughts are shown to those who ask for them.
    reasoning = blocks.Reasoning(effort=effort, visible=either(config, "includeThoughts") is True)
    if budget == 0:
        reasoning.effort, reasoning.mode = "none", "disabled"
    elif budget is not None and budget > 0:
        reasoning.budget, reasoning.mode = budget, "enabled"
    elif budget is not None:
        reasoning.mode = "adaptive"
    return reasoning


class _Contents:
    """Contents on their way to messages. Calls without an id get one by their place, results find theirs by name."""

    def __init__(self) -> None:
        self._calls = 0
        self._open: list[ToolCall] = []  # calls that have no result yet

    def messages(self, contents: list[Object]) -> list[Message]:
        messages = []
        for index, content in enumerate(contents):
            role = content.get("role") or "user"
            if role not in ("user", "model", "function"):
                raise InvalidBody(f"contents[{index}].role must be user or model.", f"contents[{index}].role")
            place = f"contents[{index}].parts"
            found: list[Block] = []
            for number, part in enumerate(objects(content.get("parts"))):
                found += self._part({camel(name): value for name, value in part.items()}, f"{place}[{number}]")
            if role != "model":
                messages.append(Message("user", found))
            elif messages and messages[-1].role == "assistant":
                _join(messages[-1].blocks, found)
            else:
                messages.append(Message("assistant", []))
                _join(messages[-1].blocks, found)
        return messages

    def _part(self, part: Object, place: str) -> Iterator[Block]:
        for name in _OBJECTS:
            if part.get(name) is not None and type(part[name]) is not dict:
                raise InvalidBody(f"{place}.{name} must be an object.", f"{place}.{name}")
        signature = part.get("thoughtSignature")
        signature = standard(signature) if isinstance(signature, str) and signature else None
        if type(part.get("functionCall")) is dict:
            yield self._call(part["functionCall"], signature, place)
        elif type(part.get("functionResponse")) is dict:
            yield self._result(part["functionResponse"])
        elif type(part.get("inlineData")) is dict:
            yield _inline(part["inlineData"], place)
        elif type(part.get("fileData")) is dict:
            yield _file(part["fileData"], place)
        elif isinstance(part.get("text"), str):
            yield from _text(part["text"], part.get("thought") is True, signature)
        elif part.keys() - {"thought", "thoughtSignature"}:
            yield blocks.Opaque(dialect="gemini", value=part)

    def _call(self, call: Object, signature: str | None, place: str) -> ToolCall:
        name = call.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidBody(f"{place}.functionCall has no name.", f"{place}.functionCall.name")
        self._calls += 1
        made = ToolCall(
            id=str(call.get("id") or f"call_{self._calls}"),
            name=name,
            arguments=_encode(call.get("args") or {}).decode(),
            signature=signature,
            dialect="gemini" if signature else None,
        )
        self._open.append(made)
        return made

    def _result(self, given: Object) -> ToolResult:
        id, name = given.get("id"), given.get("name")
        fits = [call for call in self._open if (call.id == id if id else call.name == name)]
        call = fits[0] if fits else None
        if call is not None:
            self._open.remove(call)
        content, is_error = _response(given.get("response"))
        for part in objects(given.get("parts")):
            data = either(part, "inlineData")
            if type(data) is dict:
                content.append(_inline(data, "functionResponse.parts"))
        return ToolResult(
            id=str(id or (call.id if call else f"call_{name}")),
            content=content,
            name=str(name) if name else call.name if call else None,
            is_error=is_error,
        )


def _join(said: list[Block], more: list[Block]) -> None:
    """Add to what the model said. SDKs keep a stream as they got it, a content for each event: pieces become whole."""
    for block in more:
        last = said[-1] if said else None
        if isinstance(block, Text) and isinstance(last, Text):
            last.text += block.text
        elif isinstance(block, Thinking) and isinstance(last, Thinking) and last.signature is None:
            said[-1] = Thinking(text=last.text + block.text, signature=block.signature, dialect=block.dialect)
        else:
            said.append(block)


def _response(value: object) -> tuple[list[Block], bool]:
    """Return what a function answered as text: a lone `result` or `output` is unwrapped, a lone `error` is one."""
    if type(value) is dict and len(value) == 1:
        ((name, inner),) = value.items()
        if name in ("result", "output", "error"):
            return [Text(inner if isinstance(inner, str) else _encode(inner).decode())], name == "error"
    return [Text(_encode({} if value is None else value).decode())], False


def _text(text: str, thought: bool, signature: str | None) -> Iterator[Block]:
    if signature and (foreign := unsealed(signature, text)) is not None:
        yield foreign
    elif thought:
        yield Thinking(text=text, signature=signature, dialect="gemini")
    else:
        if text:
            yield Text(text)
        if signature:
            yield Thinking(signature=signature, dialect="gemini")


def _inline(value: Object, place: str) -> Block:
    data, kind = value.get("data"), str(either(value, "mimeType") or "").lower()
    if not isinstance(data, str):
        raise InvalidBody(f"{place}.inlineData.data must be base64.", f"{place}.inlineData.data")
    family, _, subtype = kind.partition(";")[0].partition("/")
    if family == "image":
        return Image(media_type=kind, data=standard(data))
    if family == "audio":
        return Audio(data=standard(data), format=AUDIO_FORMATS.get(subtype, subtype))
    if family == "video":
        raise blocks.Unsupported(place, "This model cannot see videos.")
    name = either(value, "displayName")
    return Document(
        media_type=kind or "application/pdf", data=standard(data), name=name if isinstance(name, str) else None
    )


def _file(value: Object, place: str) -> Block:
    uri, kind = either(value, "fileUri"), str(either(value, "mimeType") or "").lower()
    if not isinstance(uri, str) or not uri:
        raise InvalidBody(f"{place}.fileData.fileUri must be an address.", f"{place}.fileData.fileUri")
    if kind.startswith(("video/", "audio/")):
        raise blocks.Unsupported(place, f"This model cannot read {kind} behind an address.")
    # What lies in an account of Google's is a file there, and no address that others could read.
    is_file = uri.startswith(("gs://", "https://generativelanguage.googleapis.com/"))
    where: dict[str, Any] = {"file_id": uri} if is_file else {"url": uri}
    if kind.startswith("image/"):
        return Image(media_type=kind, **where)
    return Document(media_type=kind or "application/pdf", **where)
