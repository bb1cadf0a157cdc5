"""The Integrations pages: who may do what, what is refused, what is never shown, the test call."""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import AuditEvent
from gateway import cards, credentials, health
from gateway.credentials import Secret, of
from gateway.entered import InvalidCredential
from gateway.models import Credential
from gateway.probe import probe
from gateway.providers import catalog
from respan.outbound import Policy

pytestmark = pytest.mark.django_db
KEY = "sk-canary-0123456789abcdef"
LIST = "/platform/api/integrations/"
ADD = f"{LIST}add/"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def as_user(cast: Any) -> Callable[[str], Client]:
    """A browser in which one of the cast is signed in."""

    def signed_in(name: str) -> Client:
        client = Client()
        client.force_login(getattr(cast, name))
        return client

    return signed_in


@pytest.fixture
def credential(organization: Any, cast: Any) -> Credential:
    return credentials.store(
        organization=organization,
        provider="custom",
        name="house-llm",
        secret=Secret(KEY),
        base_url="https://house.example.com/v1",
        actor=cast.owner,
        address=None,
    )


def form(**fields: Any) -> dict[str, Any]:
    return {"provider": "openai", "name": "Main", "secret": KEY, "submission": str(uuid.uuid4()), **fields}


def everything(organization: Any) -> tuple[list[Any], int]:
    """Return all that a refused action must leave as it is."""
    rows = Credential.objects.filter(organization=organization).order_by("pk").values_list()
    events = AuditEvent.objects.filter(organization=organization, action__startswith="credential.")
    return list(rows), events.count()


# --- Who may do what --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["owner", "admin"])
def test_owners_and_admins_add_change_and_remove_keys(
    name: str, as_user: Callable[[str], Client], organization: Any
) -> None:
    client = as_user(name)
    added = client.post(LIST, form(models="gpt-4o-mini,\nopenai/gpt-4o"))
    row = Credential.objects.get(organization=organization)
    assert (added.status_code, added["Location"]) == (302, f"{LIST}?new={row.public_id}#{row.public_id}")
    assert of(row).secret().reveal() == KEY
    assert row.allowed_models == ["gpt-4o-mini", "gpt-4o"]
    page = reverse("integration", args=[row.public_id])
    assert client.get(page).status_code == 200
    assert client.post(page, {"secret": "sk-another-0123456789", "base_url": "", "models": ""}).status_code == 302
    row.refresh_from_db()
    assert of(row).secret().reveal() == "sk-another-0123456789"
    confirm = reverse("integration-remove", args=[row.public_id])
    assert b"Remove key" in client.get(confirm).content
    assert Credential.objects.filter(pk=row.pk).exists()
    assert client.post(confirm).status_code == 302
    assert not Credential.objects.filter(pk=row.pk).exists()
    events = AuditEvent.objects.filter(organization=organization, target=row.public_id).order_by("pk")
    assert [event.action for event in events] == ["credential.created", "credential.changed", "credential.removed"]


def test_a_member_sees_names_and_nothing_else(
    as_user: Callable[[str], Client], credential: Credential, organization: Any
) -> None:
    client = as_user("member")
    page = client.get(LIST)
    text = page.content.decode()
    assert page.status_code == 200
    assert "house-llm" in text
    for hidden in (
        "cdef",
        "house.example.com",
        "<textarea",
        'name="secret"',
        "/remove/",
        "/add/",
        credential.public_id,
    ):
        assert hidden not in text
    before = everything(organization)
    assert client.get(ADD).status_code == 403
    assert client.post(LIST, form()).status_code == 403
    for route in ("integration", "integration-test", "integration-remove"):
        path = reverse(route, args=[credential.public_id])
        assert client.post(path, {"secret": "sk-x"}).status_code == 403
        assert client.get(path).status_code in (403, 405)
    assert everything(organization) == before


def test_a_member_is_told_whom_to_ask(as_user: Callable[[str], Client], cast: Any, organization: Any) -> None:
    text = as_user("member").get(LIST).content.decode()
    assert "Owners and admins add, test and remove keys" in text
    assert cast.owner.email in text
    assert cast.admin.email in text
    assert cast.outsider.email not in text


