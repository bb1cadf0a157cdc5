"""Pure: the messages of a chat completion request -> blocks: roles, parts, tool results, reasoning of earlier turns.

Tolerant to what real clients send (a PDF as an image, `functions`, vendors' parts and reasoning), strict where content
would be lost: that is refused by its place, as `messages[2].content[0].image_url`. Never fetches anything. Neighbours:
`openai_chat_decode.py` (the parameters), `openai_chat_reasoning.py`. Source:
https://platform.openai.com/docs/api-reference/chat/create, and recorded requests of a dozen clients.
"""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from gateway.dialects import openai_chat_reasoning as reasoning
from gateway.dialects.blocks import (
    Audio,
    Block,
    CacheTtl,
    Document,
    Image,
    Message,
    Opaque,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from gateway.dialects.wire import InvalidBody, dicts

_DATA_URL = re.compile(r"\s*data:([^,]*),", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_URL_SAFE = str.maketrans("-_", "+/")
_PDF = "application/pdf"
# Documents by the end of their name, where nothing else says what they are.
_ENDINGS = {
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "xml": "text/xml",
}
# How long a cache entry is asked to live: OpenAI's and Anthropic's words.
_LONG = frozenset({"1h", "12h"})


def messages(sent: list[dict[str, Any]]) -> tuple[list[Text], list[Message]]:
    """Return what stands before the conversation (system, developer), and the conversation.

    Raises: InvalidBody.
    """
    history = _History()
    for index, message in enumerate(sent):
        history.take(message, f"messages[{index}]")
    return history.system, history.turns


def cache_of(value: dict[str, Any]) -> CacheTtl | None:
    """Return for how long what ends here should be cached: Anthropic's `cache_control` or OpenAI's breakpoint."""
    mark = value.get("cache_control") or value.get("prompt_cache_breakpoint")
    if not isinstance(mark, dict):
        return None
    return "1h" if mark.get("ttl") in _LONG else "5m"


def wrong(param: str, what: str) -> InvalidBody:
    """Return the error that says what is wrong with a member, by its place."""
    return InvalidBody(f"{param} {what}.", param)


class _History:
    """A conversation as it is read: tool results get the name of the tool they belong to."""

    def __init__(self) -> None:
        self.system: list[Text] = []
        self.turns: list[Message] = []
        self._names: dict[str, str] = {}
        self._called: str | None = None  # the id of the last `function_call`, which has none on the wire

    def take(self, message: dict[str, Any], at: str) -> None:
        role = message["role"]
        if role in ("system", "developer"):
            self._instruct(message, at)
        elif role == "user":
            self._add("user", _marked(_content(message, at), message), message)
        elif role == "assistant":
            self._add("assistant", _marked(self._answered(message, at), message), message)
        elif role == "tool":
            self._result(_id(message, "tool_call_id", at), message, at)
        elif role == "function":
            self._result(self._called or _id(message, "name", at), message, at)
        else:
            raise wrong(f"{at}.role", "must be system, developer, user, assistant, tool or function")

    def _add(self, role: Any, found: list[Block], message: dict[str, Any]) -> None:
        name = message.get("name")
        self.turns.append(Message(role=role, blocks=found, name=name if isinstance(name, str) and name else None))

    def _instruct(self, message: dict[str, Any], at: str) -> None:
        found = _marked(_content(message, at), message)
        texts = [block for block in found if isinstance(block, Text)]
        if len(texts) != len(found):
            raise wrong(f"{at}.content", "may only be text in a system message")
        if self.turns:
            self._add("system", found, message)
        else:
            self.system += [text for text in texts if text.text]

    def _answered(self, message: dict[str, Any], at: str) -> list[Block]:
        found: list[Block] = list(reasoning.reasoned(message))
        found += _content(message, at, unknown=_vendors)  # what an answer held may be any vendor's own
        refusal = message.get("refusal")
        if isinstance(refusal, str) and refusal:
            found.append(Refusal(refusal))
        for index, image in enumerate(_list(message, "images", at)):
            found.append(_part(image, f"{at}.images[{index}]"))
        if isinstance(message.get("audio"), dict):
            found.append(Opaque(dialect=reasoning.CHAT, value={"type": "audio", "audio": message["audio"]}))
        for index, call in enumerate(_list(message, "tool_calls", at)):
            found.append(self._call(call, f"{at}.tool_calls[{index}]"))
        if isinstance(message.get("function_call"), dict):
            found.append(self._function_call(message["function_call"], f"{at}.function_call"))
        return found

    def _call(self, call: object, at: str) -> ToolCall:
        if not isinstance(call, dict):
            raise wrong(at, "must be an object")
        kind = "custom" if isinstance(call.get("custom"), dict) else "function"
        inner = call.get(kind)
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise wrong(f"{at}.{kind}.name", "must be a string")
        member = "input" if kind == "custom" else "arguments"
        arguments = inner.get(member)
        if arguments is not None and not isinstance(arguments, str):
            raise wrong(f"{at}.{kind}.{member}", "must be a string")
        id, signature = _id(call, "id", at), reasoning.signature_of(call)
        self._names[id] = inner["name"]
        return ToolCall(
            id=id,
            name=inner["name"],
            arguments=arguments or "",
            custom=kind == "custom",
            signature=signature,
            dialect="gemini" if signature is not None else None,
            cache=cache_of(call),
        )

    def _function_call(self, call: dict[str, Any], at: str) -> ToolCall:
        name, arguments = call.get("name"), call.get("arguments")
        if not isinstance(name, str):
            raise wrong(f"{at}.name", "must be a string")
        if arguments is not None and not isinstance(arguments, str):
            raise wrong(f"{at}.arguments", "must be a string")
        self._called = f"call_{len(self.turns)}"
        self._names[self._called] = name
        return ToolCall(id=self._called, name=name, arguments=arguments or "")

    def _result(self, id: str, message: dict[str, Any], at: str) -> None:
        name = self._names.get(id) or message.get("name")
        result = ToolResult(
            id=id,
            content=_content(message, at),
            name=name if isinstance(name, str) else None,
            is_error=message.get("is_error") is True,
            cache=cache_of(message),
        )
        self.turns.append(Message(role="user", blocks=[result]))


def _id(value: dict[str, Any], name: str, at: str) -> str:
    id = value.get(name)
    if not isinstance(id, str) or not id:
        raise wrong(f"{at}.{name}", "must be a string that is not empty")
    return id


def _list(message: dict[str, Any], name: str, at: str) -> list[Any]:
    value = message.get(name)
    if value is not None and not isinstance(value, list):
        raise wrong(f"{at}.{name}", "must be a list")
    return value or []


def _marked(found: list[Block], message: dict[str, Any]) -> list[Block]:
    """Put a message's own cache mark on its last block."""
    cache = cache_of(message)
    if cache is not None and found and hasattr(found[-1], "cache"):
        found[-1].cache = cache
    return found


# --- Parts ----------------------------------------------------------------------------------------------------------


def _content(message: dict[str, Any], at: str, unknown: "_Read | None" = None) -> list[Block]:
    content = message.get("content")
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)] if content else []
    if not isinstance(content, list):
        raise wrong(f"{at}.content", "must be a string or a list of parts")
    return [_part(part, f"{at}.content[{index}]", unknown) for index, part in enumerate(content)]


