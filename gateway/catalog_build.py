"""Pure: from litellm's published model file to the models of a provider, as `catalog/<provider>.json` holds them.

Knows litellm's keys and no provider: what is special about one stands in `catalog/sources/`. Prices are exact decimal
text from first to last (the file is read with `parse_float=Decimal`). Used by `manage.py build_catalog` only, never
while serving. Neighbours: `catalog_sources.py` (what a person corrected), `catalog_prices.py` (the second opinion on
prices), `providers.py` (reads the result).

Source: https://github.com/BerriAI/litellm, `model_prices_and_context_window.json` (MIT), keys as of 1.109.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, Final

from gateway.catalog_sources import Rule, Source
from gateway.providers import EFFORTS

# One of litellm's models.
Entry = Mapping[str, Any]
# One of ours, by the keys of a catalogue file.
Row = dict[str, Any]

_KINDS: Final = {
    "chat": "chat",
    "responses": "chat",
    "completion": "completion",
    "embedding": "embedding",
    "image_generation": "image",
    "audio_speech": "speech",
    "audio_transcription": "transcription",
    "moderation": "moderation",
}
# litellm's flag -> ours.
_FLAGS: Final = {
    "supports_function_calling": "tools",
    "supports_parallel_function_calling": "parallel_tools",
    "supports_response_schema": "json_schema",
    "supports_vision": "vision",
    "supports_pdf_input": "pdf",
    "supports_audio_input": "audio",
    "supports_audio_output": "audio_output",
    "supports_reasoning": "thinking",
    "supports_prompt_caching": "caching",
    "supports_assistant_prefill": "prefill",
    "supports_mid_conversation_system": "system_anywhere",
}
_ORDER: Final = (
    "tools", "parallel_tools", "json", "json_schema", "vision", "pdf", "audio", "thinking", "caching", "streaming",
    "prefill", "system_anywhere", "needs_responses", "needs_responses_for_tools", "image_output", "audio_output",
)  # fmt: skip
# What a request can say in these formats only; elsewhere litellm means something else by its flag.
_NATIVE: Final = frozenset({"prefill", "system_anywhere"})
_WITH_NATIVE: Final = frozenset({"anthropic", "bedrock"})
_SAMPLING: Final = ("temperature", "top_p", "top_k")
# Our class of a price -> litellm's key; a longer input's price has a suffix.
_PRICES: Final = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
# Why a model has no price, where litellm tells none. What it has at no cost may be free, or it does not know.
NO_PRICE: Final = "litellm has no price of it"
NO_COST: Final = "litellm has it at no cost"
# The longest a cache entry may be asked to live: an hour, of OpenAI's half a day.
_LONG_WRITES: Final = ("cache_creation_input_token_cost_above_1hr", "cache_creation_input_token_cost_above_12hr")
_ABOVE: Final = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_DATED: Final = re.compile(r"(.+?)(?:[-@]\d{8}|-\d{4}-\d{2}-\d{2}|@default)")
_KEYS: Final = (
    "id", "upstream", "name", "aliases", "kind", "context_tokens", "max_output_tokens", "price", "price_above",
    "unpriced", "capabilities", "thinking", "efforts", "unsupported", "image_tokens", "max_tokens_field", "retires_on",
    "note",
)  # fmt: skip


def read(path: Path) -> dict[str, Entry]:
    """Read litellm's file; prices are decimal numbers, digit by digit as they are written."""
    entries: dict[str, Entry] = json.loads(path.read_text("utf-8"), parse_float=Decimal)
    return entries


def rows(entries: Mapping[str, Entry], source: Source, *, today: date) -> list[Row]:
    """Return a provider's models that are not switched off yet, corrected; those that chat come first."""
    best: dict[str, tuple[Entry, str]] = {}
    for key, entry in entries.items():
        name = _name(key, source) if entry.get("litellm_provider") in source.litellm else None
        if name is None or source.is_skipped(name) or not _is_served(entry, today):
            continue
        # One model under two names: the entry that tells more.
        if name not in best or len(entry) > len(best[name][0]):
            best[name] = (entry, key)
    found = [corrected(row(name, entry, source), source.rules) for name, (entry, _) in best.items()]
    found = [each for each in found if not (each.get("retires_on") and each["retires_on"] <= today)]
    found = _merged(found) if source.merge_dated else found
    return sorted(found, key=lambda each: bool(each["kind"] != "chat"))


def _name(key: str, source: Source) -> str | None:
    for prefix in source.strip:
        if key.startswith(prefix):
            return key.removeprefix(prefix)
    return None if source.strict_names else key


def _is_served(entry: Entry, today: date) -> bool:
    """Tell whether a model is of a kind we know, reached by a request and its answer, and not switched off."""
    retires = _retires(entry)
    paths = entry.get("supported_endpoints") or ["chat/completions"]
    reached = (
        "chat/completions",
        "responses",
        "messages",
        "completions",
        "embeddings",
        "images",
        "audio",
        "moderations",
    )
    return (
        entry.get("mode") in _KINDS
        and not (retires and retires <= today)
        and any(part in path for path in paths for part in reached)
    )


