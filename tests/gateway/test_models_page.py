"""The Models pages: what the filters find, in which order, what can be called, the comparison, one model's page."""

import gzip
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import resolve, reverse
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey
from billing import ledger, prices
from billing.usage import Rates, usd
from gateway import browsing, credentials, snippets
from gateway.browsing import Wanted
from gateway.credentials import Secret, Stored
from gateway.listing import Reach
from gateway.providers import KINDS, Catalog, Model, catalog
from gateway.routing import CUSTOM

LIST = "/platform/models/"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def as_user(cast: Any) -> Callable[[str], Client]:
    """A browser in which one of the cast is signed in."""

    def signed_in(name: str) -> Client:
        client = Client()
        client.force_login(getattr(cast, name))
        return client

    return signed_in


def key(provider: str, name: str = "Main", models: tuple[str, ...] = ()) -> Stored:
    return Stored("cred_1", 1, provider, name, "https://llm.example.com/v1", models, "v1.k1.x")


def wanted(**query: Any) -> Wanted:
    return Wanted.read({name: value if isinstance(value, list) else [value] for name, value in query.items()})


@pytest.fixture
def everything_on_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsing, "PER_PAGE", 10_000)


def find(*own: Stored, platform: tuple[Stored, ...] = (), within: Catalog | None = None, **query: Any) -> browsing.Page:
    reach = Reach.of(own=own, platform=platform)
    return browsing.find(within or catalog(), own=own, reach=reach, wanted=wanted(**query))


def names(page: browsing.Page) -> list[str]:
    return [row.name for row, _ in page.rows]


