"""`kill -9` of any process, a stopped database, an emptied broker: every admitted call ends as exactly one trace.

In `make test` each once; `make test-long` kills each of web, shipper and worker twenty times during 2,000 calls.
"""

import random
import time

import psycopg
import pytest

from tests.drills.conftest import Site
from tests.servers import wait_until

# One installation serves them all: they run on one worker.
pytestmark = pytest.mark.xdist_group("kills")

CALL_NANO = 20 * 10_000
# The supervisor gives up after five deaths within 30 s: stay below.
BETWEEN_KILLS_S = 7.5
PROCESSES = ["web", "shipper", "worker"]


def check(site: Site, traffic, *, timeout_s: float = 60.0) -> dict:
    """Check the books after the traffic: one trace a call, no open hold, no double charge."""
    seen = traffic.log_ids()
    books = site.settled(spans=len(seen), timeout_s=timeout_s)
    assert books["count"] == books["distinct"]
    assert set(books["spans"]) <= {"ok", "error", "aborted", "interrupted"}
    assert missing(site, seen) == set()
    charged = sum(row["charged_nano"] for row in books["spans"].values())
    assert books["posted"] == site.granted_nano - charged
    complete = sum(1 for outcome in traffic.outcomes if outcome.complete)
    assert books["spans"].get("ok", {"count": 0})["count"] >= complete
    # What was not interrupted costs its hold at most, and nothing twice.
    assert charged <= CALL_NANO * (books["count"] - books["spans"].get("interrupted", {"count": 0})["count"])
    done = site.verify_ledger()
    assert done.returncode == 0, done.stdout
    return books


def missing(site: Site, log_ids: set[str]) -> set[str]:
    """Return the calls clients saw that have no trace."""
    from respan import ids

    with psycopg.connect(site.installation.database_url) as connection:
        rows = connection.execute(
            "SELECT id FROM traces_span WHERE organization_id = %s", [site.organization_id]
        ).fetchall()
    return log_ids - {ids.encode("log", row[0]) for row in rows}


def kill(site: Site, traffic, process: str) -> int:
    """Kill a process while calls are open; return how many were."""
    wait_until(lambda: traffic.in_flight > 0, timeout_s=10, what="an open call")
    in_flight = traffic.in_flight
    old = site.installation.kill(process)
    site.installation.wait_restarted(process, old)
    return in_flight


@pytest.mark.parametrize("process", PROCESSES)
def test_a_killed_process_loses_no_call(site, process):
    site.customer("100")
    traffic = site.traffic("fake/exact-slow", connections=12).start()
    time.sleep(2)
    in_flight = kill(site, traffic, process)
    time.sleep(3)
    traffic.stop()

    books = check(site, traffic)
    print(f"kill -9 {process} with {in_flight} calls in flight: {books['spans']}, holds {books['holds']}")


def test_a_database_that_is_away_for_a_while_loses_no_call(site):
    site.customer("100")
    traffic = site.traffic("fake/exact-slow", connections=12).start()
    time.sleep(2)
    outage(site, seconds=6)
    time.sleep(3)
    traffic.stop()

    books = check(site, traffic)
    assert traffic.counts()[503] > 0
    print(f"database away for 6 s: answers {dict(traffic.counts())}, {books['spans']}")


def test_an_emptied_broker_loses_no_call(site):
    site.customer("100")
    traffic = site.traffic("fake/exact-slow", connections=12).start()
    for _ in range(3):
        time.sleep(1)
        empty_broker(site)
    traffic.stop()

    books = check(site, traffic)
    print(f"broker emptied three times: {books['spans']}")


def outage(site: Site, *, seconds: float) -> None:
    """Stop the database server hard and start it again."""
    site.cluster.stop("immediate")
    time.sleep(seconds)
    site.cluster.start()


def empty_broker(site: Site) -> None:
    """Take every message out of the queues: the batches must be loaded all the same."""
    with psycopg.connect(site.installation.database_url, autocommit=True) as connection:
        names = [row[0] for row in connection.execute("SELECT queue_name FROM pgmq.list_queues()").fetchall()]
        for name in names:
            connection.execute("SELECT pgmq.purge_queue(%s)", [name])


@pytest.mark.long
@pytest.mark.timeout(560)
@pytest.mark.parametrize("process", PROCESSES)
def test_twenty_kills_lose_no_call(site, process):
    site.customer("1000")
    traffic = site.traffic("fake/exact-slow", connections=8).start()
    hits = []
    for number in range(20):
        time.sleep(BETWEEN_KILLS_S + random.random())  # noqa: S311
        hits.append(kill(site, traffic, process))
        print(f"kill {number + 1:2} of {process}: {hits[-1]} calls in flight, {len(traffic.outcomes)} calls made")
    traffic.stop()

    books = check(site, traffic)
    assert sum(1 for hit in hits if hit) >= 15
    assert books["count"] >= 2_000
    print(f"{process}: 20 kills, {books['count']} calls, {books['spans']}, holds {books['holds']}")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_database_that_is_away_for_twenty_seconds_loses_no_call(site):
    site.customer("100")
    traffic = site.traffic("fake/exact-slow", connections=12).start()
    time.sleep(5)
    outage(site, seconds=20)
    time.sleep(5)
    traffic.stop()
    books = check(site, traffic)
    print(f"database away for 20 s: answers {dict(traffic.counts())}, {books['spans']}")