def test_an_outsider_finds_nothing(as_user: Callable[[str], Client], credential: Credential, organization: Any) -> None:
    """Another organization's owner: the key does not exist for them."""
    client = as_user("outsider")
    assert b"house-llm" not in client.get(LIST).content
    before = everything(organization)
    for route in ("integration", "integration-test", "integration-remove"):
        path = reverse(route, args=[credential.public_id])
        assert client.post(path, {"secret": "sk-x"}).status_code == 404
        if route != "integration-test":
            assert client.get(path).status_code == 404
    assert everything(organization) == before


def test_who_is_not_signed_in_is_sent_to_sign_in(credential: Credential, organization: Any) -> None:
    before = everything(organization)
    for path in (LIST, reverse("integration", args=[credential.public_id])):
        answer = Client().post(path, form())
        assert answer.status_code == 302
        assert "login" in answer["Location"]
    assert everything(organization) == before


@pytest.mark.parametrize("public_id", ["cred_nonsense", "%00", "cred_" + "z" * 26, "cred_" + "0" * 26])
def test_an_id_that_is_none_is_not_found(public_id: str, as_user: Callable[[str], Client]) -> None:
    assert as_user("owner").get(f"{LIST}{public_id}/").status_code == 404


def test_a_post_without_its_token_is_refused(cast: Any, organization: Any) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(cast.owner)
    assert client.post(LIST, form()).status_code == 403
    assert not Credential.objects.filter(organization=organization).exists()


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"provider": "nobody"}, "valid choice"),
        ({"provider": "sandbox"}, "valid choice"),
        ({"name": ""}, "required"),
        ({"secret": ""}, "Paste the provider"),
        ({"secret": "sk with blanks"}, "Paste the provider"),
        ({"provider": "custom", "name": "mine", "base_url": ""}, "needs its base URL"),
        ({"models": ["gpt-4o", "no blanks\u00e9"]}, "is not the name of a model"),
        ({"provider": "custom", "name": "groq", "base_url": "https://a.example"}, "name of a provider"),
        ({"base_url": "http://127.0.0.1:8000/v1"}, "not a public address"),
        ({"base_url": "https://user:password@example.com"}, "plain URL"),
        ({"submission": "again"}, "Load this page again"),
        ({"name": "a\x00b"}, "Null characters"),
    ],
)
def test_a_wrong_form_says_what_is_wrong_and_stores_nothing(
    fields: dict[str, Any], said: str, as_user: Callable[[str], Client], organization: Any
) -> None:
    before = everything(organization)
    answer = as_user("owner").post(LIST, form(**fields))
    assert answer.status_code == 400
    assert said in answer.content.decode()
    assert KEY not in answer.content.decode()
    assert everything(organization) == before


def test_another_server_without_the_key_is_refused(
    as_user: Callable[[str], Client], credential: Credential, organization: Any
) -> None:
    before = everything(organization)
    fields = {"secret": "", "base_url": "https://evil.example.net/v1", "models": ""}
    answer = as_user("owner").post(reverse("integration", args=[credential.public_id]), fields)
    assert answer.status_code == 400
    assert "Enter the key again" in answer.content.decode()
    assert everything(organization) == before


def test_a_form_sent_twice_stores_one_key(as_user: Callable[[str], Client], organization: Any) -> None:
    client, fields = as_user("owner"), form()
    assert client.post(LIST, fields).status_code == 302
    assert client.post(LIST, fields).status_code == 302
    assert Credential.objects.filter(organization=organization).count() == 1
    assert AuditEvent.objects.filter(organization=organization, action="credential.created").count() == 1


def test_ticked_and_written_models_are_kept_together(as_user: Callable[[str], Client], organization: Any) -> None:
    client = as_user("owner")
    assert client.post(LIST, form(models=["gpt-4o", "gpt-4o-mini", "ft:mine\nft:yours"])).status_code == 302
    row = Credential.objects.get(organization=organization)
    assert row.allowed_models == ["gpt-4o", "gpt-4o-mini", "ft:mine", "ft:yours"]
    text = client.get(reverse("integration", args=[row.public_id])).content.decode()
    assert 'value="gpt-4o-mini" checked' in text
    assert 'value="gpt-5" checked' not in text
    assert ">ft:mine\nft:yours</textarea>" in text


def test_the_same_provider_takes_several_keys(as_user: Callable[[str], Client], organization: Any) -> None:
    client = as_user("admin")
    for name in ("Main", "Batch"):
        assert client.post(LIST, form(name=name)).status_code == 302
    before = everything(organization)
    taken = client.post(LIST, form(name="Batch"))
    assert (taken.status_code, "with this name already" in taken.content.decode()) == (400, True)
    assert everything(organization) == before
    text = client.get(LIST).content.decode()
    assert text.count("Remove<span") == 2
    assert "2 keys" in text


