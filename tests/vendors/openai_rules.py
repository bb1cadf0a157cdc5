"""What OpenAI refuses, and how it reads a conversation: the rules of `openai.py`, for chat completions and Responses.

Messages are worded as the real ones are. Source: https://platform.openai.com/docs/api-reference (2026-11), errors seen
in recorded traffic.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tests.provider import Script
from tests.vendors import mind
from tests.vendors.server import Refusal, words

FindFile = Callable[[str], bytes]
_CHAT = words(
    "model messages audio frequency_penalty presence_penalty logit_bias logprobs top_logprobs max_completion_tokens "
    "max_tokens metadata modalities moderation n parallel_tool_calls prediction prompt_cache_key prompt_cache_options "
    "prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store stream "
    "stream_options temperature top_p tools tool_choice user verbosity web_search_options functions "
    "function_call"
)
_RESPONSES = words(
    "model input instructions max_output_tokens max_tool_calls tools tool_choice parallel_tool_calls reasoning text "
    "include store previous_response_id conversation stream stream_options background context_management "
    "prompt_cache_options prompt_cache_key service_tier metadata safety_identifier truncation temperature top_p "
    "top_logprobs moderation user prompt client_metadata"
)
_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "logit_bias")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OTHER_ITEMS = ("custom_tool_call", "custom_tool_call_output", "web_search_call", "item_reference")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass
class Conversation:
    """A checked request: its size in tokens, the last turn, and whether the model reasons."""

    size: int = 0
    heard: mind.Heard = field(default_factory=mind.Heard)
    wanted: mind.Wanted = field(default_factory=mind.Wanted)
    thinks: bool = False


def refuse(message: str, param: str | None = None, code: str = "invalid_value") -> NoReturn:
    raise Refusal(400, code, message, param)


def _known(body: dict[str, Any], names: frozenset[str]) -> None:
    for name in body:
        if name not in names:
            refuse(f"Unknown parameter: '{name}'.", name, "unknown_parameter")


def _shared(body: dict[str, Any], script: Script) -> None:
    """Check what both interfaces have."""
    if "reasons" in script:
        for name in _SAMPLING:
            if name in body:
                refuse(
                    f"Unsupported parameter: '{name}' is not supported with this model.", name, "unsupported_parameter"
                )
    if not 0 <= (body.get("temperature") or 1) <= 2:
        refuse("Invalid 'temperature': decimal above maximum value.", "temperature")
    if "parallel_tool_calls" in body and not body.get("tools"):
        refuse("Invalid value for 'parallel_tool_calls': only allowed when 'tools' are specified.")
    if body.get("tool_choice") not in (None, "none", "auto") and not body.get("tools"):
        refuse("Invalid value for 'tool_choice': only allowed when 'tools' are specified.", "tool_choice")
    if body.get("tools") == []:
        refuse("Invalid 'tools': empty array. Expected an array with minimum length 1.", "tools", "empty_array")
    if len(body.get("metadata") or {}) > 16:
        refuse("Invalid 'metadata': too many properties.", "metadata")


# --- Chat completions -------------------------------------------------------------------------------------------------


def check_chat(body: dict[str, Any], script: Script, find: FindFile) -> Conversation:
    """Read a chat completion. Raises: Refusal."""
    _known(body, _CHAT)
    _shared(body, script)
    if "reasons" in script and "max_tokens" in body:
        refuse("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.")
    if "responses" in script and body.get("tools"):
        refuse("Function tools are not supported for this model in /v1/chat/completions. Use /v1/responses.", "tools")
    if "stream_options" in body and not body.get("stream"):
        refuse("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    if body.get("reasoning_effort") not in (None, *_EFFORTS) or (
        "reasoning_effort" in body and "reasons" not in script
    ):
        refuse("Unsupported parameter: 'reasoning_effort'", "reasoning_effort", "unsupported_parameter")
    read = Conversation(thinks="reasons" in script and body.get("reasoning_effort") != "none")
    for index, tool in enumerate(body.get("tools") or []):
        if tool.get("type") != "function" or set(tool) - {"type", "function"}:
            refuse(f"Missing required parameter: 'tools[{index}].function'.", f"tools[{index}]")
        _tool(tool["function"], f"tools[{index}].function", read, strict=bool(tool["function"].get("strict")))
    _choice(body.get("tool_choice"), read, lambda choice: choice["function"]["name"])
    read.wanted.parallel = body.get("parallel_tool_calls", True)
    _chat_format(body.get("response_format"), read)
    _chat_messages(body.get("messages"), read, script, find)
    return read


def _chat_format(form: dict[str, Any] | None, read: Conversation) -> None:
    kind = form.get("type") if form else "text"
    if kind == "json_object":
        read.wanted.schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    elif kind == "json_schema":
        _schema_format(form["json_schema"], "response_format", read)
    elif kind != "text":
        refuse(f"Invalid value: '{kind}'.", "response_format.type")


def _chat_messages(messages: Any, read: Conversation, script: Script, find: FindFile) -> None:
    if not messages:
        refuse("Invalid 'messages': empty array.", "messages", "empty_array")
    due: list[str] = []
    for index, message in enumerate(messages):
        role, where = message.get("role"), f"messages[{index}]"
        if role == "tool":
            if message.get("tool_call_id") not in due:
                refuse(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceding message with "
                    "'tool_calls'.",
                    f"{where}.role",
                )
            due.remove(message["tool_call_id"])
        elif due:
            refuse(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(due)}",
                f"{where}.role",
            )
        if role in ("user", "assistant"):
            read.heard = mind.Heard()
        _chat_message(message, read, where, find)
        if role == "assistant":
            due = [_chat_call(call, f"{where}.tool_calls") for call in message.get("tool_calls") or []]
    if due:
        refuse("An assistant message with 'tool_calls' must be followed by tool messages.", "messages")


def _chat_message(message: dict[str, Any], read: Conversation, where: str, find: FindFile) -> None:
    role, content = message.get("role"), message.get("content")
    allowed = {
        "system": {"role", "content", "name"},
        "developer": {"role", "content", "name"},
        "user": {"role", "content", "name"},
        "assistant": {"role", "content", "name", "tool_calls", "refusal", "audio", "function_call", "annotations"},
        "tool": {"role", "content", "tool_call_id"},
    }
    if role not in allowed:
        refuse(f"Invalid value: '{role}'.", f"{where}.role")
    for name in set(message) - allowed[role]:
        refuse(f"Unknown parameter: '{where}.{name}'.", f"{where}.{name}", "unknown_parameter")
    if content is None and not (role == "assistant" and (message.get("tool_calls") or message.get("refusal"))):
        refuse(f"Invalid value for 'content': expected a string, got null. ({where})", f"{where}.content")
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
        seen = _chat_part(part, role, f"{where}.content", find)
        read.size += mind.tokens(seen)
        if role == "tool":
            read.heard.results.append(seen)
        elif role == "user" and part["type"] == "text":
            read.heard.text += seen
        elif role == "user":
            read.heard.shown.append(seen)


def _chat_part(part: dict[str, Any], role: str, where: str, find: FindFile) -> str:
    kind = part.get("type")
    if set(part) - {"type", kind, "prompt_cache_breakpoint"}:
        name = sorted(set(part) - {"type", kind, "prompt_cache_breakpoint"})[0]
        refuse(f"Unknown parameter: '{where}[0].{name}'.", f"{where}[0].{name}", "unknown_parameter")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            refuse(f"Invalid type for '{where}[0].text'")
        return part["text"]
    if kind == "refusal" and role == "assistant":
        return part["refusal"]
    if role != "user":
        refuse(f"Invalid value: '{kind}'. Supported values are: 'text'.", f"{where}[0].type")
    if kind == "image_url":
        return _image(part["image_url"]["url"], where)
    if kind == "file":
        return _file(part["file"], where, find)
    if kind == "input_audio" and part["input_audio"].get("format") in ("wav", "mp3"):
        return f"sound of {len(mind.unpacked(part['input_audio']['data']))} bytes"
    refuse(f"Invalid value: '{kind}'.", f"{where}[0].type")


def _chat_call(call: dict[str, Any], where: str) -> str:
    function = call.get("function") or {}
    if call.get("type") != "function" or set(call) - {"id", "type", "function"}:
        refuse(f"Invalid value for '{where}[0]'.", where)
    if not _NAME.fullmatch(str(function.get("name"))) or not isinstance(function.get("arguments"), str):
        refuse(f"Invalid '{where}[0].function'.", where)
    if not call.get("id") or len(call["id"]) > 64:
        refuse(f"Invalid '{where}[0].id': string too long.", where, "string_above_max_length")
    return str(call["id"])


# --- What both have ---------------------------------------------------------------------------------------------------


def _tool(function: dict[str, Any], where: str, read: Conversation, *, strict: bool) -> None:
    name = function.get("name", "")
    if not _NAME.fullmatch(name):
        refuse(f"Invalid '{where}.name': string does not match pattern '^[a-zA-Z0-9_-]+$'.", f"{where}.name")
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    if schema.get("type") != "object":
        refuse(f"Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"'", where)
    if strict:
        _strict(schema, f"Invalid schema for function '{name}': In context=()", where)
    if name in read.wanted.tools:
        refuse(f"Duplicate function name '{name}'", where)
    read.wanted.tools[name] = schema
    read.size += mind.tokens(function)


def _strict(schema: dict[str, Any], message: str, where: str) -> None:
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            refuse(f"{message}, 'additionalProperties' is required to be supplied and to be false.", where)
        missing = set(schema.get("properties", {})) - set(schema.get("required", []))
        if missing:
            refuse(f"{message}, 'required' is required to include every key in properties. Missing {missing}.", where)
        for inner in schema.get("properties", {}).values():
            _strict(inner, message, where)
    if "items" in schema:
        _strict(schema["items"], message, where)


def _choice(choice: Any, read: Conversation, name_of: Callable[[dict[str, Any]], str]) -> None:
    if choice == "required":
        read.wanted.forced = list(read.wanted.tools)
    elif choice == "none":
        read.wanted.tools = {}
    elif isinstance(choice, dict) and choice.get("type") == "function":
        name = name_of(choice)
        if name not in read.wanted.tools:
            refuse(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice")
        read.wanted.forced = [name]
    elif choice not in (None, "auto") and not isinstance(choice, dict):
        refuse(f"Invalid value: '{choice}'.", "tool_choice")


def _schema_format(form: dict[str, Any], where: str, read: Conversation) -> None:
    name = form.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        refuse(f"Missing required parameter: '{where}.name'.", f"{where}.name", "missing_required_parameter")
    if form.get("strict"):
        _strict(form["schema"], f"Invalid schema for response_format '{name}': In context=()", where)
    read.wanted.schema = form.get("schema") or {"type": "object"}


def _image(url: str, where: str) -> str:
    found = re.fullmatch(r"data:([a-z/+.-]+);base64,(.*)", url, re.DOTALL)
    if url.startswith("https://"):
        return f"an image at {url}"
    if found is None:
        refuse("Invalid image URL. Expected a base64-encoded data URL or an https URL.", where, "invalid_image_url")
    try:
        return mind.image(found[1], found[2])
    except ValueError:
        refuse("You uploaded an unsupported image.", where, "invalid_image_format")


def _file(file: dict[str, Any], where: str, find: FindFile) -> str:
    if "file_id" in file:
        content = find(file["file_id"])
        return f"a PDF of {len(content)} bytes"
    found = re.fullmatch(r"data:application/pdf;base64,(.*)", str(file.get("file_data")), re.DOTALL)
    if found is None or not file.get("filename"):
        refuse("Invalid file: expected filename and file_data as a data URL of application/pdf.", where)
    try:
        return mind.pdf(found[1])
    except ValueError as error:
        refuse(f"Invalid file data: {error}", where)


# --- Responses --------------------------------------------------------------------------------------------------------


def check_response(
    body: dict[str, Any], model: str, script: Script, before: list[dict[str, Any]], find: FindFile
) -> Conversation:
    """Read a request of the Responses API; `before` are the items of the response it follows. Raises: Refusal."""
    _known(body, _RESPONSES)
    _shared(body, script)
    if (body.get("max_output_tokens") or 16) < 16:
        refuse("Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16.", "max_output_tokens")
    reasoning = body.get("reasoning") or {}
    if reasoning.get("effort") not in (None, *_EFFORTS) or (reasoning.get("effort") and "reasons" not in script):
        refuse("Unsupported parameter: 'reasoning.effort'", "reasoning.effort", "unsupported_parameter")
    read = Conversation(thinks="reasons" in script and reasoning.get("effort") != "none")
    for index, tool in enumerate(body.get("tools") or []):
        _response_tool(tool, f"tools[{index}]", read)
    _choice(body.get("tool_choice"), read, lambda choice: choice["name"])
    read.wanted.parallel = body.get("parallel_tool_calls", True)
    text = body.get("text") or {}
    if (text.get("format") or {}).get("type") == "json_schema":
        _schema_format(text["format"], "text.format", read)
    elif (text.get("format") or {}).get("type") == "json_object":
        read.wanted.schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    read.size += mind.tokens(body.get("instructions") or "")
    items = items_of(body)
    if not items and not before:
        refuse("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    _items([*before, *items], len(before), read, None if "trusting" in script else model, find)
    return read


def items_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the input as a list of items."""
    given = body.get("input")
    return [{"role": "user", "content": given}] if isinstance(given, str) else list(given or [])


