"""What a fake vendor answers: one small mind for all of them, so that the same question has the same answer everywhere.

It says back what it was told (the last text, what images and documents it was shown, what tools answered), calls tools
when they are forced, when it is asked for the weather, or as it is told (`call the tool Bash with {...} now`), and
fills schemas. So a test can see in the answer whether all of a request arrived. Tokens are its words.
Neighbours: the vendors.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from dataclasses import dataclass, field
from typing import Any

THOUGHT = "The user wants an answer; I weigh it — carefully."
_SECRET = b"only this mind can sign its thoughts"
_ORDER = re.compile(r"call the tool (\w+) with (\{.*?\}) now")
_CITIES = re.compile(r"\b(Paris|Rome|Oslo|Lima)\b")
IMAGE_MARKS = {
    "image/png": b"\x89PNG",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}


@dataclass
class Heard:
    """The last turn of a conversation, in whatever format it came."""

    text: str = ""
    shown: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)


@dataclass
class Wanted:
    """What the answer may or must be."""

    tools: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> JSON Schema of its arguments
    forced: list[str] | None = None  # one of these must be called
    parallel: bool = True
    schema: dict[str, Any] | None = None


@dataclass
class Said:
    """An answer: text, calls (name, arguments), or both."""

    text: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


def answer(heard: Heard, wanted: Wanted) -> Said:
    """Answer a turn."""
    names = wanted.forced
    if (told := _ORDER.search(heard.text)) and not heard.results and told[1] in wanted.tools:
        return Said("Let me see.", [(told[1], json.loads(told[2]))])
    if names is None and not heard.results and "weather" in heard.text.lower():
        names = list(wanted.tools)
    if names and wanted.tools:
        cities = _CITIES.findall(heard.text) or ["Paris"]
        parameters = wanted.tools[names[0]]
        calls = [(names[0], filled(parameters, city)) for city in (cities if wanted.parallel else cities[:1])]
        return Said("Let me look." if wanted.forced is None else "", calls)
    if wanted.schema is not None:
        return Said(json.dumps(filled(wanted.schema, heard.text[:40])))
    parts = [f"You said: {heard.text}", *(f"I see {thing}" for thing in heard.shown)]
    return Said(" | ".join([*parts, *(f"The tool said {result}" for result in heard.results)]))


def filled(schema: dict[str, Any], text: str) -> Any:
    """Return the smallest value that fits a JSON Schema (either spelling of its types), with `text` in its strings."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    kind = str(kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object":
        return {name: filled(inner, text) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [filled(schema.get("items", {"type": "string"}), text)]
    return {"string": text, "integer": 7, "number": 7.5, "boolean": True}.get(kind)


def tokens(value: Any) -> int:
    """Count the words and signs of a text, or of the JSON of anything else."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return len(re.findall(r"\w+|[^\w\s]", text))


def pieces(text: str) -> list[str]:
    """Cut a text as a stream does."""
    return re.findall(r"\s*\S+\s*$|\s*\S+", text)


def signed(thought: str, model: str) -> str:
    """Sign a thought: only the model that had it can read it again."""
    return base64.b64encode(hmac.new(_SECRET, f"{model}\n{thought}".encode(), hashlib.sha256).digest() * 3).decode()


def is_signed(signature: str | None, thought: str, model: str | None) -> bool:
    """Tell whether a signature is ours; None as model believes every one (recorded conversations)."""
    return model is None or signature == signed(thought, model)


def image(media_type: str, data: str) -> str:
    """Return what is seen of an image. Raises: ValueError when it is none, or another than was said."""
    raw = unpacked(data)
    mark = IMAGE_MARKS.get(media_type)
    if mark is None or not raw.startswith(mark):
        raise ValueError(f"not an image of type {media_type}")
    return f"an {media_type} of {len(raw)} bytes"


def pdf(data: str) -> str:
    """Return what is seen of a PDF. Raises: ValueError."""
    raw = unpacked(data)
    if not raw.startswith(b"%PDF"):
        raise ValueError("not a PDF")
    return f"a PDF of {len(raw)} bytes"


def unpacked(data: str) -> bytes:
    """Decode base64 as strictly as the vendors do. Raises: ValueError."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError) as error:
        raise ValueError("invalid base64 data") from error
