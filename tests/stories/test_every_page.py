"""Every page, as the demo organization's owner sees it: accessible, light, narrow, self-contained, and in pictures.

`PAGES` names each page of the product; a page of the URLconf that is missing here fails the last test. Who may see what
is in `tests/security/test_isolation.py`. `RESPAN_PICTURES=<folder>` keeps the pictures (`make pictures` puts them under
docs/images).
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import axe_playwright_python
import pytest
from django.urls import resolve
from django.utils import timezone
from playwright.async_api import Page

from tests.gateway.asking import keep
from tests.security.test_isolation import ROUTES
from tests.stack import Stack
from tests.stories.conftest import Visit, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("every-page")]

MOST_BYTES = 100_000
# Every endpoint with its parameters and answers stands on one page.
MOST_BYTES_OF = {"api-reference": 130_000}
AXE = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js")).read_text()
# Only the contrast can differ between light and dark: the second look runs that rule alone.
# A table's rows are alike, and so are the sections of a reference: some of them are judged.
RUN_AXE = """async options => (await axe.run({exclude: ["tbody tr:nth-child(n+8)", ".docs-text > :nth-child(n+150)"]},
  options)).violations.map(
  found => `${found.id}: ${found.nodes.slice(0, 3).map(node => node.target.join(" ")).join(", ")}`)"""
LOOKS: dict[str, dict[str, object]] = {"light": {}, "dark": {"runOnly": ["color-contrast"]}}
# A test opens so many pages: enough of them run at once, none comes near the time limit.
AT_ONCE = 5
DESK, PHONE = 1440, 390

# name of the picture -> address; `{…}` are facts of the demo organization.
PAGES = {
    "home": "/platform/",
    "logs": "/platform/logs/?range=30d",
    "logs-filtered": "/platform/logs/?range=30d&status=error",
    "log": "/platform/logs/{log}/",
    "dashboard": "/platform/dashboard/?range=30d",
    "api-keys": "/platform/api/api-keys/",
    "api-key-new": "/platform/api/api-keys/new/",
    "api-key-change": "/platform/api/api-keys/{key}/change/",
    "api-key-rotate": "/platform/api/api-keys/{key}/rotate/",
    "api-key-revoke": "/platform/api/api-keys/{key}/revoke/",
    "integrations": "/platform/api/integrations/",
    "integration-add": "/platform/api/integrations/add/",
    "integration": "/platform/api/integrations/{credential}/",
    "integration-remove": "/platform/api/integrations/{credential}/remove/",
    "fallback": "/platform/api/fallback/",
    "retries": "/platform/api/retries/",
    "load-balance": "/platform/api/load-balance/",
    "load-balance-new": "/platform/api/load-balance/new/",
    "load-balance-group": "/platform/api/load-balance/groups/{group}/",
    "load-balance-delete": "/platform/api/load-balance/groups/{group}/delete/",
    "caches": "/platform/api/caches/",
    "caches-clear": "/platform/api/caches/clear/",
    "cached-answer": "/platform/api/caches/{cached}/",
    "limits": "/platform/api/limits/",
    "limit-new": "/platform/api/limits/new/?key={key}",
    "limit": "/platform/api/limits/{limit}/",
    "limit-remove": "/platform/api/limits/{limit}/delete/",
    "models": "/platform/models/?provider=groq",  # axe needs a minute for the whole catalogue
    "models-compared": "/platform/models/?provider=groq&compare=openai/gpt-4o-mini&compare=openai/gpt-4o",
    "model": "/platform/models/openai/gpt-4o-mini/",
    "credits": "/platform/api/credits/",
    "credits-entry": "/platform/api/credits/entries/{entry}/",
    "credits-statement": "/platform/api/credits/statement/",
    "redeem": "/platform/api/credits/redeem/",
    "members": "/platform/members/",
    "member": "/platform/members/{place}/",
    "member-invite": "/platform/members/invite/",
    "member-remove": "/platform/members/{place}/remove/",
    "member-leave": "/platform/members/leave/",
    "transfer": "/platform/members/transfer/",
    "invitation-revoke": "/platform/members/invitations/{invitation}/revoke/",
    "audit-log": "/platform/audit-log/",
    "settings": "/platform/settings/",
    "organization-delete": "/platform/settings/delete/",
    "account": "/platform/account/",
    "account-delete": "/platform/account/delete/",
    "account-email": "/accounts/email/",
    "password-change": "/accounts/password/change/",
    "sign-out": "/accounts/logout/",
    "two-factor": "/accounts/2fa/",
    "passkeys": "/accounts/2fa/webauthn/",
    "reauthenticate": "/accounts/reauthenticate/",
    "docs": "/docs/",
    "docs-page": "/docs/quickstart/",
    "docs-search": "/docs/search/?q=key",
}
ANONYMOUS = {
    "sign-in": "/accounts/login/",
    "sign-up": "/accounts/signup/",
    "password-reset": "/accounts/password/reset/",
    "password-reset-done": "/accounts/password/reset/done/",
    "inactive": "/accounts/inactive/",
}
# Answers without a frame of their own, or pages that only stand in a flow tested where it is.
NO_PAGES = {
    "healthz",
    "readyz",
    "platform/first-call/",
    "platform/search/",
    "docs/<path:path>.md",
    "llms.txt",
    "llms-full.txt",
    "platform/api/api-keys/spend/",
    "platform/api/api-keys/limits/",
    "platform/api/api-keys/<slug:public_id>/first-call/",
    "platform/api/credits/entries.csv",
    "platform/audit-log/export/",
    "platform/logs/new/",
    "platform/logs/export/",
    "platform/logs/by/<slug:name>/",
    "platform/logs/<str:log_id>/<slug:part>.json",
    "accounts/confirm-email/",
    "accounts/^confirm-email/(?P<key>[-:\\w]+)/$",
    "accounts/password/reset/key/done/",
    "accounts/^password/reset/key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>.+)/$",
}


@pytest.fixture(scope="module")
def demo(stack: Stack, django_db_setup: None, django_db_blocker: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """The organization `manage.py demo` makes: its owner's login and the ids the addresses need."""
    from accounts.models import ApiKey, Invitation, Membership, Organization
    from billing.models import Entry
    from gateway.models import Credential, LoadBalanceGroup
    from respan import demo as making
    from respan import ids
    from traces import reading
    from traces.query import SpanQuery

    with django_db_blocker.unblock():
        passwords = making.prepare(now=timezone.now())
        organization = Organization.objects.filter(memberships__user__email__in=passwords).order_by("-id").first()
        owner = organization.memberships.get(role="owner").user
        now = timezone.now()
        window = SpanQuery(since=now - timedelta(days=30), until=now)
        newest = reading.logs(organization_id=organization.pk, query=window, cursor=None, limit=30).logs
        log = next(each for each in newest if each.has_body)
        charge = Entry.objects.filter(wallet_id=organization.pk, kind=Entry.Kind.USAGE).order_by("-number").first()
        facts = {
            "log": ids.encode("log", log.id),
            "key": ApiKey.objects.filter(organization=organization, revoked_at=None).first().public_id,
            "credential": Credential.objects.filter(organization=organization).first().public_id,
            "limit": bounded(organization),
            "group": LoadBalanceGroup.objects.filter(organization=organization).first().group_id,
            "cached": keep(organization, prompt_text="What is the capital of France?", answer_text="Paris.").public_key,
            "entry": ids.encode("ent", charge.pk),
            "place": Membership.objects.filter(organization=organization).exclude(user=owner).first().pk,
            "invitation": Invitation.objects.filter(organization=organization, accepted_at=None).first().public_id,
        }
        yield SimpleNamespace(email=owner.email, password=passwords[owner.email], facts=facts)


