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
import pytest_asyncio
from playwright.async_api import Browser, CDPSession, ConsoleMessage, Locator, Page, Request, Response, async_playwright

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
TIMEOUT_MS = 15_000
HEIGHT = 900
# What htmx says when a search takes the place of the one before it (`hx-sync="this:replace"`). Of a request that fails
# it says `htmx:sendError` or `htmx:responseError` besides.
_REPLACED = ("htmx:sendAbort", "htmx:afterRequest")
# Where the visitor is: in the dialog that is open, else in the main part of the page.
HERE = "main:not(:has(dialog[open])), main dialog[open]"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
UNLABELLED = """[...document.querySelectorAll("input:not([type=hidden]), select, textarea")]
  .filter(control => !control.labels.length && !control.ariaLabel).map(control => control.name)"""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The system's Chromium, started once a run; what its visitors keep (cookies, cache, storage) is theirs alone."""
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
    scripts: bool = True
    troubles: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    pages_seen: int = 0
    fingers: CDPSession | None = None

    def watch(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.troubles.append(f"script: {error}"))
        self.page.on("request", self._on_request)
        self.page.on("requestfailed", self._on_failure)
        self.page.on("response", self._on_response)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.text.startswith(_REPLACED):
            return
        # A violation of the Content-Security-Policy is told here, as an error.
        if message.type in ("error", "warning") and not self._is_expected(message.location["url"]):
            self.troubles.append(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.base_url}/", "data:")):
            self.troubles.append(f"leaves the installation: {request.url}")

    def _on_failure(self, request: Request) -> None:
        # Aborted: the visitor went on before the page's icon had come.
        if request.failure != "net::ERR_ABORTED":
            self.troubles.append(f"failed: {request.url} {request.failure}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400 and not self._is_expected(response.url):
            self.troubles.append(f"{response.status}: {response.url}")

    def _is_expected(self, url: str) -> bool:
        return url.partition("?")[0] in self.refused

    def may_be_refused(self, *paths: str) -> None:
        """Take a refusal of these addresses for no trouble."""
        self.refused |= {f"{self.base_url}{path.partition('?')[0]}" for path in paths}

    async def open(self, path: str) -> int:
        """Go to an address; return its status."""
        answer = await self.page.goto(path if path.startswith(self.base_url) else f"{self.base_url}{path}")
        assert answer is not None
        return answer.status

    async def is_refused(self, path: str) -> tuple[int, str]:
        """Go to an address that says no; return its status and its heading."""
        self.may_be_refused(path)
        return await self.open(path), await self.text("h1")

    async def sign_in(self, email: str, password: str) -> None:
        """Sign in by the page, which leads to where the visitor wanted to go."""
        if "/accounts/login/" not in self.page.url:
            await self.open("/accounts/login/")
        await self.fill(login=email, password=password)
        await self.press("Sign in")

    async def fill(self, **controls: str) -> None:
        """Fill in controls by their names, in the open dialog if there is one."""
        for name, value in controls.items():
            control = self.here.locator(f"[name={name}]")
            if await control.evaluate("element => element.tagName") == "SELECT":
                await control.select_option(value)
            else:
                await control.fill(value)

    @property
    def here(self) -> Locator:
        """The dialog that is open, else the main part of the page."""
        return self.page.locator(HERE)

    def target(self, name: str) -> Locator:
        """Return the button or the link of that name where the visitor is."""
        return self.here.get_by_role("button", name=name).or_(self.here.get_by_role("link", name=name)).first

    async def press(self, what: str | Locator) -> None:
        """Press a button or follow a link, and wait for the page that comes."""
        async with self.page.expect_navigation():
            await (self.target(what) if isinstance(what, str) else what).click()

    async def ask(self, name: str) -> None:
        """Press what opens a dialog with a form where scripts run, and a page with it where they don't."""
        if not self.scripts:
            return await self.press(name)
        await self.target(name).click()
        await self.page.locator("main dialog[open] form").wait_for()
        return None

    async def press_in_place(self, what: str | Locator, *, until: str) -> None:
        """Press what changes a part of the page where scripts run, and loads a page where they don't."""
        if not self.scripts:
            return await self.press(what)
        await (self.target(what) if isinstance(what, str) else what).click()
        await self.page.locator(until).wait_for()
        return None

    async def resize(self, width: int) -> None:
        """Go on in a window of another width, by finger where it is a phone's."""
        if self.fingers is None:  # kept: what a session emulates ends with it
            self.fingers = await self.page.context.new_cdp_session(self.page)
        await self.fingers.send("Emulation.setTouchEmulationEnabled", {"enabled": is_phone(width)})
        await self.page.set_viewport_size({"width": width, "height": HEIGHT})
        self.label = _label(width, self.scripts)
        assert await self.page.evaluate("innerWidth") == width

    async def choose_tab(self, name: str) -> None:
        """Show a part of the page; without scripts all parts are shown."""
        if self.scripts:
            await self.here.get_by_role("tab", name=name, exact=True).click()

    async def unfold_rail(self) -> None:
        """Open the menu where the window is too narrow for the rail."""
        menu = self.page.get_by_role("button", name="Menu", exact=True)
        if await menu.is_visible() and not await self.page.locator("#rail").is_visible():
            await menu.click()

    async def go(self, name: str) -> None:
        """Follow a link of the navigation."""
        await self.unfold_rail()
        async with self.page.expect_navigation():
            await self.page.get_by_role("navigation", name="Main").get_by_role("link", name=name, exact=True).click()

    async def rail(self) -> list[str]:
        """Return what the navigation offers."""
        await self.unfold_rail()
        return [
            name.strip()
            for name in await self.page.get_by_role("navigation", name="Main").get_by_role("link").all_inner_texts()
        ]

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
            # Ended: colours that were still on their way from light to dark would be kept otherwise.
            await self.page.screenshot(path=path, full_page=True, animations="disabled")
        await self.page.emulate_media(color_scheme="light")


def is_phone(width: int) -> bool:
    return width < 760


def _label(width: int, scripts: bool) -> str:
    """Return how the pictures of such a window are called."""
    return f"{width}{'' if scripts else '-noscript'}"


Visit = Callable[..., Awaitable[Visitor]]


@pytest_asyncio.fixture(loop_scope="session")
async def visit(stack: Stack, browser: Browser) -> AsyncIterator[Visit]:
    """Open a browser window at the running product: `await visit(width=390, scripts=False)`."""
    visitors: list[Visitor] = []

    async def arrive(*, width: int = 1440, scripts: bool = True) -> Visitor:
        context = await browser.new_context(
            java_script_enabled=scripts,
            viewport={"width": width, "height": HEIGHT},
            has_touch=is_phone(width),
            reduced_motion="reduce",  # nothing is judged half way
        )
        context.set_default_timeout(TIMEOUT_MS)
        visitors.append(Visitor(await context.new_page(), stack.base_url, _label(width, scripts), scripts))
        visitors[-1].watch()
        return visitors[-1]

    yield arrive
    for visitor in visitors:
        await visitor.page.context.close()
        assert visitor.troubles == []
