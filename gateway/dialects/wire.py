"""Pure: what all dialects share: the top level of a JSON body as its bytes, checks of it, and what an answer said.

Responsible for reading a request without re-serialising it, for changing single members of it, for the limits of what
is read, and for the protocols that every dialect keeps. Never knows a vendor's parameter. Neighbours: the dialects,
`registry.py` (which dialect is which), `gateway.call`.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from billing.usage import Usage

MAX_DEPTH = 64
MAX_BRACKETS = 250_000
MAX_MESSAGES = 10_000
MAX_CHOICES = 128
MAX_MODEL_LENGTH = 256
# More than any model writes; keeps the arithmetic of a hold inside a BIGINT.
MAX_OUTPUT_TOKENS = 100_000_000
# What is remembered of a stream: more than any model writes, so that a broken provider cannot fill our memory.
MAX_KEPT_BYTES = 32 * 1024 * 1024

# Names a provider gives (models, finish reasons) are cut to so many characters.
MAX_TEXT = 200

Members = dict[str, msgspec.Raw]
_MEMBERS = msgspec.json.Decoder(Members)
_ANY = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode
_GAP = re.compile(rb"[ \t\r\n]*")

_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(byte for byte in range(256) if byte not in b'[]{}"')


class Asked(Protocol):
    """A checked request of a client, whatever its dialect. `members` are the raw bytes of its top level, in order."""

    @property
    def body(self) -> bytes: ...
    @property
    def members(self) -> Members: ...
    @property
    def model(self) -> str: ...
    @property
    def stream(self) -> bool: ...
    @property
    def n(self) -> int: ...
    @property
    def max_output(self) -> int | None: ...
    @property
    def include_usage(self) -> bool: ...
    @property
    def has_tools(self) -> bool: ...
    @property
    def input_bytes(self) -> int:
        """UTF-8 bytes of everything that becomes prompt text; images are counted, not measured."""

    @property
    def images(self) -> int: ...
    @property
    def message_count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a client's answer says of itself where the provider's says nothing: pure modules have no clock."""

    call_id: str  # letters and digits only
    created: int  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Named:
    """What the address of a request says instead of its body (Google's dialect)."""

    model: str
    stream: bool
    # Whether a stream is server-sent events, or one JSON array written piece by piece.
    sse: bool = True


class StreamReader(Protocol):
    """What takes a provider's stream and returns what the client gets: beside it (same dialect), or translated."""

    @property
    def started(self) -> bool:
        """Whether the first event of the answer itself has come."""

    @property
    def saw_done(self) -> bool:
        """Whether the provider has said all: what comes after is not forwarded."""

    @property
    def error(self) -> str | None: ...
    @property
    def complete(self) -> bool: ...
    def feed(self, block: bytes) -> bytes: ...
    def end(self) -> bytes: ...
    def answer(self) -> "Answer": ...
    def assembled(self) -> bytes: ...


