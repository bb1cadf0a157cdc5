"""The catalogue: which providers and models exist, what they cost, what they can do, how they differ from each other.

Responsible for reading `catalog/` (and the operator's `RESPAN_CATALOG_EXTRA` folders) strictly: an unknown key, a
missing one or a wrong type stops the start and names file and key. A provider is a TOML file written by hand, which may
hold its models; those that `manage.py build_catalog` generates stand beside it in a JSON file of the same name, because
two thousand models of TOML take a second to read. Never opens a socket, a database or a secret, and knows no provider
by name: what is special about one stands in its file. Neighbours: `tables.py` (strict TOML), `catalog_build.py` (makes
the JSON files), `routing.py` (which model is meant), `credentials.py` (whose key), `listing.py` (what the API shows),
`added_models.py` (models of the operator's), `manage.py sync_catalog` (publishes prices).
"""

import difflib
import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from billing.usage import Rates
from gateway.tables import CatalogError, Table

FOLDER = Path(__file__).resolve().parent / "catalog"

# What a model can do or take; a word outside this list is a typing mistake.
CAPABILITIES = frozenset(
    {
        "tools",
        "parallel_tools",
        "json",  # response_format json_object
        "json_schema",  # response_format json_schema, enforced by the provider
        "vision",
        "pdf",
        "audio",
        "thinking",
        "caching",  # the provider reports tokens read from a prompt cache
        "streaming",
        "needs_responses_for_tools",  # its chat endpoint refuses tools: they need OpenAI's Responses API
        "needs_responses",  # no chat endpoint knows it: every call needs the Responses API
        "image_output",
        "audio_output",
        "prefill",  # continues an answer whose beginning is the last message
        "system_anywhere",  # takes system messages in mid-conversation
    }
)
# What a model is for; it decides which endpoints may call it.
KINDS = frozenset({"chat", "embedding", "image", "speech", "transcription", "moderation", "completion"})
# How a model is told to think: not at all; by an effort; by a budget of tokens; `adaptive` (Anthropic's word:
# it decides itself, an effort steers it, it can be switched off); `always_on` (the same, but it cannot); by a level
# (Gemini 3).
THINKING = frozenset({"none", "effort", "budget", "adaptive", "always_on", "level"})
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# The formats a provider may speak; `gateway.dialects.registry` has one entry for each.
DIALECTS = frozenset({"openai_chat", "openai_responses", "anthropic", "gemini", "bedrock", "cohere"})
# Where a key goes: a header of that name, `Authorization: Bearer`, AWS's signature, a token of a Google account.
AUTHS = frozenset({"bearer", "x-api-key", "x-goog-api-key", "api-key", "aws", "google", "none"})
# How a vendor's format differs when another company serves it.
VARIANTS = frozenset({"", "vertex"})
TRANSPORTS = frozenset({"http", "sandbox"})
MAX_TOKENS_FIELDS = frozenset({"max_completion_tokens", "max_tokens"})
CREDENTIAL_FIELDS = frozenset({"api_key", "base_url"})
# What may cost otherwise than a model's rates say, so that calls paid by credits must not hold it.
UNPRICED = frozenset({"audio", "audio_output", "image_output"})
# Vendors' own files say less than this, clouds and those who serve everybody's models more: see `Provider.rank`.
RANK: Final = 100
# How many names are looked at closely for one that was mistyped.
_CLOSELY: Final = 80

_PROVIDER_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_NAME = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Model:
    """A model of one provider: `id` is what clients ask for, `upstream` what the provider is sent."""

    id: str
    provider: str
    upstream: str
    name: str = ""
    aliases: tuple[str, ...] = ()
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    rates: Rates | None = None
    # What the whole call costs when its input is longer than so many tokens; None: `rates` hold throughout.
    long_rates: Rates | None = None
    long_above_tokens: int | None = None
    free: bool = False
    # The most input tokens one image can cost, for the hold of a call.
    image_tokens: int = 0
    capabilities: frozenset[str] = frozenset()
    max_tokens_field: str = "max_completion_tokens"
    unsupported: frozenset[str] = frozenset()
    # The day the provider has announced to switch it off.
    retires_on: date | None = None
    kind: str = "chat"
    thinking: str = "none"
    # The efforts it knows, least first; empty: as the dialect's documentation says.
    efforts: tuple[str, ...] = ()
    # What of it costs otherwise than `rates` say (`UNPRICED`): calls paid by credits must not ask for it.
    unpriced: frozenset[str] = frozenset()

    @property
    def full_name(self) -> str:
        """Return the name that means this model only, for example `openai/gpt-4o-mini`."""
        return f"{self.provider}/{self.id}"

    @property
    def long_price_id(self) -> str:
        """Return the name `long_rates` are published under, beside the model's own, in `billing.prices`."""
        return f"{self.id}#above-{self.long_above_tokens}"


