"""Published rates: new versions on change only, immutable, cached."""

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.conf import settings
from django.db import IntegrityError, connection

from billing import prices
from billing.models import ModelRates
from billing.prices import Price
from billing.usage import Rates
from tests.billing.wallets import run

pytestmark = pytest.mark.django_db(transaction=True)


def price(model: str, **changed: int) -> Price:
    values = {"input": 100, "output": 200} | changed
    return Price(provider="tests", model=model, rates=Rates(**values))


def fresh_model() -> str:
    return f"model-{uuid.uuid4().hex}"


def versions(model: str) -> list[int]:
    return list(ModelRates.objects.filter(model=model).order_by("id").values_list("pk", flat=True))


def forget() -> None:
    """Start like a new process: nothing cached."""
    prices._cache.prices = None
    prices._cache.ask_again_at = 0.0


def test_a_version_is_written_only_when_the_rates_change() -> None:
    model = fresh_model()
    assert prices.publish([price(model)]) == 1
    assert prices.publish([price(model)]) == 0
    assert prices.publish([price(model, output=300)]) == 1
    assert prices.publish([price(model)]) == 1
    assert len(versions(model)) == 3


def test_two_who_publish_at_once_write_one_version() -> None:
    model = fresh_model()

    def publish(_: int) -> int:
        try:
            return prices.publish([price(model)])
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(publish, range(4))) == 1
    assert len(versions(model)) == 1


@pytest.mark.parametrize("statement", ["UPDATE {} SET output = 0 WHERE model = %s", "DELETE FROM {} WHERE model = %s"])
def test_a_published_version_never_changes(statement: str) -> None:
    model = fresh_model()
    prices.publish([price(model)])
    with pytest.raises(IntegrityError), connection.cursor() as cursor:
        cursor.execute(statement.format("billing_modelrates"), [model])
    assert prices.by_id(versions(model)) == {versions(model)[0]: Rates(input=100, output=200)}


def test_negative_rates_are_refused() -> None:
    model = fresh_model()
    with pytest.raises(IntegrityError):
        prices.publish([price(model, output=-1)])
    assert versions(model) == []


def test_current_rates_are_the_newest_version() -> None:
    model = fresh_model()
    prices.publish([price(model)])
    prices.publish([price(model, cache_read=50)])
    forget()
    priced = run(prices.current())["tests", model]
    assert priced == prices.Priced(versions(model)[-1], Rates(input=100, output=200, cache_read=50))


def test_older_versions_stay_readable_and_unknown_ones_are_left_out() -> None:
    model = fresh_model()
    prices.publish([price(model)])
    prices.publish([price(model, input=7)])
    first, second = versions(model)
    assert prices.by_id([first, second, 2**50]) == {
        first: Rates(input=100, output=200),
        second: Rates(input=7, output=200),
    }


def test_cached_rates_stay_in_use_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fresh_model()
    prices.publish([price(model)])
    forget()
    run(prices.current())
    prices._cache.ask_again_at = 0.0

    async def use_and_refresh() -> float:
        begun = time.monotonic()
        assert ("tests", model) in await prices.current()
        took = time.monotonic() - begun
        assert prices._cache.refresh is not None
        await asyncio.wait_for(prices._cache.refresh, 5)
        assert ("tests", model) in await prices.current()
        return took

    with monkeypatch.context() as elsewhere:
        elsewhere.setitem(settings.DATABASES["default"], "PORT", "1")
        assert run(use_and_refresh()) < 0.8  # waiting takes a second


def test_stale_rates_are_refreshed_beside_the_calls() -> None:
    model = fresh_model()
    forget()
    run(prices.current())
    prices.publish([price(model)])
    prices._cache.ask_again_at = 0.0

    async def refresh() -> bool:
        await prices.current()
        assert prices._cache.refresh is not None
        await prices._cache.refresh
        return ("tests", model) in await prices.current()

    assert run(refresh())


def test_a_process_that_never_read_rates_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    with monkeypatch.context() as elsewhere:
        elsewhere.setitem(settings.DATABASES["default"], "PORT", "1")
        with pytest.raises(prices.PricesUnavailable) as refused:
            run(prices.current())
    assert refused.value.status == 503
