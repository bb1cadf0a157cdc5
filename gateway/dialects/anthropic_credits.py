"""Pure: what a call paid by credits may not ask of Anthropic: what changes its price, or nobody can bound before.

A hold covers tokens at the usual price. Members that change the price are left out; tools and files for which that
would change the meaning are refused, and named. Neighbour: `anthropic` (the door); prices are in the catalogue.

Source: https://platform.claude.com/docs/en/about-claude/pricing (2026-11).
"""

from collections.abc import Iterator
from typing import Any

from gateway.dialects import blocks

# What changes the price of a call: a faster or guaranteed service, a place, machines, other models.
REPRICED = frozenset(
    {
        "service_tier",
        "speed",
        "inference_geo",
        "container",
        "mcp_servers",
        "fallbacks",
        "compaction",
        "billing_policy",
        "thread",
    }
)
# Tools that the client runs itself: they cost tokens only. All others are run, and charged, by the provider.
_CLIENT_TOOLS = ("custom", "bash_", "text_editor_", "memory_", "computer_", "browser_")


def refuse(tools: Any, messages: list[dict[str, Any]]) -> None:
    """Raise for tools the provider runs and charges, and for documents whose length nobody knows before.

    Raises: blocks.Unsupported.
    """
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if charges(kind):
            raise blocks.Unsupported(
                f"tools[{index}]",
                f"{kind} is run and charged by the provider: it needs a provider key of your own.",
            )
    for path, block in _blocks_of(messages):
        source = block.get("source")
        kind = source.get("type") if isinstance(source, dict) else None
        if kind == "file" or (kind == "url" and block.get("type") == "document"):
            raise blocks.Unsupported(
                path, "This file can only be read with a provider key of your own: send its content instead."
            )


def charges(kind: object) -> bool:
    """Tell whether a tool of this type is run by the provider; one without a type is the client's own."""
    return kind is not None and not (isinstance(kind, str) and kind.startswith(_CLIENT_TOOLS))


def compacts(value: Any) -> bool:
    """Tell whether a context may be summarised on the way: a call of its own, charged beyond what is held."""
    edits = value.get("edits") if isinstance(value, dict) else None
    if not isinstance(edits, list):
        return value is not None
    return not all(isinstance(edit, dict) and str(edit.get("type")).startswith("clear_") for edit in edits)


def _blocks_of(messages: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every block of content and where it is; those inside of tool results too."""
    for index, message in enumerate(messages):
        yield from _blocks_in(message.get("content"), f"messages[{index}].content")


def _blocks_in(content: object, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, dict):
            yield f"{path}[{index}]", block
            yield from _blocks_in(block.get("content"), f"{path}[{index}].content")
            source = block.get("source")
            if isinstance(source, dict):
                yield from _blocks_in(source.get("content"), f"{path}[{index}].source.content")
