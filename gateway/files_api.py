"""The endpoints of files: /api/files, OpenAI's, for the accounts behind an organization's own provider keys.

Translates in, makes one domain call, translates out. Which provider: the header `X-Respan-Provider`, the query
`provider` or `provider_id`, else the first own key of a provider that keeps files. Neighbours: `files.py`, `urls.py`.
"""

import time

import httpx
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from gateway import files, upstream
from gateway.answers import content_type, passed_on
from gateway.api import GatewayView
from gateway.files import Reply
from respan.api import CallRequest

# What comes from a provider is shown by no browser as a page of ours.
_NEVER_A_PAGE = {
    "Cache-Control": "private, no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}


class Files(GatewayView):
    """GET and POST /api/files."""

    async def get(self, request: CallRequest) -> HttpResponseBase:
        return _answer(await files.listed(request.caller, request.GET.dict(), named=_named(request)))

    async def post(self, request: CallRequest) -> HttpResponseBase:
        kind = request.META.get("CONTENT_TYPE", "")
        return _answer(await files.upload(request.caller, request.body, content_type=kind, named=_named(request)))


class File(GatewayView):
    """GET and DELETE /api/files/{id}."""

    async def get(self, request: CallRequest, file_id: str) -> HttpResponseBase:
        return _answer(await files.get(request.caller, file_id, named=_named(request)))

    async def delete(self, request: CallRequest, file_id: str) -> HttpResponseBase:
        return _answer(await files.delete(request.caller, file_id, named=_named(request)))


class FileContent(GatewayView):
    """GET /api/files/{id}/content: the bytes, block by block."""

    async def get(self, request: CallRequest, file_id: str) -> HttpResponseBase:
        return Download(await files.content(request.caller, file_id, named=_named(request)))


class Download(StreamingHttpResponse):
    """A file on its way from the provider, which the lean handler passes on block by block."""

    def __init__(self, response: httpx.Response) -> None:
        self.relay = _Relay(response)
        headers = {**passed_on(response, own_key=True), **_NEVER_A_PAGE, "Content-Disposition": "attachment"}
        super().__init__(self.relay, content_type=content_type(response), headers=headers)


class _Relay:
    """The blocks of a file. One that breaks off raises: a part of a file must not look like all of it."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        deadline = time.monotonic() + settings.RESPAN_TOTAL_TIMEOUT_S
        self._blocks = upstream.blocks(response, deadline=deadline)

    def __aiter__(self) -> "_Relay":
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._blocks)

    def close_at_once(self) -> bool:
        return upstream.finish_at_once(self._response)

    async def aclose(self) -> None:
        await self._response.aclose()


def _named(request: HttpRequest) -> str | None:
    query = request.GET
    return request.headers.get("X-Respan-Provider") or query.get("provider") or query.get("provider_id") or None


def _answer(reply: Reply) -> HttpResponse:
    headers = {**reply.headers, **_NEVER_A_PAGE}
    return HttpResponse(reply.body, status=reply.status, content_type=reply.content_type, headers=headers)
