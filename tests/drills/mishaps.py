"""The sixteen ways in which a provider fails, and two real SDKs that meet them: what each of them understood.

A `Mishap` says how an answer is broken, in the words of the fakes' scripts (`tests/provider.py`): whole answers,
streams before their first event, streams after it. Neighbours: `test_failures.py` (the drill).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai

QUESTION = " ".join(f"thing{number}" for number in range(30))
LIMIT = 2_000


@dataclass(frozen=True)
class Mishap:
    """One way to fail. `{n}` in a script is where the middle of a stream is; `gone`: nobody listens there.

    `ends`: what is wrong uses up the call's whole time, so that nobody else can take over.
    """

    name: str
    whole: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    gone: bool = False
    ends: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)
    status: int | None = None


def _either_way(name: str, *scripts: str, **more: Any) -> Mishap:
    return Mishap(name, whole=scripts, before=scripts, **more)


MISHAPS = (
    _either_way("connection refused", "", gone=True, status=502),
    _either_way("connection reset", "reset=before", status=502),
    _either_way("no first byte in time", "silence", status=504),
    Mishap("stall", whole=("drip=30",), within=("stall={n}",)),
    Mishap("cut in the middle", whole=("short",), within=("cut={n}", "cut_raw={n}", "reset={n}")),
    Mishap("cut before the first event", before=("cut=head",)),
    _either_way("429 with Retry-After", "status=429,retry_after=3600", status=429),
    _either_way("429 without Retry-After", "status=429", status=429),
    _either_way("500, 502, 503, 529", "status=500", "status=502", "status=503", "status=529"),
    _either_way("200 with an error", "status=500,shy"),
    _either_way("HTML", "status=502,error=html", "status=502,error=html,shy"),
    _either_way("empty answer", "empty"),
    _either_way("invalid JSON", "garbled"),
    Mishap("malformed events", before=("noise",)),
    Mishap("error event in the middle", within=("fail={n}",)),
    Mishap("slow drip", whole=("drip=0.2",), within=("interval=0.4",), ends=True, params={"timeout": 3}),
)

# Where a stream of each fake is in its middle: after a few of its texts.
_MIDDLE = {"chat": 2, "anthropic": 5}
_SAYS = {"chat": "".join(f"word{number} " for number in range(30)), "anthropic": f"You said: {QUESTION}"}


def model(upstream: str, script: str = "") -> str:
    """Return the name of a model at one of the fakes that follows a script."""
    script = script.format(n=_MIDDLE[upstream])
    return f"local/fake:chunks=30,{script}" if upstream == "chat" else f"anthropic/claude:{script}"


def says(upstream: str) -> str:
    """Return what a fake answers when all is well."""
    return _SAYS[upstream]


@dataclass
class Heard:
    """What an SDK gave its caller: text, whether that ended as an answer does, what it raised, and the call's id."""

    text: str = ""
    finish: str | None = None
    error: Exception | None = None
    log_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class Chat:
    """openai, chat completions."""

    name = "openai"

    def __init__(self, base_url: str, key: str) -> None:
        self.client = openai.AsyncOpenAI(base_url=f"{base_url}/api/", api_key=key, max_retries=0)

    async def ask(self, model: str, params: Mapping[str, Any], *, streamed: bool) -> Heard:
        heard = Heard()
        asked: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": LIMIT,
            "extra_body": {"respan_params": dict(params)},
        }
        try:
            if streamed:
                await self._stream(asked, heard)
            else:
                raw = await self.client.chat.completions.with_raw_response.create(**asked)
                heard.headers = raw.headers
                choice = raw.parse().choices[0]
                heard.text, heard.finish = choice.message.content or "", choice.finish_reason
        except (openai.APIError, ValueError) as error:  # the latter: an answer that is no JSON
            heard.error = error
            heard.headers = error.response.headers if isinstance(error, openai.APIStatusError) else heard.headers
        heard.log_id = heard.headers.get("x-respan-log-id", "")
        return heard

    async def _stream(self, asked: dict[str, Any], heard: Heard) -> None:
        async with await self.client.chat.completions.create(stream=True, **asked) as stream:
            heard.headers = stream.response.headers
            async for chunk in stream:
                for choice in chunk.choices:
                    heard.text += choice.delta.content or ""
                    heard.finish = choice.finish_reason or heard.finish


class Messages:
    """anthropic, messages."""

    name = "anthropic"

    def __init__(self, base_url: str, key: str) -> None:
        self.client = anthropic.AsyncAnthropic(base_url=f"{base_url}/api/anthropic/", api_key=key, max_retries=0)

    async def ask(self, model: str, params: Mapping[str, Any], *, streamed: bool) -> Heard:
        heard = Heard()
        asked: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": LIMIT,
            "extra_body": {"respan_params": dict(params)},
        }
        try:
            if streamed:
                await self._stream(asked, heard)
            else:
                raw = await self.client.messages.with_raw_response.create(**asked)
                heard.headers = raw.headers
                message = await _parsed(raw)
                heard.text, heard.finish = message.content[0].text, message.stop_reason
        except (anthropic.APIError, ValueError) as error:
            heard.error = error
            heard.headers = error.response.headers if isinstance(error, anthropic.APIStatusError) else heard.headers
        heard.log_id = heard.headers.get("x-respan-log-id", "")
        return heard

    async def _stream(self, asked: dict[str, Any], heard: Heard) -> None:
        async with await self.client.messages.create(stream=True, **asked) as stream:
            heard.headers = stream.response.headers
            async for event in stream:
                if event.type == "content_block_delta":
                    heard.text += event.delta.text
                elif event.type == "message_delta":
                    heard.finish = event.delta.stop_reason


async def _parsed(raw: Any) -> Any:
    found = raw.parse()
    return await found if hasattr(found, "__await__") else found


SDKS = (Chat, Messages)
