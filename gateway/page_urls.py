"""The addresses of this app's pages; those of its API are in `urls.py`."""

from django.urls import path, re_path

from gateway import (
    cache_api,
    cache_views,
    call_settings_views,
    limit_api,
    limit_views,
    load_balance_views,
    model_views,
    views,
)

urlpatterns = [
    path("platform/api/integrations/", views.integrations, name="integrations"),
    path("platform/api/integrations/add/", views.add_integration, name="integration-add"),
    path("platform/api/integrations/<str:public_id>/", views.integration, name="integration"),
    path("platform/api/integrations/<str:public_id>/test/", views.test_integration, name="integration-test"),
    path("platform/api/integrations/<str:public_id>/remove/", views.remove_integration, name="integration-remove"),
    path("platform/api/fallback/", call_settings_views.fallback, name="fallback"),
    path("platform/api/fallback/switch/", call_settings_views.switch_fallback, name="fallback-switch"),
    path("platform/api/fallback/move/", call_settings_views.move_fallback, name="fallback-move"),
    path("platform/api/fallback/remove/", call_settings_views.remove_fallback, name="fallback-remove"),
    path("platform/api/retries/", call_settings_views.retries, name="retries"),
    path("platform/api/load-balance/", load_balance_views.load_balance, name="load-balance"),
    path("platform/api/load-balance/strategy/", load_balance_views.strategy, name="load-balance-strategy"),
    path("platform/api/load-balance/new/", load_balance_views.new_group, name="load-balance-new"),
    path("platform/api/load-balance/groups/<str:group_id>/", load_balance_views.group, name="load-balance-group"),
    path(
        "platform/api/load-balance/groups/<str:group_id>/delete/",
        load_balance_views.delete_group,
        name="load-balance-delete",
    ),
    path("platform/api/caches/", cache_views.caches, name="caches"),
    path("platform/api/caches/clear/", cache_views.clear_caches, name="caches-clear"),
    path("platform/api/caches/<slug:cache_key>/", cache_views.cached_answer, name="cached-answer"),
    path("platform/api/caches/<slug:cache_key>/delete/", cache_views.delete_cached_answer, name="cached-answer-delete"),
    re_path(r"^api/caches/?$", cache_api.Caches.as_view(), name="api-caches"),
    re_path(r"^api/caches/summary/?$", cache_api.CachesSummary.as_view(), name="api-caches-summary"),
    re_path(r"^api/caches/bulk/?$", cache_api.CachesBulk.as_view(), name="api-caches-bulk"),
    re_path(r"^api/caches/(?P<cache_key>[0-9a-zA-Z_-]{1,100})/?$", cache_api.Cache.as_view(), name="api-cache"),
    path("platform/api/limits/", limit_views.limits_page, name="limits"),
    path("platform/api/limits/new/", limit_views.new_limit, name="limit-new"),
    path("platform/api/limits/<str:public_id>/", limit_views.limit, name="limit"),
    path("platform/api/limits/<str:public_id>/delete/", limit_views.remove_limit, name="limit-remove"),
    path("platform/api/api-keys/limits/", limit_views.key_limits, name="api-key-limits"),
    re_path(r"^api/limit-policies/?$", limit_api.LimitPolicies.as_view(), name="api-limits"),
    re_path(r"^api/limit-policies/(?P<public_id>[0-9a-z_]{1,60})/?$", limit_api.Limit.as_view(), name="api-limit"),
    path("platform/models/", model_views.models_page, name="models"),
    path("platform/models/<path:model_id>/", model_views.model_page, name="model"),
]
