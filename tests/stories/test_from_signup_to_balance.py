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
    await call(one, "sandbox/priced")
    cost = await read_log(one, "sandbox/priced")
    await compare_balance(one, cost)
    await see_three_steps(one, done=3)
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
    steps = one.visitor.page.locator("ol.steps > li")
    assert await steps.count() == 3
    assert await steps.get_by_text("✓ done").count() == done
    assert f"{one.stack.base_url}/api/" in await one.visitor.text()
    await one.visitor.look(f"home-{done}")


async def create_api_key(one: Newcomer) -> None:
    await one.visitor.go("API keys")
    await one.visitor.look("keys-none")
    await one.visitor.fill(name="Story key")
    await one.visitor.press("Create key")
    one.key = await one.visitor.page.locator("#secret").input_value()
    assert re.fullmatch(r"rsp_live_[0-9A-Za-z]{38}", one.key)
    await one.visitor.look("key-created")
    await one.visitor.press("I have copied it")
    assert one.key not in await one.visitor.page.content()
    assert f"…{one.key[-4:]}" in await one.visitor.text()
    await one.visitor.look("keys")


async def connect_provider(one: Newcomer) -> None:
    """Add a server of one's own (the fake provider) and test it."""
    secret = f"sk-story-{uuid.uuid4().hex}"
    await one.visitor.go("Integrations")
    await one.visitor.look("integrations-none")
    await one.visitor.fill(provider="custom", name="story-llm", secret=secret, base_url=one.stack.provider.base_url)
    await one.visitor.press("Add key")
    assert "Not tested" in await one.visitor.text()
    await one.visitor.fill(model="fake:chunks=2")
    await one.visitor.press("Test story-llm")
    text = await one.visitor.text()
    assert "✓ Works" in text
    assert "word0 word1" in text
    assert one.stack.provider.last.headers["authorization"] == f"Bearer {secret}"
    assert secret not in await one.visitor.page.content()
    await one.visitor.look("integrations")


async def redeem(one: Newcomer, code: str) -> None:
    await one.visitor.go("Credits")
    assert await one.visitor.text("#available") == "$0.00"
    await one.visitor.look("credits-none")
    await one.visitor.fill(code=code.lower())
    await one.visitor.press("Add credits")
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
    await one.visitor.go("Logs")
    rows = one.visitor.page.locator("tbody tr")
    await _reload_until_shown(one, rows.filter(has_text=model), rows.filter(has_text="story-llm/"))
    await one.visitor.look("logs")
    row = rows.filter(has_text=model)
    assert await row.count() == 1
    assert "Say hello to the newcomer" in await row.inner_text()
    listed = _usd(await row.locator("td").nth(5).inner_text())

    async with one.visitor.page.expect_navigation():
        await row.get_by_role("link").click()
    await one.visitor.look("log")
    shown = _usd(await one.visitor.text("[aria-labelledby=head-cost] .figure"))
    table = one.visitor.page.locator("table", has_text="How the cost adds up")
    amounts = []
    for line in await table.locator("tbody tr").all():
        quantity, price, amount = [await cell.inner_text() for cell in await line.locator("td").all()]
        assert "/ 1 M" in price
        assert Decimal(quantity.replace(",", "")) * _usd(price.removesuffix("/ 1 M")) / 10**6 == _usd(amount)
        amounts.append(_usd(amount))
    assert len(amounts) == 2  # input, output
    assert listed == shown == sum(amounts) == _usd(await table.locator("tfoot td").inner_text())
    text = await one.visitor.text()
    assert "Say hello to the newcomer" in text
    assert "Story key" in text
    return shown


async def compare_balance(one: Newcomer, cost: Decimal) -> None:
    """Check that Credits shows the call's entry with exactly its cost, the new balance, and the way back to the log."""
    await one.visitor.go("Credits")
    await one.visitor.look("credits")
    newest, granted = await one.visitor.page.locator("#entries tbody tr").all()
    assert cost > 0
    assert _usd(await newest.locator("td").nth(3).inner_text()) == -cost
    assert _usd(await granted.locator("td").nth(3).inner_text()) == CREDITS
    assert _usd(await newest.locator("td").nth(4).inner_text()) == CREDITS - cost
    assert _usd(await one.visitor.text("#available")) == _usd(await one.visitor.text("#posted")) == CREDITS - cost
    assert _usd(await one.visitor.text("#held")) == 0
    log_url = await newest.get_by_role("link").get_attribute("href")
    await one.visitor.open(log_url or "")
    assert "sandbox/priced" in await one.visitor.text("h1")


async def revoke(one: Newcomer) -> None:
    """Revoke the key: at once for the page, within five seconds for calls."""
    await one.visitor.go("API keys")
    await one.visitor.press("Revoke Story key")
    await one.visitor.look("revoke")
    await one.visitor.press("Revoke the key")
    assert "Revoked" in await one.visitor.text("table")
    await one.visitor.look("keys-revoked")
    with pytest.raises(openai.AuthenticationError) as refused:
        await _call_again_and_again(one)
    assert refused.value.code == "invalid_api_key"


async def sign_out_and_in(one: Newcomer) -> None:
    await one.visitor.page.locator("header").get_by_role("link", name=one.email).click()
    await one.visitor.look("account")
    async with one.visitor.page.expect_navigation():
        await one.visitor.page.locator("header").get_by_role("button", name="Sign out").click()
    await one.visitor.open("/platform/api/credits/")
    assert "/accounts/login/?next=/platform/api/credits/" in one.visitor.page.url
    await one.visitor.fill(login=one.email, password=PASSWORD)
    await one.visitor.press("Sign in")
    assert one.visitor.page.url == f"{one.stack.base_url}/platform/api/credits/"
    assert await one.visitor.page.locator("#entries tbody tr").count() == 2


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
    return Decimal(re.sub(r"[$,+\s]", "", text))