# --- The pages --------------------------------------------------------------------------------------------------------


def test_the_form_knows_the_provider_it_is_for(as_user: Callable[[str], Client], credential: Credential) -> None:
    client = as_user("owner")
    text = client.get(f"{ADD}?provider=openai").content.decode()
    assert "Add a key for OpenAI" in text
    assert "https://platform.openai.com/api-keys" in text
    assert 'type="checkbox" name="models" value="gpt-4o-mini"' in text
    assert 'name="name" value="Main"' in text
    assert "Add a server of your own" in client.get(f"{ADD}?provider=custom").content.decode()
    for unknown in ("nobody", "sandbox", "", "%00"):
        page = client.get(f"{ADD}?provider={unknown}")
        assert (page.status_code, b"Choose a provider" in page.content) == (200, True)


def test_dialogs_get_the_fragment_and_forms_in_them_lead_on(
    as_user: Callable[[str], Client], credential: Credential, organization: Any
) -> None:
    client = as_user("owner")
    paths = (ADD, *(reverse(name, args=[credential.public_id]) for name in ("integration", "integration-remove")))
    for path in paths:
        fragment = client.get(path, headers=HTMX).content.decode()
        assert "<html" not in fragment
        assert "<form" in fragment
        assert "<h1" not in fragment
    refused = client.post(LIST, form(secret=""), headers=HTMX)
    assert (refused.status_code, b"<html" in refused.content, b"Paste the provider" in refused.content) == (
        400,
        False,
        True,
    )
    added = client.post(LIST, form(), headers=HTMX)
    row = Credential.objects.get(organization=organization, provider="openai")
    assert (added.status_code, added["HX-Redirect"]) == (204, f"{LIST}?new={row.public_id}#{row.public_id}")


def test_a_search_narrows_the_providers(as_user: Callable[[str], Client], credential: Credential) -> None:
    client = as_user("member")
    text = client.get(f"{LIST}?q=groq").content.decode()
    assert text.count('<li class="panel">') == 1
    assert "house-llm" in text
    evil = client.get(LIST, {"q": "<script>alert(1)</script>\x00"}).content.decode()
    assert "No provider is called" in evil
    assert "<script>alert" not in evil


def test_eighty_providers_are_found_without_reading_them_all(as_user: Callable[[str], Client]) -> None:
    client = as_user("member")
    first = client.get(LIST).content.decode()
    assert first.count('<li class="panel">') == cards.FIRST
    assert first.index("OpenAI-compatible server") < first.index('<h3 class="clip">Anthropic')
    assert "OpenRouter" not in first
    assert f"Show all {len(catalog().providers)} providers" in first
    assert client.get(f"{LIST}?all=1").content.decode().count('<li class="panel">') == len(catalog().providers)
    assert "OpenRouter" in client.get(f"{LIST}?q=openrouter").content.decode()
    assert "OpenAI-compatible server" in client.get(f"{LIST}?q=ollama").content.decode()
    assert "Together AI" in client.get(f"{LIST}?q=together_ai").content.decode()


def test_a_provider_with_an_address_for_each_account_asks_for_it(as_user: Callable[[str], Client]) -> None:
    client = as_user("owner")
    page = client.get(f"{LIST}add/?provider=azure").content.decode()
    assert "https://NAME.openai.azure.com/openai/v1" in page
    assert "Another address" not in page
    refused = client.post(LIST, form(provider="azure", base_url=""))
    assert refused.status_code == 400
    assert "needs the address of your account" in refused.content.decode()


def test_what_the_operator_offers_is_told(as_user: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch) -> None:
    client = as_user("member")
    assert "offers no provider on credits" in client.get(LIST).content.decode()
    monkeypatch.setenv("RESPAN_PLATFORM_KEY_GROQ", "gsk-operator-0123456789")
    text = client.get(LIST).content.decode()
    assert "The operator offers these providers on credits" in text
    assert "provider=groq&amp;callable=1" in text
    assert "gsk-operator" not in text


def test_a_provider_that_left_the_catalogue_can_still_be_removed(
    as_user: Callable[[str], Client], credential: Credential
) -> None:
    Credential.objects.filter(pk=credential.pk).update(provider="gone")
    client = as_user("owner")
    assert "house-llm" in client.get(LIST).content.decode()
    for name in ("integration", "integration-remove"):
        assert client.get(reverse(name, args=[credential.public_id])).status_code == 200
    assert client.post(reverse("integration-remove", args=[credential.public_id])).status_code == 302


