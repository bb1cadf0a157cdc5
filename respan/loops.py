"""One of something for each event loop: a connection, a semaphore and a future belong to the loop that made them.

Part of the floor. Never closes what it holds. Neighbours: `outbound.py`, `redis.py`, `gateway.fairness`.
"""

import asyncio
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class OfLoop(Generic[T]):
    """Call it for what belongs to the running loop, made when it is asked for first."""

    __slots__ = ("_all", "_last", "_loop", "_make")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._all: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = weakref.WeakKeyDictionary()
        # A server has one loop: comparing it costs a tenth of a look-up by weak reference.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last: T | None = None

    def __call__(self) -> T:
        """Return what belongs to the running loop."""
        loop = asyncio.get_running_loop()
        if loop is self._loop and self._last is not None:
            return self._last
        found = self._all.get(loop)
        if found is None:
            found = self._all[loop] = self._make()
        self._loop, self._last = loop, found
        return found

    def pop(self) -> T | None:
        """Forget, and return, what belongs to the running loop."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            self._loop = self._last = None
        return self._all.pop(loop, None)