@dataclass(frozen=True, slots=True, eq=False)
class Provider:
    """A provider: how to reach it, what its keys are made of, where it differs from OpenAI's chat completions."""

    id: str
    name: str
    dialect: str
    transport: str
    base_url: str
    auth: str
    credential_fields: tuple[str, ...]
    max_tokens_field: str
    unsupported: frozenset[str]
    # Parameters that go by another name here, for example {"seed": "random_seed"}.
    rename: Mapping[str, str]
    # Whether `stream_options.include_usage` is understood.
    usage_in_stream: bool
    # Whether its `completion_tokens` leave out the reasoning tokens it charges as output.
    reasoning_apart: bool
    # Parameters that change the price (a faster tier, searches billed apart): not for calls paid by credits.
    repriced_by: frozenset[str]
    image_tokens: int
    # Where it was reached before: a key sealed for the old origin still opens after the catalogue moved.
    former_base_urls: tuple[str, ...]
    # Further prefixes clients use, for example `together_ai` for `togetherai`.
    prefixes: tuple[str, ...]
    docs_url: str
    key_help: str
    # Further dialects it speaks natively: dialect -> the path behind its origin, or "" for the same base URL. A key
    # with a base URL of its own uses only those with "".
    also: Mapping[str, str] = field(default_factory=dict)
    # Whether it takes uploads at OpenAI's `/files`.
    files: bool = False
    variant: str = ""
    # What to enter as base URL where every account has one of its own.
    base_url_help: str = ""
    # Whose model a name means that several have: the lowest comes first. A vendor's own API stands before the clouds.
    rank: int = RANK
    models: Mapping[str, Model] = field(default_factory=dict)

    def unlisted(self, upstream: str) -> Model:
        """Return a model the catalogue does not list (a fine-tune, a private server's): nothing is known of it."""
        return Model(
            id=upstream,
            provider=self.id,
            upstream=upstream,
            image_tokens=self.image_tokens,
            capabilities=frozenset({"streaming"}),
            max_tokens_field=self.max_tokens_field,
            unsupported=self.unsupported,
        )


