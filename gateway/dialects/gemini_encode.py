"""Pure: the middle form -> a `generateContent` call, for AI Studio and Vertex alike.

Responsible for turns that alternate, results of functions that follow their calls, signatures where Gemini insists on
them, and settings by what the catalogue knows of a model. Never downloads: a picture behind an address has its bytes
already, or is refused here. Neighbours: `gemini_write.py` (answers for Google's clients), `gemini_schema.py`,
`gemini_settings.py` (`generationConfig`).

Source: https://ai.google.dev/api/generate-content, https://ai.google.dev/gemini-api/docs/thought-signatures (2026-11).
"""

import hashlib
import re
from itertools import pairwise
from typing import Any

import msgspec

from gateway.dialects import blocks, gemini, gemini_schema, gemini_settings
from gateway.dialects.blocks import Audio, Block, Document, Image, Message, Text, Thinking, ToolCall, ToolResult
from gateway.dialects.gemini_answer import Object
from gateway.dialects.gemini_write import StreamWriter, answer, arguments
from gateway.dialects.openai_answer import lenient

__all__ = ["StreamWriter", "answer", "request"]

_encode = msgspec.json.Encoder().encode

# What Google accepts in place of a signature on a call that another model made: base64 of
# `skip_thought_signature_validator`. https://ai.google.dev/gemini-api/docs/thought-signatures (2026-11)
UNSIGNED = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
# A conversation begins with the user; where it does not, this stands for what he said.
_NOTHING_SAID = "."
_FILES = "https://generativelanguage.googleapis.com/v1beta/"
# Addresses that Google reads itself, whoever asks.
_READ_BY_GOOGLE = re.compile(
    r"gs://|https://generativelanguage\.googleapis\.com/.*files/|https://(?:www\.|m\.)?youtube\.com/|https://youtu\.be/"
)
_IMAGES = {"/9j/": "image/jpeg", "iVBOR": "image/png", "R0lG": "image/gif", "UklGR": "image/webp"}
_EXTENSIONS = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "heic": "image/heic",
    "pdf": "application/pdf",
    "txt": "text/plain",
}
# Parts that are blocks of their own.
_CALLS = frozenset({"functionCall", "functionResponse"})
# https://ai.google.dev/api/caching#FunctionDeclaration (2026-11)
_MAX_NAME = 64
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:-]")
_AUDIO = {"mp3": "audio/mp3", "wav": "audio/wav", "pcm16": "audio/pcm", "m4a": "audio/m4a"}


def request(request: blocks.Request, order: blocks.Order) -> blocks.Sent:
    """Return the call of a model. Raises: blocks.Unsupported naming the parameter."""
    dropped: list[str] = []
    tools, choice = _tools(request, order, dropped)
    body: Object = {"contents": _Contents(order.model, dropped).written(request.messages)}
    settings = gemini_settings.Settings(request, order, dropped)
    if system := [{"text": text.text} for text in request.system if text.text]:
        body["systemInstruction"] = {"parts": system}
    if tools:
        body["tools"] = tools
        body |= {"toolConfig": {"functionCallingConfig": choice}} if choice else {}
    hint = settings.format_hint(has_functions=any("functionDeclarations" in tool for tool in tools))
    if hint:
        body.setdefault("systemInstruction", {"parts": []})["parts"].append({"text": hint})
    if config := settings.written():
        body["generationConfig"] = config
    body |= settings.beside()
    path = gemini.path(order.model, request.stream)
    names = {google_name(tool.name): tool.name for tool in request.tools if isinstance(tool, blocks.Tool)}
    return blocks.Sent(
        body=_encode(body),
        path=path,
        dropped=list(dict.fromkeys(dropped)),
        names={google: own for google, own in names.items() if google != own},
    )


def google_name(name: str) -> str:
    """Return the name of a tool as Google accepts it; one that had to be changed is told from others by a digest."""
    if _NAME.fullmatch(name):
        return name
    digest = hashlib.blake2s(name.encode("utf-8", "replace"), digest_size=4).hexdigest()
    return f"_{_NOT_IN_NAMES.sub('_', name)[: _MAX_NAME - 10]}_{digest}"


# --- Tools ----------------------------------------------------------------------------------------------------------


