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
import venv
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from django.test import override_settings

from tests.docs.pages import ROOT, Fence, Page, pages
from tests.sdk.speakers import PDF, PNG
from tests.stack import call

# Pages of people who run servers and install programs: much of what they show changes a machine.
MAY_SHOW_MORE_THAN_RUNS = ("operate/", "integrations/")
MEDIA_MODELS = [
    "gpt-4o-mini-tts",
    "gpt-4o-mini-transcribe",
    "whisper-1",
    "gpt-image-1.5",
    "dall-e-2",
    "omni-moderation-latest",
]
COMPLETIONS_MODEL = "gpt-3.5-turbo-instruct-0914"
TEXT_MODELS = ["gpt-5.4", "gpt-4o-mini", "text-embedding-3-small"]
# What stands before the snippets of a page in Bash: an error's status is an error, and which one it was is said.
_BASH = """\
set -euo pipefail
curl() { command curl --silent --show-error --fail-with-body --max-time 20 "$@"; }
"""
# What curl ends with when it was answered with an error.
REFUSED = 22
REFERENCE = "api/reference.md"
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
        ("openai", "completions", provider.base_url, [COMPLETIONS_MODEL]),
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


def run(language: str, *, installs: bool = False) -> dict[str, list[Fence]]:
    """Return the fences that run, page by page: those that install packages, or those that need none."""
    found: dict[str, list[Fence]] = {}
    for fence in FENCES:
        if fence.language == language and fence.is_run and ("installs" in fence.marks) == installs:
            found.setdefault(fence.page, []).append(fence)
    return found


