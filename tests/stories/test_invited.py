"""A second person comes: invited by link, they join, see what their role allows, rise, and are taken out again.

And what goes wrong on the way: links that are used up or too old, a session that ended under an open page, Back after
a POST, a button pressed twice. Neighbours: `tests/accounts/test_invitations.py` (the rules), `conftest.py`.
"""

import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone
from playwright.async_api import expect

from tests.conftest import PASSWORD
from tests.stack import Tenant
from tests.stories.conftest import Visit, Visitor

pytestmark = pytest.mark.browser

AUDIT_LOG = "/platform/audit-log/"
ADD_PROVIDER = "/platform/api/integrations/add/"
REDEEM = "/platform/api/credits/redeem/"
INVITE = "/platform/members/invite/"
KEYS = "/platform/api/api-keys/"
FOR_ADMINS = (AUDIT_LOG, ADD_PROVIDER, REDEEM, INVITE)


@pytest.fixture
def company(tenant: Callable[..., Tenant]) -> Tenant:
    """An organization with a provider key and a call to look at."""
    one = tenant(local=True)
    one.log(one.chat("local/fake:chunks=2").log_id)
    return one


@pytest.fixture
def code(transactional_db: None) -> str:
    """A redeem code of an operator, worth $5."""
    from billing import codes
    from tests.conftest import make_user

    return codes.create(amount_nano=5 * 10**9, actor=make_user("operator"))[1]


@pytest.fixture
def old_link(company: Tenant) -> str:
    """The link of an invitation that ended yesterday."""
    from accounts import invitations
    from accounts.models import Role

    began_at = timezone.now() - invitations.LIFE - timedelta(days=1)
    offer = invitations.invite(organization=company.organization, role=Role.MEMBER, actor=company.owner, now=began_at)
    return f"/invitations/{offer.token}/"


async def test_invited_member_sees_what_the_role_allows(visit: Visit, company: Tenant, code: str) -> None:
    owner, second = await visit(), await visit()
    email = f"second-{uuid.uuid4().hex[:12]}@example.test"
    await owner.sign_in(company.owner.email, PASSWORD)

    link = await invite(owner)
    await join(second, link, email, company.organization.name)
    await see_as_member(second, company.owner.email)
    await make_admin(owner, email)
    await see_as_admin(second, code)
    await remove(owner, email)
    await find_no_organization(second)
    await find_link_used_up(await visit(), link)


async def invite(owner: Visitor) -> str:
    await owner.go("Members")
    await owner.look("members")
    await owner.ask("Invite a member")
    await owner.look("invite")
    await owner.press("Make the invitation")
    await owner.look("invitation-link")
    link = await owner.page.locator("#link").input_value()
    await owner.press("I have copied it")
    assert link not in await owner.page.content()
    assert "Whoever has the link" in await owner.text()
    return link


async def join(second: Visitor, link: str, email: str, organization: str) -> None:
    """Sign up through the link and join; the secret of the link stays in no address."""
    await second.open(link)
    assert second.page.url == f"{second.base_url}/invitations/"
    assert await second.text("h1") == f"Join {organization}"
    await second.look("invitation")
    await second.press("Create an account")
    await second.fill(email=email, password1=PASSWORD)
    await second.look("signup-invited")
    await second.press("Sign up")
    assert second.page.url == f"{second.base_url}/invitations/"
    await second.press("Join the organization")
    assert f"You joined {organization} as member." in await second.text("#notices")
    await second.open("/platform/account/")
    places = second.page.get_by_role("region", name="Your organizations").locator("tbody tr")
    assert await places.count() == 1
    assert organization in await places.inner_text()


