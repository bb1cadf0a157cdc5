"""Opening holds: exact admission under concurrency, and every way in which the database or the caller can go away."""

import asyncio
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import settings

from billing import ledger
from billing.models import Hold
from tests.billing.wallets import (
    books_are_right,
    connect,
    funded,
    held,
    kinds,
    request,
    run,
    settle,
    state,
)

pytestmark = pytest.mark.django_db(transaction=True)


async def outcome(wanted: ledger.HoldRequest) -> str:
    try:
        await ledger.hold(wanted)
    except (ledger.InsufficientCredits, ledger.LedgerUnavailable) as error:
        return error.code
    return "held"


async def outcomes(*wanted: ledger.HoldRequest) -> list[str]:
    return list(await asyncio.gather(*map(outcome, wanted)))


def test_a_hold_that_fits_reserves_its_amount() -> None:
    organization = funded(1_000)
    id_ = held(organization, 1_000)
    balance = ledger.balance(organization.pk)
    assert (balance.posted, balance.held, balance.available) == (1_000, 1_000, 0)
    assert state(id_) == "open"
    assert books_are_right(organization)


def test_a_hold_that_does_not_fit_tells_what_it_needs_and_writes_nothing() -> None:
    organization = funded(2_000_000_000)
    wanted = request(organization, 2_000_000_001)
    with pytest.raises(ledger.InsufficientCredits) as refused:
        run(ledger.hold(wanted))
    error = refused.value
    assert (error.status, error.needed_nano, error.available_nano) == (402, 2_000_000_001, 2_000_000_000)
    assert error.extra == {"needed_nano": "2000000001", "available_nano": "2000000000"}
    assert "$2.000000001" in error.message
    assert "$2.00 is available" in error.message
    assert not Hold.objects.filter(wallet_id=organization.pk).exists()
    assert ledger.balance(organization.pk).held == 0


def test_an_amount_no_wallet_could_hold_is_refused_and_spoils_no_batch() -> None:
    organization, other = funded(100), funded(100)
    huge, small = request(organization, 10**40), request(other, 100)
    assert run(outcomes(huge, small)) == ["insufficient_credits", "held"]


def test_a_negative_hold_is_refused() -> None:
    organization = funded(100)
    with pytest.raises(ValueError, match="negative"):
        run(ledger.hold(request(organization, -1)))
    assert not Hold.objects.filter(wallet_id=organization.pk).exists()


def test_an_organization_without_wallet_has_no_credits() -> None:
    wanted = request(funded(0), 1, organization_id=2**50)
    assert run(outcomes(wanted)) == ["insufficient_credits"]


def test_the_same_hold_asked_for_twice_is_held_once() -> None:
    organization = funded(1_000)
    wanted = request(organization, 300)
    assert run(outcomes(wanted, wanted)) == ["held", "held"]
    assert run(outcomes(wanted)) == ["held"]
    assert ledger.balance(organization.pk).held == 300
    assert books_are_right(organization)


def test_a_thousand_concurrent_holds_admit_exactly_what_fits() -> None:
    organization, other = funded(705), funded(1)

    async def burst() -> list[str]:
        await ledger.hold(request(other, 1))  # as in a process that serves already
        return await outcomes(*(request(organization, 7) for _ in range(1_000)))

    verdicts = run(burst())
    assert verdicts.count("held") == 100
    assert verdicts.count("insufficient_credits") == 900
    assert ledger.balance(organization.pk).held == 700
    assert books_are_right(organization)


def test_two_web_processes_admit_exactly_what_fits() -> None:
    organization = funded(705)
    command = [sys.executable, "-m", "tests.billing.burst", str(organization.pk), "500", "7"]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    pipes: list[Any] = [(process.stdin, process.stdout) for process in processes]
    for _, output in pipes:
        assert output.readline() == "ready\n"
    for entrance, _ in pipes:
        entrance.write("go\n")
        entrance.flush()
    verdicts = [dict(pair.split("=") for pair in process.communicate()[0].split()) for process in processes]
    assert sum(int(each["held"]) for each in verdicts) == 100
    assert sum(int(each["refused"]) for each in verdicts) == 900
    assert ledger.balance(organization.pk).held == 700
    assert books_are_right(organization)


