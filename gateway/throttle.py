"""Whether a call may go on: the limits of its organization, and the places of this process.

Responsible for what every call asks on its way in and gives back at its end. A process spends what the store of
counters has given it and asks for more when that is used up, so that all processes together never pass a limit. While
the store does not answer a process allows its share: the limit divided by `RESPAN_WEB_PROCESSES`, at least 1. Knows no
SQL (`counters.py`) and no form of a limit (`limits.py`). Neighbours: `call.py`, `fairness.py`, `counting.py`.
"""

import math
import time
from typing import TYPE_CHECKING, ClassVar

import structlog

from billing.usage import Usage, cost
from gateway import counting, fairness, limits
from gateway.counting import Counter
from gateway.limits import COST, Facts, Policy
from respan.errors import Error

if TYPE_CHECKING:
    from gateway.call import Call

log = structlog.get_logger(__name__)

# About what a token is in UTF-8, where a provider reported no usage.
_BYTES_PER_TOKEN = 4
_UNITS = {"request_count": "requests", "token_count": "tokens", "cost": "USD", "concurrency": "calls at once"}
_NAMED = {
    "organization_id": "the organization",
    "api_key_id": "this API key",
    "customer_identifier": "this customer",
    "model": "this model",
    "endpoint": "this endpoint",
}


class LimitReached(Error):
    """A limit of the organization's own refuses this call for now; `limit` is its name."""

    status = 429
    code = "rate_limit_exceeded"
    limit: str = ""


class Permit:
    """What a call took: its place in this process, and what it counts against."""

    __slots__ = ("_call", "_counters", "_left", "_places", "limit", "warnings")
    _NOTHING: ClassVar[tuple[str, ...]] = ()

    def __init__(self, call: "Call", places: fairness.Places) -> None:
        self._call = call
        self._places = places
        self._counters: list[tuple[Policy, Counter]] = []
        self._left = False
        # For the log: what is not refused but worth knowing, and the soft limit that was reached.
        self.warnings: tuple[str, ...] = self._NOTHING
        self.limit: str | None = None

    def leave(self, usage: Usage | None) -> None:
        """Give the places back and book what was used. Never raises, does nothing the second time."""
        if self._left:
            return
        self._left = True
        try:
            self._places.leave(self._call.caller.organization_id)
            for policy, counter in self._counters:
                counter.leave(_amount(policy, self._call, usage))
        except Exception:
            log.exception("limits not settled", call=self._call.log_id)


async def enter(call: "Call") -> Permit:
    """Let a call in. Raises: LimitReached; fairness.TooManyCalls."""
    places = fairness.here()
    await places.enter(call.caller.organization_id)
    permit = Permit(call, places)
    try:
        policies = await limits.of(call.caller.organization_id)
        per_minute = call.params.customer_rate_limit
        if policies or per_minute is not None:
            await _count(permit, call, policies, per_minute)
    except BaseException:
        permit.leave(None)
        raise
    return permit


async def close() -> None:
    """Book what is not booked yet and give back this loop's places (lifespan shutdown, end of a test)."""
    await counting.close()


async def _count(permit: Permit, call: "Call", policies: tuple[Policy, ...], per_minute: int | None) -> None:
    facts = _facts(call)
    if per_minute is not None:
        if facts.customer_identifier is None:
            permit.warnings = ("customer_params.rate_limit has no effect without a customer_identifier",)
        policies = (*policies, limits.of_request(facts.organization_id, per_minute))
    here, now_ms = counting.here(), int(time.time() * 1000)
    met = [
        (policy, here.counter(policy, subject, now_ms))
        for policy in policies
        if (subject := policy.subject(facts, now_ms)) is not None
    ]
    while waiting := [each for each in met if not each[1].has_room(each[0], now_ms)]:
        for policy, counter in waiting:
            if not await counter.make_room(policy):
                raise _refusal(policy, counter)
        now_ms = int(time.time() * 1000)
    # From here on nothing is waited for: all of it is taken or, above, none.
    for policy, counter in met:
        counter.take(policy)
    permit._counters = met
    _warn(permit, met)


def _facts(call: "Call") -> Facts:
    asked, caller = call.asked, call.caller
    return Facts(
        organization_id=caller.organization_id,
        api_key_id=caller.api_key_id,
        customer_identifier=call.params.customer_identifier,
        model=asked.model if asked is not None else "",
        endpoint=call.client.operation,
    )


def _refusal(policy: Policy, counter: Counter) -> LimitReached:
    value = limits.shown(policy.metric, policy.most or 0)
    window = policy.period or "lifetime"
    what = f"{value} {_UNITS[policy.metric]}{limits.per(policy)}"
    whom = " and ".join(_NAMED[scope] for scope in policy.compose)
    error = LimitReached(
        f"The limit “{policy.name}” is reached: {what} for {whom}.",
        extra={
            "limit": {
                "id": policy.public_id or None,
                "name": policy.name,
                "metric": policy.metric,
                "value": value,
                "window": window,
                "scope": list(policy.compose),
            }
        },
    )
    if (wait_s := counter.wait_s(policy)) is not None:
        error.headers["Retry-After"] = str(max(math.ceil(wait_s), 1))
    else:
        error.headers["x-should-retry"] = "false"
    error.limit = policy.name
    return error


def _warn(permit: Permit, met: list[tuple[Policy, Counter]]) -> None:
    """Note the soft limits that are reached; the first call of a window that finds one is an event."""
    for policy, counter in met:
        used = counter.used
        reached = [value for value in policy.soft if used >= value]
        if not reached:
            continue
        value = reached[-1]
        amount = f"{limits.shown(policy.metric, value)} {_UNITS[policy.metric]}{limits.per(policy)}"
        permit.warnings = (*permit.warnings, f"the soft limit “{policy.name}” is reached: {amount}")
        permit.limit = permit.limit or policy.name
        if value not in counter.told:
            counter.told.add(value)
            log.warning(
                "soft_limit_reached",
                organization=policy.organization_id,
                limit=policy.public_id,
                value=value,
                call=permit._call.log_id,
            )


def _amount(policy: Policy, call: "Call", usage: Usage | None) -> int:
    """Return what a call used of a limit of tokens or cost; about its input where the provider reported nothing."""
    if policy.metric not in (limits.TOKENS, COST) or (usage is None and not call.accepted_upstream):
        return 0
    if usage is None:
        usage = Usage(input_tokens=-(-call.asked.input_bytes // _BYTES_PER_TOKEN) if call.asked is not None else 0)
    if policy.metric == limits.TOKENS:
        return usage.input_tokens + usage.output_tokens
    price = call.target.price if call.target is not None else None
    return cost(usage, price.rates) if price is not None else 0
