"""The gateway's API routes: with and without `/api`, with and without `/v1`, with and without a trailing slash.

Served by the lean handler of `respan/asgi.py`; never redirects (a redirected POST loses its body).
"""

from django.urls import re_path

from gateway import api

_PREFIX = r"^(?:api/)?(?:v1/)?"

urlpatterns = [
    re_path(_PREFIX + r"chat/completions/?$", api.ChatCompletions.as_view(), name="chat-completions"),
    re_path(_PREFIX + r"models/?$", api.Models.as_view(), name="models"),
    re_path(_PREFIX + r"models/public/?$", api.PublicModels.as_view(), name="models-public"),
]
