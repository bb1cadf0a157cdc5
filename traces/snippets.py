"""A stored request as code that makes the same call again: curl, Python and TypeScript.

Pure. The key is never in a snippet, only the name of the environment variable that holds it. Whatever a request
contains arrives in the snippet as data: quotes, newlines, and characters that would reorder or hide text are escaped.
Neighbours: `detail.py` (Logs), the templates that show them.
"""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

KEY_VARIABLE: Final = "RESPAN_API_KEY"
# A longer request is a file beside the command, not a wall of text.
MAX_INLINE_CHARS: Final = 16_000
REQUEST_FILE: Final = "request.json"
# What `chat.completions.create` of the OpenAI SDKs takes by name; everything else goes through as it is.
_SDK_PARAMETERS: Final = frozenset(
    (
        *("messages", "model", "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs"),
        *("max_completion_tokens", "max_tokens", "metadata", "modalities", "n", "parallel_tool_calls", "prediction"),
        *("presence_penalty", "prompt_cache_key", "reasoning_effort", "response_format", "safety_identifier", "seed"),
        *("service_tier", "stop", "store", "stream", "stream_options", "temperature", "tool_choice", "tools"),
        *("top_logprobs", "top_p", "user", "verbosity", "web_search_options"),
    )
)
_INDENT: Final = "    "


@dataclass(frozen=True, slots=True)
class Snippet:
    """Code in one language; `name` is what choices of a language are remembered by."""

    name: str
    label: str
    code: str


@dataclass(frozen=True, slots=True)
class _Sdk:
    """How an SDK makes a call: its client, the method, what it takes by name, and how its answer is shown."""

    path: str  # behind the base URL
    parameters: frozenset[str]
    package: str  # of npm; Python's is `module`
    module: str
    client: str
    base: str  # of the client, behind the base URL
    method: str
    types: str  # of a request in TypeScript, less `Streaming` or `NonStreaming`
    python_answer: str
    python_stream: str
    typescript_answer: str
    typescript_stream: str


_CHAT: Final = _Sdk(
    path="chat/completions",
    parameters=_SDK_PARAMETERS,
    package="openai",
    module="openai",
    client="OpenAI",
    base="",
    method="chat.completions.create",
    types="OpenAI.Chat.ChatCompletionCreateParams",
    python_answer="print(answer.choices[0].message.content)",
    python_stream=(
        'for chunk in answer:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="")'
    ),
    typescript_answer="console.log(answer.choices[0].message.content);",
    typescript_stream=(
        'for await (const chunk of answer) {\n  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");\n}'
    ),
)
_RESPONSES: Final = _Sdk(
    path="responses",
    parameters=frozenset(
        (
            *("background", "include", "input", "instructions", "max_output_tokens", "metadata", "model"),
            *("parallel_tool_calls", "previous_response_id", "reasoning", "service_tier", "store", "stream"),
            *("temperature", "text", "tool_choice", "tools", "top_p", "truncation", "user"),
        )
    ),
    package="openai",
    module="openai",
    client="OpenAI",
    base="",
    method="responses.create",
    types="OpenAI.Responses.ResponseCreateParams",
    python_answer="print(answer.output_text)",
    python_stream=(
        'for event in answer:\n    if event.type == "response.output_text.delta":\n        print(event.delta, end="")'
    ),
    typescript_answer="console.log(answer.output_text);",
    typescript_stream=(
        "for await (const event of answer) {\n"
        '  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);\n}'
    ),
)
_MESSAGES: Final = _Sdk(
    path="anthropic/v1/messages",
    parameters=frozenset(
        (
            *("max_tokens", "messages", "metadata", "model", "stop_sequences", "stream", "system", "thinking"),
            *("tool_choice", "tools"),
        )
    ),
    package="@anthropic-ai/sdk",
    module="anthropic",
    client="Anthropic",
    base="anthropic",
    method="messages.create",
    types="Anthropic.MessageCreateParams",
    python_answer="print(answer.content)",
    python_stream="for event in answer:\n    print(event)",
    typescript_answer="console.log(answer.content);",
    typescript_stream="for await (const event of answer) {\n  console.log(event);\n}",
)
_SDKS: Final = {"messages": _MESSAGES, "responses": _RESPONSES}
GENERATE_CONTENT: Final = "generateContent"


def snippets(
    request: Mapping[str, Any], *, base_url: str, operation: str = "", model: str = "", is_stream: bool = False
) -> list[Snippet]:
    """Return the snippets of a request; of a very long one, how to send it from a file.

    `operation` is what the logs call it; without one it is a chat. Where the address of a call names its `model` and
    whether it is a stream (Gemini's), the request does not.
    """
    if operation == GENERATE_CONTENT:
        return _of_contents(request, base_url, model, is_stream=is_stream)
    sdk = _SDKS.get(operation, _CHAT)
    is_stream, url = request.get("stream") is True, f"{base_url}{sdk.path}"
    if _is_long(request):
        return [
            Snippet("curl", "curl", _curl(f"@{REQUEST_FILE}", url, is_stream=is_stream)),
            Snippet("python", "Python", _python_of_file(url)),
        ]
    return [
        Snippet("curl", "curl", _curl(_json(request), url, is_stream=is_stream)),
        Snippet("python", "Python", _python(sdk, request, base_url, is_stream=is_stream)),
        Snippet("typescript", "TypeScript", _typescript(sdk, request, base_url, is_stream=is_stream)),
    ]