async def see_as_member(second: Visitor, owner_email: str) -> None:
    """Check that a member sees everything there is to read, and nothing to press that would be refused."""
    offered = await second.rail()
    assert {"Logs", "API keys", "Credits", "Members", "Settings"} <= set(offered)
    assert not {"Audit log", "Admin console"} & set(offered)
    await second.go("Logs")
    assert "local/fake:chunks=2" in await second.text(".log-table")
    await second.go("Members")
    assert await second.target("Invite a member").count() == 0
    assert await second.page.get_by_role("link", name="Manage").count() == 1  # themselves
    await second.look("members-as-member")
    await second.go("Integrations")
    text = await second.text()
    assert "Owners and admins add, test and remove keys" in text
    assert owner_email in text
    for name in ("Add key", "Add a server of your own", "Test local", "Edit local", "Remove local"):
        assert await second.target(name).count() == 0, name
    await second.look("integrations-as-member")
    await second.go("Credits")
    assert "Owners and admins redeem codes" in await second.text()
    assert await second.page.locator("[name=code]").count() == 0
    await second.look("credits-as-member")
    for path in FOR_ADMINS:
        assert await second.is_refused(path) == (403, "You may not do this")
    await second.look("refused")


async def make_admin(owner: Visitor, email: str) -> None:
    await owner.go("Members")
    await owner.press(f"Manage {email}")
    await owner.look("member")
    await owner.fill(role="admin")
    await owner.press("Change the role")
    assert f"{email} is an admin now." in await owner.text("#notices")


async def see_as_admin(second: Visitor, code: str) -> None:
    """Check that the new role is in force without signing in again."""
    second.refused.clear()
    for path in FOR_ADMINS:
        assert await second.open(path) == 200
    assert "Audit log" in await second.rail()
    await second.go("Credits")
    await second.fill(code=code)
    await second.press("Add credits")
    assert await second.text("#available") == "$5.00"


async def remove(owner: Visitor, email: str) -> None:
    await owner.go("Members")
    await owner.press(f"Manage {email}")
    await owner.press("Remove from the organization…")
    await owner.look("member-remove")
    await owner.press("Remove the member")
    assert f"{email} is no member any more." in await owner.text("#notices")


async def find_no_organization(second: Visitor) -> None:
    """Check that the next click of somebody taken out tells them, and shows nothing of the organization."""
    second.may_be_refused("/platform/logs/")
    await second.go("Logs")
    assert await second.text("h1") == "You belong to no organization"
    assert "local/fake" not in await second.page.content()
    assert await second.page.get_by_label("Organization name").is_visible()
    await second.look("no-organization")


async def find_link_used_up(third: Visitor, link: str) -> None:
    third.may_be_refused("/invitations/")
    assert await third.open(link) == 410
    assert await third.text("h1") == "This invitation no longer works"
    assert "each works once" in await third.text()
    await third.look("invitation-used")


async def test_expired_invitation_says_so_and_who_can_renew_it(visit: Visit, company: Tenant, old_link: str) -> None:
    visitor = await visit(width=390)
    visitor.may_be_refused("/invitations/")
    assert await visitor.open(old_link) == 410
    assert await visitor.text("h1") == "This invitation no longer works"
    text = await visitor.text()
    assert "has expired" in text
    assert company.owner.email in text
    assert await visitor.target("Create an account").count() == 0
    await visitor.look("invitation-expired")


@pytest.mark.parametrize("page", ["logs", "models"])
async def test_session_that_ended_under_an_open_page_leads_the_whole_page_to_the_sign_in(
    visit: Visit, company: Tenant, page: str
) -> None:
    visitor = await visit()
    await visitor.sign_in(company.owner.email, PASSWORD)
    await visitor.go(page.title())
    await visitor.page.context.clear_cookies()
    if page == "models":
        await visitor.page.get_by_label("Search models").fill("sandbox")  # Logs asks by itself for what is new
    await visitor.page.wait_for_url("**/accounts/login/?next=**")
    assert await visitor.text("h1") == "Sign in"
    assert await visitor.page.locator("h1").count() == 1
    await visitor.sign_in(company.owner.email, PASSWORD)
    assert visitor.page.url.startswith(f"{visitor.base_url}/platform/{page}/")
    assert await visitor.text("h1") == page.title()


async def test_removed_member_is_told_by_the_whole_page_when_a_part_asks(visit: Visit, company: Tenant) -> None:
    from accounts.models import Membership

    visitor = await visit()
    await visitor.sign_in(company.owner.email, PASSWORD)
    await visitor.go("Models")
    visitor.may_be_refused("/platform/models/")
    await sync_to_async(Membership.objects.filter(user=company.owner).delete)()
    await visitor.page.get_by_label("Search models").fill("sandbox")
    await visitor.page.get_by_role("heading", name="You belong to no organization").wait_for()
    assert await visitor.page.locator("h1").count() == 1
    await visitor.look("no-organization-in-part")


