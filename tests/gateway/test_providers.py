"""The catalogue: strict loading, exact prices, names."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers import FOLDER, Catalog, catalog, load, load_file
from gateway.tables import CatalogError

PROVIDER = """
id = "acme"
name = "Acme"
dialect = "openai_chat"
transport = "http"
base_url = "https://api.acme.example/v1"
auth = "bearer"
credential_fields = ["api_key"]
max_tokens_field = "max_tokens"
usage_in_stream = true
image_tokens = 900
"""
MODEL = """
[[models]]
id = "fast"
context_tokens = 1000
max_output_tokens = 100
price = { input = "1", output = "2" }
capabilities = ["streaming"]
"""


def write(folder: Path, text: str = PROVIDER + MODEL, name: str = "acme.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def acme(tmp_path: Path) -> Callable[..., Catalog]:
    """Load a folder with one file: `acme(text)`."""

    def loaded(text: str = PROVIDER + MODEL) -> Catalog:
        write(tmp_path, text)
        return load([tmp_path])

    return loaded


# Each mistake: what is replaced, by what, and what the message must name besides the file.
MISTAKES = {
    "unknown key of a provider": ("image_tokens = 900", "image_tokens = 900\nmodles = 1", "modles"),
    "unknown key of a model": ('id = "fast"', 'id = "fast"\nspeed = 3', "speed"),
    "misspelt key": ("context_tokens", "context_token", "context_token'"),
    "missing key of a provider": ('dialect = "openai_chat"\n', "", "dialect"),
    "missing key of a model": ("max_output_tokens = 100\n", "", "max_output_tokens"),
    "missing price": ('price = { input = "1", output = "2" }\n', "", "price"),
    "text for a number": ("context_tokens = 1000", 'context_tokens = "1000"', "context_tokens"),
    "true for a number": ("context_tokens = 1000", "context_tokens = true", "context_tokens"),
    "a fraction of a token": ("context_tokens = 1000", "context_tokens = 1000.5", "context_tokens"),
    "no tokens at all": ("context_tokens = 1000", "context_tokens = 0", "context_tokens"),
    "number for text": ('name = "Acme"', "name = 7", "name"),
    "text for a flag": ("usage_in_stream = true", 'usage_in_stream = "yes"', "usage_in_stream"),
    "text for a list": ('capabilities = ["streaming"]', 'capabilities = "streaming"', "capabilities"),
    "number in a list": ('capabilities = ["streaming"]', "capabilities = [1]", "capabilities"),
    "twice in a list": ('capabilities = ["streaming"]', 'capabilities = ["json", "json"]', "capabilities"),
    "unknown capability": ('capabilities = ["streaming"]', 'capabilities = ["flying"]', "flying"),
    "unknown dialect": ('dialect = "openai_chat"', 'dialect = "morse"', "dialect"),
    "unknown transport": ('transport = "http"', 'transport = "pigeon"', "transport"),
    "unknown limit field": ('max_tokens_field = "max_tokens"', 'max_tokens_field = "tokens"', "max_tokens_field"),
    "empty text": ('name = "Acme"', 'name = ""', "name"),
    "capitals in an id": ('id = "acme"', 'id = "Acme"', "id"),
    "a blank in a model": ('id = "fast"', 'id = "fast one"', "id"),
    "relative base URL": ('base_url = "https://api.acme.example/v1"', 'base_url = "api.acme.example"', "base_url"),
    "slash at the end": ("acme.example/v1", "acme.example/v1/", "base_url"),
    "price as a float": ('input = "1"', "input = 1.5", "input"),
    "price as a number": ('input = "1"', "input = 1", "input"),
    "price with an exponent": ('input = "1"', 'input = "1e-3"', "input"),
    "price finer than a nano-dollar": ('input = "1"', 'input = "0.0000000001"', "input"),
    "negative price": ('input = "1"', 'input = "-1"', "input"),
    "unknown key of a price": ('input = "1"', 'input = "1", inputs = "1"', "inputs"),
    "price without output": (', output = "2"', "", "output"),
    "price of a free model": ('id = "fast"', 'id = "fast"\nfree = true', "price"),
    "long price without a bound": (
        'capabilities = ["streaming"]',
        'capabilities = ["streaming"]\nprice_above = { input = "2", output = "4" }',
        "tokens",
    ),
    "a day in quotes": ('id = "fast"', 'id = "fast"\nretires_on = "2027-01-01"', "retires_on"),
    "duplicate model": (MODEL, MODEL + MODEL, "fast"),
    "alias of another model": (MODEL, MODEL + MODEL.replace('"fast"', '"slow"\naliases = ["fast"]'), "fast"),
    "models as a table": (MODEL, "[models]\nfast = 1\n", "models"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_naming_file_and_key(mistake: str, tmp_path: Path) -> None:
    old, new, key = MISTAKES[mistake]
    text = PROVIDER + MODEL
    assert old in text
    with pytest.raises(CatalogError) as refused:
        load_file(write(tmp_path, text.replace(old, new)))
    assert "acme.toml" in str(refused.value)
    assert key in str(refused.value)


def test_vision_without_the_price_of_an_image_is_refused(tmp_path: Path) -> None:
    text = (PROVIDER + MODEL).replace("image_tokens = 900\n", "").replace('"streaming"', '"vision"')
    with pytest.raises(CatalogError, match=r"acme\.toml.*fast.*image_tokens"):
        load_file(write(tmp_path, text))


@pytest.mark.parametrize("content", [b"id = \n", b"\xff\xfe", b'id = "a"\nid = "b"\n'])
def test_a_file_that_is_no_toml_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(CatalogError, match=r"broken\.toml"):
        load([tmp_path])


def test_two_files_cannot_claim_one_provider_or_prefix(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, PROVIDER.replace('"acme"', '"zeta"') + 'prefixes = ["acme"]\n' + MODEL, "zeta.toml")
    with pytest.raises(CatalogError, match=r"zeta\.toml.*'acme'.*acme\.toml"):
        load([tmp_path])


def test_a_missing_extra_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="nowhere"):
        load([tmp_path / "nowhere"])


def test_extra_folders_are_read_after_ours(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    write(ours, PROVIDER.replace('"acme"', '"zeta"') + MODEL, "zeta.toml")
    write(theirs)
    found = load([ours, theirs])
    assert list(found.providers) == ["zeta", "acme"]
    assert [model.provider for model in found.find("fast")] == ["zeta", "acme"]


def test_names_with_and_without_provider_and_aliases_find_their_model(acme: Callable[..., Catalog]) -> None:
    text = PROVIDER + 'prefixes = ["acme_inc"]\n' + MODEL.replace('"fast"', '"fast"\naliases = ["quick"]')
    found = acme(text)
    for name in ("fast", "quick", "acme/fast", "acme/quick", "acme_inc/fast"):
        assert [model.full_name for model in found.find(name)] == ["acme/fast"], name
    for name in ("", "/", "acme/", "acme/slow", "FAST", "acme_inc"):
        assert found.find(name) == []


def test_a_full_name_is_never_hidden_by_a_bare_one(tmp_path: Path) -> None:
    """A host's model may be called like another provider's: `acme/fast` means acme's."""
    write(tmp_path)
    host = PROVIDER.replace('"acme"', '"host"') + MODEL.replace('"fast"', '"acme/fast"')
    write(tmp_path, host, "host.toml")
    found = load([tmp_path])
    assert [model.full_name for model in found.find("acme/fast")] == ["acme/fast"]
    assert [model.full_name for model in found.find("host/acme/fast")] == ["host/acme/fast"]


