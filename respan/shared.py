"""One fetch for everybody: callers who want the same thing at the same time share one answer.

A thousand calls that find a cache stale ask the database once. Part of the floor; caches nothing itself.
Neighbours: `gateway.credentials`, `billing.prices`.
"""

import asyncio
import weakref
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Shared(Generic[K, V]):
    """At most one fetch of a key runs in an event loop at any time."""

    def __init__(self) -> None:
        self._running: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[K, asyncio.Task[V]]]
        self._running = weakref.WeakKeyDictionary()

    async def get(self, key: K, fetch: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Return what `fetch` returns, or raise what it raises; a fetch that is under way already is waited for.

        A caller who is cancelled does not take the answer away from the others.
        """
        loop = asyncio.get_running_loop()
        running = self._running.setdefault(loop, {})
        task = running.get(key)
        if task is None:
            task = running[key] = loop.create_task(fetch())
            task.add_done_callback(lambda done: self._over(running, key, done))
        return await asyncio.shield(task)

    @staticmethod
    def _over(running: dict[K, "asyncio.Task[V]"], key: K, task: "asyncio.Task[V]") -> None:
        running.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, even when every caller has left
