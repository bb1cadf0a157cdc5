"""A newcomer's way in a real browser: sign up, key, provider key, credits, a call, its log, its cost, the balance.

The same with JavaScript off and on a phone. The calls are made with the real OpenAI SDK.
"""

import asyncio
import re
import uuid
from dataclasses import dataclass, field
from decimal import Decimal

import openai
import pytest
from playwright.async_api import Locator

from tests.stack import Stack
from tests.stories.conftest import Visit, Visitor

PASSWORD = "a long phrase to sign in with"
CREDITS = Decimal("5")

pytestmark = pytest.mark.browser


@dataclass
class Newcomer:
    """Who the story is about, and what they come to own."""

    visitor: Visitor
    stack: Stack
    email: str = field(default_factory=lambda: f"newcomer-{uuid.uuid4().hex[:12]}@example.test")
    key: str = ""


@pytest.fixture
def code(transactional_db: None) -> str:
    """A redeem code of an operator."""
    from billing import codes
    from tests.conftest import make_user

    _, text = codes.create(amount_nano=int(CREDITS * 10**9), actor=make_user("operator"))
    return text


@pytest.mark.parametrize(
    ("width", "scripts"),
    [(1440, True), (1440, False), (390, True)],
    ids=["with-javascript", "without-javascript", "on-a-phone"],
)
async def test_from_signup_to_balance(visit: Visit, stack: Stack, code: str, width: int, scripts: bool) -> None:
    one = Newcomer(await visit(width=width, scripts=scripts), stack)

    await sign_up(one)
    await see_three_steps(one, done=0)
    await create_api_key(one)
    await connect_provider(one)
    await redeem(one, code)
    await see_three_steps(one, done=2)
    await call(one, "story-llm/fake:chunks=3")
    await see_first_call(one)
    await call(one, "sandbox/priced")
    cost = await read_log(one, "sandbox/priced")
    await compare_balance(one, cost)
    await see_figures(one)
    await revoke(one)
    await sign_out_and_in(one)


async def sign_up(one: Newcomer) -> None:
    await one.visitor.open("/")
    assert "/accounts/login/" in one.visitor.page.url
    await one.visitor.look("login")
    await one.visitor.press("Sign up")
    await one.visitor.look("signup")
    await one.visitor.fill(email=one.email, password1=PASSWORD, organization="Story & Sons")
    await one.visitor.press("Sign up")
    assert one.visitor.page.url == f"{one.stack.base_url}/platform/"


async def see_three_steps(one: Newcomer, *, done: int) -> None:
    await one.visitor.go("Home")
    steps = one.visitor.page.locator("ol.home-steps > li")
    assert await steps.count() == 3
    assert await steps.get_by_text("Done", exact=True).count() == done
    assert f"{one.stack.base_url}/api/" in await one.visitor.text()
    await one.visitor.look(f"home-{done}")


async def see_first_call(one: Newcomer) -> None:
    """Check that Home notices the first call: by itself where scripts run, when it is loaded again where they don't."""
    if not one.visitor.scripts:
        return
    await one.visitor.page.get_by_text("Your first call is here.").wait_for()
    assert await one.visitor.page.locator("ol.home-steps > li").get_by_text("Done", exact=True).count() == 3
    await one.visitor.look("home-first-call")


async def create_api_key(one: Newcomer) -> None:
    visitor = one.visitor
    await visitor.go("API keys")
    await visitor.look("keys-none")
    await visitor.ask("Create key")
    await visitor.look("key-new")
    await visitor.fill(name="Story key")
    await visitor.press_in_place("Create key", until="#secret")
    one.key = await visitor.page.locator("#secret").input_value()
    assert re.fullmatch(r"rsp_live_[0-9A-Za-z]{38}", one.key)
    assert one.key in await visitor.text("#snippet-python")
    await visitor.look("key-created")
    await visitor.press_in_place("I have copied it", until="main:not(:has(dialog[open]))")
    await visitor.page.get_by_text(f"…{one.key[-4:]}").wait_for()
    assert one.key not in await visitor.page.content()
    await visitor.look("keys")


