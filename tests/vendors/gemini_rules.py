"""What Gemini refuses, and how it reads a conversation: the rules of `gemini.py`.

Messages are worded as the real ones are. Source: https://ai.google.dev/api/generate-content, the schemas of
google-genai, and errors seen in recorded traffic (2026-11).
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tests.provider import Script
from tests.vendors import mind
from tests.vendors.server import Refusal, words

SKIP = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
_MEMBERS = words(
    "contents systemInstruction tools toolConfig safetySettings generationConfig cachedContent serviceTier store "
    "labels model"
)
_CONFIG = words(
    "temperature topP topK candidateCount maxOutputTokens stopSequences seed presencePenalty frequencyPenalty "
    "responseMimeType responseSchema responseJsonSchema responseLogprobs logprobs responseModalities mediaResolution "
    "speechConfig imageConfig thinkingConfig"
)
_PART = words(
    "text inlineData fileData functionCall functionResponse executableCode codeExecutionResult toolCall toolResponse"
)
_SCHEMA = words(
    "type properties required items enum format nullable anyOf minimum maximum minItems maxItems minLength maxLength "
    "minProperties maxProperties pattern default title description propertyOrdering example"
)
_TYPES = words("STRING NUMBER INTEGER BOOLEAN ARRAY OBJECT NULL")
_MEDIA = ("image/", "audio/", "video/", "text/", "application/pdf")


@dataclass
class Conversation:
    """A checked request: its size in tokens, the last turn, and whether it thinks and shows that."""

    size: int = 0
    heard: mind.Heard = field(default_factory=mind.Heard)
    wanted: mind.Wanted = field(default_factory=mind.Wanted)
    thinks: bool = False
    shows_thoughts: bool = False


# Members whose own members are not Google's.
_FREE = words("args response properties parametersJsonSchema responseJsonSchema labels $defs defs")


def camel(value: Any) -> Any:
    """Return JSON with its names in camelCase: on input both spellings are understood, and SDKs mix them."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): inner for name, inner in value.items()}
    return {name: inner if name in _FREE else camel(inner) for name, inner in renamed.items()}


def refuse(message: str) -> NoReturn:
    raise Refusal(400, "INVALID_ARGUMENT", message)


def signature(model: str, tool: str, arguments: dict[str, Any]) -> str:
    """Return the signature of the thought that led to a call."""
    return mind.signed(f"{tool} {json.dumps(arguments, sort_keys=True)}", model)


def check(body: dict[str, Any], model: str, script: Script) -> Conversation:
    """Read a request. Raises: Refusal."""
    _known(body, _MEMBERS, "")
    read = Conversation()
    kind = script.text("thinking", "none")
    config = body.get("generationConfig") or {}
    _config(config, read, kind)
    _tools(body, read)
    system = body.get("systemInstruction")
    if system is not None:
        _known(system, frozenset({"parts", "role"}), " at 'system_instruction'")
        for part in system.get("parts") or refuse("system_instruction: parts must not be empty"):
            if "text" not in part:
                refuse("system_instruction: only text parts are supported")
            read.size += mind.tokens(part["text"])
    _contents(body, read, None if "trusting" in script else model, kind)
    return read