def _part(part: object, at: str, unknown: "_Read | None" = None) -> Block:
    if isinstance(part, str):  # seen from clients that map over strings
        return Text(part)
    if not isinstance(part, dict):
        raise wrong(at, "must be an object")
    kind = part.get("type")
    read = _PARTS.get(kind, unknown) if isinstance(kind, str) else None
    if read is None:
        raise wrong(f"{at}.type", f"must be one of {', '.join(sorted(_PARTS))}")
    block = read(part, at)
    if hasattr(block, "cache"):
        block.cache = cache_of(part)
    return block


def _text(part: dict[str, Any], at: str) -> Block:
    if not isinstance(part.get("text"), str):
        raise wrong(f"{at}.text", "must be a string")
    return Text(part["text"])


def _refusal(part: dict[str, Any], at: str) -> Block:
    if not isinstance(part.get("refusal"), str):
        raise wrong(f"{at}.refusal", "must be a string")
    return Refusal(part["refusal"])


def _thinking(part: dict[str, Any], at: str) -> Block:
    """Mistral's reasoning: a list of texts."""
    thinking = part.get("thinking")
    if isinstance(thinking, str):
        return Thinking(text=thinking, dialect=reasoning.CHAT)
    texts = [piece["text"] for piece in dicts(thinking) if isinstance(piece.get("text"), str)]
    return Thinking(text="".join(texts), dialect=reasoning.CHAT)


def _url(part: dict[str, Any], name: str, at: str) -> tuple[str, dict[str, Any]]:
    """Return the address in `part[name]`, a string or an object with a `url`, and that object."""
    value = part.get(name)
    holder = value if isinstance(value, dict) else {"url": value}
    url = holder.get("url")
    if not isinstance(url, str) or not url.strip():
        place = f"{at}.{name}.url" if isinstance(value, dict) else f"{at}.{name}"
        raise wrong(place, "must be an address or a data URL")
    return url.strip(), holder


def _image(part: dict[str, Any], at: str) -> Block:
    url, holder = _url(part, "image_url", at)
    at = f"{at}.image_url.url"
    detail = holder.get("detail")
    held = _held(url, at)
    if held is None:
        return Image(url=url, detail=detail if isinstance(detail, str) else None)
    media_type, data = held
    if media_type and not media_type.startswith("image/"):
        return _audio_or_document(media_type, data, at)
    return Image(media_type=media_type or "image/png", data=data, detail=detail if isinstance(detail, str) else None)


