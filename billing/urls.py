"""The pages of billing. Credits itself and one entry are composed by the roof: `respan.urls` has their addresses."""

from django.urls import path

from billing import views

urlpatterns = [
    path("platform/api/credits/redeem/", views.redeem, name="redeem"),
    path("platform/api/credits/statement/", views.month, name="credits-statement"),
    path("platform/api/credits/entries.csv", views.entries_csv, name="credits-csv"),
]
