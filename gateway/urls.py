"""The gateway's API routes: with and without `/api`, with and without `/v1`, with and without a trailing slash.

Served by the lean handler of `respan/asgi.py`; never redirects (a redirected POST loses its body).
"""

from typing import Any

from django.urls import re_path

from gateway import api

_PREFIX = r"^(?:api/)?(?:v1/)?"

# Coroutine functions: Django awaits them, its type stubs do not know.
_chat_completions: Any = api.ChatCompletions.as_view()
_models: Any = api.Models.as_view()
_public_models: Any = api.PublicModels.as_view()

urlpatterns = [
    re_path(_PREFIX + r"chat/completions/?$", _chat_completions, name="chat-completions"),
    re_path(_PREFIX + r"models/?$", _models, name="models"),
    re_path(_PREFIX + r"models/public/?$", _public_models, name="models-public"),
]
