"""Pure: the middle form between dialects: an ordered list of typed blocks, for requests, answers and streams.

Every pair of dialects that differ is translated through it, so each dialect knows only its own wire format and this.
Never JSON, never bytes, never a vendor's spelling: names follow OpenAI's chat parameters, because most vendors do.
Within one dialect it is not used: bytes are forwarded. Neighbours: `<dialect>_decode.py` (wire -> blocks),
`<dialect>_encode.py` (blocks -> wire), `translation.py` (both ends of a call).

What only one vendor understands travels as `Opaque` (a block), `ServerTool` (a tool) or in `Request.extra` (a
parameter) with the dialect it belongs to; an encoder of another dialect leaves it out and reports it in `Sent.dropped`,
unless leaving it out would change what the request means: then it raises `Unsupported`.

Events of a stream: `Started`, then for each block `Opened`, deltas, `Closed`, then `Finished`, `Metered` (any time,
cumulative: the last one counts) and `Ended`. Blocks are numbered from 0 and **never overlap**: a decoder whose wire
format interleaves them (parallel tool calls of chat completions) holds the later one back. `Failed` ends a stream.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, Literal, Protocol

from msgspec import Struct, field

from billing.usage import Usage

CacheTtl = Literal["5m", "1h"]
# What a token with its probability counts for, where only so many characters of an answer are kept.
_LOGPROB_SIZE = 100
# Why an answer ended, in chat completions' words; `native` of `Finished` has the provider's own.
Reason = Literal["stop", "length", "tool_calls", "content_filter", "error"]


class Unsupported(ValueError):
    """The target cannot do what was asked, and leaving it out would change the meaning: 400 naming the parameter."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


# --- Blocks ---------------------------------------------------------------------------------------------------------


class Text(Struct):
    """Text. `citations` are OpenAI's `url_citation` objects, offsets counted in this block's text."""

    text: str = ""
    cache: CacheTtl | None = None
    citations: list[dict[str, Any]] | None = None


class Image(Struct, kw_only=True):
    """An image: `data` (base64 without line breaks, with `media_type`), or `url` (http), or `file_id`."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    detail: str | None = None
    cache: CacheTtl | None = None


class Audio(Struct, kw_only=True):
    """Sound: base64 and its format (`wav`, `mp3`, ...)."""

    data: str
    format: str


class Document(Struct, kw_only=True):
    """A document: `data` (base64 with `media_type`), `text` (plain), `url`, or `file_id` of the provider's account."""

    media_type: str = "application/pdf"
    data: str | None = None
    text: str | None = None
    url: str | None = None
    file_id: str | None = None
    name: str | None = None
    context: str | None = None
    citations: bool = False
    cache: CacheTtl | None = None


class ToolCall(Struct, kw_only=True):
    """A call of a client's tool. `arguments` is JSON text as the model wrote it (for a `custom` tool: its input).

    `signature` is Gemini's thought signature of this call; `dialect` says whose it is.
    """

    id: str
    name: str
    arguments: str = ""
    custom: bool = False
    signature: str | None = None
    dialect: str | None = None
    cache: CacheTtl | None = None


class ToolResult(Struct, kw_only=True):
    """What a tool answered. `name` is that of the tool, where the wire format or the history tells it."""

    id: str
    content: "list[Block]" = field(default_factory=list)
    name: str | None = None
    is_error: bool = False
    cache: CacheTtl | None = None


class Thinking(Struct, kw_only=True):
    """A model's reasoning. A signature means something to the dialect (and model) that made it, to nobody else."""

    text: str = ""
    signature: str | None = None
    dialect: str | None = None


class Redacted(Struct, kw_only=True):
    """Reasoning that came encrypted: `data` goes back unchanged to the dialect that made it, or is left out.

    `id` and `text` (a summary) are the Responses API's: its reasoning items have both.
    """

    data: str
    dialect: str
    id: str | None = None
    text: str = ""


class Refusal(Struct):
    """What a model says instead of an answer."""

    text: str = ""


class Opaque(Struct, kw_only=True):
    """A block only its own dialect understands (a server tool's use or result): `value` is its JSON object."""

    dialect: str
    value: dict[str, Any]


