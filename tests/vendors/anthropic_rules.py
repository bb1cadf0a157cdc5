"""What Anthropic refuses, and how it reads a conversation: the rules of `anthropic.py`.

Messages are worded as the real ones are. Source: https://docs.anthropic.com/en/api/messages and errors seen in
recorded traffic (2026-11).
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tests.provider import Script
from tests.vendors import mind
from tests.vendors.server import Refusal, words

_MEMBERS = words(
    "model max_tokens messages system tools tool_choice stop_sequences stream metadata service_tier speed thinking "
    "output_config cache_control container diagnostics inference_geo temperature top_p top_k context_management "
    "mcp_servers betas"
)
_COUNTED = words("model messages system tools tool_choice thinking output_config cache_control")
_SAMPLING = ("temperature", "top_p", "top_k")
_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_USER_BLOCKS = words("text image document search_result tool_result container_upload")
_ASSISTANT_BLOCKS = words("text thinking redacted_thinking tool_use server_tool_use web_search_tool_result")


@dataclass
class Conversation:
    """A checked request: of each block of the prompt its canonical JSON, tokens and cache ttl; and the last turn."""

    prompt: list[tuple[str, int, str | None]] = field(default_factory=list)
    heard: mind.Heard = field(default_factory=mind.Heard)
    wanted: mind.Wanted = field(default_factory=mind.Wanted)
    thinks: bool = False


def refuse(message: str) -> NoReturn:
    raise Refusal(400, "invalid_request_error", message)


def check(body: dict[str, Any], model: str, script: Script, *, version: str, is_count: bool = False) -> Conversation:
    """Read a request. Raises: Refusal."""
    for name in body:
        if name not in (_COUNTED if is_count else _MEMBERS):
            refuse(f"{name}: Extra inputs are not permitted")
    kind = script.text("thinking", "none")
    conversation = Conversation()
    if not is_count:
        _limits(body, kind, version)
    conversation.thinks = _thinking(body, kind)
    _tools(body, conversation, kind)
    _format(body, conversation, kind)
    _system(body, conversation)
    _messages(body, conversation, None if "trusting" in script else model, kind)
    marks = [ttl for _, _, ttl in conversation.prompt if ttl]
    if len(marks) > 4:
        refuse(f"A maximum of 4 blocks with cache_control may be provided. Found {len(marks)}.")
    if "1h" in marks and "5m" in marks[: len(marks) - marks[::-1].index("1h")]:
        refuse("a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block")
    return conversation


def _limits(body: dict[str, Any], kind: str, version: str) -> None:
    limit = body.get("max_tokens")
    if limit is None:
        refuse("max_tokens: Field required")
    if type(limit) is not int or limit < 0:
        refuse("max_tokens: Input should be greater than or equal to 0")
    if limit > 64000:
        refuse(f"max_tokens: {limit} > 64000, which is the maximum allowed number of output tokens")
    _sampling(body, kind, version)
    for stop in body.get("stop_sequences") or []:
        if not stop.strip():
            refuse("stop_sequences: each stop sequence must contain non-whitespace")
    metadata = body.get("metadata") or {}
    if set(metadata) - {"user_id"}:
        refuse(f"metadata.{sorted(set(metadata) - {'user_id'})[0]}: Extra inputs are not permitted")
    if body.get("service_tier", "auto") not in ("auto", "standard_only"):
        refuse("service_tier: Input should be 'auto' or 'standard_only'")


def _sampling(body: dict[str, Any], kind: str, version: str) -> None:
    for name in _SAMPLING:
        if name in body and (version == "2026-10-21" or kind in ("adaptive", "always")):
            refuse(f"{name}: Extra inputs are not permitted")
    if not 0 <= body.get("temperature", 1) <= 1:
        refuse("temperature: range: 0..1")
    if "temperature" in body and "top_p" in body and kind != "none":
        refuse("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")


def _thinking(body: dict[str, Any], kind: str) -> bool:
    thinking = body.get("thinking")
    if thinking is None:
        return kind == "always"
    if kind == "none" and thinking.get("type") != "disabled":
        refuse("thinking is not supported on this model")
    match thinking.get("type"):
        case "enabled" if kind == "budget":
            _budget(body, thinking)
            return True
        case "adaptive" if kind in ("adaptive", "always"):
            if set(thinking) - {"type", "display"}:
                refuse("thinking.adaptive.budget_tokens: Extra inputs are not permitted")
            return True
        case "disabled" if kind != "always":
            return False
    refuse(f'"thinking.type.{thinking.get("type")}" is not supported for this model.')


def _budget(body: dict[str, Any], thinking: dict[str, Any]) -> None:
    budget = thinking.get("budget_tokens")
    if type(budget) is not int or budget < 1024:
        refuse("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
    if budget >= body.get("max_tokens", 1 << 30):
        refuse("`max_tokens` must be greater than `thinking.budget_tokens`.")
    if body.get("temperature", 1) != 1:
        refuse("`temperature` may only be set to 1 when thinking is enabled.")
    if "top_k" in body:
        refuse("`top_k` must be unset when thinking is enabled.")


def _tools(body: dict[str, Any], conversation: Conversation, kind: str) -> None:
    tools, choice = body.get("tools"), body.get("tool_choice")
    names: list[str] = []
    for index, tool in enumerate(tools or []):
        _add(conversation, tool)
        if tool.get("type", "custom") != "custom":
            continue
        name, schema = tool.get("name", ""), tool.get("input_schema")
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", name):
            refuse(f"tools.{index}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        if not isinstance(schema, dict) or schema.get("type") != "object":
            refuse(f"tools.{index}.custom.input_schema.type: Field required")
        extra = set(tool) - words("type name description input_schema strict cache_control")
        if extra:
            refuse(f"tools.{index}.custom.{sorted(extra)[0]}: Extra inputs are not permitted")
        if name in names:
            refuse("tools: Tool names must be unique.")
        names.append(name)
        conversation.wanted.tools[name] = schema
    if choice is not None:
        _choice(choice, names, conversation, kind, has_tools=bool(tools))


def _choice(choice: dict[str, Any], names: list[str], read: Conversation, kind: str, *, has_tools: bool) -> None:
    mode = choice.get("type")
    if mode not in ("auto", "any", "tool", "none"):
        refuse("tool_choice: Input tag does not match any of the expected tags: 'auto', 'any', 'none', 'tool'")
    if not has_tools:
        refuse("tool_choice may only be specified while providing tools.")
    read.wanted.parallel = not choice.get("disable_parallel_tool_use", False)
    if mode == "none":
        read.wanted.tools = {}
    if mode in ("any", "tool"):
        if kind == "always":
            refuse("tool_choice: forcing the use of a tool is not supported on this model.")
        if read.thinks:
            refuse("Thinking may not be enabled when tool_choice forces tool use.")
        if mode == "tool" and choice.get("name") not in names:
            refuse(f"tool_choice: Tool '{choice.get('name')}' not found in provided tools")
        read.wanted.forced = [choice["name"]] if mode == "tool" else names


def _format(body: dict[str, Any], conversation: Conversation, kind: str) -> None:
    config = body.get("output_config") or {}
    effort, form = config.get("effort"), config.get("format")
    if effort is not None and (kind not in ("adaptive", "always") or effort not in _EFFORTS):
        refuse(f"This model does not support effort level '{effort}'.")
    if form is None:
        return
    if form.get("type") != "json_schema" or set(form) - {"type", "schema"}:
        refuse("output_config.format: only type and schema are permitted")
    _closed(form.get("schema"), "output_config.format.schema")
    conversation.wanted.schema = form["schema"]


def _closed(schema: Any, where: str) -> None:
    if not isinstance(schema, dict):
        refuse(f"{where}: Input should be a valid dictionary")
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            refuse(f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false")
        for name, inner in schema.get("properties", {}).items():
            _closed(inner, f"{where}.{name}")
    if schema.get("type") == "array":
        _closed(schema.get("items", {}), f"{where}.items")


def _add(conversation: Conversation, block: dict[str, Any], size: int | None = None) -> None:
    """Add a block to the prompt; its mark is no part of what is compared."""
    bare = {name: value for name, value in block.items() if name != "cache_control"}
    mark = block.get("cache_control")
    ttl = None
    if mark is not None:
        ttl = mark.get("ttl", "5m")
        if mark.get("type") != "ephemeral" or ttl not in ("5m", "1h") or set(mark) - {"type", "ttl"}:
            refuse("cache_control: Input tag does not match any of the expected tags: 'ephemeral'")
    canonical = json.dumps(bare, sort_keys=True)
    conversation.prompt.append((canonical, mind.tokens(bare) if size is None else size, ttl))


def _system(body: dict[str, Any], conversation: Conversation) -> None:
    system = body.get("system")
    if system is None:
        return
    for index, block in enumerate([{"type": "text", "text": system}] if isinstance(system, str) else system):
        if block.get("type") != "text" or set(block) - {"type", "text", "cache_control", "citations"}:
            refuse(f"system.{index}.type: Input should be 'text'")
        if not block["text"]:
            refuse("system: text content blocks must be non-empty")
        _add(conversation, block, mind.tokens(block["text"]))


def _messages(body: dict[str, Any], conversation: Conversation, model: str | None, kind: str) -> None:
    messages = body.get("messages")
    if not messages:
        refuse("messages: at least one message is required")
    turns: list[tuple[str, list[dict[str, Any]]]] = []
    for index, message in enumerate(messages):
        _turn(message, index, turns, conversation, is_last=index == len(messages) - 1)
    if turns[0][0] != "user":
        refuse('messages: first message must use the "user" role')
    # Models that decide themselves how much they think do not insist on their thoughts.
    _turns(turns, conversation, model, budget=conversation.thinks and kind == "budget")
    if turns[-1][0] == "assistant":
        _prefill(turns[-1][1], kind)


def _turn(
    message: dict[str, Any],
    index: int,
    turns: list[tuple[str, list[dict[str, Any]]]],
    conversation: Conversation,
    *,
    is_last: bool,
) -> None:
    """Add a message to the turns: those of one role are one turn."""
    if set(message) - {"role", "content"}:
        refuse(f"messages.{index}.{sorted(set(message) - {'role', 'content'})[0]}: Extra inputs are not permitted")
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant") and not (role == "system" and turns):
        refuse(f'messages: Unexpected role "{role}". The Messages API accepts a top-level `system` parameter')
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])
    if not blocks and not (role == "assistant" and is_last):
        refuse(f"messages.{index}: all messages must have non-empty content")
    if role == "system":  # in mid-conversation; to the model it is the operator's word, not the user's
        for block in blocks:
            _text(block, index)
            _add(conversation, block, mind.tokens(block["text"]))
    elif turns and turns[-1][0] == role:
        turns[-1][1].extend(blocks)
    else:
        turns.append((str(role), blocks))


def _turns(
    turns: list[tuple[str, list[dict[str, Any]]]], conversation: Conversation, model: str | None, *, budget: bool
) -> None:
    due: list[str] = []
    used: set[str] = set()
    for index, (role, blocks) in enumerate(turns):
        if role == "user":
            conversation.heard = mind.Heard()
            _results(blocks, due, index)
            due = []
        elif budget and any(block.get("type") == "tool_use" for block in blocks):
            _thought_first(blocks, index)
        for block in blocks:
            _block(role, block, conversation, model, index)
            if block["type"] == "tool_use":
                if block["id"] in used:
                    refuse("messages: `tool_use` ids must be unique")
                used.add(block["id"])
                due.append(block["id"])
    if due:
        refuse(f"messages.{len(turns) - 1}: `tool_use` ids were found without `tool_result` blocks immediately after")


def _thought_first(blocks: list[dict[str, Any]], index: int) -> None:
    first = blocks[0].get("type")
    if first not in ("thinking", "redacted_thinking"):
        refuse(
            f"messages.{index}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{first}`. When "
            "`thinking` is enabled, a final `assistant` message must start with a thinking block"
        )


def _results(blocks: list[dict[str, Any]], due: list[str], index: int) -> None:
    given = [block.get("tool_use_id") for block in blocks if block.get("type") == "tool_result"]
    for id in given:
        if id not in due:
            refuse(
                f"messages.{index}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each "
                "`tool_result` block must have a corresponding `tool_use` block in the previous message."
            )
    if len(set(given)) != len(given):
        refuse(f"messages.{index}: each tool_use must have a single result")
    missing = [id for id in due if id not in given]
    if missing:
        refuse(
            f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(missing)}."
        )
    kinds = [block.get("type") for block in blocks]
    if given and kinds[: len(given)] != ["tool_result"] * len(given):
        refuse(f"messages.{index}: `tool_result` blocks must come first in the content")


def _prefill(blocks: list[dict[str, Any]], kind: str) -> None:
    if kind in ("adaptive", "always"):
        refuse("This model does not support assistant message prefill. The conversation must end with a user message.")
    if blocks and blocks[-1].get("type") == "text" and blocks[-1]["text"] != blocks[-1]["text"].rstrip():
        refuse("messages: final assistant content cannot end with trailing whitespace")


def _block(role: str, block: dict[str, Any], conversation: Conversation, model: str | None, index: int) -> None:
    kind = block.get("type")
    if kind not in (_USER_BLOCKS if role == "user" else _ASSISTANT_BLOCKS):
        refuse(f"messages.{index}.content.0: Input tag '{kind}' found using 'type' does not match any expected tags")
    heard = conversation.heard
    size = None
    if kind == "text":
        _text(block, index)
        size = mind.tokens(block["text"])
        heard.text += block["text"] if role == "user" else ""
    elif kind in ("image", "document"):
        heard.shown.append(_shown(kind, block, index))
        size = 100
    elif kind == "tool_result":
        heard.results.append(_result(block, heard, index))
    elif kind == "tool_use":
        _use(block, index)
    elif kind == "thinking" and not mind.is_signed(block.get("signature"), block.get("thinking", ""), model):
        refuse(f"messages.{index}.content.0: Invalid `signature` in `thinking` block")
    _add(conversation, block, size)


def _text(block: dict[str, Any], index: int) -> None:
    if set(block) - {"type", "text", "cache_control", "citations"}:
        refuse(f"messages.{index}.content.0.text: Extra inputs are not permitted")
    if not isinstance(block.get("text"), str) or not block["text"]:
        refuse("messages: text content blocks must be non-empty")
    if not block["text"].strip():
        refuse("messages: text content blocks must contain non-whitespace text")


def _use(block: dict[str, Any], index: int) -> None:
    if set(block) - {"type", "id", "name", "input", "cache_control", "caller"}:
        refuse(f"messages.{index}.content.0.tool_use: Extra inputs are not permitted")
    if not _TOOL_ID.fullmatch(str(block.get("id", ""))):
        refuse(f"messages.{index}.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    if not isinstance(block.get("input"), dict):
        refuse(f"messages.{index}.content.0.tool_use.input: Input should be a valid dictionary")


def _result(block: dict[str, Any], heard: mind.Heard, index: int) -> str:
    if set(block) - {"type", "tool_use_id", "content", "is_error", "cache_control"}:
        refuse(f"messages.{index}.content.0.tool_result: Extra inputs are not permitted")
    content = block.get("content", "")
    texts = [content] if isinstance(content, str) else []
    for part in content if isinstance(content, list) else []:
        if part.get("type") == "text":
            _text(part, index)
            texts.append(part["text"])
        else:
            heard.shown.append(_shown(part.get("type"), part, index))
    return ("error " if block.get("is_error") else "") + "".join(texts)


def _shown(kind: Any, block: dict[str, Any], index: int) -> str:
    source = block.get("source") or {}
    where = f"messages.{index}.content.0.{kind}.source"
    try:
        match (kind, source.get("type")):
            case ("image", "base64"):
                return mind.image(source.get("media_type"), source.get("data"))
            case ("document", "base64") if source.get("media_type") == "application/pdf":
                return mind.pdf(source.get("data"))
            case ("document", "text") if source.get("media_type") == "text/plain":
                return f"a text: {source['data']}"
            case ("image" | "document", "url") if str(source.get("url")).startswith("https://"):
                return f"an {kind} at {source['url']}"
            case ("image" | "document", "file") if str(source.get("file_id")).startswith("file_"):
                return f"a file {source['file_id']}"
    except ValueError as error:
        refuse(f"{where}.base64: {error}")
    refuse(f"{where}: Input tag '{source.get('type')}' does not match any of the expected tags")