def _response_tool(tool: dict[str, Any], where: str, read: Conversation) -> None:
    kind = tool.get("type")
    if kind != "function":
        if kind not in ("web_search", "custom", "code_interpreter", "local_shell", "shell", "namespace", "tool_search"):
            refuse(f"Invalid value: '{kind}'.", f"{where}.type")
        return
    if "function" in tool:
        refuse(f"Missing required parameter: '{where}.name'.", f"{where}.name", "missing_required_parameter")
    for name in set(tool) - {"type", "name", "description", "parameters", "strict", "defer_loading"}:
        refuse(f"Unknown parameter: '{where}.{name}'.", f"{where}.{name}", "unknown_parameter")
    # The default is strict, and a schema that cannot be is refused.
    _tool(tool, where, read, strict=tool.get("strict", True) is True)


def _items(items: list[dict[str, Any]], known: int, read: Conversation, model: str | None, find: FindFile) -> None:
    due: list[str] = []
    _followed(items)
    for index, item in enumerate(items):
        kind, where = item.get("type", "message"), f"input[{index - known}]"
        if kind == "message":
            _message_item(item, read, where, find)
        elif kind == "function_call":
            due.append(_call_item(item, where))
        elif kind == "function_call_output":
            if item.get("call_id") not in due:
                refuse(f"No tool call found for function call output with call_id {item.get('call_id')}.", "input")
            due.remove(item["call_id"])
            read.heard.results.append(_output(item, where, read, find))
        elif kind == "reasoning":
            _reasoning_item(item, where, model, is_known=index < known)
        elif kind not in _OTHER_ITEMS:
            refuse(f"Invalid value: '{kind}'.", f"{where}.type")
    if due:
        refuse(f"No tool output found for function call {due[0]}.", "input")


