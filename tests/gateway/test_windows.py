"""Windows of time: every moment lies in exactly one, and they follow each other without a gap."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import windows
from gateway.windows import FOREVER, Window, window

MOMENTS = st.integers(min_value=0, max_value=4_000_000_000_000)
PERIODS = st.sampled_from([*windows.PERIODS, "1", "90", "100000"])


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("period", "starts", "ends"),
    [
        ("day", (2026, 2, 18), (2026, 2, 19)),
        ("hour", (2026, 2, 18, 14), (2026, 2, 18, 15)),
        ("minute", (2026, 2, 18, 14, 30), (2026, 2, 18, 14, 31)),
        ("month", (2026, 2, 1), (2026, 3, 1)),
        ("week", (2026, 2, 16), (2026, 2, 23)),
    ],
)
def test_the_calendars_windows(period, starts, ends):
    assert window(period, ms(2026, 2, 18, 14, 30, 59)) == Window(ms(*starts), ms(*ends))


def test_a_window_without_a_period_never_ends():
    assert window("", ms(2026, 1, 1)) == FOREVER


def test_a_window_of_the_first_event_begins_with_it():
    now = ms(2026, 1, 31, 12)

    assert window("90", now, first_event=True) == Window(now, now + 90_000)
    assert window("month", now, first_event=True) == Window(now, ms(2026, 2, 28, 12))


def test_a_month_that_has_no_such_day_ends_with_its_last():
    anchor = ms(2026, 1, 31, 9)

    assert window("month", ms(2026, 3, 1), anchor_ms=anchor) == Window(ms(2026, 2, 28, 9), ms(2026, 3, 31, 9))


@pytest.mark.parametrize("text", ["", "year", "0", "-5", "1.5", "٣", "99999999999", "minutes"])
def test_what_is_no_period(text):
    assert windows.parsed(text) is None


@given(period=PERIODS, now=MOMENTS, anchor=st.none() | MOMENTS)
def test_every_moment_lies_in_one_window(period, now, anchor):
    found = window(period, now, anchor_ms=anchor)

    assert found.starts_ms <= now < found.ends_ms
    for moment in (found.starts_ms, found.ends_ms - 1):
        assert window(period, moment, anchor_ms=anchor) == found
    assert window(period, found.ends_ms, anchor_ms=anchor).starts_ms == found.ends_ms
