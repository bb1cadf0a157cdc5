"""Pure: OpenAI's endpoints beside chat: embeddings, speech, transcriptions, translations, images, moderations.

Each is an `Operation`: a dialect that is only ever passed through, so a call keeps its bytes but for the model's name
and what is Respan's. Responsible for checking a request (JSON or a form), for the usage in an answer or a stream, and
for what a trace may keep of both: texts and sizes, never sound or pictures. Never decodes a file, never knows a
provider. Errors are those of `openai_chat`. Neighbours: `openai_events.py` (their streams), `openai_completions.py`
(the oldest endpoint), `gateway.multipart` (forms), `gateway.rest_api` (the endpoints).

Source: https://platform.openai.com/docs/api-reference (2026-11), the types of openai-python 3.54, recorded traffic.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway import multipart
from gateway.dialects import blocks, wire
from gateway.dialects.openai_answer import error_in, lenient, storable
from gateway.dialects.openai_events import BYTES, EVENTS, EventReader, SoundReader, usage_in, without_bytes
from gateway.dialects.wire import Answer, InvalidBody

_ANY = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode
# `metadata[team]`: how openai-python writes an object into a form.
_NESTED = re.compile(r"(?P<name>[^\[\]]+)\[(?P<member>[^\[\]]+)\]")
_NOT_TEXT = frozenset({"type", "image_url"})
# A part of an input with any other member holds a picture or a sound.
_TEXT_PART = frozenset({"type", "text"})
# OpenAI takes 300,000 tokens in a request; more values than this would keep the process from its other calls.
MAX_VALUES = 500_000
_NO_COMMAS = bytes(byte for byte in range(256) if byte not in b',"')
_WORDS = {"true": True, "1": True, "false": False, "0": False, "": False}


@dataclass(slots=True)
class Prompt:
    """What a request's input is made of: texts, and tokens that came as numbers; `count` says of how many inputs."""

    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    images: int = 0
    count: int = 0

    @property
    def size(self) -> int:
        """Return the UTF-8 bytes of the texts; a token that came as a number counts as one."""
        return self.tokens + sum(len(text) if text.isascii() else len(text.encode()) for text in self.texts)

    @property
    def text(self) -> str:
        """Return the texts, for a tokenizer; for tokens that came as numbers, a text of as many."""
        return "\n".join(self.texts) + " a" * self.tokens

    def take(self, value: Any, name: str) -> None:
        """Take a text, a list of texts, tokens, lists of tokens or parts. Raises: InvalidBody."""
        if type(value) is list and value and type(value[0]) is not int:
            if len(value) > wire.MAX_MESSAGES:
                raise InvalidBody(f"{name} has more than {wire.MAX_MESSAGES} members.", name)
            for index, item in enumerate(value):
                self._take_one(item, f"{name}[{index}]")
        else:
            self._take_one(value, name)

    def _take_one(self, value: Any, name: str) -> None:
        self.count += 1
        if type(value) is str:
            self.texts.append(value)
        elif type(value) is dict:
            measure = wire.Measure(_NOT_TEXT)
            measure.take(value)
            self.texts += measure.strings
            self.images += measure.images or not value.keys() <= _TEXT_PART
        elif type(value) is list and value and all(type(token) is int for token in value):
            self.tokens += len(value)
        else:
            raise InvalidBody(f"{name} must be a text, or a list of texts or tokens that is not empty.", name)


def prompt_in(members: wire.Members, name: str, *, is_needed: bool) -> Prompt:
    """Return what a member holds. Raises: InvalidBody, also where it is missing and needed."""
    prompt = Prompt()
    if _given(members, name):
        if _values(bytes(members[name])) > MAX_VALUES:
            raise InvalidBody(f"{name} has more than {MAX_VALUES} members.", name)
        try:
            value = _ANY.decode(members[name])
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidBody(f"{name} is not valid JSON.", name) from error
        prompt.take(value, name)
    elif is_needed:
        raise InvalidBody(f"{name} is missing.", name)
    return prompt


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request. `members` are the raw bytes of the top level of its JSON, or its form's fields as JSON."""

    body: bytes
    members: wire.Members
    model: str
    stream: bool
    n: int
    prompt: Prompt
    images: int
    form: multipart.Form | None = None

    max_output: int | None = None
    include_usage: bool = True
    has_tools: bool = False

    @property
    def input_bytes(self) -> int:
        return self.prompt.size

    @property
    def message_count(self) -> int:
        return self.prompt.count


