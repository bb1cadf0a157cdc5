"""Provider keys: sealing, what opens and what does not, secrets that never print, rotation, the gateway's reading."""

import base64
import copy
import json
import logging
import pickle
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command

from accounts.models import AuditEvent
from gateway import credentials, rotation
from gateway.credentials import (
    CredentialUnreadable,
    InvalidKeyRing,
    Stored,
    forget,
    of,
    platform,
    usable,
)
from gateway.entered import InvalidCredential, Secret, SecretRequired
from gateway.models import Credential
from respan import pool
from respan.outbound import ForbiddenAddress

KEY = "sk-canary-0123456789abcdef"
K1 = "k1:" + base64.b64encode(bytes(32)).decode()
K2 = "k2:" + base64.b64encode(b"\x01" * 32).decode()


@pytest.fixture
def stored(organization: Any, cast: Any) -> Callable[..., Credential]:
    """Store a credential of `cast.organization`: `stored(name=..., ...)`."""

    def store(**fields: Any) -> Credential:
        fields = {"provider": "openai", "name": f"Key {uuid.uuid4().hex[:8]}", "secret": Secret(KEY), **fields}
        fields.setdefault("organization", organization)
        return credentials.store(actor=cast.owner, address="192.0.2.1", **fields)

    return store


def everything(organization: Any) -> tuple[list[Any], int]:
    """Return all that a refused action must leave as it is."""
    rows = Credential.objects.filter(organization=organization).order_by("pk").values_list()
    events = AuditEvent.objects.filter(organization=organization, action__startswith="credential.")
    return list(rows), events.count()


# --- Sealing ---------------------------------------------------------------------------------------------------------


def test_a_stored_key_opens_and_is_nowhere_in_its_row(stored: Callable[..., Credential]) -> None:
    credential = stored()
    row = Credential.objects.filter(pk=credential.pk).values().get()
    assert KEY not in json.dumps(row, default=str)
    assert of(credential).secret().reveal() == KEY
    assert row["sealed"].startswith("v1.k1.")
    assert row["last_four"] == "cdef"


def test_the_end_of_a_short_key_is_not_kept(stored: Callable[..., Credential]) -> None:
    assert stored(secret=Secret("short-key")).last_four == ""


def test_the_same_key_is_never_sealed_to_the_same_text(stored: Callable[..., Credential]) -> None:
    assert stored().sealed != stored().sealed


def test_a_sealed_key_opens_only_where_it_was_stored(
    stored: Callable[..., Credential], other_organization: Any
) -> None:
    """Tenant, provider, credential and origin are bound: a text moved to another row does not open."""
    mine = stored(base_url="https://llm.example.com/v1")
    for change in (
        {"organization_id": other_organization.pk},
        {"organization_id": None},
        {"provider": "groq"},
        {"public_id": stored().public_id},
        {"base_url": "https://llm.example.org/v1"},
        {"base_url": "https://llm.example.com:8443/v1"},
        {"base_url": "http://llm.example.com/v1"},
        {"base_url": None},
    ):
        facts = {name: getattr(of(mine), name) for name in Stored.__slots__}
        with pytest.raises(CredentialUnreadable):
            Stored(**{**facts, **change}).secret()
    # The path is not part of the origin: the same server may serve another version.
    facts = {name: getattr(of(mine), name) for name in Stored.__slots__}
    assert Stored(**{**facts, "base_url": "https://LLM.example.com:443/v2"}).secret().reveal() == KEY


def test_parts_of_the_binding_cannot_run_into_each_other() -> None:
    def binding(provider: str, public_id: str) -> bytes:
        return credentials._binding(Stored(public_id, 1, provider, "", None, (), ""), "https://a.example")

    assert binding("ab", "c") != binding("a", "bc")


def test_any_flipped_character_fails_closed(stored: Callable[..., Credential]) -> None:
    credential = stored()
    sealed = credential.sealed
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="
    for position, old in enumerate(sealed):
        # The neighbour in the alphabet differs in the lowest bit: it hits the spare bits of the last character too.
        new = alphabet[(alphabet.find(old) + 1) % len(alphabet)]
        credential.sealed = sealed[:position] + new + sealed[position + 1 :]
        with pytest.raises(CredentialUnreadable):
            of(credential).secret()


