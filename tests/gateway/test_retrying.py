"""Promises of `gateway.retrying`: what follows a failed attempt, over every kind of failure."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import retrying
from gateway.retrying import Again, Failure, Onward, Policy, Stop

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def step(failure, *, made=1, retries=0, policy=None, has_next=False, budget=True, random=0.5):
    return retrying.step(
        failure,
        made=made,
        retries=retries,
        policy=policy or Policy(),
        has_next=has_next,
        may_spend=lambda: budget,
        random=lambda: random,
    )


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again_at_the_only_target_and_moves_on_where_there_is_another(status):
    assert step(Failure(status)) == Again(0.125)
    assert step(Failure(status), has_next=True) == Onward()


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_the_request_is_to_blame_for_is_asked_of_nobody_else(status):
    assert step(Failure(status, "messages: field required"), has_next=True) == Stop()


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens.",
        "context_length_exceeded",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "This model does not support image input.",
    ],
)
def test_what_only_this_model_cannot_do_is_asked_of_the_next(message):
    assert step(Failure(400, message), has_next=True) == Onward()
    assert step(Failure(400, message)) == Stop()


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_trouble_with_a_key_or_a_model_moves_on_but_is_not_tried_again(status):
    assert step(Failure(status), has_next=True) == Onward()
    assert step(Failure(status)) == Stop()


def test_a_quota_that_is_used_up_is_no_limit_that_passes():
    used_up = Failure(429, "You exceeded your current quota, please check your plan and billing details.")
    assert step(used_up) == Stop()
    assert step(used_up, has_next=True) == Onward()


@pytest.mark.parametrize(("asked", "expected"), [(0.0, Again(0.0)), (1.0, Again(1.0)), (10.0, Again(10.0))])
def test_a_short_retry_after_is_waited_for_even_where_another_could_be_asked(asked, expected):
    assert step(Failure(429, retry_after_s=asked), has_next=True) == expected


def test_a_long_retry_after_moves_on_at_once():
    assert step(Failure(429, retry_after_s=3_600), has_next=True) == Onward()
    assert step(Failure(429, retry_after_s=10.1)) == Stop()


def test_a_request_the_provider_has_read_is_sent_again_once_only():
    sent = Failure(None)
    assert isinstance(step(sent, retries=0), Again)
    assert step(sent, made=2, retries=1) == Stop()
    assert isinstance(step(Failure(None, was_sent=False), made=2, retries=1), Again)


def test_without_retries_or_without_budget_nothing_is_tried_again():
    assert step(Failure(500), policy=Policy(enabled=False)) == Stop()
    assert step(Failure(500), policy=Policy(num_retries=0)) == Stop()
    assert step(Failure(500), budget=False) == Stop()
    assert step(Failure(429, retry_after_s=1.0), has_next=True, budget=False) == Onward()


def test_our_own_refusal_is_never_tried_again():
    assert step(Failure(None, is_ours=True)) == Stop()
    assert step(Failure(None, is_ours=True), has_next=True) == Onward()


@given(
    status=st.sampled_from([None, 400, 401, 404, 408, 429, 500, 503]),
    wait=st.none() | st.floats(0, 5_000),
    random=st.floats(0, 0.999),
    has_next=st.booleans(),
)
def test_there_are_never_more_than_three_attempts_and_never_a_pause_beyond_ten_seconds(status, wait, random, has_next):
    made, retries = 1, 0
    while not isinstance(
        found := step(
            Failure(status, retry_after_s=wait), made=made, retries=retries, has_next=has_next, random=random
        ),
        Stop,
    ):
        if isinstance(found, Again):
            assert 0 <= found.pause_s <= 10
            retries += 1
        else:
            retries = 0
        made += 1
        assert made <= 3


@given(retries=st.integers(0, 30), first=st.floats(0.05, 10), random=st.floats(0, 0.999))
def test_pauses_grow_no_longer_than_eight_seconds(retries, first, random):
    assert 0 <= retrying.backoff_s(retries, first, lambda: random) <= min(8.0, first * 2**retries)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"Retry-After", b"7")], 7.0),
        ([(b"retry-after", b"0.5")], 0.5),
        ([(b"retry-after", b"7"), (b"retry-after-ms", b"250")], 0.25),
        ([(b"retry-after", format_datetime(NOW + timedelta(seconds=90)).encode())], 90.0),
        ([(b"retry-after", format_datetime(NOW - timedelta(seconds=90)).encode())], 0.0),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after", b"-1")], None),
        ([(b"retry-after", b"\xff")], None),
        ([(b"x-other", b"7")], None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers, seconds):
    assert retrying.retry_after_s(headers, now=NOW) == seconds
