"""Ten thousand calls through failing providers: how many are answered, and what that costs the providers.

Part of `make test-long`. Half of the calls stream; each is made once, by a client that never tries again itself. The
clients are `tests/traffic.py`, what fails is scripted (`tests/provider.py`, `sometimes`). Every answer counts only when
it is complete.
"""

import time
from dataclasses import dataclass

import pytest

from tests.provider import Provider
from tests.servers import wait_until
from tests.stack import Stack, Tenant, new_tenant
from tests.traffic import Traffic

pytestmark = [pytest.mark.long, pytest.mark.timeout(480), pytest.mark.xdist_group("survival")]

CALLS = 10_000
CONNECTIONS = 16
# How a call fails before anything of its answer was sent.
FAILURES = ("status=500", "status=503", "reset=before", "cut=head")


@dataclass
class Figures:
    """What became of a number of calls."""

    calls: int
    answered: int
    upstream: int
    slowest_s: float
    lasted_s: float

    def __str__(self) -> str:
        share, cost = 100 * self.answered / self.calls, self.upstream / self.calls
        return (
            f"{self.calls:,} calls: {share:.3f} % answered, {cost:.3f} upstream calls each, "
            f"slowest {self.slowest_s:.2f} s, {self.calls / self.lasted_s:.0f}/s"
        )


@pytest.fixture
def tenant(running, transactional_db):
    provider = Provider().start()
    server = running(shipper=True, worker=True, env={"RESPAN_UPSTREAM_ALLOW": provider.address})
    yield new_tenant(Stack(server, provider, vendors=None), local=True, retries=True)
    provider.stop()


def drill(tenant: Tenant, model: str, fallbacks: list[str], calls: int) -> Figures:
    """Make calls to a model with fallbacks."""
    before, begun = len(tenant.stack.provider.requests), time.monotonic()
    members = {"fallback_models": fallbacks, "retry_params": {"retry_enabled": True, "num_retries": 2}}
    traffic = Traffic(
        tenant.stack.base_url, tenant.key, model=model, connections=CONNECTIONS, calls=calls, members=members
    ).start()
    traffic.join(timeout_s=440)
    return Figures(
        calls=len(traffic.outcomes),
        answered=sum(outcome.complete for outcome in traffic.outcomes),
        upstream=len(tenant.stack.provider.requests) - before,
        slowest_s=max(outcome.seconds for outcome in traffic.outcomes),
        lasted_s=time.monotonic() - begun,
    )


def together(parts: list[Figures]) -> Figures:
    return Figures(
        calls=sum(part.calls for part in parts),
        answered=sum(part.answered for part in parts),
        upstream=sum(part.upstream for part in parts),
        slowest_s=max(part.slowest_s for part in parts),
        lasted_s=sum(part.lasted_s for part in parts),
    )


def failing(name: str, share: float, failure: str) -> str:
    return f"local/{name}:chunks=3,sometimes={share}:{failure};of={name}"


def test_a_primary_that_fails_every_fifth_call(tenant):
    parts = [
        drill(tenant, failing("primary", 0.2, failure), ["local/healthy:chunks=3"], CALLS // len(FAILURES))
        for failure in FAILURES
    ]
    figures = together(parts)
    print(f"\nprimary fails 20 %, the fallback is healthy: {figures}")
    assert figures.calls == CALLS
    assert figures.answered >= 0.999 * CALLS
    assert figures.upstream <= 1.25 * CALLS


def test_every_target_fails_every_twentieth_call(tenant):
    parts = [
        drill(
            tenant,
            failing("first", 0.05, failure),
            [failing("second", 0.05, failure), failing("third", 0.05, failure)],
            CALLS // len(FAILURES),
        )
        for failure in FAILURES
    ]
    figures = together(parts)
    print(f"\nevery target fails 5 %: {figures}")
    assert figures.calls == CALLS
    assert figures.answered >= 0.999 * CALLS
    assert figures.upstream <= 1.1 * CALLS


def test_the_only_target_fails_every_twentieth_call(tenant):
    figures = drill(tenant, failing("only", 0.05, "status=503"), [], CALLS // 4)
    print(f"\nthe only target fails 5 %: {figures}")
    assert figures.upstream <= 1.1 * figures.calls


def test_a_total_outage(tenant):
    targets = ["local/a:status=503", "local/b:reset=before", "local/c:status=529"]
    opening = drill(tenant, targets[0], targets[1:], 200)
    wait_until(lambda: tenant.chat(targets[0], fallback_models=targets[1:]).error["code"] == "upstream_unavailable")
    figures = drill(tenant, targets[0], targets[1:], CALLS)
    print(f"\ntotal outage, until the breakers are open: {opening}\ntotal outage, then: {figures}")
    assert figures.answered == 0
    assert figures.slowest_s <= 2
    assert figures.upstream <= 1.1 * CALLS
