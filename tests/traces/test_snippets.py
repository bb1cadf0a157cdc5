"""A stored request as code: it runs, it sends exactly the request again, and nothing in it becomes code."""

import ast
import json
import shutil
import subprocess
import textwrap
from types import SimpleNamespace

import pytest

from traces import snippets

BASE_URL = "https://respan.example.test/api/"
NASTY = (
    "it's \"quoted\" `id` $(id) ${HOME} \\ back\\\\slash\nnew line\r\ttab \u202e reversed \u2028 \u0000 '; rm -rf / #"
    " {{ 7 }} %s 💥 naïve שלום"
)
REQUEST = {
    "model": "gpt-5-mini",
    "temperature": 0.2,
    "n": 1,
    "messages": [
        {"role": "system", "content": NASTY},
        {"role": "user", "content": [{"type": "text", "text": NASTY}], "name": NASTY},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "strict": True, "parameters": {"a'b\"c": None}}}],
    "customer_identifier": NASTY,
    "metadata": {NASTY: NASTY},
}


def code(language, request=REQUEST, base_url=BASE_URL):
    return {each.name: each.code for each in snippets.snippets(request, base_url=base_url)}[language]


class Recorder:
    """Stands where the OpenAI SDK stands in a snippet, and remembers what it was asked for."""

    def __init__(self):
        self.client, self.call = None, None

    def OpenAI(self, **options):
        self.client = options
        return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=self.create)))

    def create(self, **call):
        self.call = call
        message = SimpleNamespace(content="Hi")
        return SimpleNamespace(choices=[SimpleNamespace(message=message)])


def run_python(text):
    recorder = Recorder()
    text = text.replace("from openai import OpenAI", "").replace("import os", "")
    environment = {"RESPAN_API_KEY": "rsp_live_x"}
    exec(  # noqa: S102  (that it can be run is the promise)
        compile(text, "snippet", "exec"),
        {"OpenAI": recorder.OpenAI, "os": SimpleNamespace(environ=environment), "print": lambda *a, **k: None},
    )
    return recorder


def test_the_python_snippet_sends_the_same_request():
    recorder = run_python(code("python"))
    assert recorder.client == {"base_url": BASE_URL, "api_key": "rsp_live_x"}
    extra = recorder.call.pop("extra_body")
    assert recorder.call | extra == REQUEST
    assert set(extra) == {"customer_identifier"}


def test_the_sdk_takes_what_the_python_snippet_gives_by_name():
    import inspect

    from openai.resources.chat.completions import Completions

    assert set(inspect.signature(Completions.create).parameters) >= snippets._SDK_PARAMETERS


def test_the_curl_snippet_sends_the_same_request_through_a_shell(tmp_path):
    """A program named `curl` writes down its arguments: what the shell made of the snippet."""
    program = tmp_path / "curl"
    program.write_text(
        textwrap.dedent(
            """\
            #!/bin/sh
            for each in "$@"; do printf '%s\\000' "$each"; done > "$OUT"
            """
        )
    )
    program.chmod(0o755)
    out = tmp_path / "arguments"
    subprocess.run(
        [shutil.which("sh"), "-c", code("curl")],
        check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "OUT": str(out), "RESPAN_API_KEY": "rsp_live_x"},
        timeout=10,
    )
    arguments = out.read_bytes().decode().split("\0")[:-1]
    assert arguments[0] == f"{BASE_URL}chat/completions"
    assert "Authorization: Bearer rsp_live_x" in arguments
    assert json.loads(arguments[arguments.index("--data-binary") + 1]) == REQUEST


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node here")
def test_the_typescript_snippet_sends_the_same_request(tmp_path):
    text = (
        code("typescript")
        .replace('import OpenAI from "openai";', "")
        .replace(" as unknown as OpenAI.Chat.ChatCompletionCreateParamsNonStreaming", "")
    )
    assert " as " not in text.replace(NASTY, ""), "what is left is JavaScript"
    program = (
        "class OpenAI { constructor(o) { this.chat = {completions: {create: async (r) => {"
        "process.stdout.write(JSON.stringify([o, r])); return {choices: [{message: {content: ''}}]}; }}}; } }\n"
        f"console.log = () => {{}};\n{text}"
    )
    path = tmp_path / "snippet.mjs"
    path.write_text(program)
    done = subprocess.run(
        [shutil.which("node"), str(path)],
        check=True,
        capture_output=True,
        env={"RESPAN_API_KEY": "rsp_live_x"},
        timeout=20,
    )
    assert json.loads(done.stdout) == [{"baseURL": BASE_URL, "apiKey": "rsp_live_x"}, REQUEST]


@pytest.mark.parametrize("language", ["curl", "python", "typescript"])
def test_nothing_that_hides_or_reorders_text_is_in_a_snippet(language):
    text = code(language)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "RESPAN_API_KEY" in text


def test_a_stream_is_read_as_one():
    request = REQUEST | {"stream": True}
    assert "curl -N " in code("curl", request)
    assert "for chunk in answer:" in code("python", request)
    ast.parse(code("python", request))
    assert "for await" in code("typescript", request)
    assert "ParamsStreaming" in code("typescript", request)


def test_a_long_request_is_sent_from_a_file():
    request = REQUEST | {"messages": [{"role": "user", "content": "x" * snippets.MAX_INLINE_CHARS}]}
    found = snippets.snippets(request, base_url=BASE_URL)
    assert [each.name for each in found] == ["curl", "python"]
    assert all(len(each.code) < 1_000 and "request.json" in each.code for each in found)
    ast.parse(found[1].code)


def test_an_address_with_a_quote_stays_an_address():
    base_url = "https://it's.example.test/api/"
    assert run_python(code("python", base_url=base_url)).client["base_url"] == base_url
    assert "'\"'\"'" in code("curl", base_url=base_url)