@pytest.mark.parametrize("text", ["", "v1", "v1.k1", "v1.k1.", "v1.k1.AAAA", "v2.k1.AAAA", "v1.k9.AAAA", "v1.k1.ä"])
def test_a_text_that_is_no_sealed_key_is_refused(text: str, stored: Callable[..., Credential]) -> None:
    credential = stored()
    credential.sealed = text
    with pytest.raises(CredentialUnreadable):
        of(credential).secret()


@pytest.mark.parametrize(
    "ring", ["", " , ", "k1", "k1:", "k1:AAAA", ":" + K1[3:], "k 1:" + K1[3:], f"{K1},{K1}", "k1:" + "%" * 44]
)
def test_an_unusable_key_ring_is_refused_without_showing_it(ring: str, settings: Any) -> None:
    settings.RESPAN_KEYS = ring
    with pytest.raises(InvalidKeyRing) as refused:
        credentials.seals_with()
    assert K1[3:] not in str(refused.value)


# --- A secret never prints -------------------------------------------------------------------------------------------


def test_a_secret_never_prints(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(KEY)
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("%s %r %s", secret, secret, {"secret": secret})
    try:
        raise ValueError(secret)
    except ValueError as error:
        raised = f"{error} {error!r}"
    shown = [
        repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", f"{secret:>40}", "%s" % secret,  # noqa: UP031
        "{}".format(secret), repr([secret]), str({"a": secret}), caplog.text, raised,  # noqa: UP032
        repr(vars(secret) if hasattr(secret, "__dict__") else ""), str(dir(secret)),
    ]  # fmt: skip
    assert not [text for text in shown if "canary" in text]
    for refuse in (json.dumps, msgspec.json.encode, msgspec.msgpack.encode, pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError) as refused:
            refuse(secret)
        assert "canary" not in str(refused.value)
    assert secret.reveal() == KEY


def test_a_stored_credential_prints_without_its_key(stored: Callable[..., Credential]) -> None:
    assert KEY not in repr(of(stored()))


# --- Storing and changing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"provider": "nobody"}, "provider"),
        ({"provider": "sandbox"}, "provider"),
        ({"secret": Secret("")}, "secret"),
        ({"secret": None}, "secret"),
        ({"secret": Secret("sk-with blank")}, "secret"),
        ({"secret": Secret("sk-line\r\nX-Evil: 1")}, "secret"),
        ({"secret": Secret("sk-ä")}, "secret"),
        ({"secret": Secret("x" * 9_000)}, "secret"),
        ({"name": ""}, "name"),
        ({"name": " padded "}, "name"),
        ({"name": "x" * 61}, "name"),
        ({"name": "line\nbreak"}, "name"),
        ({"models": ["gpt 4"]}, "models"),
        ({"models": [f"m{number}" for number in range(201)]}, "models"),
        ({"provider": "custom", "name": "my-llm"}, "base_url"),
        ({"provider": "custom", "name": "My LLM", "base_url": "https://llm.example.com/v1"}, "name"),
        ({"provider": "custom", "name": "openai", "base_url": "https://llm.example.com/v1"}, "name"),
        ({"provider": "custom", "name": "qwen", "base_url": "https://llm.example.com/v1"}, "name"),
        ({"provider": "custom", "name": "-llm", "base_url": "https://llm.example.com/v1"}, "name"),
        ({"base_url": "https://llm.example.com/" + "x" * 500}, "base_url"),
    ],
)
def test_what_cannot_be_stored_is_refused_naming_the_field(
    fields: dict[str, Any], param: str, stored: Callable[..., Credential], organization: Any
) -> None:
    before = everything(organization)
    with pytest.raises(InvalidCredential) as refused:
        stored(**fields)
    assert refused.value.param == param
    assert everything(organization) == before


@pytest.mark.parametrize(
    "base_url",
    ["http://127.0.0.1:1/v1", "http://10.0.0.1/v1", "https://169.254.169.254", "http://llm.example.com", "x"],
)
def test_a_base_url_into_our_network_is_refused(
    base_url: str, stored: Callable[..., Credential], organization: Any
) -> None:
    before = everything(organization)
    with pytest.raises(ForbiddenAddress):
        stored(base_url=base_url)
    assert everything(organization) == before


