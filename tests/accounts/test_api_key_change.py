"""Changing an API key after it was created: who may, what may, what is recorded, and when it takes effect."""

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts import history, keys
from accounts.key_settings import Settings
from accounts.models import ApiKey, AuditEvent

URL = "/platform/api/api-keys/"
HTMX = {"HX-Request": "true"}
BOTH, CALL, LOGS = "call,logs", "call", "logs"

pytestmark = pytest.mark.django_db


def signed_in(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def issued(organization: Any, created_by: Any = None, **options: Any) -> keys.Issued:
    settings = {"name": "Key", "environment": "production", **options}
    return keys.issue(organization=organization, created_by=created_by, **settings)


def fields(api_key: ApiKey, **others: Any) -> dict[str, Any]:
    """Return the form as somebody sends it who saw the key as it is now."""
    expiry = "never" if api_key.expires_at is None else "unchanged"
    return {
        "name": api_key.name,
        "scopes": ",".join(Settings.of(api_key).scopes),
        "expiry": expiry,
        "seen": Settings.of(api_key).mark,
        **others,
    }


def path(api_key: ApiKey) -> str:
    return f"{URL}{api_key.public_id}/change/"


def state(api_key: ApiKey) -> tuple[Any, ...]:
    """Return everything of a key that a change could touch, and how often it was recorded."""
    row = ApiKey.objects.get(pk=api_key.pk)
    events = AuditEvent.objects.filter(target=row.public_id, action="api_key.changed").count()
    return row.name, row.scopes, row.expires_at, bytes(row.digest), row.environment, row.zero_retention, events


def test_name_scopes_and_end_are_changed_and_recorded_with_before_and_after(cast: SimpleNamespace) -> None:
    key = issued(cast.organization, cast.owner).api_key
    before = state(key)
    day = (timezone.now() + timedelta(days=40)).astimezone(UTC).date()
    wanted = {"name": "Renamed", "scopes": LOGS, "expiry": "custom", "expires_on": day.isoformat()}

    answer = signed_in(cast.admin).post(path(key), fields(key, **wanted), REMOTE_ADDR="198.51.100.7")

    assert (answer.status_code, answer["Location"]) == (302, URL)
    end = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    assert state(key) == ("Renamed", ["logs"], end, *before[3:6], 1)
    event = AuditEvent.objects.get(target=key.public_id, action="api_key.changed")
    assert (event.organization, event.actor, event.address) == (cast.organization, cast.admin, "198.51.100.7")
    assert event.detail["before"] == {"name": "Key", "scopes": ["call", "logs"], "expires_at": None}
    assert event.detail["after"] == {"name": "Renamed", "scopes": ["logs"], "expires_at": end.isoformat()}
    row = history.page(organization=cast.organization, filters=history.Filters(action="api_key.changed")).rows[0]
    assert row.what == "Changed an API key"
    assert row.note.startswith("name: Key to Renamed; may: call, logs to logs; expires: never to ")


def test_only_what_differs_is_recorded(cast: SimpleNamespace) -> None:
    key = issued(cast.organization, cast.owner).api_key
    signed_in(cast.owner).post(path(key), fields(key, name="Other"))
    event = AuditEvent.objects.get(target=key.public_id, action="api_key.changed")
    assert (event.detail["before"], event.detail["after"]) == ({"name": "Key"}, {"name": "Other"})


@pytest.mark.parametrize(("who", "status"), [("owner", 302), ("admin", 302), ("member", 403), ("outsider", 404)])
def test_keys_of_others_are_changed_by_admins_only(cast: SimpleNamespace, who: str, status: int) -> None:
    key = issued(cast.organization, created_by=cast.owner).api_key
    before, client = state(key), signed_in(getattr(cast, who))

    asked = client.get(path(key)).status_code
    answered = client.post(path(key), fields(key, name="Taken", scopes="call,logs,manage")).status_code

    assert (asked, answered) == (200 if status == 302 else status, status)
    assert (state(key) == before) == (status != 302)


def test_a_member_changes_a_key_they_created(cast: SimpleNamespace) -> None:
    own, foreign = issued(cast.organization, cast.member).api_key, issued(cast.organization, cast.owner).api_key
    client = signed_in(cast.member)

    page = client.get(URL).content.decode()
    client.post(path(own), fields(own, name="Mine"))

    assert path(own) in page
    assert path(foreign) not in page
    assert state(own)[0] == "Mine"


def test_nobody_changes_a_key_without_signing_in(client: Client, cast: SimpleNamespace, api_key: str) -> None:
    key = ApiKey.objects.get(organization=cast.organization)
    before = state(key)
    for answer in (
        client.get(path(key)),
        client.post(path(key), fields(key, name="Taken"), HTTP_AUTHORIZATION=f"Bearer {api_key}"),
    ):
        assert answer["Location"].startswith("/accounts/login/?next=")
    assert state(key) == before


@pytest.mark.django_db(transaction=True)
def test_a_change_takes_effect_as_a_revocation_does(cast: SimpleNamespace) -> None:
    made = issued(cast.organization, cast.owner)
    assert "call" in keys.verify_sync(made.secret).scopes  # remembered now

    signed_in(cast.owner).post(path(made.api_key), fields(made.api_key, scopes=LOGS, name="Reader"))

    caller = keys.verify_sync(made.secret)
    assert (caller.scopes, caller.key_name) == (frozenset({"logs"}), "Reader")
    # What another process still remembers is as old as it may be of a revoked key.
    assert keys.FRESH_S == 5


def test_secret_and_environment_stay_whatever_is_sent(cast: SimpleNamespace) -> None:
    made = issued(cast.organization, cast.owner)
    sent = {"environment": "test", "secret": "rsp_test_x", "zero_retention": "on", "digest": "x", "name": "Other"}

    answer = signed_in(cast.owner).get(path(made.api_key))
    signed_in(cast.owner).post(path(made.api_key), fields(made.api_key, **sent))

    assert made.secret not in answer.content.decode()
    assert state(made.api_key)[0] == "Other"
    assert keys.verify_sync(made.secret).environment == "production"
    assert ApiKey.objects.get(pk=made.api_key.pk).zero_retention is False


@pytest.mark.parametrize(
    "sent",
    [
        {"name": ""},
        {"name": "x" * 121},
        {"name": "a\x00b"},
        {"scopes": ""},
        {"scopes": "call,everything"},
        {"scopes": "manage"},
        {"expiry": "yesterday"},
        {"expiry": "unchanged"},  # of a key that never ends
        {"expiry": "custom", "expires_on": ""},
        {"expiry": "custom", "expires_on": "2020-01-01"},
        {"expiry": "custom", "expires_on": "2999-01-01"},
        {"seen": ""},
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(cast: SimpleNamespace, sent: dict[str, str]) -> None:
    key = issued(cast.organization, cast.owner).api_key
    before = state(key)

    answer = signed_in(cast.owner).post(path(key), fields(key, **{"name": "Other", **sent}))

    assert answer.status_code == 400
    assert 'aria-invalid="true"' in answer.content.decode() or "errorlist" in answer.content.decode()
    assert state(key) == before


def test_left_out_scopes_never_widen_what_a_key_may(cast: SimpleNamespace) -> None:
    key = issued(cast.organization, cast.owner, scopes=["logs"]).api_key
    sent = fields(key, name="Other")
    del sent["scopes"]

    assert signed_in(cast.owner).post(path(key), sent).status_code == 400

    assert state(key)[:2] == ("Key", ["logs"])


def test_scopes_no_preset_has_are_offered_as_they_are(cast: SimpleNamespace) -> None:
    key = issued(cast.organization, cast.owner, scopes=["manage"]).api_key
    client = signed_in(cast.owner)

    page = client.get(path(key)).content.decode()
    client.post(path(key), fields(key, name="Other"))

    assert '<option value="manage" selected>Change limits</option>' in page
    assert state(key)[:2] == ("Other", ["manage"])


def test_an_end_stays_to_the_second_unless_another_is_chosen(cast: SimpleNamespace) -> None:
    end = timezone.now() + timedelta(hours=3, minutes=7)
    key = issued(cast.organization, cast.owner, expires_at=end).api_key
    client = signed_in(cast.owner)

    assert f"Unchanged: {end:%Y-%m-%d %H:%M} UTC" in client.get(path(key)).content.decode()
    client.post(path(key), fields(key, name="Other"))
    assert state(key)[2] == end

    key.refresh_from_db()
    client.post(path(key), fields(key, expiry="never"))
    assert state(key)[2] is None


def test_nothing_different_is_no_change(cast: SimpleNamespace) -> None:
    key = issued(cast.organization, cast.owner).api_key
    before = state(key)

    page = signed_in(cast.owner).post(path(key), fields(key), follow=True).content.decode()

    assert "nothing was different" in page
    assert state(key) == before


def test_nobody_undoes_a_change_they_did_not_see(cast: SimpleNamespace) -> None:
    key = issued(cast.organization, cast.member).api_key
    late = fields(key, name="Late", scopes=BOTH)
    signed_in(cast.owner).post(path(key), fields(key, scopes=LOGS))
    before = state(key)

    answer = signed_in(cast.member).post(path(key), late)

    assert answer.status_code == 409
    page = answer.content.decode()
    assert "Somebody else changed this key meanwhile" in page
    assert '<option value="logs" selected>' in page
    assert state(key) == before
    # What is shown now can be sent.
    shown = re.search(r'name="seen" value="(\w+)"', page)
    assert shown is not None
    assert signed_in(cast.member).post(path(key), {**late, "seen": shown[1]}).status_code == 302
    assert state(key)[:2] == ("Late", ["call", "logs"])


@pytest.mark.parametrize("how", ["revoked", "expired", "rotated"])
def test_a_key_that_is_over_stays_as_it_was(cast: SimpleNamespace, how: str) -> None:
    now = timezone.now()
    key = issued(cast.organization, cast.owner).api_key
    if how == "revoked":
        keys.revoke(api_key=key, actor=cast.owner, now=now)
    elif how == "expired":
        ApiKey.objects.filter(pk=key.pk).update(expires_at=now - timedelta(seconds=1))
    else:
        keys.rotate(api_key=key, overlap=timedelta(days=1), actor=cast.owner, now=now)
    key.refresh_from_db()
    before, client = state(key), signed_in(cast.owner)

    page = client.get(path(key)).content.decode()
    answer = client.post(path(key), fields(key, name="Alive", expiry="never"))

    assert how in page
    assert 'name="name"' not in page
    assert answer.status_code == 400
    assert state(key) == before
    with pytest.raises(keys.NoLongerChangeable):
        keys.change(
            api_key=key, to=Settings("Alive", ("call",), None), seen=Settings.of(key).mark, actor=cast.owner, now=now
        )
    assert state(key) == before


@pytest.mark.parametrize("to", [Settings("x", (), None), Settings("x", ("all",), None)])
def test_a_key_is_never_left_without_a_scope_we_know(cast: SimpleNamespace, to: Settings) -> None:
    key = issued(cast.organization, cast.owner).api_key
    before = state(key)
    with pytest.raises(ValueError, match=r"."):
        keys.change(api_key=key, to=to, seen=Settings.of(key).mark, actor=cast.owner, now=timezone.now())
    assert state(key) == before


def test_the_dialog_is_a_piece_and_ends_at_the_list(cast: SimpleNamespace) -> None:
    key = issued(cast.organization, cast.owner).api_key
    client = signed_in(cast.owner)

    piece = client.get(path(key), headers=HTMX).content.decode()
    wrong = client.post(path(key), fields(key, name=""), headers=HTMX)
    right = client.post(path(key), fields(key, name="Other"), headers=HTMX)

    assert "<html" not in piece
    assert "data-close" in piece
    assert (wrong.status_code, b"<html" in wrong.content) == (400, False)
    assert (right.status_code, right["HX-Redirect"]) == (204, URL)


def test_a_name_stays_text(cast: SimpleNamespace) -> None:
    key = issued(cast.organization, cast.owner).api_key
    client = signed_in(cast.owner)
    client.post(path(key), fields(key, name="<script>alert(1)</script>"))
    for address in (path(key), URL, "/platform/audit-log/"):
        assert "<script>alert" not in client.get(address).content.decode()
