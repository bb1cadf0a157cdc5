"""A visit without a mouse: skip link, sign in, palette, search, rows, drawer, list of keys, a new API key.

At each step it is visible where the focus is; dialogs hold it while they are open and give it back afterwards.
Neighbours: `respan/assets/keyboard.js`, `palette.js`, `dialogs.js`.
"""

import re
from collections.abc import Callable

import pytest
from playwright.async_api import expect

from tests.conftest import PASSWORD
from tests.stack import Tenant
from tests.stories.conftest import Visit, Visitor

pytestmark = pytest.mark.browser

# More presses of Tab than any page here has controls before its first one of its own.
MOST_TABS = 60
# What has the focus: its name, and whether its reader sees that it has it (an outline, a ring, a mark around it).
FOCUS = """() => {
  const element = document.activeElement;
  const marked = (each) => {
    const style = getComputedStyle(each);
    return (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== "none";
  };
  const name = element.ariaLabel || element.labels?.[0]?.innerText || element.innerText || element.title || "";
  return {
    name: name.trim().split("\\n")[0],
    tag: element.tagName.toLowerCase(),
    seen: element.matches(":focus-visible") && (marked(element) || marked(element.parentElement)),
    text: element.outerHTML.slice(0, 160),
  };
}"""
# The body has the focus where Tab goes on to the browser's own controls.
IN_DIALOG = """() => document.activeElement === document.body
  || document.querySelector("dialog[open]").contains(document.activeElement)"""


@pytest.fixture
def reader(tenant: Callable[..., Tenant]) -> Tenant:
    """Somebody with three calls to walk through."""
    one = tenant(local=True)
    for number in (1, 2, 3):
        one.log(one.chat(f"local/fake:chunks={number}").log_id)
    return one


async def test_everything_can_be_done_with_the_keyboard(visit: Visit, reader: Tenant) -> None:
    visitor = await visit()
    await sign_in(visitor, reader.owner.email)
    await skip_to_the_content(visitor)
    await find_logs_by_the_palette(visitor)
    await search(visitor)
    await walk_rows(visitor)
    await read_logs_in_the_drawer(visitor)
    await see_the_keys(visitor)
    await go_by_letters(visitor)
    await create_api_key(visitor)


async def sign_in(visitor: Visitor, email: str) -> None:
    """Sign in: the first field has the focus already."""
    await visitor.open("/accounts/login/")
    assert (await focus(visitor))["name"] == "E-mail"
    await visitor.page.keyboard.type(email)
    await tab_to(visitor, "Password")
    await visitor.page.keyboard.type(PASSWORD)
    async with visitor.page.expect_navigation():
        await visitor.page.keyboard.press("Enter")
    assert visitor.page.url == f"{visitor.base_url}/platform/"


async def skip_to_the_content(visitor: Visitor) -> None:
    await visitor.page.keyboard.press("Tab")
    assert (await focus(visitor))["name"] == "Skip to the content"
    await expect(visitor.page.locator(".skip")).to_be_in_viewport()
    await visitor.page.keyboard.press("Enter")
    await expect(visitor.page.locator("main")).to_be_focused()
    await visitor.page.keyboard.press("Tab")
    assert await visitor.page.evaluate("document.querySelector('main').contains(document.activeElement)")


async def find_logs_by_the_palette(visitor: Visitor) -> None:
    before = await focus(visitor)
    palette = visitor.page.locator("dialog#palette")
    await visitor.page.keyboard.press("Control+k")
    await stay_inside(visitor)
    await visitor.page.keyboard.press("Escape")
    await expect(palette).not_to_be_visible()
    assert await focus(visitor) == before

    await visitor.page.keyboard.press("Control+k")
    await focus(visitor)
    await visitor.page.keyboard.type("logs")
    await expect(palette.get_by_role("option", selected=True)).to_have_text("Logs")
    async with visitor.page.expect_navigation():
        await visitor.page.keyboard.press("Enter")
    assert visitor.page.url == f"{visitor.base_url}/platform/logs/"


async def search(visitor: Visitor) -> None:
    await visitor.page.keyboard.press("/")
    assert (await focus(visitor))["name"] == "Text in input, output or error"
    await visitor.page.keyboard.type("Hello/jk")
    assert await visitor.page.locator("tr[aria-selected=true]").count() == 0  # letters are text here
    await visitor.page.keyboard.press("Control+a")
    await visitor.page.keyboard.type("Hello")
    async with visitor.page.expect_navigation():
        await visitor.page.keyboard.press("Enter")
    assert await visitor.page.locator("tr[data-row]").count() == 3


