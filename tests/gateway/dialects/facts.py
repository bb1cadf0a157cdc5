"""What the tests of dialects take a model for, where the catalogue would say it (`blocks.Facts`); each changes some."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """A chat model that has tools and does not think."""

    upstream: str = "up"
    max_output_tokens: int | None = None
    capabilities: frozenset[str] = frozenset({"tools"})
    max_tokens_field: str = "max_tokens"
    unsupported: frozenset[str] = frozenset()
    thinking: str = "none"
    efforts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gpt(Facts):
    """A model of OpenAI's that thinks."""

    upstream: str = "gpt-5"
    max_output_tokens: int | None = 128_000
    capabilities: frozenset[str] = frozenset({"streaming", "tools", "thinking"})
    max_tokens_field: str = "max_completion_tokens"
    thinking: str = "effort"