def _retires(entry: Entry) -> date | None:
    text = entry.get("deprecation_date")
    return date.fromisoformat(text) if isinstance(text, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) else None


# --- One model --------------------------------------------------------------------------------------------------------


def row(name: str, entry: Entry, source: Source) -> Row:
    """Return a model as litellm tells it, by our keys; nothing is corrected yet."""
    kind = _KINDS[entry["mode"]]
    found: Row = {
        "id": name,
        "upstream": source.upstream_prefix + name,
        "kind": kind,
        "context_tokens": _count(entry.get("max_input_tokens")),
        "max_output_tokens": _count(entry.get("max_output_tokens")) if kind == "chat" else None,
        "retires_on": _retires(entry),
        **_price(entry, kind),
    }
    if found["context_tokens"] and found["max_output_tokens"]:
        found["max_output_tokens"] = min(found["context_tokens"], found["max_output_tokens"])
    if kind == "chat":
        found["capabilities"] = _capabilities(entry) - (frozenset() if source.dialect in _WITH_NATIVE else _NATIVE)
        found["thinking"] = _thinking(entry, source)
        found["efforts"] = _efforts(entry) if found["thinking"] not in {"none", "budget"} else []
        found["unsupported"] = _unsupported(entry, source)
    return found


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int | Decimal) and value > 0 else None


def _capabilities(entry: Entry) -> set[str]:
    can = {ours for theirs, ours in _FLAGS.items() if entry.get(theirs)}
    if entry.get("supports_native_structured_output"):
        can.add("json_schema")
    if "json_schema" in can:
        can.add("json")
    if entry.get("cache_read_input_token_cost"):
        can.add("caching")
    if entry.get("supports_native_streaming", True):
        can.add("streaming")
    if "image" in (entry.get("supported_output_modalities") or ()) and "output_cost_per_image_token" in entry:
        can.add("image_output")
    if _needs_responses(entry):
        can.add("needs_responses")
    return can


def _needs_responses(entry: Entry) -> bool:
    paths = entry.get("supported_endpoints") or []
    return entry["mode"] == "responses" or (
        any("responses" in path for path in paths)
        and not any(part in path for path in paths for part in ("chat/completions", "messages"))
    )


def _thinking(entry: Entry, source: Source) -> str:
    if not entry.get("supports_reasoning"):
        return "none"
    if entry.get("thinking_always_on"):
        return "always_on"
    if entry.get("supports_adaptive_thinking"):
        return "adaptive"
    return "effort" if entry.get("reasoning_effort_levels") else source.thinking


def _efforts(entry: Entry) -> list[str]:
    """Return the efforts litellm names, least first; nothing where it names none."""
    if levels := entry.get("reasoning_effort_levels"):
        return [effort for effort in EFFORTS if effort in levels]
    flags = {effort: entry.get(f"supports_{effort}_reasoning_effort") for effort in EFFORTS}
    if all(flag is None for flag in flags.values()):
        return []
    usual = {"low", "medium", "high"}
    return [effort for effort in EFFORTS if (effort in usual if flags[effort] is None else flags[effort])]


def _unsupported(entry: Entry, source: Source) -> list[str]:
    if entry.get("supports_sampling_params") is False:
        return list(_SAMPLING)
    thinks_always = entry.get("supports_reasoning") and not entry.get("supports_none_reasoning_effort")
    return list(source.thinking_refuses) if thinks_always else []


# --- Its price --------------------------------------------------------------------------------------------------------


def usd(per_token: Decimal | int) -> str:
    """Write a price per token as US dollars per million: plain decimal text, at most nine digits after the point."""
    exact = (Decimal(per_token) * 1_000_000).quantize(Decimal("1e-9"), ROUND_HALF_UP)
    return f"{exact.normalize():f}" if exact else "0"


def _price(entry: Entry, kind: str) -> Row:
    """Return `price`, `price_above`, `unpriced` and a `note`; a price that is not the whole truth is left unknown."""
    if tiers := entry.get("tiered_pricing"):
        return _tiered(tiers)
    if why := _why_unknown(entry, kind):
        return {"note": why}
    above = sorted({match[1] for key in entry if (match := _ABOVE.fullmatch(key))}, key=int)
    if len(above) > 1:
        return {"note": "its price has more than two steps"}
    found: Row = {"price": _rates(entry, ""), "unpriced": _unpriced(entry)}
    if above:
        found["price_above"] = {"tokens": int(above[0]) * 1000, **_rates(entry, f"_above_{above[0]}k_tokens")}
    return found