def _followed(items: list[dict[str, Any]]) -> None:
    """Check that what the model said comes after each of its thoughts."""
    for item, following in zip(items, [*items[1:], {}], strict=True):
        if item.get("type") != "reasoning":
            continue
        is_said = following.get("type", "message" if following else "") in ("function_call", "message")
        if not is_said or following.get("role", "assistant") != "assistant":
            refuse(f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item.")


def _message_item(item: dict[str, Any], read: Conversation, where: str, find: FindFile) -> None:
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "system", "developer", "assistant"):
        refuse(f"Invalid value: '{role}'.", f"{where}.role")
    if role in ("user", "assistant"):
        read.heard = mind.Heard()
    kinds = (
        {"output_text", "refusal"}
        if role == "assistant"
        else {"input_text", "input_image", "input_file", "input_audio"}
    )
    plain = "output_text" if role == "assistant" else "input_text"
    if content is None:
        refuse(f"Missing required parameter: '{where}.content'.", f"{where}.content")
    for part in [{"type": plain, "text": content}] if isinstance(content, str) else content:
        kind = part.get("type")
        if kind not in kinds:
            refuse(f"Invalid value: '{kind}'. Supported values are: {sorted(kinds)}.", f"{where}.content[0]")
        seen = _input_part(part, where, find)
        read.size += mind.tokens(seen)
        if role == "user" and kind == "input_text":
            read.heard.text += seen
        elif role == "user":
            read.heard.shown.append(seen)


