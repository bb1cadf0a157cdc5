"""A passkey in a real browser: added, used instead of the password, used after it, removed again.

The browser's own virtual device holds it (the DevTools protocol's WebAuthn domain). Passkeys are bound to a name, so
the product is visited as `localhost`.
"""

from collections.abc import Callable

import pytest

from tests.conftest import PASSWORD
from tests.stack import Tenant
from tests.stories.conftest import Visit, Visitor

pytestmark = pytest.mark.browser

DEVICE = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


@pytest.fixture
def one(tenant: Callable[..., Tenant]) -> Tenant:
    return tenant()


async def with_device(visitor: Visitor) -> None:
    session = await visitor.page.context.new_cdp_session(visitor.page)
    await session.send("WebAuthn.enable")
    await session.send("WebAuthn.addVirtualAuthenticator", {"options": DEVICE})
    visitor.base_url = visitor.base_url.replace("127.0.0.1", "localhost")


async def sign_in(visitor: Visitor, email: str) -> None:
    await visitor.open("/accounts/login/")
    await visitor.fill(login=email, password=PASSWORD)
    await visitor.press("Sign in")


async def add_passkey(visitor: Visitor, name: str, *, alone: bool) -> None:
    await visitor.open("/accounts/2fa/webauthn/add/")
    if await visitor.page.locator("[name=password]").count():
        await visitor.fill(password=PASSWORD)
        await visitor.press("Continue")
    await visitor.look("passkey-add")
    await visitor.fill(name=name)
    await visitor.page.locator("[name=passwordless]").set_checked(alone)
    await visitor.press("Add passkey")


async def sign_out(visitor: Visitor) -> None:
    await visitor.open("/accounts/logout/")
    await visitor.press("Sign out")


@pytest.mark.parametrize("width", [390, 1440])
async def test_passkey_opens_the_account_without_the_password(visit: Visit, one: Tenant, width: int) -> None:
    visitor = await visit(width=width)
    await with_device(visitor)
    await sign_in(visitor, one.owner.email)

    await add_passkey(visitor, "Laptop <b>", alone=True)
    assert await visitor.text("h1") == "Recovery codes"
    await visitor.look("recovery-codes")
    await visitor.open("/accounts/2fa/webauthn/")
    assert "Laptop <b>" in await visitor.text("table")
    await visitor.look("passkeys")
    await visitor.open("/platform/account/")
    await visitor.look("account-with-passkey")

    await sign_out(visitor)
    await visitor.open("/accounts/login/")
    await visitor.press("Sign in with a passkey")
    assert visitor.page.url == f"{visitor.base_url}/platform/"

    await visitor.open("/accounts/2fa/webauthn/")
    await visitor.press("Remove Laptop <b>")
    if await visitor.page.locator("h1", has_text="Confirm that it is you").count():
        await visitor.fill(password=PASSWORD)
        await visitor.press("Continue")
    await visitor.look("passkey-remove")
    await visitor.press("Remove")
    assert "No passkeys yet" in await visitor.text()


async def test_passkey_may_be_only_the_second_step(visit: Visit, one: Tenant) -> None:
    visitor = await visit()
    await with_device(visitor)
    await sign_in(visitor, one.owner.email)
    await add_passkey(visitor, "Security key", alone=False)
    await sign_out(visitor)

    await sign_in(visitor, one.owner.email)
    assert await visitor.text("h1") == "One more step"
    await visitor.look("second-step")
    await visitor.press("Use a passkey")

    assert visitor.page.url == f"{visitor.base_url}/platform/"


async def test_under_an_address_of_digits_no_passkey_is_offered(visit: Visit, one: Tenant) -> None:
    visitor = await visit()
    await visitor.open("/accounts/login/")
    assert await visitor.page.get_by_role("button", name="Sign in with a passkey").count() == 0

    await sign_in(visitor, one.owner.email)
    await visitor.open("/accounts/2fa/webauthn/add/")
    await visitor.fill(password=PASSWORD)
    await visitor.press("Continue")

    assert "open this page at localhost" in await visitor.text("[role=alert]")
    assert await visitor.page.get_by_role("button", name="Add passkey").is_disabled()


@pytest.mark.parametrize("width", [390, 1440])
async def test_password_can_be_shown_and_is_hidden_again(visit: Visit, width: int) -> None:
    visitor = await visit(width=width)
    await visitor.open("/accounts/signup/")
    field = visitor.page.locator("[name=password1]")
    await field.fill("a long phrase")

    await visitor.page.get_by_role("button", name="Show password").click()
    assert await field.get_attribute("type") == "text"
    await visitor.look("signup-shown")
    await visitor.page.get_by_role("button", name="Hide password").click()
    assert await field.get_attribute("type") == "password"
