"""One log as its page and its drawer show it: the head line, attempts, conversation, cost, raw bodies, code.

Turns a stored log into plain values for the templates; holds no SQL. What customers wrote stays text. Long content is
cut here, with a notice: a page stays light, and the whole is a download away. Neighbours: `reading.py`, `export.py`
(the turns), `conversation.py` (every dialect as chat messages), `snippets.py`, `views.py`,
`templates/traces/_log.html`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from billing import prices, usage
from respan import ids
from traces import conversation, decisions, export, snippets
from traces.export import Part, Turn
from traces.reading import Body, Log

MAX_PART_CHARS: Final = 20_000
MAX_CONVERSATION_CHARS: Final = 80_000
MAX_RAW_CHARS: Final = 24_000
_REASONS: Final = {"first": "First try", "fallback": "Fallback", "retry": "Retry"}
_SKIPPED: Final = "Passed over"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one target; `x` and `width` are its place on the scale of the whole call, of 100.

    `outcome` says in a word what it came to where it did not answer.
    """

    reason: str
    of: decisions.Attempt
    outcome: str
    after_us: int
    x: float
    width: float
    is_answer: bool


@dataclass(frozen=True, slots=True)
class Raw:
    """A body as text; `is_cut`: only its beginning is here, `is_truncated`: only its beginning was stored."""

    text: str
    is_cut: bool
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class Detail:
    """Everything a page shows of a log beside its own columns."""

    public_id: str
    # How the call was answered, where there is something to say, and the marks of its row.
    decision: str
    marks: Sequence[str]
    attempts: Sequence[Attempt]
    # The public id of the log whose answer the cache gave again.
    cache_log_id: str
    cost_lines: Sequence[usage.Line]
    turns: Sequence[Turn]
    turns_left_out: int
    request: Raw | None
    response: Raw | None
    # As pairs: a template would look up the customer's own key `items` before the method.
    metadata: Sequence[tuple[str, str]]
    snippets: Sequence[snippets.Snippet]
    # The snippets hold a placeholder where the caller sent an image or a file.
    has_placeholders: bool


def detail(log: Log, body: Body | None, *, base_url: str) -> Detail:
    """Prepare a log for its page."""
    request = export.parsed(body.request) if body else None
    response = export.parsed(body.response) if body else None
    turns, left_out = _within(export.paired(export.turns(request, response, operation=log.name)))
    code = _snippets(log, request, base_url)
    return Detail(
        public_id=export.public_id(log),
        decision=decisions.sentence(log, started_us=_started_us(log)),
        marks=decisions.marks(log),
        attempts=_attempts(log),
        cache_log_id=ids.encode("log", log.cache_log_id) if log.cache_log_id else "",
        cost_lines=_cost_lines(log),
        turns=turns,
        turns_left_out=left_out,
        request=_raw(body.request, is_truncated=body.request_truncated) if body else None,
        response=_raw(body.response, is_truncated=body.response_truncated) if body else None,
        metadata=[
            (name, value if isinstance(value, str) else export.pretty(value)) for name, value in log.metadata.items()
        ],
        snippets=code,
        has_placeholders=bool(code) and '"sha256"' in code[0].code,
    )


def _within(turns: Sequence[Turn]) -> tuple[list[Turn], int]:
    """Return the last turns that fit onto a page, at least one, and how many were left out before them."""
    shown: list[Turn] = []
    left = MAX_CONVERSATION_CHARS
    for turn in reversed(turns):
        turn = replace(turn, parts=tuple(_shortened(part) for part in turn.parts))
        left -= sum(len(part.text) for part in turn.parts) + 100
        if left < 0 and shown:
            break
        shown.append(turn)
    return shown[::-1], len(turns) - len(shown)


def _shortened(part: Part) -> Part:
    results = tuple(_shortened(each) for each in part.results)
    if len(part.text) <= MAX_PART_CHARS:
        return replace(part, results=results)
    return replace(part, text=part.text[:MAX_PART_CHARS], is_cut=True, results=results)


def _raw(body: bytes | None, *, is_truncated: bool) -> Raw | None:
    if not body:
        return None
    text = export.readable(body)
    return Raw(text[:MAX_RAW_CHARS], is_cut=len(text) > MAX_RAW_CHARS, is_truncated=is_truncated)


def _snippets(log: Log, request: Mapping[str, Any] | None, base_url: str) -> list[snippets.Snippet]:
    """Return code for a chat call, in whatever dialect, whose whole request is known."""
    if request is None or log.log_type != "chat" or not conversation.asked(request, log.name):
        return []
    try:
        return snippets.snippets(
            request, base_url=base_url, operation=log.name, model=log.request_model, is_stream=log.stream
        )
    except RecursionError:
        return []


def _started_us(log: Log) -> int:
    return int(log.started_at.timestamp()) * 1_000_000 + log.started_at.microsecond


def _attempts(log: Log) -> list[Attempt]:
    """Place the attempts on the scale of the call."""
    whole_us, started_us = max(log.duration_us, 1), _started_us(log)
    found = []
    for each in decisions.attempts(log):
        after_us = max(0, (each.started_us or started_us) - started_us)
        x = min(100 * after_us / whole_us, 99.0)
        found.append(
            Attempt(
                reason=_SKIPPED if each.is_skipped else _REASONS.get(each.reason, each.reason),
                of=each,
                outcome=decisions.outcome_of(each),
                after_us=after_us,
                x=round(x, 2),
                width=round(max(1.0, min(100 * each.duration_us / whole_us, 100 - x)), 2),
                is_answer=each.is_delivering and log.status == "ok",
            )
        )
    return found


def _cost_lines(log: Log) -> list[usage.Line]:
    """Return the arithmetic of a log's cost, or nothing where it would not add up to it (a cost of 0 by rule, say)."""
    if log.rates_id is None or log.cost_nano is None or log.input_tokens is None:
        return []
    rates = prices.by_id([log.rates_id]).get(log.rates_id)
    used = usage.Usage(
        input_tokens=log.input_tokens,
        output_tokens=log.output_tokens or 0,
        cache_read_input_tokens=log.cache_read_input_tokens or 0,
        cache_creation_input_tokens=log.cache_creation_input_tokens or 0,
        reasoning_output_tokens=log.reasoning_output_tokens or 0,
    )
    if rates is None or usage.cost(used, rates) != log.cost_nano:
        return []
    return usage.explain(used, rates)
