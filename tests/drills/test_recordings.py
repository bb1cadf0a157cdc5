"""Recorded real traffic through every dialect: 1,669 exchanges of two dozen providers, and a small set always.

The folder in `RESPAN_RECORDINGS` holds the rows (`replay.py` says in what form); without it the long part is skipped
and the few rows of `tests/recordings/` are judged. Each row with an answer a provider dialect of ours reads is put to
all four client dialects: its own has to pass it as it came, however the stream is cut; the others have to say the same
in a form their SDK's types accept. Each row with a request is put to every provider dialect. What fails must have a
reason, and a reason quotes what was recorded or what the vendor cannot do. The figures are printed.
"""

import json
import os
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from gateway.dialects import blocks, wire
from gateway.dialects.registry import CLIENTS, TARGETS
from tests.drills import asking, exam, replay, truth
from tests.drills.exam import Verdict
from tests.drills.replay import Row

FEW = list(replay.rows(Path(__file__).parent.parent / "recordings"))
recorded = pytest.mark.skipif(
    "RESPAN_RECORDINGS" not in os.environ, reason="RESPAN_RECORDINGS names no folder with recorded traffic"
)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    found = list(replay.rows(Path(os.environ["RESPAN_RECORDINGS"])))
    assert found, "no rows in RESPAN_RECORDINGS"
    return found


# --- Reasons ----------------------------------------------------------------------------------------------------------


def reason(row: Row, client: str, verdict: Verdict) -> str | None:
    """Say why what failed is none of ours, quoting the recording or the vendor's types; None: it is ours."""
    problem = str(verdict.problem)
    if verdict.feature == "valid" and "valid base64" in problem:
        return f"the recording's image is no base64: {_around(row.body, b'...')}"
    if verdict.feature == "valid" and "'tool_calls', 0, 'type'" in problem and b"custom_tool_call" in row.body:
        return "openai's ChatCompletionChunk has no type for a call of a custom tool: type is Literal['function']"
    if verdict.feature == "text" and row.dialect == "openai_responses" and (left_out := _left_out(row)):
        return f"the recording's deltas leave out what its last event says: {left_out}"
    return None


def _around(body: bytes, mark: bytes) -> str:
    at = max(body.find(mark), 0)
    return repr(body[max(at - 20, 0) : at + 20])


def _left_out(row: Row) -> str | None:
    """Return how a stream of deltas differs from the text it ends with, for recordings that were shortened by hand."""
    deltas, done = "", ""
    for name, data in truth.sse(row.answer):
        if name == "response.output_text.delta":
            deltas += json.loads(data)["delta"]
        elif name == "response.output_text.done":
            done += json.loads(data)["text"]
    return f"{deltas[-40:]!r} is not {done[-40:]!r}" if deltas != done else None


def cannot(row: Row, target: str, error: Exception) -> str | None:
    """Say why a request was refused rather than sent on; None: it should have been sent on."""
    said = str(error)
    if isinstance(error, wire.InvalidBody):
        if row.status == 400:
            return f"the vendor refused it too: {str(row.objects[0])[:120]}"
        if error.param == "previous_response_id":
            return f"{target} keeps no responses to go on from"
        return None
    if "URL" in said or "address" in said:
        return f"{target} fetches no addresses: the gateway does, before it translates (attachments.py)"
    if isinstance(error, blocks.Unsupported) and error.param in ("n", "modalities", "tools[0]"):
        return f"{target}: {said}"
    request = json.dumps(row.request)
    if "sound" in said or "hear" in said:
        return f"{target} takes no sound: {_around(request.encode(), b'input_audio')}"
    return None


def asked_of(row: Row, target: str) -> tuple[Verdict, str | None]:
    """Put a row's request to a vendor; return the verdict, and the reason where it is no fault of ours."""
    client = asking.asker(row)
    assert client is not None
    try:
        verdict = asking.ask(row, client, target)
    except (blocks.Unsupported, wire.InvalidBody) as error:
        return Verdict("translated", str(error)), cannot(row, target, error)
    if verdict.problem and "image" in verdict.problem:
        data = re.search(r'(?:"data": "|;base64,)([^"]{1,40})', json.dumps(row.request))
        return verdict, f"the recording's image is none: {data[1] if data else row.request}"
    return verdict, None