class Catalog:
    """Every provider, and its models by every name a client may use. Immutable after it is made."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self.providers: Mapping[str, Provider] = MappingProxyType({provider.id: provider for provider in providers})
        self._by_name = _index(self.providers.values())
        # What a wrong name is compared with: lower case -> the name as it is written.
        self._spellings = {name.lower(): name for model in self.models() for name in (model.id, model.full_name)}
        # What a server of an organization's own may not be called: its name would hide one of these.
        self.reserved = frozenset(self.providers) | {name.partition("/")[0] for name in self._by_name if "/" in name}

    def find(self, name: str) -> list[Model]:
        """Return the models a name means: one for `openai/gpt-4o-mini`, perhaps several for a bare `gpt-4o-mini`."""
        return list(self._by_name.get(name, ()))

    def models(self) -> Iterator[Model]:
        """Yield every model, in catalogue order."""
        for provider in self.providers.values():
            yield from provider.models.values()

    def close_names(self, name: str, limit: int = 5) -> list[str]:
        """Return names that look like a wrong one, the likeliest first. The work is bounded whatever the name is."""
        wanted = name[:80].lower()
        parts = {wanted[at : at + 3] for at in range(len(wanted) - 2)}
        # Comparing closely takes microseconds for each name: only those that share most pieces with the wrong one.
        likely = heapq.nlargest(_CLOSELY, self._spellings, key=lambda spelling: sum(part in spelling for part in parts))
        found = difflib.get_close_matches(wanted, likely, n=limit, cutoff=0.6)
        if not found and len(wanted) >= 3:
            found = [spelling for spelling in self._spellings if wanted in spelling][:limit]
        return [self._spellings[spelling] for spelling in found]

    def with_models(self, added: Iterable[Model]) -> "Catalog":
        """Return this catalogue with further models; one takes the place of a listed model with its provider and id.

        Models of providers that are not in the catalogue are left out.
        """
        by_provider: dict[str, dict[str, Model]] = {}
        for model in added:
            by_provider.setdefault(model.provider, {})[model.id] = model
        return Catalog(
            replace(each, models=MappingProxyType({**each.models, **by_provider[each.id]}))
            if each.id in by_provider
            else each
            for each in self.providers.values()
        )


def _index(providers: Iterable[Provider]) -> dict[str, tuple[Model, ...]]:
    """Map each name to its models: names with a provider first, so that a bare name never shadows them."""
    full: dict[str, tuple[Model, ...]] = {}
    bare: dict[str, tuple[Model, ...]] = {}
    for provider in providers:
        for model in provider.models.values():
            for name in (model.id, *model.aliases):
                bare[name] = (*bare.get(name, ()), model)
                for prefix in (provider.id, *provider.prefixes):
                    full[f"{prefix}/{name}"] = (model,)
    return bare | full


class _Current:
    """This process's catalogue: the files, and what the operator has added to them."""

    def __init__(self) -> None:
        self._listed: Catalog | None = None
        self._whole: Catalog | None = None
        self._added: tuple[Model, ...] = ()

    def __call__(self) -> Catalog:
        """Return the catalogue, read at the first use. Raises: CatalogError."""
        if self._whole is None:
            self._whole = self.listed().with_models(self._added) if self._added else self.listed()
        return self._whole

    def listed(self) -> Catalog:
        """Return what the files hold. Raises: CatalogError."""
        from django.conf import settings

        if self._listed is None:
            self._listed = load([FOLDER, *settings.RESPAN_CATALOG_EXTRA])
        return self._listed

    def add(self, models: Iterable[Model]) -> bool:
        """Let these be the models added to the files from now on; tell whether that changes anything."""
        added = tuple(models)
        if added == self._added:
            return False
        whole = self.listed().with_models(added)
        self._added, self._whole = added, whole
        return True

    def cache_clear(self) -> None:
        """Read the files again at the next use."""
        self._listed = self._whole = None


catalog: Final = _Current()


def load(folders: Sequence[Path]) -> Catalog:
    """Read every `*.toml` of the folders, folder by folder, by rank and then by file name.

    Raises: CatalogError.
    """
    providers: dict[str, Provider] = {}
    claimed: dict[str, str] = {}  # provider id or prefix -> the file that has it
    for folder in folders:
        if not folder.is_dir():
            raise CatalogError(f"{folder}: this folder of RESPAN_CATALOG_EXTRA does not exist")
        found = []
        for path in sorted(folder.glob("*.toml")):
            provider = load_file(path)
            for word in (provider.id, *provider.prefixes):
                if word in claimed:
                    raise CatalogError(f"{path.name}: key 'id' or 'prefixes': {word!r} is taken by {claimed[word]}")
                claimed[word] = path.name
            found.append(provider)
        providers |= {provider.id: provider for provider in sorted(found, key=lambda provider: provider.rank)}
    return Catalog(providers.values())


def load_file(path: Path) -> Provider:
    """Read one provider's file, and the generated one beside it if there is one.

    Raises: CatalogError.
    """
    provider = _provider(Table.of_file(path))
    generated = path.with_suffix(".json")
    return _with_generated(provider, generated) if generated.exists() else provider


def _provider(table: Table) -> Provider:
    fields = table.words("credential_fields", among=CREDENTIAL_FIELDS)
    provider = Provider(
        id=table.text("id", pattern=_PROVIDER_ID),
        name=table.text("name"),
        dialect=table.text("dialect", among=DIALECTS),
        transport=table.text("transport", among=TRANSPORTS),
        # Where every key has a base URL of its own the file may name a usual one, or none.
        base_url=_base_url(table) if "base_url" not in fields or table.has("base_url") else "",
        auth=table.text("auth", among=AUTHS),
        credential_fields=fields,
        max_tokens_field=table.text("max_tokens_field", among=MAX_TOKENS_FIELDS),
        unsupported=frozenset(table.words("unsupported", default=())),
        rename=table.renames("rename"),
        usage_in_stream=table.flag("usage_in_stream"),
        reasoning_apart=table.flag("reasoning_apart", default=False),
        repriced_by=frozenset(table.words("repriced_by", default=())),
        image_tokens=table.count("image_tokens", default=0),
        former_base_urls=table.words("former_base_urls", default=()),
        prefixes=table.words("prefixes", pattern=_PROVIDER_ID, default=()),
        docs_url=table.text("docs_url", default=""),
        key_help=table.text("key_help", default=""),
        also=_also(table),
        files=table.flag("files", default=False),
        variant=table.text("variant", among=VARIANTS, default=""),
        base_url_help=table.text("base_url_help", default=""),
        rank=table.count("rank", default=RANK),
    )
    models = _models(table.tables("models"), provider)
    table.finish()
    return replace(provider, models=MappingProxyType(models))


