"""The whole product for tests that call it from outside: web, shipper, worker, fake providers, and tenants.

Fixtures: `stack` (started once a run), `tenant` (makes an organization with an API key and what it may pay with).
Neighbours: `servers.py`, `provider.py` (a provider that misbehaves as scripted), `vendors/` (strict ones of other
dialects), `conftest.py`.
"""

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.test import override_settings
from openai import OpenAI

from tests.provider import Provider
from tests.servers import Server, wait_until
from tests.vendors.catalogue import Vendors

PLATFORM_KEY = "sk-platform-4f9a7c1e5d2b"
OWN_KEY = "sk-own-8b2d6e0f3a71"

_MODEL = """
[[models]]
id = "{id}"
upstream = "fake:{script}"
context_tokens = 128000
max_output_tokens = 16384
price = {{ input = "{input}", output = "{output}" }}
image_tokens = 1000
capabilities = ["streaming", "tools", "vision"]
"""
_EMBEDDING = """
[[models]]
id = "embedding"
upstream = "fake"
kind = "embedding"
context_tokens = 8192
max_output_tokens = "unknown"
price = { input = "10", output = "0" }
capabilities = []
"""
# Each is a model of the provider `fake`, offered on credits: id -> (script, input price, output price).
MODELS = {
    "chat": ("chunks=5", "1", "2"),
    "exact": ("exact", "0", "10"),
    "exact-slow": ("exact,interval=0.02", "0", "10"),
    "exact-late": ("exact,first=0.3", "0", "10"),
    "silent": ("silence", "1", "2"),
    "slow": ("chunks=400,interval=0.02", "1", "2"),
    "pondering": ("chunks=3,think=8", "1", "2"),
    "cut": ("cut=3", "1", "2"),
    "cut-mute": ("cut=3,usage=none", "1", "2"),
    "mute": ("chunks=5,usage=none", "1", "2"),
    "dear": ("chunks=900", "1", "2000"),
    "broken": ("status=500", "1", "2"),
    "refused": ("status=401", "1", "2"),
    "limited": ("status=429,retry_after=7", "1", "2"),
    "leaking": ("chunks=9,fail=2,leak", "1", "2"),
    "refused-leaking": ("status=401,leak", "1", "2"),
    "broken-leaking": ("status=500,leak", "1", "2"),
}


def write_catalogue(folder: Path, provider: Provider) -> None:
    """Write the catalogue file of the provider `fake`."""
    folder.mkdir(exist_ok=True)
    models = "".join(
        _MODEL.format(id=name, script=script, input=input, output=output)
        for name, (script, input, output) in MODELS.items()
    )
    head = f'''
id = "fake"
name = "Fake provider"
dialect = "openai_chat"
transport = "http"
base_url = "{provider.base_url}"
auth = "bearer"
credential_fields = ["api_key"]
max_tokens_field = "max_tokens"
usage_in_stream = true
image_tokens = 1000
'''
    (folder / "fake.toml").write_text(head + models + _EMBEDDING)


def environment(folder: Path, provider: Provider, vendors: Vendors | None = None) -> dict[str, str]:
    """Return the settings with which an installation offers the fake providers' models on credits."""
    write_catalogue(folder / "catalogue", provider)
    if vendors is not None:
        vendors.write(folder / "catalogue")
    return {
        "RESPAN_CATALOG_EXTRA": str(folder / "catalogue"),
        "RESPAN_UPSTREAM_ALLOW": ",".join([provider.address, *(vendors.addresses if vendors else ())]),
        "RESPAN_PLATFORM_KEY_FAKE": PLATFORM_KEY,
        **(vendors.environment() if vendors else {}),
    }


@dataclass
class Answer:
    """An HTTP answer as plain data."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def log_id(self) -> str:
        return self.headers["x-respan-log-id"]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def call(
    url: str, *, key: str | None = None, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Make one request as it is; a redirect is an answer like any other."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json", **(headers or {})})
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with _opener.open(request, timeout=60) as answer:
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())


@dataclass
class Stack:
    """A running product and the providers it calls."""

    server: Server
    provider: Provider
    vendors: Vendors

    @property
    def base_url(self) -> str:
        return self.server.base_url

    def post(self, body: Any, *, key: str | None = None, path: str = "/api/chat/completions", **headers: str) -> Answer:
        """Send a chat completion: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return call(self.base_url + path, key=key, body=data, headers=named)


