"""Pure: what an OpenAI-compatible answer said, piece by piece: choices, usage, errors, in every shape seen in the wild.

Responsible for gathering the deltas of a stream (or the message of a whole answer) and for normalising usage. Never
sees server-sent events or the client's side. Neighbour: `openai_chat`, which is the door; only `gateway.answers` goes
past it, for the chunks that make up nearly all of a stream (`written`).

The oddities, by provider (recorded 2024-2026): Mistral sends content as a list and tool calls without a type; DeepSeek,
Mistral, Together send usage on the finish chunk, DeepSeek on many; Groq under `x_groq`; Moonshot inside the choice; xAI
leaves reasoning out of `completion_tokens`; OpenRouter puts errors into choices; MiniMax into `base_resp`.
"""

import json
import re
from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects.wire import a_dict as _dict
from gateway.dialects.wire import dicts as _dicts
from gateway.dialects.wire import storable as storable

# Above this a number of tokens is a mistake.
MAX_TOKENS = 100_000_000
# A surrogate pair, kept, or half of one, which cut model output has and no text can hold.
_SURROGATE = re.compile(rb"(\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w)|\\u[dD][89a-fA-F]\w\w")


def lenient(data: bytes) -> Any:
    """Decode JSON, also with half surrogate pairs, bad UTF-8 or NaN as providers send them; None when it is none."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(_SURROGATE.sub(rb"\1", data.decode("utf-8", "replace").encode()))
    except (ValueError, RecursionError):
        return None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Reported(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: int | None = None
    cached_tokens: int | None = None
    num_cached_tokens: int | None = None


class _Chosen(msgspec.Struct):
    finish_reason: str
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Usual(msgspec.Struct):
    model: str
    choices: list[_Chosen]
    usage: _Reported
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    base_resp: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_usual = msgspec.json.Decoder(_Usual).decode
_NO_DETAILS = _Details()


def usual(body: bytes) -> tuple[Usage, str, str] | None:
    """Return usage, model and finish reason of an answer in OpenAI's own shape; None for any other (read it in full).

    A tenth of the time of the full reading, which builds the text too: it is needed only where usage is missing.
    """
    try:
        answer = _usual(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    reported = answer.usage
    given, written = reported.prompt_tokens, reported.completion_tokens
    if not answer.choices or answer.error is not msgspec.UNSET or answer.base_resp is not msgspec.UNSET:
        return None
    if any(choice.error is not msgspec.UNSET for choice in answer.choices) or reported.total_tokens != given + written:
        return None
    inputs = reported.prompt_tokens_details or _NO_DETAILS
    outputs = reported.completion_tokens_details or _NO_DETAILS
    read = inputs.cached_tokens or reported.prompt_cache_hit_tokens or reported.cached_tokens
    read = read or reported.num_cached_tokens or 0
    written_to_cache, reasoning = inputs.cache_write_tokens or 0, outputs.reasoning_tokens or 0
    if min(given, written, read, written_to_cache, reasoning) < 0 or max(given, written, read) > MAX_TOKENS:
        return None
    if read + written_to_cache > given or reasoning > written:
        return None
    usage = Usage(
        input_tokens=given,
        output_tokens=written,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written_to_cache,
        reasoning_output_tokens=reasoning,
    )
    return usage, answer.model, answer.choices[0].finish_reason


class Delta(msgspec.Struct, kw_only=True):
    """A delta that only writes text; null is all that other members of it may hold."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    audio: None = None


class Writing(msgspec.Struct, kw_only=True):
    delta: Delta
    index: int = 0
    finish_reason: None = None
    error: None = None
    usage: None = None


class Chunk(msgspec.Struct, kw_only=True):
    choices: list[Writing]
    usage: msgspec.UnsetType | None = msgspec.UNSET
    error: None = None
    x_groq: None = None


_chunk = msgspec.json.Decoder(Chunk).decode


def written(data: bytes, *, usage_may_show: bool) -> list[Writing] | None:
    """Return the choices of a chunk that does nothing but write text; None for any other (read it in full).

    A third of the time of the full reading. With `usage_may_show` off a chunk with `"usage":null` is another one.
    """
    try:
        chunk = _chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return chunk.choices if usage_may_show or chunk.usage is msgspec.UNSET else None


def error_in(value: dict[str, Any]) -> str | None:
    """Return the message of an error in an answer or a chunk, None when there is none."""
    inner = value.get("error")
    if not inner:
        inner = next((choice["error"] for choice in _dicts(value.get("choices")) if choice.get("error")), None)
    if inner:
        return _message(inner)
    if value.get("object") == "error" or value.get("type") == "error":
        return _message(value)
    verdict = value.get("base_resp")
    if isinstance(verdict, dict) and verdict.get("status_code"):
        return _message({"message": verdict.get("status_msg")})
    if "choices" not in value and value.get("detail"):
        return _message(value["detail"])
    if any(choice.get("finish_reason") == "error" for choice in _dicts(value.get("choices"))):
        return "The provider reported an error."
    return None


