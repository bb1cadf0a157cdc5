"""Two organizations: nothing of one is reachable from the other, by any route.

Every route of the root URLconf stands in `ROUTES` with how it is exercised: with ids of organization A, by an owner of
organization B, by an anonymous visitor and by a member of A. A route that is not declared fails, and so does a
declaration that is no route. Whatever B and the anonymous get never holds a name, address, id, key or word of A, and
changes nothing of A. Pages are asked through Django's test client, API routes at the running product.
"""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client, override_settings
from django.urls import URLResolver, get_resolver
from django.utils import timezone

from tests.gateway.asking import keep
from tests.servers import wait_until
from tests.stack import Stack, call

PASSWORD = "correct horse battery"
# Of the clients of this file: limits are counted for each address.
ADDRESS = "203.0.113.77"
# Where a page that needs a session sends those who have none.
ANONYMOUS_GO_TO = re.compile(r"/(accounts/(login|signup)/.*|admin/(login/.*)?|platform/)?")
# What is compared before and after; each is read for organization A or for its users.
UNTOUCHED = [
    ("id, name, public_id, is_demo, retention_days, zero_retention, deleted_at FROM accounts_organization", "id"),
    ("id, email, role, digest, accepted_at, revoked_at, expires_at FROM accounts_invitation", "organization_id"),
    ("id, user_id, role FROM accounts_membership", "organization_id"),
    ("id, name, revoked_at, expires_at FROM accounts_apikey", "organization_id"),
    ("id, name, sealed, base_url, allowed_models, tested_at FROM gateway_credential", "organization_id"),
    ("fallback_models, fallback_enabled, num_retries, strategy FROM gateway_callsettings", "organization_id"),
    ("id, group_id, name, members FROM gateway_loadbalancegroup", "organization_id"),
    ("id, name, rules, revision FROM gateway_limitpolicy", "organization_id"),
    ("encode(key, 'hex') AS key, hit_count, expires_at FROM gateway_cachedanswer", "organization_id"),
    ("credit_limit, next_expiry_at FROM billing_wallet", "organization_id"),
    ("id, amount, kind FROM billing_entry", "kind <> 'usage' AND wallet_id"),
    ("id, redeemed_by_id FROM billing_redemption", "wallet_id"),
    ("id, state FROM billing_pendingadjustment", "wallet_id"),
    ("id, expires_at FROM billing_redeemcode", "organization_id"),
    ("id, email, password, is_staff, is_superuser, is_active FROM accounts_user", "id"),
    ('id, email, verified, "primary" FROM account_emailaddress', "user_id"),
]

pytestmark = pytest.mark.xdist_group("isolation")  # `two` is made once