Block = (
    Text | Image | Audio | Document | ToolCall | ToolResult | Thinking | Redacted | Refusal | Opaque
)  # an encoder goes through them in order


class Message(Struct):
    """One turn. `system` here is one in mid-conversation; what comes first is `Request.system`."""

    role: Literal["user", "assistant", "system"]
    blocks: list[Block]
    name: str | None = None


# --- Requests -------------------------------------------------------------------------------------------------------


class Tool(Struct, kw_only=True):
    """A tool of the client's. `parameters` is JSON Schema; a `custom` tool takes free text (`format`: its grammar)."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    custom: bool = False
    format: dict[str, Any] | None = None
    cache: CacheTtl | None = None


class ServerTool(Struct, kw_only=True):
    """A tool the provider runs itself. `kind` is `web_search` or `other`: the former is translated, the latter not."""

    dialect: str
    value: dict[str, Any]
    kind: str = "other"


class Choice(Struct, kw_only=True):
    """Which tools may or must be called; `names` for mode `named` (one) and `allowed` (with `required` or not)."""

    mode: Literal["auto", "none", "required", "named", "allowed"]
    names: list[str] = field(default_factory=list)
    required: bool = False


class Format(Struct, kw_only=True):
    """What the answer's text must be: any JSON object, or one that fits a schema."""

    kind: Literal["json_object", "json_schema"]
    schema: dict[str, Any] | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class Reasoning(Struct, kw_only=True):
    """How much to think. `effort` is none|minimal|low|medium|high|xhigh|max; `budget` is in tokens.

    `mode` as Anthropic names it: `enabled` (with a budget), `adaptive`, `disabled`; None where only an effort was said.
    `visible` False: the client does not want to see it (`display: omitted`, `includeThoughts: false`).
    """

    effort: str | None = None
    budget: int | None = None
    mode: str | None = None
    visible: bool | None = None


class Request(Struct, kw_only=True):
    """A request. None means that the client said nothing."""

    dialect: str  # whose client asked
    model: str
    messages: list[Message]
    system: list[Text] = field(default_factory=list)
    stream: bool = False
    max_output: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] = field(default_factory=list)
    n: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool | ServerTool] = field(default_factory=list)
    choice: Choice | None = None
    parallel: bool | None = None
    format: Format | None = None
    reasoning: Reasoning | None = None
    service_tier: str | None = None
    verbosity: str | None = None
    user: str | None = None
    modalities: list[str] | None = None
    # Everything else by the client's own name: left out and reported, unless an encoder knows it.
    extra: dict[str, Any] = field(default_factory=dict)


class Facts(Protocol):
    """What an encoder may know of a model: catalogue data (`gateway.providers.Model`), never guessed from its name."""

    @property
    def upstream(self) -> str: ...
    @property
    def max_output_tokens(self) -> int | None: ...
    @property
    def capabilities(self) -> frozenset[str]: ...
    @property
    def max_tokens_field(self) -> str:
        """The name of the limit in a chat completion: `max_tokens` or `max_completion_tokens`."""

    @property
    def unsupported(self) -> frozenset[str]:
        """Parameters the model refuses, by chat completions' names; leave them out and report them."""

    @property
    def thinking(self) -> str:
        """How it is told to think: none, effort, budget, adaptive, always_on, level (see `providers.THINKING`)."""

    @property
    def efforts(self) -> tuple[str, ...]:
        """The efforts it knows, least first; empty: as the dialect's documentation says."""


class Order(Struct, kw_only=True):
    """What the gateway has decided about a call, and how its provider differs, for who writes the provider's body."""

    model: Facts
    # The limit to send in place of the client's: on credits the one that was held. None: the client's own, if any.
    max_output: int | None = None
    # Paid by credits: nothing may be sent that changes the price.
    credits: bool = False
    # The client's members that are Respan's own: never sent on.
    ours: frozenset[str] = frozenset()
    # `providers.Provider`: parameters by another name here, those that change the price, and whether a chat stream
    # may be asked for its usage.
    rename: Mapping[str, str] = field(default_factory=dict)
    repriced_by: frozenset[str] = frozenset()
    usage_in_stream: bool = True
    # How the format differs where another company serves it (`providers.VARIANTS`).
    variant: str = ""