def test_one_key_and_thirty_cost_the_same_queries(
    as_user: Callable[[str], Client], credential: Credential, cast: Any, organization: Any
) -> None:
    client = as_user("owner")

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert client.get(LIST).status_code == 200
        return len(captured)

    queries()
    one = queries()
    for number in range(29):
        credentials.store(
            organization=organization, provider="openai", name=f"n{number}", secret=KEY, actor=cast.owner, address=None
        )
    assert queries() == one


# --- What is never shown ----------------------------------------------------------------------------------------------


def test_no_page_shows_a_key(as_user: Callable[[str], Client], credential: Credential) -> None:
    client = as_user("owner")
    for path in (LIST, reverse("integration", args=[credential.public_id])):
        page = client.get(path)
        assert KEY not in page.content.decode()
        assert credential.sealed not in page.content.decode()
        assert page["Cache-Control"] == "private, no-store"


def test_names_are_text(as_user: Callable[[str], Client], organization: Any) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x>"
    client = as_user("owner")
    assert client.post(LIST, form(name=evil, models="<b>m</b>")).status_code == 302
    row = Credential.objects.get(organization=organization)
    for path in (
        LIST,
        reverse("integration", args=[row.public_id]),
        reverse("integration-remove", args=[row.public_id]),
    ):
        text = client.get(path).content.decode()
        assert "&lt;script&gt;" in text
        for alive in ("<script>alert", "<img src=x", "<b>m</b>"):
            assert alive not in text


def test_the_pages_need_no_script_or_style_of_their_own(
    as_user: Callable[[str], Client], credential: Credential
) -> None:
    client = as_user("owner")
    for path in (LIST, reverse("integration", args=[credential.public_id])):
        text = client.get(path).content.decode()
        assert "<style" not in text
        assert "style=" not in text
        assert "onclick" not in text


# --- The test call ----------------------------------------------------------------------------------------------------


