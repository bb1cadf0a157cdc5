"""What the builder of the catalogue is told about each provider: where its models are published, what is wrong there.

Reads `catalog/sources/<provider>.toml`, written by hand, strictly. These files hold every fact that a person corrected,
so that building again never loses one. Used by `manage.py build_catalog` only, never while serving. Neighbours:
`catalog_build.py` (applies them), `tables.py` (strict TOML).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gateway.providers import CAPABILITIES, DIALECTS, EFFORTS, FOLDER, KINDS, THINKING, UNPRICED
from gateway.tables import Table

_PRICE = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "request")


@dataclass(frozen=True, slots=True)
class Rule:
    """A correction: `facts` replace what was read of each model whose id matches; lists with `can` are changed."""

    match: tuple[str, ...]
    facts: dict[str, Any]
    can: tuple[str, ...]
    cannot: tuple[str, ...]

    def is_about(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.match)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a provider's models come from, and what has to be put right."""

    provider: str
    # What it speaks, as its own file says.
    dialect: str
    # litellm's names of the provider; none: everything is told by `genai_prices`.
    litellm: tuple[str, ...]
    # What is taken off litellm's names; one of them has to be there when `strict_names` is set.
    strip: tuple[str, ...]
    strict_names: bool
    # Names (as patterns) that are left out.
    skip: tuple[str, ...]
    # Put before the id for the provider: Fireworks' `accounts/fireworks/models/`.
    upstream_prefix: str
    # The provider's name in genai-prices; empty: prices are not compared.
    genai_prices: str
    # Whether genai-prices is right where they differ.
    genai_wins: bool
    # Whether `name` and `name-20250929` are one model.
    merge_dated: bool
    # How models that think are told to, where litellm says nothing particular.
    thinking: str
    # What models that always think refuse.
    thinking_refuses: tuple[str, ...]
    rules: tuple[Rule, ...]

    def is_skipped(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.skip)


def read(folder: Path = FOLDER) -> list[Source]:
    """Return the source of every provider of a folder that has one. Raises: gateway.tables.CatalogError."""
    return [_source(path, folder) for path in sorted((folder / "sources").glob("*.toml"))]


def _source(path: Path, folder: Path) -> Source:
    table = Table.of_file(path)
    source = Source(
        provider=path.stem,
        dialect=Table.of_file(folder / path.name).text("dialect", among=DIALECTS),
        litellm=table.words("litellm", default=()),
        strip=table.words("strip", default=()),
        strict_names=table.flag("strict_names", default=False),
        skip=table.words("skip", default=()),
        upstream_prefix=table.text("upstream_prefix", default=""),
        genai_prices=table.text("genai_prices", default=""),
        genai_wins=table.flag("genai_wins", default=False),
        merge_dated=table.flag("merge_dated", default=False),
        thinking=table.text("thinking", among=THINKING, default="none"),
        thinking_refuses=table.words("thinking_refuses", default=()),
        rules=tuple(_rule(rule) for rule in table.tables("rules", default=[])),
    )
    table.finish()
    return source


def _rule(table: Table) -> Rule:
    rule = Rule(
        match=table.words("match"),
        facts=_facts(table),
        can=table.words("can", among=CAPABILITIES, default=()),
        cannot=table.words("cannot", among=CAPABILITIES, default=()),
    )
    table.finish()
    return rule


def _facts(table: Table) -> dict[str, Any]:
    """Return the facts a rule states; a number that is stated as unknown is None."""
    facts: dict[str, Any] = {}
    for key in ("context_tokens", "max_output_tokens"):
        if table.has(key):
            facts[key] = table.count_or_unknown(key)
    if table.has("image_tokens"):
        facts["image_tokens"] = table.count("image_tokens")
    for key, among in (("kind", KINDS), ("thinking", THINKING), ("name", None), ("upstream", None), ("note", None)):
        if table.has(key):
            facts[key] = table.text(key, among=among)
    for key, words in _LISTS:
        if table.has(key):
            facts[key] = list(table.words(key, among=words))
    if table.has("retires_on"):
        facts["retires_on"] = table.day("retires_on")
    return facts | _prices(table)


_LISTS: Sequence[tuple[str, frozenset[str] | None]] = (
    ("aliases", None),
    ("efforts", frozenset(EFFORTS)),
    ("unsupported", None),
    ("unpriced", UNPRICED),
)


def _prices(table: Table) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("price", "price_above"):
        if table.has(key):
            price = table.price(key)
            found[key] = None if price is None else _price(price)
    return found


def _price(table: Table) -> dict[str, Any]:
    """Return a price as texts, each checked."""
    found: dict[str, Any] = {}
    if table.has("tokens"):
        found["tokens"] = table.count("tokens")
    for key in _PRICE:
        if table.has(key):
            table.usd(key)
            found[key] = table.text(key)
    table.finish()
    return found
