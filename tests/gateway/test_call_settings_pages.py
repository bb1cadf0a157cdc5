"""The Fallback and Retries pages: who may do what, what is refused, what is said of each model, what is recorded."""

import html
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import AuditEvent
from billing import ledger
from gateway import call_settings, credentials, settings_changes
from gateway.call_settings_views import seconds, steps
from gateway.models import CallSettings, LoadBalanceGroup

pytestmark = pytest.mark.django_db
FALLBACK = "/platform/api/fallback/"
RETRIES = "/platform/api/retries/"
HTMX = {"HX-Request": "true"}
A, B, C = "openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5", "sandbox/echo"
SCRIPT = "<script>hit(1)</script>"


@pytest.fixture
def as_user(cast: Any) -> Callable[[str], Client]:
    """A browser in which one of the cast is signed in."""

    def signed_in(name: str) -> Client:
        client = Client()
        client.force_login(getattr(cast, name))
        return client

    return signed_in


@pytest.fixture
def listed(organization: Any) -> CallSettings:
    """An organization with a list of three."""
    return CallSettings.objects.create(organization=organization, fallback_models=[A, B, C])


def names(organization: Any) -> list[str]:
    return list(settings_changes.read(organization).fallback_models)


def everything(organization: Any) -> tuple[list[Any], list[Any], int]:
    """Return all that a refused action must leave as it is."""
    kept = CallSettings.objects.filter(organization=organization).values_list()
    groups = LoadBalanceGroup.objects.filter(organization=organization).order_by("pk").values_list()
    return list(kept), list(groups), events(organization).count()


def events(organization: Any) -> Any:
    return AuditEvent.objects.filter(organization=organization, action="call_settings.changed").order_by("pk")


def store_key(organization: Any, **fields: Any) -> Any:
    facts = {"provider": "openai", "name": "Main", "secret": "sk-0123456789abcdef", "actor": None, "address": None}
    return credentials.store(organization=organization, **{**facts, **fields})


# --- Who may do what --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["owner", "admin"])
def test_owners_and_admins_make_order_and_empty_the_list(
    name: str, as_user: Callable[[str], Client], organization: Any
) -> None:
    client = as_user(name)
    for model in (A, B, C):
        assert client.post(FALLBACK, {"model": model})["Location"] == FALLBACK
    assert names(organization) == [A, B, C]
    client.post(f"{FALLBACK}move/", {"model": C, "place": "1"})
    assert names(organization) == [C, A, B]
    client.post(f"{FALLBACK}move/", {"model": C, "place": "99"})
    assert names(organization) == [A, B, C]
    client.post(f"{FALLBACK}remove/", {"model": B})
    assert names(organization) == [A, C]
    client.post(f"{FALLBACK}switch/", {})
    assert not settings_changes.read(organization).fallback_enabled
    assert "Switch on" in client.get(FALLBACK).content.decode()
    client.post(f"{FALLBACK}switch/", {"enabled": "on"})
    assert settings_changes.read(organization).fallback_enabled


def test_a_member_reads_and_changes_nothing(
    as_user: Callable[[str], Client], listed: CallSettings, organization: Any
) -> None:
    client = as_user("member")
    text = client.get(FALLBACK).content.decode()
    assert A in text
    assert "Owners and admins change the list" in text
    for hidden in ("/move/", "/remove/", "fallback/switch/", 'name="model"'):
        assert hidden not in text
    assert 'name="num_retries"' not in client.get(RETRIES).content.decode()
    before = everything(organization)
    assert client.post(FALLBACK, {"model": "openai/gpt-4o"}).status_code == 403
    for part in ("move", "remove", "switch"):
        assert client.post(f"{FALLBACK}{part}/", {"model": A, "place": "2"}).status_code == 403
    assert client.post(RETRIES, {"num_retries": "0", "retry_after_ms": "100"}).status_code == 403
    assert everything(organization) == before


