"""The attempts of one call: which target is asked next, after what pause, and why each other one was not.

Responsible for the order of things between a call's targets: breakers, the hold, pauses, the next target, and the
`Attempt` each leaves on the trace. Never knows a wire format or a socket (`Call.attempt` makes one attempt), never
chooses the targets (`candidates.py`), decides what follows a failure through `retrying.py`. Neighbours: `call.py`,
`health.py`.

Until the first data event of an answer has been sent another target may take over; `Call.attempt` returns only then.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from django.http import HttpResponseBase

from billing import ledger
from gateway import breaker_sharing, health, outgoing, retrying, upstream
from gateway.answers import CallFailed
from gateway.candidates import Candidate, Skipped
from gateway.credentials import CredentialUnreadable
from gateway.health import Health
from gateway.retrying import Again, Failure, Policy, Stop
from respan import ids
from respan.errors import Error
from respan.outbound import ForbiddenAddress
from traces.spans import Attempt

if TYPE_CHECKING:
    from gateway.call import Call

# What says that this target cannot take the request, and nothing of others.
_OF_THE_TARGET = (
    outgoing.UnsupportedParameter,
    outgoing.UnsupportedEndpoint,
    outgoing.KeyOfNoUse,
    CredentialUnreadable,
)
_OURS = (*_OF_THE_TARGET, ForbiddenAddress)
# What an SDK would try again by itself.
_SDK_RETRIES = frozenset({408, 409, 429})
_MESSAGE_CHARS = 300


class NoTargetLeft(Error):
    """Every target of the call has failed so much lately that nobody is asked for a moment."""

    status = 503
    code = "upstream_unavailable"


class Trail:
    """The way of one call along its targets."""

    __slots__ = (
        "begun",
        "call",
        "current",
        "errors",
        "first",
        "has_answered",
        "health",
        "made",
        "policy",
        "reason",
        "retries",
        "waiting",
        "why",
    )

    def __init__(
        self, call: "Call", candidates: Sequence[Candidate], skipped: Sequence[Skipped], *, policy: Policy
    ) -> None:
        self.call = call
        self.waiting = deque(candidates)
        self.policy = policy
        self.first = self.current = candidates[0]
        self.health: Health | None = None
        self.errors: list[Error] = []  # the primary's first
        self.why = [f"{each.name} was skipped: {each.why}" for each in skipped]  # of all but the first error
        self.reason = "first"
        self.made = 0
        self.retries = 0  # at the current target
        self.begun = 0.0  # the current attempt
        self.has_answered = False
        for each in skipped:
            call.attempts.append(_passed_over(call, each))

    async def run(self) -> HttpResponseBase:
        """Return the answer of the first target that gives one.

        Raises: Error, the primary's, when none does; asyncio.CancelledError when the client has gone.
        """
        await self._enter()
        while True:
            begun = self.begun = time.monotonic()
            try:
                response = await self.call.attempt(self.current)
            except upstream.UpstreamBusy as error:
                self._left(begun, error.code)
                raise
            except Error as error:
                step, pause_s = self._after(error, begun)
                if isinstance(step, Stop):
                    raise self._final() from error
                if isinstance(step, Again):
                    self.reason, self.retries = "retry", self.retries + 1
                    await asyncio.sleep(pause_s)
                    if not self._may_ask(self.current):
                        self._note_skipped(self.current, "its circuit breaker is open")
                        await self._enter()
                else:
                    self.reason, self.retries = "fallback", 0
                    await self._enter()
            except BaseException:
                self._left(begun, "client_closed")
                raise
            else:
                self.answered()
                return response

    def answered(self) -> None:
        """Note the attempt that answers. A whole answer is told before its call is closed: the trace holds it then."""
        if self.has_answered:
            return
        self.has_answered = True
        self.made += 1
        if self.health is not None:
            now = time.monotonic()
            self.health.passed(now, now - self.begun)
        self._note(self.begun)

    # --- the next target -------------------------------------------------------------------------------------------

    async def _enter(self) -> None:
        """Make the next target that can be asked the current one. Raises: Error, the first one met, if none is left."""
        while self.waiting:
            candidate = self.waiting.popleft()
            try:
                await self.call.prepare(candidate, is_other_model=candidate.is_other_model)
            except Error as error:
                # What the first target makes of the request is the answer; of another one it is a reason to pass over.
                if candidate is self.first and not isinstance(error, _OF_THE_TARGET):
                    raise
                self._pass_over(candidate, error)
                continue
            if not self._may_ask(candidate):
                self._pass_over(candidate, self._unavailable(candidate))
                continue
            try:
                self.call.open([candidate, *self.waiting])
                await self.call.hold(candidate, [*self.waiting][: retrying.MOST_ATTEMPTS - self.made - 1])
            except BaseException as error:
                if self.health is not None:
                    self.health.left()  # a probe that asks nothing must not keep the place of one that would
                if not isinstance(error, ledger.InsufficientCredits | ledger.LedgerUnavailable):
                    raise
                self._pass_over(candidate, error)
                continue
            self.current = candidate
            if not self.made:
                health.budget(candidate.target.model.provider).earn()
            return
        raise self._final()

    def _may_ask(self, candidate: Candidate) -> bool:
        now = time.monotonic()
        breaker_sharing.look(now)
        self.health = health.at(self._place(candidate))
        return self.health.enter(now)

    def _place(self, candidate: Candidate) -> health.Place:
        target, way = candidate.target, self.call.way
        region = way.base_url if way is not None else ""
        return health.Place(target.model.provider, region, target.model.id, target.key.identity if target.key else None)

    def _pass_over(self, candidate: Candidate, error: Error) -> None:
        self.errors.append(error)
        self._note_skipped(candidate, error.message)

    def _note_skipped(self, candidate: Candidate, why: str) -> None:
        self._tell(f"{candidate.target.model.full_name} was skipped: {why}")
        self.call.attempts.append(
            self._attempt(candidate, begun=time.monotonic(), skipped=True, error=why[:_MESSAGE_CHARS])
        )

    def _unavailable(self, candidate: Candidate) -> NoTargetLeft:
        wait = 1
        if self.health is not None and self.health.open_until is not None:
            wait = max(1, round(self.health.open_until - time.monotonic()))
        return NoTargetLeft(
            f"{candidate.target.model.full_name} has failed too often in the last seconds and is not asked for "
            f"{wait} s.",
            headers={"Retry-After": str(wait)},
        )

    # --- after an attempt ------------------------------------------------------------------------------------------

    def _after(self, error: Error, begun: float) -> tuple[retrying.Step, float]:
        """Note a failed attempt; return what follows it and after how many seconds."""
        self.made += 1
        failure = failure_of(error)
        if self.health is not None:
            if not retrying.counts_against(failure):
                self.health.left()
            elif self.health.failed(time.monotonic()):
                breaker_sharing.opened(self._place(self.current))
        self.errors.append(error)
        self.call.accepted_upstream = False  # nothing of it reached the client: it costs nothing
        provider = self.current.target.model.provider
        step = retrying.step(
            failure,
            made=self.made,
            retries=self.retries,
            policy=self.policy,
            has_next=bool(self.waiting),
            may_spend=lambda: health.budget(provider).spend(time.monotonic()),
            random=random.random,
        )
        pause_s = step.pause_s if isinstance(step, Again) else 0.0
        if time.monotonic() + pause_s >= self.call.deadline:
            step = Stop()
        what = str(failure.status or error.code)
        self._tell(f"{self.current.target.model.full_name} failed: {what}")
        follows = {"Again": f"retry after {pause_s:.1f} s: {what}", "Onward": f"fallback: {what}"}
        self._note(begun, error=error, follows=follows.get(type(step).__name__))
        return step, pause_s

    def _left(self, begun: float, code: str) -> None:
        if self.health is not None:
            self.health.left()
        self._note(begun, code=code)

    def _final(self) -> Error:
        """Return the error of the whole call: the primary's, with what became of the others."""
        error = self.errors[0]
        self.call.target = self.first.target
        if self.why and retrying.may_move(failure_of(error)):
            error.message = f"{error.message} ({'; '.join(self.why)})"[:2_000]
            if isinstance(error, CallFailed):
                error.body = None  # the provider's own words would not tell of the others
        if (error.status in _SDK_RETRIES or error.status >= 500) and (self.policy.enabled or self.why):
            error.headers["x-should-retry"] = "false"
        return error

    def _tell(self, why: str) -> None:
        """Note why a target was no help; the first error speaks for itself."""
        if len(self.errors) > 1 or not self.errors:
            self.why.append(why)

    # --- the trace -------------------------------------------------------------------------------------------------

    def _note(
        self, begun: float, *, error: Error | None = None, code: str | None = None, follows: str | None = None
    ) -> None:
        self.call.attempts.append(
            self._attempt(
                self.current,
                begun=begun,
                status=self.call.upstream_status,
                error=error.code if error else code,
                message=error.message[:_MESSAGE_CHARS] if error and not self.call.caller.zero_retention else None,
                next=follows,
            )
        )

    def _attempt(
        self,
        candidate: Candidate,
        *,
        begun: float,
        status: int | None = None,
        error: str | None = None,
        message: str | None = None,
        next: str | None = None,
        skipped: bool = False,
    ) -> Attempt:
        target, call = candidate.target, self.call
        return Attempt(
            provider=target.model.provider,
            model=target.model.upstream,
            credential=target.key.public_id if target.key else None,
            credential_name=target.key.name if target.key else None,
            started_us=call.started_us + int((begun - call.started) * 1_000_000),
            duration_us=int((time.monotonic() - begun) * 1_000_000),
            status=status,
            error=error,
            message=message,
            next=next,
            reason=self.reason,
            skipped=skipped,
            span_id=ids.new_span_id(),
        )


def _passed_over(call: "Call", skipped: Skipped) -> Attempt:
    """Return what the trace holds of a target that could not serve the request at all."""
    return Attempt(
        provider=skipped.provider or "",
        model=skipped.name,
        started_us=call.started_us + int((time.monotonic() - call.started) * 1_000_000),
        duration_us=0,
        error=skipped.why[:_MESSAGE_CHARS],
        reason="fallback",
        skipped=True,
        span_id=ids.new_span_id(),
    )


def failure_of(error: Error) -> Failure:
    """Return an attempt's error as `retrying` understands it."""
    if isinstance(error, CallFailed):
        return Failure(error.upstream_status, error.message, error.retry_after_s)
    if isinstance(error, _OURS):
        return Failure(None, error.message, is_ours=True)
    if isinstance(error, upstream.UpstreamError):
        return Failure(None, error.message, was_sent=not isinstance(error, upstream.UpstreamUnreachable))
    return Failure(error.status, error.message)


def retry_after_s(headers: Sequence[tuple[bytes, bytes]]) -> float | None:
    """Return what a provider's headers ask to wait, in seconds from now."""
    return retrying.retry_after_s(headers, now=datetime.now(UTC))
