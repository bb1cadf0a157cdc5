"""The pages of a 403 and a 404, which leave nothing behind in the thread they are rendered in.

Under ASGI Django renders them in a thread of a pool of its own, not in the request's. What the rail asked the database
there would stay connected for as long as the process lives, and after a restart of the database every such page would
be a 500. Neighbours: `urls.py` names these handlers, `templates/403.html`, `templates/404.html`.
"""

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.views import defaults


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer 403 with its page."""
    try:
        return defaults.permission_denied(request, exception)
    finally:
        _disconnect()


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer 404 with its page."""
    try:
        return defaults.page_not_found(request, exception)
    finally:
        _disconnect()


def _disconnect() -> None:
    if not connection.in_atomic_block:  # a caller's transaction goes on
        connection.close_if_unusable_or_obsolete()
