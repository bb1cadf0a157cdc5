"""The addresses of this app's pages; those of its API are in `urls.py`."""

from django.urls import path

from gateway import views

urlpatterns = [
    path("platform/api/integrations/", views.integrations, name="integrations"),
    path("platform/api/integrations/<str:public_id>/", views.integration, name="integration"),
    path("platform/api/integrations/<str:public_id>/test/", views.test_integration, name="integration-test"),
    path("platform/api/integrations/<str:public_id>/remove/", views.remove_integration, name="integration-remove"),
]