def _tools(request: blocks.Request, order: blocks.Order, dropped: list[str]) -> tuple[list[Object], Object | None]:
    """Return `tools` and `functionCallingConfig`."""
    choice = request.choice or blocks.Choice(mode="auto")
    allowed = set(choice.names) if choice.mode == "allowed" and not choice.required else None
    functions: list[Object] = []
    searches = False
    for tool in request.tools:
        if isinstance(tool, blocks.Tool):
            if allowed is None or tool.name in allowed:
                functions.append(_declaration(tool, order.model))
        elif tool.kind == "web_search" and _may_search(order):
            searches = True
        else:
            dropped.append("web_search_options" if tool.kind == "web_search" else "tools")
    if searches and functions:  # Google's own tools and functions do not go together in one call
        dropped.append("web_search_options")
    elif searches:
        return [{"googleSearch": {}}], None
    if not functions:
        if choice.mode in ("required", "named") or choice.required:
            raise blocks.Unsupported("tool_choice", "tool_choice forces a call, but there is no tool Gemini can call.")
        return [], None
    if request.parallel is False:
        dropped.append("parallel_tool_calls")
    return [{"functionDeclarations": functions}], _calling(choice, functions)


def _may_search(order: blocks.Order) -> bool:
    """Tell whether a search may be asked for: Google charges for it beside the tokens."""
    if order.credits and {"web_search_options", "googleSearch"} & order.repriced_by:
        return False
    return "web_search_options" not in order.model.unsupported


def _calling(choice: blocks.Choice, functions: list[Object]) -> Object | None:
    if choice.mode == "none":
        return {"mode": "NONE"}
    if choice.mode == "required":
        return {"mode": "ANY"}
    if choice.mode != "named" and not choice.required:
        return None  # AUTO is what happens when nothing is said
    known = {function["name"] for function in functions}
    names = [google_name(name) for name in choice.names]
    if missing := [name for name in names if name not in known]:
        raise blocks.Unsupported("tool_choice", f"tool_choice names {missing[0][:100]}, which is no function in tools.")
    return {"mode": "ANY", "allowedFunctionNames": names}


def _declaration(tool: blocks.Tool, model: blocks.Facts) -> Object:
    declaration: Object = {"name": google_name(tool.name)}
    if tool.description:
        declaration["description"] = tool.description
    parameters = tool.parameters
    if tool.custom:  # free text, in the one way a function can take it
        parameters = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    if parameters is None or not gemini_schema.has_properties(parameters):
        return declaration
    if gemini_settings.takes_json_schema(model):
        declaration["parametersJsonSchema"] = gemini_schema.raw(parameters)
    else:
        declaration["parameters"] = gemini_schema.to_subset(parameters)
    return declaration


# --- Contents -------------------------------------------------------------------------------------------------------


class _Contents:
    """Messages on their way to contents, which alternate between the user and the model."""

    def __init__(self, model: blocks.Facts, dropped: list[str]) -> None:
        # These models insist on signatures, and know calls by their ids; older ones refuse ids.
        self._is_strict = model.thinking == "level"
        self._dropped = dropped
        self._names: dict[str, str] = {}
        self._contents: list[Object] = []

    def written(self, messages: list[Message]) -> list[Object]:
        """Return the contents. Raises: blocks.Unsupported."""
        for message in messages:
            role = "model" if message.role == "assistant" else "user"
            for block in message.blocks:
                for part in self._parts(block):
                    self._put(role, part)
        contents = self._contents
        if not contents or contents[0]["role"] == "model":
            contents.insert(0, {"role": "user", "parts": [{"text": _NOTHING_SAID}]})
        for before, content in pairwise(contents):
            if content["role"] == "user":
                content["parts"] = _results_first(content["parts"], before["parts"])
        for content in contents:
            self._tidy(content)
        return contents

    def _put(self, role: str, part: Object) -> None:
        if self._contents and self._contents[-1]["role"] == role:
            self._contents[-1]["parts"].append(part)
        else:
            self._contents.append({"role": role, "parts": [part]})

    def _tidy(self, content: Object) -> None:
        """Take off what only ordering needed, and sign the first call of a turn where Gemini insists on it."""
        calls = [part for part in content["parts"] if "functionCall" in part]
        if self._is_strict:
            if calls and "thoughtSignature" not in calls[0]:
                calls[0]["thoughtSignature"] = UNSIGNED
            return
        for part in content["parts"]:
            (part.get("functionCall") or part.get("functionResponse") or {}).pop("id", None)

    def _parts(self, block: Block) -> list[Object]:
        if isinstance(block, Text | blocks.Refusal):
            return [{"text": block.text}] if block.text else []
        if isinstance(block, ToolCall):
            return [self._call(block)]
        if isinstance(block, ToolResult):
            return self._result(block)
        if isinstance(block, Thinking):
            return _thought(block)
        if isinstance(block, Image | Document | Audio):
            return [_file(block)]
        if isinstance(block, blocks.Opaque):
            if block.dialect == "gemini" and _CALLS.isdisjoint(block.value):
                return [block.value]
            self._dropped.append("messages")
        return []  # reasoning that another vendor has encrypted

    def _call(self, call: ToolCall) -> Object:
        name = self._names[call.id] = google_name(call.name)
        part: Object = {"functionCall": {"id": call.id, "name": name, "args": arguments(call)}}
        if call.signature and call.dialect == "gemini":
            part["thoughtSignature"] = call.signature
        return part

    def _result(self, result: ToolResult) -> list[Object]:
        name = self._names.get(result.id) or (google_name(result.name) if result.name else None)
        if name is None:
            raise blocks.Unsupported(
                "messages", f"The result of tool call {result.id[:100]} has no call before it: Gemini needs its name."
            )
        files = [_file(block) for block in result.content if isinstance(block, Image | Document | Audio)]
        answered: Object = {"id": result.id, "name": name, "response": _response(result)}
        inline = [file for file in files if "inlineData" in file] if self._is_strict else []
        if inline:
            answered["parts"] = inline
        return [{"functionResponse": answered}, *(file for file in files if file not in inline)]