def _of_contents(request: Mapping[str, Any], base_url: str, model: str, *, is_stream: bool) -> list[Snippet]:
    """Return snippets without an SDK: Google's have another shape than what they send."""
    method = "streamGenerateContent?alt=sse" if is_stream else GENERATE_CONTENT
    url = f"{base_url}google/gemini/v1beta/models/{quote(model)}:{method}"
    data = f"@{REQUEST_FILE}" if _is_long(request) else _json(request)
    return [
        Snippet("curl", "curl", _curl(data, url, is_stream=is_stream)),
        Snippet("python", "Python", _python_of_file(url)),
    ]


def _is_long(request: Mapping[str, Any]) -> bool:
    return len(json.dumps(request)) > MAX_INLINE_CHARS


# --- curl -------------------------------------------------------------------------------------------------------------


def _curl(data: str, url: str, *, is_stream: bool) -> str:
    # A single quote ends a quoted word of the shell, so it is written outside the quotes.
    quoted = "'" + data.replace("'", "'\\''") + "'"
    return (
        f"curl{' -N' if is_stream else ''} {shlex.quote(url)} \\\n"
        f'  -H "Authorization: Bearer ${KEY_VARIABLE}" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  --data-binary {quoted}"
    )


# --- Python -----------------------------------------------------------------------------------------------------------


def _python(sdk: _Sdk, request: Mapping[str, Any], base_url: str, *, is_stream: bool) -> str:
    known, other = _split(sdk, request)
    arguments = [(name, _python_value(value, 1)) for name, value in known.items()]
    if other:
        arguments.append(("extra_body", _python_value(other, 1)))
    base = _quoted(f"{base_url}{sdk.base}", _python_char)
    return (
        f"import os\n\nfrom {sdk.module} import {sdk.client}\n\n"
        f'client = {sdk.client}(base_url={base}, api_key=os.environ["{KEY_VARIABLE}"])\n'
        f"answer = client.{sdk.method}(\n"
        f"{''.join(f'{_INDENT}{name}={value},{chr(10)}' for name, value in arguments)})\n"
        f"{sdk.python_stream if is_stream else sdk.python_answer}"
    )


def _python_of_file(url: str) -> str:
    return (
        "import json\nimport os\n\nimport httpx\n\n"
        f'with open("{REQUEST_FILE}") as file:\n    request = json.load(file)\n'
        f"answer = httpx.post(\n    {_quoted(url, _python_char)},\n    json=request,\n"
        f'    headers={{"Authorization": f"Bearer {{os.environ[\'{KEY_VARIABLE}\']}}"}},\n    timeout=600,\n)\n'
        "print(answer.text)"
    )


def _python_value(value: Any, depth: int) -> str:
    if isinstance(value, bool) or value is None:
        return repr(value)
    return _written(value, depth, char=_python_char, of=_python_value, key=lambda name: _quoted(name, _python_char))


def _python_char(char: str) -> str:
    return f"\\U{ord(char):08x}" if ord(char) > 0xFFFF else f"\\u{ord(char):04x}"


# --- TypeScript -------------------------------------------------------------------------------------------------------


def _typescript(sdk: _Sdk, request: Mapping[str, Any], base_url: str, *, is_stream: bool) -> str:
    _, other = _split(sdk, request)
    kind = "Streaming" if is_stream else "NonStreaming"
    # The SDK's types do not know Respan's own parameters.
    cast = f" as unknown as {sdk.types}{kind}" if other else ""
    return (
        f'import {sdk.client} from "{sdk.package}";\n\n'
        f"const client = new {sdk.client}({{ baseURL: {_quoted(f'{base_url}{sdk.base}', _json_char)}, "
        f"apiKey: process.env.{KEY_VARIABLE} }});\n"
        f"const answer = await client.{sdk.method}({_json_value(dict(request), 0)}{cast});\n"
        f"{sdk.typescript_stream if is_stream else sdk.typescript_answer}"
    )


# --- Values -----------------------------------------------------------------------------------------------------------


def _split(sdk: _Sdk, request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part what an SDK takes by name from what it does not know."""
    known = {name: value for name, value in request.items() if name in sdk.parameters}
    return known, {name: value for name, value in request.items() if name not in sdk.parameters}


def _json(value: Any) -> str:
    return _json_value(value, 0)


def _json_value(value: Any, depth: int) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return _written(value, depth, char=_json_char, of=_json_value, key=lambda name: _quoted(name, _json_char))


def _json_char(char: str) -> str:
    return json.dumps(char)[1:-1]


def _written(
    value: Any,
    depth: int,
    *,
    char: Callable[[str], str],
    of: Callable[[Any, int], str],
    key: Callable[[str], str],
) -> str:
    """Write texts, numbers, lists and objects, which look the same in JSON, JavaScript and Python."""
    if isinstance(value, str):
        return _quoted(value, char)
    if isinstance(value, Mapping):
        parts = [f"{key(name)}: {of(each, depth + 1)}" for name, each in value.items()]
        return _enclosed("{", "}", parts, depth)
    if isinstance(value, list):
        return _enclosed("[", "]", [of(each, depth + 1) for each in value], depth)
    return json.dumps(value)


def _enclosed(start: str, end: str, parts: list[str], depth: int) -> str:
    """Write a list on one line where it is short, else one part a line."""
    line = f"{start}{', '.join(parts)}{end}"
    if len(line) + 4 * depth <= 88 and "\n" not in line:
        return line
    inner = _INDENT * (depth + 1)
    joined = ",\n".join(f"{inner}{part}" for part in parts)
    return f"{start}\n{joined}\n{_INDENT * depth}{end}"


def _quoted(text: str, char: Callable[[str], str]) -> str:
    """Write a text in double quotes; what does not print, and what reorders what does, is escaped."""
    return '"' + "".join(_escaped(each, char) for each in text) + '"'


_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escaped(each: str, char: Callable[[str], str]) -> str:
    return _SHORT.get(each) or (each if each.isprintable() else char(each))
