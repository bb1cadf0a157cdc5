"""Claude Code and Codex, as they are published on npm, complete a turn with a tool call through the gateway.

Long: they are installed into a cache folder of the user's (`RESPAN_CLIS`, else below the system's temporary folder)
where npm can. The models behind are strict fakes; the second turn of each shows that the tool's output came back.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.money import metered
from tests.servers import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
PACKAGES = {"claude": "@anthropic-ai/claude-code@2.1.197", "codex": "@openai/codex@0.169.0"}


@pytest.fixture(scope="session")
def commands() -> Path:
    """Install both; return the folder with their commands. Skips where npm cannot."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = Path(os.environ.get("RESPAN_CLIS") or Path(tempfile.gettempdir()) / "respan-clis")
    commands = folder / "node_modules" / ".bin"
    if not all((commands / name).exists() for name in PACKAGES):
        folder.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--silent", *PACKAGES.values()]
        done = subprocess.run(install, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"npm cannot install them: {done.stderr[-300:]}")
    return commands


def run(command: list[str], folder: Path, **env: str) -> str:
    """Run a command with a home of its own; return what it printed."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    clean = {"PATH": os.environ["PATH"], "HOME": str(home), "NO_COLOR": "1", "CI": "1"}
    done = subprocess.run(
        command, cwd=folder, env=clean | env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture
def customer(tenant: Any) -> Any:
    return tenant(credits_usd="50")


def test_claude_code_completes_a_turn(commands: Path, customer: Any, tmp_path: Path) -> None:
    for model in ("fake-anthropic/claude-adaptive", "fake-chat/gpt", "fake-gemini/gemini-level"):
        order = json.dumps({"command": "echo from-the-shell", "description": "Say something"})
        said = run(
            [
                str(commands / "claude"),
                *("--print", f"Please call the tool Bash with {order} now", "--model", model),
                *("--output-format", "json", "--allowedTools", "Bash(echo:*)"),
            ],
            tmp_path,
            ANTHROPIC_BASE_URL=f"{customer.stack.base_url}/api/anthropic",
            ANTHROPIC_API_KEY=customer.key,
            ANTHROPIC_DEFAULT_HAIKU_MODEL=model,
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            DISABLE_AUTOUPDATER="1",
        )
        result = json.loads(said)
        assert (result["subtype"], result["is_error"]) == ("success", False), said
        assert "The tool said from-the-shell" in result["result"], said


def codex(commands: Path, customer: Any, folder: Path, model: str) -> str:
    """Have Codex call a tool, and return the last it said."""
    provider = {
        "name": '"Respan"',
        "base_url": f'"{customer.stack.base_url}/api"',
        "env_key": '"RESPAN_API_KEY"',
        "wire_api": '"responses"',
    }
    settings = [f"model_providers.respan.{name}={value}" for name, value in provider.items()]
    settings += ['model_provider="respan"', f'model="{model}"']
    order = json.dumps({"cmd": "echo from-the-shell"})
    said = run(
        [
            *(str(commands / "codex"), "exec", "--json", "--sandbox", "danger-full-access"),
            *(part for setting in settings for part in ("-c", setting)),
            f"Please call the tool exec_command with {order} now",
        ],
        folder,
        RESPAN_API_KEY=customer.key,
    )
    messages = [
        event["item"]["text"]
        for event in (json.loads(line) for line in said.splitlines() if line.startswith("{"))
        if event.get("type") == "item.completed" and event["item"].get("type") == "agent_message"
    ]
    assert messages, said
    last: str = messages[-1]
    return last


def test_codex_completes_a_turn(commands: Path, customer: Any, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    for model in (
        "fake-responses/gpt-newest",
        "fake-chat/gpt",
        "fake-gemini/gemini-level",
        "fake-anthropic/claude-budget",
    ):
        assert "from-the-shell" in codex(commands, customer, tmp_path, model)


def test_codex_on_claude_costs_credits_what_claude_counted(commands: Path, customer: Any, tmp_path: Path) -> None:
    """Reasoning, tools and their output travel in another vendor's words, and each token is still Claude's own."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    vendor, before = customer.stack.vendors.anthropic, customer.balance.posted
    vendor.requests.clear()
    assert "from-the-shell" in codex(commands, customer, tmp_path, "fake-anthropic/claude-adaptive")
    cost = sum(metered(seen.usage).cost_nano for seen in vendor.requests if seen.usage is not None)
    assert cost > 0

    def settled() -> bool:
        return bool(customer.balance.held == 0 and before - customer.balance.posted == cost)

    wait_until(settled, what="the books to say what Claude counted")