class _Whole(msgspec.Struct):
    """What is read of a whole answer; pictures and vectors are skipped without being copied."""

    model: str | None = None
    text: str | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    base_resp: msgspec.Raw = msgspec.Raw()
    detail: msgspec.Raw = msgspec.Raw()
    object: str | None = None
    type: str | None = None
    message: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    results: msgspec.Raw = msgspec.Raw()


_whole = msgspec.json.Decoder(_Whole).decode
_FACTS = _Whole.__struct_fields__


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint. `name` is that of its calls in traces, `path` follows the provider's base URL.

    `kind` is what a model must be for; `sells` whether credits can pay. `prompt` is the member whose text is measured,
    `is_form` says that the body is a form with a file in one of `files`. `sends` is what an answer begins with that is
    passed on block by block though nobody asked for events (sound); `wants` the member an answer in JSON must have.
    """

    name: str
    path: str
    kind: str
    log_type: str
    prompt: str
    needs_prompt: bool = True
    sells: bool = False
    is_form: bool = False
    files: tuple[str, ...] = ()
    counts_images: bool = False
    stream: str = ""
    sends: str = ""
    accept: str = "application/json"
    wants: str = ""

    # --- Requests ---------------------------------------------------------------------------------------------------

    def read(self, body: bytes, *, content_type: str = "", named: wire.Named | None = None) -> Request:
        """Decode and check a request; `named` is the model where the request names none. Raises: InvalidBody."""
        form: multipart.Form | None = None
        if self.is_form:
            form, members = self._form(body, content_type)
        else:
            members = wire.top_level(body, measured=self.prompt)
        prompt = prompt_in(members, self.prompt, is_needed=self.needs_prompt)
        return Request(
            body=body,
            members=members,
            model=named.model if named and named.model and not _given(members, "model") else wire.model_name(members),
            stream=self._streams(members, form),
            n=self._count(members, form),
            prompt=prompt,
            images=len(form.files()) if form and self.counts_images else prompt.images,
            form=form,
        )

    def input_text(self, request: Request) -> str:
        """Return the text of the prompt, for a tokenizer."""
        return request.prompt.text

    def forward(self, request: Request, order: blocks.Order) -> blocks.Sent:
        """Return the client's own bytes with the provider's name of the model and without what is Respan's.

        What a chat model does not support says nothing about these parameters, so none is left out for it. Raises:
        blocks.Unsupported for pictures on credits: nobody knows before what they will cost.
        """
        if order.credits and request.images:
            raise blocks.Unsupported(
                self.prompt, "Credits pay for text only here: add a provider key to send pictures."
            )
        upstream = order.model.upstream
        if request.form is not None:
            ours = [part.name for part in request.form.parts if _base(part.name) in order.ours]
            body = request.form.changed({"model": upstream}, drop=ours)
            return blocks.Sent(body=body, path=self.path, headers={"content-type": request.form.content_type})
        left_out = request.members.keys() & order.repriced_by if order.credits else frozenset[str]()
        named = None if _given(request.members, "model") else {"model": _encode(upstream)}
        drop = (request.members.keys() & order.ours) | left_out
        body = wire.patched(request, model=upstream, drop=drop, set_members=named)
        return blocks.Sent(
            body=body, path=self.path, headers={"accept": self._accepted(request)}, dropped=sorted(left_out)
        )

    def stored(self, request: Request, *, ours: Collection[str]) -> bytes:
        """Return the request as a trace may keep it: of a form its texts, and of each file name, type and size."""
        if request.form is None:
            drop = request.members.keys() & ours
            return wire.patched(request, drop=drop) if drop else request.body
        fields: dict[str, Any] = {}
        for name, text in request.form.fields():
            if _base(name) not in ours:
                fields[name] = [*_as_list(fields[name]), text] if name in fields else text
        for part in request.form.files():
            fields[part.name] = [
                *_as_list(fields.get(part.name, [])),
                {"filename": part.filename, "type": part.content_type, "bytes": part.size},
            ]
        return _encode(fields)

    def _accepted(self, request: Request) -> str:
        return EVENTS if request.stream else self.accept

    def _streams(self, members: wire.Members, form: multipart.Form | None) -> bool:
        if not self.stream or not _given(members, self.stream):
            return False
        if self.stream == "stream_format":
            return bool(wire.member(members, self.stream, str, "a string") == "sse")
        if form is None:
            return bool(wire.member(members, self.stream, bool, "true or false"))
        word = _WORDS.get((form.text(self.stream) or "").strip().lower())
        if word is None:
            raise InvalidBody(f"{self.stream} must be true or false.", self.stream)
        return word

    def _count(self, members: wire.Members, form: multipart.Form | None) -> int:
        if self.kind != "image":
            return 1
        if form is None:
            return wire.count(members, "n", wire.MAX_CHOICES) or 1
        text = form.text("n") or "1"
        if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= wire.MAX_CHOICES):
            raise InvalidBody(f"n must be between 1 and {wire.MAX_CHOICES}.", "n")
        return int(text)

    def _form(self, body: bytes, content_type: str) -> tuple[multipart.Form, wire.Members]:
        try:
            form = multipart.parse(body, content_type)
            for name in ("model", "n", self.prompt, self.stream):
                form.text(name)  # once at most, and no file: every reader sees the same
            members = _members(form)
        except multipart.InvalidForm as error:
            raise InvalidBody(str(error), error.param) from error
        if not any(part.name in self.files for part in form.files()):
            raise InvalidBody(f"{self.files[0]} is missing: send it as a file.", self.files[0])
        return form, members

    # --- Answers ----------------------------------------------------------------------------------------------------

    def read_json(self, body: bytes) -> Answer:
        """Read a whole answer, whatever its type. Never raises: what is no answer has an `error`."""
        value = _facts(body) if body[:64].lstrip().startswith((b"{", b"[")) else None
        if value is None and not self.sends and self.wants:
            return Answer(error="The provider's answer is not JSON.")
        if value is None:
            text = "" if self.sends else body[: wire.MAX_KEPT_BYTES].decode("utf-8", "replace")
            return Answer(output_text=text)
        failed = error_in(value)
        if failed is None and self.wants and self.wants not in value:
            failed = f"The provider's answer has no {self.wants}."
        said = value.get("text")
        written = said if isinstance(said, str) else ""
        # Vectors are no tokens of output: unless the answer says that it is whole, it is charged as an empty one.
        reason = "stop" if failed is None else None
        return Answer(usage_in(value), storable(value.get("model")), reason, written, failed)

    def kept(self, body: bytes, content_type: str) -> bytes:
        """Return, as JSON, what a trace may keep of an answer: of sound and pictures their sizes."""
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "application/json":
            return without_bytes(body) if any(name in body for name in BYTES) else body
        if kind.startswith("text/"):
            return _encode({"text": body[: wire.MAX_KEPT_BYTES].decode("utf-8", "replace")})
        return _encode({"type": kind, "bytes": len(body)})

    def reader(self, request: Request) -> wire.StreamReader:
        """Return what reads an answer on its way to the client."""
        return SoundReader() if self.sends and not request.stream else EventReader()

    def stream_type(self, request: Request) -> str:
        """Return what the content type of an answer begins with that is passed on block by block."""
        return EVENTS if request.stream or not self.sends else self.sends


EMBEDDINGS = Operation(
    name="embeddings",
    path="/embeddings",
    kind="embedding",
    log_type="embedding",
    prompt="input",
    sells=True,
    wants="data",
)
MODERATIONS = Operation(
    name="moderations", path="/moderations", kind="moderation", log_type="guardrail", prompt="input", wants="results"
)
SPEECH = Operation(
    name="audio.speech",
    path="/audio/speech",
    kind="speech",
    log_type="speech",
    prompt="input",
    stream="stream_format",
    sends="audio/",
    accept="application/octet-stream",
)
TRANSCRIPTIONS = Operation(
    name="audio.transcriptions",
    path="/audio/transcriptions",
    kind="transcription",
    log_type="transcription",
    prompt="prompt",
    needs_prompt=False,
    is_form=True,
    files=("file",),
    stream="stream",
)
TRANSLATIONS = Operation(
    name="audio.translations",
    path="/audio/translations",
    kind="transcription",
    log_type="transcription",
    prompt="prompt",
    needs_prompt=False,
    is_form=True,
    files=("file",),
)
IMAGES = Operation(
    name="images.generations",
    path="/images/generations",
    kind="image",
    log_type="generation",
    prompt="prompt",
    stream="stream",
    wants="data",
)
IMAGE_EDITS = Operation(
    name="images.edits",
    path="/images/edits",
    kind="image",
    log_type="generation",
    prompt="prompt",
    is_form=True,
    files=("image", "image[]"),
    counts_images=True,
    stream="stream",
    wants="data",
)
IMAGE_VARIATIONS = Operation(
    name="images.variations",
    path="/images/variations",
    kind="image",
    log_type="generation",
    prompt="prompt",
    needs_prompt=False,
    is_form=True,
    files=("image",),
    counts_images=True,
    wants="data",
)
OPERATIONS: Mapping[str, Operation] = {
    operation.name: operation
    for operation in (
        EMBEDDINGS,
        MODERATIONS,
        SPEECH,
        TRANSCRIPTIONS,
        TRANSLATIONS,
        IMAGES,
        IMAGE_EDITS,
        IMAGE_VARIATIONS,
    )
}


def stream_error(*, status: int, code: str, message: str) -> bytes:
    """Return the event that ends a stream which cannot go on: openai-python raises on any event with an `error`."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return b"event: error\ndata: " + _encode({"type": "error", "error": error}) + b"\n\n"


