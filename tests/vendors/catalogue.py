"""The fake vendors as an installation sees them: catalogue files, allowed addresses, the operator's keys.

Neighbours: `tests/stack.py` (which starts an installation with them), the vendors.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tests.vendors.anthropic import Anthropic
from tests.vendors.gemini import Gemini
from tests.vendors.openai import OpenAI

KEYS = {
    "fake-anthropic": "sk-ant-platform-7d1c4be2",
    "fake-gemini": "AIza-platform-93fe10aa",
    "fake-responses": "sk-platform-5ab90c17",
    "fake-chat": "sk-platform-5ab90c17",
}
# USD per million tokens, as each file has it: input, output, cache read, cache written for 5 minutes and an hour.
PRICE = {"input": "3", "output": "15", "cache_read": "0.3", "cache_write": "3.75", "cache_write_1h": "6"}

_HEAD = """
id = "{id}"
name = "{name}"
dialect = "{dialect}"
transport = "http"
base_url = "{base_url}"
auth = "{auth}"
credential_fields = ["api_key"]
max_tokens_field = "{limit}"
usage_in_stream = true
image_tokens = 1000
models = [
"""
_MODEL = (
    '  {{ id = "{id}", upstream = "{upstream}", context_tokens = 200000, max_output_tokens = 8192, '
    "price = {{ {price} }}, capabilities = [{capabilities}]{more} }},\n"
)
_CAPABILITIES = ["tools", "parallel_tools", "json", "json_schema", "vision", "pdf", "caching", "streaming"]
_SAMPLING = 'unsupported = ["temperature", "top_p", "top_k"]'
_REASONS = (
    'thinking = "effort", unsupported = '
    '["temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "logprobs"]'
)
# Models: id -> (script, further capabilities, further members of the catalogue's entry).
_ANTHROPIC = {
    "claude": ("", ["prefill"], ""),
    "claude-budget": ("thinking=budget", ["thinking", "prefill"], 'thinking = "budget"'),
    "claude-adaptive": ("thinking=adaptive", ["thinking"], f'thinking = "adaptive", {_SAMPLING}'),
    "claude-always": ("thinking=always", ["thinking"], f'thinking = "always_on", {_SAMPLING}'),
    "claude-failing": ("fail=3", [], ""),
    "claude-cut": ("cut=3", [], ""),
    "claude-overloaded": ("status=529", [], ""),
}
_GEMINI = {
    "gemini": ("", [], ""),
    "gemini-budget": ("thinking=budget", ["thinking"], 'thinking = "budget"'),
    "gemini-level": ("thinking=level", ["thinking"], 'thinking = "level"'),
    "gemini-failing": ("fail=3", [], ""),
    "gemini-blocked": ("blocked", [], ""),
    "gemini-limited": ("status=429", [], ""),
}
_RESPONSES = {
    "gpt": ("", [], ""),
    "gpt-reasons": ("reasons", ["thinking"], _REASONS),
    "gpt-newest": ("reasons,responses", ["thinking", "needs_responses_for_tools"], _REASONS),
    "gpt-failing": ("fail=3", [], ""),
}
_CHAT = {name: _RESPONSES[name] for name in ("gpt", "gpt-reasons", "gpt-failing")}


@dataclass
class Vendors:
    """All fake vendors, running."""

    anthropic: Anthropic = field(default_factory=Anthropic)
    gemini: Gemini = field(default_factory=Gemini)
    openai: OpenAI = field(default_factory=OpenAI)

    def start(self) -> "Vendors":
        for vendor in (self.anthropic, self.gemini, self.openai):
            vendor.start()
        return self

    def stop(self) -> None:
        for vendor in (self.anthropic, self.gemini, self.openai):
            vendor.stop()

    def forget(self) -> None:
        """Forget what was received: the next request is a test's first."""
        for vendor in (self.anthropic, self.gemini, self.openai):
            vendor.requests.clear()

    def of(self, model: str) -> Anthropic | Gemini | OpenAI:
        """Return the vendor a model's full name means."""
        names = {"fake-anthropic": self.anthropic, "fake-gemini": self.gemini}
        return names.get(model.partition("/")[0], self.openai)

    @property
    def addresses(self) -> list[str]:
        return [vendor.address for vendor in (self.anthropic, self.gemini, self.openai)]

    def environment(self) -> dict[str, str]:
        """Return the operator's keys."""
        return {f"RESPAN_PLATFORM_KEY_{id.upper().replace('-', '_')}": key for id, key in KEYS.items()}

    def write(self, folder: Path) -> None:
        """Write the catalogue files."""
        self._write(folder, "fake-anthropic", "anthropic", "x-api-key", self.anthropic.base_url, _ANTHROPIC)
        self._write(folder, "fake-gemini", "gemini", "x-goog-api-key", self.gemini.base_url, _GEMINI)
        responses = '\n[also]\nopenai_responses = ""\n'
        self._write(folder, "fake-responses", "openai_chat", "bearer", self.openai.base_url, _RESPONSES, responses)
        self._write(folder, "fake-chat", "openai_chat", "bearer", self.openai.base_url, _CHAT)

    def _write(
        self,
        folder: Path,
        id: str,
        dialect: str,
        auth: str,
        base_url: str,
        models: dict[str, tuple[str, list[str], str]],
        tail: str = "",
    ) -> None:
        limit = "max_completion_tokens" if dialect == "openai_chat" else "max_tokens"
        head = _HEAD.format(id=id, name=id.title(), dialect=dialect, auth=auth, base_url=base_url, limit=limit)
        rows = [
            _MODEL.format(
                id=name,
                upstream=f"{name}:{script}" if script else name,
                price=", ".join(f'{kind} = "{usd}"' for kind, usd in PRICE.items()),
                capabilities=", ".join(f'"{word}"' for word in [*_CAPABILITIES, *more]),
                more=f", {members}" if members else "",
            )
            for name, (script, more, members) in models.items()
        ]
        (folder / f"{id}.toml").write_text(f"{head}{''.join(rows)}]\n{tail}")
