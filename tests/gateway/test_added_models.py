"""Models the operator adds: the console's form, the price list, every process' catalogue, a call through the stack."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client

from accounts.models import AuditEvent
from billing import prices
from billing.models import ModelRates
from billing.usage import Rates
from gateway import added_models
from gateway.models import AddedModel
from gateway.providers import catalog
from respan import pool
from tests.operators import confirm, make_operator, sign_in
from tests.stack import Tenant, call

LIST = "/admin/gateway/addedmodel/"


@pytest.fixture
def operator(db: None) -> Client:
    return sign_in(make_operator())


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    catalog.add(())


def form(**fields: Any) -> dict[str, Any]:
    return {
        "provider": "groq", "model_id": f"new-{uuid.uuid4().hex[:8]}", "upstream": "", "name": "", "aliases": "",
        "kind": "chat", "context_tokens": "128000", "max_output_tokens": "8192", "capabilities": ["streaming", "tools"],
        "thinking": "effort", "efforts": ["low", "high"], "unsupported": "logprobs", "image_tokens": "",
        "input_usd": "0.15", "output_usd": "0.6", "cache_read_usd": "0.075", "cache_write_usd": "",
        "cache_write_1h_usd": "", "retires_on": "", **fields,
    }  # fmt: skip


def versions(provider: str, model: str) -> list[tuple[int, int]]:
    rows = ModelRates.objects.filter(provider=provider, model=model).order_by("pk")
    return [(row.input, row.output) for row in rows]


@pytest.mark.django_db
def test_a_model_is_added_priced_recorded_and_known(
    operator: Client, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    fields = form(aliases="quick, swift", upstream="vendor/new-1")
    with django_capture_on_commit_callbacks(execute=True):
        assert operator.post(f"{LIST}add/", fields).status_code == 302
    (model,) = catalog().find(f"groq/{fields['model_id']}")
    assert model.upstream == "vendor/new-1"
    assert model.capabilities == {"streaming", "tools"}
    assert (model.thinking, model.efforts) == ("effort", ("low", "high"))
    assert {"logprobs", "logit_bias"} <= model.unsupported  # its own, and the provider's
    assert [each.id for each in catalog().find("groq/swift")] == [model.id]
    assert versions("groq", model.id) == [(150_000_000, 600_000_000)]
    row = AddedModel.objects.get(model_id=model.id)
    (event,) = AuditEvent.objects.filter(target=f"addedmodel groq/{model.id}")
    assert event.action == "admin.added"
    with django_capture_on_commit_callbacks(execute=True):
        changed = {**fields, "input_usd": "0.2"}
        assert operator.post(f"{LIST}{row.pk}/change/", changed).status_code == 302
    assert versions("groq", model.id) == [(150_000_000, 600_000_000), (200_000_000, 600_000_000)]
    with django_capture_on_commit_callbacks(execute=True):
        assert operator.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 302
    assert catalog().find(f"groq/{model.id}") == []


@pytest.mark.django_db
def test_a_listed_model_is_replaced_and_comes_back(
    operator: Client, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    (listed,) = catalog().find("groq/qwen/qwen3.8-27b")
    call_command("sync_catalog", verbosity=0)
    with django_capture_on_commit_callbacks(execute=True):
        operator.post(f"{LIST}add/", form(model_id=listed.id, input_usd="9", output_usd="99"))
    (replaced,) = catalog().find("groq/qwen/qwen3.8-27b")
    assert replaced.rates is not None
    assert replaced.rates.input == 9 * 10**9
    call_command("sync_catalog", verbosity=0)  # a start does not publish the file's price over it
    assert versions("groq", listed.id)[-1] == (9 * 10**9, 99 * 10**9)
    row = AddedModel.objects.get(model_id=listed.id)
    with django_capture_on_commit_callbacks(execute=True):
        operator.post(f"{LIST}{row.pk}/delete/", {"post": "yes"})
    assert catalog().find("groq/qwen/qwen3.8-27b") == [listed]
    assert listed.rates is not None
    assert versions("groq", listed.id)[-1] == (listed.rates.input, listed.rates.output)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_id": "two words"}, "without blanks"),
        ({"model_id": "gpt-oss-120b"}, "means groq/openai/gpt-oss-120b"),
        ({"aliases": "openai/gpt-oss-20b"}, "means groq/openai/gpt-oss-20b"),
        ({"provider": "nobody"}, "Select a valid choice"),
        ({"provider": "sandbox"}, "Select a valid choice"),
        ({"output_usd": ""}, "both the input and the output price"),
        ({"input_usd": "", "output_usd": ""}, "cache alone is not a price"),
        ({"input_usd": "-1"}, "not below zero"),
        ({"input_usd": "0.0000000001"}, "decimal places"),
        ({"capabilities": ["flying"]}, "Select a valid choice"),
        ({"kind": "dream"}, "Select a valid choice"),
    ],
)
@pytest.mark.django_db
def test_what_a_catalogue_file_would_be_refused_for_is_refused(
    operator: Client, fields: dict[str, Any], said: str
) -> None:
    sent = form(**fields)
    page = operator.post(f"{LIST}add/", sent)
    assert page.status_code == 200
    assert said in page.content.decode()
    assert not AddedModel.objects.filter(model_id=sent["model_id"]).exists()


@pytest.mark.django_db
def test_a_stale_sign_in_changes_nothing_until_it_is_confirmed() -> None:
    client = sign_in(make_operator(), seconds_ago=3_600)
    sent = form()
    assert client.post(f"{LIST}add/", sent)["Location"].startswith("/accounts/reauthenticate/")
    assert not AddedModel.objects.filter(model_id=sent["model_id"]).exists()
    confirm(client, f"{LIST}add/")
    assert client.post(f"{LIST}add/", sent).status_code == 302


@pytest.mark.django_db
def test_only_operators_see_them(cast: Any) -> None:
    client = Client()
    client.force_login(cast.owner)
    assert client.get(LIST).status_code in {302, 403, 404}


@pytest.mark.django_db
def test_a_model_of_a_provider_that_left_the_catalogue_is_left_out() -> None:
    AddedModel.objects.create(provider="gone", model_id="m")
    assert [model for model in added_models.read() if model.provider == "gone"] == []


@pytest.mark.django_db(transaction=True)
def test_a_web_process_follows_what_others_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(added_models, "POLL_S", 0.05)
    name = f"followed-{uuid.uuid4().hex[:8]}"

    def add() -> None:
        AddedModel.objects.create(provider="groq", model_id=name)
        connection.close()

    def remove() -> None:
        AddedModel.objects.filter(model_id=name).delete()
        connection.close()

    async def seen(is_there: bool) -> None:
        for _ in range(200):
            if bool(catalog().find(f"groq/{name}")) == is_there:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"not followed: {is_there}")

    async def follow() -> None:
        await added_models.follower.start()
        try:
            await asyncio.to_thread(add)
            await seen(True)
            await asyncio.to_thread(remove)
            await seen(False)
        finally:
            await added_models.follower.stop()
            await pool.close()

    asyncio.run(follow())


# --- Through the running product --------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_model_added_in_the_console_is_called_and_charged_within_seconds(tenant: Callable[..., Tenant]) -> None:
    one = tenant(credits_usd="5")
    listed = json.loads(call(f"{one.stack.base_url}/api/models/public/?unnest=1").body)
    pattern = next(each["model_name"] for each in listed if each["model_name"].startswith("fake/"))
    name = f"added-{uuid.uuid4().hex[:8]}"
    upstream = pattern.removeprefix("fake/")
    row = AddedModel(
        provider="fake", model_id=name, upstream=upstream, capabilities=["streaming"], input_usd="3", output_usd="7"
    )
    row.save()
    # This process' catalogue has no fake provider, so that `store` would publish nothing.
    prices.publish([prices.Price("fake", name, Rates(input=3 * 10**9, output=7 * 10**9))])
    try:
        answer = one.chat(f"fake/{name}")
        deadline = time.monotonic() + 30
        while answer.status != 200 and time.monotonic() < deadline:
            time.sleep(0.3)
            answer = one.chat(f"fake/{name}")
        assert answer.status == 200, answer.body
        assert one.stack.provider.requests[-1].json["model"] == upstream
        log = one.log(answer.log_id)
        usage = answer.json["usage"]
        assert log["cost"] == pytest.approx((usage["prompt_tokens"] * 3 + usage["completion_tokens"] * 7) / 1e6)
    finally:
        row.delete()


def test_a_provider_is_added_by_a_file_alone(
    running: Callable[..., Any], tmp_path: Path, provider: Any, transactional_db: None
) -> None:
    folder = tmp_path / "catalogue"
    folder.mkdir()
    (folder / "newcomer.toml").write_text(
        'id = "newcomer"\nname = "Newcomer"\ndialect = "openai_chat"\ntransport = "http"\n'
        f'base_url = "{provider.base_url}"\nauth = "bearer"\ncredential_fields = ["api_key"]\n'
        'max_tokens_field = "max_tokens"\nusage_in_stream = true\n'
        '[[models]]\nid = "first"\ncontext_tokens = 1000\nmax_output_tokens = 100\n'
        'price = { input = "1", output = "2" }\ncapabilities = ["streaming"]\n'
    )
    server = running(env={"RESPAN_CATALOG_EXTRA": str(folder)})
    listed = json.loads(call(f"{server.base_url}/api/models/public/?unnest=1").body)
    assert "newcomer/first" in {each["model_name"] for each in listed}
    assert len(listed) > 2_000