@pytest.fixture(autouse=True)
def _nothing_is_counted(django_db_setup: None, django_db_blocker: Any) -> None:
    """Forget what counts against the limits of guesses: the visitors are the same in every test."""
    with django_db_blocker.unblock():
        cache.clear()


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, and the status each visitor gets; `{names}` in path and data are facts of organization A.

    None: the visitor does not make it. `session` stands for pages (owner of B, nobody, member of A), `key` for API
    routes (a key of B, none, a key of A); with `caller` the key is of a third organization that only calls, so that
    what it asks for is not in B's logs.
    """

    method: str
    path: str
    data: dict[str, Any] | None
    outsider: int
    anonymous: int
    member: int | None
    by: str = "session"


def get(path: str, *, outsider: int, anonymous: int = 302, member: int | None) -> Ask:
    return Ask("GET", path, None, outsider, anonymous, member)


def post(path: str, *, outsider: int, anonymous: int = 302, member: int | None, **data: Any) -> Ask:
    return Ask("POST", path, data, outsider, anonymous, member)


def api(path: str, *, outsider: int, anonymous: int = 401, member: int = 200, by: str = "key", **data: Any) -> Ask:
    return Ask("POST" if data else "GET", path, data or None, outsider, anonymous, member, by)


def chat(path: str, *, model: str, member: int = 200, **members: Any) -> Ask:
    return api(path, outsider=404, member=member, by="caller", model=model, messages=HELLO, **members)


HELLO = [{"role": "user", "content": "Hello"}]
PARTS = [{"role": "user", "parts": [{"text": "Hello"}]}]
# A model of A's own server.
SERVER = "{name}/fake:chunks=1"
V1 = "^(?:api/)?(?:v1/)?"
ANTHROPIC = "^(?:api/)?(?:anthropic/)?v1/"
GOOGLE = (
    "^(?:api/)?google/(?:gemini|vertexai)/v1(?:beta1?|alpha)?/"
    "(?:projects/[^/]+/locations/[^/]+/)?(?:publishers/[^/]+/)?"
)
LIST = "/api/request-logs/list/"
FROM = "start_time=2020-01-01T00:00:00Z"

# How each route is exercised.
ROUTES: dict[str, list[Ask]] = {
    "": [get("/", outsider=302, member=302)],
    "healthz": [api("/healthz", outsider=200, anonymous=200)],
    "readyz": [api("/readyz", outsider=200, anonymous=200)],
    "^api/schema/?$": [get("/api/schema/", outsider=200, anonymous=200, member=200)],
    "setup/<str:token>/": [get("/setup/{key}/", outsider=403, anonymous=403, member=403)],
    # The gateway
    "^(?:api/)?(?:v1/)?chat/completions/?$": [
        chat("/api/chat/completions", model="{name}/fake:chunks=1"),
        chat("/v1/chat/completions/", model="{name}/fake:chunks=1", stream=True),
        chat("/chat/completions", model="model-{name}"),
        # Says what is spelled like it; A's fallbacks would answer in its place.
        chat("/api/chat/completions", model="{nearly}/fake", disable_fallback=True, member=404),
    ],
    **{
        V1 + path: [api(f"/api/{path.removesuffix('/?$')}", by="caller", **{"outsider": 404, **facts})]
        for path, facts in {
            "responses/?$": {"model": SERVER, "input": "Hello"},
            "completions/?$": {"model": SERVER, "prompt": "Hello"},
            "embeddings/?$": {"model": SERVER, "input": "Hello"},
            "moderations/?$": {"model": SERVER, "input": "Hello"},
            "audio/speech/?$": {"model": SERVER, "input": "Hello", "voice": "alloy"},
            "images/generations/?$": {"model": SERVER, "prompt": "Hello"},
        }.items()
    },
    # Forms: what is no form is refused before anything is looked up.
    **{
        f"{V1}{path}/?$": [api(f"/api/{path.rstrip('?')}", outsider=400, member=400, by="caller", model=SERVER)]
        for path in ("audio/transcriptions?", "audio/translations?", "images/edits", "images/variations")
    },
    ANTHROPIC + "messages/?$": [
        api("/api/anthropic/v1/messages", outsider=404, by="caller", model=SERVER, max_tokens=5, messages=HELLO)
    ],
    ANTHROPIC + "messages/count_tokens/?$": [
        api("/api/anthropic/v1/messages/count_tokens", outsider=404, by="caller", model=SERVER, messages=HELLO)
    ],
    "^(?:api/)?anthropic/v1/models/?$": [api("/api/anthropic/v1/models", outsider=200)],
    "^(?:api/)?anthropic/v1/models/(?P<model>.{1,200}?)/?$": [
        api("/api/anthropic/v1/models/{name}/fake", outsider=404, member=404)
    ],
    GOOGLE + "models/?$": [api("/api/google/gemini/v1beta/models", outsider=200)],
    GOOGLE + "models/(?P<model>.{1,300}):(?P<operation>generateContent|streamGenerateContent)/?$": [
        api(f"/api/google/{vendor}/v1beta/models/{SERVER}:{operation}", outsider=404, by="caller", contents=PARTS)
        for vendor in ("gemini", "vertexai")
        for operation in ("generateContent", "streamGenerateContent?alt=sse", "streamGenerateContent")
    ],
    GOOGLE + "models/(?P<model>.{1,300}):countTokens/?$": [
        api(f"/api/google/gemini/v1beta/models/{SERVER}:countTokens", outsider=404, by="caller", contents=PARTS)
    ],
    GOOGLE + "models/(?P<model>.{1,300}):(?P<operation>embedContent|batchEmbedContents)/?$": [
        api(
            f"/api/google/gemini/v1beta/models/{SERVER}:embedContent",
            outsider=404,
            member=400,
            by="caller",
            content=PARTS[0],
        )
    ],
    V1 + "files/?$": [api("/api/files?provider={name}", outsider=400)],
    V1 + "files/(?P<file_id>[A-Za-z0-9_.-]{1,200})/?$": [
        api("/api/files/file-nothing?provider={name}", outsider=400, member=404)
    ],
    V1 + "files/(?P<file_id>[A-Za-z0-9_.-]{1,200})/content/?$": [
        api("/api/files/file-nothing/content?provider={name}", outsider=400, member=404)
    ],
    "^(?:api/)?(?P<provider>[a-z0-9_-]{1,40})/v1/chat/completions/?$": [
        api("/api/{name}/v1/chat/completions", outsider=404, by="caller", model="fake:chunks=1", messages=HELLO)
    ],
    "^(?:api/)?(?:v1/)?models/?$": [api("/api/models", outsider=200), api("/v1/models/", outsider=200)],
    "^(?:api/)?(?:v1/)?models/public/?$": [api("/api/models/public/", outsider=200, anonymous=200)],
    # The docs: the same for everybody, but for the beginning of an own key
    "docs/": [get("/docs/", outsider=200, anonymous=200, member=200)],
    "docs/search/": [get("/docs/search/?q={name}", outsider=200, anonymous=200, member=200)],
    "docs/<path:path>.md": [
        get("/docs/architecture.md", outsider=200, anonymous=200, member=200),
        get("/docs/{name}.md", outsider=404, anonymous=404, member=404),
    ],
    "docs/<path:path>/": [
        get("/docs/quickstart/", outsider=200, anonymous=200, member=200),
        get("/docs/{name}/{key}/", outsider=404, anonymous=404, member=404),
    ],
    "llms.txt": [get("/llms.txt", outsider=200, anonymous=200, member=200)],
    "llms-full.txt": [get("/llms-full.txt", outsider=200, anonymous=200, member=200)],
    "platform/search/": [
        get("/platform/search/?q={name}", outsider=200, member=200),
        get("/platform/search/?q={log}", outsider=200, member=200),
        get("/platform/search/?q={customer}", outsider=200, member=200),
        get("/platform/search/?q={email}", outsider=200, member=200),
    ],
    "platform/sample/fill/": [post("/platform/sample/fill/", outsider=302, member=403)],
    "platform/sample/remove/": [post("/platform/sample/remove/", outsider=302, member=403)],
    # Pages of accounts
    "platform/": [get("/platform/", outsider=200, member=200)],
    "platform/first-call/": [get("/platform/first-call/", outsider=200, member=200)],
    "login/": [get("/login/?next={key}", outsider=302, member=302)],
    "signup/": [get("/signup/", outsider=302, member=302)],
    "platform/account/": [
        get("/platform/account/", outsider=200, member=200),
        post("/platform/account/", outsider=302, member=None, name="Somebody"),
    ],
    "platform/account/appearance/": [post("/platform/account/appearance/", outsider=302, member=302, theme="dark")],
    "platform/account/sessions/end-others/": [post("/platform/account/sessions/end-others/", outsider=302, member=302)],
    "platform/account/sessions/<int:id>/end/": [
        post("/platform/account/sessions/{session}/end/", outsider=404, member=404)
    ],
    "platform/account/delete/": [
        get("/platform/account/delete/", outsider=200, member=200),
        post("/platform/account/delete/", outsider=409, member=400, password="wrong"),
    ],
    "platform/organizations/": [post("/platform/organizations/", outsider=403, member=403, name="Another")],
    "platform/environment/": [post("/platform/environment/", outsider=302, member=302, environment="")],
    "platform/organizations/switch/": [
        post("/platform/organizations/switch/", outsider=404, member=302, organization="{organization}")
    ],
    "platform/api/api-keys/": [
        get("/platform/api/api-keys/?page=2", outsider=200, member=200),
        post("/platform/api/api-keys/", outsider=400, member=400, name="", request_id="{request_id}"),
    ],
    "platform/api/api-keys/new/": [get("/platform/api/api-keys/new/", outsider=200, member=200)],
    "platform/api/api-keys/spend/": [get("/platform/api/api-keys/spend/?key={key}", outsider=200, member=200)],
    "platform/api/api-keys/<slug:public_id>/first-call/": [
        get("/platform/api/api-keys/{key}/first-call/", outsider=404, member=200)
    ],
    "platform/api/api-keys/<slug:public_id>/change/": [
        get("/platform/api/api-keys/{key}/change/", outsider=404, member=403),
        post("/platform/api/api-keys/{key}/change/", outsider=404, member=403, name="Taken", scopes="call,logs,manage"),
    ],
    "platform/api/api-keys/<slug:public_id>/rotate/": [
        get("/platform/api/api-keys/{key}/rotate/", outsider=404, member=403),
        post("/platform/api/api-keys/{key}/rotate/", outsider=404, member=403, overlap="0", request_id="{request_id}"),
    ],
    "platform/api/api-keys/<slug:public_id>/revoke/": [
        get("/platform/api/api-keys/{key}/revoke/", outsider=404, member=403),
        post("/platform/api/api-keys/{key}/revoke/", outsider=404, member=403),
    ],
    # People
    "platform/members/": [get("/platform/members/?q={email}", outsider=200, member=200)],
    "platform/members/invite/": [
        get("/platform/members/invite/", outsider=200, member=403),
        post("/platform/members/invite/", outsider=400, member=403, email="x", role="member"),
    ],
    "platform/members/invitations/<slug:public_id>/renew/": [
        post("/platform/members/invitations/{invitation}/renew/", outsider=404, member=403)
    ],
    "platform/members/invitations/<slug:public_id>/revoke/": [
        get("/platform/members/invitations/{invitation}/revoke/", outsider=404, member=403),
        post("/platform/members/invitations/{invitation}/revoke/", outsider=404, member=403),
    ],
    "platform/members/leave/": [get("/platform/members/leave/", outsider=200, member=200)],
    "platform/members/transfer/": [
        get("/platform/members/transfer/", outsider=200, member=403),
        post("/platform/members/transfer/", outsider=400, member=403, to="{place}", name="Initech"),
    ],
    "platform/members/<int:member_id>/": [
        get("/platform/members/{place}/", outsider=404, member=403),
        post("/platform/members/{place}/", outsider=404, member=403, role="member"),
    ],
    "platform/members/<int:member_id>/remove/": [
        get("/platform/members/{place}/remove/", outsider=404, member=403),
        post("/platform/members/{place}/remove/", outsider=404, member=403, keys="{key}"),
    ],
    "invitations/": [
        get("/invitations/", outsider=404, anonymous=404, member=404),
        post("/invitations/", outsider=404, anonymous=404, member=404),
    ],
    # What an open invitation shows to whoever has its link is in test_invitations.py.
    "invitations/<slug:token>/": [get("/invitations/{invitation}/", outsider=404, anonymous=404, member=404)],
    "invitations/another-account/": [get("/invitations/another-account/", outsider=405, anonymous=405, member=405)],
    "platform/settings/": [
        get("/platform/settings/", outsider=200, member=200),
        post("/platform/settings/", outsider=400, member=403, name=""),
    ],
    "platform/settings/retention/": [
        post("/platform/settings/retention/", outsider=400, member=403, retention_days="-1")
    ],
    "platform/settings/delete/": [
        get("/platform/settings/delete/", outsider=200, member=403),
        post("/platform/settings/delete/", outsider=400, member=403, name="{name}"),
    ],
    "platform/audit-log/": [get("/platform/audit-log/?actor={email}&before={event}", outsider=200, member=403)],
    "platform/audit-log/export/": [get("/platform/audit-log/export/?action=api_key", outsider=200, member=403)],
    # Pages of billing
    "platform/api/credits/": [get("/platform/api/credits/?before={entry}", outsider=200, member=200)],
    "platform/api/credits/redeem/": [
        get("/platform/api/credits/redeem/?code={code}", outsider=200, member=403),
        post("/platform/api/credits/redeem/", outsider=404, member=403, code="{code}"),
    ],
    "platform/api/credits/entries/<str:entry_id>/": [
        get("/platform/api/credits/entries/{entry}/", outsider=404, member=200)
    ],
    "platform/api/credits/entries.csv": [get("/platform/api/credits/entries.csv?kind=usage", outsider=200, member=200)],
    "platform/api/credits/statement/": [get("/platform/api/credits/statement/", outsider=200, member=200)],
    # Logs
    "platform/dashboard/": [
        get("/platform/dashboard/?range=30d", outsider=200, member=200),
        get("/platform/dashboard/?range=30d&by=key&key={key}", outsider=200, member=200),
        get("/platform/dashboard/?range=30d&by=customer&customer={customer}", outsider=200, member=200),
    ],
    "platform/logs/": [
        get("/platform/logs/?range=30d", outsider=200, member=200),
        get("/platform/logs/?key={key}", outsider=200, member=200),
        get("/platform/logs/?customer={customer}", outsider=200, member=200),
    ],
    "platform/logs/new/": [get("/platform/logs/new/?key={key}", outsider=302, member=302)],
    "platform/logs/export/": [
        get("/platform/logs/export/?format=jsonl&range=30d", outsider=200, member=200),
        get("/platform/logs/export/?format=csv&customer={customer}", outsider=200, member=200),
        get("/platform/logs/export/?format=xls", outsider=404, member=404),
    ],
    "platform/logs/by/<slug:name>/": [
        get(f"/platform/logs/by/{name}/?range=30d&key={{key}}&customer={{customer}}", outsider=200, member=200)
        for name in ("status", "model", "provider", "key", "customer", "environment", "paid_by")
    ],
    "platform/logs/<str:log_id>/": [get("/platform/logs/{log}/", outsider=404, member=200)],
    "platform/logs/<str:log_id>/<slug:part>.json": [
        get(f"/platform/logs/{{log}}/{part}.json", outsider=404, member=200) for part in ("request", "response")
    ],
    "^api/request-logs/list/?$": [
        api(f"{LIST}?{FROM}&all_envs=true", outsider=200),
        api(f"{LIST}?{FROM}&cursor={{cursor}}", outsider=200),
        api(f"{LIST}?{FROM}&unique_id={{log}}", outsider=200),
        api(f"{LIST}?{FROM}", outsider=200, filters={"customer_identifier": {"value": ["{customer}"]}}),
        api(f"{LIST}?{FROM}", outsider=200, filters={"organization_key_id": {"value": ["{key}"]}}),
    ],
    "^api/request-logs/(?P<log_id>[^/]+)/?$": [
        api("/api/request-logs/{log}/", outsider=404),
        api("/api/request-logs/{log_uuid}", outsider=404),
    ],
    # The response cache
    "^api/caches/?$": [
        api("/api/caches/", outsider=200),
        api("/api/caches/", outsider=200, filters={"cache_key": {"value": ["{cached}"]}}),
    ],
    "^api/caches/summary/?$": [api("/api/caches/summary/", outsider=200, filters={})],
    "^api/caches/bulk/?$": [api("/api/caches/bulk/", outsider=405, member=405, cache_keys=["{cached}"])],
    "^api/caches/(?P<cache_key>[0-9a-zA-Z_-]{1,100})/?$": [api("/api/caches/{cached}/", outsider=404)],
    "platform/api/caches/": [
        get("/platform/api/caches/", outsider=200, member=200),
        post("/platform/api/caches/", outsider=400, member=403, ttl_s="0"),
    ],
    "platform/api/caches/clear/": [
        get("/platform/api/caches/clear/", outsider=200, member=403),
        post("/platform/api/caches/clear/", outsider=302, member=403, confirmed="on"),
    ],
    "platform/api/caches/<slug:cache_key>/": [get("/platform/api/caches/{cached}/", outsider=404, member=200)],
    "platform/api/caches/<slug:cache_key>/delete/": [
        post("/platform/api/caches/{cached}/delete/", outsider=404, member=403)
    ],
    # Limits
    "^api/limit-policies/?$": [
        api("/api/limit-policies/", outsider=200),
        api("/api/limit-policies/", outsider=403, member=403, name="{name}", compose=["api_key_id"]),
    ],
    "^api/limit-policies/(?P<public_id>[0-9a-z_]{1,60})/?$": [api("/api/limit-policies/{limit}/", outsider=404)],
    "platform/api/limits/": [
        get("/platform/api/limits/", outsider=200, member=200),
        post("/platform/api/limits/", outsider=400, member=403, name=""),
    ],
    "platform/api/limits/new/": [get("/platform/api/limits/new/?key={key}", outsider=200, member=403)],
    "platform/api/limits/<str:public_id>/": [
        get("/platform/api/limits/{limit}/", outsider=404, member=403),
        post("/platform/api/limits/{limit}/", outsider=404, member=403, name="stolen"),
    ],
    "platform/api/limits/<str:public_id>/delete/": [
        get("/platform/api/limits/{limit}/delete/", outsider=404, member=403),
        post("/platform/api/limits/{limit}/delete/", outsider=404, member=403),
    ],
    "platform/api/api-keys/limits/": [get("/platform/api/api-keys/limits/?key={key}", outsider=200, member=200)],
    # Provider keys
    "platform/api/integrations/": [
        get("/platform/api/integrations/", outsider=200, member=200),
        post("/platform/api/integrations/", outsider=400, member=403, provider="custom", name="{name}", secret="x"),
    ],
    "platform/api/integrations/add/": [
        get("/platform/api/integrations/add/?provider={name}", outsider=200, member=403)
    ],
    "platform/models/": [
        get("/platform/models/?provider={name}&callable=1", outsider=200, member=200),
        get("/platform/models/?compare={name}/model-{name}", outsider=200, member=200),
    ],
    "platform/models/<path:model_id>/": [
        get("/platform/models/{name}/model-{name}/", outsider=404, member=200),
        get("/platform/models/openai/gpt-4o-mini/", outsider=200, member=200),
    ],
    "platform/api/integrations/<str:public_id>/": [
        get("/platform/api/integrations/{credential}/", outsider=404, member=403),
        post("/platform/api/integrations/{credential}/", outsider=404, member=403, secret="sk-stolen", base_url=""),
    ],
    "platform/api/integrations/<str:public_id>/test/": [
        post("/platform/api/integrations/{credential}/test/", outsider=404, member=403, model="x")
    ],
    "platform/api/integrations/<str:public_id>/remove/": [
        get("/platform/api/integrations/{credential}/remove/", outsider=404, member=403),
        post("/platform/api/integrations/{credential}/remove/", outsider=404, member=403),
    ],
    # Routing
    "platform/api/fallback/": [
        get("/platform/api/fallback/", outsider=200, member=200),
        post("/platform/api/fallback/", outsider=400, member=403, model="{name}/fake"),
    ],
    "platform/api/fallback/switch/": [post("/platform/api/fallback/switch/", outsider=302, member=403)],
    "platform/api/fallback/move/": [
        post("/platform/api/fallback/move/", outsider=302, member=403, model="{name}/model-{name}", place="2")
    ],
    "platform/api/fallback/remove/": [
        post("/platform/api/fallback/remove/", outsider=302, member=403, model="{name}/model-{name}")
    ],
    "platform/api/retries/": [
        get("/platform/api/retries/", outsider=200, member=200),
        post("/platform/api/retries/", outsider=400, member=403, num_retries="9"),
    ],
    "platform/api/load-balance/": [
        get("/platform/api/load-balance/?new={group}", outsider=200, member=200),
        post("/platform/api/load-balance/", outsider=400, member=403, name="{name}", group_id="{group}"),
    ],
    "platform/api/load-balance/strategy/": [
        post("/platform/api/load-balance/strategy/", outsider=400, member=403, strategy="x")
    ],
    "platform/api/load-balance/new/": [get("/platform/api/load-balance/new/", outsider=200, member=403)],
    "platform/api/load-balance/groups/<str:group_id>/": [
        get("/platform/api/load-balance/groups/{group}/", outsider=404, member=403),
        post("/platform/api/load-balance/groups/{group}/", outsider=404, member=403, name="x"),
    ],
    "platform/api/load-balance/groups/<str:group_id>/delete/": [
        get("/platform/api/load-balance/groups/{group}/delete/", outsider=404, member=403),
        post("/platform/api/load-balance/groups/{group}/delete/", outsider=404, member=403, group_id="{group}"),
    ],
    # django-allauth's
    "accounts/login/": [
        get("/accounts/login/", outsider=302, anonymous=200, member=302),
        post("/accounts/login/", outsider=302, anonymous=200, member=302, login="{email}", password="wrong"),
    ],
    "accounts/logout/": [
        get("/accounts/logout/", outsider=200, member=200),
        post("/accounts/logout/", outsider=302, member=302),
    ],
    "accounts/inactive/": [get("/accounts/inactive/", outsider=200, anonymous=200, member=200)],
    "accounts/signup/": [
        get("/accounts/signup/", outsider=302, anonymous=200, member=302),
        post("/accounts/signup/", outsider=302, anonymous=200, member=302, email="{email}", password1=PASSWORD),
    ],
    "accounts/reauthenticate/": [
        get("/accounts/reauthenticate/", outsider=200, member=200),
        post("/accounts/reauthenticate/", outsider=200, member=200, password="wrong"),
    ],
    "accounts/email/": [
        get("/accounts/email/", outsider=200, member=200),
        post("/accounts/email/", outsider=200, member=None, action_add="", email="{email}"),
        post("/accounts/email/", outsider=302, member=None, action_primary="", email="{email}"),
        post("/accounts/email/", outsider=302, member=None, action_remove="", email="{email}"),
    ],
    "accounts/confirm-email/": [get("/accounts/confirm-email/", outsider=200, anonymous=200, member=200)],
    "accounts/^confirm-email/(?P<key>[-:\\w]+)/$": [
        get("/accounts/confirm-email/{log_uuid}/", outsider=200, anonymous=200, member=200),
        post("/accounts/confirm-email/{log_uuid}/", outsider=404, anonymous=404, member=404),
    ],
    "accounts/password/change/": [
        get("/accounts/password/change/", outsider=200, member=200),
        post("/accounts/password/change/", outsider=200, member=200, oldpassword="wrong"),
    ],
    "accounts/password/set/": [get("/accounts/password/set/", outsider=302, member=302)],
    "accounts/password/reset/": [
        get("/accounts/password/reset/", outsider=200, anonymous=200, member=200),
        post("/accounts/password/reset/", outsider=503, anonymous=503, member=503, email="{email}"),
    ],
    "accounts/password/reset/done/": [get("/accounts/password/reset/done/", outsider=200, anonymous=200, member=200)],
    "accounts/password/reset/key/done/": [
        get("/accounts/password/reset/key/done/", outsider=200, anonymous=200, member=200)
    ],
    "accounts/^password/reset/key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>.+)/$": [
        get("/accounts/password/reset/key/{uid}-set-password/", outsider=200, anonymous=200, member=200),
        post(
            "/accounts/password/reset/key/{uid}-c0ffee-0123456789abcdef/",
            outsider=200,
            anonymous=200,
            member=200,
            password1=PASSWORD,
            password2=PASSWORD,
        ),
    ],
    "accounts/login/code/confirm/": [get("/accounts/login/code/confirm/", outsider=302, member=302)],
    # Second factors: asked for the password first.
    "accounts/2fa/": [get("/accounts/2fa/", outsider=200, member=200)],
    "accounts/2fa/authenticate/": [get("/accounts/2fa/authenticate/", outsider=302, member=302)],
    "accounts/2fa/reauthenticate/": [get("/accounts/2fa/reauthenticate/", outsider=302, member=302)],
    "accounts/2fa/totp/activate/": [get("/accounts/2fa/totp/activate/", outsider=302, member=302)],
    "accounts/2fa/totp/deactivate/": [get("/accounts/2fa/totp/deactivate/", outsider=404, member=404)],
    "accounts/2fa/recovery-codes/": [get("/accounts/2fa/recovery-codes/", outsider=404, member=404)],
    "accounts/2fa/recovery-codes/generate/": [get("/accounts/2fa/recovery-codes/generate/", outsider=302, member=302)],
    "accounts/2fa/recovery-codes/download/": [get("/accounts/2fa/recovery-codes/download/", outsider=404, member=404)],
    "accounts/2fa/webauthn/": [get("/accounts/2fa/webauthn/", outsider=200, member=200)],
    "accounts/2fa/webauthn/add/": [get("/accounts/2fa/webauthn/add/", outsider=302, member=302)],
    "accounts/2fa/webauthn/reauthenticate/": [get("/accounts/2fa/webauthn/reauthenticate/", outsider=302, member=302)],
    "accounts/2fa/webauthn/login/": [
        get("/accounts/2fa/webauthn/login/", outsider=302, anonymous=302, member=302),
        post("/accounts/2fa/webauthn/login/", outsider=302, anonymous=302, member=302, credential="{}"),
    ],
    "accounts/2fa/webauthn/keys/<int:pk>/remove/": [
        get("/accounts/2fa/webauthn/keys/{passkey}/remove/", outsider=302, member=302)
    ],
    "accounts/2fa/webauthn/keys/<int:pk>/edit/": [
        get("/accounts/2fa/webauthn/keys/{passkey}/edit/", outsider=302, member=302)
    ],
    # The operator's console: closed to everybody here.
    "admin/": [get("/admin/", outsider=302, member=302)],
    "admin/login/": [get("/admin/login/", outsider=403, member=403)],
    "admin/logout/": [post("/admin/logout/", outsider=302, member=302)],
    "admin/password_change/": [get("/admin/password_change/", outsider=302, member=302)],
    "admin/password_change/done/": [get("/admin/password_change/done/", outsider=302, member=302)],
    "admin/autocomplete/": [
        get(
            "/admin/autocomplete/?term=a&app_label=accounts&model_name=membership&field_name=user",
            outsider=302,
            member=302,
        )
    ],
    "admin/jsi18n/": [get("/admin/jsi18n/", outsider=302, member=302)],
    "admin/r/<path:content_type_id>/<path:object_id>/": [get("/admin/r/1/1/", outsider=302, member=302)],
    "admin/search/": [get("/admin/search/?s={name}", outsider=302, member=302)],
    "admin/spool/": [get("/admin/spool/", outsider=302, member=302)],
    "admin/missing-prices/": [get("/admin/missing-prices/", outsider=302, member=302)],
    "admin/^(?P<app_label>account|accounts|billing|gateway|traces)/$": [
        get(f"/admin/{app}/", outsider=302, member=302)
        for app in ("account", "accounts", "billing", "gateway", "traces")
    ],
    "admin/(?P<url>.*)$": [get("/admin/traces/nothing", outsider=302, member=302)],
    "admin/accounts/user/<int:pk>/second-factors/": [
        get("/admin/accounts/user/{user}/second-factors/", outsider=302, member=302),
        post("/admin/accounts/user/{user}/second-factors/", outsider=302, member=302, reason="stolen"),
    ],
    "admin/accounts/user/<id>/password/": [
        get("/admin/accounts/user/{user}/password/", outsider=302, member=302),
        post("/admin/accounts/user/{user}/password/", outsider=302, member=302, password1="x", password2="x"),
    ],
    "admin/billing/wallet/<int:pk>/grant/": [
        post("/admin/billing/wallet/{wallet}/grant/", outsider=302, member=302, amount="1", reason="stolen")
    ],
    "admin/billing/wallet/<int:pk>/adjust/": [
        post("/admin/billing/wallet/{wallet}/adjust/", outsider=302, member=302, amount="-1", reason="stolen")
    ],
    "admin/billing/entry/<uuid:pk>/refund/": [
        post("/admin/billing/entry/{entry_row}/refund/", outsider=302, member=302, amount="1", reason="stolen")
    ],
    "admin/billing/pendingadjustment/<uuid:pk>/decide/": [
        post("/admin/billing/pendingadjustment/{adjustment}/decide/", outsider=302, member=302)
    ],
    "admin/billing/redeemcode/<uuid:pk>/disable/": [
        post("/admin/billing/redeemcode/{code_row}/disable/", outsider=302, member=302)
    ],
    "admin/accounts/apikey/<int:pk>/revoke/": [
        post("/admin/accounts/apikey/{key_row}/revoke/", outsider=302, member=302)
    ],
    "admin/gateway/credential/<int:pk>/test/": [
        post("/admin/gateway/credential/{credential_row}/test/", outsider=302, member=302)
    ],
    "admin/traces/ingestbatch/<uuid:pk>/replay/": [
        post("/admin/traces/ingestbatch/{batch}/replay/", outsider=302, member=302)
    ],
    "admin/traces/deadletter/<int:pk>/replay/": [
        post("/admin/traces/deadletter/{letter}/replay/", outsider=302, member=302)
    ],
}
# Tables of the console -> the fact of organization A that is a row of it.
TABLES = {
    "account/emailaddress": "email_address",
    "accounts/user": "user",
    "accounts/organization": "wallet",
    "accounts/apikey": "key_row",
    "accounts/invitation": "invitation_row",
    "accounts/auditevent": "event",
    "billing/wallet": "wallet",
    "billing/entry": "entry_row",
    "billing/hold": "log_uuid",
    "billing/grant": "grant",
    "billing/modelrates": "rates",
    "billing/pendingadjustment": "adjustment",
    "billing/redeemcode": "code_row",
    "gateway/addedmodel": "wallet",  # the operator's: no row of an organization's
    "gateway/credential": "credential_row",
    "gateway/organizationcredential": "credential_row",
    "traces/ingestbatch": "batch",
    "traces/deadletter": "letter",
}
for table, row in TABLES.items():
    for name in ("", "add/"):
        ROUTES[f"admin/{table}/{name}"] = [get(f"/admin/{table}/{name}", outsider=302, member=302)]
    for name in ("history/", "delete/", "change/", ""):
        path = f"/admin/{table}/{{{row}}}/{name}"
        ROUTES[f"admin/{table}/<path:object_id>/{name}"] = [
            get(path, outsider=302, member=302),
            post(path, outsider=302, member=302, post="yes", name="Stolen"),
        ]


APPS = re.compile(r"(?<=<app_label>)[a-z|]+")


def walk(patterns: Any = None, prefix: str = "") -> Iterator[str]:
    """Yield every route of the root URLconf as text."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        if isinstance(pattern, URLResolver):
            yield from walk(pattern.url_patterns, prefix + str(pattern.pattern))
        else:
            # The console lists its apps in the order in which they were loaded.
            yield APPS.sub(lambda found: "|".join(sorted(found[0].split("|"))), prefix + str(pattern.pattern))


