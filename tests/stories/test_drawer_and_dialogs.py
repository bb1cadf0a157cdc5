"""The drawer of Models and the dialog of a changed API key: history, focus, contrast, a phone, no scripts.

Whoever closes something stands where they stood before; Back and Forward lead through what was shown. Neighbours:
`respan/assets/drawer.js`, `dialogs.js`, `test_keyboard.py` (the drawer of Logs).
"""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.async_api import Locator, expect

from tests.conftest import PASSWORD
from tests.stack import Tenant
from tests.stories.conftest import OVERFLOW, Visit, Visitor
from tests.stories.test_every_page import violations

pytestmark = pytest.mark.browser

LIST = "/platform/models/?provider=groq"
KEYS = "/platform/api/api-keys/"
TITLE = "[data-drawer-title]"
EDIT = re.compile("^Edit ")


@pytest.fixture
def reader(tenant: Callable[..., Tenant]) -> Tenant:
    return tenant(local=True)


async def arrive(visit: Visit, reader: Tenant, path: str, **options: object) -> Visitor:
    visitor = await visit(**options)
    await visitor.sign_in(reader.owner.email, PASSWORD)
    await visitor.open(path)
    return visitor


def drawer_of(visitor: Visitor) -> Locator:
    return visitor.page.locator("#model-drawer")


@pytest.mark.parametrize("width", [1440, 390])
async def test_the_drawer_is_accessible_in_light_and_dark_and_fits(visit: Visit, reader: Tenant, width: int) -> None:
    visitor = await arrive(visit, reader, f"{LIST}&q=gpt-oss-120b", width=width)
    await visitor.page.locator("a[data-drawer]").first.click()
    drawer = drawer_of(visitor)
    await expect(drawer.locator("h2").first).to_be_focused()
    await expect(drawer.get_by_role("tab", name="Python")).to_have_attribute("aria-selected", "true")
    assert await visitor.page.evaluate(OVERFLOW) <= 0
    assert await drawer.evaluate("element => element.scrollWidth - element.clientWidth") <= 0
    assert await violations(visitor.page) == []


async def test_back_closes_the_drawer_forward_opens_it_and_the_focus_returns(visit: Visit, reader: Tenant) -> None:
    visitor = await arrive(visit, reader, LIST)
    page, drawer = visitor.page, drawer_of(visitor)
    # Filtering in place writes entries of htmx's own into the history.
    await page.locator("#model-q").fill("gpt-oss")
    await expect(page.locator("tr[data-row]").first).to_contain_text("gpt-oss")
    await page.get_by_label("Reasoning").or_(page.locator("label.chip", has_text="Tools")).first.click()
    await page.wait_for_url("**can=tools**")
    filtered = page.url
    await page.evaluate("window.sameDocument = true")

    link = page.locator("tr[data-row] a[data-drawer]").nth(1)
    await link.click()
    await expect(drawer.locator(TITLE)).to_be_focused()
    shown = page.url
    assert shown.startswith(f"{visitor.base_url}/platform/models/groq/")
    await page.go_back()
    await expect(drawer).not_to_be_visible()
    assert page.url == filtered
    await expect(link).to_be_focused()
    await page.go_forward()
    await expect(drawer.locator(TITLE)).to_be_focused()
    assert page.url == shown
    await page.keyboard.press("Escape")
    await expect(drawer).not_to_be_visible()
    await page.wait_for_url(filtered)
    await expect(link).to_be_focused()
    # All of it in the page as it was filtered: nothing was loaded anew, nothing scrolled away.
    assert await page.evaluate("window.sameDocument") is True
    await page.go_back()
    await page.wait_for_url(lambda url: "can=tools" not in url)
    await expect(page.locator("label.chip :checked")).to_have_count(0)


async def test_a_link_in_the_drawer_leads_on_and_back_again(visit: Visit, reader: Tenant) -> None:
    visitor = await arrive(visit, reader, f"{LIST}&q=gpt-oss-120b")
    page, drawer = visitor.page, drawer_of(visitor)
    there = page.url
    await page.locator("tr[data-row] td.num").first.click()  # the row is the link's
    await expect(drawer.locator("#model-name")).to_have_text("groq/openai/gpt-oss-120b")
    first = page.url
    await drawer.locator("a[data-drawer]").first.click()
    await expect(drawer.locator("#model-name")).not_to_have_text("groq/openai/gpt-oss-120b")
    await page.go_back()
    await expect(drawer.locator("#model-name")).to_have_text("groq/openai/gpt-oss-120b")
    assert page.url == first
    await drawer.locator("a[data-drawer]").last.click()
    await expect(drawer.locator("#model-name")).not_to_have_text("groq/openai/gpt-oss-120b")
    await drawer.get_by_role("button", name="Close").click()
    await expect(drawer).not_to_be_visible()
    await page.wait_for_url(there)  # over both entries at once
    await expect(page.locator("tr[data-row] a[data-drawer]").first).to_be_focused()


