"""The Load balance page: groups made, changed and deleted, the strategy, what is refused, what is never shown."""

import html
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import AuditEvent
from gateway import call_settings, credentials, settings_changes, snippets
from gateway.models import CallSettings, Credential, LoadBalanceGroup

pytestmark = pytest.mark.django_db
LIST = "/platform/api/load-balance/"
NEW = f"{LIST}new/"
STRATEGY = f"{LIST}strategy/"
HTMX = {"HX-Request": "true"}
A, B = "openai/gpt-4o-mini", "sandbox/echo"
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
def group(organization: Any) -> LoadBalanceGroup:
    return LoadBalanceGroup.objects.create(
        organization=organization,
        group_id="chat",
        name="Chat <b>",
        members=[{"model": A, "weight": 3}, {"model": B, "weight": 1}],
    )


@pytest.fixture
def own_key(organization: Any) -> Credential:
    return credentials.store(
        organization=organization,
        provider="openai",
        name="Main",
        secret="sk-0123456789abcdef",
        actor=None,
        address=None,
    )


def form(*members: tuple[str, Any], **fields: Any) -> dict[str, Any]:
    """A group's form as a browser sends it; `keys_<n>` are the keys ticked in line n."""
    data: dict[str, Any] = {
        "name": "Chat",
        "group_id": "",
        "strategy": "weighted",
        "members-TOTAL_FORMS": str(len(members)),
        "members-INITIAL_FORMS": "0",
    }
    for number, (model, weight) in enumerate(members):
        data |= {f"members-{number}-model": model, f"members-{number}-weight": weight}
    for name in [name for name in fields if name.startswith("keys_")]:
        data[f"members-{name.removeprefix('keys_')}-credentials"] = fields.pop(name)
    return data | fields


def page_of(group: LoadBalanceGroup, *, delete: bool = False) -> str:
    return f"{LIST}groups/{group.group_id}/{'delete/' if delete else ''}"


def groups_of(organization: Any) -> list[LoadBalanceGroup]:
    return list(LoadBalanceGroup.objects.filter(organization=organization).order_by("pk"))


def events(organization: Any) -> list[AuditEvent]:
    found = AuditEvent.objects.filter(organization=organization).order_by("pk")
    return [each for each in found if each.action.startswith(("load_balance_group.", "call_settings."))]


def everything(organization: Any) -> tuple[list[Any], list[Any], int]:
    """Return all that a refused action must leave as it is."""
    kept = CallSettings.objects.filter(organization=organization).values_list()
    groups = LoadBalanceGroup.objects.filter(organization=organization).order_by("pk").values_list()
    return list(kept), list(groups), len(events(organization))


# --- Who may do what --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["owner", "admin"])
def test_owners_and_admins_make_change_and_delete_groups(
    name: str, as_user: Callable[[str], Client], cast: Any, organization: Any
) -> None:
    client = as_user(name)
    assert client.get(NEW).status_code == 200
    made = client.post(LIST, form((A, "3"), (B, ""), ("", "")))
    (group,) = groups_of(organization)
    assert made["Location"] == f"{LIST}?new=chat#group-chat"
    assert (group.group_id, group.name, group.strategy) == ("chat", "Chat", "weighted")
    assert group.members == [{"model": A, "weight": 3}, {"model": B, "weight": 1}]
    text = client.get(page_of(group)).content.decode()
    assert f'value="{A}"' in text
    changed = client.post(page_of(group), form((B, "5"), name="Chat 2", strategy="latency"))
    assert changed["Location"] == f"{LIST}#group-chat"
    group.refresh_from_db()
    assert (group.group_id, group.name, group.strategy) == ("chat", "Chat 2", "latency")
    assert group.members == [{"model": B, "weight": 5}]
    assert "Delete the group" in client.get(page_of(group, delete=True)).content.decode()
    assert groups_of(organization)
    assert client.post(page_of(group, delete=True), {"group_id": "chat"})["Location"] == LIST
    assert not groups_of(organization)
    verbs = [(event.action, event.target, event.actor) for event in events(organization)]
    actor = getattr(cast, name)
    assert verbs == [(f"load_balance_group.{verb}", "chat", actor) for verb in ("created", "changed", "deleted")]


