"""The addresses of the Logs pages and of the management API of logs."""

from django.urls import path, re_path

from traces import api, views

# A client that leaves out the last slash is served, not redirected: a redirected POST loses its body.
urlpatterns = [
    path("platform/logs/", views.logs, name="logs"),
    path("platform/logs/<str:log_id>/", views.log, name="log"),
    re_path(r"^api/request-logs/list/?$", api.RequestLogList.as_view(), name="request-logs"),
    re_path(r"^api/request-logs/(?P<log_id>[^/]+)/?$", api.RequestLog.as_view(), name="request-log"),
]