class Sent(Struct, kw_only=True):
    """What goes to the provider: the body, the path behind its base URL, headers, and what was left out.

    `names` maps tool names that had to be changed (the provider's rules for them) back to the client's own.
    """

    body: bytes
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    names: Mapping[str, str] = field(default_factory=dict)


# --- Answers --------------------------------------------------------------------------------------------------------


class Finish(Struct, kw_only=True):
    """Why an answer ended. `native` is the provider's word, `message` what it says about a refusal."""

    reason: Reason
    native: str | None = None
    stop_sequence: str | None = None
    message: str | None = None


class Logprob(Struct):
    """A token of an answer and how likely it was; `top` are the likeliest at its place. `bytes` where they are told."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top: "list[Logprob]" = field(default_factory=list)


class Answer(Struct, kw_only=True):
    """A whole answer. `error` is that of an answer whose status said success.

    `others` are the further answers where several were asked for (`n`); usage is that of all of them.
    """

    id: str | None = None
    model: str | None = None
    created: int | None = None
    blocks: list[Block] = field(default_factory=list)
    finish: Finish | None = None
    usage: Usage | None = None
    service_tier: str | None = None
    logprobs: list[Logprob] = field(default_factory=list)
    others: "list[Answer]" = field(default_factory=list)
    error: str | None = None


class Started(Struct):
    """The answer begins; `usage` where the provider says at once how long the input was."""

    id: str | None = None
    model: str | None = None
    created: int | None = None
    usage: Usage | None = None


class Opened(Struct):
    """A block begins; `block` holds what is known of it already (a tool call's id and name), often nothing more."""

    index: int
    block: Block


class TextDelta(Struct):
    """More text of the open `Text` or `Refusal`."""

    index: int
    text: str


class ThinkingDelta(Struct):
    index: int
    text: str


class SignatureDelta(Struct):
    """The signature of the open `Thinking` (whole or a further piece)."""

    index: int
    signature: str


class ArgumentsDelta(Struct):
    """More JSON text of the open `ToolCall`."""

    index: int
    text: str


class CitationDelta(Struct):
    """A citation of the open `Text`, as in `Text.citations`."""

    index: int
    citation: dict[str, Any]


class Closed(Struct):
    index: int


class LogprobsDelta(Struct):
    """The tokens of the text that was just written; bound to no block, because not every dialect says of which."""

    logprobs: list[Logprob]


class Metered(Struct):
    """Usage so far, normalised; the last one counts."""

    usage: Usage
    service_tier: str | None = None


class Finished(Struct):
    finish: Finish


class Ended(Struct):
    """The provider has said all it will say."""


class Failed(Struct):
    """The provider reported an error in the middle of its answer; `status` and `code` where it said them."""

    message: str
    code: str | None = None
    status: int | None = None


Event = (
    Started
    | Opened
    | TextDelta
    | ThinkingDelta
    | SignatureDelta
    | ArgumentsDelta
    | CitationDelta
    | Closed
    | LogprobsDelta
    | Metered
    | Finished
    | Ended
    | Failed
)


class Decoder(Protocol):
    """Reads a provider's stream, however it was cut. Raises: wire.InvalidStream."""

    def feed(self, block: bytes) -> list[Event]:
        """Take a block of bytes, return the events that are complete now."""

    def end(self) -> list[Event]:
        """Return what is left at the end of the stream: `Ended` too where the format has no terminator of its own,
        but only when a reason to finish was seen.
        """


class Writer(Protocol):
    """Writes a client's stream."""

    def write(self, event: Event) -> bytes:
        """Return the client's bytes for an event, often none. After `Ended` or `Failed` nothing more is written."""


class Gatherer:
    """Puts the events of a stream together to a whole answer: for the trace, and for clients that want no stream."""

    __slots__ = ("_answer", "_kept", "_limit", "_parts")

    def __init__(self, limit: int) -> None:
        self._answer = Answer()
        self._parts: list[str] = []  # text of the open block
        self._kept = 0
        self._limit = limit  # characters; beyond it text is not kept (a broken provider cannot fill our memory)

    @property
    def answer(self) -> Answer:
        """The answer so far."""
        self._join()
        return self._answer

    def take(self, event: Event) -> None:
        """Add one event."""
        kind = type(event)
        if kind is TextDelta or kind is ThinkingDelta or kind is ArgumentsDelta:
            text: str = event.text  # type: ignore[union-attr]
            self._kept += len(text)
            if self._kept <= self._limit:
                self._parts.append(text)
        elif kind is Opened or kind is Closed:
            self._join()
            if isinstance(event, Opened):
                self._answer.blocks.append(copy(event.block))
        else:
            self._note(event)

    def _note(self, event: Event) -> None:
        answer = self._answer
        if isinstance(event, Metered):
            answer.usage = event.usage
            answer.service_tier = event.service_tier or answer.service_tier
        elif isinstance(event, Started):
            answer.id, answer.model, answer.created, answer.usage = event.id, event.model, event.created, event.usage
        elif isinstance(event, Finished):
            answer.finish = event.finish
        elif isinstance(event, LogprobsDelta):
            self._weigh(event.logprobs)
        elif isinstance(event, Failed):
            answer.error = event.message
        elif isinstance(event, SignatureDelta):
            block = self._last()
            if isinstance(block, Thinking):
                block.signature = (block.signature or "") + event.signature
        elif isinstance(event, CitationDelta):
            block = self._last()
            if isinstance(block, Text):
                block.citations = [*(block.citations or ()), event.citation]

    def _weigh(self, logprobs: list[Logprob]) -> None:
        self._kept += sum(_LOGPROB_SIZE * (1 + len(each.top)) for each in logprobs)
        if self._kept <= self._limit:
            self._answer.logprobs += logprobs

    def _last(self) -> Block | None:
        return self._answer.blocks[-1] if self._answer.blocks else None

    def _join(self) -> None:
        if not self._parts:
            return
        block, text = self._last(), "".join(self._parts)
        self._parts.clear()
        if isinstance(block, ToolCall):
            block.arguments += text
        elif isinstance(block, Text | Refusal | Thinking | Redacted):
            block.text += text


def events(answer: Answer) -> Iterator[Event]:
    """Yield a whole answer as a stream: for a client that wants one from a provider that sent none."""
    yield Started(answer.id, answer.model, answer.created, answer.usage)
    if answer.logprobs:
        yield LogprobsDelta(answer.logprobs)
    for index, block in enumerate(answer.blocks):
        if isinstance(block, Text | Refusal):
            yield Opened(index, type(block)())
            yield TextDelta(index, block.text)
            for citation in (block.citations or ()) if isinstance(block, Text) else ():
                yield CitationDelta(index, citation)
        elif isinstance(block, Thinking):
            yield Opened(index, Thinking(dialect=block.dialect))
            yield ThinkingDelta(index, block.text)
            if block.signature:
                yield SignatureDelta(index, block.signature)
        elif isinstance(block, ToolCall):
            opened = copy(block)
            opened.arguments = ""
            yield Opened(index, opened)
            yield ArgumentsDelta(index, block.arguments)
        else:
            yield Opened(index, block)
        yield Closed(index)
    if answer.error is not None:
        yield Failed(answer.error)
        return
    yield Finished(answer.finish or Finish(reason="stop"))
    if answer.usage is not None:
        yield Metered(answer.usage, answer.service_tier)
    yield Ended()


def output_text(answer: Answer) -> str:
    """Return all that a model wrote: for a tokenizer, where the provider reported no usage."""
    return "".join(_written(block) for block in every_block(answer))


def every_block(answer: Answer) -> Iterator[Block]:
    """Yield the blocks of an answer and of the others that were given with it."""
    for each in (answer, *answer.others):
        yield from each.blocks


def _written(block: Block) -> str:
    if isinstance(block, ToolCall):
        return block.name + block.arguments
    return block.text if isinstance(block, Text | Refusal | Thinking | Redacted) else ""