def bounded(organization: Any) -> str:
    """Set two limits; return the id of the one that was half used."""
    from gateway import limit_changes
    from gateway.limit_changes import Draft, Rule
    from gateway.models import LimitCounter
    from gateway.windows import NEVER_MS

    rules = [Rule(severity="hard", value=1_000_001), Rule(severity="soft", value=800_000)]
    whole = Draft(name="The whole year", compose=["organization_id"], metric="request_count", rules=rules)
    each = Draft(name="Free plan", compose=["customer_identifier"], metric="cost", period="day", rules=rules[1:])
    limit_changes.create(organization=organization, draft=each, actor=None, address=None)
    made = limit_changes.create(organization=organization, draft=whole, actor=None, address=None)
    LimitCounter.objects.create(
        organization_id=organization.pk,
        policy_id=made.pk,
        revision=made.revision,
        subject=f'["{organization.pk}"]',
        starts_ms=0,
        ends_ms=NEVER_MS,
        used=500_000,
    )
    return made.public_id


async def sign_in(visitor: Visitor, demo: SimpleNamespace) -> None:
    await visitor.open("/accounts/login/")
    await visitor.fill(login=demo.email, password=demo.password)
    await visitor.press("Sign in")


async def violations(page: Page) -> list[str]:
    """Return what axe finds, in light and in dark."""
    found: list[str] = []
    await page.evaluate(AXE)
    for scheme, options in LOOKS.items():
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # no colour half way
        found += [f"{scheme}: {each}" for each in await page.evaluate(RUN_AXE, options)]
    await page.emulate_media(color_scheme="light")
    return found