async def connect_provider(one: Newcomer) -> None:
    """Add a server of one's own (the fake provider) and test it."""
    secret = f"sk-story-{uuid.uuid4().hex}"
    visitor = one.visitor
    await visitor.go("Integrations")
    await visitor.look("integrations-none")
    await visitor.ask("Add a server of your own")
    await visitor.look("integration-add")
    await visitor.fill(name="story-llm", secret=secret, base_url=one.stack.provider.base_url)
    await visitor.press("Add key")
    assert "Not tested" in await visitor.text()
    await visitor.fill(model="fake:chunks=2")
    await visitor.press_in_place("Test story-llm", until=".key-result")
    text = await visitor.text(".key")
    assert "Works" in text
    assert "word0 word1" in text
    assert one.stack.provider.last.headers["authorization"] == f"Bearer {secret}"
    assert secret not in await visitor.page.content()
    await visitor.look("integrations")


async def redeem(one: Newcomer, code: str) -> None:
    await one.visitor.go("Credits")
    assert await one.visitor.text("#available") == "$0.00"
    await one.visitor.look("credits-none")
    await one.visitor.fill(code=code.lower())
    await one.visitor.press("Add credits")
    assert "$5.00 of credits added." in await one.visitor.text("#notices")
    assert await one.visitor.text("#available") == "$5.00"
    await one.visitor.look("credits-redeemed")


async def call(one: Newcomer, model: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{one.stack.base_url}/api/", api_key=one.key, max_retries=0) as client:
        answer = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Say hello to the newcomer"}]
        )
    assert answer.choices[0].message.content


async def read_log(one: Newcomer, model: str) -> Decimal:
    """Find the call in Logs, open it, check the arithmetic of its cost, and return that."""
    visitor = one.visitor
    await visitor.go("Logs")
    rows = visitor.page.locator(".log-table tbody tr")
    await _reload_until_shown(one, rows.filter(has_text=model), rows.filter(has_text="story-llm/"))
    await visitor.look("logs")
    row = rows.filter(has_text=model)
    assert await row.count() == 1
    assert "Say hello to the newcomer" in await row.inner_text()
    assert "Story key" in await row.inner_text()
    listed = _usd(await row.locator("td.cost").inner_text())

    await open_log(one, row)
    shown = _usd(await visitor.here.locator(".log-figures div", has_text="Cost").inner_text())
    assert "Say hello to the newcomer" in await visitor.here.inner_text()
    await visitor.choose_tab("Cost")
    total = await add_up(visitor.here.locator("table", has_text="How the cost adds up"))
    assert listed == shown == total == _usd(await visitor.text("#log-total"))
    await visitor.look("log-cost")
    await visitor.choose_tab("Metadata")
    assert "Story key" in await visitor.here.inner_text()
    return shown


async def open_log(one: Newcomer, row: Locator) -> None:
    """Open a log from its row: in a drawer where scripts run, from which its page is one press away."""
    visitor = one.visitor
    if visitor.scripts:
        await row.get_by_role("link").click()
        await visitor.page.locator("#log-drawer[open] .log").wait_for()
        await visitor.look("log-drawer")
        await visitor.press("Open as a page")
    else:
        async with visitor.page.expect_navigation():
            await row.get_by_role("link").click()
    assert "/platform/logs/log_" in visitor.page.url
    await visitor.look("log")


async def add_up(table: Locator) -> Decimal:
    """Check each line of a cost, that they come to the sum that is shown, and return it."""
    amounts = []
    for line in await table.locator("tbody tr").all():
        quantity, price, amount = [await cell.inner_text() for cell in await line.locator("td").all()]
        assert "/ 1 M" in price
        assert Decimal(quantity.replace(",", "")) * _usd(price.removesuffix("/ 1 M")) / 10**6 == _usd(amount)
        amounts.append(_usd(amount))
    assert len(amounts) == 2  # input, output
    assert sum(amounts) == _usd(await table.locator("tfoot td").last.inner_text())
    return sum(amounts, Decimal())


