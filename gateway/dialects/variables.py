"""Pure: the variables of a chat completion request: `{{name}}` in its messages becomes the value of that name.

A value is text, or JSON written as text, or says what it is: `{"_type": "image_url", "value": url}` puts an image in
the place of its name. Filled once: what a value holds is never a template itself, nor is what a tool answered. A name
without a value stays as it is. Neighbours: `gateway.params` (where the values come from), `openai_chat.py`.
Source: https://www.respan.ai/docs (prompt variables), the quickstart's images.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway.dialects.wire import InvalidBody, Members

_PLACEHOLDER = re.compile(r"\{\{[ \t]*([\w.-]{1,200})[ \t]*\}\}")
_encode = msgspec.json.Encoder().encode
# Roles whose content is data, not written by whoever wrote the template.
_DATA = frozenset({"tool", "function"})
# Images by the first bytes of their base64.
_KINDS = {"iVBOR": "png", "/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp"}


def filled(members: Members, messages: list[dict[str, Any]], variables: Mapping[str, Any]) -> bytes | None:
    """Return `messages` as JSON with the variables filled in; None when that changes nothing.

    Raises: InvalidBody when a variable of a `_type` has no such value.
    """
    if not variables or b"{{" not in bytes(members.get("messages", b"")):
        return None
    found = [_message(message, variables) for message in messages]
    return _encode(found) if any(new is not old for new, old in zip(found, messages, strict=True)) else None


def _message(message: dict[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message filled, the same object where there was nothing to fill."""
    role, content = message.get("role"), message.get("content")
    if role in _DATA:
        return message
    takes_images = role == "user"
    if isinstance(content, str):
        parts = _split(content, variables, takes_images=takes_images)
        if parts is None:
            return message
        return {**message, "content": _as_text(parts) if _is_text(parts) else parts}
    if not isinstance(content, list):
        return message
    lists = [_part(part, variables, takes_images=takes_images) for part in content]
    if all(parts is None for parts in lists):
        return message
    return {
        **message,
        "content": [
            each for part, parts in zip(content, lists, strict=True) for each in ([part] if parts is None else parts)
        ],
    }


def _part(part: object, variables: Mapping[str, Any], *, takes_images: bool) -> list[dict[str, Any]] | None:
    """Return what a part of text becomes; a mark of it (a cache breakpoint) stays at its end. None: it stays."""
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        return None
    parts = _split(part["text"], variables, takes_images=takes_images)
    if parts is None:
        return None
    if _is_text(parts):
        return [{**part, "text": _as_text(parts)}]
    marks = {name: value for name, value in part.items() if name not in ("type", "text")}
    return [*parts[:-1], {**parts[-1], **marks}]


def _is_text(parts: list[dict[str, Any]]) -> bool:
    return all(part["type"] == "text" for part in parts)


def _as_text(parts: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts)


def _split(text: str, variables: Mapping[str, Any], *, takes_images: bool) -> list[dict[str, Any]] | None:
    """Return a text as parts, images where their names stood; None when it holds no name of a value."""
    pieces = list(_pieces(text, variables, takes_images=takes_images))
    if all(is_filled is False for _, is_filled in pieces):
        return None
    parts: list[dict[str, Any]] = []
    for piece, _ in pieces:
        if isinstance(piece, dict):
            parts.append(piece)
        elif piece and parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += piece
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts or [{"type": "text", "text": ""}]


def _pieces(
    text: str, variables: Mapping[str, Any], *, takes_images: bool
) -> Iterator[tuple[str | dict[str, Any], bool]]:
    """Yield the pieces of a text in order, and whether each is a value."""
    position = 0
    for match in _PLACEHOLDER.finditer(text):
        name = match[1]
        if name not in variables:
            continue
        value = _value(name, variables[name])
        if isinstance(value, dict) and not takes_images:
            continue
        yield text[position : match.start()], False
        yield value, True
        position = match.end()
    yield text[position:], False


def _value(name: str, value: object) -> str | dict[str, Any]:
    """Return a variable's text, or its image as a part."""
    if not isinstance(value, dict) or "_type" not in value:
        return _text(value)
    if value["_type"] == "image_url":
        return _image(name, value.get("value"))
    if value["_type"] in ("text", "json"):
        return _text(value.get("value"))
    raise InvalidBody(f"variables.{name}._type must be text, json or image_url.", f"variables.{name}._type")


def _text(value: object) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


def _image(name: str, value: object) -> dict[str, Any]:
    holder = value if isinstance(value, dict) else {"url": value}
    url = holder.get("url")
    if not isinstance(url, str) or not url.strip():
        at = f"variables.{name}.value"
        raise InvalidBody(f"{at} must be the address of an image, a data URL or base64.", at)
    detail = {"detail": holder["detail"]} if isinstance(holder.get("detail"), str) else {}
    return {"type": "image_url", "image_url": {"url": _address(url.strip()), **detail}}


def _address(url: str) -> str:
    """Return an address; bare base64 becomes a data URL."""
    kind = next((kind for start, kind in _KINDS.items() if url.startswith(start)), None)
    return f"data:image/{kind};base64,{url}" if kind else url
