"""Pure: Google's operations beside `generateContent`: `countTokens`, `embedContent` and `batchEmbedContents`, as bytes.

Responsible for checking such a request, for the model's name where the body repeats it, and for what an answer used.
They are passed through to a provider of Google's dialect or not at all: there is no middle form. Never streams.
Neighbours: `gemini.py` (contents, errors, names of resources), `gateway.call`.

Source: https://ai.google.dev/api/tokens, https://ai.google.dev/api/embeddings (2026-11).
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects import blocks, gemini, gemini_answer, wire
from gateway.dialects.gemini import either, snake
from gateway.dialects.gemini_answer import Object, objects
from gateway.dialects.openai_answer import lenient
from gateway.dialects.wire import Answer, InvalidBody

_encode = msgspec.json.Encoder().encode
# Where each operation has what it works on: the first member that is there counts.
_PLACES = {
    "countTokens": ("contents", "generateContentRequest", "instances"),
    "embedContent": ("content",),
    "batchEmbedContents": ("requests",),
}


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request. `given` is what it works on, decoded, and `place` the member that holds it."""

    body: bytes
    members: wire.Members
    model: str
    place: str
    given: list[Object]
    input_bytes: int
    images: int
    stream: bool = False
    n: int = 1
    max_output: int | None = None
    include_usage: bool = True
    has_tools: bool = False

    @property
    def message_count(self) -> int:
        return len(self.given)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation, by the name it has in the address."""

    name: str

    def read(self, body: bytes, *, named: wire.Named | None = None) -> Request:
        """Decode and check a request. Raises: InvalidBody."""
        wanted = _PLACES[self.name]
        members = wire.top_level(body, measured=wanted[0])
        place = next((name for each in wanted for name in (each, snake(each)) if name in members), None)
        given = objects(_value(members, place)) if place else []
        if place is None or not given:
            raise InvalidBody(f"{wanted[0]} is missing: give at least one.", wanted[0])
        if len(given) > wire.MAX_MESSAGES:
            raise InvalidBody(f"{place} has more than {wire.MAX_MESSAGES} items.", place)
        strings, images = gemini.measured(_contents(given))
        return Request(
            body=body,
            members=members,
            model=gemini.model_name(named.model) if named else wire.model_name(members).removeprefix("models/"),
            place=place,
            given=given,
            input_bytes=strings.bytes(),
            images=images,
        )

    def forward(self, request: Request, order: blocks.Order) -> blocks.Sent:
        """Return the client's own bytes, with the model by its provider's name wherever they name it."""
        name = gemini.resource(order.model.upstream)
        changes: dict[str, bytes] = {}
        if "model" in request.members:
            changes["model"] = _encode(name)
        if any(item.get("model", name) != name for item in request.given):
            renamed = [{**item, "model": name} if "model" in item else item for item in request.given]
            changes[request.place] = _encode(renamed if self.name == "batchEmbedContents" else renamed[0])
        drop = [member for member in request.members if member in order.ours]
        body = wire.patched(request, drop=drop, set_members=changes)
        return blocks.Sent(body=body, path=f"/{name}:{self.name}")

    def read_json(self, body: bytes) -> Answer:
        """Read an answer. Never raises. Counting tokens uses none; embeddings may come without usage."""
        value = lenient(body)
        if not isinstance(value, dict):
            return Answer(error="The provider's answer is not JSON.")
        failed = gemini_answer.error_in(value)
        if failed is not None:
            return Answer(error=failed["message"])
        if self.name == "countTokens":
            return Answer(usage=Usage())
        return Answer(usage=gemini_answer.usage(value.get("usageMetadata")))

    @staticmethod
    def input_text(request: Request) -> str:
        """Return the text that is worked on, for a tokenizer."""
        strings, _ = gemini.measured(_contents(request.given), files=False)
        return "\n".join(strings.strings)


OPERATIONS = {name: Operation(name) for name in _PLACES}


def _value(members: wire.Members, name: str) -> Any:
    try:
        return msgspec.json.decode(members[name])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidBody(f"{name} is not valid JSON.", name) from error


def _contents(given: list[Object]) -> list[Object]:
    """Return the contents in what was given: requests hold one each, a `generateContentRequest` many."""
    found: list[Object] = []
    for item in given:
        inner = item.get("content") or item.get("contents")
        found += objects(inner) if inner is not None else [item]
        system = either(item, "systemInstruction")
        found += objects(system) if system is not None else []
    return found