def some(pages: dict[str, str], at_once: int = AT_ONCE) -> list[dict[str, str]]:
    """Return the pages in parts."""
    names = list(pages)
    return [{name: pages[name] for name in names[i : i + at_once]} for i in range(0, len(names), at_once)]


async def judge(visitor: Visitor, pages: dict[str, str], facts: dict[str, object], *, by_axe: bool = True) -> list[str]:
    """Open each page with an empty cache on a desk, then narrow it to a phone; return what is wrong, all at once.

    No script and no answer depends on the width. On a phone the rules of accessibility are the same: there only the
    width and the labels are judged.
    """
    wrong: list[str] = []
    session = await visitor.page.context.new_cdp_session(visitor.page)
    await session.send("Network.enable")
    await session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    for name, path in pages.items():
        sizes.clear()
        status = await visitor.open(path.format(**facts))
        await visitor.page.wait_for_load_state("load")
        if status != 200:
            wrong.append(f"{name}: answered {status}")
            continue
        if sum(sizes) > MOST_BYTES_OF.get(name, MOST_BYTES):
            wrong.append(f"{name}: {sum(sizes):,.0f} bytes")
        if by_axe:
            wrong += [f"{name}: {each}" for each in await violations(visitor.page)]
        for width in (DESK, PHONE):
            await visitor.resize(width)
            try:
                await visitor.look(name)
            except AssertionError as error:
                wrong.append(f"{width}: {error}")
        await visitor.resize(DESK)
    return wrong


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pages", some(PAGES), ids=lambda pages: next(iter(pages)))
async def test_every_page_is_accessible_light_and_fits_the_window(
    visit: Visit, demo: SimpleNamespace, pages: dict[str, str]
) -> None:
    visitor = await visit(width=DESK)
    await sign_in(visitor, demo)
    wrong = await judge(visitor, pages, demo.facts)
    assert not wrong, "\n".join(wrong)


async def test_every_page_before_the_sign_in_is_accessible_light_and_fits_the_window(visit: Visit) -> None:
    wrong = await judge(await visit(width=DESK), ANONYMOUS, {})
    assert not wrong, "\n".join(wrong)


async def test_every_page_can_be_read_without_javascript(visit: Visit, demo: SimpleNamespace) -> None:
    visitor = await visit(scripts=False)
    await sign_in(visitor, demo)
    for name, path in PAGES.items():
        assert await visitor.open(path.format(**demo.facts)) == 200, name
        assert len(await visitor.text()) > 40, f"{name} says nothing without scripts"
        # What a closed `details` holds can be opened without scripts.
        hidden = visitor.page.locator("main [role=tabpanel]:not(:visible):not(details:not([open]) *)")
        assert await hidden.count() == 0, f"{name} hides a panel"


def test_no_page_is_missing_here() -> None:
    shown = {
        resolve(path.partition("?")[0].format(**_EXAMPLES)).route for path in (*PAGES.values(), *ANONYMOUS.values())
    }
    pages = {
        route
        for route, asks in ROUTES.items()
        for ask in asks
        if ask.method == "GET" and ask.by == "session" and 200 in (ask.member, ask.outsider) and "^api" not in route
    }
    assert {route for route in pages if route not in NO_PAGES} - shown == set()


_EXAMPLES = {
    "limit": "limit_x",
    "log": "log_x",
    "key": "key_x",
    "credential": "cred_x",
    "group": "chat",
    "cached": "0" * 64,
    "entry": "ent_x",
    "place": 1,
    "invitation": "inv_x",
}
