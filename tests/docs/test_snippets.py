"""Every snippet of the documentation does what it says: each is run as it is shown, against a running product.

The reader is an organization with credits and keys of its own for OpenAI, Anthropic and Google, whose addresses are
those of fake vendors; all else is the shipped catalogue. Only the placeholders are filled in. Beside the snippets lie
the files they name: a PDF, an image, a sound. Neighbours: `pages.py`, `runner.py`.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.test import override_settings

from tests.docs.pages import ROOT, Fence, pages
from tests.sdk.speakers import PDF, PNG

# Packages of TypeScript snippets, installed by the long test.
NPM = ("openai", "@anthropic-ai/sdk", "@google/genai")
# Pages of people who run servers and install programs: much of what they show changes a machine.
MAY_SHOW_MORE_THAN_RUNS = ("operate/", "integrations/")
MEDIA_MODELS = ["gpt-4o-mini-tts", "gpt-4o-mini-transcribe", "whisper-1", "gpt-image-1.5", "omni-moderation-latest"]
TEXT_MODELS = ["gpt-5.4", "gpt-4o-mini", "text-embedding-3-small"]
# What stands before the snippets of a page in Bash: an error's status is an error, and which one it was is said.
_BASH = """\
set -euo pipefail
curl() { command curl --silent --show-error --fail-with-body --max-time 20 "$@"; }
"""
ALL = pages()
FENCES = [fence for page in ALL.values() for fence in page.fences]


@pytest.fixture
def reader(tenant):
    """Return the tenant whose key stands in the snippets."""
    from gateway import credentials

    one = tenant(credits_usd="20", local=True)
    vendors, provider = one.stack.vendors, one.stack.provider
    accounts = [
        ("openai", "text", vendors.openai.base_url, TEXT_MODELS),
        ("openai", "media", provider.base_url, MEDIA_MODELS),
        ("anthropic", "own", vendors.anthropic.base_url, []),
        ("google", "own", vendors.gemini.base_url, []),
    ]
    with override_settings(RESPAN_UPSTREAM_ALLOW=[*vendors.addresses, provider.address]):
        for name, called, base_url, models in accounts:
            credentials.store(
                organization=one.organization,
                provider=name,
                name=called,
                secret="own-key-of-the-reader",
                base_url=base_url,
                models=models,
                actor=None,
                address=None,
            )
    return one


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the files that snippets name."""
    (tmp_path / "draconomicon.pdf").write_bytes(base64.b64decode(PDF))
    (tmp_path / "boardwalk.png").write_bytes(base64.b64decode(PNG))
    (tmp_path / "speech.mp3").write_bytes(b"ID3" + bytes(500))
    (tmp_path / "pride_and_prejudice.txt").write_text("It is a truth universally acknowledged. " * 1_000)
    return tmp_path


def filled(text: str, reader) -> str:
    return text.replace("{{base_url}}", reader.stack.base_url).replace("{{api_key}}", reader.key)


