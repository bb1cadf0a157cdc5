"""The addresses of this app's pages; those of its API are in `urls.py`."""

from django.urls import path

from gateway import model_views, views

urlpatterns = [
    path("platform/api/integrations/", views.integrations, name="integrations"),
    path("platform/api/integrations/add/", views.add_integration, name="integration-add"),
    path("platform/api/integrations/<str:public_id>/", views.integration, name="integration"),
    path("platform/api/integrations/<str:public_id>/test/", views.test_integration, name="integration-test"),
    path("platform/api/integrations/<str:public_id>/remove/", views.remove_integration, name="integration-remove"),
    path("platform/models/", model_views.models_page, name="models"),
    path("platform/models/<path:model_id>/", model_views.model_page, name="model"),
]
