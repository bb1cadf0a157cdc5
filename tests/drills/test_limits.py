"""A limit of 100 requests a minute, 1,000 calls, four web processes: exactly 100 pass with Redis, 95 to 100 without."""

import shutil
import signal
import socket
import statistics
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.drills.conftest import Site, running_site
from tests.respan.test_redis import REDIS_URL, needs_redis
from tests.servers import free_port, wait_until

pytestmark = pytest.mark.xdist_group("limits")

# Run inside the installation: a limit of all calls of an organization.
SET = """
from accounts.models import Organization
from gateway import limit_changes
from gateway.limit_changes import Draft, Rule
limit_changes.create(
    organization=Organization.objects.get(pk={organization}), actor=None, address=None,
    draft=Draft(name="100", compose=["organization_id"], metric="request_count", period="{period}",
                rules=[Rule(severity="hard", value=101)]))
"""


@contextmanager
def site_of(folder: Path, *, processes: int, period: str = "minute", redis: bool = False) -> Iterator[Site]:
    with running_site(folder, web_processes=processes, settings={"REDIS_URL": REDIS_URL} if redis else {}) as site:
        site.customer("0")
        done = site._run(["manage.py", "shell", "-c", SET.format(organization=site.organization_id, period=period)])
        assert done.returncode == 0, done.stderr
        yield site


def race(site: Site, *, calls: int) -> dict[int | None, int]:
    """Send calls at once; return how many had each status."""
    traffic = site.traffic("sandbox/echo", connections=min(calls, 250), calls=calls).start()
    traffic.join()
    counts = dict(traffic.counts())
    assert set(counts) == {200, 429}
    return counts


def test_two_web_processes_let_no_more_pass_than_the_limit(tmp_path: Path) -> None:
    with site_of(tmp_path, processes=2, period="day") as site:
        counts = race(site, calls=300)
        assert 95 <= counts[200] <= 100
        refused = site.traffic("sandbox/echo", calls=4, connections=4).start()
        refused.join()
        assert set(refused.counts()) == {429}


@pytest.mark.long
@pytest.mark.parametrize("where", ["postgres", pytest.param("redis", marks=needs_redis)])
def test_four_web_processes_and_a_thousand_calls(where: str, tmp_path: Path) -> None:
    with site_of(tmp_path, processes=4, redis=where == "redis") as site:
        while time.time() % 60 > 25:  # all within one minute of the clock
            time.sleep(0.5)
        counts = race(site, calls=1_000)
        assert time.time() % 60 > 1, "the minute was over before the calls were"
    print(f"limit 100 a minute, 1,000 calls, 4 web processes, {where}: {counts}")
    assert counts[200] == 100 if where == "redis" else 95 <= counts[200] <= 100


@pytest.mark.long
def test_without_its_redis_each_process_allows_its_share(tmp_path: Path) -> None:
    settings = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    with running_site(tmp_path, web_processes=4, settings=settings) as site:
        site.customer("0")
        members = {"customer_params": {"customer_identifier": uuid.uuid4().hex, "rate_limit": 40}}
        traffic = site.traffic("sandbox/echo", connections=20, calls=400, members=members).start()
        traffic.join()
        counts = traffic.counts()
    assert set(counts) == {200, 429}
    # Every process that was asked allowed 10 a minute, in at most two minutes of the clock.
    assert 10 <= counts[200] <= 80
    print(f"Redis away, limit 40 a minute, 400 calls, 4 web processes: {dict(counts)}")


@contextmanager
def own_redis(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a Redis that may be stopped; yield its address."""
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port), what="Redis to listen")
        yield f"redis://127.0.0.1:{port}/0", process
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5):
            return True
    except OSError:
        return False


@pytest.mark.long
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server is installed")
def test_a_redis_that_goes_away_stops_no_call(tmp_path: Path) -> None:
    """First it takes questions and gives no answer, then it is dead. A call waits 50 ms at most, and only the first."""
    members = {"customer_params": {"customer_identifier": uuid.uuid4().hex, "rate_limit": 1_000_000}}
    with (
        own_redis(tmp_path) as (url, process),
        running_site(tmp_path, web_processes=4, settings={"REDIS_URL": url}) as site,
    ):
        site.customer("0")

        def lasted(calls: int) -> list[float]:
            traffic = site.traffic("sandbox/echo", connections=4, calls=calls, members=members).start()
            traffic.join()
            assert set(traffic.counts()) == {200}
            assert all(outcome.complete for outcome in traffic.outcomes)
            return [outcome.seconds for outcome in traffic.outcomes]

        lasted(100)  # each process has met the limit
        usual = quantiles(lasted(400))
        assert "redis_left_alone" not in site.installation.log()
        process.send_signal(signal.SIGSTOP)
        mute = quantiles(lasted(400))
        assert "redis_left_alone" in site.installation.log()
        process.kill()
        dead = quantiles(lasted(400))
    told = (f"{name} {p50:.0f}, {p90:.0f}" for name, (p50, p90) in {"there": usual, "mute": mute, "dead": dead}.items())
    print(f"Redis (p50 and p90 of 400 calls in ms): {'; '.join(told)}")
    for away in (mute, dead):
        # Five failures in each process leave it alone: nine calls of ten wait for nothing.
        assert away[1] - usual[1] <= 50


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """Return the median and the ninth decile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=10)
    return cuts[4] * 1000, cuts[8] * 1000