def environment(reader, folder: Path) -> dict[str, str]:
    """Return the environment of somebody who has followed the quickstart."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "RESPAN_API_KEY": reader.key,
        "RESPAN_BASE_URL": f"{reader.stack.base_url}/api",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run(language: str) -> dict[str, list[Fence]]:
    found: dict[str, list[Fence]] = {}
    for fence in FENCES:
        if fence.language == language and fence.is_run:
            found.setdefault(fence.page, []).append(fence)
    return found


def test_every_python_snippet_runs(reader, folder):
    asked = [
        {"page": page, "fences": [{"place": fence.place, "text": filled(fence.text, reader)} for fence in fences]}
        for page, fences in run("python").items()
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.docs.runner"],
        input=json.dumps(asked),
        env=environment(reader, folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    failed = json.loads(ended.stdout)
    assert not failed, "\n\n".join(failed.values())


def test_a_prompt_reaches_the_provider(reader):
    """A fake that draws without a prompt would let a snippet pass that says nothing to it."""
    reader.client.images.generate(model="gpt-image-1.5", prompt="A lighthouse at dusk")
    assert json.loads(reader.stack.provider.requests[-1].body)["prompt"] == "A lighthouse at dusk"


def test_every_bash_snippet_runs(reader, folder):
    failed = []
    for page, fences in run("bash").items():
        script = _BASH + "\n".join(f"echo '{fence.place}' >&2\n{filled(fence.text, reader)}" for fence in fences)
        ended = subprocess.run(
            ["/bin/bash", "-c", script],
            env=environment(reader, folder),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if ended.returncode:
            failed.append(f"{page} ended with {ended.returncode}\n{ended.stderr[-800:]}\n{ended.stdout[-500:]}")
    assert not failed, "\n\n".join(failed)


@pytest.mark.parametrize("fence", [f for f in FENCES if f.language == "json"], ids=lambda fence: fence.place)
def test_a_piece_of_json_is_json(fence):
    json.loads(re.sub(r"\{\{\w+\}\}", "x", fence.text))


@pytest.mark.parametrize("fence", [f for f in FENCES if f.language == "python"], ids=lambda fence: fence.place)
def test_a_python_snippet_can_be_compiled(fence):
    compile(fence.text, fence.place, "exec")


def test_what_is_not_run_says_why():
    assert [fence.place for fence in FENCES if not fence.is_run and not fence.reason] == []


def test_every_fence_names_its_language():
    assert [fence.place for fence in FENCES if not fence.language] == []


def test_a_page_shows_no_more_than_it_proves(record_property):
    """TypeScript counts neither way: it is run by the long test."""
    seldom = []
    unproven = [fence.place for fence in FENCES if not fence.is_run]
    record_property("no-run", ", ".join(unproven))
    for page in ALL.values():
        shown = [fence.is_run for fence in page.fences if fence.language in ("python", "bash")]
        if shown.count(False) > shown.count(True) and not page.path.startswith(MAY_SHOW_MORE_THAN_RUNS):
            seldom.append(page.path)
    assert not seldom


@pytest.mark.long
def test_every_typescript_snippet_runs(reader, folder):
    """Packages come from npm, by way of whatever registry this machine uses; types are taken off by esbuild."""
    cache = Path(os.environ.get("RESPAN_NPM_CACHE") or folder / "npm")
    cache.mkdir(parents=True, exist_ok=True)
    if not all((cache / "node_modules" / name).is_dir() for name in (*NPM, "esbuild")):
        npm = [shutil.which("npm"), "install", "--no-audit", "--no-fund", "--prefix", str(cache), *NPM, "esbuild"]
        subprocess.run(npm, check=True, timeout=400, capture_output=True)
    (folder / "node_modules").symlink_to(cache / "node_modules")
    installed = {path.name for path in (cache / "node_modules").iterdir()} | set(NPM)
    failed = []
    for page, fences in run("typescript").items():
        text = filled(_merged(fences), reader)
        wanted = {name for name in re.findall(r'from "([^".][^"]*)"', text) if not name.startswith("node:")}
        if not wanted <= installed | {"fs"}:
            continue  # a package of an integration's own
        source = folder / f"{page.replace('/', '-')}.ts"
        source.write_text(text)
        built = source.with_suffix(".mjs")
        esbuild = [str(cache / "node_modules/.bin/esbuild"), str(source), "--format=esm", f"--outfile={built}"]
        subprocess.run([*esbuild, "--log-level=error"], check=True, capture_output=True, timeout=60)
        node = [shutil.which("node"), str(built)]
        env = environment(reader, folder)
        ended = subprocess.run(node, env=env, cwd=folder, capture_output=True, text=True, timeout=60)
        if ended.returncode:
            failed.append(f"{page}\n{ended.stderr[-1500:]}")
    assert not failed, "\n\n".join(failed)


def _merged(fences: list[Fence]) -> str:
    """Put a page's snippets into one module: each import once, and each name declared once."""
    imports: dict[str, None] = {}
    body: list[str] = []
    for fence in fences:
        lines = fence.text.splitlines()
        imports |= dict.fromkeys(line for line in lines if line.startswith("import "))
        rest = "\n".join(line for line in lines if not line.startswith("import "))
        body.append(re.sub(r"^const (\w+) =", r"var \1 =", rest, flags=re.M))
    return "\n".join([*imports, *body]) + "\n"
