"""What was decided on a call: the sentence that tells it, the marks of its row, and its attempts as child spans."""

import uuid
from types import SimpleNamespace

import pytest

from traces import decisions, query

START_US = 1_790_000_000_000_000


def attempt(status=None, error=None, *, after_s=0.0, **values):
    return {
        "provider": "openai", "model": "gpt-5", "started_us": START_US + int(after_s * 1e6), "duration_us": 40_000,
        **({"status": status} if status else {}), **({"error": error} if error else {}), **values,
    }  # fmt: skip


def log(*attempts, **values):
    return SimpleNamespace(
        **{
            "id": uuid.UUID(int=7), "status": "ok", "http_status": 200, "cached": False, "saved_nano": None,
            "fallback": 0, "retries": 0, "limit_name": None, "attempts": list(attempts), **values,
        }
    )  # fmt: skip


def said(*attempts, **values):
    return decisions.sentence(log(*attempts, **values), started_us=START_US)


SKIPPED = attempt(error="Its circuit breaker is open.", skipped=True)
TIMEOUT = attempt(error="upstream_timeout")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        # Nothing to tell.
        (log(), ""),
        (log(attempt(200)), ""),
        (log(attempt(429, "upstream_error"), status="error", http_status=429), ""),
        (log(status="interrupted", http_status=500), ""),
        (log(attempt(200), status="aborted", http_status=499), ""),
        # Fallbacks.
        (
            log(attempt(429, "upstream_error"), attempt(200, after_s=1.2, reason="fallback"), fallback=2, retries=1),
            "answered by fallback 2 after 429, 1.2 s",
        ),
        (
            log(attempt(500), attempt(500), attempt(200, after_s=0.34, reason="fallback"), fallback=1, retries=2),
            "answered by fallback 1 after 2 × 500, 340 ms",
        ),
        (
            log(attempt(503), TIMEOUT, attempt(200, after_s=61, reason="fallback"), fallback=1, retries=2),
            "answered by fallback 1 after 503, a timeout, 1 min 1 s",
        ),
        (
            log(SKIPPED, attempt(200, reason="fallback"), fallback=1),
            "answered by fallback 1: gpt-5 was passed over, its circuit breaker is open",
        ),
        (log(attempt(200, reason="fallback"), fallback=1), "answered by fallback 1"),
        # Retries.
        (
            log(attempt(500), attempt(200, after_s=0.4, reason="retry"), retries=1),
            "answered by retry 1 after 500, 400 ms",
        ),
        (
            log(attempt(error="upstream_unreachable"), SKIPPED, attempt(200, after_s=2, reason="retry"), retries=1),
            "answered by retry 1 after no connection, 2.0 s",
        ),
        (log(attempt(500), attempt(200, reason="retry"), retries=1), "answered by retry 1 after 500"),
        # All failed.
        (
            log(attempt(429), attempt(429), TIMEOUT, status="error", http_status=429, retries=2),
            "failed after 3 attempts: 2 × 429, a timeout",
        ),
        (
            log(attempt(200, "upstream_error"), SKIPPED, status="error", http_status=502),
            "failed after 1 attempt: an error, 1 target was passed over",
        ),
        (log(SKIPPED, SKIPPED, status="error", http_status=503), "2 targets were passed over"),
        (
            log(attempt(500), attempt(200), status="error", http_status=502, fallback=1),
            "failed after 2 attempts: 500, an answer that broke off",
        ),
        (log(attempt(500), attempt(error="odd_code"), status="error", http_status=500, retries=1),
         "failed after 2 attempts: 500, odd code"),
        # The client left.
        (
            log(attempt(500), attempt(200, "client_closed"), status="aborted", http_status=499, retries=1),
            "the client left during attempt 2, after 500",
        ),
        # The cache.
        (log(cached=True, saved_nano=1_230_000), "answered from the cache, $0.00123 saved"),
        (log(cached=True, saved_nano=0), "answered from the cache"),
        (log(cached=True), "answered from the cache"),
        # Limits.
        (
            log(status="error", http_status=429, limit_name="100 requests a minute"),
            "refused by the limit 100 requests a minute",
        ),
        (log(attempt(200), limit_name="tokens"), "over the limit tokens, which only warns"),
        (
            log(attempt(429), status="error", http_status=429, limit_name="tokens"),
            "over the limit tokens, which only warns",
        ),
        (
            log(attempt(429), attempt(200, after_s=1, reason="fallback"), fallback=1, retries=1, limit_name="tokens"),
            "answered by fallback 1 after 429, 1.0 s; over the limit tokens, which only warns",
        ),
        (
            log(cached=True, limit_name="tokens"),
            "answered from the cache; over the limit tokens, which only warns",
        ),
    ],
)  # fmt: skip
def test_sentence_tells_how_a_call_was_answered(call, sentence):
    assert decisions.sentence(call, started_us=START_US) == sentence


