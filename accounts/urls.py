"""The pages of accounts. django-allauth's own (sign-in, passwords, addresses) are mounted beside them at /accounts/."""

from django.urls import path
from django.views.generic import RedirectView

from accounts import views

urlpatterns = [
    path("login/", RedirectView.as_view(pattern_name="account_login", query_string=True), name="login"),
    path("signup/", RedirectView.as_view(pattern_name="account_signup", query_string=True), name="signup"),
    path("platform/account/", views.account, name="account"),
    path("platform/organizations/", views.create_organization, name="organization-create"),
    path("platform/organizations/switch/", views.switch_organization, name="organization-switch"),
    path("platform/api/api-keys/", views.api_keys, name="api-keys"),
    path("platform/api/api-keys/<slug:public_id>/revoke/", views.revoke_api_key, name="api-key-revoke"),
]
