"""`make bench`: what a call costs, in CPU and in time, beside a raw relay in the same rounds.

Starts a fake provider (C), a raw relay (uvicorn and aiohttp, nothing else) and a whole installation (`manage.py up`),
then visits them in turn and prints medians; "translated" is an Anthropic client of the same chat provider, "cache hit"
one question with an own key that the response cache answers every time. CPU is user plus system time of the process,
divided by calls. In columns "alone" shipper and worker are paused meanwhile: what they cost web is cache, not work. The
machine is noisy: trust CPU before latency, and ratios before either. A hold waits for the database's disk: what a lone
`fdatasync` takes there is printed, to be subtracted. Not a test: nothing here fails for being slow.
Neighbours: `gwload.c` (load), `fakeup.c` (provider), `relay.py`, `docs/performance.md` (where figures are kept).
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY))

from respan import embedded  # noqa: E402
from tests.servers import Installation, free_port, wait_until  # noqa: E402

BIN = HERE / "bin"
CATALOGUE = """
id = "fake"
name = "Fake provider"
dialect = "openai_chat"
transport = "http"
base_url = "http://127.0.0.1:{port}/v1"
auth = "bearer"
credential_fields = ["api_key"]
max_tokens_field = "max_tokens"
usage_in_stream = true

[[models]]
id = "json"
upstream = "fake-s700"
context_tokens = 128000
max_output_tokens = 16384
price = {{ input = "0.15", output = "0.6" }}
capabilities = ["streaming"]

[[models]]
id = "paced"
upstream = "fake-n50-i10000"
context_tokens = 128000
max_output_tokens = 16384
price = {{ input = "0.15", output = "0.6" }}
capabilities = ["streaming"]