def test_every_route_is_declared_here() -> None:
    routes = set(walk())
    assert routes - ROUTES.keys() == set(), "say in ROUTES how these are exercised with another organization's ids"
    assert ROUTES.keys() - routes == set(), "these are no routes any more"
    assert all(ROUTES.values())


# --- The two organizations --------------------------------------------------------------------------------------------


@dataclass
class Two:
    """Organization A with something of everything, organization B, and what B must never see."""

    stack: Stack
    facts: dict[str, str]
    people: SimpleNamespace
    keys: dict[str, str]
    canaries: dict[str, str]
    untouched: list[Any]
    clients: dict[str, Client]

    def fill(self, value: Any) -> Any:
        """Put the facts of A into a path or into data."""
        if isinstance(value, str):
            for name, fact in self.facts.items():
                value = value.replace(f"{{{name}}}", fact)
            return value
        if isinstance(value, dict):
            return {name: self.fill(each) for name, each in value.items()}
        return [self.fill(each) for each in value] if isinstance(value, list) else value

    def betrayed(self, answer: bytes, asked: str) -> set[str]:
        """Return which canaries are in an answer, less those the visitor sent himself."""
        text = answer.decode(errors="replace")
        return {name for name, canary in self.canaries.items() if canary in text and canary not in asked}


