"""The supervisor: restarts the dead, gives up on the hopeless, stops in order."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from respan.supervisor import Child, GaveUp, Supervisor
from tests.servers import is_alive, wait_until

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
FAILER = [sys.executable, "-c", "raise SystemExit(3)"]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: list[str]) -> Iterator[Supervisor]:
    supervisor = Supervisor(folder=tmp_path, changed=lambda pids: None, say=said.append)
    yield supervisor
    supervisor.stop()


def test_killed_process_is_started_again(supervisor: Supervisor) -> None:
    child = Child("sleeper", SLEEPER)
    supervisor.start(child)
    first = supervisor.pids()["sleeper"]
    os.kill(first, signal.SIGKILL)

    def again() -> bool:
        supervisor.tick(time.monotonic())
        return supervisor.pids().get("sleeper", first) != first

    wait_until(again, timeout_s=5)
    assert child.is_running


def test_waits_longer_after_each_death(supervisor: Supervisor, said: list[str]) -> None:
    child = Child("failer", FAILER)
    supervisor.start(child)
    delays = []
    for number in range(4):
        child.process.wait()
        now = 1000.0 + number
        supervisor.tick(now)
        delays.append(round(child.restart_at - now, 1))
        supervisor.tick(child.restart_at)
    assert delays == [0.2, 0.4, 0.8, 1.6]
    assert "ended with code 3" in said[0]


def test_fifth_death_within_thirty_seconds_is_the_last(supervisor: Supervisor) -> None:
    child = Child("failer", FAILER)
    supervisor.start(child)
    for number in range(4):
        child.process.wait()
        supervisor.tick(1000.0 + 6 * number)
        supervisor.tick(child.restart_at)
    child.process.wait()
    with pytest.raises(GaveUp, match="failer ended with code 3, for the 5th time"):
        supervisor.tick(1024.0)


def test_rare_deaths_are_forgiven(supervisor: Supervisor) -> None:
    child = Child("failer", FAILER)
    supervisor.start(child)
    for number in range(8):
        child.process.wait()
        now = 1000.0 + 31 * number
        supervisor.tick(now)
        assert child.restart_at - now == pytest.approx(0.2)
        supervisor.tick(child.restart_at)


def test_stops_in_order_and_kills_who_refuses(supervisor: Supervisor, tmp_path: Path, said: list[str]) -> None:
    witness = "import signal,sys,time\ndef leave(*_):\n open('ends','a').write(sys.argv[1]); sys.exit()\n"
    polite = witness + "signal.signal(15, leave); open(sys.argv[1], 'w').close(); time.sleep(60)"
    deaf = "import signal,time\nsignal.signal(15, signal.SIG_IGN); open('deaf', 'w').close(); time.sleep(60)"
    supervisor.start(Child("late", [sys.executable, "-c", polite, "late,"], stop_order=2))
    supervisor.start(Child("early", [sys.executable, "-c", polite, "early,"], stop_order=1))
    supervisor.start(Child("deaf", [sys.executable, "-c", deaf], stop_order=3, stop_timeout_s=0.3))
    wait_until(lambda: all((tmp_path / name).exists() for name in ("late,", "early,", "deaf")))
    pids = supervisor.pids().values()
    supervisor.stop()
    assert (tmp_path / "ends").read_text() == "early,late,"
    assert said == ["deaf did not stop in time; killing it"]
    assert not [pid for pid in pids if is_alive(pid)]


def test_children_die_with_the_supervisor(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from respan.supervisor import Child, Supervisor\n"
        "s = Supervisor(folder=Path('.'), changed=lambda pids: print(*pids.values(), flush=True), say=print)\n"
        f"s.start(Child('sleeper', {SLEEPER!r})); time.sleep(60)"
    )
    import subprocess

    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    wait_until(lambda: not is_alive(pid), timeout_s=5, what="the child to die")
