"""Charts: what is drawn is what the numbers say, for any numbers."""

import math

import pytest
from django.template import Context, Template
from hypothesis import given
from hypothesis import strategies as st

from respan import charts
from respan.charts import HEIGHT, WIDTH, Series

NUMBERS = st.lists(st.one_of(st.none(), st.integers(0, 10**15), st.floats(0, 1e12)), min_size=1, max_size=60)


@given(NUMBERS, st.sampled_from(["count", "usd", "ms", "percent"]))
def test_bars_stay_inside_the_drawing_and_fill_it(values: list[float | None], unit: charts.Unit) -> None:
    chart = charts.bars("Calls", [str(i) for i in range(len(values))], [Series("calls", values)], unit=unit)
    assert len(chart.columns) == len(values)
    highest = max((value or 0 for value in values), default=0)
    for column, value in zip(chart.columns, values, strict=True):
        if not value:
            assert column.bars == []
            continue
        (bar,) = column.bars
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH + 0.1
        assert -0.1 <= bar.y <= HEIGHT
        assert bar.height <= HEIGHT + 0.1
        if value == highest >= 1:
            assert bar.height >= HEIGHT * 0.45, "the highest bar fills at least half of the drawing"


@given(NUMBERS)
def test_a_line_has_a_point_for_each_value_and_none_where_there_is_none(values: list[float | None]) -> None:
    chart = charts.lines("Latency", [str(i) for i in range(len(values))], [Series("p95", values)], unit="ms")
    (line,) = chart.lines
    assert line.path.count("M") + line.path.count("L") == sum(value is not None for value in values)
    assert all(math.isfinite(y) for y, _ in chart.grid)


def test_stacked_bars_stand_on_each_other() -> None:
    chart = charts.bars("Calls", ["a"], [Series("ok", [3]), Series("error", [1], tone="error")])
    lower, upper = chart.columns[0].bars
    assert upper.y + upper.height == pytest.approx(lower.y)
    assert lower.height == pytest.approx(3 * upper.height)


def test_a_chart_without_numbers_says_so() -> None:
    assert charts.bars("Calls", ["a", "b"], [Series("calls", [0, None])]).is_empty
    assert charts.bars("Calls", [], [Series("calls", [])]).is_empty


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "count", "–"),
        (1234, "count", "1,234"),
        (0, "usd", "$0"),
        (310_000, "usd", "$0.00031"),
        (12, "usd", "$0.000000012"),
        (20_000, "usd", "$0.00002"),
        (1_500_000_000, "usd", "$1.50"),
        (820, "ms", "820 ms"),
        (1240, "ms", "1.24 s"),
        (0.21, "percent", "0.21 %"),
    ],
)
def test_values_are_written_with_their_unit(value: float | None, unit: charts.Unit, text: str) -> None:
    assert charts.written(value, unit) == text


def test_names_in_a_chart_are_text() -> None:
    bad = '"><script>alert(1)</script>'
    chart = charts.bars(bad, [bad], [Series(bad, [1]), Series("other", [2])], links=["/?q=" + bad])
    page = Template("{% load page %}{% chart chart %}").render(Context({"chart": chart}))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4


@given(st.integers(1, 10**12))
def test_an_axis_of_counts_says_each_number_once(highest: int) -> None:
    chart = charts.bars("Calls", ["a"], [Series("calls", [highest])])
    written = [text for _, text in chart.grid]
    assert len(set(written)) == len(written) >= 2
