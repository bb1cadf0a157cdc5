"""An answer that can be given again: what is kept of it, and the response it becomes.

Byte-equal, with its status, its content type and those of its headers that say something about the answer; a stream
comes back as the events that were sent. Knows no table and no memory: `idempotency.py` and `retried.py` keep.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.http import HttpResponse, HttpResponseBase

REPLAYED: Final = "X-Respan-Replayed"
# Larger answers are not kept.
MAX_BYTES: Final = 1024 * 1024
_KEPT_HEADERS: Final = frozenset(
    {"cache-control", "content-disposition", "content-security-policy", "x-accel-buffering", "x-content-type-options"}
)
_OURS: Final = "x-respan-"

# Work that is done whatever happens to the request it was for.
_running: set[asyncio.Task[Any]] = set()


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer of success."""

    status: int
    content_type: str
    headers: Mapping[str, str]
    is_stream: bool
    body: bytes

    def response(self) -> HttpResponse:
        """Return the same answer once more, marked as a replay."""
        headers = {**self.headers, REPLAYED: "true"}
        return HttpResponse(self.body, status=self.status, content_type=self.content_type, headers=headers)


def kept(response: HttpResponseBase, body: bytes, *, is_stream: bool) -> Kept:
    """Return what is kept of a response, whose body is given."""
    headers = {}
    for name, value in response.items():
        lower = name.lower()
        if lower.startswith(_OURS) or lower in _KEPT_HEADERS:
            headers[name] = value
    return Kept(response.status_code, response.get("Content-Type", ""), headers, is_stream, body)


def start(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Run to the end, whoever waits for it."""
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


async def written(*, timeout_s: float) -> None:
    """Wait for what is being written down, as the server stops; not for a database that is away."""
    if _running:
        await asyncio.wait(set(_running), timeout=timeout_s)