class Provider:
    """A provider on a local port: answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status, self.body = 200, completion("ok")
        self.models: Any = {"data": [{"id": "llama-3"}]}
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(200, json.dumps(provider.models).encode())

            def do_POST(self) -> None:
                self.answer(provider.status, provider.body)

            def answer(self, status: int, body: bytes) -> None:
                sent = self.rfile.read(int(self.headers.get("content-length") or 0))
                asked = json.loads(sent) if sent else None
                provider.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, asked))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def completion(text: Any) -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}).encode()


@pytest.fixture
def provider() -> Iterator[Provider]:
    started = Provider()
    yield started
    started.close()


@pytest.fixture
def local(organization: Any, cast: Any, provider: Provider) -> Callable[..., Credential]:
    """Store a key whose server is the local provider; the organization is the demo, which may call this machine."""
    organization.is_demo = True
    organization.save()

    def store(**fields: Any) -> Credential:
        fields = {"provider": "custom", "name": "local", "secret": Secret(KEY), "base_url": provider.base_url, **fields}
        return credentials.store(organization=organization, actor=cast.owner, address=None, **fields)

    return store


def ask(row: Credential, **options: Any) -> Any:
    return probe(of(row), policy=Policy(loopback=True), **options)


def test_testing_a_key_shows_latency_and_the_models_answer(
    as_user: Callable[[str], Client], local: Callable[..., Credential], provider: Provider, organization: Any
) -> None:
    row, client = local(models=["llama-3"]), as_user("admin")
    provider.body = completion("ok <b>then</b>")
    answer = client.post(reverse("integration-test", args=[row.public_id]), follow=True)
    text = answer.content.decode()
    assert "“local” works: llama-3 answered in" in text
    assert "ok &lt;b&gt;then&lt;/b&gt;" in text
    row.refresh_from_db()
    assert row.test_passed
    ((method, path, headers, asked),) = provider.asked
    assert (method, path, headers["authorization"]) == ("POST", "/v1/chat/completions", f"Bearer {KEY}")
    assert asked["model"] == "llama-3"
    assert asked["max_tokens"] <= 16
    assert AuditEvent.objects.filter(organization=organization, action="credential.tested").count() == 1


def test_a_test_in_place_answers_with_the_keys_line(
    as_user: Callable[[str], Client], local: Callable[..., Credential], provider: Provider
) -> None:
    row, client = local(models=["llama-3"]), as_user("owner")
    provider.body = completion("ok <b>then</b> " + "x" * 300)
    path = reverse("integration-test", args=[row.public_id])
    text = client.post(path, headers=HTMX).content.decode()
    assert text.lstrip().startswith(f'<li class="key" id="{row.public_id}"')
    assert "llama-3 answered in" in text
    assert "ok &lt;b&gt;then&lt;/b&gt;" in text
    assert "x" * 201 not in text
    provider.status, provider.body = 401, b"{}"
    text = client.post(path, headers=HTMX).content.decode()
    assert 'data-state="error"' in text
    assert "does not accept this key (401)" in text
    before = Credential.objects.filter(pk=row.pk).values_list()[0]
    assert "at most 200" in client.post(path, {"model": "x" * 201}, headers=HTMX).content.decode()
    assert Credential.objects.filter(pk=row.pk).values_list()[0] == before


def test_a_refused_key_is_told_in_plain_words_without_the_key(
    as_user: Callable[[str], Client], local: Callable[..., Credential], provider: Provider
) -> None:
    row, client = local(models=["llama-3"]), as_user("owner")
    provider.status = 401
    message = f"Incorrect API key provided: sk-can***********cdef. Yours is {KEY}, or '{KEY[3:]}'. See the manual."
    provider.body = json.dumps({"error": {"message": message, "code": "invalid_api_key"}}).encode()
    text = client.post(reverse("integration-test", args=[row.public_id]), follow=True).content.decode()
    assert "does not accept this key (401)" in text
    assert "See the manual." in text
    row.refresh_from_db()
    assert row.test_passed is False
    for shown in (text, row.test_note):
        assert "canary" not in shown
        assert "sk-can" not in shown
        assert "*cdef" not in shown


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (402, b'{"error":"no money"}', "topped up (402). It says: no money"),
        (403, b'{"error":{"message":"no access to gpt-9"}}', "(403). It says: no access to gpt-9"),
        (404, b'{"message":"no such model"}', "no llama-3 for this key"),
        (422, b'{"detail":"bad"}', "answered 422. It says: bad"),
        (429, b'{"error":{"message":"slow down"}}', "accepts the key, but its limit"),
        (500, b"<html>", "trouble of its own (500)"),
        (307, b"", "answered 307"),
        (200, b"not json", "nothing a model says"),
        (200, b"[]", "nothing a model says"),
        (200, b"{}", "nothing a model says"),
        (200, b'{"choices":[]}', "nothing a model says"),
        (200, b'{"choices":[{"message":null}]}', "nothing a model says"),
        (200, b"\xff\xfe", "nothing a model says"),
    ],
)
def test_each_trouble_of_a_provider_is_told(
    status: int, body: bytes, said: str, local: Callable[..., Credential], provider: Provider
) -> None:
    provider.status, provider.body = status, body
    outcome = ask(local(models=["llama-3"]))
    assert not outcome.passed
    assert said in outcome.note


@pytest.mark.parametrize("text", ["", None, []])
def test_an_answer_without_text_proves_the_key_too(
    text: Any, local: Callable[..., Credential], provider: Provider
) -> None:
    provider.body = completion(text)
    outcome = ask(local(models=["llama-3"]))
    assert outcome.passed
    assert "without text" in outcome.note


def test_a_server_is_asked_for_its_first_model_when_none_is_named(
    local: Callable[..., Credential], provider: Provider
) -> None:
    assert ask(local()).model == "llama-3"
    assert [asked[:2] for asked in provider.asked] == [("GET", "/v1/models"), ("POST", "/v1/chat/completions")]
    provider.models = {"data": []}
    outcome = ask(local(name="other"))
    assert not outcome.passed
    assert "name one to test with" in outcome.note
    assert ask(local(name="third"), model="mine").model == "mine"


def test_a_catalogue_provider_is_tested_with_its_cheapest_model_and_its_own_limit_field(
    local: Callable[..., Credential], provider: Provider
) -> None:
    outcome = ask(local(provider="openai", name="proxy"))
    assert outcome.passed
    assert outcome.model == "gpt-5-nano"
    assert "max_completion_tokens" in provider.asked[0][3]


def test_a_server_that_is_not_there_is_told(local: Callable[..., Credential], provider: Provider) -> None:
    row = local(models=["llama-3"])
    provider.close()
    outcome = ask(row)
    assert not outcome.passed
    assert outcome.note == "The provider cannot be reached."


def test_without_the_demo_nothing_on_this_machine_is_called(
    local: Callable[..., Credential], provider: Provider
) -> None:
    outcome = probe(of(local(models=["llama-3"])), policy=Policy())
    assert not outcome.passed
    assert "not a public address" in outcome.note
    assert provider.asked == []


def test_a_key_that_does_not_open_is_told(local: Callable[..., Credential], provider: Provider) -> None:
    row = local()
    row.sealed = "v1.k1.AAAA"
    outcome = ask(row)
    assert not outcome.passed
    assert "Enter it again" in outcome.note
    assert provider.asked == []


def test_the_outcome_of_a_replaced_key_is_not_kept(local: Callable[..., Credential], cast: Any) -> None:
    row = local()
    credentials.change(
        credential=row, secret=Secret("sk-new-0123456789abcdef"), base_url=row.base_url, actor=cast.owner, address=None
    )
    credentials.note_test(
        credential=row, passed=True, latency_ms=1, note="ok", actor=cast.owner, address=None, now=row.created_at
    )
    row.refresh_from_db()
    assert row.test_passed is None


async def test_the_button_works_beside_a_running_event_loop(cast: Any, provider: Provider) -> None:
    """Under ASGI the view runs in a thread of a process whose main loop is busy."""
    stored = credentials.Stored("cred_x", None, "custom", "x", provider.base_url, ("m",), "")
    outcome = await asyncio.to_thread(probe, stored, policy=Policy(loopback=True))
    assert not outcome.passed  # nothing is sealed in it: told, not raised


# --- Weights and circuit breakers -------------------------------------------------------------------------------------


def test_a_key_has_a_weight_that_can_be_changed(as_user: Callable[[str], Client], organization: Any) -> None:
    client = as_user("owner")
    assert client.post(LIST, form()).status_code == 302
    row = Credential.objects.get(organization=organization)
    assert row.weight == 1
    page = reverse("integration", args=[row.public_id])
    assert client.post(page, {"secret": "", "base_url": "", "models": "", "weight": "20"}).status_code == 302
    row.refresh_from_db()
    assert (row.weight, of(row).weight) == (20, 20)
    assert 'value="20"' in client.get(page).content.decode()
    assert 'Weight <data class="num" value="20">20</data>' in client.get(LIST).content.decode()
    # A form without the field, as older ones were, leaves it.
    assert client.post(page, {"secret": "", "base_url": "", "models": ""}).status_code == 302
    row.refresh_from_db()
    assert row.weight == 20
    event = AuditEvent.objects.filter(organization=organization, action="credential.changed").latest("pk")
    assert event.detail["weight"] == 20


@pytest.mark.parametrize("weight", ["0", "-1", "1001", "1.5", "heavy"])
def test_a_weight_that_is_none_is_refused(weight: str, as_user: Callable[[str], Client], organization: Any) -> None:
    before = everything(organization)
    answer = as_user("owner").post(LIST, form(weight=weight))
    assert answer.status_code == 400
    assert f'value="{weight}"' in answer.content.decode()
    assert everything(organization) == before


def test_the_domain_refuses_a_weight_out_of_bounds(organization: Any) -> None:
    before = everything(organization)
    for weight in (0, -1, 1_001):
        with pytest.raises(InvalidCredential) as refused:
            credentials.store(
                organization=organization,
                provider="openai",
                name="Main",
                secret=KEY,
                weight=weight,
                actor=None,
                address=None,
            )
        assert refused.value.param == "weight"
    assert everything(organization) == before


def test_an_open_breaker_is_shown_with_words_until_it_is_closed(
    as_user: Callable[[str], Client], credential: Credential
) -> None:
    client = as_user("owner")
    assert "Paused" not in client.get(LIST).content.decode()
    place = health.Place("custom", "https://house.example.com", "llama-3", credential.public_id)
    record = health.at(place)
    record.hold_open(time.monotonic() + 600)
    text = client.get(LIST).content.decode()
    assert "Paused" in text
    assert "llama-3" in text
    assert "open: paused until <time" in text
    member = as_user("member").get(LIST).content.decode()
    assert "Paused" in member
    assert "llama-3" not in member
    assert "Paused" not in as_user("outsider").get(LIST).content.decode()
    record.open_until = time.monotonic() - 1
    assert "half open" in client.get(LIST).content.decode()
    record.open_until = None
    assert "half open" not in client.get(LIST).content.decode()