def _also(table: Table) -> Mapping[str, str]:
    also = table.texts("also")
    for dialect, path in also.items():
        if dialect not in DIALECTS or not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", path):
            raise table.error(f"also.{dialect}", "must name a dialect and a path behind the origin (or be empty)")
    return also


def _base_url(table: Table) -> str:
    url = table.text("base_url")
    if url.endswith("/") or not re.fullmatch(r"(https|http|sandbox)://[^\s?#]+", url):
        raise table.error("base_url", "must be an absolute URL without a slash at its end")
    return url


def _models(tables: list[Table], provider: Provider) -> dict[str, Model]:
    models: dict[str, Model] = {}
    taken: set[str] = set()
    for table in tables:
        model = _model(table, provider)
        for name in (model.id, *model.aliases):
            if name in taken:
                raise table.error("id" if name == model.id else "aliases", f"duplicate model {name!r}")
            taken.add(name)
        models[model.id] = model
    return models


def _model(table: Table, provider: Provider) -> Model:
    id = table.text("id", pattern=_NAME)
    table.place += f" ({id})"
    free = table.flag("free", default=False)
    capabilities = frozenset(table.words("capabilities", among=CAPABILITIES))
    long_rates, long_above_tokens = _long_rates(table)
    model = Model(
        id=id,
        provider=provider.id,
        upstream=table.text("upstream", pattern=_NAME, default=id),
        name=table.text("name", default=id),
        aliases=table.words("aliases", pattern=_NAME, default=()),
        context_tokens=table.count_or_unknown("context_tokens"),
        max_output_tokens=table.count_or_unknown("max_output_tokens"),
        rates=Rates(input=0, output=0) if free else _rates(table.price("price")),
        long_rates=long_rates,
        long_above_tokens=long_above_tokens,
        free=free,
        image_tokens=table.count("image_tokens", default=provider.image_tokens),
        capabilities=capabilities,
        max_tokens_field=table.text("max_tokens_field", among=MAX_TOKENS_FIELDS, default=provider.max_tokens_field),
        unsupported=provider.unsupported | frozenset(table.words("unsupported", default=())),
        retires_on=table.day("retires_on"),
        kind=table.text("kind", among=KINDS, default="chat"),
        thinking=table.text("thinking", among=THINKING, default="none"),
        efforts=table.words("efforts", among=frozenset(EFFORTS), default=()),
        unpriced=frozenset(table.words("unpriced", among=UNPRICED, default=())),
    )
    if "vision" in capabilities and not model.image_tokens:
        raise table.error("image_tokens", "a model with vision must say how many tokens an image can cost")
    table.finish()
    return model


def _rates(price: Table | None) -> Rates | None:
    """Read a price: USD per million tokens (`request`: per call) as decimal strings, exactly."""
    if price is None:
        return None
    rates = Rates(
        input=price.usd("input"),
        output=price.usd("output"),
        cache_read=price.usd("cache_read", default=None),
        cache_write=price.usd("cache_write", default=None),
        cache_write_1h=price.usd("cache_write_1h", default=None),
        request=price.usd("request", default=0),
    )
    price.finish()
    return rates


def _long_rates(table: Table) -> tuple[Rates | None, int | None]:
    """Read `price_above`: a price, and the number of input tokens above which it is the price of the whole call."""
    if not table.has("price_above"):
        return None, None
    price = table.price("price_above")
    if price is None:
        raise table.error("price_above", "leave it out when there is none")
    above: int = price.count("tokens")
    return _rates(price), above


# --- Generated models -------------------------------------------------------------------------------------------------