@pytest.fixture(scope="module")
def two(stack: Stack, django_db_blocker: Any) -> Two:
    with django_db_blocker.unblock():
        made = _make_two(stack)
        made.untouched = fingerprint(made)
    return made


def _make_two(stack: Stack) -> Two:
    from accounts import keys
    from billing import ledger
    from billing.models import Entry
    from tests.conftest import make_organization, make_user

    token = f"zq{uuid.uuid4().hex[:10]}"  # in everything A calls something
    people = SimpleNamespace(**{role: make_user(f"{token}-{role}") for role in ("owner", "admin", "member")})
    people.outsider = make_user("outsider")
    a = make_organization(f"Organization {token}", owner=people.owner)
    b = make_organization("Initech", owner=people.outsider)
    _join(a, people)
    a_issued = keys.issue(organization=a, name=f"Key {token}", environment="production", created_by=people.owner)
    secrets = {"member": a_issued.secret}
    for name, organization in (("outsider", b), ("caller", make_organization("Callers"))):
        secrets[name] = keys.issue(
            organization=organization, name=name, environment="production", created_by=people.outsider
        ).secret
    for organization in (a, b):
        ledger.grant(organization=organization, amount_nano=10**9, reason=f"grant for {organization}", actor=None)
    credential = _store_credential(stack, a, people.owner, f"llm-{token}")
    logs = _make_calls(stack, a_issued.secret, token, credential.name)
    entry = Entry.objects.filter(wallet_id=a.pk, kind="usage").get()
    facts = _rows(a, people, token) | {
        "organization": a.public_id,
        "wallet": str(a.pk),
        "user": str(people.owner.pk),
        "email": people.owner.email,
        "key": a_issued.api_key.public_id,
        "key_row": str(a_issued.api_key.pk),
        "request_id": str(uuid.uuid4()),
        "credential": credential.public_id,
        "credential_row": str(credential.pk),
        "cached": keep(a, prompt_text=f"Question of {token}").public_key,
        "name": credential.name,
        "nearly": credential.name[:-1],
        "group": _route(a, credential.name, token),
        "limit": _limit(a, a_issued.api_key, token),
        "entry_row": str(entry.pk),
        "customer": f"customer-{token}",
        **logs,
    }
    ids = ("organization", "key", "credential", "log", "log_uuid", "entry", "code", "invitation", "limit")
    canaries = {name: facts[name] for name in ids} | {"token": token, "a prefix": a_issued.api_key.prefix}
    return Two(stack, facts, people, secrets, canaries, [], {})