def large(models: int) -> Catalog:
    """A catalogue of so many models of thirty providers."""
    pattern = catalog().providers["openai"]
    model = pattern.models["gpt-5.4"]
    providers = [catalog().providers[CUSTOM]]
    for number in range(30):
        made = [
            replace(
                model,
                id=f"model-{index:04d}-of-{number:02d}-2026-11-22",
                provider=f"p{number}",
                context_tokens=1000 * index,
                rates=Rates(input=index * 10_000, output=index * 70_000, cache_read=index * 1_000),
            )
            for index in range(models // 30)
        ]
        providers.append(
            replace(pattern, id=f"p{number}", name=f"Provider {number}", models={each.id: each for each in made})
        )
    return Catalog(providers)


# --- Filters and order ------------------------------------------------------------------------------------------------


def test_without_filters_everything_is_there_in_the_catalogues_order() -> None:
    page = find()
    listed = [model.full_name for model in catalog().models()]
    assert page.total == len(listed)
    assert [row.name for row, _ in page.rows] == listed[: len(page.rows)]
    assert listed[0].startswith("openai/")


@pytest.mark.parametrize(
    ("query", "true_of"),
    [
        ({"q": "GPT mini"}, lambda model: "gpt" in model.full_name and "mini" in model.full_name),
        ({"provider": "groq"}, lambda model: model.provider == "groq"),
        ({"can": ["vision", "pdf"]}, lambda model: {"vision", "pdf"} <= model.capabilities),
        ({"context": "200000"}, lambda model: (model.context_tokens or 0) >= 200_000),
        ({"price": "0.10"}, lambda model: model.rates and model.rates.input <= 100_000_000),
        ({"price": "0"}, lambda model: model.rates and model.rates.input == 0),
        ({"kind": "embedding"}, lambda model: model.kind == "embedding"),
        ({"can": ["audio"]}, lambda model: "audio" in model.capabilities),
        ({"q": "gpt", "can": "thinking", "price": "1"}, lambda model: "thinking" in model.capabilities),
    ],
)
@pytest.mark.usefixtures("everything_on_one_page")
def test_each_filter_keeps_what_is_true_of_it(query: dict[str, Any], true_of: Callable[[Model], Any]) -> None:
    page = find(**query)
    kept = {row.name for row, _ in page.rows}
    assert kept
    assert all(true_of(row.model) for row, _ in page.rows)
    if len(query) == 1:
        assert kept == {model.full_name for model in catalog().models() if true_of(model)}


@pytest.mark.parametrize(
    "query",
    [{"context": "-1"}, {"context": "1e9"}, {"price": "cheap"}, {"price": "-1"}, {"can": "magic"}, {"sort": "secret"},
     {"kind": "dream"}, {"page": "0"}, {"page": "9" * 40}, {"q": "\x00"}, {"price": "0.00000000001"}],
)  # fmt: skip
def test_what_an_address_says_wrongly_counts_as_not_said(query: dict[str, Any]) -> None:
    assert names(find(**query)) == names(find())


@pytest.mark.parametrize("column", ["model", "provider", "context", "max_output", "input", "output", "cache"])
def test_every_column_sorts_both_ways_and_the_unknown_stands_last(column: str) -> None:
    value = browsing._SORTS[column]
    for sort, descending in ((column, False), (f"-{column}", True)):
        shown = [value(row) for row, _ in find(sort=sort).rows]
        known = [each for each in shown if each is not None]
        assert shown[: len(known)] == sorted(known, reverse=descending)


def test_an_address_says_only_what_is_wanted() -> None:
    assert Wanted().query() == ""
    asked = wanted(q="a b", can=["vision"], price="1.50", sort="-input", page="3", compare=["x/y"], callable="1")
    assert asked.query(page=3) == "q=a+b&can=vision&price=1.50&callable=1&sort=-input&page=3&compare=x%2Fy"
    assert "page" not in asked.query(provider="groq")
    assert "sort=input" in asked.sorted_by("input")
    assert "sort=-context" in asked.sorted_by("context")
    assert "sort=provider" in asked.sorted_by("provider")
    assert "sort" not in wanted(sort="usual").query()


def test_pages_of_two_hundred_share_out_everything() -> None:
    within = large(690)
    pages = [find(within=within, page=str(number)) for number in (1, 2, 3, 4)]
    assert [(page.first, page.last) for page in pages] == [(1, 200), (201, 400), (401, 600), (601, 690)]
    assert len({name for page in pages for name in names(page)}) == 690
    assert find(within=within, page="99").number == 4
    assert (find(within=within, q="nothing").first, find(within=within, q="nothing").pages) == (0, 1)


@pytest.mark.parametrize(
    ("tokens", "text"), [(None, ""), (999, "999"), (128_000, "128K"), (131_072, "131K"), (1_050_000, "1.05M"),
                         (1_000_000, "1M"), (10_000_000, "10M")],
)  # fmt: skip
def test_tokens_are_written_as_people_say_them(tokens: int | None, text: str) -> None:
    assert browsing.count(tokens) == text


# --- What can be called -----------------------------------------------------------------------------------------------


def test_who_would_pay_is_told_as_calls_are_routed() -> None:
    own, platform = key("openai", models=("gpt-4o",)), key("openai")
    ways = {row.name: way for row, way in find(own, platform=(platform,), callable="1").rows}
    assert ways["openai/gpt-4o"] == "own_key"
    assert ways["openai/gpt-5"] == "credits"
    assert ways["sandbox/echo"] == "free"
    assert ways["sandbox/priced"] == "credits"
    assert not any(name.startswith("groq/") for name in ways)
    assert {way for _, way in find(provider="groq").rows} == {None}


def test_the_models_of_ones_own_server_are_listed_under_its_name() -> None:
    mine = key(CUSTOM, "my-llm", ("llama-3", "org/qwen"))
    page = find(mine, provider="my-llm")
    assert names(page) == ["my-llm/llama-3", "my-llm/org/qwen"]
    assert {way for _, way in page.rows} == {"own_key"}
    assert [row.name for row in browsing.get(catalog(), "my-llm/org/qwen", own=[mine])] == ["my-llm/org/qwen"]
    assert browsing.get(catalog(), "my-llm/org/qwen", own=[]) == []


# --- The table --------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_every_member_may_read_it(as_user: Callable[[str], Client]) -> None:
    for name in ("owner", "admin", "member"):
        text = as_user(name).get(f"{LIST}?provider=openai").content.decode()
        assert "openai/gpt-4o-mini" in text
        assert ("Add a key" in text) == (name != "member")
    assert "login" in Client().get(LIST)["Location"]


@pytest.mark.django_db
def test_the_page_tells_how_many_models_and_providers_there_are(as_user: Callable[[str], Client]) -> None:
    text = as_user("member").get(LIST).content.decode()
    models = list(catalog().models())
    chat = sum(1 for model in models if model.kind == "chat")
    with_models = sum(1 for provider in catalog().providers.values() if provider.models)
    assert f'<span class="num">{chat:,}</span> chat models and <span class="num">{len(models) - chat:,}</span>' in text
    assert f'of <span class="num">{with_models}</span> providers' in text
    assert f'of <span class="num">{len(models):,}</span> models' in text


@pytest.mark.django_db
def test_htmx_gets_the_table_and_the_address_as_people_would_write_it(as_user: Callable[[str], Client]) -> None:
    client = as_user("member")
    asked = {"q": "gpt-5", "provider": "", "context": "", "price": ""}
    answer = client.get(LIST, asked, headers=HTMX | {"HX-Trigger-Name": "q"})
    assert b"<html" not in answer.content
    assert answer["HX-Replace-Url"] == f"{LIST}?q=gpt-5"
    answer = client.get(LIST, asked | {"can": ["vision", "pdf"]}, headers=HTMX)
    assert answer["HX-Push-Url"] == f"{LIST}?q=gpt-5&can=vision&can=pdf"
    assert client.get(LIST, {"q": ""}, headers=HTMX)["HX-Push-Url"] == LIST


@pytest.mark.django_db
def test_the_order_is_told_to_screen_readers(as_user: Callable[[str], Client]) -> None:
    text = as_user("member").get(f"{LIST}?sort=-input").content.decode()
    assert text.count('aria-sort="descending"') == 1
    assert text.count('aria-sort="none"') == 6
    assert '<input type="hidden" name="sort" value="-input" form="filter">' in text


@pytest.mark.django_db
def test_nothing_found_says_so_and_what_is_asked_stays_text(as_user: Callable[[str], Client]) -> None:
    client = as_user("member")
    text = client.get(LIST, {"q": "<script>alert(1)</script>", "provider": '"><img src=x>'}).content.decode()
    assert "No model is like that" in text
    assert "<script>alert" not in text
    assert "<img src=x" not in text


@pytest.mark.django_db
def test_four_models_are_compared_and_a_fifth_is_refused_in_words(as_user: Callable[[str], Client]) -> None:
    client = as_user("member")
    five = [f"openai/{name}" for name in ("gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-5-mini", "gpt-5-nano")]
    text = client.get(LIST, {"provider": "openai", "compare": five[:2], "show": "comparison"}).content.decode()
    assert "Compare 2 of 4" in text
    assert "<details open>" in text
    assert f'value="{five[1]}" id="compare-{five[1]}" aria-label="Compare {five[1]}" checked' in text
    text = client.get(LIST, {"compare": five}).content.decode()
    assert "4 at most" in text
    assert "Compare 4 of 4" in text
    # Of another page of the table, it stays chosen; of nothing we know, it is left out.
    text = client.get(LIST, {"compare": [five[0], "no/such"], "provider": "groq"}).content.decode()
    assert f'<input type="hidden" name="compare" value="{five[0]}" form="filter">' in text
    assert "Compare 1 of 4" in text


@pytest.mark.django_db
def test_the_table_costs_the_same_queries_with_thirty_keys(
    as_user: Callable[[str], Client], cast: Any, organization: Any
) -> None:
    client = as_user("owner")

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert client.get(LIST).status_code == 200
        return len(captured)

    queries()
    none = queries()
    for number in range(30):
        credentials.store(
            organization=organization,
            provider="custom",
            name=f"server-{number}",
            secret=Secret("sk-0123456789abcdef"),
            base_url="https://llm.example.com/v1",
            models=["llama-3"],
            actor=cast.owner,
            address=None,
        )
    assert queries() == none
    assert "server-29/llama-3" in client.get(LIST, {"q": "server-29"}).content.decode()


@pytest.mark.django_db
def test_three_thousand_models_are_a_light_page(as_user: Callable[[str], Client], settings: Any, tmp_path: Any) -> None:
    for number in range(30):
        (tmp_path / f"p{number}.toml").write_text(catalogue_file(f"p{number}", models=100))
    settings.RESPAN_CATALOG_EXTRA = [tmp_path]
    catalog.cache_clear()
    try:
        client = as_user("owner")
        client.get(LIST)  # draws the rows
        started = time.process_time()
        page = client.get(f"{LIST}?sort=-context&page=3")
        assert time.process_time() - started < 1  # loosely, for a busy machine: it takes a twentieth
    finally:
        catalog.cache_clear()
    text = page.content.decode()
    assert "401–600</span> of" in text
    assert text.count("<tr data-row>") == 200
    assert len(gzip.compress(page.content)) < 60_000


def catalogue_file(provider: str, *, models: int) -> str:
    head = (
        f'id = "{provider}"\nname = "Provider {provider}"\ndialect = "openai_chat"\ntransport = "http"\n'
        f'base_url = "https://{provider}.example.com"\nauth = "bearer"\ncredential_fields = ["api_key"]\n'
        'max_tokens_field = "max_tokens"\nusage_in_stream = true\nimage_tokens = 1000\n'
    )
    return head + "".join(
        f'[[models]]\nid = "vendor-{number % 7}/model-{number}-of-{provider}-instruct"\n'
        f"context_tokens = {8_000 + number}\n"
        f'max_output_tokens = {1_000 + number}\nprice = {{ input = "0.{number:03d}1", output = "0.{number:03d}7" }}\n'
        'capabilities = ["tools", "json", "vision", "thinking", "caching", "streaming"]\n'
        for number in range(models)
    )


# --- One model --------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_models_page_tells_prices_abilities_and_the_first_call(as_user: Callable[[str], Client]) -> None:
    text = as_user("member").get(reverse("model", args=["openai/gpt-4o-mini"])).content.decode()
    for said in ("$0.15", "$0.60", "$0.075", "128,000 tokens", "16,384 tokens", "Vision", "Price history", "Now"):
        assert said in text
    assert "model=&quot;openai/gpt-4o-mini&quot;" in text
    assert "/api/&quot;" in text
    assert "Ask" not in text
    assert "An owner or admin can add one" in text


@pytest.mark.django_db
def test_models_of_every_provider_and_kind_have_a_page(as_user: Callable[[str], Client]) -> None:
    client = as_user("owner")
    some = {(model.provider, model.kind): model for model in catalog().models()}  # all of them take a minute
    some |= {(model.thinking, "thinking"): model for model in catalog().models()}
    for model in some.values():
        assert client.get(reverse("model", args=[model.full_name])).status_code == 200, model.full_name


@pytest.mark.django_db
def test_every_model_of_the_catalogue_has_a_page_of_its_own() -> None:
    for model in catalog().models():
        assert resolve(reverse("model", args=[model.full_name])).kwargs == {"model_id": model.full_name}
        assert [row.name for row in browsing.get(catalog(), model.full_name, own=())] == [model.full_name]


@pytest.mark.django_db
def test_a_short_name_leads_to_the_model_or_to_all_it_may_mean(as_user: Callable[[str], Client]) -> None:
    client = as_user("member")
    answer = client.get(reverse("model", args=["gpt-4o-mini"]))
    assert answer["Location"] == reverse("model", args=["openai/gpt-4o-mini"])
    several = "gpt-oss-120b"  # nobody's own: several serve it
    assert len(catalog().find(several)) > 3
    assert client.get(reverse("model", args=[several]))["Location"].startswith(f"{LIST}?q=")
    for unknown in ("no-such", "openai/", "x" * 300, "a\x00b", "../../etc"):
        assert client.get(f"{LIST}{unknown}/").status_code == 404


@pytest.mark.django_db
def test_the_price_history_shows_each_version(as_user: Callable[[str], Client]) -> None:
    prices.publish([prices.Price("groq", "openai/gpt-oss-20b", Rates(input=1_230_000, output=4_560_000))])
    text = as_user("member").get(reverse("model", args=["groq/openai/gpt-oss-20b"])).content.decode()
    history = text.partition('id="history"')[2]
    newest, before = history.index("$0.00123"), history.index("$0.075")
    assert newest < before
    assert history.index("Now") < before
    assert [each.rates.input for each in prices.history("groq", "openai/gpt-oss-20b")] == [1_230_000, 75_000_000]


@pytest.mark.django_db
def test_anothers_server_is_not_found(as_user: Callable[[str], Client], cast: Any, organization: Any) -> None:
    credentials.store(
        organization=organization,
        provider="custom",
        name="house-llm",
        secret=Secret("sk-0123456789abcdef"),
        base_url="https://house.example.com/v1",
        models=["<b>m</b>"],
        actor=cast.owner,
        address=None,
    )
    path = reverse("model", args=["house-llm/<b>m</b>"])
    text = as_user("member").get(path).content.decode()
    assert "Your own server" in text
    assert "<b>m</b>" not in text
    assert "house.example.com" not in text
    assert as_user("outsider").get(path).status_code == 404
    assert "house-llm" not in as_user("outsider").get(LIST).content.decode()


@pytest.mark.parametrize(
    ("days", "said"), [(30, "has announced to switch this model off on"), (0, "switched this model off on")]
)
@pytest.mark.django_db
def test_a_model_that_retires_is_marked(
    days: int, said: str, as_user: Callable[[str], Client], settings: Any, tmp_path: Any
) -> None:
    day = date.today() + timedelta(days=days)  # noqa: DTZ011
    (tmp_path / "extra.toml").write_text(
        'id = "extra"\nname = "Extra"\ndialect = "openai_chat"\ntransport = "http"\nbase_url = "https://e.example.com"\n'
        'auth = "bearer"\ncredential_fields = ["api_key"]\nmax_tokens_field = "max_tokens"\nusage_in_stream = true\n'
        '[[models]]\nid = "old"\ncontext_tokens = "unknown"\nmax_output_tokens = "unknown"\nprice = "unknown"\n'
        f'capabilities = ["streaming"]\nretires_on = {day}\n'
    )
    settings.RESPAN_CATALOG_EXTRA = [tmp_path]
    catalog.cache_clear()
    try:
        client = as_user("member")
        text = client.get(reverse("model", args=["extra/old"])).content.decode()
        assert said in text
        assert "Its price is not known" in text
        assert ("Retired" if days == 0 else "Retires") in client.get(f"{LIST}?provider=extra").content.decode()
    finally:
        catalog.cache_clear()


# --- The drawer -------------------------------------------------------------------------------------------------------


def one_model(client: Client, name: str, **options: Any) -> str:
    return client.get(reverse("model", args=[name]), **options).content.decode()


@pytest.mark.django_db
def test_the_drawer_shows_the_same_as_the_page_without_its_frame(as_user: Callable[[str], Client]) -> None:
    client = as_user("member")
    piece, page = (one_model(client, "openai/gpt-4o-mini", headers=given) for given in (HTMX, {}))
    assert "<html" not in piece
    assert ("data-drawer-title" in piece, "data-drawer-title" in page) == (True, False)
    assert (piece.count("<h1"), page.count("<h1")) == (0, 1)
    for said in ("$0.15", "$0.60", "$0.075", "Call it", "Who else has it", "Price history", "Facts", "Capabilities"):
        assert said in piece
        assert said in page
    assert "(128K)" in piece or ">128K<" in piece


@pytest.mark.django_db
def test_every_row_is_a_link_to_the_models_page_that_a_drawer_can_take(as_user: Callable[[str], Client]) -> None:
    text = as_user("member").get(f"{LIST}?provider=openai&q=gpt-4o-mini").content.decode()
    assert f'href="{reverse("model", args=["openai/gpt-4o-mini"])}" data-drawer' in text
    assert 'id="model-drawer"' in text
    # htmx refreshes the table, and leaves the drawer where it is.
    assert 'id="model-drawer"' not in as_user("member").get(LIST, headers=HTMX).content.decode()


@pytest.mark.django_db
def test_long_calls_sound_and_images_have_their_own_lines(as_user: Callable[[str], Client]) -> None:
    client = as_user("member")
    long = next(model for model in catalog().models() if model.long_rates and model.rates)
    assert long.long_rates is not None
    text = one_model(client, long.full_name)
    assert f"Above {browsing.exact(long.long_above_tokens)} input tokens" in text
    assert usd(long.long_rates.input) in text
    assert "charged by the second column as a whole" in text
    sound = next(model for model in catalog().models() if "audio" in model.unpriced and model.rates)
    text = one_model(client, sound.full_name)
    assert "Sound in what is asked" in text
    assert "own key only" in text
    assert "own key only" not in one_model(client, "openai/gpt-4o-mini")


@pytest.mark.django_db
def test_who_else_has_a_model_is_told_whatever_prefix_they_write(as_user: Callable[[str], Client]) -> None:
    names = [each.name for each in browsing.elsewhere(catalog(), row_of("groq/openai/gpt-oss-120b"))]
    assert {"cerebras/gpt-oss-120b", "togetherai/openai/gpt-oss-120b"} <= set(names)
    assert not any(name.startswith("groq/") for name in names)
    assert len(names) == len(set(names))
    text = one_model(as_user("member"), "groq/openai/gpt-oss-120b")
    for name in names:
        assert f'href="{reverse("model", args=[name])}" data-drawer' in text
    assert "Who else has it" not in one_model(as_user("member"), "sandbox/echo")


def test_only_models_of_the_same_kind_are_the_same() -> None:
    for row in browsing.rows(catalog()):
        assert {each.model.kind for each in browsing.elsewhere(catalog(), row)} <= {row.model.kind}


def row_of(name: str) -> browsing.Row:
    return browsing.get(catalog(), name, own=())[0]


@pytest.mark.django_db
def test_the_page_says_who_answers_now_and_what_to_do_when_nobody_can(
    as_user: Callable[[str], Client], cast: Any, organization: Any, settings: Any
) -> None:
    name = "openai/gpt-4o-mini"
    assert "It needs neither a key nor credits." in one_model(as_user("member"), "sandbox/echo")
    # Nobody: an owner is led to the form, a member told whom to ask.
    assert f"{reverse('integration-add')}?provider=openai" in one_model(as_user("owner"), name)
    member = one_model(as_user("member"), name)
    assert "No key can serve it" in member
    assert reverse("integration-add") not in member.partition('id="first-call"')[2].partition("tabset")[0]
    # The operator offers it, and there are no credits; then there are.
    platform = {"provider": "openai", "name": "house", "secret": Secret("sk-0123456789abcdef"), "base_url": None}
    credentials.store(organization=None, models=[], actor=None, address=None, **platform)
    text = one_model(as_user("member"), name)
    assert "There are no credits left to pay for it." in text
    assert f'<a href="{reverse("credits")}">add credits</a>' in text
    ledger.grant(organization=organization, amount_nano=5_000_000_000, reason="test", actor=None)
    text = one_model(as_user("member"), name)
    assert "each call is charged to your" in text
    assert "$5.00" in text
    # A key of one's own comes before credits.
    credentials.store(
        organization=organization, models=[], actor=cast.owner, address=None, **platform | {"name": "Ours"}
    )
    text = one_model(as_user("member"), name)
    assert "OpenAI bills you, Respan charges nothing." in text
    assert "Ours" in text
    assert "Ours" not in one_model(as_user("outsider"), name)


@pytest.mark.django_db
def test_the_snippet_names_the_key_of_whoever_reads(
    as_user: Callable[[str], Client], cast: Any, organization: Any, settings: Any
) -> None:
    name, now = "sandbox/echo", timezone.now()

    def issue(user: Any, **options: Any) -> ApiKey:
        given = {"name": "Key", "environment": "production", **options}
        return keys.issue(organization=organization, created_by=user, **given).api_key

    assert f'<a href="{reverse("api-key-new")}">create one</a>' in one_model(as_user("member"), name)
    others, reader = issue(cast.owner), issue(cast.member, scopes=["logs"])
    expired, revoked = issue(cast.member, expires_at=now - timedelta(days=1)), issue(cast.member)
    keys.revoke(api_key=revoked, actor=cast.member, now=now)
    text = one_model(as_user("member"), name)
    assert "create one" in text
    for one in (others, reader, expired, revoked):
        assert f"{one.prefix}…{one.last_four}" not in text
    mine = issue(cast.member)
    text = one_model(as_user("member"), name)
    assert f"{mine.prefix}…{mine.last_four}" in text
    assert f"{settings.RESPAN_BASE_URL}/api/" in text
    test_key, client = issue(cast.member, environment="test"), as_user("member")
    assert f"{test_key.prefix}…{test_key.last_four}" in one_model(client, name)
    client.post("/platform/environment/", {"environment": "production"})
    assert f"{mine.prefix}…{mine.last_four}" in one_model(client, name)


@pytest.mark.django_db
def test_a_models_page_asks_as_much_with_thirty_keys_as_with_one(
    as_user: Callable[[str], Client], cast: Any, organization: Any
) -> None:
    client = as_user("owner")

    def add(count: int) -> None:
        for number in range(count):
            given = {"name": f"{count}-{number}", "environment": "test"}
            keys.issue(organization=organization, created_by=cast.owner, **given)

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            one_model(client, "openai/gpt-4o-mini", headers=HTMX)
        return len(captured)

    add(1)
    queries()
    one = queries()
    add(30)
    assert queries() == one


@pytest.mark.parametrize("name", ["my-llm/it's", 'my-llm/"; rm -rf', "my-llm/a\\b", "my-llm/{x}"])
def test_a_snippet_keeps_any_name_a_string(name: str) -> None:
    import ast
    import json
    import shlex

    python, _, curl = snippets.of("chat", base_url="https://r.example.com/api/", model=name)
    call = next(
        node for node in ast.walk(ast.parse(python.text)) if isinstance(node, ast.keyword) and node.arg == "model"
    )
    assert ast.literal_eval(call.value) == name
    words = shlex.split(curl.text)
    assert json.loads(words[words.index("-d") + 1])["model"] == name


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_model_has_a_snippet_the_sdk_understands(kind: str) -> None:
    import ast
    import operator
    import shlex

    import openai

    python, typescript, curl = snippets.of(kind, base_url="https://r.example.com/api/", model="p/m")
    tree = ast.parse(python.text)
    made = next(node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and "model=" in ast.unparse(node))
    assert isinstance(made, ast.Call)
    method = ast.unparse(made.func).removeprefix("client.")
    with openai.OpenAI(api_key="x", base_url="https://r.example.com/api/") as client:
        assert callable(operator.attrgetter(method)(client))
    assert f"client.{method}(" in typescript.text
    assert shlex.split(curl.text)[1].startswith("https://r.example.com/api/")
