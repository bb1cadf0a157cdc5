"""The docs in a browser: found as somebody types, copied, in the dark, on a phone, without scripts, and accessible."""

import pytest
from playwright.async_api import expect

from respan.docs import index
from tests.stories.conftest import Visit, Visitor
from tests.stories.test_every_page import judge, some, violations

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("docs")]


def every_page() -> dict[str, str]:
    return {page.path.replace("/", "-"): page.url for page in index().pages}


async def type_search(visitor: Visitor, text: str) -> None:
    await visitor.page.keyboard.press("/")
    await visitor.page.keyboard.type(text, delay=15)


async def test_the_search_finds_pages_while_somebody_types(visit: Visit) -> None:
    visitor = await visit()
    await visitor.open("/docs/")
    await type_search(visitor, "quicks")
    found = visitor.page.locator("#docs-found")
    await expect(found.get_by_role("link").first).to_contain_text("Quickstart")
    assert await violations(visitor.page) == []

    await visitor.page.keyboard.press("ArrowDown")
    async with visitor.page.expect_navigation():
        await visitor.page.keyboard.press("Enter")
    assert await visitor.text("h1") == "Quickstart"


async def test_escape_closes_what_was_found(visit: Visit) -> None:
    visitor = await visit()
    await visitor.open("/docs/")
    await type_search(visitor, "architecture")
    await visitor.page.locator("#docs-found a").first.wait_for()
    await visitor.page.keyboard.press("ArrowDown")
    await visitor.page.keyboard.press("Escape")
    await expect(visitor.page.locator("#docs-found")).to_be_hidden()
    await expect(visitor.page.get_by_role("searchbox")).to_be_focused()


async def test_code_is_copied_whole(visit: Visit) -> None:
    visitor = await visit()
    await visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=visitor.base_url)
    await visitor.open("/docs/architecture/")
    code = visitor.page.locator(".docs-text .code").first
    await code.get_by_role("button", name="Copy").click()
    await expect(code.get_by_role("button")).to_have_text("Copied")
    copied = await visitor.page.evaluate("navigator.clipboard.readText()")
    assert copied == await code.locator("pre").text_content()
    assert copied.startswith("respan/")


async def test_the_reader_chooses_the_dark(visit: Visit) -> None:
    visitor = await visit()
    await visitor.open("/docs/architecture/")
    light = await visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
    await visitor.page.get_by_role("button", name="Dark", exact=True).click()
    assert await visitor.page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    await visitor.open("/docs/performance/")
    assert await visitor.page.locator("html").get_attribute("data-theme") == "dark"
    await expect(visitor.page.get_by_role("button", name="Dark", exact=True)).to_have_attribute("aria-pressed", "true")


async def test_the_pages_are_behind_a_button_on_a_phone(visit: Visit) -> None:
    visitor = await visit(width=390)
    await visitor.open("/docs/architecture/")
    pages = visitor.page.get_by_role("navigation", name="Docs", exact=True)
    await expect(pages).to_be_hidden()
    await visitor.page.get_by_role("button", name="Pages").click()
    await expect(pages.get_by_role("link", name="Performance")).to_be_visible()
    assert await violations(visitor.page) == []
    async with visitor.page.expect_navigation():
        await pages.get_by_role("link", name="Performance").click()
    await visitor.page.get_by_text("On this page").first.click()
    await visitor.look("performance")


async def test_the_docs_are_read_and_searched_without_javascript(visit: Visit) -> None:
    visitor = await visit(scripts=False)
    await visitor.open("/docs/")
    await visitor.page.get_by_role("searchbox").fill("quickstart")
    async with visitor.page.expect_navigation():
        await visitor.page.keyboard.press("Enter")
    await visitor.look("search")
    async with visitor.page.expect_navigation():
        await visitor.page.locator(".docs-results a").first.click()
    assert await visitor.text("h1") == "Quickstart"
    async with visitor.page.expect_navigation():
        await visitor.page.locator("a[rel=next]").click()
    assert await visitor.text("h1") != "Quickstart"


async def test_an_unknown_page_names_the_nearest(visit: Visit) -> None:
    visitor = await visit()
    assert await visitor.is_refused("/docs/archtecture/") == (404, "There is no such page")
    assert await violations(visitor.page) == []
    async with visitor.page.expect_navigation():
        await visitor.page.get_by_role("link", name="Architecture").first.click()
    assert await visitor.text("h1") == "Architecture"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pages", some(every_page(), 20), ids=lambda pages: next(iter(pages)))
async def test_every_page_of_the_docs_is_light_and_fits_the_window(visit: Visit, pages: dict[str, str]) -> None:
    wrong = await judge(await visit(), pages, {}, by_axe=False)
    assert not wrong, "\n".join(wrong)


# All are made of the same parts: `make test` judges some of them, `make test-long` the rest.
JUDGED = dict(list(every_page().items())[::7])
THE_REST = {name: path for name, path in every_page().items() if name not in JUDGED}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "pages",
    [*some(JUDGED), *(pytest.param(pages, marks=pytest.mark.long) for pages in some(THE_REST))],
    ids=lambda pages: next(iter(pages)),
)
async def test_every_page_of_the_docs_is_accessible(visit: Visit, pages: dict[str, str]) -> None:
    wrong = await judge(await visit(), pages, {})
    assert not wrong, "\n".join(wrong)
