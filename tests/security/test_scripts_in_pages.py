"""What strangers write is text: a hundred and fifty payloads in every stored field, rendered in a real browser.

Each payload would call `hit()` or fetch from a foreign host if any page took it for markup. The pages run with their
Content-Security-Policy; a violation is told by the browser and fails too, so escaping is judged, not only the policy.
Every fifth payload in `make test`, all of them in `make test-long`.
"""

import json
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from django.utils import timezone

from tests.conftest import PASSWORD
from tests.stack import Tenant
from tests.stories.conftest import Visit, browser, visit  # noqa: F401  (fixtures of the stories)

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("scripts-in-pages")]

# How a payload leaves the place it is written into ...
BREAKOUTS = ("", '">', "'>", "</title>", "</textarea>", "</script>", "--><!---->", "</option></select>", "]]>")
# ... and what runs then.
VECTORS = (
    "<script>hit(1)</script>",
    "<img src=x onerror=hit(1)>",
    "<svg onload=hit(1)>",
    "<iframe srcdoc='<script>parent.hit(1)</script>'>",
    "<body onload=hit(1)>",
    "<details open ontoggle=hit(1)>x",
    "<video><source onerror=hit(1)></video>",
    "<input autofocus onfocus=hit(1)>",
    "<a href=javascript:hit(1) id=x>x</a>",
    "<object data=javascript:hit(1)>",
    "<link rel=stylesheet href=http://evil.example/x.css>",
    "<style>@import 'http://evil.example/x.css'</style>",
    "<img src=http://evil.example/x.png>",
    "<base href=http://evil.example/>",
    "<meta http-equiv=refresh content='0;url=http://evil.example/'>",
    "<form action=http://evil.example/><button>x",
)
# Places where no angle bracket is needed.
BARE = (
    '" onmouseover=hit(1) autofocus onfocus=hit(1) x="',
    "' onfocus=hit(1) autofocus tabindex=0 x='",
    "javascript:hit(1)",
    "{{constructor.constructor('hit(1)')()}}",
    "${hit(1)}",
    "{% load page %}{% icon 'house' %}",
    "\\u003cscript\\u003ehit(1)\\u003c/script\\u003e",
)
PAYLOADS = [a + b for a, b in product(BREAKOUTS, VECTORS)] + list(BARE)
INIT = "window.hits = []; window.hit = what => window.hits.push(what);"


def test_there_are_a_hundred_and_fifty_payloads() -> None:
    assert len(set(PAYLOADS)) >= 150


def write_everywhere(one: Tenant, payloads: list[str]) -> list[str]:
    """Store each payload in every field strangers can write; return the ids of the logs."""
    from accounts import invitations, keys, organizations
    from accounts.models import Role
    from billing import ledger
    from gateway import credentials
    from gateway.models import CallSettings, LoadBalanceGroup

    logs = []
    for number, text in enumerate(payloads):
        keys.issue(organization=one.organization, name=text, environment="production", created_by=one.owner)
        ledger.grant(organization=one.organization, amount_nano=10**9, reason=text, actor=one.owner)
        answer = one.chat(
            "local/fake:chunks=1",
            messages=[
                {"role": "system", "content": text},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": text}}],
                },
                {"role": "assistant", "content": text, "tool_calls": [_tool_call(text)]},
                {"role": "tool", "tool_call_id": "c1", "content": text},
            ],
            customer_identifier=f"{text}{number}",
            custom_identifier=text,
            thread_identifier=text,
            customer_params={"customer_identifier": text, "name": text, "email": "x@example.test"},
            metadata={"note": text, text: "name"},
        )
        logs += [answer.log_id, one.chat(f"local/{text}").headers.get("x-respan-log-id", "")]
    for number, text in enumerate(payloads[:20]):
        credentials.store(
            organization=one.organization,
            provider="openai",
            name=f"key {number} {text}"[:60].replace("/", "|"),
            secret=credentials.Secret(f"sk-{number}"),
            actor=one.owner,
            address=None,
        )
    # No name with markup can be added: this is what a row would hold if one could.
    CallSettings.objects.update_or_create(
        organization=one.organization, defaults={"fallback_models": [text[:200] for text in payloads]}
    )
    LoadBalanceGroup.objects.bulk_create(
        LoadBalanceGroup(
            organization=one.organization,
            group_id=f"group-{number}",
            name=text[:60],
            members=[{"model": text, "weight": 1}],
        )
        for number, text in enumerate(payloads[:20])
    )
    invitations.invite(
        organization=one.organization, role=Role.MEMBER, actor=one.owner, now=timezone.now(), email="x@example.test"
    )
    one.owner.name = payloads[0][:120]
    one.owner.save(update_fields=["name"])
    organizations.rename(organization=one.organization, name=payloads[1][:120], actor=one.owner)
    return [log_id for log_id in logs if log_id]


def _tool_call(text: str) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": text, "arguments": json.dumps({"a": text})}}


def addresses(logs: list[str]) -> list[str]:
    return [
        "/platform/",
        "/platform/logs/?range=30d",
        "/platform/dashboard/?range=30d",
        "/platform/dashboard/?range=30d&by=customer",
        "/platform/api/api-keys/",
        "/platform/api/integrations/",
        "/platform/api/fallback/",
        "/platform/api/load-balance/",
        "/platform/api/load-balance/groups/group-0/",
        "/platform/api/load-balance/groups/group-1/delete/",
        "/platform/api/credits/",
        "/platform/api/credits/statement/",
        "/platform/members/",
        "/platform/settings/",
        "/platform/settings/delete/",
        "/platform/audit-log/",
        "/platform/account/",
        *(f"/platform/logs/{log_id}/" for log_id in logs),
    ]


@pytest.mark.parametrize(
    "written", [5, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(900)])], indirect=True
)
async def test_no_payload_runs_and_nothing_is_fetched_from_elsewhere(
    visit: Visit,  # noqa: F811
    written: tuple[Tenant, list[str]],
) -> None:
    one, logs = written
    visitor = await visit()
    await visitor.page.add_init_script(INIT)
    visitor.page.on("dialog", lambda dialog: visitor.troubles.append(f"dialog: {dialog.message}"))
    await visitor.open("/accounts/login/")
    await visitor.fill(login=one.owner.email, password=PASSWORD)
    await visitor.press("Sign in")
    hits = []
    for path in addresses(logs):
        assert await visitor.open(path) == 200, path
        if await visitor.page.evaluate("window.hits.length"):
            hits.append(path)
    assert hits == []
    assert visitor.troubles == []


@pytest.fixture
def written(tenant: Callable[..., Tenant], request: pytest.FixtureRequest) -> tuple[Tenant, list[str]]:
    """A tenant whose every field holds payloads, each n-th one, and the ids of its logs."""
    one = tenant(local=True)
    logs = write_everywhere(one, PAYLOADS[:: request.param])
    one.log(logs[-1])
    return one, logs
