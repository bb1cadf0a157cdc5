"""A prepaid balance is never overspent: 1,000 concurrent calls over HTTP, a balance for 100 of them.

`fake/exact` costs nothing for input and always writes exactly `max_tokens`, so the hold of a call is its cost.
"""

import time

import pytest

from tests.drills.conftest import Site
from tests.traffic import Traffic

pytestmark = pytest.mark.xdist_group("overspend")

CALL_NANO = 20 * 10_000  # 20 output tokens at $10 a million


def race(site: Site) -> None:
    """Send 1,000 calls at once against a balance for exactly 100; check who got through and what is left."""
    site.customer("0.02")
    assert site.granted_nano == 100 * CALL_NANO
    traffic = Traffic(
        site.installation.base_url, site.api_key, model="fake/exact-slow", connections=1_000, calls=1_000
    ).start()
    traffic.join()
    ended_at = time.monotonic()

    counts = traffic.counts()
    assert dict(counts) == {200: 100, 402: 900}
    assert all(outcome.complete for outcome in traffic.outcomes if outcome.status == 200)
    books = site.settled(spans=1_000, timeout_s=60)
    took = time.monotonic() - ended_at
    assert (books["posted"], books["held"], books["count"], books["distinct"]) == (0, 0, 1_000, 1_000)
    assert site.verify_ledger().returncode == 0
    print(f"1,000 concurrent calls: {dict(counts)}; balance and holds at 0 after {took:.1f} s")


def test_one_thousand_concurrent_calls_spend_exactly_the_balance(site):
    race(site)


def test_two_web_processes_spend_exactly_the_balance(site_of_two):
    race(site_of_two)


@pytest.mark.long
def test_the_race_ends_the_same_ten_times(site_of_two):
    for _ in range(10):
        race(site_of_two)