def test_an_outsider_sees_and_changes_only_their_own(
    as_user: Callable[[str], Client], listed: CallSettings, organization: Any
) -> None:
    client = as_user("outsider")
    assert A not in client.get(FALLBACK).content.decode().replace('<option value="openai/gpt-4o-mini">', "")
    before = everything(organization)
    assert client.post(f"{FALLBACK}remove/", {"model": A}).status_code == 302
    assert client.post(f"{FALLBACK}move/", {"model": C, "place": "1"}).status_code == 302
    assert client.post(RETRIES, {"num_retries": "0", "retry_after_ms": "100"}).status_code == 302
    assert everything(organization) == before


def test_who_is_not_signed_in_is_sent_to_sign_in(listed: CallSettings, organization: Any) -> None:
    before = everything(organization)
    for path in (FALLBACK, f"{FALLBACK}remove/", RETRIES):
        answer = Client().post(path, {"model": A})
        assert (answer.status_code, "login" in answer["Location"]) == (302, True)
    assert everything(organization) == before


def test_a_post_without_its_token_is_refused(cast: Any, listed: CallSettings, organization: Any) -> None:
    before = everything(organization)
    client = Client(enforce_csrf_checks=True)
    client.force_login(cast.owner)
    assert client.post(f"{FALLBACK}remove/", {"model": A}).status_code == 403
    assert everything(organization) == before


@pytest.mark.parametrize("part", ["move", "remove", "switch"])
def test_what_changes_something_is_no_link(part: str, as_user: Callable[[str], Client]) -> None:
    assert as_user("owner").get(f"{FALLBACK}{part}/").status_code == 405


# --- The fallback list ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("", "Write the name of a model"),
        ("gpt-4o-minni", "Did you mean gpt-4o-mini"),
        ("openai/gpt-4o-minni", "Did you mean openai/gpt-4o-mini"),
        (SCRIPT, "There is no model called <script>hit(1)</script>"),
        ("no such model", "visible characters without blanks"),
        ("a\x00b", "Null characters"),
        ("x" * 201, "at most 200 characters"),
        ("custom/llama", "There is no model"),
        ("é", "visible characters"),
    ],
)
def test_a_name_that_means_nothing_is_refused_and_stays_typed(
    model: str, said: str, as_user: Callable[[str], Client], listed: CallSettings, organization: Any
) -> None:
    before = everything(organization)
    answer = as_user("owner").post(FALLBACK, {"model": model})
    text = answer.content.decode()
    assert answer.status_code == 400
    assert said in html.unescape(text)
    assert SCRIPT not in text
    assert html.escape(model.replace("\x00", "\x00")) in text
    assert everything(organization) == before


def test_a_form_sent_twice_counts_once(as_user: Callable[[str], Client], organization: Any) -> None:
    client = as_user("owner")
    for path, fields in (
        (FALLBACK, {"model": A}),
        (FALLBACK, {"model": B}),
        (f"{FALLBACK}move/", {"model": B, "place": "1"}),
        (f"{FALLBACK}remove/", {"model": A}),
        (f"{FALLBACK}switch/", {}),
    ):
        before = events(organization).count()
        for _ in range(2):
            assert client.post(path, fields).status_code == 302
        assert events(organization).count() == before + 1
    assert names(organization) == [B]


def test_a_full_list_takes_no_more(as_user: Callable[[str], Client], listed: CallSettings, organization: Any) -> None:
    listed.fallback_models = [f"openai/gpt-4o?{number}" for number in range(settings_changes.MOST_FALLBACKS)]
    listed.save()
    before = everything(organization)
    answer = as_user("owner").post(FALLBACK, {"model": A})
    assert answer.status_code == 400
    assert "at most 10 models" in answer.content.decode()
    assert everything(organization) == before


@pytest.mark.parametrize("place", ["", "0", "-1", "up", "1.5", "101"])
def test_what_is_no_place_moves_nothing(
    place: str, as_user: Callable[[str], Client], listed: CallSettings, organization: Any
) -> None:
    before = everything(organization)
    assert as_user("owner").post(f"{FALLBACK}move/", {"model": B, "place": place}).status_code == 400
    assert everything(organization) == before


