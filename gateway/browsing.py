"""Pure: what of the catalogue a reader of the Models pages sees: the filters of an address, the rows, their order.

Never reads a database, a clock or a request: the catalogue, the keys' reach and the address' parameters are arguments.
Amounts stay integers; the words of a row are written once for a process, since a page shows two hundred of them.
Neighbours: `model_views.py` (the pages), `listing.py` (the reach of keys, the API's lists), `providers.py` (the facts).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Self
from urllib.parse import urlencode

from billing.usage import nano_from_usd, usd
from gateway.listing import Reach
from gateway.providers import Catalog, Model, Provider
from gateway.routing import CUSTOM, Key, PaidBy

PER_PAGE: Final = 200
MOST_COMPARED: Final = 4
_MOST_CHARS: Final = 200
CONTEXTS: Final = (32_000, 128_000, 200_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Mark:
    """A capability of the catalogue as pages show it: an icon and a word."""

    id: str
    icon: str
    word: str


# What the table marks, in this order.
MARKS: Final = (
    Mark("vision", "image", "Vision"),
    Mark("pdf", "file-text", "PDF"),
    Mark("audio", "mic", "Audio"),
    Mark("tools", "wrench", "Tools"),
    Mark("thinking", "brain", "Thinking"),
    Mark("json", "braces", "JSON"),
    Mark("caching", "layers", "Caching"),
)
# What models are for, as people say it.
KINDS: Final[Mapping[str, str]] = {
    "chat": "Chat",
    "embedding": "Embeddings",
    "image": "Images",
    "speech": "Speech",
    "transcription": "Transcription",
    "moderation": "Moderation",
    "completion": "Text completion",
}


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A model as pages show it; amounts are per 1,000,000 tokens."""

    model: Model
    # What is asked for: `provider/id`, of a server of one's own `name/id`.
    name: str
    provider_id: str
    provider_name: str
    context: str
    context_exact: str
    max_output: str
    max_output_exact: str
    input: str
    output: str
    cache_read: str
    marks: tuple[Mark, ...]
    # Empty for chat models: what else it is for.
    kind: str
    # What a text is looked for in.
    words: str


def _row(model: Model, provider_id: str, provider_name: str) -> Row:
    name, rates = f"{provider_id}/{model.id}", model.rates
    return Row(
        model=model,
        name=name,
        provider_id=provider_id,
        provider_name=provider_name,
        context=count(model.context_tokens),
        context_exact=exact(model.context_tokens),
        max_output=count(model.max_output_tokens),
        max_output_exact=exact(model.max_output_tokens),
        input=usd(rates.input) if rates else "",
        output=usd(rates.output) if rates else "",
        cache_read=usd(rates.cache_read) if rates and rates.cache_read is not None else "",
        marks=tuple(mark for mark in MARKS if mark.id in model.capabilities),
        kind="" if model.kind == "chat" else KINDS[model.kind],
        words=" ".join([name, provider_name, model.name, *model.aliases]).casefold(),
    )


def count(tokens: int | None) -> str:
    """Write a number of tokens as people say it: `128K`, `1.05M`; empty when unknown."""
    if tokens is None:
        return ""
    if tokens >= 1_000_000:
        return f"{tokens // 10_000 / 100:g}M"
    return f"{tokens // 1_000}K" if tokens >= 1_000 else str(tokens)


def exact(tokens: int | None) -> str:
    """Write a number of tokens with all its digits; empty when unknown."""
    return "" if tokens is None else f"{tokens:,}"


def chat_models(catalog: Catalog) -> int:
    """Return how many models of the catalogue chat."""
    return sum(1 for row in rows(catalog) if not row.kind)


@lru_cache(maxsize=2)
def rows(catalog: Catalog) -> tuple[Row, ...]:
    """Return every model of the catalogue."""
    names = {provider.id: provider.name for provider in catalog.providers.values()}
    return tuple(_row(model, model.provider, names[model.provider]) for model in catalog.models())


