"""The pages beside the main way, on a phone and on a desk: each has its heading, labels, and fits the window."""

import re

import pytest

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
    "/nothing/here": (404, "There is nothing here"),
}
# What a browser tells of them.
SAYS_NO = re.compile(r"40[34]: |console: Failed to load resource: the server responded with a status of 40[34] ")
INSIDE = {
    "/accounts/email/": "E-mail addresses",
    "/accounts/password/change/": "Change password",
    "/accounts/logout/": "Sign out?",
    "/platform/api/integrations/{credential}/": "Change local",
    "/platform/api/integrations/{credential}/remove/": "Remove local?",
    "/platform/logs/?status=error&model=none": "Logs",
    "/platform/logs/{log}/": "local/fake:status=429",
}


@pytest.fixture
def owner(tenant) -> tuple[Tenant, dict[str, str]]:
    """Somebody with a provider key and a failed call, and the ids of both."""
    from gateway.models import Credential

    one = tenant(local=True)
    log_id = one.chat("local/fake:status=429").log_id
    one.log(log_id)
    return one, {"credential": Credential.objects.get(organization=one.organization).public_id, "log": log_id}


@pytest.mark.parametrize("width", [390, 1440])
async def test_other_pages(visit: Visit, owner: tuple[Tenant, dict[str, str]], width: int) -> None:
    one, facts = owner
    visitor = await visit(width=width)
    for path, wanted in OUTSIDE.items():
        assert (await visitor.open(path), await visitor.text("h1")) == wanted
        await visitor.look(_name(wanted[1]))
    visitor.troubles[:] = [each for each in visitor.troubles if not SAYS_NO.match(each)]

    await visitor.open("/accounts/login/")
    await visitor.fill(login=one.owner.email, password=PASSWORD)
    await visitor.press("Sign in")
    for path, heading in INSIDE.items():
        assert await visitor.open(path.format(**facts)) == 200
        assert (await visitor.text("h1")).endswith(heading)
        await visitor.look(_name(heading))


def _name(heading: str) -> str:
    return re.sub(r"\W+", "-", heading.lower())
