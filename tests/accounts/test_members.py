"""Members: who may change whom, leaving, handing over, and the owner that an organization always has."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.db import connections
from django.test import Client
from django.utils import timezone

from accounts import invitations, keys, members
from accounts.models import ApiKey, AuditEvent, Membership, Role
from tests.conftest import make_organization, make_user

URL = "/platform/members/"

pytestmark = pytest.mark.django_db


def signed_in(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def place(cast: SimpleNamespace, name: str) -> Membership:
    return Membership.objects.get(organization=cast.organization, user=getattr(cast, name))


def join(organization: Any, name: str, role: Role = Role.MEMBER) -> Any:
    user = make_user(name)
    Membership.objects.create(organization=organization, user=user, role=role)
    return user


def roles(organization: Any) -> list[str]:
    return sorted(Membership.objects.filter(organization=organization).values_list("role", flat=True))


def events(organization: Any, action: str) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(organization=organization, action=action))


# --- The page ---------------------------------------------------------------------------------------------------------


def test_page_lists_everybody_and_says_what_each_role_may_do(cast: SimpleNamespace) -> None:
    page = signed_in(cast.member).get(URL).content.decode()

    for name in ("owner", "admin", "member"):
        assert getattr(cast, name).email in page
    assert cast.outsider.email not in page
    assert "What each role may do" in page
    assert "Invite a member" not in page
    assert "Two-factor" not in page


def test_admin_sees_second_factors_and_invitations(cast: SimpleNamespace) -> None:
    Authenticator.objects.create(user=cast.member, type="totp", data={})
    Authenticator.objects.create(user=cast.owner, type="recovery_codes", data={})
    invitations.invite(
        organization=cast.organization, role=Role.MEMBER, actor=cast.owner, now=timezone.now(), email="ada@example.test"
    )

    page = signed_in(cast.admin).get(URL).content.decode()

    assert page.count("</svg>On</span>") == 1
    assert "ada@example.test" in page
    assert "Invite a member" in page


def test_names_are_text(cast: SimpleNamespace) -> None:
    for user, name in ((cast.member, "<script>alert(1)</script>"), (cast.admin, "‮" + "م" * 110)):
        user.name = name
        user.save()
    cast.organization.name = "<img src=x onerror=alert(1)>"
    cast.organization.save()
    client = signed_in(cast.owner)
    member = place(cast, "member")

    for path in ("", "leave/", "transfer/", f"{member.pk}/", f"{member.pk}/remove/"):
        page = client.get(URL + path).content.decode()
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert page.count("<h1") == 1


@pytest.mark.parametrize("wanted", ["Zuse", "zuse-", "\x00zuse"])
def test_members_are_found_by_name_or_address(cast: SimpleNamespace, wanted: str) -> None:
    join(cast.organization, "zuse")

    page = signed_in(cast.member).get(URL, {"q": wanted}).content.decode()

    assert "zuse-" in page
    assert cast.admin.email not in page
    assert "Nobody found" in signed_in(cast.member).get(URL, {"q": "nobody-is-called-this"}).content.decode()


def test_page_asks_as_often_for_one_member_as_for_thirty(
    cast: SimpleNamespace, django_assert_max_num_queries: Any
) -> None:
    from django.test.utils import CaptureQueriesContext

    client = signed_in(cast.owner)

    def queries() -> int:
        with CaptureQueriesContext(connections["default"]) as asked:
            assert client.get(URL).status_code == 200
        return len(asked)

    queries()  # the session's first note is written once
    few = queries()
    for number in range(30):
        join(cast.organization, f"person{number}")
        invitations.invite(organization=cast.organization, role=Role.MEMBER, actor=cast.owner, now=timezone.now())
    assert queries() == few


# --- Roles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "whom", "role", "status"),
    [
        ("owner", "admin", "owner", 302),
        ("owner", "member", "admin", 302),
        ("admin", "member", "admin", 302),
        ("admin", "member", "owner", 400),  # not among the choices
        ("admin", "owner", "member", 403),
        ("admin", "admin", "member", 302),  # steps down
        ("member", "member", "admin", 400),
        ("member", "admin", "member", 403),
        ("outsider", "member", "admin", 404),
    ],
)
def test_roles_are_changed_by_those_who_may(cast: SimpleNamespace, who: str, whom: str, role: str, status: int) -> None:
    member, before = place(cast, whom), roles(cast.organization)

    answer = signed_in(getattr(cast, who)).post(f"{URL}{member.pk}/", {"role": role})

    assert answer.status_code == status
    member.refresh_from_db()
    if status == 302:
        assert member.role == role
        [event] = events(cast.organization, "member.role_changed")
        assert (event.target, event.detail["to"]) == (getattr(cast, whom).email, role)
    else:
        assert roles(cast.organization) == before
        assert events(cast.organization, "member.role_changed") == []


def test_domain_refuses_what_the_form_would_not_offer(cast: SimpleNamespace) -> None:
    """A form is not a guard: an admin makes nobody an owner, nor himself, and a member nobody anything."""
    for actor, whom in ((cast.admin, "member"), (cast.admin, "admin"), (cast.member, "member")):
        with pytest.raises(members.RoleTooLow):
            members.change_role(
                organization=cast.organization, member_id=place(cast, whom).pk, role=Role.OWNER, actor=actor
            )
    assert roles(cast.organization) == ["admin", "member", "owner"]


def test_new_role_holds_at_the_next_request(cast: SimpleNamespace) -> None:
    client = signed_in(cast.admin)
    assert client.get("/platform/audit-log/").status_code == 200

    signed_in(cast.owner).post(f"{URL}{place(cast, 'admin').pk}/", {"role": "member"})

    assert client.get("/platform/audit-log/").status_code == 403


def test_same_role_again_writes_nothing(cast: SimpleNamespace) -> None:
    signed_in(cast.owner).post(f"{URL}{place(cast, 'admin').pk}/", {"role": "admin"})

    assert events(cast.organization, "member.role_changed") == []


@pytest.mark.parametrize("way", ["demote", "leave"])
def test_last_owner_stays(cast: SimpleNamespace, way: str) -> None:
    client, owner = signed_in(cast.owner), place(cast, "owner")

    if way == "demote":
        answer = client.post(f"{URL}{owner.pk}/", {"role": "member"})
    else:
        assert "You are the last owner" in client.get(f"{URL}leave/").content.decode()
        answer = client.post(f"{URL}leave/")

    assert answer.status_code == 409
    assert "An organization needs an owner" in answer.content.decode()
    owner.refresh_from_db()
    assert owner.role == Role.OWNER


def at_once(*changes: Callable[[], Any]) -> list[str]:
    """Run changes in threads that begin together; return how each ended."""
    ended: list[str] = []
    barrier = threading.Barrier(len(changes))

    def run(change: Callable[[], Any]) -> None:
        try:
            barrier.wait()
            change()
            ended.append("done")
        except (members.LastOwner, members.RoleTooLow, members.NoSuchMember) as error:
            ended.append(error.code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[change]) for change in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(ended)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["demote each other", "demote themselves", "leave", "remove each other"])
def test_two_owners_at_once_leave_one(cast: SimpleNamespace, way: str) -> None:
    for _ in range(5):
        first, second = make_user("first"), make_user("second")
        organization = make_organization("Race", owner=first)
        Membership.objects.create(organization=organization, user=second, role=Role.OWNER)
        ids = {user.pk: Membership.objects.get(organization=organization, user=user).pk for user in (first, second)}

        def change(actor: Any, other: Any, organization: Any = organization, ids: Any = ids) -> Callable[[], Any]:
            if way == "leave":
                return lambda: members.leave(organization=organization, user=actor, now=timezone.now())
            if way == "remove each other":
                return lambda: members.remove(
                    organization=organization, member_id=ids[other.pk], actor=actor, now=timezone.now()
                )
            whom = other if way == "demote each other" else actor
            return lambda: members.change_role(
                organization=organization, member_id=ids[whom.pk], role=Role.MEMBER, actor=actor
            )

        ended = at_once(change(first, second), change(second, first))

        assert ended.count("done") == 1, ended
        assert roles(organization).count("owner") == 1


# --- Going ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "whom", "status"),
    [
        ("owner", "admin", 302),
        ("owner", "member", 302),
        ("admin", "member", 302),
        ("admin", "owner", 403),
        ("member", "admin", 403),
        ("outsider", "member", 404),
    ],
)
def test_members_are_removed_by_those_who_may(cast: SimpleNamespace, who: str, whom: str, status: int) -> None:
    member = place(cast, whom)

    answer = signed_in(getattr(cast, who)).post(f"{URL}{member.pk}/remove/")

    assert answer.status_code == status
    assert Membership.objects.filter(pk=member.pk).exists() == (status != 302)
    assert len(events(cast.organization, "member.removed")) == (status == 302)


def test_removed_member_is_refused_at_the_next_click(cast: SimpleNamespace) -> None:
    client = signed_in(cast.member)
    assert client.get("/platform/logs/").status_code == 200

    signed_in(cast.owner).post(f"{URL}{place(cast, 'member').pk}/remove/")

    assert client.get("/platform/logs/").status_code == 403


def test_keys_of_a_removed_member_go_on_unless_ticked(cast: SimpleNamespace) -> None:
    def issue(user: Any, name: str) -> ApiKey:
        return keys.issue(organization=cast.organization, name=name, environment="production", created_by=user).api_key

    kept, ended, owners = issue(cast.member, "Kept"), issue(cast.member, "Ended"), issue(cast.owner, "Owner's")
    client, path = signed_in(cast.admin), f"{URL}{place(cast, 'member').pk}/remove/"
    page = client.get(path).content.decode()
    foreign = client.post(path, {"keys": [ended.public_id, owners.public_id]})

    answer = client.post(path, {"keys": [ended.public_id]}, follow=True)

    assert ("Kept" in page, "Ended" in page, "Owner&#x27;s" in page) == (True, True, False)
    assert foreign.status_code == 400  # a key of somebody else is no choice
    assert "1 API key is revoked" in answer.content.decode()
    revoked = ApiKey.objects.filter(organization=cast.organization).exclude(revoked_at=None)
    assert [key.pk for key in revoked] == [ended.pk]
    assert ApiKey.objects.get(pk=kept.pk).revoked_at is None


def test_removing_twice_says_that_nobody_is_there(cast: SimpleNamespace) -> None:
    client, path = signed_in(cast.owner), f"{URL}{place(cast, 'member').pk}/remove/"

    assert [client.post(path).status_code for _ in range(2)] == [302, 404]
    assert len(events(cast.organization, "member.removed")) == 1


def test_member_leaves_and_lands_outside(cast: SimpleNamespace) -> None:
    client = signed_in(cast.member)
    key = keys.issue(organization=cast.organization, name="Mine", environment="test", created_by=cast.member).api_key

    answer = client.post(f"{URL}leave/", {"keys": [key.public_id]}, follow=True)

    assert f"You left {cast.organization.name}" in answer.content.decode()
    assert not Membership.objects.filter(organization=cast.organization, user=cast.member).exists()
    assert ApiKey.objects.get(pk=key.pk).revoked_at is not None
    assert [event.actor for event in events(cast.organization, "member.left")] == [cast.member]


def test_own_removal_is_leaving(cast: SimpleNamespace) -> None:
    answer = signed_in(cast.admin).post(f"{URL}{place(cast, 'admin').pk}/remove/")

    assert answer["Location"] == f"{URL}leave/"
    assert Membership.objects.filter(organization=cast.organization, user=cast.admin).exists()


# --- Handing over -----------------------------------------------------------------------------------------------------


def test_owner_hands_over_by_typing_the_name(cast: SimpleNamespace) -> None:
    client, to = signed_in(cast.owner), place(cast, "member")

    wrong = client.post(f"{URL}transfer/", {"to": to.pk, "name": "acme"})
    between = roles(cast.organization)
    right = client.post(f"{URL}transfer/", {"to": to.pk, "name": " Acme "})

    assert (wrong.status_code, between) == (400, ["admin", "member", "owner"])
    assert right.status_code == 302
    assert place(cast, "member").role == Role.OWNER
    assert place(cast, "owner").role == Role.ADMIN
    [event] = events(cast.organization, "organization.transferred")
    assert event.detail == {"from": cast.owner.email, "to": cast.member.email}
    assert client.get(f"{URL}transfer/").status_code == 403  # an admin now


@pytest.mark.parametrize("to", ["", "x", "0", "99999999999999999999", "self", "foreign"])
def test_ownership_goes_to_another_member_only(cast: SimpleNamespace, to: str) -> None:
    foreign = Membership.objects.get(organization=cast.other_organization)
    chosen = {"self": str(place(cast, "owner").pk), "foreign": str(foreign.pk)}.get(to, to)

    answer = signed_in(cast.owner).post(f"{URL}transfer/", {"to": chosen, "name": "Acme"})

    assert answer.status_code == 400
    assert roles(cast.organization) == ["admin", "member", "owner"]
    foreign.refresh_from_db()
    assert foreign.role == Role.OWNER


@pytest.mark.parametrize("who", ["admin", "member"])
def test_only_owners_hand_over(cast: SimpleNamespace, who: str) -> None:
    answer = signed_in(getattr(cast, who)).post(f"{URL}transfer/", {"to": place(cast, "admin").pk, "name": "Acme"})

    assert answer.status_code == 403
    assert roles(cast.organization) == ["admin", "member", "owner"]


def test_who_is_alone_is_told_to_invite_first(cast: SimpleNamespace) -> None:
    page = signed_in(cast.outsider).get(f"{URL}transfer/").content.decode()

    assert "Invite somebody first" in page


def test_organizations_that_hang_on_one_owner_are_known(cast: SimpleNamespace) -> None:
    assert members.owned_alone(cast.owner) == [cast.organization]
    assert members.owned_alone(cast.admin) == []

    join(cast.organization, "second", Role.OWNER)

    assert members.owned_alone(cast.owner) == []


@pytest.mark.parametrize("path", ["0/", "99999999999999999999/", "99999999999999999999/remove/"])
def test_member_nobody_ever_was_is_a_404(cast: SimpleNamespace, path: str) -> None:
    assert signed_in(cast.owner).get(URL + path).status_code == 404