def _limit(organization: Any, api_key: Any, token: str) -> str:
    """Bound A's key so that no call of this file meets it; return the limit's id."""
    from gateway import limit_changes
    from gateway.limit_changes import Draft, Rule

    draft = Draft(
        name=f"Limit {token}",
        compose=["api_key_id"],
        values={"api_key_id": api_key.public_id},
        metric="request_count",
        period="day",
        rules=[Rule(severity="hard", value=1_000_000)],
    )
    return limit_changes.create(organization=organization, draft=draft, actor=None, address=None).public_id


def _join(organization: Any, people: SimpleNamespace) -> None:
    from accounts.models import Membership, Role

    for name in ("admin", "member"):
        Membership.objects.create(organization=organization, user=getattr(people, name), role=Role(name))


def _store_credential(stack: Stack, organization: Any, owner: Any, name: str) -> Any:
    from gateway import credentials

    with override_settings(RESPAN_UPSTREAM_ALLOW=[stack.provider.address]):
        return credentials.store(
            organization=organization,
            provider="custom",
            name=name,
            secret=credentials.Secret("sk-of-organization-a"),
            base_url=stack.provider.base_url,
            models=["fake:chunks=1", f"model-{name}"],
            actor=owner,
            address=None,
        )


def _route(organization: Any, name: str, token: str) -> str:
    """Give A a fallback list and a load balance group; return the group's id."""
    from gateway.models import CallSettings, LoadBalanceGroup

    model = f"{name}/model-{name}"
    CallSettings.objects.create(organization=organization, fallback_models=[model, f"{name}/gone-{token}"])
    group = LoadBalanceGroup.objects.create(
        organization=organization,
        group_id=f"group-{token}",
        name=f"Group {token}",
        members=[{"model": model, "weight": 1}],
    )
    return group.group_id


