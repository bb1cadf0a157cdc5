"""A client that leaves: whoever works for it may say that the work goes on without it.

Part of the floor. The view puts a `Staying` into the scope of its request, the server asks it when the connection ends:
while the answer is made or sent (`respan.asgi`), and after it, when the client reset the connection (`respan.web`).
A server that can tell of a lost connection by itself promises so in the scope: that spares a task for each request.
Neighbour: `gateway.retried` (a retry may be waiting for the same answer).
"""

from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

_MEMBER = "respan.staying"
_LISTENER = "respan.listener"


class Staying(Protocol):
    """Work that may outlive its client."""

    def left(self) -> bool:
        """Hear that the client is gone; tell whether the work goes on all the same."""


def stay(scope: MutableMapping[str, Any], staying: Staying) -> None:
    """Have a request's work asked before it is cancelled."""
    scope[_MEMBER] = staying


def goes_on(scope: MutableMapping[str, Any]) -> bool:
    """Say that the client is gone; tell whether its work goes on."""
    staying: Staying | None = scope.get(_MEMBER)
    return staying is not None and staying.left()


def promise(scope: MutableMapping[str, Any]) -> None:
    """Promise that `lost` will be called if the connection ends before the answer does (the server)."""
    scope[_LISTENER] = None


def listen(scope: MutableMapping[str, Any], listener: Callable[[], None]) -> bool:
    """Have a function called when the connection is lost; tell whether the server has promised to."""
    if _LISTENER not in scope:
        return False
    scope[_LISTENER] = listener
    return True


def lost(scope: MutableMapping[str, Any]) -> None:
    """Say that the connection has ended before the answer was complete (the server)."""
    listener: Callable[[], None] | None = scope.get(_LISTENER)
    if listener is not None:
        listener()