async def walk_rows(visitor: Visitor) -> None:
    for key, wanted in (("j", 3), ("j", 2), ("j", 1), ("j", 1), ("k", 2), ("k", 3), ("k", 3), ("j", 2)):
        await visitor.page.keyboard.press(key)
        chosen = visitor.page.locator("tr[aria-selected=true]")
        await expect(chosen).to_have_count(1)
        await expect(chosen).to_contain_text(f"local/fake:chunks={wanted}")


async def read_logs_in_the_drawer(visitor: Visitor) -> None:
    """Open the chosen row, go on to the next log inside, and come back to its row."""
    drawer = visitor.page.locator("#log-drawer")
    there = visitor.page.url
    await visitor.page.keyboard.press("Enter")
    await expect(drawer.locator("h2").first).to_contain_text("local/fake:chunks=2")
    assert "/platform/logs/log_" in visitor.page.url
    await visitor.page.keyboard.press("j")
    await expect(drawer.locator("h2").first).to_contain_text("local/fake:chunks=1")
    await expect(drawer.locator("[data-drawer-title]")).to_be_focused()
    await tab_to(visitor, "Conversation")
    await visitor.page.keyboard.press("ArrowRight")
    assert (await focus(visitor))["name"] == "Cost"
    await expect(drawer.locator("#log-cost")).to_be_visible()
    await stay_inside(visitor)
    await visitor.page.keyboard.press("Escape")
    await expect(drawer).not_to_be_visible()
    await visitor.page.wait_for_url(there)
    await expect(visitor.page.locator("tr[aria-selected=true] a[data-drawer]")).to_be_focused()
    await focus(visitor)


async def see_the_keys(visitor: Visitor) -> None:
    before = await focus(visitor)
    keys = visitor.page.locator("dialog#keys")
    await visitor.page.keyboard.press("?")
    await expect(keys).to_be_visible()
    assert "Next and previous row" in await keys.inner_text()
    await stay_inside(visitor)
    await visitor.page.keyboard.press("Escape")
    await expect(keys).not_to_be_visible()
    assert await focus(visitor) == before


async def go_by_letters(visitor: Visitor) -> None:
    for letter, path in (("c", "/platform/api/credits/"), ("a", "/platform/api/api-keys/")):
        async with visitor.page.expect_navigation():
            await visitor.page.keyboard.press("g")
            await visitor.page.keyboard.press(letter)
        assert visitor.page.url == f"{visitor.base_url}{path}"


async def create_api_key(visitor: Visitor) -> None:
    dialog = visitor.page.locator("dialog#key-dialog")
    await tab_to(visitor, "Create key")
    opener = await focus(visitor)
    await visitor.page.keyboard.press("Enter")
    await expect(dialog.locator("[name=name]")).to_be_focused()
    await stay_inside(visitor)
    await tab_to(visitor, "Name")
    await visitor.page.keyboard.type("Typed key")
    await tab_to(visitor, "Create key")
    await visitor.page.keyboard.press("Enter")
    await expect(dialog.locator("#secret")).to_be_focused()
    await focus(visitor)
    secret = await dialog.locator("#secret").input_value()
    assert re.fullmatch(r"rsp_live_[0-9A-Za-z]{38}", secret)
    await tab_to(visitor, "I have copied it")
    await visitor.page.keyboard.press("Enter")
    await expect(dialog).not_to_be_visible()
    assert await focus(visitor) == opener
    await expect(visitor.page.locator("#key-list")).to_contain_text("Typed key")
    assert secret not in await visitor.page.content()


async def focus(visitor: Visitor) -> dict[str, str]:
    """Return what has the focus; fail when its reader could not see that."""
    found = await visitor.page.evaluate(FOCUS)
    assert found["seen"], f"the focus cannot be seen: {found['text']}"
    return found


async def tab_to(visitor: Visitor, name: str) -> None:
    """Press Tab until the control of that name has the focus, looking at each one on the way."""
    for _ in range(MOST_TABS):
        await visitor.page.keyboard.press("Tab")
        if await visitor.page.evaluate("document.activeElement === document.body"):
            continue  # the browser's own controls
        if (await focus(visitor))["name"] == name:
            return
    raise AssertionError(f"Tab does not come to {name!r}")


async def stay_inside(visitor: Visitor) -> None:
    """Check that Tab goes around inside the open dialog, in both directions."""
    for key in ["Tab"] * 25 + ["Shift+Tab"] * 25:
        await visitor.page.keyboard.press(key)
        assert await visitor.page.evaluate(IN_DIALOG)