def test_holds_of_many_organizations_travel_together_and_stay_apart() -> None:
    organizations = [funded(50) for _ in range(10)]
    wanted = [request(organization, 10) for _ in range(10) for organization in organizations]
    verdicts = run(outcomes(*wanted))
    assert verdicts.count("held") == 50
    assert [ledger.balance(organization.pk).held for organization in organizations] == [50] * 10
    assert books_are_right(*organizations)


def test_a_cancelled_caller_leaves_a_hold_that_his_record_releases() -> None:
    organization = funded(1_000)
    wanted = [request(organization, 10) for _ in range(100)]

    async def cancel_some() -> None:
        tasks = [asyncio.create_task(ledger.hold(each)) for each in wanted]
        await asyncio.sleep(0.002)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Another one after them: the batcher has survived.
        await ledger.hold(request(organization, 0))

    run(cancel_some())
    for each in wanted:
        settle(organization, each.id, 0)
    assert ledger.balance(organization.pk).held == 0
    assert not Hold.objects.filter(wallet_id=organization.pk, state="open").exclude(amount=0).exists()
    assert books_are_right(organization)


def test_a_hold_given_up_before_it_was_sent_is_never_written() -> None:
    organization = funded(1_000)
    wanted = request(organization, 10)

    async def cancel_at_once() -> None:
        task = asyncio.create_task(ledger.hold(wanted))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ledger.hold(request(organization, 20))

    run(cancel_at_once())
    assert not Hold.objects.filter(pk=wanted.id).exists()
    assert ledger.balance(organization.pk).held == 20


def test_a_hold_that_arrives_after_its_settlement_is_refused_and_leaves_nothing_open() -> None:
    organization = funded(1_000)
    wanted = request(organization, 10)
    assert settle(organization, wanted.id, 0) == ledger.Settled(charged_nano=0, absorbed_nano=0)
    assert run(outcomes(wanted)) == ["ledger_unavailable"]
    assert state(wanted.id) == "released"
    assert ledger.balance(organization.pk).held == 0
    assert kinds(organization) == [("purchase", 1_000)]
    assert books_are_right(organization)


def test_a_late_hold_beside_others_of_its_batch_opens_nothing() -> None:
    organization, other = funded(100), funded(100)
    late, good, better = request(organization, 10), request(organization, 90), request(other, 100)
    settle(organization, late.id, 0)
    assert run(outcomes(late, good, better)) == ["ledger_unavailable", "held", "held"]
    assert (ledger.balance(organization.pk).held, ledger.balance(other.pk).held) == (90, 100)
    assert books_are_right(organization, other)


def test_one_locked_wallet_stalls_nobody_else() -> None:
    locked, free = funded(100), funded(10_000)

    async def scenario() -> tuple[str, float, list[str], float]:
        begun = time.monotonic()
        stuck = asyncio.create_task(outcome(request(locked, 10)))
        await asyncio.sleep(0.05)
        verdicts = []
        for _ in range(5):
            verdicts += await outcomes(*(request(free, 10) for _ in range(20)))
        others = time.monotonic() - begun
        return await stuck, time.monotonic() - begun, verdicts, others

    with connect() as somebody:
        somebody.execute("SELECT FROM billing_wallet WHERE organization_id = %s FOR UPDATE", (locked.pk,))
        verdict, took, verdicts, others = run(scenario())
        somebody.rollback()
    assert verdict == "ledger_unavailable"
    assert took < 3
    assert verdicts == ["held"] * 100
    assert others < took
    assert not Hold.objects.filter(wallet_id=locked.pk).exists()
    assert books_are_right(locked, free)


def test_a_wallet_locked_for_a_moment_only_delays_its_holds() -> None:
    organization = funded(100)

    async def scenario(somebody: Any) -> str:
        task = asyncio.create_task(outcome(request(organization, 10)))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(somebody.rollback)
        return await task

    with connect() as somebody:
        somebody.execute("SELECT FROM billing_wallet WHERE organization_id = %s FOR UPDATE", (organization.pk,))
        assert run(scenario(somebody)) == "held"
    assert books_are_right(organization)