def _message(inner: object) -> str:
    if isinstance(inner, list) and inner:
        inner = inner[0]
    if isinstance(inner, dict):
        inner = next((inner[name] for name in ("message", "msg", "detail", "code", "type") if inner.get(name)), None)
    text = inner if isinstance(inner, str) else None if inner is None else str(inner)
    return text[:2_000] if text else "The provider reported an error."


# --- Choices --------------------------------------------------------------------------------------------------------


class Choices:
    """The choices of an answer, gathered."""

    __slots__ = ("_by_index", "failed", "metered")

    def __init__(self) -> None:
        self._by_index: dict[int, _Choice] = {}
        self.failed = False  # a choice says it ended with an error
        self.metered = False  # a choice carries usage

    def take(self, choices: object) -> None:
        """Take the `choices` of a chunk, or of a whole answer."""
        if type(choices) is not list:
            return
        for choice in choices:
            if type(choice) is not dict:
                continue
            gathered = self._at(choice)
            delta = choice.get("delta")
            if delta is None:
                delta = choice.get("message")
            if delta:
                gathered.take(delta)
            if len(choice) > 2:
                self._note(choice, gathered)

    def write(self, choices: list[Writing]) -> None:
        """Take the choices of a chunk that was read by `written`."""
        for choice in choices:
            gathered = self._by_index.get(choice.index)
            if gathered is None:
                gathered = self._by_index[choice.index] = _Choice()
            delta = choice.delta
            if delta.content:
                gathered.content.append(delta.content)
            thought = delta.reasoning_content or delta.reasoning
            if thought:
                gathered.reasoning.append(thought)

    def take_reasons(self, choices: object) -> None:
        """Take only why the choices ended."""
        for choice in _dicts(choices):
            self._note(choice, self._at(choice))

    def _at(self, choice: dict[str, Any]) -> "_Choice":
        index = choice.get("index", 0)
        if type(index) is not int:
            index = 0
        gathered = self._by_index.get(index)
        if gathered is None:
            gathered = self._by_index[index] = _Choice()
        return gathered

    def _note(self, choice: dict[str, Any], gathered: "_Choice") -> None:
        reason = choice.get("finish_reason")
        if reason:
            gathered.finish_reason = storable(reason) or "stop"
        if reason == "error" or "error" in choice:
            self.failed = True
        if "usage" in choice:
            self.metered = True

    @property
    def finished(self) -> bool:
        return bool(self._by_index) and all(choice.finish_reason for choice in self._by_index.values())

    @property
    def finish_reason(self) -> str | None:
        first = self._by_index.get(min(self._by_index, default=0))
        return first.finish_reason if first else None

    def text(self) -> str:
        return "".join(choice.written() for _, choice in sorted(self._by_index.items()))

    def assembled(self) -> list[dict[str, Any]]:
        return [
            {"index": index, "message": choice.message(), "finish_reason": choice.finish_reason}
            for index, choice in sorted(self._by_index.items())
        ]


