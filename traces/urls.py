"""The addresses of the Logs pages, the Dashboard and of the management API of logs."""

from django.urls import path, re_path

from traces import api, dashboard_views, views

# A client that leaves out the last slash is served, not redirected: a redirected POST loses its body.
urlpatterns = [
    path("platform/dashboard/", dashboard_views.dashboard, name="dashboard"),
    path("platform/logs/", views.logs, name="logs"),
    path("platform/logs/new/", views.new, name="logs-new"),
    path("platform/logs/export/", views.export_logs, name="logs-export"),
    path("platform/logs/by/<slug:name>/", views.facet, name="logs-facet"),
    path("platform/logs/<str:log_id>/", views.log, name="log"),
    path("platform/logs/<str:log_id>/<slug:part>.json", views.log_body, name="log-body"),
    re_path(r"^api/request-logs/list/?$", api.RequestLogList.as_view(), name="request-logs"),
    re_path(r"^api/request-logs/(?P<log_id>[^/]+)/?$", api.RequestLog.as_view(), name="request-log"),
]