[[models]]
id = "burst"
upstream = "fake-n50-i0"
context_tokens = 128000
max_output_tokens = 16384
price = {{ input = "0.15", output = "0.6" }}
capabilities = ["streaming"]
"""


def build() -> None:
    """Compile the two C programs."""
    BIN.mkdir(exist_ok=True)
    for name in ("fakeup", "gwload"):
        subprocess.run(["cc", "-O2", "-w", "-o", BIN / name, HERE / f"{name}.c", "-lm"], check=True)


def body(folder: Path, name: str, model: str, *, stream: bool = False, **members: object) -> Path:
    """Write a request of about a kilobyte."""
    text = ("Summarise the following paragraph in one sentence. " * 21)[:1000]
    content = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": text},
        ],
        "max_tokens": 256,
        **members,
    }
    if stream:
        content |= {"stream": True, "stream_options": {"include_usage": True}}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, separators=(",", ":")))
    return path


def load(url: str, path: Path, key: str | None, pids: list[int], *options: object) -> dict:
    """Run the load generator once."""
    command = [str(BIN / "gwload"), "-u", url, "-b", str(path), "-w", "0.7"]
    if key:
        command += ["-H", f"Authorization: Bearer {key}"]
    for pid in pids:
        command += ["-p", str(pid)]
    done = subprocess.run([*command, *map(str, options)], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


def seed(installation: Installation, **wanted: str) -> dict:
    """Make an organization in the installation."""
    env = installation.env | {"DATABASE_URL": installation.database_url}
    done = subprocess.run(
        [sys.executable, "-m", "tests.seed", json.dumps(wanted)],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def answers(url: str, path: Path, key: str | None, *, from_cache: bool = False) -> bool:
    request = urllib.request.Request(url, path.read_bytes(), {"Content-Type": "application/json"})
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            is_hit = answer.headers.get("X-Respan-Cache") == "hit"
            return answer.status == 200 and bool(answer.read()) and (is_hit or not from_cache)
    except OSError:
        return False


@contextmanager
def process(*command: object, **env: str) -> Iterator[int]:
    """Run a process for as long as the block lasts."""
    started = subprocess.Popen([str(part) for part in command], cwd=REPOSITORY, env=os.environ | env)
    try:
        yield started.pid
    finally:
        started.terminate()
        started.wait(timeout=10)


def backends(installation: Installation) -> list[int]:
    """Return the pid of the database server: its tree holds all backends."""
    pid = installation.pids.get("database")
    return [pid] if pid else []


def sync_ms(folder: Path, *, times: int = 300) -> tuple[float, float]:
    """Return what `fdatasync` of a page takes in a folder, p50 and p99, with the pauses a lone call makes."""
    path = folder / "fdatasync.probe"
    took = []
    try:
        with path.open("wb", buffering=0) as file:
            file.write(bytes(times * 8192))
            os.fsync(file.fileno())
            for number in range(times):
                time.sleep(0.003)
                os.pwrite(file.fileno(), b"x" * 8192, number * 8192)
                begun = time.perf_counter()
                os.fdatasync(file.fileno())
                took.append((time.perf_counter() - begun) * 1000)
    finally:
        path.unlink(missing_ok=True)
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


def report_disk(installation: Installation) -> None:
    """Print what the disk asks for: every hold waits for one write-ahead log's sync; the spool's has a thread."""
    print()
    for whose, folder in (("database", embedded.home_of(installation.data_dir)), ("spool", installation.data_dir)):
        p50, p99 = sync_ms(folder)
        print(f"fdatasync of 8 KiB on the disk of the {whose}: {p50:.2f} ms (p50), {p99:.2f} ms (p99)")


@contextmanager
def paused(installation: Installation, *, wanted: bool) -> Iterator[None]:
    """Stop shipper, worker and beat for as long as the block lasts: on two cores they share caches with web."""
    names = [name for name in ("shipper", "worker", "beat") if wanted]

    def tell(number: int) -> None:
        for name in names:
            os.killpg(installation.pids[name], number)

    tell(signal.SIGSTOP)
    try:
        # A worker stopped in the middle of a settlement keeps its wallet locked: let it end that first.
        while names and is_settling(installation):
            tell(signal.SIGCONT)
            time.sleep(0.2)
            tell(signal.SIGSTOP)
        yield
    finally:
        tell(signal.SIGCONT)


def is_settling(installation: Installation) -> bool:
    """Tell whether a transaction has touched the wallets and is open; asked while no calls are made."""
    with psycopg.connect(installation.database_url) as connection:
        row = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'billing_wallet'::regclass)"
        ).fetchone()
    return bool(row and row[0])


def measure(installation: Installation, targets: dict, bodies: dict, rounds: int, seconds: float) -> dict:
    """Visit every target in every scenario it has a body for, round by round."""
    rows: dict = {}
    for number, (name, target) in enumerate(list(targets.items()) * rounds):
        print(f"{number + 1}/{rounds * len(targets)} {name}", file=sys.stderr)
        with paused(installation, wanted="alone" in name):
            url, key, pids, models = target
            scenarios = {
                "one": ("json", "-c", 1),
                "many": ("json", "-c", 32),
                "paced": ("paced", "-c", 32, "-d", max(seconds, 3)),
                "burst": ("burst", "-c", 16),
                "lone stream": ("burst", "-c", 1),
            }
            for scenario, (kind, *options) in scenarios.items():
                if kind not in models:
                    continue
                if "-d" not in options:
                    options += ["-d", seconds]
                found = load(url, bodies[models[kind]], key, pids, *options)
                rows.setdefault((name, scenario), []).append(found)
    return rows


def median(rows: dict, name: str, scenario: str, field: str, tree: int = 0) -> float:
    """Return a median over the rounds; `cpu.x` reads the figures of process tree number `tree`."""
    values = []
    for row in rows[name, scenario]:
        if not field.startswith("cpu."):
            values.append(row[field])
        elif len(row["cpu"]) > tree:
            values.append(row["cpu"][tree][field[4:]])
    return statistics.median(values) if values else float("nan")


def report(rows: dict, names: list[str]) -> None:
    """Print the table, the added latencies and the ratios."""
    print("\n| | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))

    def line(label: str, scenario: str, field: str, form: str, tree: int = 0) -> None:
        cells = [form.format(median(rows, name, scenario, field, tree)) for name in names]
        print(f"| {label} | " + " | ".join(cells) + " |")

    line("CPU ms per JSON call, 32 connections", "many", "cpu.cpu_ms_per_req", "{:.3f}")
    line("PostgreSQL CPU ms per JSON call", "many", "cpu.cpu_ms_per_req", "{:.3f}", 1)
    line("JSON calls/s, 32 connections", "many", "rps", "{:.0f}")
    line("CPU us per paced event, 32 streams", "paced", "cpu.cpu_us_per_event", "{:.1f}")
    line("CPU ms per burst of 50 events, 16 streams", "burst", "cpu.cpu_ms_per_req", "{:.3f}")
    line("JSON p50 ms, 1 connection", "one", "p50", "{:.2f}")
    line("JSON p99 ms, 1 connection", "one", "p99", "{:.2f}")
    line("JSON max ms, 1 connection", "one", "max", "{:.2f}")
    line("lone calls of 35 to 50 ms, % (a delayed ACK)", "one", "step40", "{:.2%}")
    line("first event p50 ms, lone stream", "lone stream", "ttfb50", "{:.2f}")
    line("JSON p50 ms, 32 connections", "many", "p50", "{:.2f}")
    line("JSON p99 ms, 32 connections", "many", "p99", "{:.2f}")
    line("RSS MB of the process", "many", "cpu.rss_mb", "{:.0f}")
    print()
    for name in names:
        errors = sum(row["errors"] for (target, _), found in rows.items() if target == name for row in found)
        if name == "direct":
            continue
        added50 = median(rows, name, "one", "p50") - median(rows, "direct", "one", "p50")
        added99 = median(rows, name, "one", "p99") - median(rows, "direct", "one", "p99")
        ratio = median(rows, name, "many", "cpu.cpu_ms_per_req") / median(rows, "relay", "many", "cpu.cpu_ms_per_req")
        per_event = median(rows, name, "paced", "cpu.cpu_us_per_event") / median(
            rows, "relay", "paced", "cpu.cpu_us_per_event"
        )
        print(
            f"{name}: adds {added50:.2f} ms (p50) and {added99:.2f} ms (p99) at one connection; "
            f"{ratio:.2f} x the relay's CPU per JSON call, {per_event:.2f} x per event; errors {errors}"
        )


def report_translation(rows: dict) -> None:
    """Print what speaking another dialect than the provider's adds to a call with an own key."""
    json_ms, event_us = (
        median(rows, "translated", scenario, field) - median(rows, "own key", scenario, field)
        for scenario, field in (("many", "cpu.cpu_ms_per_req"), ("paced", "cpu.cpu_us_per_event"))
    )
    print(
        f"An Anthropic client of a chat provider adds {json_ms:.3f} ms of CPU per JSON call (budget 0.3) and "
        f"{event_us:.1f} us per streamed event (budget 60, the passing on included)"
    )


