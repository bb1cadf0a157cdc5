"""The newcomer's way, timed: a clean clone, `make run`, a first call with the real OpenAI SDK, Ctrl-C, and once more.

Run by `.ci/run` and by hand: `python -m tests.smoke`. Prints the seconds of the first and the second start and fails at
three times their targets, when the call does not appear in the logs, or when anything is left running after Ctrl-C.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openai import OpenAI

from respan import embedded
from tests.servers import free_port, status, wait_until

ROOT = Path(__file__).resolve().parent.parent
FIRST_TARGET_S, SECOND_TARGET_S, LISTED_TARGET_S = 90.0, 5.0, 1.0
TOLERANCE = 3
# Nothing of the surroundings may help: a newcomer has no settings.
OURS = (
    "RESPAN_",
    "DATABASE_URL",
    "SECRET_KEY",
    "CELERY_",
    "DJANGO_",
    "VIRTUAL_ENV",
    "MAKE",
    "MFLAGS",
    "HOST",
    "PYTHONPATH",
)


class Run:
    """One `make run` in the clone, in a terminal of its own as far as Ctrl-C is concerned."""

    def __init__(self, clone: Path, port: int) -> None:
        self.clone = clone
        self.base_url = f"http://127.0.0.1:{port}"
        env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            ["make", "run"],
            cwd=clone,
            env=env | {"PORT": str(port)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_ready(self, timeout_s: float) -> dict[str, Any]:
        """Wait until calls can be served; return the facts of the first run."""
        facts = self.clone / ".data" / "first-run.json"

        def ready() -> bool:
            if self.process.poll() is not None:
                raise SystemExit(f"make run ended with code {self.process.returncode}")
            return facts.exists() and status(self.base_url, "/readyz") == 200

        wait_until(ready, timeout_s=timeout_s, what="make run to serve calls")
        read: dict[str, Any] = json.loads(facts.read_text())
        return read

    def press_ctrl_c(self) -> None:
        """Send SIGINT to the whole foreground group, as a terminal does, and wait for the end."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout=60)

    def seconds(self) -> float:
        return time.monotonic() - self.started_at


def call(facts: dict[str, Any]) -> str:
    """Make a call with the real SDK; return its log id."""
    with OpenAI(base_url=facts["base_url"] + "/api/", api_key=facts["api_key"], max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="sandbox/echo", messages=[{"role": "user", "content": "Hello from the smoke"}]
        )
        answer = raw.parse()
    content = answer.choices[0].message.content
    assert "Hello from the smoke" in (content or ""), f"unexpected answer: {content!r}"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    return str(raw.headers["x-respan-log-id"])


def logs(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the list of logs shows."""
    connection = http.client.HTTPConnection(urlsplit(facts["base_url"]).netloc, timeout=10)
    headers = {"Authorization": f"Bearer {facts['api_key']}", "Content-Type": "application/json"}
    connection.request("POST", "/api/request-logs/list/", body="{}", headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 200, f"{response.status}: {body[:500]!r}"
    results: list[dict[str, Any]] = json.loads(body)["results"]
    return results


def wait_listed(facts: dict[str, Any], log_id: str) -> float:
    """Wait until the call is in the logs, costed; return the seconds it took."""
    began = time.monotonic()

    def find() -> dict[str, Any] | None:
        return next((log for log in logs(facts) if log["id"] == log_id), None)

    found = wait_until(find, timeout_s=30, what=f"{log_id} in the logs")
    assert found["cost"] is not None, "the call was listed without a cost"
    return time.monotonic() - began


def left_running(clone: Path) -> list[str]:
    """Return the command lines of processes that belong to the clone or to its private database."""
    marks = {str(clone), str(embedded.home_of(clone / ".data"))}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            folder = str((entry / "cwd").resolve())
        except OSError:
            continue
        if int(entry.name) != os.getpid() and any(mark in command or folder.startswith(mark) for mark in marks):
            found.append(f"{entry.name} {command}")
    return found


def start_and_call(clone: Path, port: int, *, name: str, target_s: float) -> dict[str, Any]:
    """Run once from start to Ctrl-C and judge the times."""
    run = Run(clone, port)
    try:
        facts = run.wait_ready(timeout_s=target_s * TOLERANCE)
        ready_s = run.seconds()
        log_id = call(facts)
        called_s = run.seconds()
        listed_s = wait_listed(facts, log_id)
        total_s = run.seconds()
        run.press_ctrl_c()
    finally:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
    wait_until(lambda: not left_running(clone), timeout_s=5, what=f"an empty machine: {left_running(clone)}")
    print(
        f"smoke: {name} start: ready after {ready_s:.1f} s, first call answered after {called_s:.1f} s,"
        f" traced and costed after {total_s:.1f} s (target {target_s:.0f} s); in the logs after {listed_s:.2f} s",
        flush=True,
    )
    judged_s = total_s if name == "first" else ready_s
    if judged_s > target_s * TOLERANCE:
        raise SystemExit(f"the {name} start took {judged_s:.1f} s; the target is {target_s:.0f} s")
    return facts


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="respan-smoke-"))
    clone = folder / "respan"
    try:
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
        port = free_port()
        first = start_and_call(clone, port, name="first", target_s=FIRST_TARGET_S)
        second = start_and_call(clone, port, name="second", target_s=SECOND_TARGET_S)
        assert second == first, "the second start changed what the first one made"
        print("smoke: the second start kept the data; nothing was left running after Ctrl-C")
    finally:
        home = embedded.home_of(clone / ".data")
        shutil.rmtree(folder, ignore_errors=True)
        if home.is_relative_to(embedded.ROOT_HOME):
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
