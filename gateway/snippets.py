"""Pure: the first call of a model, ready to be copied, in the languages people ask for.

Knows no key: the reader's own stands in the environment of what is copied. Neighbours: `model_views.py`.
"""

import json
import shlex
from dataclasses import dataclass

KEY_VARIABLE = "RESPAN_API_KEY"


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of code; `id` is a part of an HTML id."""

    id: str
    language: str
    text: str


def chat(*, base_url: str, model: str) -> list[Snippet]:
    """Return a chat completion in Python, TypeScript and curl. Whatever the model's name holds, it stays a string."""
    url, name = json.dumps(base_url), json.dumps(model)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    return [
        Snippet("python", "Python", _PYTHON.format(url=url, name=name, key=KEY_VARIABLE)),
        Snippet("typescript", "TypeScript", _TYPESCRIPT.format(url=url, name=name, key=KEY_VARIABLE)),
        Snippet("curl", "curl", _CURL.format(url=base_url, key=KEY_VARIABLE, body=shlex.quote(body))),
    ]


_PYTHON = """\
import os
from openai import OpenAI

client = OpenAI(base_url={url}, api_key=os.environ["{key}"])
answer = client.chat.completions.create(
    model={name},
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)
"""

_TYPESCRIPT = """\
import OpenAI from "openai";

const client = new OpenAI({{ baseURL: {url}, apiKey: process.env.{key} }});
const answer = await client.chat.completions.create({{
  model: {name},
  messages: [{{ role: "user", content: "Hello" }}],
}});
console.log(answer.choices[0].message.content);
"""

_CURL = """\
curl {url}chat/completions \\
  -H "Authorization: Bearer ${key}" \\
  -H "Content-Type: application/json" \\
  -d {body}
"""
