"""Pure: the first call of a model, ready to be copied, in the languages people ask for.

Knows no key: the reader's own stands in the environment of what is copied. Neighbours: `model_views.py`.
"""

import json
import shlex
from dataclasses import dataclass
from typing import Final

KEY_VARIABLE = "RESPAN_API_KEY"


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of code; `id` is a part of an HTML id."""

    id: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class _Call:
    """How a kind of model is called. `python`, `typescript`: the members beside the model; `shown`: of its answer."""

    path: str
    method: str
    python: str
    typescript: str
    # The members of a JSON body; None: a form with a file.
    body: str | None
    shown_python: str
    shown_typescript: str


def _simple(path: str, method: str, member: str, value: str, shown: str) -> _Call:
    """Return a call with one member of text, whose answer is shown alike in both languages."""
    return _Call(
        path, method, f'    {member}="{value}",\n', f'  {member}: "{value}",\n', json.dumps({member: value}),
        f"print(answer.{shown})", f"console.log(answer.{shown});",
    )  # fmt: skip


_CALLS: Final = {
    "chat": _Call(
        path="chat/completions",
        method="chat.completions.create",
        python='    messages=[{"role": "user", "content": "Hello"}],\n',
        typescript='  messages: [{ role: "user", content: "Hello" }],\n',
        body='{"messages": [{"role": "user", "content": "Hello"}]}',
        shown_python="print(answer.choices[0].message.content)",
        shown_typescript="console.log(answer.choices[0].message.content);",
    ),
    "completion": _simple("completions", "completions.create", "prompt", "Hello", "choices[0].text"),
    "embedding": _simple("embeddings", "embeddings.create", "input", "Hello", "data[0].embedding"),
    "image": _simple("images/generations", "images.generate", "prompt", "A lighthouse at dusk", "data[0]"),
    "moderation": _simple("moderations", "moderations.create", "input", "Hello", "results[0].flagged"),
    "speech": _Call(
        path="audio/speech",
        method="audio.speech.create",
        python='    input="Hello",\n    voice="alloy",\n',
        typescript='  input: "Hello",\n  voice: "alloy",\n',
        body='{"input": "Hello", "voice": "alloy"}',
        shown_python='answer.write_to_file("hello.mp3")',
        shown_typescript='fs.writeFileSync("hello.mp3", Buffer.from(await answer.arrayBuffer()));',
    ),
    "transcription": _Call(
        path="audio/transcriptions",
        method="audio.transcriptions.create",
        python='    file=open("hello.mp3", "rb"),\n',
        typescript='  file: fs.createReadStream("hello.mp3"),\n',
        body=None,
        shown_python="print(answer.text)",
        shown_typescript="console.log(answer.text);",
    ),
}


def of(kind: str, *, base_url: str, model: str) -> list[Snippet]:
    """Return a first call of a model of this kind (`providers.KINDS`) in Python, TypeScript and curl.

    Whatever the model's name holds, it stays a string.
    """
    call, url, name = _CALLS[kind], json.dumps(base_url), json.dumps(model)
    files = 'import fs from "fs";\n' if "fs." in call.typescript + call.shown_typescript else ""
    python = _PYTHON.format(
        url=url, name=name, key=KEY_VARIABLE, method=call.method, members=call.python, shown=call.shown_python
    )
    typescript = files + _TYPESCRIPT.format(
        url=url, name=name, key=KEY_VARIABLE, method=call.method, members=call.typescript, shown=call.shown_typescript
    )
    return [
        Snippet("python", "Python", python),
        Snippet("typescript", "TypeScript", typescript),
        Snippet("curl", "curl", _curl(call, base_url, model)),
    ]


def of_group(*, base_url: str, model: str, group_id: str) -> list[Snippet]:
    """Return a chat that names a load balance group, in the same languages; `model` has to be sent all the same."""
    call, url, name = _CALLS["chat"], json.dumps(base_url), json.dumps(model)
    group = json.dumps(group_id)
    python = _PYTHON.format(
        url=url, name=name, key=KEY_VARIABLE, method=call.method, shown=call.shown_python,
        members=f'{call.python}    extra_body={{"load_balance_group": {{"group_id": {group}}}}},\n',
    )  # fmt: skip
    typescript = _TYPESCRIPT.format(
        url=url, name=name, key=KEY_VARIABLE, method=call.method, shown=call.shown_typescript,
        members=f"{call.typescript}  // @ts-expect-error: a parameter of Respan\n"
        f"  load_balance_group: {{ group_id: {group} }},\n",
    )  # fmt: skip
    body = {"model": model, **json.loads(call.body or "{}"), "load_balance_group": {"group_id": group_id}}
    curl = (
        _curl_head(base_url, call) + f'  -H "Content-Type: application/json" \\\n  -d {shlex.quote(json.dumps(body))}\n'
    )
    return [
        Snippet("python", "Python", python),
        Snippet("typescript", "TypeScript", typescript),
        Snippet("curl", "curl", curl),
    ]


def _curl_head(base_url: str, call: _Call) -> str:
    return f'curl {base_url}{call.path} \\\n  -H "Authorization: Bearer ${KEY_VARIABLE}" \\\n'


def _curl(call: _Call, base_url: str, model: str) -> str:
    head = _curl_head(base_url, call)
    if call.body is None:
        return f"{head}  -F {shlex.quote(f'model={model}')} \\\n  -F file=@hello.mp3\n"
    body = shlex.quote(json.dumps({"model": model, **json.loads(call.body)}))
    saved = " \\\n  --output hello.mp3" if "mp3" in call.shown_python else ""
    return f'{head}  -H "Content-Type: application/json" \\\n  -d {body}{saved}\n'


_PYTHON = """\
import os
from openai import OpenAI

client = OpenAI(base_url={url}, api_key=os.environ["{key}"])
answer = client.{method}(
    model={name},
{members})
{shown}
"""

_TYPESCRIPT = """\
import OpenAI from "openai";

const client = new OpenAI({{ baseURL: {url}, apiKey: process.env.{key} }});
const answer = await client.{method}({{
  model: {name},
{members}}});
{shown}
"""