def test_a_member_reads_and_changes_nothing(
    as_user: Callable[[str], Client], group: LoadBalanceGroup, organization: Any
) -> None:
    client = as_user("member")
    text = client.get(LIST).content.decode()
    assert A in text
    assert "Owners and admins change this" in text
    for hidden in ("/delete/", page_of(group), NEW, 'type="radio"'):
        assert hidden not in text
    before = everything(organization)
    for path in (NEW, page_of(group), page_of(group, delete=True)):
        assert client.get(path).status_code == 403
    for path in (LIST, STRATEGY, page_of(group), page_of(group, delete=True)):
        assert client.post(path, form((B, "1"))).status_code == 403
    assert everything(organization) == before


def test_for_an_outsider_a_group_does_not_exist(
    as_user: Callable[[str], Client], group: LoadBalanceGroup, organization: Any
) -> None:
    client = as_user("outsider")
    assert "Chat" not in client.get(LIST).content.decode()
    before = everything(organization)
    for path in (page_of(group), page_of(group, delete=True)):
        assert client.get(path).status_code == 404
        assert client.post(path, form((B, "1"), group_id="chat")).status_code == 404
    assert everything(organization) == before


def test_two_organizations_may_use_the_same_id(
    as_user: Callable[[str], Client], group: LoadBalanceGroup, organization: Any, other_organization: Any
) -> None:
    before = everything(organization)
    assert as_user("outsider").post(LIST, form((B, "1"), group_id="chat")).status_code == 302
    assert everything(organization) == before


def test_another_organizations_key_cannot_be_named(
    as_user: Callable[[str], Client], own_key: Credential, other_organization: Any
) -> None:
    before = everything(other_organization)
    answer = as_user("outsider").post(LIST, form((A, "1"), keys_0=[own_key.public_id]))
    assert answer.status_code == 400
    assert everything(other_organization) == before


def test_who_is_not_signed_in_is_sent_to_sign_in(group: LoadBalanceGroup, organization: Any) -> None:
    before = everything(organization)
    for path in (LIST, STRATEGY, page_of(group), page_of(group, delete=True)):
        answer = Client().post(path, form((B, "1")))
        assert (answer.status_code, "login" in answer["Location"]) == (302, True)
    assert everything(organization) == before


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (form(), "Name at least one model"),
        (form(("", "1")), "Name at least one model"),
        (form((A, "1"), name=""), "Give the group a name"),
        (form((A, "1"), name="x" * 61), "at most 60 characters"),
        (form((A, "1"), name="\u4e2d\u6587"), "Write an id"),
        (form((A, "1"), group_id="no blanks"), "An id has letters, digits"),
        (form((A, "1"), group_id="../other"), "An id has letters, digits"),
        (form((A, "1"), strategy="fastest"), "valid choice"),
        (form((A, "1"), strategy=""), "Choose one of the three"),
        (form((A, "0")), "greater than or equal to 1"),
        (form((A, "1001")), "less than or equal to 1000"),
        (form((A, "heavy")), "Enter a whole number"),
        (form((A, "1"), ("gpt-4o-minni", "1")), "Did you mean gpt-4o-mini"),
        (form((SCRIPT, "1")), "There is no model called"),
        (form((A, "1"), (A, "2")), "is in the group already"),
        (form(*[(A, "1")] * 21), "at most 20 forms"),
        (form((A, "1"), keys_0=["cred_of_nobody"]), "valid choice"),
        ({"name": "Chat", "strategy": "weighted"}, "form data is missing"),
    ],
)
def test_a_wrong_form_says_what_is_wrong_keeps_what_was_typed_and_stores_nothing(
    sent: dict[str, Any], said: str, as_user: Callable[[str], Client], organization: Any
) -> None:
    before = everything(organization)
    answer = as_user("owner").post(LIST, sent)
    text = answer.content.decode()
    assert answer.status_code == 400
    assert said.lower() in html.unescape(text).lower()
    assert SCRIPT not in text
    for name in ("name", "group_id", "members-0-model", "members-0-weight"):
        if sent.get(name):
            assert f'value="{html.escape(sent[name])}"' in text
    assert everything(organization) == before


