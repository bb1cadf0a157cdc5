"""Calls against a gateway under test, many at once, in a thread of their own, with what became of each.

Half of them stream. Knows nothing of the gateway's inside: it sees what a client sees. Neighbours: `drills/`.
"""

import asyncio
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp


@dataclass(slots=True)
class Outcome:
    """What a client saw of one call; `log_id` is None when it never saw a head."""

    log_id: str | None = None
    status: int | None = None
    complete: bool = False
    stream: bool = False
    seconds: float = 0.0


class Traffic:
    """`connections` callers who each call again and again until `stop()` or `calls` are made.

    `members` are added to the body of each call.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        model: str,
        connections: int = 16,
        calls: int = 10**9,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        self.url = f"{base_url}/api/chat/completions"
        self.headers = {"Authorization": f"Bearer {api_key}"}
        self.model = model
        self.members = dict(members or {})
        self.connections = connections
        self.calls = calls
        self.outcomes: list[Outcome] = []
        self.in_flight = 0
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Let the open calls end and return."""
        self._stop.set()
        self.join()

    def join(self, timeout_s: float = 300.0) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the traffic did not end"

    def counts(self) -> Counter:
        return Counter(outcome.status for outcome in self.outcomes)

    def log_ids(self) -> set[str]:
        return {outcome.log_id for outcome in self.outcomes if outcome.log_id}

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=120)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(self._caller(session) for _ in range(self.connections)))

    async def _caller(self, session: aiohttp.ClientSession) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            if number >= self.calls:
                return
            self.in_flight += 1
            try:
                outcome = await self._call(session, number)
            finally:
                self.in_flight -= 1
            self.outcomes.append(outcome)
            if outcome.status is None:
                await asyncio.sleep(0.05)  # nobody listens: do not spin

    async def _call(self, session: aiohttp.ClientSession, number: int) -> Outcome:
        stream = number % 2 == 1
        outcome = Outcome(stream=stream)
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": f"call {number} at {time.time()}"}],
            "max_tokens": 20,
            "stream": stream,
            **self.members,
        }
        begun = time.monotonic()
        try:
            async with session.post(self.url, json=body, headers=self.headers) as answer:
                outcome.status = answer.status
                outcome.log_id = answer.headers.get("X-Respan-Log-Id")
                text = await answer.read()
                outcome.complete = answer.status == 200 and (b"[DONE]" in text if stream else bool(json.loads(text)))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            pass
        outcome.seconds = time.monotonic() - begun
        return outcome