def own_rows(catalog: Catalog, own: Iterable[Key]) -> list[Row]:
    """Return the models that an organization's keys name for servers of its own."""
    server: Provider = catalog.providers[CUSTOM]
    keys = [key for key in own if key.provider == CUSTOM]
    return [_row(server.unlisted(name), key.name, f"{key.name} (yours)") for key in keys for name in key.models]


# --- What the address asks for ----------------------------------------------------------------------------------------

# The catalogue's own order: those who make models before those who serve everybody's.
USUAL: Final = "usual"
# Column -> what it sorts by; None is unknown and stands last either way.
_SORTS: Final[Mapping[str, Callable[[Row], Any]]] = {
    USUAL: lambda row: 0,
    "model": lambda row: row.model.id.casefold(),
    "provider": lambda row: row.provider_name.casefold(),
    "context": lambda row: row.model.context_tokens,
    "max_output": lambda row: row.model.max_output_tokens,
    "input": lambda row: row.model.rates and row.model.rates.input,
    "output": lambda row: row.model.rates and row.model.rates.output,
    "cache": lambda row: row.model.rates and row.model.rates.cache_read,
}
# Where the most is looked for first.
_MOST_FIRST: Final = frozenset({"context", "max_output"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """The filters, order, page and comparison an address asks for; what it says wrongly counts as not said."""

    text: str = ""
    provider: str = ""
    kind: str = ""
    capabilities: tuple[str, ...] = ()
    context: int = 0
    # The most an input token may cost, in nano-USD per 1,000,000 of them.
    price: int | None = None
    callable_only: bool = False
    sort: str = USUAL
    descending: bool = False
    page: int = 1
    compared: tuple[str, ...] = ()
    too_many: bool = False
    # Whether the comparison is unfolded.
    is_open: bool = False

    @classmethod
    def read(cls, query: Mapping[str, Sequence[str]]) -> Self:
        """Read the parameters of an address, each with all its values."""

        def one(name: str) -> str:
            return next(iter(query.get(name, ())), "").replace("\x00", "").strip()[:_MOST_CHARS]

        column = one("sort").removeprefix("-")
        compared = tuple(dict.fromkeys(name[:_MOST_CHARS] for name in query.get("compare", ()) if name))
        return cls(
            text=one("q"),
            provider=one("provider"),
            kind=one("kind") if one("kind") in KINDS else "",
            capabilities=tuple(mark.id for mark in MARKS if mark.id in query.get("can", ())),
            context=_number(one("context")),
            price=_price(one("price")),
            callable_only=one("callable") == "1",
            sort=column if column in _SORTS else USUAL,
            descending=column in _SORTS and one("sort").startswith("-"),
            page=max(_number(one("page")), 1),
            compared=compared[:MOST_COMPARED],
            too_many=len(compared) > MOST_COMPARED,
            is_open=one("show") == "comparison",
        )

    @property
    def sorting(self) -> str:
        return f"{'-' if self.descending else ''}{self.sort}"

    @property
    def price_text(self) -> str:
        return "" if self.price is None else usd(self.price).removeprefix("$").replace(",", "")

    @property
    def is_filtered(self) -> bool:
        return (
            bool(self.text or self.provider or self.kind or self.capabilities or self.context or self.callable_only)
            or self.price is not None
        )

    def query(self, **changes: Any) -> str:
        """Return the address' parameters without those that say nothing; any change but of the page goes to page 1."""
        wanted = replace(self, **changes) if "page" in changes else replace(self, page=1, **changes)
        parts: list[tuple[str, str | int]] = [
            ("q", wanted.text),
            ("provider", wanted.provider),
            ("kind", wanted.kind),
            *(("can", mark) for mark in wanted.capabilities),
            ("context", wanted.context or ""),
            ("price", wanted.price_text),
            ("callable", "1" if wanted.callable_only else ""),
            ("sort", "" if wanted.sorting == USUAL else wanted.sorting),
            ("page", wanted.page if wanted.page > 1 else ""),
            *(("compare", name) for name in wanted.compared),
            ("show", "comparison" if wanted.is_open and wanted.compared else ""),
        ]
        return urlencode([part for part in parts if part[1] != ""])

    def sorted_by(self, column: str) -> str:
        """Return the parameters a press on a column's head leads to: the other way round where it is sorted by now."""
        descending = not self.descending if column == self.sort else column in _MOST_FIRST
        return self.query(sort=column, descending=descending)


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0


def _price(text: str) -> int | None:
    try:
        price = nano_from_usd(text) if text else None
    except ValueError:
        return None
    return price if price is not None and price >= 0 else None


# --- What is shown ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """The rows of one page, each with who would pay for it (None: it cannot be called yet)."""

    rows: list[tuple[Row, PaidBy | None]]
    total: int
    first: int
    last: int
    number: int
    pages: int


def find(catalog: Catalog, *, own: Sequence[Key], reach: Reach, wanted: Wanted) -> Page:
    """Return the page that is wanted; a number beyond the last page is the last one."""
    found = [
        (row, way)
        for row in (*own_rows(catalog, own), *rows(catalog))
        if _is_wanted(row, wanted)
        and ((way := reach.way(row.model, catalog.providers[row.model.provider])) or not wanted.callable_only)
    ]
    found = _in_order(found, wanted)
    pages = max(-(-len(found) // PER_PAGE), 1)
    number = min(wanted.page, pages)
    start = (number - 1) * PER_PAGE
    shown = found[start : start + PER_PAGE]
    return Page(shown, len(found), start + 1 if shown else 0, start + len(shown), number, pages)


def _is_wanted(row: Row, wanted: Wanted) -> bool:
    model = row.model
    if wanted.provider and row.provider_id != wanted.provider:
        return False
    if wanted.kind and model.kind != wanted.kind:
        return False
    if wanted.context and (model.context_tokens or 0) < wanted.context:
        return False
    if wanted.price is not None and (model.rates is None or model.rates.input > wanted.price):
        return False
    if not model.capabilities.issuperset(wanted.capabilities):
        return False
    return all(word in row.words for word in wanted.text.casefold().split())


def _in_order(found: list[tuple[Row, PaidBy | None]], wanted: Wanted) -> list[tuple[Row, PaidBy | None]]:
    key = _SORTS[wanted.sort]
    known = [each for each in found if key(each[0]) is not None]
    unknown = [each for each in found if key(each[0]) is None]
    return sorted(known, key=lambda each: key(each[0]), reverse=wanted.descending) + unknown


def get(catalog: Catalog, name: str, *, own: Iterable[Key]) -> list[Row]:
    """Return the models a name means, as `Catalog.find` does; of servers of one's own by their full name only."""
    if mine := [row for row in own_rows(catalog, own) if row.name == name]:
        return mine[:1]
    listed = _by_id(catalog)
    return [listed[model.provider, model.id] for model in catalog.find(name)]


def elsewhere(catalog: Catalog, row: Row) -> list[Row]:
    """Return the models of other providers that go by the same name, vendors before those who serve everybody's.

    A maker's prefix in front (`openai/gpt-oss-120b`) counts as no part of it.
    """
    if row.model.provider == CUSTOM:
        return []
    alike = {each for name in _short_names(row.model) for each in _by_short_name(catalog).get(name, ())}
    others = [each for each in alike if each.provider_id != row.provider_id and each.model.kind == row.model.kind]
    return sorted(others, key=lambda each: (catalog.providers[each.provider_id].rank, each.name))


def _short_names(model: Model) -> set[str]:
    return {name.rpartition("/")[2].casefold() for name in (model.id, *model.aliases)}


@lru_cache(maxsize=2)
def _by_short_name(catalog: Catalog) -> dict[str, tuple[Row, ...]]:
    found: dict[str, tuple[Row, ...]] = {}
    for row in rows(catalog):
        for name in _short_names(row.model):
            found[name] = (*found.get(name, ()), row)
    return found


@lru_cache(maxsize=2)
def _by_id(catalog: Catalog) -> dict[tuple[str, str], Row]:
    return {(row.provider_id, row.model.id): row for row in rows(catalog)}
