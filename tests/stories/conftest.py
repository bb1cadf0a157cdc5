"""A real browser for the stories: the system's Chromium, with visitors who note everything that goes wrong on a page.

Without a browser the stories are skipped; with `CI=true` they fail. Asynchronous throughout: Playwright's synchronous
interface leaves a running event loop in the thread, and every later test would meet it. `RESPAN_PICTURES=<folder>` also
takes a picture of each page, light and dark. Neighbours: `tests/stack.py` (the product the stories visit).
"""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, Response, async_playwright

from tests.stack import Stack

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Nothing but the pages under test goes over the network, in a container too.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 10_000
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
UNLABELLED = """[...document.querySelectorAll("input:not([type=hidden]), select, textarea")]
  .filter(control => !control.labels.length).map(control => control.name)"""


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """The system's Chromium."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse(f"No browser is installed: one of {', '.join(BROWSERS)}.")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        await browser.close()


@dataclass
class Visitor:
    """Somebody in front of a page; `troubles` is what the browser complained about."""

    page: Page
    base_url: str
    label: str
    troubles: list[str] = field(default_factory=list)
    pages_seen: int = 0

    def watch(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.troubles.append(f"script: {error}"))
        self.page.on("request", self._on_request)
        self.page.on("requestfailed", self._on_failure)
        self.page.on("response", self._on_response)

    def _on_console(self, message: ConsoleMessage) -> None:
        # A violation of the Content-Security-Policy is told here, as an error.
        if message.type in ("error", "warning"):
            self.troubles.append(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.base_url}/", "data:")):
            self.troubles.append(f"leaves the installation: {request.url}")

    def _on_failure(self, request: Request) -> None:
        # Aborted: the visitor went on before the page's icon had come.
        if request.failure != "net::ERR_ABORTED":
            self.troubles.append(f"failed: {request.url} {request.failure}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.troubles.append(f"{response.status}: {response.url}")

    async def open(self, path: str) -> int:
        """Go to an address; return its status."""
        answer = await self.page.goto(f"{self.base_url}{path}")
        assert answer is not None
        return answer.status

    async def fill(self, **controls: str) -> None:
        """Fill in controls by their names (in the visible form of the page)."""
        for name, value in controls.items():
            control = self.page.locator(f"main [name={name}]")
            if await control.evaluate("element => element.tagName") == "SELECT":
                await control.select_option(value)
            else:
                await control.fill(value)

    async def press(self, name: str) -> None:
        """Press a button or follow a link of the page's main part, and wait for what comes."""
        main = self.page.locator("main")
        target = main.get_by_role("button", name=name).or_(main.get_by_role("link", name=name))
        async with self.page.expect_navigation():
            await target.first.click()

    async def go(self, name: str) -> None:
        """Follow a link of the navigation."""
        async with self.page.expect_navigation():
            await self.page.get_by_role("navigation", name="Main").get_by_role("link", name=name, exact=True).click()

    async def text(self, selector: str = "main") -> str:
        return await self.page.locator(selector).inner_text()

    async def look(self, name: str) -> None:
        """Check what must be true of every page, and take its picture when pictures are wanted."""
        self.pages_seen += 1
        assert await self.page.locator("h1").count() == 1, f"{name}: not one heading"
        assert await self.page.evaluate(OVERFLOW) <= 0, f"{name}: wider than the window"
        assert await self.page.evaluate(UNLABELLED) == [], f"{name}: controls without a label"
        if folder := os.environ.get("RESPAN_PICTURES"):
            await self._take_pictures(Path(folder), name)

    async def _take_pictures(self, folder: Path, name: str) -> None:
        for scheme in ("light", "dark"):
            await self.page.emulate_media(color_scheme=scheme)
            path = folder / f"{self.label}-{self.pages_seen:02d}-{name}-{scheme}.png"
            await self.page.screenshot(path=path, full_page=True)
        await self.page.emulate_media(color_scheme="light")


Visit = Callable[..., Awaitable[Visitor]]


@pytest.fixture
async def visit(stack: Stack, browser: Browser) -> AsyncIterator[Visit]:
    """Open a browser window at the running product: `await visit(width=390, scripts=False)`."""
    visitors: list[Visitor] = []

    async def arrive(*, width: int = 1440, scripts: bool = True) -> Visitor:
        context = await browser.new_context(
            java_script_enabled=scripts, viewport={"width": width, "height": 900}, has_touch=width < 760
        )
        context.set_default_timeout(TIMEOUT_MS)
        label = f"{width}{'' if scripts else '-noscript'}"
        visitors.append(Visitor(await context.new_page(), stack.base_url, label))
        visitors[-1].watch()
        return visitors[-1]

    yield arrive
    for visitor in visitors:
        await visitor.page.context.close()
        assert visitor.troubles == []
