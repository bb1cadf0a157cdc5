"""The pages beside the main way, on a phone and on a desk: each has its heading, labels, and fits the window.

Also pages that say no, to a visitor and to somebody signed in: what they say is designed too. Neighbour:
`test_every_page.py` (all pages of an organization that is full).
"""

import re
from collections.abc import Callable

import pytest
from django.utils import timezone

from tests.conftest import PASSWORD
from tests.stack import Tenant
from tests.stories.conftest import Visit

pytestmark = pytest.mark.browser

# Pages without a session, and pages that say no: path -> (status, heading).
OUTSIDE = {
    "/accounts/password/reset/": (200, "Reset your password"),
    "/accounts/password/reset/key/1-wrong/": (200, "This link does not work"),
    "/accounts/inactive/": (200, "This account is switched off"),
    "/setup/wrong/": (403, "Set up this installation"),
    "/invitations/": (404, "There is no such invitation"),
    "/nothing/here": (404, "There is nothing here"),
}
INSIDE = {
    "/accounts/email/": "Change your e-mail address",
    "/accounts/password/change/": "Change password",
    "/accounts/logout/": "Sign out?",
    "/platform/api/integrations/{credential}/": "Change local",
    "/platform/api/integrations/{credential}/remove/": "Remove local?",
    "/platform/logs/?status=error&model=none": "Logs",
    "/platform/logs/{log}/": "local/fake:status=429",
    "/platform/logs/by/model/": "Filter by: Model",
    "/platform/dashboard/": "Dashboard",
    "/platform/models/?q=no+such+model": "Models",
    "/platform/api/api-keys/?state=gone": "API keys",
    "/platform/api/credits/statement/": "Statement, {month}",
    "/platform/members/transfer/": "Hand the ownership over",
    "/platform/members/leave/": "You are the last owner",
    "/platform/settings/": "Settings",
    "/platform/account/delete/": "Your account is still needed",
}
# What is not there, to somebody signed in.
NOT_THERE = (
    "/platform/logs/log_none/",
    "/platform/models/no/such-model/",
    "/platform/api/integrations/cred_none/",
    "/platform/api/credits/entries/ent_none/",
    "/platform/api/api-keys/key_none/change/",
    "/platform/api/api-keys/key_none/revoke/",
    "/platform/members/0/",
)


@pytest.fixture
def owner(tenant: Callable[..., Tenant]) -> tuple[Tenant, dict[str, str]]:
    """Somebody with a provider key and a failed call, and the ids of both."""
    from gateway.models import Credential

    one = tenant(local=True)
    log_id = one.chat("local/fake:status=429").log_id
    one.log(log_id)
    credential = Credential.objects.get(organization=one.organization)
    return one, {"credential": credential.public_id, "log": log_id, "month": f"{timezone.now():%B %Y}"}


@pytest.mark.parametrize("width", [390, 1440])
async def test_other_pages(visit: Visit, owner: tuple[Tenant, dict[str, str]], width: int) -> None:
    one, facts = owner
    visitor = await visit(width=width)
    for path, wanted in OUTSIDE.items():
        visitor.may_be_refused(path)
        assert (await visitor.open(path), await visitor.text("h1")) == wanted
        await visitor.look(_name(wanted[1]))

    await visitor.sign_in(one.owner.email, PASSWORD)
    for path, heading in INSIDE.items():
        assert await visitor.open(path.format(**facts)) == 200, path
        assert (await visitor.text("h1")).endswith(heading.format(**facts)), path
        await visitor.look(_name(heading))
    for path in NOT_THERE:
        status, heading = await visitor.is_refused(path)
        assert (status, bool(heading)) == (404, True), path
        await visitor.look(f"none{_name(path)}")


def _name(heading: str) -> str:
    return re.sub(r"\W+", "-", heading.lower())