def test_facts_of_the_provider_reach_its_models(acme: Callable[..., Catalog]) -> None:
    text = PROVIDER + 'unsupported = ["logprobs"]\n[rename]\nseed = "random_seed"\n' + MODEL
    text += 'unsupported = ["stop"]\nmax_tokens_field = "max_completion_tokens"\nretires_on = 2027-03-01\n'
    found = acme(text)
    (model,) = found.find("fast")
    assert model.unsupported == {"logprobs", "stop"}
    assert model.max_tokens_field == "max_completion_tokens"
    assert model.image_tokens == 900
    assert model.retires_on == date(2027, 3, 1)
    assert found.providers["acme"].rename == {"seed": "random_seed"}
    assert found.providers["acme"].unlisted("new").max_tokens_field == "max_tokens"


def test_unknown_facts_are_written_as_unknown(acme: Callable[..., Catalog]) -> None:
    text = PROVIDER + MODEL.replace("= 1000", '= "unknown"').replace("= 100", '= "unknown"')
    (model,) = acme(re.sub("price = .*", 'price = "unknown"', text)).find("fast")
    assert (model.context_tokens, model.max_output_tokens, model.rates) == (None, None, None)


@given(nano=st.integers(0, 999_999 * 10**9 + 999_999_999))
def test_prices_are_read_exactly(nano: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("catalogue") / "acme.toml"
    path.write_text((PROVIDER + MODEL).replace('input = "1"', f'input = "{Decimal(nano).scaleb(-9):f}"'))
    rates = load_file(path).models["fast"].rates
    assert rates is not None
    assert rates.input == nano


def test_a_long_call_has_a_price_of_its_own(acme: Callable[..., Catalog]) -> None:
    text = PROVIDER + MODEL + 'price_above = { tokens = 272000, input = "2", output = "3" }\n'
    (model,) = acme(text).find("fast")
    assert model.long_rates is not None
    assert (model.long_above_tokens, model.long_rates.input) == (272_000, 2 * 10**9)
    assert model.long_price_id == "fast#above-272000"


# --- The files we ship ------------------------------------------------------------------------------------------------


def test_the_catalogue_is_as_large_as_it_says() -> None:
    found = catalog.listed()
    chat = [model for model in found.models() if model.kind == "chat"]
    assert len(found.providers) >= 80
    assert len(chat) > 2_500
    assert sum(1 for model in chat if model.rates and model.context_tokens and model.capabilities) > 2_200


def test_every_shipped_model_is_sound() -> None:
    for model in catalog.listed().models():
        if model.rates is not None:
            assert model.free == (model.rates.output == 0 and model.kind != "embedding"), model.full_name
            assert model.rates.cache_read_or_input <= model.rates.input, model.full_name
            assert model.rates.input < 200 * 10**9, model.full_name
        assert model.long_rates is None or model.long_rates.input > model.rates.input  # type: ignore[union-attr]
        assert model.kind == "chat" or model.thinking == "none", model.full_name
        assert model.thinking == "none" or "thinking" in model.capabilities, model.full_name
        assert "vision" not in model.capabilities or model.image_tokens, model.full_name


def test_a_vendors_own_model_comes_before_those_who_serve_it_too() -> None:
    for name, vendor in {"gpt-4o": "openai", "claude-sonnet-4-5": "anthropic", "gemini-2.5-flash": "google",
                         "deepseek-v4-pro": "deepseek", "kimi-k3": "moonshot", "glm-5.3": "zai",
                         "mistral-large-latest": "mistral", "grok-4.5": "xai"}.items():  # fmt: skip
        assert catalog().find(name)[0].provider == vendor, name


@pytest.mark.parametrize(
    ("name", "thinking", "refused"),
    [
        ("anthropic/claude-sonnet-4-20250514", "budget", set()),
        ("anthropic/claude-sonnet-4-5", "budget", set()),
        ("anthropic/claude-opus-4-6", "adaptive", set()),
        ("anthropic/claude-opus-4-7", "adaptive", {"temperature", "top_p", "top_k"}),
        ("anthropic/claude-sonnet-5-5", "always_on", {"temperature", "top_p", "top_k"}),
        ("google/gemini-2.5-pro", "budget", set()),
        ("google/gemini-3.1-pro-preview", "level", set()),
        ("openai/gpt-5", "effort", {"temperature", "top_p"}),
        ("openai/gpt-5.1", "effort", set()),
        ("openai/o3", "effort", {"temperature"}),
        ("openai/gpt-4o", "none", set()),
        ("bedrock/us.anthropic.claude-opus-4-6-v1", "adaptive", set()),
        ("vertex-claude/claude-opus-4-5", "budget", set()),
    ],
)
def test_how_known_models_think_and_what_they_refuse(name: str, thinking: str, refused: set[str]) -> None:
    (model,) = catalog().find(name)
    assert model.thinking == thinking
    assert refused <= model.unsupported if refused else "temperature" not in model.unsupported


def test_the_newest_models_that_take_tools_elsewhere_only_say_so() -> None:
    for name in ("openai/gpt-6-astra", "openai/gpt-6.1-sol"):
        assert "needs_responses_for_tools" in catalog().find(name)[0].capabilities
    assert "needs_responses" in catalog().find("openai/gpt-5-pro")[0].capabilities


def test_the_catalogue_is_read_in_a_moment() -> None:
    started = time.process_time()
    load([FOLDER])
    assert time.process_time() - started < 0.5  # loosely, for a busy machine: it takes 60 ms


def test_nothing_of_this_machine_stands_in_the_files() -> None:
    for path in FOLDER.rglob("*.*"):
        text = path.read_text("utf-8")
        assert not re.search(r"(?<![\w.-])/(work|tmp|root|home)/|127\.0\.0\.1|localhost", text), path.name


def test_the_sandbox_is_one_free_and_one_priced_model() -> None:
    (echo,), (priced,) = catalog().find("sandbox/echo"), catalog().find("sandbox/priced")
    assert echo.free
    assert not priced.free
    assert priced.rates is not None
    assert (priced.rates.input, priced.rates.output) == (1_000_000_000, 2_000_000_000)
    assert catalog().providers["sandbox"].transport == "sandbox"


@pytest.mark.parametrize(
    ("name", "price"),
    [
        ("openai/gpt-4o-mini", (150_000_000, 600_000_000, 75_000_000)),
        ("openai/gpt-4o", (2_500_000_000, 10_000_000_000, 1_250_000_000)),
        ("groq/openai/gpt-oss-20b", (75_000_000, 300_000_000, 37_500_000)),
        ("together_ai/moonshotai/Kimi-K3", (3_000_000_000, 15_000_000_000, 300_000_000)),
    ],
)
def test_known_prices_are_the_published_ones(name: str, price: tuple[int, int, int]) -> None:
    (model,) = catalog().find(name)
    assert model.rates is not None
    assert (model.rates.input, model.rates.output, model.rates.cache_read) == price


def test_no_model_we_ship_was_switched_off_before_the_release() -> None:
    assert [
        model.full_name for model in catalog().models() if model.retires_on and model.retires_on < date(2026, 11, 22)
    ] == []


def test_close_names_help_and_stay_cheap() -> None:
    assert catalog().close_names("gpt-4o-mni")[0] == "gpt-4o-mini"
    assert "kimi-k3" in catalog().close_names("kimi")
    assert len(catalog().close_names("gpt", limit=3)) <= 3
    started = time.process_time()
    catalog().close_names("gpt-" * 1_000_000)
    assert time.process_time() - started < 0.5


def test_a_lower_rank_comes_first_within_a_folder(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, PROVIDER.replace('"acme"', '"zeta"') + "rank = 20\n" + MODEL, "zeta.toml")
    assert [model.provider for model in load([tmp_path]).find("fast")] == ["zeta", "acme"]


def test_added_models_join_or_replace_the_listed_ones(acme: Callable[..., Catalog]) -> None:
    listed = acme()
    (fast,) = listed.find("acme/fast")
    added = listed.with_models(
        [replace(fast, context_tokens=5), replace(fast, id="slow"), replace(fast, provider="no")]
    )
    assert added.find("fast")[0].context_tokens == 5
    assert added.find("acme/slow")[0].id == "slow"
    assert [model.full_name for model in added.models()] == ["acme/fast", "acme/slow"]
    assert listed.find("acme/slow") == []


def test_a_model_of_ones_own_cannot_hide_a_provider() -> None:
    assert {"openai", "together_ai", "sandbox", "custom", "qwen"} <= catalog().reserved
