"""The catalogue: which providers and models exist, what they cost, what they can do, how they differ from each other.

Responsible for reading `catalog/*.toml` (and the operator's `RESPAN_CATALOG_EXTRA` folders) strictly: an unknown key, a
missing one or a wrong type stops the start and names file and key. Never opens a socket, a database or a secret, and
knows no provider by name: what is special about one stands in its file. Neighbours: `routing.py` (which model is
meant), `credentials.py` (whose key), `listing.py` (what the API shows), `manage.py sync_catalog` (publishes prices).
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from billing.usage import Rates, nano_from_usd

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
    }
)
DIALECTS = frozenset({"openai_chat"})
AUTHS = frozenset({"bearer", "none"})
TRANSPORTS = frozenset({"http", "sandbox"})
MAX_TOKENS_FIELDS = frozenset({"max_completion_tokens", "max_tokens"})
CREDENTIAL_FIELDS = frozenset({"api_key", "base_url"})
# Written in a file where a fact is not known: left out would look like forgotten.
UNKNOWN = "unknown"

_PROVIDER_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_NAME = re.compile(r"[!-~]{1,200}")


class CatalogError(Exception):
    """A catalogue file is wrong. The message names the file and the key."""


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
        found = difflib.get_close_matches(wanted, self._spellings, n=limit, cutoff=0.6)
        if not found and len(wanted) >= 3:
            found = [spelling for spelling in self._spellings if wanted in spelling][:limit]
        return [self._spellings[spelling] for spelling in found]


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


@lru_cache(maxsize=1)
def catalog() -> Catalog:
    """Return this process's catalogue, read at the first use.

    Raises: CatalogError.
    """
    from django.conf import settings

    return load([FOLDER, *settings.RESPAN_CATALOG_EXTRA])


def load(folders: Sequence[Path]) -> Catalog:
    """Read every `*.toml` of the folders, folder by folder, in the order of file names.

    Raises: CatalogError.
    """
    providers: dict[str, Provider] = {}
    claimed: dict[str, str] = {}  # provider id or prefix -> the file that has it
    for folder in folders:
        if not folder.is_dir():
            raise CatalogError(f"{folder}: this folder of RESPAN_CATALOG_EXTRA does not exist")
        for path in sorted(folder.glob("*.toml")):
            provider = load_file(path)
            for word in (provider.id, *provider.prefixes):
                if word in claimed:
                    raise CatalogError(f"{path.name}: key 'id' or 'prefixes': {word!r} is taken by {claimed[word]}")
                claimed[word] = path.name
            providers[provider.id] = provider
    return Catalog(providers.values())


def load_file(path: Path) -> Provider:
    """Read one provider's file.

    Raises: CatalogError.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path.name}: not valid TOML: {error}") from None
    return _provider(_Table(table, path.name))


def _provider(table: "_Table") -> Provider:
    fields = table.words("credential_fields", among=CREDENTIAL_FIELDS)
    provider = Provider(
        id=table.text("id", pattern=_PROVIDER_ID),
        name=table.text("name"),
        dialect=table.text("dialect", among=DIALECTS),
        transport=table.text("transport", among=TRANSPORTS),
        base_url=table.text("base_url", default="") if "base_url" in fields else _base_url(table),
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
    )
    models = _models(table.tables("models"), provider)
    table.finish()
    return replace(provider, models=MappingProxyType(models))


def _base_url(table: "_Table") -> str:
    url = table.text("base_url")
    if url.endswith("/") or not re.fullmatch(r"(https|http|sandbox)://[^\s?#]+", url):
        raise table.error("base_url", "must be an absolute URL without a slash at its end")
    return url


def _models(tables: list["_Table"], provider: Provider) -> dict[str, Model]:
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


def _model(table: "_Table", provider: Provider) -> Model:
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
    )
    if "vision" in capabilities and not model.image_tokens:
        raise table.error("image_tokens", "a model with vision must say how many tokens an image can cost")
    table.finish()
    return model


def _rates(price: "_Table | None") -> Rates | None:
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


def _long_rates(table: "_Table") -> tuple[Rates | None, int | None]:
    """Read `price_above`: a price, and the number of input tokens above which it is the price of the whole call."""
    if not table.has("price_above"):
        return None, None
    price = table.price("price_above")
    if price is None:
        raise table.error("price_above", "leave it out when there is none")
    above: int = price.count("tokens")
    return _rates(price), above


_REQUIRED: Any = object()


