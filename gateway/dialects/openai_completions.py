"""Pure: OpenAI's first endpoint, completions of plain prompts, for the tools and servers that still speak it.

A dialect that is only ever passed through. Its answers and streams are those of chat completions but for the choices,
which hold a text instead of a message: so they are read by the same code. Neighbours: `openai_chat` and
`openai_answer` (which read), `openai_rest` (which checks the prompt).

Source: https://platform.openai.com/docs/api-reference/completions (2026-11) and recorded traffic.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.dialects import blocks, openai_chat, wire
from gateway.dialects.openai_answer import Choices, Meter, error_in, lenient, storable
from gateway.dialects.openai_rest import Prompt, prompt_in
from gateway.dialects.wire import Answer

PATH = "/completions"
KIND = "completion"
LOG_TYPE = "completion"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request. Each prompt of a list is answered `n` times, so `n` here is that of all answers."""

    body: bytes
    members: wire.Members
    model: str
    stream: bool
    n: int
    max_output: int | None
    include_usage: bool
    prompt: Prompt

    has_tools: bool = False

    @property
    def input_bytes(self) -> int:
        return self.prompt.size

    @property
    def images(self) -> int:
        return self.prompt.images

    @property
    def message_count(self) -> int:
        return self.prompt.count


def read(body: bytes, *, named: wire.Named | None = None) -> Request:
    """Decode and check a request. Raises: wire.InvalidBody."""
    members = wire.top_level(body, measured="prompt")
    prompt = prompt_in(members, "prompt", is_needed=True)
    written = max(wire.count(members, name, wire.MAX_CHOICES) or 1 for name in ("n", "best_of"))
    return Request(
        body=body,
        members=members,
        model=wire.model_name(members),
        stream=bool(wire.member(members, "stream", bool, "true or false")),
        n=written * max(prompt.count, 1),
        max_output=_max_output(members),
        include_usage=_include_usage(members),
        prompt=prompt,
    )


def input_text(request: Request) -> str:
    """Return the text of the prompts, for a tokenizer."""
    return request.prompt.text


def forward(request: Request, order: blocks.Order) -> blocks.Sent:
    """Return the client's own bytes with the provider's name of the model; usage is asked for where it was not."""
    set_members: dict[str, bytes] = {}
    if request.stream and order.usage_in_stream and not request.include_usage:
        set_members["stream_options"] = openai_chat.with_usage(request.members.get("stream_options"))
    drop = request.members.keys() & order.ours
    body = wire.patched(request, model=order.model.upstream, drop=drop, set_members=set_members)
    return blocks.Sent(body=body, path=PATH)


def read_json(body: bytes) -> Answer:
    """Read a whole answer. Never raises: what is no answer has an `error`."""
    value = lenient(body)
    if not isinstance(value, dict):
        return Answer(error="The provider's answer is not JSON.")
    choices, meter = _Texts(), Meter()
    choices.take(value.get("choices"))
    meter.take(value)
    failed = error_in(value)
    if failed is None and not isinstance(value.get("choices"), list):
        failed = "The provider's answer has no choices."
    return Answer(meter.usage, storable(value.get("model")), choices.finish_reason, choices.text(), failed)


class StreamReader(openai_chat.StreamReader):
    """Reads a stream beside its way to the client, as that of a chat completion is read."""

    def __init__(self, *, include_usage: bool) -> None:
        super().__init__(include_usage=include_usage)
        self._choices = _Texts()

    def assembled(self) -> bytes:
        """Return the stream so far as one `text_completion`, for the trace."""
        return _encode({**_decode(super().assembled()), "object": "text_completion"})


class _Texts(Choices):
    """The choices of a completion: each has a `text` where a chat completion's has a delta."""

    __slots__ = ()

    def take(self, choices: object) -> None:
        if isinstance(choices, list):
            super().take([_as_delta(choice) for choice in choices if isinstance(choice, dict)])

    def assembled(self) -> list[dict[str, Any]]:
        return [
            {"index": choice["index"], "text": choice["message"]["content"], "finish_reason": choice["finish_reason"]}
            for choice in super().assembled()
        ]


def _as_delta(choice: dict[str, Any]) -> dict[str, Any]:
    return {**choice, "delta": {"content": choice.get("text")}}


def _max_output(members: wire.Members) -> int | None:
    if bytes(members.get("max_tokens", b"")) == b"0":
        return None  # nothing but the prompt's own probabilities, with `echo`
    return wire.count(members, "max_tokens", wire.MAX_OUTPUT_TOKENS)


def _include_usage(members: wire.Members) -> bool:
    options: dict[str, Any] | None = wire.member(members, "stream_options", dict, "an object")
    asked = options.get("include_usage") if options else None
    if asked is not None and type(asked) is not bool:
        raise wire.InvalidBody("stream_options.include_usage must be true or false.", "stream_options.include_usage")
    return bool(asked)