def _make_calls(stack: Stack, key: str, token: str, name: str) -> dict[str, str]:
    """Make calls with contents of A; return the ids of the one on credits, and a cursor of A's list."""
    from respan import ids

    for model in (f"{name}/fake:chunks=1", "fake/chat"):
        body = {
            "model": model,
            "messages": [{"role": "user", "content": f"word of {token}"}],
            "customer_identifier": f"customer-{token}",
            "thread_identifier": f"thread-{token}",
            "metadata": {"of": token},
        }
        answer = stack.post(body, key=key)
        assert answer.status == 200, answer.body
    url = f"{stack.base_url}{LIST}?{FROM}&page_size=1"
    wait_until(lambda: call(url, key=key).json["count"] == 2, what="the two logs")
    listed = call(url, key=key).json["next"]
    assert call(f"{stack.base_url}/api/request-logs/{answer.log_id}/", key=key).status == 200
    cursor = listed.partition("cursor=")[2].partition("&")[0]
    return {"log": answer.log_id, "log_uuid": str(ids.decode("log", answer.log_id)), "cursor": cursor}


def _rows(organization: Any, people: SimpleNamespace, token: str) -> dict[str, str]:
    """Make one row of the tables that the calls left empty; return their keys."""
    from allauth.account.models import EmailAddress
    from allauth.account.utils import user_pk_to_url_str
    from allauth.mfa.models import Authenticator

    from accounts import invitations
    from accounts.models import AuditEvent, Membership, Role
    from billing import approvals, codes
    from billing.models import Entry, Grant, ModelRates
    from respan import ids

    for user in (people.member, people.admin, people.owner):
        address = EmailAddress.objects.create(user=user, email=user.email, primary=True, verified=False)
    code, text = codes.create(amount_nano=10**9, actor=people.owner, organization=organization, note=token)
    adjustment = approvals.adjust(
        organization=organization, amount_nano=10**14, reason=token, id=uuid.uuid4(), actor=people.owner
    )
    invited = invitations.invite(
        organization=organization,
        role=Role.MEMBER,
        actor=people.owner,
        now=timezone.now(),
        email=f"{token}@example.test",
    ).invitation
    granted = Grant.objects.filter(wallet_id=organization.pk).first()
    assert granted is not None
    return {
        "email_address": str(address.pk),
        "uid": user_pk_to_url_str(people.owner),
        "invitation": invited.public_id,
        "invitation_row": str(invited.pk),
        **_set_aside(),
        "place": str(Membership.objects.get(organization=organization, user=people.owner).pk),
        "code": text,
        "code_row": str(code.pk),
        "adjustment": str(adjustment.pk),
        "grant": str(granted.pk),
        "entry": ids.encode("ent", Entry.objects.filter(wallet_id=organization.pk).earliest("number").pk),
        "rates": str(ModelRates.objects.earliest("pk").pk),
        "passkey": str(Authenticator.objects.create(user=people.owner, type="webauthn", data={"name": token}).pk),
        "session": str(_sign_in_somewhere(people.owner)),
        "event": str(AuditEvent.objects.filter(organization=organization).earliest("pk").pk),
    }