def _why_unknown(entry: Entry, kind: str) -> str | None:
    """Return why tokens alone do not tell what a call costs; None where they do."""
    if kind not in {"chat", "completion", "embedding"}:
        return " "
    cost_in, cost_out = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    if kind == "embedding":
        cost_out = cost_out or 0
    if cost_in is None or cost_out is None:
        return NO_PRICE
    if not cost_in and not cost_out:
        return NO_COST
    if kind != "embedding" and not cost_out:
        return "litellm has no price of its output"
    if entry.get("output_cost_per_reasoning_token") not in {None, cost_out}:
        return "reasoning has a price of its own"
    if entry.get("input_cost_per_image") or entry.get("citation_cost_per_token") or entry.get("input_cost_per_query"):
        return "more than tokens is charged"
    return None


def _rates(entry: Entry, suffix: str) -> Row:
    found = {ours: usd(entry[key + suffix]) for ours, key in _PRICES.items() if entry.get(key + suffix) is not None}
    for key in _LONG_WRITES:
        if entry.get(key + suffix) is not None:
            found["cache_write_1h"] = usd(entry[key + suffix])
    found.setdefault("output", "0")
    # A cache that costs nothing is one litellm knows no price of; one that costs what input does need not be said.
    for name in ("cache_read", "cache_write"):
        if found.get(name) in {"0", found["input"]}:
            del found[name]
    if "cache_write" not in found:
        found.pop("cache_write_1h", None)
    if not suffix and entry.get("input_cost_per_request"):
        found["request"] = usd(Decimal(entry["input_cost_per_request"]) / 1_000_000)
    return found


def _unpriced(entry: Entry) -> list[str]:
    dearer_audio = entry.get("input_cost_per_audio_token") not in {None, entry.get("input_cost_per_token")}
    found = {
        "audio": dearer_audio,
        "audio_output": entry.get("output_cost_per_audio_token") is not None,
        "image_output": any(entry.get(key) for key in ("output_cost_per_image_token", "output_cost_per_image")),
    }
    return [word for word, is_so in found.items() if is_so]


def _tiered(tiers: list[Entry]) -> Row:
    if len(tiers) > 2 or any(tier.get("output_cost_per_reasoning_token") for tier in tiers):
        return {"note": "its price has more than two steps, or reasoning has one of its own"}
    found: Row = {"price": _rates(tiers[0], "")}
    if len(tiers) == 2:
        found["price_above"] = {"tokens": int(tiers[1]["range"][0]), **_rates(tiers[1], "")}
    return found


# --- Corrections ------------------------------------------------------------------------------------------------------


def corrected(model: Row, rules: Iterable[Rule]) -> Row:
    """Return a model with every rule applied that is about it, in order."""
    for rule in rules:
        if rule.is_about(model["id"]):
            can = (set(model.get("capabilities", ())) | set(rule.can)) - set(rule.cannot)
            price = {"price_above": None, "price_is_ours": True} if "price" in rule.facts else {}
            model = {**model, **price, **rule.facts, "capabilities": can}
    return model


def _merged(found: list[Row]) -> list[Row]:
    """Make one model of `name` and of the dated names that are the same: `name` is typed, the dated one is sent."""
    by_id = {row["id"]: row for row in found}
    gone = set()
    for row in found:
        match = _DATED.fullmatch(row["id"])
        plain = by_id.get(match[1]) if match else None
        if plain is None or plain["id"] in gone or not _are_same(plain, row):
            continue
        plain["aliases"] = [*plain.get("aliases", ()), row["id"]]
        if not row["id"].endswith("@default"):
            plain["upstream"] = row["upstream"]
        gone.add(row["id"])
    return [row for row in found if row["id"] not in gone]


def _are_same(one: Row, other: Row) -> bool:
    return all(one.get(key) == other.get(key) for key in ("price", "price_above", "context_tokens", "kind"))


# --- The file ---------------------------------------------------------------------------------------------------------


def text(models: Iterable[Row], *, source: str) -> str:
    """Return the text of a generated file: JSON, one model a line, nothing said that is not known."""
    lines = ",\n".join(json.dumps(_written(row), ensure_ascii=False, separators=(",", ":")) for row in models)
    return f'{{"source":{json.dumps(source)},"models":[\n{lines}\n]}}\n'


def _written(row: Row) -> Row:
    thinks = row["kind"] == "chat" and "thinking" in row.get("capabilities", ())
    told = {
        **row,
        "upstream": None if row.get("upstream") == row["id"] else row.get("upstream"),
        "kind": None if row["kind"] == "chat" else row["kind"],
        "thinking": row.get("thinking") if thinks and row.get("thinking") != "none" else None,
        "efforts": row.get("efforts") if thinks else None,
        "capabilities": [word for word in _ORDER if word in row.get("capabilities", ())],
        "retires_on": row["retires_on"].isoformat() if row.get("retires_on") else None,
        "note": (row.get("note") or "").strip(),
    }
    return {key: told[key] for key in _KEYS if told.get(key)}