async def test_the_drawer_is_walked_with_the_keyboard(visit: Visit, reader: Tenant) -> None:
    visitor = await arrive(visit, reader, LIST)
    page, drawer = visitor.page, drawer_of(visitor)
    there = page.url
    await page.locator("main").focus()
    for key in ("j", "j", "Enter"):
        await page.keyboard.press(key)
    links = page.locator("tr[data-row] a[data-drawer]")
    second, third = [f"{await links.nth(number).get_attribute('title')}" for number in (1, 2)]
    await expect(drawer.locator("#model-name")).to_have_text(second)
    await page.keyboard.press("j")
    await expect(drawer.locator("#model-name")).to_have_text(third)
    await expect(drawer.locator(TITLE)).to_be_focused()
    for _ in range(40):
        await page.keyboard.press("Tab")
        assert await page.evaluate(
            "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
        )
    await page.keyboard.press("Escape")
    await page.wait_for_url(there)
    await expect(links.nth(2)).to_be_focused()


async def test_the_models_page_is_the_same_without_scripts(visit: Visit, reader: Tenant) -> None:
    visitor = await arrive(visit, reader, f"{LIST}&q=gpt-oss-120b", scripts=False)
    await visitor.press(visitor.page.locator("a[data-drawer]").first)
    assert visitor.page.url.endswith("/platform/models/groq/openai/gpt-oss-120b/")
    text = await visitor.text()
    # Of every language, one below the other.
    for said in (
        "Call it",
        "Who else has it",
        "import os",
        "import OpenAI",
        "curl http",
        "Not now",
        "Add a key for Groq",
    ):
        assert said in text
    await visitor.press(visitor.page.locator("a[data-drawer]").first)
    assert "/platform/models/" in visitor.page.url
    await visitor.look("model")


@pytest.mark.parametrize("width", [1440, 390])
async def test_a_key_is_changed_in_a_dialog_that_gives_the_focus_back(visit: Visit, reader: Tenant, width: int) -> None:
    visitor = await arrive(visit, reader, KEYS, width=width)
    page, dialog = visitor.page, visitor.page.locator("#key-dialog")
    opener = page.get_by_role("link", name=EDIT).first
    await opener.scroll_into_view_if_needed()
    await opener.click()
    await expect(dialog.locator("[name=name]")).to_be_focused()
    assert await violations(page) == []
    assert await page.evaluate(OVERFLOW) <= 0
    await dialog.locator("[name=expiry]").select_option("custom")
    await expect(dialog.locator("[name=expires_on]")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(dialog).not_to_be_visible()
    await expect(opener).to_be_focused()

    await opener.press("Enter")
    await dialog.locator("[name=name]").fill("")
    await page.keyboard.press("Enter")
    await expect(dialog.locator("[name=name]")).to_have_js_property("validity.valueMissing", True)
    await dialog.locator("[name=name]").fill("Changed with the keyboard")
    async with page.expect_navigation():
        await page.keyboard.press("Enter")
    assert "“Changed with the keyboard” is changed." in await visitor.text()
    await visitor.look("api-keys")


async def test_a_key_is_changed_without_scripts(visit: Visit, reader: Tenant) -> None:
    visitor = await arrive(visit, reader, KEYS, scripts=False)
    await visitor.press(visitor.page.get_by_role("link", name=EDIT).first)
    await visitor.look("key-change")
    await visitor.fill(name="No scripts", scopes="logs")
    await visitor.press("Save")
    assert "“No scripts” is changed." in await visitor.text()


@pytest.fixture
def keeper(tenant: Callable[..., Tenant]) -> Tenant:
    """Somebody whose keys have long names and all there is to say of a key."""
    from accounts import keys

    one = tenant()
    for environment, name in (("production", "Nightly import of the customer feedback archive"), ("test", "x" * 120)):
        keys.issue(
            organization=one.organization,
            name=name,
            environment=environment,
            created_by=one.owner,
            scopes=["call", "logs", "manage"],
            zero_retention=True,
            expires_at=timezone.now() + timedelta(days=30),
        )
    return one


async def test_the_actions_of_a_key_are_in_the_window_on_a_desk(visit: Visit, keeper: Tenant) -> None:
    for width in (1280, 1440):
        visitor = await arrive(visit, keeper, KEYS, width=width)
        await visitor.look("api-keys-full")
        for link in await visitor.page.locator("#key-list td .btn").all():
            box = await link.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= width - 32, f"{await link.get_attribute('aria-label')} at {width}"
        wrap = visitor.page.locator("#key-list .table-wrap").first
        assert await wrap.evaluate("element => element.scrollWidth - element.clientWidth") <= 0