def _results_first(parts: list[Object], before: list[Object]) -> list[Object]:
    """Return the parts of a user's turn with the results first, in the order of the calls they answer."""
    places: dict[str, int] = {}
    for part in before:
        if "functionCall" in part:
            places.setdefault(part["functionCall"]["id"], len(places))
    results = [part for part in parts if "functionResponse" in part]
    results.sort(key=lambda part: places.get(part["functionResponse"]["id"], len(places)))
    return results + [part for part in parts if "functionResponse" not in part]


def _response(result: ToolResult) -> Object:
    """Return what a tool answered as the object that Gemini wants."""
    texts = [block.text for block in result.content if isinstance(block, Text | blocks.Refusal)]
    text = "\n".join(texts)
    value = lenient(text.encode("utf-8", "replace")) if text.lstrip()[:1] == "{" else None
    answered: Any = value if isinstance(value, dict) else text
    if result.is_error:
        return {"error": answered}
    return answered if isinstance(answered, dict) else {"result": answered}


def _thought(block: Thinking) -> list[Object]:
    """Return Gemini's own signed thoughts; others mean nothing to it. One without text signs the answer's text."""
    if block.dialect != "gemini" or not block.signature:
        return []
    part: Object = {"text": block.text, "thoughtSignature": block.signature}
    return [part | ({"thought": True} if block.text else {})]


# --- Files ----------------------------------------------------------------------------------------------------------


def _file(block: Image | Document | Audio) -> Object:
    """Return a file as its bytes, or as an address that Google reads. Raises: blocks.Unsupported."""
    if isinstance(block, Audio):
        return _inline(_AUDIO.get(block.format, f"audio/{block.format}"), block.data)
    if block.data is not None:
        return _inline(block.media_type or _sniffed(block.data), block.data)
    if isinstance(block, Document) and block.text is not None:
        return {"text": f"{block.name}:\n{block.text}" if block.name else block.text}
    if block.file_id is not None and (block.file_id.startswith("files/") or _READ_BY_GOOGLE.match(block.file_id)):
        uri = _FILES + block.file_id if block.file_id.startswith("files/") else block.file_id
        return _address(uri, block)
    if block.url is not None and _READ_BY_GOOGLE.match(block.url):
        return _address(block.url, block)
    if block.file_id is not None:
        raise blocks.Unsupported("messages", f"{block.file_id[:100]} is a file of another provider's account.")
    raise blocks.Unsupported("messages", "A file has neither bytes nor an address that Gemini can read.")


def _inline(kind: str, data: str) -> Object:
    return {"inlineData": {"mimeType": kind, "data": data}}


def _address(uri: str, block: Image | Document) -> Object:
    extension = uri.rpartition("?")[0] or uri
    kind = _EXTENSIONS.get(extension.rpartition(".")[2].lower()) or (
        block.media_type if isinstance(block, Image) else None
    )
    return {"fileData": {"mimeType": kind, "fileUri": uri} if kind else {"fileUri": uri}}


def _sniffed(data: str) -> str:
    return next((kind for begin, kind in _IMAGES.items() if data.startswith(begin)), "image/png")
