"""Files behind URLs, fetched for a provider that wants their bytes.

Responsible for downloading the images and documents of a request in the middle form, within limits of size, time and
redirects, and for what they are (their first bytes say it, not their server). Each address is vetted by the transport
as it is dialled, each redirect anew; no key, no cookie and no header of the client's goes along. Never reads a file
further than its first bytes, never keeps one. Neighbours: `call.py` (before a translated request is written),
`respan.outbound` (the transport).
"""

import asyncio
import base64
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from gateway import upstream
from gateway.dialects import blocks, file_ids, wire
from respan.errors import Error

MAX_FILE_BYTES = 20 * 1024 * 1024
MAX_BYTES = 50 * 1024 * 1024
MAX_FILES = 100
MAX_REDIRECTS = 3
AT_ONCE = 4
TOTAL_S = 20.0
_LIMITS = {"connect": 5.0, "first_byte": 10.0, "read": 10.0, "total": TOTAL_S}
_HEADERS = {"user-agent": "respan/0.1", "accept": "image/*, application/pdf;q=0.9, */*;q=0.1"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SHOWN_URL = 200

PDF = "application/pdf"
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


class AttachmentUnavailable(Error):
    """A file behind a URL cannot be fetched, or is nothing a model can be shown; `param` names the member."""

    status = 400
    code = "attachment_unavailable"


@dataclass(slots=True)
class _Budget:
    """How many bytes may still be fetched for one request."""

    left: int
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))


@dataclass(frozen=True, slots=True)
class _Fetched:
    media_type: str
    data: str  # base64


async def inline(
    request: blocks.Request,
    *,
    transport: httpx.AsyncBaseTransport,
    asked: wire.Asked | None = None,
    kinds: tuple[type[blocks.Block], ...] = (blocks.Image, blocks.Document),
) -> None:
    """Put the bytes of every image and document (those of `kinds`) behind an http(s) URL into the request, in place.

    What a file is decides, not what it was called: a PDF sent as an image becomes a document. `asked` is the client's
    request, for the name of the member in an error. Raises: AttachmentUnavailable.
    """
    found = (block for content in _contents(request) for block in content if isinstance(block, kinds))
    urls = list(dict.fromkeys(url for block in found if (url := _url(block))))
    if not urls:
        return
    if len(urls) > MAX_FILES:
        raise AttachmentUnavailable(f"The request names more than {MAX_FILES} files by URL.")
    fetched = await _fetch_all(urls, transport, asked)
    for content in _contents(request):
        content[:] = [_filled(block, fetched[url]) if (url := _url(block)) in fetched else block for block in content]


def sniffed(data: bytes) -> str | None:
    """Return the media type that a file's first bytes tell, None when they tell nothing a model can be shown."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    if b"%PDF-" in data[:1024]:  # readers allow some bytes before it
        return PDF
    return next((media_type for magic, media_type in _MAGIC if data.startswith(magic)), None)


def _contents(request: blocks.Request) -> Iterator[list[blocks.Block]]:
    for message in request.messages:
        yield message.blocks
        for block in message.blocks:
            if isinstance(block, blocks.ToolResult):
                yield block.content


def _url(block: blocks.Block) -> str | None:
    if not isinstance(block, blocks.Image | blocks.Document) or not block.url or block.data is not None:
        return None
    return block.url if block.url[:8].lower().startswith(("https://", "http://")) else None


def _filled(block: blocks.Block, file: _Fetched) -> blocks.Block:
    name = block.name if isinstance(block, blocks.Document) else None
    cache = block.cache if isinstance(block, blocks.Image | blocks.Document) else None
    if file.media_type != PDF:
        detail = block.detail if isinstance(block, blocks.Image) else None
        return blocks.Image(media_type=file.media_type, data=file.data, detail=detail, cache=cache)
    document = blocks.Document(media_type=PDF, data=file.data, name=name, cache=cache)
    if isinstance(block, blocks.Document):
        document.context, document.citations = block.context, block.citations
    return document


async def _fetch_all(
    urls: list[str], transport: httpx.AsyncBaseTransport, asked: wire.Asked | None
) -> dict[str, _Fetched]:
    budget = _Budget(MAX_BYTES)
    tasks = [asyncio.ensure_future(_fetch(url, transport, budget)) for url in urls]
    try:
        async with asyncio.timeout(TOTAL_S):
            return dict(zip(urls, await asyncio.gather(*tasks), strict=True))
    except TimeoutError:
        late = next((url for url, task in zip(urls, tasks, strict=True) if not _is_fetched(task)), urls[0])
        raise _unavailable(late, f"the files took longer than {TOTAL_S:g} seconds together.", asked) from None
    except _Failed as error:
        raise _unavailable(error.url, str(error), asked) from error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_fetched(task: "asyncio.Future[_Fetched]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


class _Failed(Exception):
    """Why one file cannot be had; `url` is the client's."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(reason)
        self.url = url