class BrokenOff(Exception):
    """Sound that cannot go on: its connection has to be broken, or a part of it would look like all of it."""


def broken_off(*, status: int, code: str, message: str) -> bytes:
    """Raise BrokenOff: there is no place for an error in a stream of sound."""
    raise BrokenOff(f"{status} {code}: {message}")


def _facts(body: bytes) -> dict[str, Any] | None:
    """Return what an answer says, without its vectors and pictures; None when it is no JSON object."""
    try:
        known = _whole(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = lenient(body)
        return value if isinstance(value, dict) else None
    facts: dict[str, Any] = {}
    for name in _FACTS:
        value = getattr(known, name)
        if isinstance(value, msgspec.Raw):
            raw = bytes(value)
            if raw and raw != b"null":
                facts[name] = raw if name in ("data", "results") else lenient(raw)
        elif value is not None:
            facts[name] = value
    return facts


def _members(form: multipart.Form) -> wire.Members:
    """Return a form's fields as JSON members: objects, true and false as such, everything else as a string."""
    members: wire.Members = {}
    nested: dict[str, dict[str, str]] = {}
    for name, text in form.fields():
        inner = _NESTED.fullmatch(name)
        if inner is not None:
            nested.setdefault(inner["name"], {}).setdefault(inner["member"], text)
        else:
            members.setdefault(name, _member(text) if name not in ("model", "prompt") else msgspec.Raw(_encode(text)))
    return {**{name: msgspec.Raw(_encode(value)) for name, value in nested.items()}, **members}


def _member(text: str) -> msgspec.Raw:
    stripped = text.strip()
    if stripped in ("true", "false") or (stripped.startswith("{") and isinstance(lenient(stripped.encode()), dict)):
        return msgspec.Raw(stripped.encode())
    return msgspec.Raw(_encode(text))


def _values(raw: bytes) -> int:
    """Return about how many values JSON holds: its commas, without those in its strings if they are many."""
    if raw.count(b",") <= MAX_VALUES:
        return 0
    text = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    return sum(map(len, text.translate(None, _NO_COMMAS).split(b'"')[::2]))


def _base(name: str) -> str:
    """Return the parameter a form's field belongs to: `metadata` of `metadata[team]`."""
    return name.partition("[")[0]


def _given(members: Mapping[str, msgspec.Raw], name: str) -> bool:
    return bytes(members.get(name, b"null")) != b"null"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