class InvalidBody(ValueError):
    """A request that cannot be understood; `param` names the member to mend."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def patched(
    request: Asked,
    *,
    model: str | None = None,
    drop: Collection[str] = (),
    set_members: Mapping[str, bytes] | None = None,
) -> bytes:
    """Return the body with another model, without the members `drop`, with `set_members` (JSON) set.

    Nothing to change: the bytes as they came. Otherwise each other member keeps its bytes and its place.
    """
    changes = {name: msgspec.Raw(value) for name, value in (set_members or {}).items()}
    if model is not None and model != request.model:
        changes["model"] = msgspec.Raw(_encode(model))
    members = request.members
    changes = {name: value for name, value in changes.items() if name not in members or members[name] != value}
    drop = [name for name in drop if name in members and not (set_members and name in set_members)]
    if not changes and not drop and _is_unambiguous(request):
        return request.body
    kept = {name: changes.pop(name, raw) for name, raw in members.items() if name not in drop}
    return _encode(kept | changes)


def top_level(body: bytes, *, measured: str) -> Members:
    """Return the members of a JSON object, raw; `measured` is the one that a `Measure` will walk through.

    Raises: InvalidBody.
    """
    try:
        if not body.isascii():
            body.decode()
        members = _MEMBERS.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidBody("The body is not valid UTF-8.") from error
    except msgspec.ValidationError as error:
        raise InvalidBody("The body must be a JSON object.") from error
    except msgspec.DecodeError as error:
        raise InvalidBody(f"The body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise too_deep() from error
    _check_shape(members, measured)
    return members


def _check_shape(members: Members, measured: str) -> None:
    """Refuse what would trouble whoever decodes it: nesting (that of messages is seen when they are measured), and
    objects and lists without number.
    """
    raws = {name: bytes(raw) for name, raw in members.items()}
    # of `measured` the depth is seen when it is measured
    messages = raws.pop(measured, b"")
    if messages.count(b"{") + messages.count(b"[") > MAX_BRACKETS // 2:
        _brackets(messages)  # many of them may stand in texts
    rest = b",".join(raws.values())
    if rest.count(b"{") + rest.count(b"[") < MAX_DEPTH:
        return
    brackets = _brackets(rest)
    for _ in range(MAX_DEPTH - 1):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")  # takes off the innermost level
    if brackets:
        raise too_deep()


def _brackets(raw: bytes) -> bytes:
    """Return the brackets of JSON without those in its strings. Only passes that run in C; no objects made."""
    text = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    marks = text.translate(_AS_BRACKETS, _NO_MARKS).replace(b'""', b"")  # pairs of quotes change no other's parity
    brackets = b"".join(marks.split(b'"')[::2])
    if len(brackets) > MAX_BRACKETS:
        raise InvalidBody("The body has too many objects and lists.")
    return brackets


def too_deep() -> InvalidBody:
    return InvalidBody(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _is_unambiguous(request: Asked) -> bool:
    """Tell whether every reader of the original bytes sees the members we saw: no member twice, no escaped name."""
    body, members = request.body, request.members
    if _encode(members) == body:
        return True
    position = 0
    for index, (name, raw) in enumerate(members.items()):
        for expected in (b"," if index else b"{", _encode(name), b":", bytes(raw)):
            position = _GAP.match(body, position).end()  # type: ignore[union-attr]
            if not body.startswith(expected, position):
                return False
            position += len(expected)
    return body[position:].strip() == b"}"


def member(members: Members, name: str, kind: type, wanted: str) -> Any:
    """Return a decoded member, None when it is absent or null. Raises: InvalidBody when it is of another type."""
    raw = members.get(name)
    if raw is None:
        return None
    try:
        value = _ANY.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidBody(f"{name} is not valid JSON.", name) from error
    if value is not None and type(value) is not kind:
        raise InvalidBody(f"{name} must be {wanted}.", name)
    return value


def model_name(members: Members) -> str:
    model: str | None = member(members, "model", str, "a string")
    if not model:
        raise InvalidBody("model is missing: name the model to call.", "model")
    if len(model) > MAX_MODEL_LENGTH or not model.isprintable():
        raise InvalidBody("model is not a model's name.", "model")
    return model


def count(members: Members, name: str, most: int) -> int | None:
    value: int | None = member(members, name, int, "a whole number")
    if value is not None and not 1 <= value <= most:
        raise InvalidBody(f"{name} must be between 1 and {most}.", name)
    return value


class Measure:
    """Gathers the strings of messages and counts their images: objects with a member that is one of `marks`."""

    __slots__ = ("images", "marks", "skip", "strings")

    def __init__(self, skip: Collection[str], *, marks: frozenset[str] = frozenset({"image_url"})) -> None:
        self.skip = skip
        self.marks = marks
        self.strings: list[str] = []
        self.images = 0

    def take(self, value: Any, depth: int = 1) -> None:
        """Gather from a value at a depth. Raises: InvalidBody when it goes too deep."""
        if type(value) is str:
            self.strings.append(value)
        elif type(value) is list:
            self._check(depth)
            for item in value:
                self.take(item, depth + 1)
        elif type(value) is dict:
            self._check(depth)
            self.images += not self.marks.isdisjoint(value)
            for name, item in value.items():
                if name not in self.skip:
                    self.take(item, depth + 1)
                elif type(item) is not str:
                    Measure(()).take(item, depth + 1)  # only how deep it goes

    def _check(self, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise too_deep()

    def bytes(self) -> int:
        return sum(len(text) if text.isascii() else len(text.encode()) for text in self.strings)


class Answer(msgspec.Struct, frozen=True):
    """What an answer said. `error` is the message of an error that came with a status of success."""

    usage: Usage | None = None
    model: str | None = None
    finish_reason: str | None = None
    output_text: str = ""
    error: str | None = None


NOTHING = Answer()


class InvalidStream(ValueError):
    """A stream that is no server-sent events."""


def dicts(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list, nothing of anything else: what a provider sends may have any shape."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def a_dict(value: object) -> dict[str, Any]:
    """Return an object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def storable(value: object) -> str | None:
    """Return a short text of a provider's that any table can hold, or None."""
    if not isinstance(value, str) or not value:
        return None
    return value.replace("\0", "")[:MAX_TEXT]