def test_moving_or_removing_what_is_not_there_changes_nothing(
    as_user: Callable[[str], Client], listed: CallSettings, organization: Any
) -> None:
    before = everything(organization)
    client = as_user("owner")
    assert client.post(f"{FALLBACK}move/", {"model": "openai/gpt-4o", "place": "1"}).status_code == 302
    assert client.post(f"{FALLBACK}remove/", {"model": "openai/gpt-4o"}).status_code == 302
    assert everything(organization) == before


def test_each_model_says_who_would_pay_or_why_nobody_can(
    as_user: Callable[[str], Client], listed: CallSettings, organization: Any
) -> None:
    store_key(organization, name="Team <b>")
    house = {"provider": "custom", "name": "house", "base_url": "https://house.example.com/v1", "models": ["llama"]}
    store_key(organization, **house)
    listed.fallback_models = [A, B, C, "sandbox/priced", "house/llama", "house/gone", "gone-for-good", "openai/ft:x"]
    listed.save()
    text = as_user("owner").get(FALLBACK).content.decode()
    said = {name: text.partition(f">{name}</strong>")[2].partition("</li>")[0] for name in listed.fallback_models}
    assert "Own key" in said[A]
    assert "OpenAI" in said[A]
    assert "Team &lt;b&gt;" in said[A]
    assert "No key can serve it: it needs one for Anthropic" in said[B]
    assert "/integrations/add/?provider=anthropic" in said[B]
    assert "Free" in said[C]
    assert "no credits left" in said["sandbox/priced"]
    assert "Add a key" not in said["sandbox/priced"]
    assert "Own key" in said["house/llama"]
    assert "lists its models" in said["house/gone"]
    assert "Unknown" in said["gone-for-good"]
    assert "not in the catalogue" in said["openai/ft:x"]
    assert "Add a key" not in as_user("member").get(FALLBACK).content.decode()
    ledger.grant(organization=organization, amount_nano=10**9, reason="for a test", actor=None)
    text = as_user("owner").get(FALLBACK).content.decode()
    assert "Credits" in text.partition(">sandbox/priced</strong>")[2].partition("</li>")[0]


def test_names_with_scripts_are_text(as_user: Callable[[str], Client], listed: CallSettings) -> None:
    listed.fallback_models = [SCRIPT]
    listed.save()
    text = as_user("owner").get(FALLBACK).content.decode()
    assert SCRIPT not in text
    assert html.escape(SCRIPT) in text


def test_htmx_gets_the_list_alone_and_what_came_of_it(
    as_user: Callable[[str], Client], listed: CallSettings, organization: Any
) -> None:
    answer = as_user("owner").post(f"{FALLBACK}move/", {"model": C, "place": "1"}, headers=HTMX)
    text = answer.content.decode()
    assert answer.status_code == 200
    assert "<html" not in text
    assert text.index(f">{C}</strong>") < text.index(f">{A}</strong>")
    assert f"{C} is tried as number 1." in text
    refused = as_user("owner").post(FALLBACK, {"model": "nothing-like-it"}, headers=HTMX)
    assert refused.status_code == 400
    assert "<html" not in refused.content.decode()


def test_an_organization_without_settings_has_the_defaults_and_writes_none(
    as_user: Callable[[str], Client], organization: Any
) -> None:
    text = as_user("owner").get(FALLBACK).content.decode()
    assert "No fallback yet" in text
    assert "Switch off" in text
    assert 'value="250"' in as_user("owner").get(RETRIES).content.decode()
    assert not CallSettings.objects.filter(organization=organization).exists()


def test_each_change_is_recorded_with_before_and_after_and_known_here_at_once(
    as_user: Callable[[str], Client], cast: Any, organization: Any, django_capture_on_commit_callbacks: Any
) -> None:
    forgotten = call_settings._changes
    with django_capture_on_commit_callbacks(execute=True):
        as_user("admin").post(FALLBACK, {"model": A})
        as_user("admin").post(RETRIES, {"retry_enabled": "on", "num_retries": "1", "retry_after_ms": "500"})
    assert call_settings._changes == forgotten + 2
    first, second = events(organization)
    assert (first.actor, first.target) == (cast.admin, organization.public_id)
    assert first.detail["before"] == {"fallback_models": []}
    assert first.detail["after"] == {"fallback_models": [A]}
    assert first.detail["note"] == f"fallback models: none to {A}"
    assert second.detail["note"] == "number of retries: 2 to 1; first pause in ms: 250 to 500"
    shown = as_user("owner").get("/platform/audit-log/").content.decode()
    assert "Changed how calls are carried out" in shown
    assert "number of retries: 2 to 1" in shown