async def test_right_taken_away_under_an_open_page_is_said_on_it(visit: Visit, company: Tenant, code: str) -> None:
    from accounts.models import Membership, Role

    visitor = await visit()
    await visitor.sign_in(company.owner.email, PASSWORD)
    await visitor.go("Credits")
    visitor.may_be_refused(REDEEM)
    await sync_to_async(Membership.objects.filter(user=company.owner).update)(role=Role.MEMBER)
    await visitor.fill(code=code)
    await visitor.target("Add credits").click()
    await expect(visitor.page.locator("#notices")).to_contain_text("You may not do this.")
    assert await visitor.page.locator("[name=code]").input_value() == code
    assert await visitor.page.locator("h1").count() == 1
    await visitor.look("credits-refused")
    assert await sync_to_async(company.entries)() == 0


@pytest.mark.parametrize("scripts", [True, False], ids=["with-javascript", "without-javascript"])
async def test_back_and_reload_after_a_post_do_not_repeat_it(
    visit: Visit, company: Tenant, code: str, scripts: bool
) -> None:
    visitor = await visit(scripts=scripts)
    await visitor.sign_in(company.owner.email, PASSWORD)
    await visitor.go("Credits")
    await visitor.fill(code=code)
    await visitor.press("Add credits")
    assert await visitor.text("#available") == "$5.00"
    await visitor.page.go_back()
    await visitor.go("Credits")
    assert await visitor.text("#available") == "$5.00"
    assert await sync_to_async(company.entries)() == 1

    # The answer to this POST shows a link once: it is no redirect, and loading it again sends the form again.
    visitor.may_be_refused(INVITE)
    await visitor.go("Members")
    await visitor.ask("Invite a member")
    await visitor.press("Make the invitation")
    assert await visitor.page.locator("#link").count() == 1
    await visitor.page.reload()
    assert await visitor.page.locator("#link").count() == 0
    assert "This invitation was made already" in await visitor.text("#notices")
    await visitor.page.go_back()
    assert await invitations_of(company) == 1


@pytest.mark.parametrize("scripts", [True, False], ids=["with-javascript", "without-javascript"])
async def test_button_pressed_twice_makes_one_thing(visit: Visit, company: Tenant, code: str, scripts: bool) -> None:
    visitor = await visit(scripts=scripts)
    await visitor.sign_in(company.owner.email, PASSWORD)
    before = await keys_of(company)

    await visitor.go("API keys")
    await visitor.ask("Create key")
    await visitor.fill(name="Pressed twice")
    await press_twice(visitor, "Create key")
    await expect(visitor.page.locator("main")).to_contain_text(
        re.compile("“Pressed twice” (is ready|was created already)")
    )
    assert await keys_of(company) == before + 1
    if scripts:
        await visitor.press_in_place("I have copied it", until="main:not(:has(dialog[open]))")

    visitor.may_be_refused(INVITE)
    await visitor.go("Members")
    await visitor.ask("Invite a member")
    await press_twice(visitor, "Make the invitation")
    # Without scripts the second press sends the form again: its answer is the one that is shown.
    await expect(visitor.page.locator("main")).to_contain_text(re.compile("invitation is ready|was made already"))
    assert await invitations_of(company) == 1

    await visitor.go("Credits")
    await visitor.fill(code=code)
    await press_twice(visitor, "Add credits")
    await expect(visitor.page.locator("#available")).to_have_text("$5.00")
    assert await sync_to_async(company.entries)() == 1


async def press_twice(visitor: Visitor, name: str) -> None:
    """Press at once again, before the answer to the first press can have come."""
    await visitor.target(name).dblclick(no_wait_after=True)


async def keys_of(one: Tenant) -> int:
    from accounts.models import ApiKey

    return await _count(ApiKey, one)


async def invitations_of(one: Tenant) -> int:
    from accounts.models import Invitation

    return await _count(Invitation, one)


async def _count(model: Any, one: Tenant) -> int:
    return await sync_to_async(model.objects.filter(organization=one.organization).count)()