def test_a_hanging_database_is_refused_within_about_a_second() -> None:
    organization = funded(100)
    wanted = request(organization, 10)

    async def scenario() -> tuple[list[str], float]:
        begun = time.monotonic()
        return await outcomes(wanted, request(organization, 10)), time.monotonic() - begun

    with connect() as somebody:
        somebody.execute("LOCK TABLE billing_wallet IN ACCESS EXCLUSIVE MODE")
        verdicts, took = run(scenario())
        somebody.rollback()
    assert verdicts == ["ledger_unavailable"] * 2
    assert took < 3
    assert settle(organization, wanted.id, 0) is not None
    assert run(outcomes(request(organization, 100))) == ["held"]
    assert books_are_right(organization)


def test_a_process_that_was_behind_itself_takes_the_answer_that_came_meanwhile() -> None:
    organization = funded(100)

    async def scenario() -> str:
        await ledger.hold(request(organization, 10))
        task = asyncio.create_task(outcome(request(organization, 10)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(1.3)  # noqa: ASYNC251  (the loop stands still, the database does not)
        return await task

    assert run(scenario()) == "held"
    assert ledger.balance(organization.pk).held == 20


def test_a_database_that_is_away_is_refused_within_about_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    organization = funded(100)
    wanted = request(organization, 10)

    async def scenario() -> tuple[list[str], float]:
        begun = time.monotonic()
        return await outcomes(wanted), time.monotonic() - begun

    with monkeypatch.context() as elsewhere:
        elsewhere.setitem(settings.DATABASES["default"], "PORT", "1")
        verdicts, took = run(scenario())
    assert verdicts == ["ledger_unavailable"]
    assert took < 3
    assert not Hold.objects.filter(pk=wanted.id).exists()


def kill_who_waits(killer: Any) -> None:
    """Kill the backend of a hold that waits for a lock; it waits 100 ms, so the connection is there beforehand."""
    for _ in range(200):
        killed = killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'respan-gateway'"
            " AND datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchall()
        killer.rollback()
        if killed:
            return
        time.sleep(0.001)
    raise AssertionError("no hold was waiting")


def test_a_hold_whose_backend_is_killed_in_flight_is_held_once() -> None:
    organization = funded(100)
    first, wanted = request(organization, 10), request(organization, 60)

    async def scenario(somebody: Any, killer: Any) -> str:
        await ledger.hold(first)
        await asyncio.to_thread(
            somebody.execute, "SELECT FROM billing_wallet WHERE organization_id = %s FOR UPDATE", (organization.pk,)
        )
        task = asyncio.create_task(outcome(wanted))
        await asyncio.to_thread(kill_who_waits, killer)
        await asyncio.to_thread(somebody.rollback)
        return await task

    with connect() as somebody, connect() as killer:
        assert run(scenario(somebody, killer)) == "held"
    assert ledger.balance(organization.pk).held == 70
    assert books_are_right(organization)


def test_a_hold_whose_answer_was_lost_is_found_again_even_if_nothing_else_fits() -> None:
    organization = funded(100)
    id_ = held(organization, 80)
    arguments = ([id_], [organization.pk], [80], ["tests"])
    statement = (
        "SELECT verdicts FROM billing_hold_many(%s::uuid[], %s::bigint[], %s::bigint[], %s::text[],"
        " ARRAY[now()], {retry}, true)"
    )
    with connect() as somebody:
        assert somebody.execute(statement.format(retry=True), arguments).fetchone() == ([1],)
        # Without the hint it would be taken for another one, which does not fit.
        assert somebody.execute(statement.format(retry=False), arguments).fetchone() == ([0],)
    assert ledger.balance(organization.pk).held == 80
    assert books_are_right(organization)


def test_threads_with_loops_of_their_own_admit_exactly_what_fits() -> None:
    organization = funded(100)
    wanted = [[request(organization, 1) for _ in range(100)] for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        verdicts = [each for some in threads.map(lambda some: run(outcomes(*some)), wanted) for each in some]
    assert verdicts.count("held") == 100
    assert books_are_right(organization)