# --- Retries ----------------------------------------------------------------------------------------------------------


def test_retries_are_kept_and_shown(as_user: Callable[[str], Client], organization: Any) -> None:
    client = as_user("owner")
    assert client.post(RETRIES, {"num_retries": "1", "retry_after_ms": "1500"})["Location"] == RETRIES
    kept = settings_changes.read(organization)
    assert (kept.retry_enabled, kept.num_retries, kept.retry_after_ms) == (False, 1, 1500)
    text = client.get(RETRIES).content.decode()
    assert 'value="1500"' in text
    assert "is asked again" not in text
    before = events(organization).count()
    client.post(RETRIES, {"num_retries": "1", "retry_after_ms": "1500"})
    assert events(organization).count() == before


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_retries": "3"}, "less than or equal to 2"),
        ({"num_retries": "-1"}, "greater than or equal to 0"),
        ({"num_retries": "two"}, "Enter a whole number"),
        ({"num_retries": ""}, "required"),
        ({"retry_after_ms": "49"}, "greater than or equal to 50"),
        ({"retry_after_ms": "10001"}, "less than or equal to 10000"),
        ({"retry_after_ms": "0.5"}, "Enter a whole number"),
        ({"retry_after_ms": "9" * 40}, "less than or equal to 10000"),
    ],
)
def test_wrong_figures_are_refused_and_stay_typed(
    fields: dict[str, str], said: str, as_user: Callable[[str], Client], organization: Any
) -> None:
    before = everything(organization)
    answer = as_user("owner").post(
        RETRIES, {"retry_enabled": "on", "num_retries": "2", "retry_after_ms": "250", **fields}
    )
    text = answer.content.decode()
    assert answer.status_code == 400
    assert said in html.unescape(text)
    for value in filter(None, fields.values()):
        assert f'value="{value}"' in text
    assert everything(organization) == before


def test_the_preview_shows_what_is_typed_and_keeps_nothing(as_user: Callable[[str], Client], organization: Any) -> None:
    client, before = as_user("owner"), everything(organization)
    typed = {"retry_enabled": "on", "num_retries": "1", "retry_after_ms": "3000"}
    text = client.get(RETRIES, typed, headers=HTMX).content.decode()
    assert "Not saved yet" in text
    assert "after a pause of up to 3 s." in text
    assert "<html" not in text
    half_typed = client.get(RETRIES, {**typed, "retry_after_ms": ""}, headers=HTMX).content.decode()
    assert "up to 250 ms" in half_typed
    assert everything(organization) == before


def test_steps_say_what_the_settings_do() -> None:
    said = " ".join(steps(retries=2, pause_ms=250, has_fallback=True))
    assert "then the fallback list in its order" in said
    assert "up to 250 ms, the second time up to 500 ms" in said
    assert "After 3 attempts in all" in said
    assert "up to 8 s, the second time up to 8 s" in " ".join(steps(retries=2, pause_ms=10_000, has_fallback=False))
    assert "pause" not in " ".join(steps(retries=0, pause_ms=250, has_fallback=False))


@pytest.mark.parametrize(("ms", "said"), [(50, "50 ms"), (999, "999 ms"), (1_000, "1 s"), (1_500, "1.5 s")])
def test_pauses_read_as_people_say_them(ms: int, said: str) -> None:
    assert seconds(ms) == said


def test_the_rail_has_one_line_for_the_three_pages(as_user: Callable[[str], Client]) -> None:
    for path in (FALLBACK, RETRIES, "/platform/api/load-balance/"):
        text = as_user("member").get(path).content.decode()
        rail = text.partition('aria-label="Main"')[2].partition("</nav>")[0]
        line = rail.partition(f'<a href="{FALLBACK}"')[2].partition("</a>")[0]
        assert 'aria-current="page"' in line
        assert "Routing" in line
        assert rail.count("hidden>Retries</a>") == 1