def test_a_change_that_is_wrong_changes_nothing(
    as_user: Callable[[str], Client], group: LoadBalanceGroup, organization: Any
) -> None:
    before = everything(organization)
    answer = as_user("owner").post(page_of(group), form(("gpt-4o-minni", "1")))
    assert answer.status_code == 400
    assert "Did you mean" in answer.content.decode()
    assert everything(organization) == before


def test_an_id_that_is_taken_is_refused_but_the_same_form_twice_is_one_group(
    as_user: Callable[[str], Client], group: LoadBalanceGroup, organization: Any
) -> None:
    client = as_user("owner")
    before = everything(organization)
    answer = client.post(LIST, form((B, "1"), group_id="chat"))
    assert answer.status_code == 400
    assert "There is a group with this id already" in answer.content.decode()
    assert everything(organization) == before
    for _ in range(2):
        assert client.post(LIST, form((A, "1"), group_id="Twice_1.2")).status_code == 302
    assert [each.group_id for each in groups_of(organization)] == ["chat", "Twice_1.2"]
    for _ in range(2):
        assert client.post(page_of(group), form((B, "7"))).status_code == 302
    assert [event.action for event in events(organization)] == [
        "load_balance_group.created",
        "load_balance_group.changed",
    ]


def test_deleting_asks_for_the_id(as_user: Callable[[str], Client], group: LoadBalanceGroup, organization: Any) -> None:
    before = everything(organization)
    for typed in ("", "Chat", "chat2"):
        answer = as_user("owner").post(page_of(group, delete=True), {"group_id": typed})
        assert answer.status_code == 400
    assert "not the group&#x27;s id" in answer.content.decode()
    assert everything(organization) == before
    assert as_user("owner").post(page_of(group, delete=True), {"group_id": " chat "}).status_code == 302
    assert as_user("owner").post(page_of(group, delete=True), {"group_id": "chat"}).status_code == 404
    assert len(events(organization)) == 1


def test_a_hundred_groups_are_enough(as_user: Callable[[str], Client], organization: Any) -> None:
    LoadBalanceGroup.objects.bulk_create(
        LoadBalanceGroup(organization=organization, group_id=f"g{number}", name="g", members=[])
        for number in range(settings_changes.MOST_GROUPS)
    )
    before = everything(organization)
    answer = as_user("owner").post(LIST, form((A, "1")))
    assert answer.status_code == 400
    assert "at most 100 groups" in answer.content.decode()
    assert everything(organization) == before


# --- Lines and keys ---------------------------------------------------------------------------------------------------


def test_a_line_is_added_and_taken_away_without_scripts_and_without_saving(
    as_user: Callable[[str], Client], organization: Any
) -> None:
    client, before = as_user("owner"), everything(organization)
    more = client.post(LIST, form((A, "oops"), (B, "2"), more="1", name="")).content.decode()
    assert 'name="members-2-model"' in more
    assert f'value="{A}"' in more
    assert 'value="oops"' in more
    assert "errorlist" not in more
    less = client.post(LIST, form((A, "1"), (B, "2"), less="0")).content.decode()
    assert 'name="members-1-model"' not in less
    assert f'value="{B}"' in less
    last = client.post(LIST, form((A, "1"), less="0")).content.decode()
    assert 'name="members-0-model"' in last
    full = client.post(LIST, form(*[(A, "1")] * 20, more="1")).content.decode()
    assert 'name="members-20-model"' not in full
    assert everything(organization) == before