def _set_aside() -> dict[str, str]:
    """Keep a record that could not be stored; a batch there is from the calls."""
    from traces.models import DeadLetter, IngestBatch

    batch = IngestBatch.objects.latest("created_at").pk
    return {"batch": str(batch), "letter": str(DeadLetter.objects.create(batch_id=batch, raw=b"a", reason="Wrong").pk)}


def _sign_in_somewhere(user: Any) -> int:
    from allauth.usersessions.models import UserSession

    Client(REMOTE_ADDR=ADDRESS).force_login(user)
    row: int = UserSession.objects.get(user=user).pk
    return row


# --- The visitors -----------------------------------------------------------------------------------------------------


def visit(two: Two, name: str, ask: Ask) -> tuple[int, bytes]:
    """Make a request as somebody; return the status and all that was answered, head and body."""
    if ask.by == "session":
        return _visit_page(two, name, ask)
    key = None if name == "anonymous" else two.keys["caller" if (name, ask.by) == ("outsider", "caller") else name]
    body = None if ask.data is None else json.dumps(two.fill(ask.data)).encode()
    answer = call(two.stack.base_url + two.fill(ask.path), key=key, body=body)
    return answer.status, repr(answer.headers).encode() + answer.body


def _visit_page(two: Two, name: str, ask: Ask) -> tuple[int, bytes]:
    client = two.clients.get(name)
    if client is None:
        client = two.clients[name] = Client(REMOTE_ADDR=ADDRESS, raise_request_exception=False)
        if name != "anonymous":
            client.force_login(getattr(two.people, name))
    path, data = two.fill(ask.path), two.fill(ask.data)
    answer = client.post(path, data) if ask.method == "POST" else client.generic(ask.method, path)
    if "logout" in path:
        del two.clients[name]
    if (name, ask.anonymous, answer.status_code) == ("anonymous", 302, 302):
        assert ANONYMOUS_GO_TO.fullmatch(answer.headers["Location"]), answer.headers["Location"]
    head = repr(dict(answer.headers)) + answer.cookies.output()
    return answer.status_code, head.encode() + answer.getvalue()


