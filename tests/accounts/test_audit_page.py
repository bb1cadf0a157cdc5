"""The Audit log page: words, filters, pages by key, and a CSV that no spreadsheet runs."""

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts import audit, history
from accounts.models import AuditEvent

URL = "/platform/audit-log/"
DAY = datetime(2026, 3, 5, 12, tzinfo=UTC)

pytestmark = pytest.mark.django_db


def signed_in(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def event(organization: Any, actor: Any = None, action: str = "api_key.created", **fields: Any) -> AuditEvent:
    return AuditEvent.objects.create(organization=organization, actor=actor, action=action, **fields)


def events_in(page: Any) -> list[str]:
    body = page.content.decode().partition("<tbody>")[2].partition("</tbody>")[0]
    return re.findall(r"target-\d+", body)


def test_page_says_who_did_what_to_what_from_where(cast: SimpleNamespace) -> None:
    event(
        cast.organization, cast.admin, "member.role_changed", target="grace@example.test", address="192.0.2.9",
        detail={"from": "member", "to": "admin"},
    )  # fmt: skip
    event(cast.organization, None, "user.sign_in_failed", target="mallory@example.test")
    event(cast.organization, cast.owner, "credits.grant", detail={"amount_nano": "1250000000", "reason": "welcome"})
    event(cast.organization, cast.owner, "starship.launched", target="enterprise")

    page = signed_in(cast.owner).get(URL).content.decode()

    for words in (
        cast.admin.email, "Changed a member&#x27;s role", "grace@example.test", "from member to admin", "192.0.2.9",
        "Failed to sign in", "nobody", "Added credits", "$1.25, welcome", "Starship: launched",
    ):  # fmt: skip
        assert words in page


def test_actions_of_every_app_have_words(cast: SimpleNamespace) -> None:
    for action in ("credential.removed", "credits.adjustment", "redeem_code.created", "logs.exported"):
        assert ":" not in history.words_of(action)
    assert all(words[0].isupper() for words in audit.ACTIONS.values())


def test_members_are_not_shown_the_log(cast: SimpleNamespace) -> None:
    client = signed_in(cast.member)

    assert [client.get(path).status_code for path in (URL, f"{URL}export/")] == [403, 403]
    assert "Audit log" not in client.get("/platform/members/").content.decode().partition("<main")[0]
    assert "Audit log" in signed_in(cast.admin).get("/platform/members/").content.decode().partition("<main")[0]
    assert not AuditEvent.objects.filter(organization=cast.organization, action="audit_log.exported").exists()


def test_events_of_others_are_not_here(cast: SimpleNamespace) -> None:
    foreign = event(cast.other_organization, cast.outsider, target="target-1")
    event(None, None, "user.sign_in_failed", target="target-2")

    client = signed_in(cast.owner)
    for query in ("", f"?actor={cast.outsider.email}", f"?before={history._cursor(foreign)}"):
        assert events_in(client.get(URL + query)) == []
    assert "target-" not in client.get(f"{URL}export/").content.decode()


@pytest.mark.parametrize(
    ("query", "targets"),
    [
        ("actor=OWNER-", {"target-1", "target-3"}),
        ("actor=Admin", {"target-2"}),
        ("action=api_key.created", {"target-1", "target-2"}),
        ("action=api_key", {"target-1", "target-2", "target-3"}),
        ("action=credential", {"target-4"}),
        ("since=2026-03-05&until=2026-03-05", {"target-2", "target-3", "target-4"}),
        ("until=2026-03-04", {"target-1"}),
        ("since=2026-03-06", set()),
        ("action=api_key&actor=admin-&since=2026-03-05", {"target-2"}),
        ("action=nonsense", {"target-1", "target-2", "target-3", "target-4"}),  # no choice: filters nothing, says so
        ("since=yesterday", {"target-1", "target-2", "target-3", "target-4"}),
    ],
)
def test_filters_narrow_the_log(cast: SimpleNamespace, query: str, targets: set[str]) -> None:
    event(cast.organization, cast.owner, target="target-1", created_at=DAY - timedelta(hours=12, microseconds=1))
    event(cast.organization, cast.admin, target="target-2", created_at=DAY - timedelta(hours=12))
    event(cast.organization, cast.owner, "api_key.revoked", target="target-3", created_at=DAY)
    event(cast.organization, None, "credential.removed", target="target-4", created_at=DAY + timedelta(hours=11.99))
    client = signed_in(cast.owner)

    assert set(events_in(client.get(f"{URL}?{query}"))) == targets
    assert set(re.findall(r"target-\d+", client.get(f"{URL}export/?{query}").content.decode())) == targets


def test_pages_hold_every_event_once_in_order_although_new_ones_arrive(cast: SimpleNamespace) -> None:
    same = datetime.now(UTC) - timedelta(hours=1)  # one moment for all: only the id tells them apart
    AuditEvent.objects.bulk_create(
        AuditEvent(organization=cast.organization, action="api_key.created", target=f"target-{n:03}", created_at=same)
        for n in range(120)
    )
    client, seen, path = signed_in(cast.owner), [], f"{URL}?action=api_key.created"
    for _ in range(3):
        page = client.get(path)
        seen += events_in(page)
        event(cast.organization, cast.owner, target="target-999")
        older = re.search(r'href="(\?[^"]*before=[^"]*)" rel="next"', page.content.decode())
        path = URL + older[1].replace("&amp;", "&") if older else ""

    assert seen == [f"target-{n:03}" for n in reversed(range(120))]
    assert path == ""


@pytest.mark.parametrize("cursor", ["x", "1-", "-1-1", "99999999999999999-1", "1-999999999999999999", "1" * 400])
def test_cursor_that_is_none_of_ours_breaks_nothing(cast: SimpleNamespace, cursor: str) -> None:
    assert signed_in(cast.owner).get(URL, {"before": cursor}).status_code == 200


def test_page_asks_as_often_for_one_event_as_for_thirty(cast: SimpleNamespace) -> None:
    client = signed_in(cast.owner)

    def queries() -> int:
        with CaptureQueriesContext(connection) as asked:
            assert client.get(URL).status_code == 200
        return len(asked)

    queries()
    few = queries()
    for number in range(30):
        event(cast.organization, (cast.owner, cast.admin, cast.member)[number % 3])
    assert queries() == few


def test_nothing_that_fits_is_not_nothing_at_all(cast: SimpleNamespace) -> None:
    client = signed_in(cast.owner)

    assert "Nothing like that happened" in client.get(f"{URL}?until=1999-01-01").content.decode()
    assert "This day is before the first one" in client.get(f"{URL}?since=2026-02-02&until=2026-01-01").content.decode()


def test_what_people_wrote_is_text(cast: SimpleNamespace) -> None:
    event(cast.organization, cast.owner, target="<script>alert(1)</script>", detail={"name": "<img src=x onerror=x>"})

    page = signed_in(cast.owner).get(f"{URL}?actor=%22%3E%3Cscript%3E").content.decode()
    everything = signed_in(cast.owner).get(URL).content.decode()

    for text in (page, everything):
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert '"><script>' not in text


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", '=HYPERLINK("http://x")']
)
def test_no_cell_of_the_export_is_a_formula(cast: SimpleNamespace, text: str) -> None:
    event(cast.organization, cast.owner, target=text, detail={"reason": text, "name": ""})

    answer = signed_in(cast.owner).get(f"{URL}export/?action=api_key.created")

    rows = list(csv.reader(io.StringIO(answer.content.decode(), newline="")))
    assert rows[0][:3] == ["time_utc", "actor", "action"]
    assert [rows[1][4], rows[1][5]] == [f"'{text}", f"'{text}"]
    assert all(not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in rows[1])


def test_export_is_an_event_itself(cast: SimpleNamespace) -> None:
    answer = signed_in(cast.admin).get(f"{URL}export/")

    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert re.fullmatch(r'attachment; filename="audit-log-[\d-]+\.csv"', answer["Content-Disposition"])
    [exported] = AuditEvent.objects.filter(organization=cast.organization, action="audit_log.exported")
    assert exported.actor == cast.admin


def test_export_goes_on_beyond_a_part(cast: SimpleNamespace) -> None:
    AuditEvent.objects.bulk_create(
        AuditEvent(organization=cast.organization, action="api_key.created", target=f"target-{n}") for n in range(25)
    )
    lines = history.lines(organization=cast.organization, filters=history.Filters(action="api_key.created"), at_once=10)
    assert len("".join(lines).splitlines()) == 26


def test_deleted_account_is_still_somebody(cast: SimpleNamespace) -> None:
    gone = event(cast.organization, cast.member, target="target-1")
    cast.member.memberships.all().delete()
    cast.member.delete()

    page = signed_in(cast.owner).get(URL).content.decode()

    assert AuditEvent.objects.get(pk=gone.pk).actor_id is not None
    assert "a deleted account" in page