def _known(value: Any, names: frozenset[str], where: str) -> None:
    for name in value:
        if name not in names:
            refuse(f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.')


def _config(config: dict[str, Any], read: Conversation, kind: str) -> None:
    _known(config, _CONFIG, " at 'generation_config'")
    if not 0 <= config.get("temperature", 1) <= 2:
        refuse("The value of temperature is out of range: must be in [0.0, 2.0]")
    if config.get("maxOutputTokens", 1) < 1 or config.get("maxOutputTokens", 1) > 65536:
        refuse("max_output_tokens must be in (0, 65536]")
    if len(config.get("stopSequences", [])) > 5 or not all(config.get("stopSequences", [])):
        refuse("The number of stop_sequences must be at most 5 and none of them empty")
    thinking = config.get("thinkingConfig")
    read.thinks = kind != "none"
    if thinking is not None:
        _thinking(thinking, read, kind)
    _format(config, read)


def _thinking(thinking: dict[str, Any], read: Conversation, kind: str) -> None:
    _known(thinking, frozenset({"includeThoughts", "thinkingBudget", "thinkingLevel"}), " at 'thinking_config'")
    if kind == "none":
        refuse("Thinking is not enabled for this model")
    if "thinkingLevel" in thinking and (kind != "level" or "thinkingBudget" in thinking):
        refuse("Thinking level is not supported for this model.")
    levels = ("MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH")
    if "thinkingLevel" in thinking and str(thinking["thinkingLevel"]).upper() not in levels:
        refuse("Invalid value at 'generation_config.thinking_config.thinking_level'")
    if "thinkingBudget" in thinking and not -1 <= thinking["thinkingBudget"] <= 32768:
        refuse("The thinking budget is invalid. Please choose a value between 0 and 32768.")
    read.thinks = thinking.get("thinkingBudget") != 0
    read.shows_thoughts = read.thinks and bool(thinking.get("includeThoughts"))


def _format(config: dict[str, Any], read: Conversation) -> None:
    schema, json_schema = config.get("responseSchema"), config.get("responseJsonSchema")
    if schema is None and json_schema is None:
        if config.get("responseMimeType") == "application/json":
            read.wanted.schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
        return
    if schema is not None and json_schema is not None:
        refuse("response_schema and response_json_schema are mutually exclusive")
    if config.get("responseMimeType") != "application/json":
        refuse("response_schema only works with response_mime_type application/json")
    if schema is not None:
        _subset(schema, "generation_config.response_schema")
    read.wanted.schema = schema or json_schema


def _subset(schema: dict[str, Any], where: str) -> None:
    """Check the OpenAPI subset, which knows neither `additionalProperties` nor lower-case `$refs`."""
    _known(schema, _SCHEMA, f" at '{where}'")
    if "type" in schema and str(schema["type"]).upper() not in _TYPES:
        refuse(f"Invalid value at '{where}.type'")
    if str(schema.get("type", "")).upper() == "ARRAY" and "items" not in schema:
        refuse(f"{where}.items: missing field.")
    if any(type(value) is not str for value in schema.get("enum", [])):
        refuse(f"Invalid value at '{where}.enum' (TYPE_STRING)")
    for name in schema.get("required", []):
        if name not in schema.get("properties", {}):
            refuse(f"{where}.required[0]: property is not defined")
    for name, inner in schema.get("properties", {}).items():
        _subset(inner, f"{where}.properties[{name}]")
    if "items" in schema:
        _subset(schema["items"], f"{where}.items")


def _tools(body: dict[str, Any], read: Conversation) -> None:
    for tool in body.get("tools") or []:
        _known(tool, words("functionDeclarations googleSearch codeExecution urlContext"), " at 'tools[0]'")
        for declared in tool.get("functionDeclarations", []):
            _declared(declared, read)
    config = body.get("toolConfig")
    if config is None:
        return
    _known(config, frozenset({"functionCallingConfig", "retrievalConfig"}), " at 'tool_config'")
    calling = config.get("functionCallingConfig") or {}
    mode, allowed = calling.get("mode", "AUTO"), calling.get("allowedFunctionNames")
    if mode not in ("AUTO", "ANY", "NONE", "VALIDATED"):
        refuse("Invalid value at 'tool_config.function_calling_config.mode'")
    if mode == "ANY" and not read.wanted.tools:
        refuse("Function calling mode is set to ANY but no function declarations are provided.")
    if allowed and mode not in ("ANY", "VALIDATED"):
        refuse("Allowed function names should only be set when mode is ANY.")
    if set(allowed or ()) - set(read.wanted.tools):
        refuse("allowed_function_names contains a function that is not declared.")
    if mode == "ANY":
        read.wanted.forced = list(allowed or read.wanted.tools)
    if mode == "NONE":
        read.wanted.tools = {}


def _declared(declared: dict[str, Any], read: Conversation) -> None:
    names = words("name description parameters parametersJsonSchema response responseJsonSchema behavior")
    _known(declared, names, " at 'tools[0].function_declarations[0]'")
    name = declared.get("name", "")
    if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}", name):
        refuse(f"Invalid function name {name!r}. Must start with a letter or an underscore.")
    if "parameters" in declared and "parametersJsonSchema" in declared:
        refuse("parameters and parameters_json_schema are mutually exclusive")
    if "parameters" in declared:
        _subset(declared["parameters"], "tools[0].function_declarations[0].parameters")
    if name in read.wanted.tools:
        refuse(f"Duplicate function declaration found: {name}")
    read.wanted.tools[name] = declared.get("parameters") or declared.get("parametersJsonSchema") or {"type": "object"}
    read.size += mind.tokens(declared)


