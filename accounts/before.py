"""What is done before a view for requests that come with a session: in a thread where the view is asynchronous.

A request without the cookie (an API call, say) costs neither a thread nor a query. Knows nothing of what is done.
Neighbours: `tenancy.OrganizationMiddleware`, `sessions.SeenMiddleware`.
"""

from collections.abc import Awaitable, Callable
from typing import cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase


class BeforeView:
    """A middleware, synchronous and asynchronous, whose work is `with_session` or `without_session`."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def with_session(self, request: HttpRequest) -> None:
        """Do the work; may ask the database."""
        raise NotImplementedError

    def without_session(self, request: HttpRequest) -> None:
        """Do what is left to do when there is no session; asks nothing."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self.is_async:
            return self._answer(request)
        if _has_session(request):
            self.with_session(request)
        else:
            self.without_session(request)
        return self.get_response(request)

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        if _has_session(request):
            await sync_to_async(self.with_session)(request)
        else:
            self.without_session(request)
        return await cast(Awaitable[HttpResponseBase], self.get_response(request))


def _has_session(request: HttpRequest) -> bool:
    return settings.SESSION_COOKIE_NAME in request.COOKIES
