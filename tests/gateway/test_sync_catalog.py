"""`manage.py sync_catalog`: prices into the ledger's tables, files checked without a database."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from billing import prices
from billing.models import ModelRates
from billing.usage import Rates
from gateway.added_models import price_list
from gateway.providers import catalog, load

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FILE = """
id = "{id}"
name = "Acme"
dialect = "openai_chat"
transport = "http"
base_url = "https://api.acme.example/v1"
auth = "bearer"
credential_fields = ["api_key"]
max_tokens_field = "max_tokens"
usage_in_stream = true

[[models]]
id = "fast"
context_tokens = 1000
max_output_tokens = 100
price = {{ input = "{price}", output = "2" }}
price_above = {{ tokens = 500, input = "7", output = "8" }}
capabilities = ["streaming"]

[[models]]
id = "unpriced"
context_tokens = "unknown"
max_output_tokens = "unknown"
price = "unknown"
capabilities = ["streaming"]
"""


@pytest.fixture
def provider(tmp_path: Path, settings: Any) -> Iterator[str]:
    """A provider of this test's own, in a folder of the operator's."""
    settings.RESPAN_CATALOG_EXTRA = [tmp_path]
    name = f"acme-{uuid.uuid4().hex[:8]}"
    (tmp_path / "acme.toml").write_text(FILE.format(id=name, price="1"))
    catalog.cache_clear()
    yield name
    catalog.cache_clear()


def rates(input: int, output: int) -> Rates:
    return Rates(input=input * 10**9, output=output * 10**9)


def versions(provider: str, model: str) -> list[Rates]:
    """Return every published version of a price, oldest first."""
    ids = ModelRates.objects.filter(provider=provider, model=model).order_by("pk").values_list("pk", flat=True)
    known = prices.by_id(ids)
    return [known[id] for id in ids]


@pytest.mark.django_db
def test_prices_of_the_catalogue_are_published_once_a_change(provider: str, tmp_path: Path) -> None:
    call_command("sync_catalog", verbosity=0)
    assert versions(provider, "fast") == [rates(1, 2)]
    assert versions(provider, "fast#above-500") == [rates(7, 8)]
    assert versions(provider, "unpriced") == []
    assert versions("sandbox", "priced") == [rates(1, 2)]
    call_command("sync_catalog", verbosity=0)
    assert versions(provider, "fast") == [rates(1, 2)]
    (tmp_path / "acme.toml").write_text(FILE.format(id=provider, price="3"))
    catalog.cache_clear()
    call_command("sync_catalog", verbosity=0)
    assert versions(provider, "fast") == [rates(1, 2), rates(3, 2)]


@pytest.mark.django_db
def test_a_broken_file_publishes_nothing(provider: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "acme.toml").write_text(FILE.format(id=provider, price="1").replace("[[models]]", "[[modles]]", 1))
    catalog.cache_clear()
    with pytest.raises(CommandError, match=r"acme\.toml.*modles"):
        call_command("sync_catalog")
    assert "prices" not in capsys.readouterr().out


def test_no_price_is_lost_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text(FILE.format(id="acme", price="0.000000001"))
    found = {(row.provider, row.model): row.rates for row in price_list(load([tmp_path]).models())}
    assert found == {("acme", "fast"): Rates(input=1, output=2 * 10**9), ("acme", "fast#above-500"): rates(7, 8)}


@pytest.mark.parametrize(("price", "code"), [("1", 0), ("one", 1)])
def test_the_check_needs_no_database(price: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text(FILE.format(id="acme", price=price))
    environment = {
        **os.environ,
        "DATABASE_URL": "postgres://nobody:x@127.0.0.1:1/nothing",
        "RESPAN_CATALOG_EXTRA": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "sync_catalog", "--check"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert ("in order" in done.stdout) if code == 0 else ("acme.toml" in done.stderr and "input" in done.stderr)
