"""The pages under Routing, used by hand: a fallback list ordered without scripts and with them, a group of models."""

from collections.abc import Callable

import pytest
from playwright.async_api import expect

from tests.conftest import PASSWORD
from tests.stack import Tenant
from tests.stories.conftest import Visit, Visitor

pytestmark = pytest.mark.browser
FALLBACK = "/platform/api/fallback/"


@pytest.fixture
def one(tenant: Callable[..., Tenant]) -> Tenant:
    return tenant(retries=True)


async def sign_in(visitor: Visitor, one: Tenant) -> None:
    await visitor.open("/accounts/login/")
    await visitor.fill(login=one.owner.email, password=PASSWORD)
    await visitor.press("Sign in")


async def listed(visitor: Visitor) -> list[str]:
    return await visitor.page.locator(".ranked strong").all_inner_texts()


@pytest.mark.parametrize("scripts", [True, False])
async def test_a_fallback_list_is_made_and_ordered(visit: Visit, one: Tenant, scripts: bool) -> None:
    visitor = await visit(scripts=scripts)
    await sign_in(visitor, one)
    await visitor.open(FALLBACK)
    page, lines = visitor.page, visitor.page.locator(".ranked > li")
    for count, model in enumerate(("sandbox/echo", "sandbox/priced"), start=1):
        await page.get_by_label("Add a model").fill(model)
        await page.get_by_role("button", name="Add", exact=True).click()
        await expect(lines).to_have_count(count)
    await page.get_by_role("button", name="Move sandbox/priced up").click()
    await expect(lines.first).to_contain_text("sandbox/priced")
    if scripts:
        await lines.first.drag_to(lines.nth(1))
        await expect(lines.first).to_contain_text("sandbox/echo")
    visitor.may_be_refused(FALLBACK)
    await page.get_by_label("Add a model").fill("sandbox/ecko")
    await page.get_by_role("button", name="Add", exact=True).click()
    await expect(page.locator("main")).to_contain_text("Did you mean sandbox/echo")
    assert await page.get_by_label("Add a model").input_value() == "sandbox/ecko"
    await page.get_by_role("button", name="Remove sandbox/echo").click()
    await expect(lines).to_have_count(1)
    assert await listed(visitor) == ["sandbox/priced"]
    await page.get_by_role("button", name="Switch off").click()
    await expect(page.get_by_role("button", name="Switch on")).to_be_visible()


async def test_retries_are_foretold_while_they_are_typed(visit: Visit, one: Tenant) -> None:
    visitor = await visit()
    await sign_in(visitor, one)
    await visitor.open("/platform/api/retries/")
    steps = visitor.page.locator("#steps")
    await visitor.page.get_by_label("First pause").fill("4000")
    await expect(steps).to_contain_text("up to 4 s, the second time up to 8 s")
    await expect(steps).to_contain_text("Not saved yet")
    await visitor.page.get_by_label("Try again when").uncheck()
    await expect(steps).not_to_contain_text("pause of")
    await visitor.press("Save")
    await expect(visitor.page.locator("#notices")).to_contain_text("Retries are saved")


@pytest.mark.parametrize("scripts", [True, False])
async def test_a_group_is_made_line_by_line(visit: Visit, one: Tenant, scripts: bool) -> None:
    visitor = await visit(width=390, scripts=scripts)
    await sign_in(visitor, one)
    await visitor.open("/platform/api/load-balance/new/")
    page = visitor.page
    await page.get_by_label("Name").fill("Support chat")
    for number, model in enumerate(("sandbox/echo", "sandbox/priced", "gone/for-good"), start=1):
        if number == 3:
            await page.get_by_role("button", name="Add a line").click()
        await page.get_by_label(f"Model {number}", exact=True).fill(model)
    visitor.may_be_refused("/platform/api/load-balance/")
    await page.get_by_role("button", name="Make the group").click()
    await expect(page.locator("main")).to_contain_text("There is no model called gone/for-good")
    await page.get_by_role("button", name="Remove model 3").click()
    await expect(page.locator(".member")).to_have_count(2)
    await page.get_by_role("button", name="Make the group").click()
    await expect(page.locator("main")).to_contain_text("is there. Calls can name it")
    await expect(page.locator("#group-support-chat")).to_contain_text('"group_id": "support-chat"')
    await visitor.look("load-balance-made")
