"""Places of this process for calls, so shared that no organization can take all of them.

An organization that holds its share already leaves the last tenth of the places to the others, and when calls wait,
those whose organization holds least go first. Costs an addition where nobody has to wait. Counts calls of this process
only, and holds no limit of anybody's own (`throttle.py`). Neighbours: `throttle.py`, and `respan.outbound`, where the
connections to providers are counted.
"""

import asyncio
from collections import defaultdict, deque
from typing import Final

from django.conf import settings

from respan.errors import Error
from respan.loops import OfLoop

WAIT_S: Final = 2.0


class TooManyCalls(Error):
    """Other calls of the same organization hold the places that it may have here."""

    status = 429
    code = "too_many_calls"
    message = "Too many calls of your organization are under way. Try again in a moment."


class Places:
    """The places of one event loop, and who waits for one."""

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self.wait_s = wait_s
        self.places: int = settings.RESPAN_UPSTREAM_MAX_CONCURRENCY
        self.share: int = settings.RESPAN_TENANT_MAX_CONCURRENCY or max(self.places // 2, 1)
        self.kept = max(self.places // 10, 1) if self.places > 1 else 0
        self.taken = 0
        self.held: dict[int, int] = defaultdict(int)
        self.waiting: dict[int, deque[asyncio.Future[None]]] = {}

    def _fits(self, organization_id: int) -> bool:
        free = self.places - self.taken
        return free > 0 and (self.held.get(organization_id, 0) < self.share or free > self.kept)

    def _take(self, organization_id: int) -> None:
        self.taken += 1
        self.held[organization_id] += 1

    async def enter(self, organization_id: int) -> None:
        """Take a place, after a wait of 2 s at most. Raises: TooManyCalls."""
        if not self.waiting and self._fits(organization_id):
            self._take(organization_id)
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(organization_id, deque()).append(place)
        self._admit()
        try:
            async with asyncio.timeout(self.wait_s):
                await place
        except BaseException as error:
            self._gone(organization_id, place)
            if isinstance(error, TimeoutError):
                raise TooManyCalls(headers={"Retry-After": "1"}) from None
            raise

    def _gone(self, organization_id: int, place: "asyncio.Future[None]") -> None:
        """Forget who waited no longer; a place that came at the same moment goes to the next."""
        if place.done() and not place.cancelled():
            self.leave(organization_id)
        queue = self.waiting.get(organization_id, deque())
        if place in queue:
            queue.remove(place)
        if not queue:
            self.waiting.pop(organization_id, None)

    def leave(self, organization_id: int) -> None:
        """Give a place back."""
        self.taken -= 1
        self.held[organization_id] -= 1
        if self.waiting:
            self._admit()
        if not self.held[organization_id]:
            del self.held[organization_id]

    def _admit(self) -> None:
        """Let in who waits and fits, each time of the organization that holds least."""
        while fitting := [each for each in self.waiting if self._fits(each)]:
            organization_id = min(fitting, key=lambda each: self.held.get(each, 0))
            queue = self.waiting[organization_id]
            place = queue.popleft()
            if not queue:
                del self.waiting[organization_id]
            if not place.done():
                self._take(organization_id)
                place.set_result(None)


# The places of the running event loop.
here: OfLoop[Places] = OfLoop(Places)