def _contents(body: dict[str, Any], read: Conversation, model: str | None, kind: str) -> None:
    contents = body.get("contents")
    if not contents:
        refuse("* GenerateContentRequest.contents: contents is not specified")
    due: list[str] = []
    before = ""
    current = max((i for i, one in enumerate(contents) if _is_said(one)), default=0)
    for index, content in enumerate(contents):
        _known(content, frozenset({"role", "parts"}), f" at 'contents[{index}]'")
        role, parts = content.get("role", "user"), content.get("parts")
        if role not in ("user", "model"):
            refuse("Please use a valid role: user, model.")
        if not parts:
            refuse(f"* GenerateContentRequest.contents[{index}].parts: contents.parts must not be empty.")
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        due = _order(parts, calls, due, before)
        if kind == "level" and index > current:
            _signed(parts, model)
        if role == "user":
            read.heard = mind.Heard()
        for part in parts:
            _part(part, role, read, f"contents[{index}].parts")
        before = role
    if due:
        refuse("Please ensure that the number of function response parts is equal to the number of function call parts")
    if before == "model" and kind == "level":
        refuse("Please ensure that multiturn requests end with a user role or a function response.")


def _is_said(content: dict[str, Any]) -> bool:
    """Tell whether a content is the user's own word: there the current turn begins."""
    return content.get("role", "user") == "user" and not any("functionResponse" in p for p in content.get("parts", []))


def _order(parts: list[dict[str, Any]], calls: list[dict[str, Any]], due: list[str], before: str) -> list[str]:
    answers = [part["functionResponse"]["name"] for part in parts if "functionResponse" in part]
    if sorted(answers) != sorted(due):
        refuse(
            "Please ensure that the number of function response parts is equal to the number of function call parts of "
            f"the function call turn: {due} against {answers}."
        )
    if calls and before != "user":
        refuse(
            "Please ensure that function call turn comes immediately after a user turn or after a function response "
            "turn."
        )
    return [call.get("name", "") for call in calls]


def _signed(parts: list[dict[str, Any]], model: str | None) -> None:
    first = next((part for part in parts if "functionCall" in part), None)
    if first is None:
        return
    call = first["functionCall"]
    given = first.get("thoughtSignature")
    if given is None:
        refuse(f"Function call is missing a thought_signature in functionCall parts. Function call `{call['name']}`")
    given = given.replace("-", "+").replace("_", "/")  # SDKs send the URL's alphabet
    thought = f"{call['name']} {json.dumps(call.get('args', {}), sort_keys=True)}"
    if given != SKIP and not mind.is_signed(given, thought, model):
        refuse("Corrupted thought signature.")


def _part(part: dict[str, Any], role: str, read: Conversation, where: str) -> None:
    _known(part, _PART | {"thought", "thoughtSignature", "videoMetadata", "mediaResolution"}, f" at '{where}'")
    data = [name for name in part if name in _PART]
    if len(data) != 1:
        refuse(f"* GenerateContentRequest.{where}[0].data: required oneof field 'data' must have one initialized field")
    value, heard = part[data[0]], read.heard
    match data[0]:
        case "text":
            read.size += mind.tokens(value)
            heard.text += value if role == "user" else ""
        case "inlineData":
            heard.shown.append(_inline(value, where))
            read.size += 258
        case "fileData":
            if not str(value.get("fileUri")).startswith("https://generativelanguage.googleapis.com/v1beta/files/"):
                refuse("Cannot fetch content from the provided URL. Please ensure the URL is valid and accessible.")
            heard.shown.append(f"a file {value['fileUri']}")
        case "functionCall":
            if role != "model" or not isinstance(value.get("args", {}), dict):
                refuse(f"Invalid value at '{where}[0].function_call'")
            read.size += mind.tokens(value.get("args", {}))
        case "functionResponse":
            if role != "user" or not isinstance(value.get("response"), dict):
                refuse(f"Invalid value at '{where}[0].function_response.response'")
            _known(value, words("id name response parts willContinue scheduling"), f" at '{where}'")
            heard.results.append(_told(value["response"]))
            heard.shown += [_inline(inner["inlineData"], where) for inner in value.get("parts", [])]
            read.size += mind.tokens(value["response"])


def _told(response: dict[str, Any]) -> str:
    for name in ("output", "result", "error"):
        if name in response:
            return ("error " if name == "error" else "") + str(response[name])
    return json.dumps(response)


def _inline(value: dict[str, Any], where: str) -> str:
    kind, data = str(value.get("mimeType")), value.get("data", "").replace("-", "+").replace("_", "/")
    if not kind.startswith(_MEDIA):
        refuse(f"Unsupported MIME type: {kind}")
    try:
        if kind in mind.IMAGE_MARKS:
            return mind.image(kind, data)
        if kind == "application/pdf":
            return mind.pdf(data)
        return f"{kind} of {len(mind.unpacked(data))} bytes"
    except ValueError as error:
        refuse(f"Provided data is not valid. {where}: {error}")