# --- The small set ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("row", FEW, ids=lambda row: f"{row.provider}-{row.key}")
def test_a_recorded_answer_says_the_same_to_every_client(row: Row, client: str) -> None:
    assert row.dialect is not None
    failed = [verdict for verdict in exam.examine(row, client) if verdict.problem and not reason(row, client, verdict)]
    assert not failed


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("row", [row for row in FEW if asking.asker(row)], ids=lambda row: row.key)
def test_a_recorded_request_is_one_to_every_vendor(row: Row, target: str) -> None:
    verdict, why = asked_of(row, target)
    assert verdict.problem is None or why


# --- All of them ------------------------------------------------------------------------------------------------------


class Tally:
    """What was looked at: passed, failed with a reason, failed without one."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.reasons: Counter[str] = Counter()
        self.failures: list[str] = []

    def take(self, name: str, row: Row, where: str, verdict: Verdict, why: str | None) -> None:
        if verdict.problem is None:
            self.counts[name, verdict.feature]["passed"] += 1
        elif why is not None:
            self.counts[name, verdict.feature]["reason"] += 1
            self.reasons[f"{row.id} to {where}: {why}"] += 1
        else:
            self.counts[name, verdict.feature]["failed"] += 1
            self.failures.append(f"{row.id} to {where}, {verdict.feature}: {verdict.problem}")

    def table(self) -> str:
        """Return the table: a provider a line, a feature a column: passed, and what failed behind a slash."""
        features = sorted({feature for _, feature in self.counts})
        names = sorted({name for name, _ in self.counts})
        lines = [f"{'':<22}" + "".join(f"{feature:>14}" for feature in features)]
        for name in [*names, "all"]:
            cells = []
            for feature in features:
                found = Counter[str]()
                for (other, of), count in self.counts.items():
                    if of == feature and name in (other, "all"):
                        found += count
                cells.append(self._cell(found))
            lines.append(f"{name:<22}" + "".join(f"{cell:>14}" for cell in cells))
        legend = "passed; behind a slash: failed with a reason + failed"
        return "\n".join([*lines, legend])

    def _cell(self, found: Counter[str]) -> str:
        if not found:
            return "-"
        if not found["reason"] and not found["failed"]:
            return str(found["passed"])
        return f"{found['passed']}/{found['reason']}+{found['failed']}"


def unread(rows: list[Row]) -> Counter[str]:
    """Count the rows whose answer no provider dialect reads, by what they are instead, with the bytes of one."""
    counts: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for row in rows:
        if row.dialect is not None:
            continue
        what = f"{row.kind:<20}{row.provider:<20}"
        if not row.body:
            what += "no bytes were recorded"
        elif row.passed_at:
            what += f"passed on as it is ({row.passed_at}: test_recordings_relayed.py)"
        else:
            what += "another interface than those of the catalogue's dialects, for example: "
            what += shown.setdefault(what, repr(row.body[:50]))
        counts[what] += 1
    return counts


@recorded
@pytest.mark.long
def test_every_recorded_answer_says_the_same_to_every_client(rows: list[Row]) -> None:
    tally = Tally()
    read = [row for row in rows if row.dialect is not None]
    for row in read:
        for client in CLIENTS:
            for verdict in exam.examine(row, client):
                tally.take(
                    row.provider, row, client, verdict, reason(row, client, verdict) if verdict.problem else None
                )
    left = unread(rows)
    assert len(read) + left.total() == len(rows)
    print(f"\n{len(rows)} rows; {len(read)} answers put to {len(CLIENTS)} clients\n{tally.table()}")
    print("\nFailed with a reason:", *tally.reasons, sep="\n  ")
    several = [row.id for row in read if row.answer != row.body]
    print(
        f"\n{len(several)} recordings go on behind the answer's end (further answers, `[DONE]`): compared up to there"
    )
    print(*several, sep="\n  ")
    print(f"\nNo answer of a chat ({left.total()} rows):")
    print(*(f"  {count:>4} {what}" for what, count in sorted(left.items())), sep="\n")
    assert not tally.failures, "\n".join(tally.failures[:40])


@recorded
@pytest.mark.long
def test_every_recorded_request_is_one_to_every_vendor(rows: list[Row]) -> None:
    tally = Tally()
    askers = [(row, client) for row in rows if (client := asking.asker(row)) is not None]
    for row, client in askers:
        for target in TARGETS:
            tally.take(client.id, row, target, *asked_of(row, target))
    print(f"\n{len(askers)} requests put to {len(TARGETS)} vendors' rules\n{tally.table()}")
    print("\nFailed with a reason:", *tally.reasons, sep="\n  ")
    assert not tally.failures, "\n".join(tally.failures[:40])