@pytest.mark.parametrize(
    "odd",
    [
        None, 3, "text", [], {}, {"status": "429"}, {"error": 5}, {"started_us": None},
        {"started_us": "x", "status": 200}, {"duration_us": None, "skipped": "yes"},
        {"span_id": 9, "reason": []}, {"status": True},
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("status", ["ok", "error", "aborted", "interrupted", "?"])
def test_attempts_of_any_shape_are_read_without_an_error(odd, status):
    call = log(odd, attempt(200), odd, status=status, fallback=1, retries=1)
    assert isinstance(decisions.sentence(call, started_us=START_US), str)
    assert decisions.marks(call) == ["fallback"]
    assert all(len(each.span_id) == 16 for each in decisions.attempts(call))


def test_only_the_attempt_that_delivered_has_the_calls_tokens():
    def delivering(*attempts, **values):
        return [each.is_delivering for each in decisions.attempts(log(*attempts, **values))]

    assert delivering(attempt(500), attempt(200), SKIPPED) == [False, True, False]
    assert delivering(attempt(500), attempt(200, "client_closed"), status="aborted") == [False, True]
    assert delivering(attempt(200), status="error") == [True], "it broke off after it had begun"
    assert delivering(attempt(500), attempt(429, "upstream_error"), status="error") == [False, False]
    assert delivering(TIMEOUT, status="error") == [False]
    assert delivering() == []


def test_span_ids_are_those_recorded_and_otherwise_always_the_same():
    recorded = attempt(500, span_id="ab" * 8)
    first, second = decisions.attempts(log(recorded, attempt(200)))
    assert first.span_id == "ab" * 8
    assert second.span_id == decisions.attempts(log(recorded, attempt(200)))[1].span_id
    assert len({first.span_id, second.span_id, decisions.span_id(uuid.UUID(int=7))}) == 3
    assert second.span_id != decisions.attempts(log(recorded, attempt(200), id=uuid.UUID(int=8)))[1].span_id


@pytest.mark.parametrize(
    ("call", "marks"),
    [
        (log(attempt(200)), []),
        (log(cached=True), ["cache"]),
        (log(attempt(429), attempt(200, reason="fallback"), fallback=1, retries=1), ["fallback"]),
        (log(attempt(429), attempt(200, reason="retry"), retries=1), ["retried"]),
        (
            log(attempt(429), attempt(429, reason="retry"), attempt(200, reason="fallback"), fallback=1, retries=2),
            ["fallback", "retried"],
        ),
        (log(status="error", http_status=429, limit_name="x"), ["limited"]),
    ],
)
def test_marks_name_what_happened(call, marks):
    assert decisions.marks(call) == marks
    assert set(marks) <= set(query.DECISIONS)


def test_a_refusal_of_ours_is_told_from_one_of_a_provider():
    assert decisions.is_refused(log(status="error", http_status=429, limit_name="x"))
    assert not decisions.is_refused(log(attempt(429), status="error", http_status=429, limit_name="x"))
    assert not decisions.is_refused(log(status="error", http_status=429))