class _Choice:
    """One choice. A delta adds to it; a whole message is one delta."""

    __slots__ = ("calls", "content", "extra", "finish_reason", "reasoning", "refusal")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.calls: dict[int, dict[str, Any]] = {}
        self.extra: dict[str, dict[str, str]] = {}  # `function_call` and `audio`: members that grow
        self.finish_reason: str | None = None

    def take(self, delta: object) -> None:
        if type(delta) is not dict:
            return
        content = delta.get("content")
        if content:
            if type(content) is str:
                self.content.append(content)
            else:
                self._parts(content)
            if len(delta) == 1:
                return
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if type(thought) is str and thought:
            self.reasoning.append(thought)
        refusal = delta.get("refusal")
        if type(refusal) is str and refusal:
            self.refusal.append(refusal)
        for call in _dicts(delta.get("tool_calls")):
            self._call(call)
        for name in ("function_call", "audio"):
            if type(delta.get(name)) is dict:
                self._grow(name, delta[name])

    def _parts(self, parts: object) -> None:
        """Take content that is a list: text, and the thinking of Mistral's reasoning models."""
        for part in _dicts(parts):
            if isinstance(part.get("text"), str):
                self.content.append(part["text"])
            elif isinstance(part.get("refusal"), str):
                self.refusal.append(part["refusal"])
            elif part.get("type") == "thinking":
                thinking = part.get("thinking")
                if isinstance(thinking, str):
                    self.reasoning.append(thinking)
                self.reasoning += [piece["text"] for piece in _dicts(thinking) if isinstance(piece.get("text"), str)]

    def _call(self, piece: dict[str, Any]) -> None:
        call = self.calls.setdefault(self._place(piece), {"id": None, "type": "function", "name": "", "input": []})
        call["id"] = call["id"] or piece.get("id")
        if isinstance(piece.get("type"), str) and piece["type"]:
            call["type"] = piece["type"]
        inner = piece.get("function") or piece.get("custom")
        if not isinstance(inner, dict):
            return
        if isinstance(inner.get("name"), str):
            call["name"] = call["name"] or inner["name"]
        given = inner.get("arguments", inner.get("input"))
        if isinstance(given, str):
            call["input"].append(given)
        elif given:
            call["input"].append(msgspec.json.encode(given).decode())

    def _place(self, piece: dict[str, Any]) -> int:
        """Return the place of a piece of a tool call: its index, else a new call where an id or a name begins one."""
        index = piece.get("index")
        if type(index) is int:
            return index
        last = max(self.calls, default=-1)
        inner = piece.get("function") or piece.get("custom")
        begins = piece.get("id") or (isinstance(inner, dict) and inner.get("name"))
        return last + 1 if begins or last < 0 else last

    def _grow(self, name: str, pieces: dict[str, Any]) -> None:
        grown = self.extra.setdefault(name, {})
        for member, piece in pieces.items():
            if isinstance(piece, str) and member != "data":  # sound is not kept
                grown[member] = piece if member == "id" else grown.get(member, "") + piece

    def written(self) -> str:
        calls = "".join(call["name"] + "".join(call["input"]) for call in self.calls.values())
        extra = "".join(text for grown in self.extra.values() for member, text in grown.items() if member != "id")
        return "".join([*self.reasoning, *self.content, *self.refusal, calls, extra])

    def message(self) -> dict[str, Any]:
        content = "".join(self.content)
        message: dict[str, Any] = {"role": "assistant", "content": content if content or not self.calls else None}
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.refusal:
            message["refusal"] = "".join(self.refusal)
        if self.calls:
            message["tool_calls"] = [_tool_call(call) for _, call in sorted(self.calls.items())]
        return message | self.extra


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    written = "".join(call["input"])
    if call["type"] == "custom":
        return {"id": call["id"], "type": "custom", "custom": {"name": call["name"], "input": written}}
    return {"id": call["id"], "type": call["type"], "function": {"name": call["name"], "arguments": written}}


# --- Usage ----------------------------------------------------------------------------------------------------------


class Meter:
    """The usage of an answer. Reported more than once, the largest figures count: reports are cumulative, or split."""

    __slots__ = ("_input", "_most", "_output", "reported")

    def __init__(self) -> None:
        self._input: int | None = None
        self._output: int | None = None
        self._most = [0, 0, 0]  # read from cache, written to cache, reasoning
        self.reported: dict[str, Any] | None = None  # as the provider put it, the last time

    def take(self, value: dict[str, Any]) -> None:
        """Take the usage of a chunk or an answer, wherever it is."""
        reported = value.get("usage")
        if not reported and isinstance(value.get("x_groq"), dict):
            reported = value["x_groq"].get("usage")
        if not reported:
            reported = next((choice["usage"] for choice in _dicts(value.get("choices")) if choice.get("usage")), None)
        if isinstance(reported, dict):
            self._add(reported)

    def _add(self, reported: dict[str, Any]) -> None:
        given, written = _tokens(reported.get("prompt_tokens")), _tokens(reported.get("completion_tokens"))
        details = _dict(reported.get("prompt_tokens_details") or reported.get("prompt_token_details"))
        reasoning = _tokens(_dict(reported.get("completion_tokens_details")).get("reasoning_tokens")) or 0
        total = _tokens(reported.get("total_tokens"))
        if given is not None and written is not None and total == given + written + reasoning:
            written += reasoning  # the total says that reasoning was not counted as output
        if given is not None:
            self._input = max(given, self._input or 0)
        if written is not None:
            self._output = max(written, self._output or 0)
        read = _tokens(details.get("cached_tokens")) or next(
            (count for name in _CACHED if (count := _tokens(reported.get(name)))), 0
        )
        found = (read, _tokens(details.get("cache_write_tokens")) or 0, reasoning)
        self._most = [max(pair) for pair in zip(self._most, found, strict=True)]
        self.reported = reported

    @property
    def usage(self) -> Usage | None:
        """The usage, normalised; None without usable totals (missing, negative, absurd, of another type)."""
        if self._input is None or self._output is None:
            return None
        read = min(self._most[0], self._input)
        return Usage(
            input_tokens=self._input,
            output_tokens=self._output,
            cache_read_input_tokens=read,
            cache_creation_input_tokens=min(self._most[1], self._input - read),
            reasoning_output_tokens=min(self._most[2], self._output),
        )


# Where providers put the tokens read from a cache, besides OpenAI's place: DeepSeek, Moonshot and Together, Mistral.
_CACHED = ("prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens")


def _tokens(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None
