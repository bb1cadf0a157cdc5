"""Starts processes, restarts what dies, stops everything in order. Knows nothing of Django or of what the processes do.

A dead child is started again after 0.2 s, then later and later up to 5 s; five deaths within 30 s end the whole.
Children have a session of their own (Ctrl-C reaches only the supervisor, which drains them in order) and die with the
supervisor, whatever kills it (Linux). Neighbours: `management/commands/up.py`.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 5.0
DEATHS_TO_GIVE_UP = 5
WITHIN_S = 30.0
TICK_S = 0.05
_PR_SET_PDEATHSIG = 1


class GaveUp(Exception):
    """A process keeps dying; the message names it."""


@dataclass(slots=True)
class Child:
    """A process that should always run. `stop_order` orders the end: all of one number stop before the next."""

    name: str
    command: Sequence[str]
    stop_order: int = 0
    stop_timeout_s: float = 15.0
    pass_fds: tuple[int, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None
    deaths: "deque[float]" = field(default_factory=lambda: deque(maxlen=DEATHS_TO_GIVE_UP))
    restart_at: float = 0.0

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Signal the process and what it started."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


class Supervisor:
    """Keeps children running until it is told to stop. `changed` is called whenever a process began or ended."""

    def __init__(self, *, folder: Path, changed: Callable[[dict[str, int]], None], say: Callable[[str], None]) -> None:
        self.folder = folder
        self.changed = changed
        self.say = say
        self.children: list[Child] = []
        self.stopping = 0  # how often we were asked

    def listen(self) -> None:
        """Take SIGINT and SIGTERM as the wish to stop; a second one stops at once."""
        signal.signal(signal.SIGINT, self._asked)
        signal.signal(signal.SIGTERM, self._asked)

    def start(self, child: Child) -> None:
        """Start a process and keep it running from now on."""
        self.children.append(child)
        self._spawn(child)

    def run(self, tend: Callable[[], None]) -> None:
        """Watch until somebody asks to stop or a child is given up. `tend` is called many times a second."""
        while not self.stopping:
            self.tick(time.monotonic())
            tend()
            time.sleep(TICK_S)

    def tick(self, now: float) -> None:
        """Notice who died and start who is due.

        Raises: GaveUp.
        """
        for child in self.children:
            if child.process is None:
                if now >= child.restart_at:
                    self._spawn(child)
            elif child.process.poll() is not None:
                self._bury(child, now)

    def stop(self) -> None:
        """Stop all, in their order; who does not leave in time is killed."""
        for order in sorted({child.stop_order for child in self.children}):
            leaving = [child for child in self.children if child.stop_order == order and child.is_running]
            for child in leaving:
                # Only the process itself: a Celery worker's own child must finish its task.
                if child.process is not None:
                    child.process.terminate()
            give_up_at = time.monotonic() + max((child.stop_timeout_s for child in leaving), default=0)
            while any(child.is_running for child in leaving) and time.monotonic() < give_up_at and self.stopping < 2:
                time.sleep(TICK_S)
            for child in leaving:
                if child.is_running:
                    self.say(f"{child.name} did not stop in time; killing it")
                child.signal(signal.SIGKILL)
                if child.process is not None:
                    child.process.wait()
        self.children.clear()

    def pids(self) -> dict[str, int]:
        return {child.name: child.process.pid for child in self.children if child.process is not None}

    def _asked(self, number: int, _: FrameType | None) -> None:
        self.stopping += 1

    def _spawn(self, child: Child) -> None:
        child.process = subprocess.Popen(
            child.command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=child.pass_fds,
            preexec_fn=partial(_die_with, os.getpid()) if sys.platform == "linux" else None,
        )
        self.changed(self.pids())

    def _bury(self, child: Child, now: float) -> None:
        """Record a death and when to start again."""
        assert child.process is not None  # noqa: S101  (the caller has looked)
        code = child.process.returncode
        child.signal(signal.SIGKILL)  # what it may have left behind
        child.process = None
        child.deaths.append(now)
        recent = sum(1 for death in child.deaths if now - death < WITHIN_S)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        if recent >= DEATHS_TO_GIVE_UP:
            raise GaveUp(f"{child.name} {how}, for the {recent}th time within {WITHIN_S:.0f} s.")
        delay = min(FIRST_DELAY_S * 2 ** (recent - 1), LONGEST_DELAY_S)
        child.restart_at = now + delay
        self.say(f"{child.name} {how}; starting it again in {delay:.1f} s")
        self.changed(self.pids())


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when the supervisor ends (runs in the child, before it becomes itself)."""
    assert _libc is not None  # noqa: S101
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended in between
        os._exit(1)