def _unavailable(url: str, reason: str, asked: wire.Asked | None) -> AttachmentUnavailable:
    shown = url if len(url) <= _SHOWN_URL else f"{url[:_SHOWN_URL]}…"
    param = file_ids.find(asked, url) if asked is not None else None
    return AttachmentUnavailable(f"{shown} cannot be used: {reason}", param=param)


async def _fetch(url: str, transport: httpx.AsyncBaseTransport, budget: _Budget) -> _Fetched:
    async with budget.places:
        try:
            data = await _download(_parsed(url), transport, budget)
        except ValueError as error:
            raise _Failed(url, str(error)) from error
        except Error as error:
            raise _Failed(url, _plain(error)) from error
    media_type = sniffed(data)
    if media_type is None:
        raise _Failed(url, "it is neither a PNG, JPEG, GIF or WebP image nor a PDF.")
    return _Fetched(media_type, base64.b64encode(data).decode())


def _plain(error: Error) -> str:
    if isinstance(error, upstream.UpstreamTimeout):
        return "its server did not answer in time."
    if isinstance(error, upstream.UpstreamUnreachable):
        return "its server cannot be reached."
    if isinstance(error, upstream.UpstreamError):
        return "its server's answer cannot be read."
    return error.message


def _parsed(text: str, base: httpx.URL | None = None) -> httpx.URL:
    """Return a URL (or one relative to `base`) fit to be fetched. Raises: ValueError saying what is wrong."""
    try:
        url = httpx.URL(text) if base is None else base.join(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError("it is not a valid URL.") from error
    if url.scheme not in ("https", "http") or not url.host:
        raise ValueError("it is not an https URL.")
    if url.userinfo:
        raise ValueError("a URL with a user name or a password is not fetched.")
    return url.copy_with(fragment=None)


async def _download(url: httpx.URL, transport: httpx.AsyncBaseTransport, budget: _Budget) -> bytes:
    """Return what a URL leads to. Raises: ValueError saying what is wrong; Error of the transport."""
    deadline = time.monotonic() + TOTAL_S
    for _ in range(MAX_REDIRECTS + 1):
        request = httpx.Request("GET", url, headers=_HEADERS, extensions={"timeout": _LIMITS})
        response = await upstream.send(request, transport=transport, deadline=deadline)
        try:
            if response.status_code in _REDIRECTS and (location := response.headers.get("location")):
                url = _parsed(location, url)
                continue
            if response.status_code != 200:
                raise ValueError(f"its server answered {response.status_code}.")
            return await _read(response, budget)
        finally:
            await response.aclose()
    raise ValueError(f"it is redirected more than {MAX_REDIRECTS} times.")


async def _read(response: httpx.Response, budget: _Budget) -> bytes:
    announced = response.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES >> 20} MB.")
    parts: list[bytes] = []
    size = 0
    async for block in upstream.blocks(response):
        size += len(block)
        budget.left -= len(block)
        if size > MAX_FILE_BYTES:
            raise ValueError(f"it is larger than {MAX_FILE_BYTES >> 20} MB.")
        if budget.left < 0:
            raise ValueError(f"the files of the request are larger than {MAX_BYTES >> 20} MB together.")
        parts.append(block)
    return b"".join(parts)
