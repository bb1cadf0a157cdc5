"""The addresses of the installation: each app's own list, in the order in which they are tried."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from respan import health, home, setup

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="home")),
    path("", include("gateway.urls")),
    path("platform/", home.home, name="home"),
    path("", include("accounts.urls")),
    path("", include("billing.urls")),
    path("", include("traces.urls")),
    path("", include("gateway.page_urls")),
    path("accounts/", include("allauth.account.urls")),
    path("admin/", admin.site.urls),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("setup/<str:token>/", setup.first_operator, name="setup"),
]