def _audio_or_document(media_type: str, data: str, at: str) -> Block:
    if media_type.startswith("audio/"):
        return Audio(data=data, format=_audio_format(media_type))
    return _document(media_type, data, None, at)


def _audio_format(media_type: str) -> str:
    kind = media_type.partition("/")[2].removeprefix("x-").removeprefix("vnd.")
    return {"mpeg": "mp3", "wave": "wav"}.get(kind, kind)


def _audio(part: dict[str, Any], at: str) -> Block:
    value = part.get("input_audio")
    holder = value if isinstance(value, dict) else {"data": value}
    data, at = holder.get("data"), f"{at}.input_audio.data"
    if not isinstance(data, str) or not data:
        raise wrong(at, "must be sound in base64")
    held = _held(data, at)
    named = holder.get("format")
    if held is not None:
        media_type, data = held
        named = named or _audio_format(media_type)
    else:
        data = _base64(data, at)
    return Audio(data=data, format=named if isinstance(named, str) and named else "wav")


def _file(part: dict[str, Any], at: str) -> Block:
    value = part.get("file")
    if not isinstance(value, dict):
        raise wrong(f"{at}.file", "must be an object")
    name = value.get("filename")
    name = name if isinstance(name, str) and name else None
    data = value.get("file_data")
    if isinstance(data, str) and data:
        return _file_data(data, name, value.get("format"), f"{at}.file.file_data")
    if isinstance(value.get("file_id"), str) and value["file_id"]:
        return Document(file_id=value["file_id"], name=name)
    if isinstance(value.get("file_url"), str) and value["file_url"]:
        return Document(url=value["file_url"], name=name)
    raise wrong(f"{at}.file", "must have file_data or file_id")


def _file_data(data: str, name: str | None, format: object, at: str) -> Block:
    data = data.strip()
    if data.startswith(("https://", "http://")):
        return Document(url=data, name=name)
    media_type, data = _held(data, at) or ("", _base64(data, at))
    if not media_type or media_type == "application/octet-stream":
        ending = (name or "").rpartition(".")[2].lower()
        media_type = format if isinstance(format, str) and format else _ENDINGS.get(ending, _PDF)
    if media_type.startswith("image/"):
        return Image(media_type=media_type, data=data)
    if media_type.startswith("audio/"):
        return Audio(data=data, format=_audio_format(media_type))
    return _document(media_type, data, name, at)


def _document(media_type: str, data: str, name: str | None, at: str) -> Document:
    """Return a document; what is text travels as text."""
    if not media_type.startswith("text/"):
        return Document(media_type=media_type, data=data, name=name)
    try:
        return Document(media_type=media_type, text=base64.b64decode(data).decode(), name=name)
    except (binascii.Error, UnicodeDecodeError) as error:
        raise wrong(at, "must be text in UTF-8") from error


def _address_of_document(name: str) -> "_Read":
    def read(part: dict[str, Any], at: str) -> Block:
        url, holder = _url(part, name, at)
        held = _held(url, f"{at}.{name}")
        if held is not None:
            return _document(held[0] or _PDF, held[1], None, f"{at}.{name}")
        titled = part.get("document_name") or holder.get("file_name")
        return Document(url=url, name=titled if isinstance(titled, str) else None)

    return read


def _vendors(part: dict[str, Any], at: str) -> Block:
    return Opaque(dialect=reasoning.CHAT, value=part)


_Read = Callable[[dict[str, Any], str], Block]
_PARTS: dict[str, _Read] = {
    "text": _text,
    "input_text": _text,
    "output_text": _text,
    "refusal": _refusal,
    "thinking": _thinking,
    "image_url": _image,
    "input_audio": _audio,
    "file": _file,
    "document_url": _address_of_document("document_url"),  # Mistral
    "file_url": _address_of_document("file_url"),  # Perplexity
    "video_url": _vendors,  # Qwen, Z.ai, Moonshot
}


def _held(url: str, at: str) -> tuple[str, str] | None:
    """Return media type and base64 of a data URL, None for any other. Parameters and white space may be in it."""
    head = _DATA_URL.match(url)
    if head is None:
        return None
    media_type, *parameters = [word.strip().lower() for word in head[1].split(";")]
    data = url[head.end() :]
    if "base64" in parameters:
        return media_type, _base64(data, at)
    return media_type, base64.b64encode(unquote_to_bytes(data)).decode()


def _base64(data: str, at: str) -> str:
    """Return base64 as every provider takes it: no white space, the usual alphabet, padded."""
    if "%" in data:
        data = unquote_to_bytes(data).decode("ascii", "replace")
    data = _SPACE.sub("", data)
    if "-" in data or "_" in data:
        data = data.translate(_URL_SAFE)
    bare = data.rstrip("=")
    if not bare or not _BASE64.fullmatch(data) or len(bare) % 4 == 1:
        raise wrong(at, "must be base64")
    return data if len(data) % 4 == 0 else bare + "=" * (-len(bare) % 4)