class _Table:
    """One TOML table, read key by key; what is left unread at `finish` is an unknown key."""

    def __init__(self, values: dict[str, Any], place: str) -> None:
        self._values = dict(values)
        self._known: set[str] = set()
        self.place = place

    def error(self, key: str, problem: str) -> CatalogError:
        return CatalogError(f"{self.place}: key {key!r}: {problem}")

    def has(self, key: str) -> bool:
        return key in self._values

    def finish(self) -> None:
        for key in self._values:
            if key not in self._known:
                close = difflib.get_close_matches(key, self._known, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise CatalogError(f"{self.place}: unknown key {key!r}{hint}")

    def _take(self, key: str, kind: type, default: Any, said: str) -> Any:
        self._known.add(key)
        if key not in self._values:
            if default is _REQUIRED:
                # A misspelt key is reported as such, rather than as the missing one it stands for.
                raise CatalogError(f"{self.place}: missing key {key!r}{self._misspelt(key)}")
            return default
        value = self._values[key]
        if type(value) is not kind:  # exactly: a TOML boolean must not pass for an integer
            raise self.error(key, f"must be {said}, not {value!r}")
        return value

    def _misspelt(self, key: str) -> str:
        close = difflib.get_close_matches(key, [name for name in self._values if name not in self._known], n=1)
        return f"; unknown key {close[0]!r}" if close else ""

    def text(
        self,
        key: str,
        *,
        among: frozenset[str] | None = None,
        pattern: re.Pattern[str] | None = None,
        default: str = _REQUIRED,
    ) -> str:
        value: str = self._take(key, str, default, "a string")
        if key in self._values:
            self._check_word(key, value, among, pattern)
        return value

    def _check_word(
        self, key: str, value: str, among: frozenset[str] | None, pattern: re.Pattern[str] | None = None
    ) -> None:
        if not value:
            raise self.error(key, "must not be empty")
        if among is not None and value not in among:
            raise self.error(key, f"must be one of {', '.join(sorted(among))}, not {value!r}")
        if pattern is not None and not pattern.fullmatch(value):
            raise self.error(key, f"has characters that are not allowed: {value!r}")

    def flag(self, key: str, *, default: bool = _REQUIRED) -> bool:
        value: bool = self._take(key, bool, default, "true or false")
        return value

    def count(self, key: str, *, default: Any = _REQUIRED) -> Any:
        value = self._take(key, int, default, "a whole number")
        if key in self._values and value <= 0:
            raise self.error(key, f"must be above zero, not {value}")
        return value

    def count_or_unknown(self, key: str) -> int | None:
        if self._values.get(key) == UNKNOWN:
            self._known.add(key)
            return None
        value: int = self.count(key)
        return value

    def words(
        self,
        key: str,
        *,
        among: frozenset[str] | None = None,
        pattern: re.Pattern[str] | None = None,
        default: tuple[str, ...] = _REQUIRED,
    ) -> tuple[str, ...]:
        values = self._take(key, list, default, "a list of strings")
        for value in values:
            if type(value) is not str:
                raise self.error(key, f"must be a list of strings, not of {value!r}")
            self._check_word(key, value, among, pattern)
        if len(set(values)) != len(values):
            raise self.error(key, "names something twice")
        return tuple(values)

    def day(self, key: str) -> date | None:
        day: date | None = self._take(key, date, None, "a date without quotes")
        return day

    def renames(self, key: str) -> Mapping[str, str]:
        values = self._take(key, dict, {}, "a table of strings")
        for old, new in values.items():
            if type(new) is not str or not new:
                raise self.error(f"{key}.{old}", "must be a string")
        return MappingProxyType(dict(values))

    def tables(self, key: str) -> list["_Table"]:
        values = self._take(key, list, _REQUIRED, "a list of tables")
        for value in values:
            if type(value) is not dict:
                raise self.error(key, f"must be a list of tables, not of {value!r}")
        return [_Table(value, f"{self.place}: {key}[{number}]") for number, value in enumerate(values, start=1)]

    def price(self, key: str) -> "_Table | None":
        if self._values.get(key) == UNKNOWN:
            self._known.add(key)
            return None
        return _Table(self._take(key, dict, _REQUIRED, f'a table or "{UNKNOWN}"'), f"{self.place}: {key}")

    def usd(self, key: str, *, default: Any = _REQUIRED) -> Any:
        text = self._take(key, str, default, "a decimal number in quotes")
        if key not in self._values:
            return default
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text):
            raise self.error(key, f"must be US dollars in quotes with at most nine decimals, not {text!r}")
        return nano_from_usd(text)