def report_cache(rows: dict) -> None:
    """Print what a hit of the response cache takes, beside a call with an own key and the provider itself."""
    hit, uncached, direct = (median(rows, name, "one", "p50") for name in ("cache hit", "own key", "direct"))
    cpu_ms, uncached_ms = (median(rows, name, "many", "cpu.cpu_ms_per_req") for name in ("cache hit", "own key"))
    database_ms = median(rows, "cache hit", "many", "cpu.cpu_ms_per_req", 1)
    errors = sum(row["errors"] for scenario in ("one", "many") for row in rows["cache hit", scenario])
    print(
        f"A cache hit takes {hit:.2f} ms (p50) at one connection and adds {hit - direct:.2f} ms to what the provider "
        f"takes directly, {direct:.2f} (budget 1); an uncached call with an own key takes {uncached:.2f}. At 32 "
        f"connections a hit costs {cpu_ms:.3f} ms of CPU and {database_ms:.3f} of PostgreSQL's, an uncached call "
        f"{uncached_ms:.3f}; errors {errors}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.5)
    options = parser.parse_args()
    build()
    folder = Path(tempfile.mkdtemp(prefix="respan-bench-"))
    upstream, relay_port = free_port(), free_port()
    (folder / "catalogue").mkdir()
    (folder / "catalogue" / "fake.toml").write_text(CATALOGUE.format(port=upstream))
    url = f"http://127.0.0.1:{upstream}/v1/chat/completions"
    relay = f"http://127.0.0.1:{relay_port}/v1/chat/completions"
    bodies = {
        name: body(folder, name.replace("/", "-"), name, stream="json" not in name and "s700" not in name)
        for name in ("fake/json", "fake/paced", "fake/burst", "fake-s700", "fake-n50-i10000", "fake-n50-i0")
    }
    bodies["cached"] = body(folder, "cached", "fake/json", cache_enabled=True)
    ours = {"json": "fake/json", "paced": "fake/paced", "burst": "fake/burst"}
    plain = {"json": "fake-s700", "paced": "fake-n50-i10000", "burst": "fake-n50-i0"}
    env = {
        "RESPAN_CATALOG_EXTRA": str(folder / "catalogue"),
        "RESPAN_UPSTREAM_ALLOW": f"127.0.0.1:{upstream}",
        "RESPAN_PLATFORM_KEY_FAKE": "sk-platform",
    }
    uvicorn = [sys.executable, "-m", "uvicorn", "tests.benchmarks.relay:app", "--port", relay_port]
    quiet = ["--no-access-log", "--log-level", "warning"]
    with (
        process(BIN / "fakeup", "-p", upstream),
        process(*uvicorn, *quiet, UPSTREAM=url) as relay_pid,
        Installation(data_dir=folder / "data", env=env) as installation,
    ):
        gateway = f"{installation.base_url}/api/chat/completions"
        own = seed(installation, provider="fake")["api_key"]
        credits = seed(installation, credits_usd="100000")["api_key"]
        for address, key in ((relay, None), (gateway, own), (gateway, credits)):
            name = "fake-s700" if key is None else "fake/json"
            wait_until(lambda a=address, k=key, n=name: answers(a, bodies[n], k), what=f"{address} to answer")
        wait_until(lambda: answers(gateway, bodies["cached"], own, from_cache=True), what="the cache to answer")
        time.sleep(3)
        web = [installation.pids["web"], *backends(installation)]
        targets = {
            "direct": (url, None, [], plain),
            "relay": (relay, None, [relay_pid], plain),
            "own key": (gateway, own, web, ours),
            "credits": (gateway, credits, web, ours),
            "translated": (f"{installation.base_url}/api/anthropic/v1/messages", own, web, ours),
            "cache hit": (gateway, own, web, {"json": "cached"}),
            "own key, alone": (gateway, own, web, ours),
            "credits, alone": (gateway, credits, web, ours),
        }
        rows = measure(installation, targets, bodies, options.rounds, options.seconds)
        report_disk(installation)
    report(rows, [name for name in targets if name != "cache hit"])
    report_translation(rows)
    report_cache(rows)


if __name__ == "__main__":
    main()