def run_python(found: dict[str, list[Fence]], reader, folder: Path, *, python: str, page_s: int) -> str:
    """Run the fences of pages with an interpreter; return what failed."""
    asked = [
        {"page": page, "fences": [{"place": fence.place, "text": filled(fence.text, reader)} for fence in fences]}
        for page, fences in found.items()
    ]
    ended = subprocess.run(
        [python, "-m", "tests.docs.runner", str(page_s)],
        input=json.dumps(asked),
        env=environment(reader, folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110 + page_s * len(found),
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return "\n\n".join(json.loads(ended.stdout).values())


def run_bash(text: str, reader, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["/bin/bash", "-c", _BASH + filled(text, reader)],
        env=environment(reader, folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_python_snippet_runs(reader, folder):
    assert not (run_python(run("python"), reader, folder, python=sys.executable, page_s=30))


def test_every_python_snippet_of_the_readme_runs(reader, folder):
    shown = {"http://127.0.0.1:8000": reader.stack.base_url, "rsp_live_...": reader.key}
    page = Page("README.md", (ROOT / "README.md").read_text())
    fences = [fence for fence in page.fences if fence.language == "python"]
    for old, new in shown.items():
        assert all(old in fence.text for fence in fences)
        fences = [replace(fence, text=fence.text.replace(old, new)) for fence in fences]
    assert len(fences) == 3
    assert not run_python({page.path: fences}, reader, folder, python=sys.executable, page_s=30)


def test_a_prompt_reaches_the_provider(reader):
    """A fake that draws without a prompt would let a snippet pass that says nothing to it."""
    reader.client.images.generate(model="gpt-image-1.5", prompt="A lighthouse at dusk")
    assert json.loads(reader.stack.provider.requests[-1].body)["prompt"] == "A lighthouse at dusk"


def test_every_bash_snippet_runs(reader, folder):
    failed = []
    for page, fences in run("bash").items():
        asked = [fence for fence in fences if "refused" not in fence.marks]
        ended = run_bash("\n".join(f"echo '{fence.place}' >&2\n{fence.text}" for fence in asked), reader, folder)
        if ended.returncode:
            failed.append(f"{page} ended with {ended.returncode}\n{ended.stderr[-800:]}\n{ended.stdout[-500:]}")
    assert not failed, "\n\n".join(failed)


def test_what_is_said_to_be_refused_is_refused_with_the_error_below(reader, folder):
    shown = 0
    for page in ALL.values():
        for fence, below in zip(page.fences, page.fences[1:], strict=False):
            if "refused" in fence.marks:
                ended = run_bash(fence.text, reader, folder)
                assert ended.returncode == REFUSED, fence.place
                assert json.loads(ended.stdout) == json.loads(below.text), fence.place
                shown += 1
    assert shown == sum("refused" in fence.marks for fence in FENCES) > 0


# --- The reference: samples that want an id, a scope or a provider key -----------------------------------------------


def an_uploaded_file(reader) -> str:
    return reader.client.files.create(file=("notes.pdf", base64.b64decode(PDF)), purpose="user_data").id


def a_log(reader) -> str:
    answer = reader.chat("sandbox/echo")
    reader.log(answer.log_id)
    return answer.log_id


def a_kept_answer(reader) -> str:
    assert reader.chat("sandbox/echo", cache_enabled=True).status == 200
    listed = call(f"{reader.stack.base_url}/api/caches/", key=reader.key).json
    return listed["data"]["results"][0]["cache_key"]


def a_limit(reader) -> str:
    limit = {"name": "One", "compose": ["customer_identifier"], "metric": "request_count", "period": "minute"}
    body = json.dumps(limit | {"max_requests": 100}).encode()
    made = call(f"{reader.stack.base_url}/api/limit-policies/", key=reader.key, body=body)
    assert made.status == 201, made.body
    return made.json["id"]


# What stands in the place of an id -> how the reader comes to have such an id.
PLACES: dict[str, Callable[..., str]] = {
    "/file-abc123": lambda reader: f"/{an_uploaded_file(reader)}",
    "/log_…": lambda reader: f"/{a_log(reader)}",
    "/3f…": lambda reader: f"/{a_kept_answer(reader)}",
    "/limit_…": lambda reader: f"/{a_limit(reader)}",
}
WANTING = [fence for fence in ALL[REFERENCE].fences if not fence.is_run]


@pytest.fixture
def allowed(reader):
    """Return the reader with a key that may do everything."""
    from accounts import keys
    from accounts.models import Scope

    issued = keys.issue(
        organization=reader.organization, name="All", environment="production", created_by=reader.owner, scopes=[*Scope]
    )
    reader.key = issued.secret
    return reader


def test_every_sample_of_the_reference_runs_with_what_it_says_it_needs(allowed, folder):
    failed = []
    for fence in WANTING:
        text = fence.text
        for place, made in PLACES.items():
            if place in text:
                text = text.replace(place, made(allowed))
        assert "…" not in text, f"{fence.place}: nobody knows what stands in this place"
        ended = run_bash(text, allowed, folder)
        if ended.returncode:
            failed.append(f"{fence.place} ended with {ended.returncode}\n{ended.stderr[-500:]}\n{ended.stdout[-500:]}")
    assert not failed, "\n\n".join(failed)
    assert len(WANTING) > 10


# --- What fences are -------------------------------------------------------------------------------------------------


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


# --- With packages of others, which the long test installs ------------------------------------------------------------


def cache(name: str, folder: Path) -> Path:
    """Return where packages are installed: for good where RESPAN_PACKAGE_CACHE says so, else for this test."""
    found = Path(os.environ.get("RESPAN_PACKAGE_CACHE") or folder) / name
    found.mkdir(parents=True, exist_ok=True)
    return found


def pinned(page: str, packages: Iterable[str], *, to: str) -> list[str]:
    """Return packages as an installer wants them, in the version the page was checked with where it says one."""
    known = ALL[page].checked_with
    bare = {name: name.partition("[")[0] for name in packages}  # `name[extra]`
    return [f"{name}{to.format(known[bare[name]])}" if bare[name] in known else name for name in sorted(bare)]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", run("python", installs=True))
def test_every_python_snippet_of_an_integration_runs(page, reader, folder):
    fences = run("python", installs=True)[page]
    wanted = {word for fence in fences for word in fence.reason.partition("pip install ")[2].replace('"', "").split()}
    assert wanted, f"{page}: the first line of a fence that installs names its packages"
    place = cache(page.replace("/", "-").removesuffix(".md"), folder)
    python = place / "bin" / "python"
    if not (place / "done").exists():
        venv.create(place, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", *pinned(page, wanted, to="=={}.*")]
        made = subprocess.run(install, capture_output=True, text=True, timeout=600)
        assert made.returncode == 0, made.stderr[-2000:]
        (place / "done").touch()
    assert not run_python({page: fences}, reader, folder, python=str(python), page_s=120)


def imported(text: str) -> set[str]:
    """Return the packages that TypeScript imports: not files, not what Node brings."""
    names = set(re.findall(r'from "([^".][^"]*)"', text))
    return {name for name in names if not name.startswith("node:")} - {"fs"}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_typescript_snippet_runs(reader, folder):
    """Packages come from npm, by way of whatever registry this machine uses; types are taken off by esbuild."""
    found = {page: filled(_merged(fences), reader) for page, fences in run("typescript").items()}
    modules = cache("npm", folder)
    wanted = {"esbuild"}.union(*(pinned(page, imported(text), to="@{}") for page, text in found.items()))
    stamp = modules / "done"
    if not stamp.exists() or stamp.read_text() != str(sorted(wanted)):
        npm = [shutil.which("npm"), "install", "--no-audit", "--no-fund", "--prefix", str(modules), *sorted(wanted)]
        subprocess.run(npm, check=True, timeout=400, capture_output=True)
        stamp.write_text(str(sorted(wanted)))
    (folder / "node_modules").symlink_to(modules / "node_modules")
    failed = []
    for page, text in found.items():
        source = folder / f"{page.replace('/', '-')}.ts"
        source.write_text(text)
        built = source.with_suffix(".mjs")
        esbuild = [str(modules / "node_modules/.bin/esbuild"), str(source), "--format=esm", f"--outfile={built}"]
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