def fingerprint(two: Two) -> list[Any]:
    """Return what is true of A: nothing that anybody here does may change it."""
    from django.db import connection

    users = [getattr(two.people, name).pk for name in ("owner", "admin", "member")]
    found = []
    with connection.cursor() as cursor:
        for columns, condition in UNTOUCHED:
            of = users if "user" in columns.partition("FROM")[2] or "user" in condition else [int(two.facts["wallet"])]
            cursor.execute(f"SELECT {columns} WHERE {condition} = ANY(%s) ORDER BY 1", [of])
            found.append((columns, cursor.fetchall()))
    return found


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("route", ROUTES)
def test_a_route_gives_nothing_of_another_organization(two: Two, route: str) -> None:
    for ask in ROUTES[route]:
        sent = two.fill(ask.path) + json.dumps(two.fill(ask.data))
        got = {"outsider": visit(two, "outsider", ask), "anonymous": visit(two, "anonymous", ask)}
        statuses = {name: status for name, (status, _) in got.items()}
        for name, (_, answer) in got.items():
            assert two.betrayed(answer, sent) == set(), f"{ask.method} {ask.path} to the {name}"
        if ask.member is not None:
            statuses["member"] = visit(two, "member", ask)[0]
        wanted = {"outsider": ask.outsider, "anonymous": ask.anonymous, "member": ask.member}
        assert statuses == {name: wanted[name] for name in statuses}, f"{ask.method} {ask.path}"
    assert fingerprint(two) == two.untouched


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_no_other_method_opens_a_page(two: Two, method: str) -> None:
    for route, asks in ROUTES.items():
        if route.startswith("admin/") or asks[0].by != "session":
            continue
        ask = replace(asks[0], method=method, data=None)
        for name in ("outsider", "anonymous"):
            status, answer = visit(two, name, ask)
            assert status < 500, f"{method} {ask.path}"
            assert two.betrayed(answer, two.fill(ask.path)) == set(), f"{method} {ask.path} to the {name}"
    assert fingerprint(two) == two.untouched


@pytest.mark.django_db(transaction=True)
def test_staff_who_are_no_operators_see_nothing_in_the_console(two: Two) -> None:
    from tests.conftest import make_user

    staff = make_user("staff")
    staff.is_staff = True
    staff.save()
    two.people.staff = staff
    for route, asks in ROUTES.items():
        if route.startswith("admin/") and "logout" not in route:
            for ask in asks:
                status, answer = visit(two, "staff", ask)
                assert status in {200, 302, 403, 404, 405}, f"{ask.method} {ask.path}"
                sent = two.fill(ask.path) + json.dumps(two.fill(ask.data))
                assert two.betrayed(answer, sent) == set(), f"{ask.method} {ask.path}"
    assert fingerprint(two) == two.untouched


@pytest.mark.django_db(transaction=True)
def test_a_session_that_names_a_foreign_organization_stays_in_its_own(two: Two) -> None:
    client = Client(REMOTE_ADDR=ADDRESS)
    client.force_login(two.people.outsider)
    session = client.session
    session["organization"] = two.facts["organization"]
    session.save()

    for path in ("/platform/", "/platform/api/api-keys/", "/platform/api/credits/", "/platform/logs/?range=30d"):
        answer = client.get(path)
        assert (answer.status_code, b"Initech" in answer.content) == (200, True)
        assert two.betrayed(answer.content, "") == set()


def test_a_session_opens_no_api_route(two: Two, django_db_blocker: Any) -> None:
    client = Client(REMOTE_ADDR=ADDRESS)
    with django_db_blocker.unblock():
        client.force_login(two.people.owner)
    cookies = client.cookies.output(header="", sep=";").strip()
    for path in ("/api/models", LIST, f"/api/request-logs/{two.facts['log']}/"):
        answer = call(two.stack.base_url + path, headers={"Cookie": cookies})
        assert answer.status == 401


@pytest.mark.django_db(transaction=True)
def test_the_canaries_are_there_to_be_found(two: Two) -> None:
    """A member of A does see them: a test that looks for the wrong words would find nothing for ever."""
    seen: set[str] = set()
    for path in ("api/api-keys/", "api/credits/", "logs/?range=30d", "logs/{log}/", "account/"):
        page = visit(two, "member", get(f"/platform/{path}", outsider=0, member=200))[1]
        seen |= two.betrayed(page, "")
    seen |= two.betrayed(visit(two, "member", api(f"{LIST}?{FROM}", outsider=0))[1], "")
    assert seen >= two.canaries.keys() - {"code", "credential", "log_uuid", "invitation", "limit"}
    owner = visit(two, "owner", get("/platform/api/integrations/", outsider=0, member=200))[1]
    assert "credential" in two.betrayed(owner, "")
    invited = visit(two, "owner", get("/platform/members/", outsider=0, member=200))[1]
    assert "invitation" in two.betrayed(invited, "")
