"""Current organization, roles, switching."""

import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory

from accounts.models import Membership, Organization, Role, User
from accounts.tenancy import OrganizationMiddleware, has_role

pytestmark = pytest.mark.django_db


def signed_in(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.parametrize(
    ("role", "member", "admin", "owner"),
    [(Role.MEMBER, True, False, False), (Role.ADMIN, True, True, False), (Role.OWNER, True, True, True)],
)
def test_each_role_may_do_what_the_lower_ones_may(role: Role, member: bool, admin: bool, owner: bool) -> None:
    membership = Membership(role=role)

    assert has_role(membership, Role.MEMBER) is member
    assert has_role(membership, Role.ADMIN) is admin
    assert has_role(membership, Role.OWNER) is owner
    assert has_role(None, Role.MEMBER) is False


def test_request_without_a_session_asks_nothing(django_assert_num_queries: Any) -> None:
    seen: list[Any] = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(request.membership)  # type: ignore[attr-defined]
        return HttpResponse()

    with django_assert_num_queries(0):
        OrganizationMiddleware(view)(RequestFactory().get("/"))
    assert seen == [None]


def test_reader_of_two_organizations_switches_between_them(cast: SimpleNamespace) -> None:
    Membership.objects.create(organization=cast.other_organization, user=cast.member, role=Role.ADMIN)
    client = signed_in(cast.member)
    assert cast.organization.name in client.get("/platform/api/api-keys/").content.decode()

    answer = client.post("/platform/organizations/switch/", {"organization": cast.other_organization.public_id})

    page = client.get("/platform/api/api-keys/").content.decode()
    assert answer["Location"] == "/platform/"
    assert f"acts for {cast.other_organization.name}" in page
    assert 'name="organization"' in page


def test_nobody_switches_to_a_foreign_organization(cast: SimpleNamespace) -> None:
    client = signed_in(cast.member)

    for organization in (cast.other_organization.public_id, "org_nothing", "", "\x00"):
        assert client.post("/platform/organizations/switch/", {"organization": organization}).status_code == 404
    assert f"acts for {cast.organization.name}" in client.get("/platform/api/api-keys/").content.decode()


def test_former_member_loses_the_organization_at_once(cast: SimpleNamespace) -> None:
    client = signed_in(cast.member)
    assert client.get("/platform/api/api-keys/").status_code == 200

    Membership.objects.filter(user=cast.member).delete()

    answer = client.get("/platform/api/api-keys/")
    assert answer.status_code == 403
    assert "You belong to no organization" in answer.content.decode()

    # A piece of a page cannot say that: the whole page is loaded again.
    part = client.get("/platform/api/api-keys/", headers={"HX-Request": "true"})
    assert (part.status_code, part["HX-Refresh"], part.content) == (403, "true", b"")


def test_who_has_no_organization_may_create_one_and_only_one(cast: SimpleNamespace) -> None:
    Membership.objects.filter(user=cast.member).delete()
    client = signed_in(cast.member)

    first = client.post("/platform/organizations/", {"name": "Mine"})
    second = client.post("/platform/organizations/", {"name": "Mine too"})

    assert (first.status_code, second.status_code) == (302, 403)
    assert list(Organization.objects.filter(members=cast.member).values_list("name", flat=True)) == ["Mine"]


def test_organization_without_a_name_is_refused(cast: SimpleNamespace) -> None:
    Membership.objects.filter(user=cast.member).delete()

    answer = signed_in(cast.member).post("/platform/organizations/", {"name": ""})

    assert answer.status_code == 400
    assert not Organization.objects.filter(members=cast.member).exists()


def test_closed_installation_lets_nobody_create_organizations(cast: SimpleNamespace, settings: Any) -> None:
    settings.RESPAN_SIGNUP_OPEN = False
    Membership.objects.filter(user=cast.member).delete()
    client = signed_in(cast.member)

    assert client.post("/platform/organizations/", {"name": "Mine"}).status_code == 403
    assert "Create organization" not in client.get("/platform/api/api-keys/").content.decode()


@pytest.mark.django_db(transaction=True)
async def test_pages_work_in_the_asynchronous_stack(cast: SimpleNamespace) -> None:
    client = AsyncClient()
    await client.aforce_login(cast.owner)

    answer = await client.get("/platform/api/api-keys/")

    assert answer.status_code == 200
    assert (await AsyncClient().get("/platform/api/api-keys/")).status_code == 302
    await sync_to_async(connections.close_all)()


def test_email_address_is_unique_in_any_case_and_found_in_any_case() -> None:
    email = f"Grace-{uuid.uuid4().hex[:8]}@Example.test"
    user = User.objects.create_user(email, "correct horse battery")

    assert user.email == email.lower()
    assert User.objects.get_by_natural_key(email.upper()) == user
