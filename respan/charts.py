"""Charts as geometry: numbers in, what a template draws as SVG out. Needs no script, prints, weighs nothing.

Pure but for markup: never knows what the numbers mean, reads nothing. Neighbours: `templates/_chart.html` (draws),
`respan.templatetags.page` (the tag `chart`), `assets/tips.js` (what stands under the pointer).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Unit = Literal["count", "usd", "ms", "percent"]
# Units of the drawing; the browser stretches it to the width there is.
WIDTH: Final = 1000
HEIGHT: Final = 200
_GAP: Final = 0.16  # of a column's width


@dataclass(frozen=True, slots=True)
class Series:
    """One row of numbers, one per label; None where there is none. `tone` is 1 to 5, `error` or `rest`."""

    name: str
    values: Sequence[float | None]
    tone: str = "1"


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of one series in one column."""

    x: float
    y: float
    width: float
    height: float
    tone: str


@dataclass(frozen=True, slots=True)
class Line:
    """One series as a path; `dots` are values without neighbours, which a path would not show."""

    path: str
    tone: str
    dots: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Column:
    """All of one label: the strip the pointer meets, what it tells there, and where a press leads."""

    label: str
    x: float
    width: float
    texts: list[str]
    bars: list[Bar]
    link: str

    @property
    def tip(self) -> str:
        return "\n".join([self.label, *self.texts])


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and the same numbers as a table."""

    title: str
    series: list[Series]
    columns: list[Column]
    lines: list[Line]
    # From the top: (y, text) of each grid line.
    grid: list[tuple[float, str]]
    ticks: list[str]
    rows: list[tuple[str, list[str]]]
    is_empty: bool
    width: int = WIDTH
    height: int = HEIGHT


def written(value: float | None, unit: Unit) -> str:
    """Write a value: `1,234`, `$0.012`, `820 ms`, `4.1 %`. Amounts are nano-USD, durations milliseconds."""
    if value is None:
        return "–"
    if unit == "usd":
        dollars = value / 1e9
        if dollars == 0:
            return "$0"
        if abs(dollars) >= 0.1:
            return f"${dollars:,.2f}"
        # Three digits that count, written out: nobody reads money in powers of ten.
        return f"${float(f'{dollars:.3g}'):.12f}".rstrip("0")
    if unit == "ms":
        return f"{value / 1000:,.2f} s" if value >= 1000 else f"{value:.0f} ms" if value >= 10 else f"{value:.3g} ms"
    if unit == "percent":
        return f"{value:.2f} %" if 0 < value < 1 else f"{value:.1f} %"
    return f"{value:,.0f}"


def bars(
    title: str, labels: Sequence[str], series: Sequence[Series], *, unit: Unit = "count", links: Sequence[str] = ()
) -> Chart:
    """Return stacked bars: in each column the first series stands at the bottom."""
    totals = [sum(each.values[i] or 0 for each in series) for i in range(len(labels))]
    return _chart(title, labels, series, unit, links, highest=max(totals, default=0), stacked=True)


def lines(
    title: str, labels: Sequence[str], series: Sequence[Series], *, unit: Unit = "count", links: Sequence[str] = ()
) -> Chart:
    """Return one line per series, broken where a value is missing."""
    values = [value for each in series for value in each.values if value is not None]
    return _chart(title, labels, series, unit, links, highest=max(values, default=0), stacked=False)


def _chart(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    unit: Unit,
    links: Sequence[str],
    *,
    highest: float,
    stacked: bool,
) -> Chart:
    top, step = _scale(highest, whole=unit == "count")
    count = max(len(labels), 1)
    column_width = WIDTH / count
    columns = [
        Column(
            label=label,
            x=round(i * column_width, 2),
            width=round(column_width, 2),
            texts=[f"{each.name}: {written(each.values[i], unit)}" for each in series],
            bars=_stack(i, series, column_width, top) if stacked else [],
            link=links[i] if i < len(links) else "",
        )
        for i, label in enumerate(labels)
    ]
    steps = round(top / step)
    return Chart(
        title=title,
        series=list(series),
        columns=columns,
        lines=[] if stacked else [_line(each, column_width, top) for each in series],
        grid=[(round(HEIGHT - HEIGHT * i / steps, 2), written(step * i, unit)) for i in range(steps, -1, -1)],
        ticks=_ticks(labels),
        rows=[(label, [written(each.values[i], unit) for each in series]) for i, label in enumerate(labels)],
        is_empty=highest == 0,
    )


def _stack(i: int, series: Sequence[Series], column_width: float, top: float) -> list[Bar]:
    gap, base, found = column_width * _GAP, 0.0, []
    for each in series:
        value = each.values[i] or 0
        if value <= 0:
            continue
        height = HEIGHT * value / top
        found.append(
            Bar(
                x=round(i * column_width + gap / 2, 2),
                y=round(HEIGHT - base - height, 2),
                width=round(column_width - gap, 2),
                height=round(max(height, 0.5), 2),
                tone=each.tone,
            )
        )
        base += height
    return found


def _line(series: Series, column_width: float, top: float) -> Line:
    path, dots, is_open = [], [], False
    values = list(series.values)
    for i, value in enumerate(values):
        if value is None:
            is_open = False
            continue
        x, y = round((i + 0.5) * column_width, 2), round(HEIGHT - HEIGHT * value / top, 2)
        path.append(f"{'L' if is_open else 'M'}{x:g} {y:g}")
        alone = (i == 0 or values[i - 1] is None) and (i == len(values) - 1 or values[i + 1] is None)
        if alone:
            dots.append((x, y))
        is_open = True
    return Line(path="".join(path), tone=series.tone, dots=dots)


def _scale(highest: float, *, whole: bool) -> tuple[float, float]:
    """Return a round top at or above the highest value, and the step of its 2 to 5 grid lines."""
    if highest <= 0:
        return 1.0, 1.0
    magnitude = 1.0
    while highest / magnitude > 10:
        magnitude *= 10
    while highest / magnitude <= 1 and not (whole and magnitude <= 1):
        magnitude /= 10
    for factor in (0.2, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0):
        step = factor * magnitude
        if whole and step % 1:
            continue
        steps = -(-highest // step)
        if steps <= 4:
            return step * steps, step
    return 10 * magnitude, 5 * magnitude


def _ticks(labels: Sequence[str]) -> list[str]:
    """Return at most five labels, evenly spread, to stand under the drawing."""
    if len(labels) <= 5:
        return list(labels)
    return [labels[round(i * (len(labels) - 1) / 4)] for i in range(5)]