def test_only_the_demo_organization_may_name_this_machine(stored: Callable[..., Credential], organization: Any) -> None:
    organization.is_demo = True
    organization.save()
    assert stored(base_url="http://127.0.0.1:9/v1/").base_url == "http://127.0.0.1:9/v1"
    with pytest.raises(ForbiddenAddress):
        stored(base_url="http://10.0.0.1:9/v1")


def test_a_server_of_ones_own_may_need_no_key(stored: Callable[..., Credential]) -> None:
    credential = stored(provider="custom", name="my-llm", base_url="https://llm.example.com/v1", secret=None)
    assert not of(credential).secret()


def test_two_keys_of_a_provider_need_two_names(stored: Callable[..., Credential], organization: Any) -> None:
    stored(name="Main")
    before = everything(organization)
    with pytest.raises(InvalidCredential) as refused:
        stored(name="Main")
    assert refused.value.param == "name"
    assert everything(organization) == before
    assert stored(name="Main", provider="groq").name == "Main"


def test_a_form_sent_twice_stores_one_key(
    stored: Callable[..., Credential], organization: Any, other_organization: Any
) -> None:
    submission = uuid.uuid4()
    first = stored(name="Main", submission=submission)
    before = everything(organization)
    assert stored(name="Main", submission=submission) == first
    assert everything(organization) == before
    # Somebody else's form with the same token is another form.
    theirs = stored(name="Main", submission=submission, organization=other_organization)
    assert theirs.public_id != first.public_id


def test_allowed_models_are_kept_under_their_own_ids(stored: Callable[..., Credential]) -> None:
    models = ["openai/gpt-4o-mini", "gpt-4o-mini", "ft:gpt-4o:acme::1"]
    kept = of(stored(models=models))
    assert kept.models == ("gpt-4o-mini", "ft:gpt-4o:acme::1")
    assert kept.allows("gpt-4o-mini")
    assert not kept.allows("gpt-4o")


def test_another_server_needs_the_key_again(stored: Callable[..., Credential], organization: Any, cast: Any) -> None:
    credential = stored(provider="custom", name="my-llm", base_url="https://llm.example.com/v1")
    before = everything(organization)
    with pytest.raises(SecretRequired) as refused:
        credentials.change(
            credential=credential, secret=None, base_url="https://evil.example.net/v1", actor=cast.owner, address=None
        )
    assert refused.value.param == "secret"
    assert everything(organization) == before
    changed = credentials.change(
        credential=credential,
        secret=Secret("sk-for-the-new-server"),
        base_url="https://other.example.net/v1",
        actor=cast.owner,
        address=None,
    )
    assert of(changed).secret().reveal() == "sk-for-the-new-server"


def test_another_path_of_the_same_server_keeps_the_key(stored: Callable[..., Credential], cast: Any) -> None:
    credential = stored(provider="custom", name="my-llm", base_url="https://llm.example.com/v1")
    changed = credentials.change(
        credential=credential, secret=None, base_url="https://llm.example.com/v2", actor=cast.owner, address=None
    )
    assert of(changed).secret().reveal() == KEY


def test_a_key_sealed_for_a_former_address_of_the_provider_opens(stored: Callable[..., Credential]) -> None:
    """A catalogue update that moves a provider must not lock everybody out."""
    credential = stored(provider="togetherai")
    now = of(credential)
    former = credentials._binding(now, "https://api.together.xyz/v1")
    credential.sealed = credentials.seal(Secret(KEY), former)
    assert of(credential).secret().reveal() == KEY


def test_everything_is_audited_and_no_event_holds_the_key(
    stored: Callable[..., Credential], organization: Any, cast: Any
) -> None:
    credential = stored()
    credentials.change(credential=credential, secret=Secret(KEY + "2"), actor=cast.admin, address="192.0.2.2")
    credentials.remove(credential=credential, actor=cast.owner, address="192.0.2.1")
    credentials.remove(credential=credential, actor=cast.owner, address="192.0.2.1")
    events = AuditEvent.objects.filter(organization=organization, target=credential.public_id).order_by("pk")
    assert [(event.action, event.actor) for event in events] == [
        ("credential.created", cast.owner),
        ("credential.changed", cast.admin),
        ("credential.removed", cast.owner),
    ]
    assert "canary" not in json.dumps([event.detail for event in events])


# --- Rotation --------------------------------------------------------------------------------------------------------


