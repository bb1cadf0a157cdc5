"""The addresses of the installation: each app's own list, in the order in which they are tried."""

from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from respan import console, docs_views, health, home, key_facts, sample, schema, search, setup, spending

# Only who serves pages needs the console: loading it takes half of the start of a worker or a command.
admin.autodiscover()

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="home")),
    path("", include("gateway.urls")),
    path("platform/", home.home, name="home"),
    path("platform/first-call/", home.first_call, name="home-first-call"),
    path("platform/search/", search.search, name="search"),
    path("platform/api/credits/", spending.credits_page, name="credits"),
    path("platform/api/credits/entries/<str:entry_id>/", spending.entry, name="credits-entry"),
    path("platform/sample/fill/", sample.fill_view, name="sample-fill"),
    path("platform/sample/remove/", sample.remove_view, name="sample-remove"),
    path("platform/api/api-keys/spend/", key_facts.spend, name="api-key-spend"),
    path("platform/api/api-keys/<slug:public_id>/first-call/", key_facts.first_call, name="api-key-first-call"),
    path("", include("accounts.urls")),
    path("", include("billing.urls")),
    path("", include("traces.urls")),
    path("", include("gateway.page_urls")),
    path("accounts/", include("allauth.account.urls")),
    path("accounts/2fa/", include("allauth.mfa.urls")),
    path("admin/spool/", admin.site.admin_view(console.spool_page), name="console-spool"),
    path("admin/missing-prices/", admin.site.admin_view(console.missing_prices_page), name="console-missing-prices"),
    path("admin/", admin.site.urls),
    re_path(r"^api/schema/?$", schema.view, name="schema"),
    path("docs/", docs_views.page, name="docs"),
    path("docs/search/", docs_views.search, name="docs-search"),
    path("docs/<path:path>.md", docs_views.markdown, name="docs-markdown"),
    path("docs/<path:path>/", docs_views.page, name="docs-page"),
    path("llms.txt", docs_views.llms, name="llms"),
    path("llms-full.txt", docs_views.llms_full, name="llms-full"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("setup/<str:token>/", setup.first_operator, name="setup"),
]
handler403 = "respan.refusals.permission_denied"
handler404 = "respan.refusals.page_not_found"