def _input_part(part: dict[str, Any], where: str, find: FindFile) -> str:
    match part.get("type"):
        case "input_text" | "output_text":
            return str(part["text"])
        case "refusal":
            return str(part["refusal"])
        case "input_image" if isinstance(part.get("image_url"), str):
            return _image(part["image_url"], where)
        case "input_audio":
            return f"sound of {len(mind.unpacked(part['input_audio']['data']))} bytes"
        case "input_file" if "file_url" in part:
            return f"a file at {part['file_url']}"
        case "input_file":
            return _file(part, where, find)
    refuse(f"Invalid value for '{where}.content[0]'", where)


def _call_item(item: dict[str, Any], where: str) -> str:
    if not _NAME.fullmatch(str(item.get("name"))) or not isinstance(item.get("arguments"), str):
        refuse(f"Invalid '{where}': name and arguments are strings.", where)
    if not item.get("call_id") or len(item["call_id"]) > 64:
        refuse(f"Invalid '{where}.call_id': string too long.", where, "string_above_max_length")
    if not str(item.get("id") or "fc_").startswith("fc"):
        refuse(f"Invalid '{where}.id': '{item['id']}'. Expected an ID that begins with 'fc'.", f"{where}.id")
    return str(item["call_id"])


def _output(item: dict[str, Any], where: str, read: Conversation, find: FindFile) -> str:
    output = item.get("output")
    if isinstance(output, str):
        read.size += mind.tokens(output)
        return output
    texts = []
    for part in output or refuse(f"Missing required parameter: '{where}.output'.", where):
        seen = _input_part(part, where, find)
        read.size += mind.tokens(seen)
        (texts if part["type"] == "input_text" else read.heard.shown).append(seen)
    return "".join(texts)


def _reasoning_item(item: dict[str, Any], where: str, model: str | None, *, is_known: bool) -> None:
    if "summary" not in item:
        refuse(f"Missing required parameter: '{where}.summary'.", f"{where}.summary", "missing_required_parameter")
    sealed = item.get("encrypted_content")
    if is_known:
        return
    if sealed is None:
        raise Refusal(
            404,
            "not_found",
            f"Item with id '{item.get('id')}' not found. Items are not persisted when `store` is set to false.",
            "input",
        )
    if not mind.is_signed(sealed, str(item.get("id")), model):
        refuse(f"The encrypted content for item {item.get('id')} could not be verified.", "input")


def envelope(body: dict[str, Any], model: str, created: int) -> dict[str, Any]:
    """Return what a response repeats of its request."""
    return {
        "object": "response",
        "created_at": created,
        "completed_at": created + 1,
        "background": False,
        "error": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": None,
        "metadata": body.get("metadata") or {},
        "model": f"{model}-2026-01-01",
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": None, "summary": None, **(body.get("reasoning") or {})},
        "safety_identifier": None,
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": {"format": {"type": "text"}, "verbosity": "medium", **(body.get("text") or {})},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_logprobs": 0,
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "user": None,
    }