def test_rotation_keeps_every_key_readable_and_lets_the_old_one_go(
    stored: Callable[..., Credential], settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.RESPAN_KEYS = K1
    rows = [stored(secret=Secret(f"sk-canary-{number:016}")) for number in range(120)]
    settings.RESPAN_KEYS = f"{K2},{K1}"
    for number, row in enumerate(rows):
        assert of(row).secret().reveal() == f"sk-canary-{number:016}"
    call_command("rotate_keys")
    settings.RESPAN_KEYS = K2
    for number, row in enumerate(rows):
        row.refresh_from_db()
        assert row.sealed.startswith("v1.k2.")
        assert of(row).secret().reveal() == f"sk-canary-{number:016}"
    assert "canary" not in capsys.readouterr().out
    settings.RESPAN_KEYS = f"{K2},{K1}"
    assert rotation.rotate().resealed == 0


def test_rotation_leaves_what_it_cannot_open_and_says_so(stored: Callable[..., Credential], settings: Any) -> None:
    settings.RESPAN_KEYS = K1
    broken, whole = stored(), stored()
    Credential.objects.filter(pk=broken.pk).update(sealed=whole.sealed)
    settings.RESPAN_KEYS = f"{K2},{K1}"
    with pytest.raises(CommandError, match=broken.public_id):
        call_command("rotate_keys", verbosity=0)
    broken.refresh_from_db()
    assert broken.sealed == whole.sealed
    whole.refresh_from_db()
    assert of(whole).secret().reveal() == KEY


# --- What a call may use ---------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
async def test_the_gateway_reads_an_organizations_keys_and_sees_changes_at_once(
    stored: Callable[..., Credential], organization: Any, other_organization: Any, cast: Any
) -> None:
    credential = await sync_to_async(stored)()
    (found,) = await usable(organization.pk)
    assert found == of(credential)
    assert found.secret().reveal() == KEY
    assert await usable(other_organization.pk) == ()
    await sync_to_async(credentials.remove)(credential=credential, actor=cast.owner, address=None)
    assert await usable(organization.pk) == ()


@pytest.mark.django_db(transaction=True)
async def test_changes_on_another_host_are_seen_within_seconds(
    stored: Callable[..., Credential], organization: Any
) -> None:
    credential = await sync_to_async(stored)(name="Before")
    row = Credential.objects.filter(pk=credential.pk)
    now = time.monotonic()
    await usable(organization.pk, now=now)
    await row.aupdate(name="After")
    assert (await usable(organization.pk, now=now + 4.9))[0].name == "Before"
    assert (await usable(organization.pk, now=now + 5.1))[0].name == "After"


@pytest.mark.django_db(transaction=True)
async def test_with_the_database_down_keys_are_remembered_for_ten_minutes(
    stored: Callable[..., Credential], organization: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sync_to_async(stored)()
    now = time.monotonic()
    (known,) = await usable(organization.pk, now=now)
    await pool.close()
    monkeypatch.setitem(settings.DATABASES["default"], "PORT", 1)
    assert await usable(organization.pk, now=now + 60) == (known,)
    assert known.secret().reveal() == KEY
    # Only one call in five seconds waits for the database.
    started = time.monotonic()
    assert await usable(organization.pk, now=now + 64) == (known,)
    assert time.monotonic() - started < 0.8  # waiting takes a second
    for organization_id in (organization.pk, -1):
        with pytest.raises(credentials.CredentialsUnavailable):
            await usable(organization_id, now=now + 601)


@pytest.mark.django_db(transaction=True)
async def test_an_operators_key_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "groq").write_text(f"{KEY}-in-a-file\n")
    monkeypatch.setenv("RESPAN_PLATFORM_KEY_TOGETHERAI", KEY)
    monkeypatch.setenv("RESPAN_PLATFORM_URL_TOGETHERAI", "http://127.0.0.1:9/v1/")
    monkeypatch.setenv("RESPAN_PLATFORM_KEY_GROQ_FILE", str(tmp_path / "groq"))
    forget(None)
    found = {each.provider: each for each in await platform() if each.public_id.startswith("env_")}
    forget(None)
    assert set(found) == {"togetherai", "groq"}
    assert found["togetherai"].secret().reveal() == KEY
    assert found["togetherai"].base_url == "http://127.0.0.1:9/v1"
    assert found["groq"].secret().reveal() == f"{KEY}-in-a-file"
    assert KEY not in repr(found)
    assert not await Credential.objects.filter(public_id__startswith="env_").aexists()
