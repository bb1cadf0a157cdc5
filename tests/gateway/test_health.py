"""Promises of `gateway.health`: when a breaker opens and closes, whose failures count, how many retries there are."""

import pytest

from gateway import health
from gateway.health import Budget, Health, Place


def ask(record: Health, now: float, *, ok: bool) -> bool:
    if not record.enter(now):
        return False
    if ok:
        record.passed(now, 0.1)
    else:
        record.failed(now)
    return True


def opened(now: float = 100.0) -> Health:
    record = Health()
    for _ in range(20):
        ask(record, now, ok=False)
    return record


def test_twenty_failures_open_a_breaker_and_nineteen_do_not():
    record = Health()
    for _ in range(19):
        ask(record, 100.0, ok=False)
    assert record.state(100.0) == "closed"
    ask(record, 100.0, ok=False)
    assert record.state(100.0) == "open"
    assert not record.enter(114.9)


def test_a_target_that_answers_more_than_half_of_its_calls_is_always_asked():
    record = Health()
    for number in range(500):
        assert ask(record, 100.0 + number / 100, ok=number % 5 > 1)
    assert record.state(105.0) == "closed"


def test_failures_are_forgotten_after_half_a_minute():
    record = Health()
    for _ in range(19):
        ask(record, 100.0, ok=False)
    ask(record, 131.0, ok=False)
    assert record.state(131.0) == "closed"
    assert sum(record.failures) == 1


def test_after_a_pause_three_probes_close_it():
    record = opened()
    assert record.state(115.0) == "half_open"
    assert [record.enter(115.0) for _ in range(5)] == [True, True, True, False, False]
    for _ in range(3):
        record.passed(115.5, 0.1)
    assert record.state(115.5) == "closed"
    assert all(record.enter(115.6) for _ in range(50))


def test_one_failed_probe_opens_it_again():
    record = opened()
    assert record.enter(115.0)
    assert record.failed(115.0)
    assert record.state(129.9) == "open"


def test_a_probe_that_says_nothing_makes_room_for_another():
    record = opened()
    for _ in range(10):
        assert record.enter(116.0)
        record.left()


def test_late_failures_of_calls_from_before_do_not_hold_it_open():
    record = opened()
    until = record.open_until
    assert not record.failed(110.0)
    assert record.open_until == until


def test_latency_follows_the_last_answers():
    record = Health()
    record.passed(100.0, 1.0)
    assert record.latency_s == 1.0
    for _ in range(50):
        record.passed(100.0, 0.2)
    assert record.latency_s == pytest.approx(0.2, abs=0.01)


def test_retries_are_a_tenth_of_the_calls_and_a_few_a_second():
    budget = Budget(filled_at=100.0)
    assert [budget.spend(100.0) for _ in range(5)] == [True, True, True, False, False]
    for _ in range(100):
        budget.earn()
    assert sum(budget.spend(100.0) for _ in range(50)) == 10
    assert sum(budget.spend(101.0) for _ in range(50)) == 3
    for _ in range(100_000):
        budget.earn()
    assert sum(budget.spend(101.0) for _ in range(50)) == 20


def test_each_key_place_and_model_has_a_breaker_of_its_own():
    base = Place("openai", "https://a.test/v1", f"model-{id(object())}", "cred_a")
    for _ in range(20):
        health.at(base).failed(100.0)
    assert not health.at(base).enter(100.0)
    for other in (
        base._replace(credential="cred_b"),
        base._replace(credential=None),
        base._replace(region="https://b.test/v1"),
        base._replace(model="another"),
        base._replace(provider="other"),
    ):
        assert health.at(other).enter(100.0)