@pytest.fixture(scope="session")
def stack(django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    provider, vendors = Provider().start(), Vendors().start()
    env = environment(folder, provider, vendors)
    env |= {"RESPAN_FIRST_BYTE_TIMEOUT_S": "3", "RESPAN_ANSWER_TIMEOUT_S": "3"}
    with django_db_blocker.unblock():
        _publish_prices(folder)
    with Server(data_dir=folder / "server", shipper=True, worker=True, env=env) as server:
        yield Stack(server, provider, vendors)
    provider.stop()
    vendors.stop()


def _publish_prices(folder: Path) -> None:
    """Write the rates of the fake models into this worker's database, as `sync_catalog` does at a start."""
    from billing import prices
    from gateway.providers import load

    models = load([folder / "catalogue"]).models()
    prices.publish(prices.Price(model.provider, model.id, model.rates) for model in models if model.rates is not None)


def connect(organization: Any, provider: str, *, secret: str, base_url: str) -> None:
    """Give an organization a key of its own, for a server of its own (`custom`, called `local`) or another address."""
    from gateway import credentials

    # Stored as the server does it: its allow-list is not this process's.
    with override_settings(RESPAN_UPSTREAM_ALLOW=[urlsplit(base_url).netloc]):
        credentials.store(
            organization=organization,
            provider=provider,
            name="local" if provider == "custom" else provider,
            secret=credentials.Secret(secret),
            base_url=base_url,
            actor=None,
            address=None,
        )


@dataclass
class Tenant:
    """An organization, its owner, and an API key of it."""

    stack: Stack
    organization: Any
    owner: Any
    key: str

    @cached_property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.stack.base_url}/api/", api_key=self.key, max_retries=0)

    def close(self) -> None:
        """Close the SDK's connections: left to the collector they would fail a later test."""
        if "client" in vars(self):
            self.client.close()

    def post(self, body: Any, **options: Any) -> Answer:
        return self.stack.post(body, key=self.key, **options)

    def chat(self, model: str, **members: Any) -> Answer:
        """Make a small chat completion."""
        return self.post({"model": model, "messages": [{"role": "user", "content": "Hello there"}], **members})

    def log(self, log_id: str, timeout_s: float = 15.0) -> dict[str, Any]:
        """Return a call's log as soon as it is there."""
        url = f"{self.stack.base_url}/api/request-logs/{log_id}/"
        found: list[Answer] = []

        def arrived() -> bool:
            found[:] = [call(url, key=self.key)]
            return found[0].status == 200

        wait_until(arrived, timeout_s=timeout_s, what=f"the log {log_id}")
        return found[0].json

    @property
    def balance(self) -> Any:
        from billing import ledger

        return ledger.balance(self.organization.pk)

    def connect(self, provider: str, *, secret: str, base_url: str) -> None:
        """Give the organization a key of its own for a provider of the catalogue, at another address."""
        connect(self.organization, provider, secret=secret, base_url=base_url)

    def entries(self) -> int:
        from billing.models import Entry

        return Entry.objects.filter(wallet_id=self.organization.pk).count()


def new_tenant(
    stack: Stack,
    *,
    credits_usd: str = "0",
    local: bool = False,
    environment: str = "production",
    retries: bool = False,
) -> Tenant:
    """Make an organization with an API key, credits, and (`local`) a server of its own.

    Without `retries` its calls are attempted once: most tests count what reaches the provider.
    """
    from accounts import keys
    from billing import ledger
    from billing.usage import nano_from_usd
    from gateway.models import CallSettings
    from tests.conftest import make_organization, make_user

    owner = make_user("owner")
    organization = make_organization(f"Tenant {uuid.uuid4().hex[:8]}", owner=owner)
    issued = keys.issue(organization=organization, name="Test", environment=environment, created_by=owner)
    if not retries:
        CallSettings.objects.create(organization=organization, retry_enabled=False)
    if nano := nano_from_usd(credits_usd):
        ledger.grant(organization=organization, amount_nano=nano, reason="test", actor=owner)
    if local:
        connect(organization, "custom", secret=OWN_KEY, base_url=stack.provider.base_url)
    return Tenant(stack, organization, owner, issued.secret)


@pytest.fixture
def tenant(stack: Stack, transactional_db: None) -> Iterator[Callable[..., Tenant]]:
    """Make a tenant: `tenant(credits_usd="5")`, `tenant(local=True)` with a custom provider called `local`."""
    made: list[Tenant] = []

    def make(**options: Any) -> Tenant:
        made.append(new_tenant(stack, **options))
        stack.provider.requests.clear()
        stack.vendors.forget()
        return made[-1]

    yield make
    for one in made:
        one.close()
