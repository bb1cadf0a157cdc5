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


def snippets(request: Mapping[str, Any], *, base_url: str) -> list[Snippet]:
    """Return the snippets of a chat request; of a very long one, how to send it from a file."""
    if len(json.dumps(request)) > MAX_INLINE_CHARS:
        return [
            Snippet("curl", "curl", _curl(f"@{REQUEST_FILE}", base_url, is_stream=_is_stream(request))),
            Snippet("python", "Python", _python_of_file(base_url)),
        ]
    return [
        Snippet("curl", "curl", _curl(_json(request), base_url, is_stream=_is_stream(request))),
        Snippet("python", "Python", _python(request, base_url)),
        Snippet("typescript", "TypeScript", _typescript(request, base_url)),
    ]


def _is_stream(request: Mapping[str, Any]) -> bool:
    return request.get("stream") is True


# --- curl -------------------------------------------------------------------------------------------------------------


def _curl(data: str, base_url: str, *, is_stream: bool) -> str:
    # A single quote ends a quoted word of the shell, so it is written outside the quotes.
    quoted = "'" + data.replace("'", "'\\''") + "'"
    return (
        f"curl{' -N' if is_stream else ''} {shlex.quote(f'{base_url}chat/completions')} \\\n"
        f'  -H "Authorization: Bearer ${KEY_VARIABLE}" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  --data-binary {quoted}"
    )


# --- Python -----------------------------------------------------------------------------------------------------------

_PYTHON_HEAD: Final = "import os\n\nfrom openai import OpenAI\n\n"


def _python(request: Mapping[str, Any], base_url: str) -> str:
    known, other = _split(request)
    arguments = [(name, _python_value(value, 1)) for name, value in known.items()]
    if other:
        arguments.append(("extra_body", _python_value(other, 1)))
    return (
        f"{_PYTHON_HEAD}{_python_client(base_url)}"
        f"answer = client.chat.completions.create(\n"
        f"{''.join(f'{_INDENT}{name}={value},{chr(10)}' for name, value in arguments)})\n"
        f"{_PYTHON_STREAM if _is_stream(request) else _PYTHON_ANSWER}"
    )


def _python_client(base_url: str) -> str:
    return f'client = OpenAI(base_url={_quoted(base_url, _python_char)}, api_key=os.environ["{KEY_VARIABLE}"])\n'


_PYTHON_ANSWER: Final = "print(answer.choices[0].message.content)"
_PYTHON_STREAM: Final = (
    'for chunk in answer:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="")'
)


def _python_of_file(base_url: str) -> str:
    return (
        "import json\nimport os\n\nimport httpx\n\n"
        f'with open("{REQUEST_FILE}") as file:\n    request = json.load(file)\n'
        f"answer = httpx.post(\n    {_quoted(f'{base_url}chat/completions', _python_char)},\n    json=request,\n"
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


def _typescript(request: Mapping[str, Any], base_url: str) -> str:
    _, other = _split(request)
    kind = "Streaming" if _is_stream(request) else "NonStreaming"
    # The SDK's types do not know Respan's own parameters.
    cast = f" as unknown as OpenAI.Chat.ChatCompletionCreateParams{kind}" if other else ""
    return (
        'import OpenAI from "openai";\n\n'
        f"const client = new OpenAI({{ baseURL: {_quoted(base_url, _json_char)}, "
        f"apiKey: process.env.{KEY_VARIABLE} }});\n"
        f"const answer = await client.chat.completions.create({_json_value(dict(request), 0)}{cast});\n"
        f"{_TYPESCRIPT_STREAM if _is_stream(request) else 'console.log(answer.choices[0].message.content);'}"
    )


_TYPESCRIPT_STREAM: Final = (
    'for await (const chunk of answer) {\n  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");\n}'
)


# --- Values -----------------------------------------------------------------------------------------------------------


def _split(request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part what the SDKs take by name from what they do not know."""
    known = {name: value for name, value in request.items() if name in _SDK_PARAMETERS}
    return known, {name: value for name, value in request.items() if name not in _SDK_PARAMETERS}


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
