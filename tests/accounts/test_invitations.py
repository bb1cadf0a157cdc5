"""Invitations: the link and its life, taking it up signed in, signing in or signing up, and every way it can fail."""

import re
import threading
import uuid
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.core import mail
from django.db import connections
from django.test import Client
from django.utils import timezone

from accounts import invitations, members, organizations
from accounts.models import AuditEvent, Invitation, Membership, Organization, Role, User
from tests.conftest import PASSWORD, make_user

URL = "/platform/members/"

pytestmark = pytest.mark.django_db


def signed_in(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def address() -> str:
    return f"10.{uuid.uuid4().int % 250}.{uuid.uuid4().int % 250}.{uuid.uuid4().int % 250}"


def invite(cast: SimpleNamespace, *, email: str = "", role: Role = Role.MEMBER, **options: Any) -> invitations.Offer:
    actor, now = options.pop("actor", cast.owner), options.pop("now", timezone.now())
    return invitations.invite(organization=cast.organization, role=role, actor=actor, now=now, email=email, **options)


def path_of(offer: invitations.Offer) -> str:
    return f"/invitations/{offer.token}/"


def sent_invitation(client: Client, **fields: str) -> Any:
    return client.post(f"{URL}invite/", {"role": "member", "request_id": str(uuid.uuid4()), **fields})


def link_in(page: Any) -> str:
    found = re.search(r'value="http://[^/"]+(/invitations/\w+/)"', page.content.decode())
    assert found is not None, page.content.decode()
    return found[1]


# --- Offering ---------------------------------------------------------------------------------------------------------


def test_admin_invites_by_link_and_whoever_opens_it_joins(cast: SimpleNamespace) -> None:
    link = link_in(sent_invitation(signed_in(cast.admin)))
    guest = signed_in(cast.outsider)

    shown = guest.get(link, follow=True)
    joined = guest.post("/invitations/")

    assert shown.redirect_chain == [("/invitations/", 302)]
    assert "Join the organization" in shown.content.decode()
    assert cast.organization.name in shown.content.decode()
    assert joined["Location"] == "/platform/"
    assert Membership.objects.get(organization=cast.organization, user=cast.outsider).role == Role.MEMBER
    # The organization joined is the one looked at.
    assert cast.organization.name in guest.get("/platform/settings/").content.decode()


def test_token_is_nowhere_but_in_the_answer(cast: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    link = link_in(sent_invitation(signed_in(cast.owner), email="ada@example.test"))
    token = link.split("/")[2]
    guest = Client()
    guest.get(link)
    guest.get("/invitations/")

    made = Invitation.objects.get(organization=cast.organization)
    events = str(list(AuditEvent.objects.filter(organization=cast.organization).values()))
    assert len(token) == 32  # of 62 characters: 190 bits
    assert bytes(made.digest) == invitations.digest_of(token)
    assert token not in events + caplog.text + str(dict(guest.session)) + repr(invitations.Offer(made, token))
    assert token not in signed_in(cast.owner).get(URL).content.decode()


def test_form_sent_twice_invites_once(cast: SimpleNamespace) -> None:
    client, fields = signed_in(cast.owner), {"request_id": str(uuid.uuid4())}

    first, second = sent_invitation(client, **fields), sent_invitation(client, **fields)

    assert (first.status_code, second.status_code) == (200, 409)
    assert "was made already" in second.content.decode()
    assert Invitation.objects.filter(organization=cast.organization).count() == 1


def test_same_request_id_in_two_organizations_is_two_invitations(cast: SimpleNamespace) -> None:
    request_id = uuid.uuid4()
    invite(cast, request_id=request_id)
    invitations.invite(
        organization=cast.other_organization,
        role=Role.MEMBER,
        actor=cast.outsider,
        now=timezone.now(),
        request_id=request_id,
    )
    assert Invitation.objects.filter(organization__in=[cast.organization, cast.other_organization]).count() == 2


def test_inviting_somebody_again_renews_and_the_earlier_link_is_dead(cast: SimpleNamespace) -> None:
    long_ago = timezone.now() - timedelta(days=30)
    first = invite(cast, email="ada@example.test", now=long_ago)

    again = sent_invitation(signed_in(cast.owner), email="Ada@Example.test", role="admin")

    renewed = Invitation.objects.get(organization=cast.organization)
    assert "renewed" in again.content.decode()
    assert renewed.pk == first.invitation.pk
    assert (renewed.role, renewed.expires_at > timezone.now() + timedelta(days=6)) == (Role.ADMIN, True)
    assert Client().get(path_of(first)).status_code == 404
    assert Client().get(link_in(again), follow=True).status_code == 200


def test_browser_that_saw_the_earlier_link_cannot_use_it_after_a_renewal(cast: SimpleNamespace) -> None:
    first = invite(cast)
    guest = signed_in(cast.outsider)
    guest.get(path_of(first))

    renewed = signed_in(cast.admin).post(f"{URL}invitations/{first.invitation.public_id}/renew/")

    assert renewed.status_code == 200
    assert guest.post("/invitations/").status_code == 404
    assert not Membership.objects.filter(organization=cast.organization, user=cast.outsider).exists()


def test_member_of_the_organization_is_not_invited_again(cast: SimpleNamespace) -> None:
    answer = sent_invitation(signed_in(cast.owner), email=cast.member.email.upper())

    assert answer.status_code == 409
    assert "is a member already" in answer.content.decode()
    assert not Invitation.objects.filter(organization=cast.organization).exists()


@pytest.mark.parametrize(
    ("who", "role", "status"),
    [
        ("owner", "owner", 200),
        ("owner", "admin", 200),
        ("admin", "owner", 400),  # not among the choices
        ("admin", "admin", 200),
        ("admin", "member", 200),
        ("member", "member", 403),
    ],
)
def test_admins_invite_admins_and_members_owners_everybody(
    cast: SimpleNamespace, who: str, role: str, status: int
) -> None:
    answer = sent_invitation(signed_in(getattr(cast, who)), role=role)

    assert answer.status_code == status
    assert Invitation.objects.filter(organization=cast.organization).exists() == (status == 200)


def test_admin_touches_no_invitation_of_an_owner(cast: SimpleNamespace) -> None:
    offer = invite(cast, email="chief@example.test", role=Role.OWNER)
    client, path = signed_in(cast.admin), f"{URL}invitations/{offer.invitation.public_id}/"

    answers = [
        client.post(f"{path}renew/").status_code,
        client.post(f"{path}revoke/").status_code,
        sent_invitation(client, email="chief@example.test", role="member").status_code,
    ]

    unchanged = Invitation.objects.get(pk=offer.invitation.pk)
    assert answers == [403, 403, 403]
    assert (bytes(unchanged.digest), unchanged.role, unchanged.revoked_at) == (
        bytes(offer.invitation.digest),
        Role.OWNER,
        None,
    )


@pytest.mark.parametrize("fields", [{"email": "no address"}, {"role": "king"}, {"role": ""}, {"request_id": "x"}])
def test_bad_input_invites_nobody(cast: SimpleNamespace, fields: dict[str, str]) -> None:
    answer = sent_invitation(signed_in(cast.owner), **fields)

    assert answer.status_code == 400
    assert "errorlist" in answer.content.decode()
    assert not Invitation.objects.filter(organization=cast.organization).exists()


def test_open_invitations_have_a_limit(cast: SimpleNamespace) -> None:
    now = timezone.now()
    Invitation.objects.bulk_create(
        Invitation(
            organization=cast.organization, digest=uuid.uuid4().bytes, expires_at=now + timedelta(days=1), role="member"
        )
        for _ in range(invitations.MOST_OPEN)
    )
    with pytest.raises(invitations.TooManyInvitations):
        invite(cast)
    assert Invitation.objects.filter(organization=cast.organization).count() == invitations.MOST_OPEN


def test_without_an_email_server_the_page_says_so(cast: SimpleNamespace) -> None:
    page = sent_invitation(signed_in(cast.owner), email="ada@example.test").content.decode()

    assert "sends no e-mail" in page
    assert mail.outbox == []


def test_with_an_email_server_the_link_is_sent_besides(cast: SimpleNamespace, settings: Any) -> None:
    settings.EMAIL_IS_CONFIGURED = True
    organizations.rename(organization=cast.organization, name="Acme\r\nBcc: all@example.test", actor=cast.owner)

    page = sent_invitation(signed_in(cast.owner), email="ada@example.test")

    [message] = mail.outbox
    assert message.to == ["ada@example.test"]
    assert link_in(page) in message.body
    assert "\n" not in message.subject
    assert message.recipients() == ["ada@example.test"]


def test_email_server_that_fails_costs_nothing_but_the_mail(cast: SimpleNamespace, settings: Any) -> None:
    settings.EMAIL_IS_CONFIGURED = True
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1

    page = sent_invitation(signed_in(cast.owner), email="ada@example.test")

    assert page.status_code == 200
    assert "Not sent" in page.content.decode()
    assert link_in(page)


# --- Taking up --------------------------------------------------------------------------------------------------------


def test_visitor_learns_who_invites_to_what_and_is_led_back(cast: SimpleNamespace) -> None:
    client = Client()
    page = client.get(path_of(invite(cast, role=Role.ADMIN)), follow=True).content.decode()

    assert cast.organization.name in page
    assert cast.owner.email in page
    assert "as <strong>admin</strong>" in page
    assert "/accounts/login/?next=%2Finvitations%2F" in page
    assert "/accounts/signup/?next=%2Finvitations%2F" in page
    # A visit, or a POST of somebody unknown, joins nobody.
    assert client.post("/invitations/").status_code == 200
    assert Membership.objects.filter(organization=cast.organization).count() == 3


def test_sign_up_through_an_invitation_makes_no_organization(cast: SimpleNamespace) -> None:
    client, email = Client(REMOTE_ADDR=address()), f"new-{uuid.uuid4().hex[:8]}@example.test"
    client.get(path_of(invite(cast, email=email)))
    page = client.get("/accounts/signup/?next=/invitations/").content.decode()
    organizations_before = Organization.objects.count()

    answer = client.post("/accounts/signup/", {"email": email, "password1": PASSWORD, "next": "/invitations/"})
    user = User.objects.get(email=email)
    joined = client.post("/invitations/")

    assert email in page
    assert "Leave this empty to join" in page
    assert answer["Location"] == "/invitations/"
    assert joined["Location"] == "/platform/"
    assert Organization.objects.count() == organizations_before
    assert [place.organization for place in Membership.objects.filter(user=user)] == [cast.organization]


def test_sign_up_through_an_invitation_may_make_an_own_organization_besides(cast: SimpleNamespace) -> None:
    client, email = Client(REMOTE_ADDR=address()), f"new-{uuid.uuid4().hex[:8]}@example.test"
    client.get(path_of(invite(cast)))

    fields = {"email": email, "password1": PASSWORD, "organization": "Mine", "next": "/invitations/"}
    client.post("/accounts/signup/", fields)
    client.post("/invitations/")

    places = Membership.objects.filter(user__email=email).values_list("organization__name", "role")
    assert sorted(places) == [("Acme", "member"), ("Mine", "owner")]


def test_address_is_verified_on_the_way_where_there_is_an_email_server(cast: SimpleNamespace, settings: Any) -> None:
    settings.EMAIL_IS_CONFIGURED = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
    client, email = Client(REMOTE_ADDR=address()), f"new-{uuid.uuid4().hex[:8]}@example.test"
    client.get(path_of(invite(cast, email=email)))

    client.post("/accounts/signup/", {"email": email, "password1": PASSWORD, "next": "/invitations/"})
    unverified = client.post("/invitations/").status_code
    [code] = re.findall(r"^([0-9A-Z-]{6,})$", str(mail.outbox[-1].body), re.MULTILINE)
    verified = client.post("/accounts/confirm-email/", {"code": code})

    assert unverified == 200  # not signed in yet: the page, and nobody joined
    assert verified["Location"] == "/invitations/"
    assert client.post("/invitations/")["Location"] == "/platform/"
    assert Membership.objects.get(user__email=email).organization == cast.organization


def test_plain_sign_up_after_looking_at_an_invitation_is_a_plain_sign_up(cast: SimpleNamespace) -> None:
    client, email = Client(REMOTE_ADDR=address()), f"new-{uuid.uuid4().hex[:8]}@example.test"
    client.get(path_of(invite(cast)))

    client.post("/accounts/signup/", {"email": email, "password1": PASSWORD})

    assert Membership.objects.get(user__email=email).role == Role.OWNER


def test_sign_up_with_another_address_than_the_invited_one_is_refused(cast: SimpleNamespace) -> None:
    client, email = Client(REMOTE_ADDR=address()), f"new-{uuid.uuid4().hex[:8]}@example.test"
    client.get(path_of(invite(cast, email="ada@example.test")))

    answer = client.post("/accounts/signup/", {"email": email, "password1": PASSWORD, "next": "/invitations/"})

    assert "The invitation is for ada@example.test" in answer.content.decode()
    assert not User.objects.filter(email=email).exists()


def test_closed_installation_lets_the_invited_sign_up_and_nobody_else(cast: SimpleNamespace, settings: Any) -> None:
    settings.RESPAN_SIGNUP_OPEN = False
    invited, stranger = f"in-{uuid.uuid4().hex[:8]}@example.test", f"out-{uuid.uuid4().hex[:8]}@example.test"
    client = Client(REMOTE_ADDR=address())
    client.get(path_of(invite(cast)))

    fields = {"email": invited, "password1": PASSWORD, "organization": "Mine", "next": "/invitations/"}
    client.post("/accounts/signup/", fields)
    Client(REMOTE_ADDR=address()).post("/accounts/signup/", fields | {"email": stranger})

    assert User.objects.filter(email=invited).exists()
    assert not User.objects.filter(email=stranger).exists()
    assert not Organization.objects.filter(members__email=invited).exists()


def test_signing_in_on_the_way_keeps_the_invitation(cast: SimpleNamespace) -> None:
    client = Client(REMOTE_ADDR=address())
    client.get(path_of(invite(cast)))

    fields = {"login": cast.outsider.email, "password": PASSWORD, "next": "/invitations/"}
    answer = client.post("/accounts/login/", fields)

    assert answer["Location"] == "/invitations/"
    assert "Join the organization" in client.get("/invitations/").content.decode()


def test_invitation_with_an_address_is_for_that_person_only(cast: SimpleNamespace) -> None:
    offer = invite(cast, email="ada@example.test")
    client = signed_in(cast.outsider)
    page = client.get(path_of(offer), follow=True)

    answer = client.post("/invitations/")
    elsewhere = client.post("/invitations/another-account/")

    assert (page.status_code, answer.status_code) == (403, 403)
    assert "for somebody else" in page.content.decode()
    assert cast.outsider.email in page.content.decode()
    assert elsewhere["Location"] == "/accounts/login/?next=%2Finvitations%2F"
    assert "Create an account" in client.get("/invitations/").content.decode()  # signed out, the invitation kept
    assert not Membership.objects.filter(organization=cast.organization, user=cast.outsider).exists()


def test_verified_second_address_counts_and_an_unverified_one_does_not(cast: SimpleNamespace) -> None:
    from allauth.account.models import EmailAddress

    offer = invite(cast, email="Ada@Example.test")
    second = EmailAddress.objects.create(user=cast.outsider, email="ada@example.test", verified=False)
    client = signed_in(cast.outsider)
    client.get(path_of(offer))

    unverified = client.post("/invitations/").status_code
    second.verified = True
    second.save()

    assert (unverified, client.post("/invitations/").status_code) == (403, 302)


def test_member_who_opens_an_invitation_is_told_so_and_it_is_not_used_up(cast: SimpleNamespace) -> None:
    offer = invite(cast, role=Role.ADMIN)
    client = signed_in(cast.member)

    page, answer = client.get(path_of(offer), follow=True), client.post("/invitations/")

    assert (page.status_code, answer.status_code) == (200, 200)
    assert "already" in page.content.decode()
    assert Membership.objects.get(organization=cast.organization, user=cast.member).role == Role.MEMBER
    assert Invitation.objects.get(pk=offer.invitation.pk).accepted_at is None


@pytest.mark.parametrize("end", ["expired", "revoked", "used", "organization deleted"])
def test_invitation_that_is_over_says_why_and_makes_nobody_a_member(cast: SimpleNamespace, end: str) -> None:
    now = timezone.now()
    offer = invite(cast, now=now - timedelta(days=8) if end == "expired" else now)
    guest = make_user("guest")
    if end == "revoked":
        path = f"{URL}invitations/{offer.invitation.public_id}/revoke/"
        assert signed_in(cast.owner).post(path)["Location"] == URL
    elif end == "used":
        invitations.accept(invitation=offer.invitation, user=make_user("first"), now=now, address=None)
    elif end == "organization deleted":
        organizations.delete(organization=cast.organization, actor=cast.owner, now=now)
    before = Membership.objects.count()
    client = signed_in(guest)

    page, answer = client.get(path_of(offer), follow=True), client.post("/invitations/")

    words = {"expired": "has expired", "used": "taken up already"}.get(end, "taken back")
    assert (page.status_code, answer.status_code) == (410, 410)
    assert words in page.content.decode()
    assert "Ask for a new one" in page.content.decode()
    assert Membership.objects.count() == before


@pytest.mark.parametrize("token", ["x", "A" * 32, "a" * 300])
def test_unknown_link_is_answered_with_what_to_do(token: str) -> None:
    answer = Client().get(f"/invitations/{token}/")

    assert answer.status_code == 404
    assert "There is no such invitation" in answer.content.decode()


def test_invitation_is_renewed_or_revoked_by_its_organization_only(cast: SimpleNamespace) -> None:
    offer = invite(cast)
    client, path = signed_in(cast.outsider), f"{URL}invitations/{offer.invitation.public_id}/"

    assert [client.post(f"{path}{verb}/").status_code for verb in ("renew", "revoke")] == [404, 404]
    unchanged = Invitation.objects.get(pk=offer.invitation.pk)
    assert (bytes(unchanged.digest), unchanged.revoked_at) == (bytes(offer.invitation.digest), None)


def test_revoking_asks_and_revoking_again_says_it_is_over(cast: SimpleNamespace) -> None:
    offer = invite(cast)
    client, path = signed_in(cast.admin), f"{URL}invitations/{offer.invitation.public_id}/revoke/"

    asked, done, again = client.get(path), client.post(path), client.post(path)

    assert "Keep it" in asked.content.decode()
    assert (done.status_code, again.status_code) == (302, 410)
    assert AuditEvent.objects.filter(organization=cast.organization, action="invitation.revoked").count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_people_who_use_one_link_at_once_are_one_new_member(cast: SimpleNamespace) -> None:
    offer = invite(cast)
    outcomes: list[str] = []

    def join(user: Any) -> None:
        try:
            invitations.accept(invitation=offer.invitation, user=user, now=timezone.now(), address=None)
            outcomes.append("joined")
        except invitations.InvitationGone:
            outcomes.append("gone")
        finally:
            connections.close_all()

    threads = [threading.Thread(target=join, args=[make_user("guest")]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["gone", "gone", "gone", "joined"]
    assert Membership.objects.filter(organization=cast.organization).count() == 4


@pytest.mark.django_db(transaction=True)
def test_same_address_invited_at_once_by_two_admins_is_one_invitation(cast: SimpleNamespace) -> None:
    offers: list[invitations.Offer] = []

    def send(actor: Any) -> None:
        try:
            offers.append(invite(cast, email="ada@example.test", actor=actor))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send, args=[actor]) for actor in (cast.owner, cast.admin)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(offer.is_renewed for offer in offers) == [False, True]
    assert Invitation.objects.filter(organization=cast.organization).count() == 1


def test_actor_who_was_removed_a_moment_ago_invites_nobody(cast: SimpleNamespace) -> None:
    Membership.objects.filter(organization=cast.organization, user=cast.admin).delete()

    with pytest.raises(members.RoleTooLow):
        invite(cast, actor=cast.admin)
    assert not Invitation.objects.filter(organization=cast.organization).exists()
