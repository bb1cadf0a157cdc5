"""The pages of billing."""

from django.urls import path

from billing import views

urlpatterns = [
    path("platform/api/credits/", views.credits_page, name="credits"),
    path("platform/api/credits/redeem/", views.redeem, name="redeem"),
]