class _GeneratedPrice(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """US dollars per million tokens (`request`: per call), as decimal text."""

    input: str
    output: str
    cache_read: str | None = None
    cache_write: str | None = None
    cache_write_1h: str | None = None
    request: str = "0"
    # Of `price_above`: the number of input tokens above which it holds.
    tokens: int | None = None


class _Generated(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A model as `manage.py build_catalog` writes it: the keys of a TOML file; left out is unknown, or not so."""

    id: str
    upstream: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()
    kind: str = "chat"
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    price: _GeneratedPrice | None = None
    price_above: _GeneratedPrice | None = None
    unpriced: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    thinking: str = "none"
    efforts: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    image_tokens: int | None = None
    max_tokens_field: str = ""
    retires_on: date | None = None
    # For people: where sources differ.
    note: str = ""


class _GeneratedFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    source: str
    models: list[_Generated]


_GENERATED: Final = msgspec.json.Decoder(_GeneratedFile)


def _with_generated(provider: Provider, path: Path) -> Provider:
    """Add a generated file's models to a provider; those written by hand stand first and win."""
    try:
        rows = _GENERATED.decode(path.read_bytes()).models
    except msgspec.MsgspecError as error:
        raise CatalogError(f"{path.name}: {error}") from None
    models = dict(provider.models)
    taken = {name for model in models.values() for name in (model.id, *model.aliases)}
    for row in rows:
        if row.id in provider.models:
            continue
        for name in (row.id, *row.aliases):
            if name in taken or not _NAME.fullmatch(name):
                raise CatalogError(f"{path.name}: models ({row.id}): duplicate or impossible name {name!r}")
            taken.add(name)
        models[row.id] = _generated(row, provider, f"{path.name}: models ({row.id})")
    return replace(provider, models=MappingProxyType(models))


def _generated(row: _Generated, provider: Provider, place: str) -> Model:
    model = Model(
        id=row.id,
        provider=provider.id,
        upstream=row.upstream or row.id,
        name=row.name or row.id,
        aliases=row.aliases,
        context_tokens=row.context_tokens,
        max_output_tokens=row.max_output_tokens,
        rates=_generated_rates(row.price, place),
        long_rates=_generated_rates(row.price_above, place),
        long_above_tokens=row.price_above.tokens if row.price_above else None,
        image_tokens=provider.image_tokens if row.image_tokens is None else row.image_tokens,
        capabilities=_among(row.capabilities, CAPABILITIES, place),
        max_tokens_field=row.max_tokens_field or provider.max_tokens_field,
        unsupported=_together(provider.unsupported, row.unsupported),
        retires_on=row.retires_on,
        kind=row.kind,
        thinking=row.thinking,
        efforts=row.efforts,
        unpriced=_among(row.unpriced, UNPRICED, place),
    )
    if row.kind not in KINDS or row.thinking not in THINKING or not set(row.efforts) <= set(EFFORTS):
        raise CatalogError(f"{place}: 'kind', 'thinking' or 'efforts' has an unknown word")
    if "vision" in model.capabilities and not model.image_tokens:
        raise CatalogError(f"{place}: key 'image_tokens': a model with vision must say how much an image can cost")
    return model


def _among(words: tuple[str, ...], known: frozenset[str], place: str) -> frozenset[str]:
    found = _together(frozenset(), words)
    if not found <= known:
        raise CatalogError(f"{place}: unknown word {min(found - known)!r}")
    return found


# A thousand models have a few dozen different sets.
@lru_cache(maxsize=1_000)
def _together(provider: frozenset[str], model: tuple[str, ...]) -> frozenset[str]:
    return provider | frozenset(model)


def _generated_rates(price: _GeneratedPrice | None, place: str) -> Rates | None:
    if price is None:
        return None
    try:
        return Rates(
            input=_nano(price.input),
            output=_nano(price.output),
            cache_read=None if price.cache_read is None else _nano(price.cache_read),
            cache_write=None if price.cache_write is None else _nano(price.cache_write),
            cache_write_1h=None if price.cache_write_1h is None else _nano(price.cache_write_1h),
            request=_nano(price.request),
        )
    except ValueError:
        raise CatalogError(f"{place}: a price is not US dollars with at most nine decimals") from None


@lru_cache(maxsize=4_000)
def _nano(text: str) -> int:
    """Return the nano-USD of plain decimal text. Raises: ValueError."""
    whole, _, fraction = text.partition(".")
    if not (whole + fraction).isdecimal() or len(fraction) > 9:
        raise ValueError(text)
    return int(whole + fraction.ljust(9, "0"))