def test_a_model_can_be_restricted_to_keys_that_can_serve_it(
    as_user: Callable[[str], Client], own_key: Credential, organization: Any
) -> None:
    client = as_user("owner")
    assert client.post(LIST, form((A, "1"), keys_0=[own_key.public_id])).status_code == 302
    (group,) = groups_of(organization)
    assert group.members == [{"model": A, "weight": 1, "credentials": [own_key.public_id]}]
    shown = client.get(LIST).content.decode()
    assert "Only with" in shown
    text = client.get(page_of(group)).content.decode()
    assert f'value="{own_key.public_id}" checked' in text
    before = everything(organization)
    answer = client.post(page_of(group), form((B, "1"), keys_0=[own_key.public_id]))
    assert answer.status_code == 400
    assert "None of these keys can serve" in answer.content.decode()
    assert everything(organization) == before
    credentials.remove(credential=own_key, actor=None, address=None)
    assert "A key it was restricted to is gone" in client.get(LIST).content.decode()


# --- What is shown ----------------------------------------------------------------------------------------------------


def test_a_group_shows_shares_ways_and_how_it_is_called(
    as_user: Callable[[str], Client], group: LoadBalanceGroup
) -> None:
    text = as_user("member").get(LIST).content.decode()
    assert "75 %" in text
    assert "25 %" in text
    assert "No key can serve it" in text
    assert "Free" in text
    assert "load_balance_group" in text
    assert "Chat &lt;b&gt;" in text
    assert "Chat <b>" not in text


def test_without_groups_the_page_explains_them(as_user: Callable[[str], Client]) -> None:
    assert "No group yet" in as_user("owner").get(LIST).content.decode()
    assert "An owner or admin can make one" in as_user("member").get(LIST).content.decode()


def test_snippets_keep_names_in_strings() -> None:
    for each in snippets.of_group(base_url="http://x/api/", model='a"b', group_id="it's"):
        assert 'a\\"b' in each.text
        assert "load_balance_group" in each.text
    python, typescript, curl = snippets.of_group(base_url="http://x/api/", model=A, group_id="chat")
    compile(python.text, "snippet", "exec")
    assert 'extra_body={"load_balance_group": {"group_id": "chat"}}' in python.text
    assert "@ts-expect-error" in typescript.text
    assert '"load_balance_group": {"group_id": "chat"}' in curl.text


def test_htmx_gets_the_form_alone_or_is_led_on(
    as_user: Callable[[str], Client], group: LoadBalanceGroup, organization: Any
) -> None:
    client = as_user("owner")
    refused = client.post(page_of(group), form(("gpt-4o-minni", "1")), headers=HTMX)
    assert (refused.status_code, "<html" in refused.content.decode()) == (400, False)
    done = client.post(page_of(group), form((B, "1")), headers=HTMX)
    assert (done.status_code, done["HX-Redirect"]) == (204, f"{LIST}#group-chat")


# --- The strategy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["weighted", "latency", "cost"])
def test_a_strategy_is_kept_recorded_and_shown(
    value: str, as_user: Callable[[str], Client], organization: Any, django_capture_on_commit_callbacks: Any
) -> None:
    forgotten = call_settings._changes
    with django_capture_on_commit_callbacks(execute=True):
        for _ in range(2):
            assert as_user("admin").post(STRATEGY, {"strategy": value})["Location"] == LIST
    assert settings_changes.read(organization).strategy == value
    is_new = value != "weighted"
    assert (len(events(organization)), call_settings._changes - forgotten) == (is_new, is_new)
    assert f'value="{value}" checked' in as_user("owner").get(LIST).content.decode()


@pytest.mark.parametrize("value", ["", "random", SCRIPT])
def test_an_unknown_strategy_is_refused(value: str, as_user: Callable[[str], Client], organization: Any) -> None:
    before = everything(organization)
    answer = as_user("owner").post(STRATEGY, {"strategy": value})
    assert answer.status_code == 400
    assert SCRIPT not in answer.content.decode()
    assert everything(organization) == before


def test_a_deleted_organization_leaves_neither_settings_nor_groups(
    cast: Any, group: LoadBalanceGroup, organization: Any
) -> None:
    from django.utils import timezone

    from accounts import organizations

    CallSettings.objects.create(organization=organization)
    organizations.delete(organization=organization, actor=cast.owner, now=timezone.now())
    assert not groups_of(organization)
    assert not CallSettings.objects.filter(organization=organization).exists()