async def compare_balance(one: Newcomer, cost: Decimal) -> None:
    """Check that Credits shows the call's entry with exactly its cost, how it adds up, the new balance, and the log."""
    visitor = one.visitor
    await visitor.go("Credits")
    await visitor.look("credits")
    newest, granted = await visitor.page.locator("#entries tbody tr").all()
    assert cost > 0
    assert _usd(await newest.locator("td").nth(3).inner_text()) == -cost
    assert _usd(await granted.locator("td").nth(3).inner_text()) == CREDITS
    assert _usd(await newest.locator("td").nth(4).inner_text()) == CREDITS - cost
    assert _usd(await visitor.text("#available")) == _usd(await visitor.text("#posted")) == CREDITS - cost
    assert _usd(await visitor.text("#held")) == 0
    log_url = await newest.get_by_role("link", name="Log").get_attribute("href")

    await visitor.press_in_place(newest.locator("a.opener"), until=".entry-detail")
    assert await add_up(visitor.here.locator("table.arithmetic")) == cost
    await visitor.look("entry")
    await visitor.open(log_url or "")
    assert "sandbox/priced" in await visitor.text("h1")


async def see_figures(one: Newcomer) -> None:
    """Check that Home tells of the calls once there are some."""
    await one.visitor.go("Home")
    assert await one.visitor.page.locator("ol.home-steps").count() == 0
    latest = one.visitor.page.get_by_role("region", name="Latest calls").locator("tbody tr")
    assert ["sandbox/priced" in text for text in await latest.all_inner_texts()] == [True, False]
    await one.visitor.look("home-figures")


async def revoke(one: Newcomer) -> None:
    """Revoke the key: at once for the page, within five seconds for calls."""
    visitor = one.visitor
    await visitor.go("API keys")
    await visitor.ask("Revoke Story key")
    await visitor.look("revoke")
    await visitor.fill(name="Story key")
    await visitor.press("Revoke the key")
    await visitor.page.get_by_text("Revoked and expired", exact=True).click()
    await visitor.page.locator("details.folded table").wait_for()
    assert "Revoked" in await visitor.text("details.folded table")
    await visitor.look("keys-revoked")
    with pytest.raises(openai.AuthenticationError) as refused:
        await _call_again_and_again(one)
    assert refused.value.code == "invalid_api_key"


async def sign_out_and_in(one: Newcomer) -> None:
    visitor = one.visitor
    await open_reader_menu(one)
    async with visitor.page.expect_navigation():
        await visitor.page.locator("header.rail").get_by_role("link", name="Account").click()
    await visitor.look("account")
    await open_reader_menu(one)
    async with visitor.page.expect_navigation():
        await visitor.page.locator("header.rail").get_by_role("button", name="Sign out").click()
    await visitor.open("/platform/api/credits/")
    assert "/accounts/login/?next=/platform/api/credits/" in visitor.page.url
    await visitor.sign_in(one.email, PASSWORD)
    assert visitor.page.url == f"{one.stack.base_url}/platform/api/credits/"
    assert await visitor.page.locator("#entries tbody tr").count() == 2


async def open_reader_menu(one: Newcomer) -> None:
    await one.visitor.unfold_rail()
    await one.visitor.page.locator("header.rail .foot summary").click()


async def _call_again_and_again(one: Newcomer) -> None:
    async with asyncio.timeout(5):
        while True:
            await call(one, "sandbox/echo")
            await asyncio.sleep(0.2)


async def _reload_until_shown(one: Newcomer, *wanted: Locator) -> None:
    async with asyncio.timeout(10):
        while not all([await each.count() for each in wanted]):
            await asyncio.sleep(0.2)
            await one.visitor.page.reload()


def _usd(text: str) -> Decimal:
    """Read the amount out of what stands in a cell, also beside words."""
    found = re.search(r"(-?)\$([\d,.]+)", re.sub(r"\s", "", text))
    assert found is not None, f"no amount in {text!r}"
    return Decimal(found[1] + found[2].replace(",", ""))
