"""Entries as CSV: every row, exact amounts, nothing a spreadsheet would run. Text in, text out, a part at a time.

Neighbours: `statement.py` (the rows), `respan.sheets` (the cells), `views.py` (sends it).
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from typing import Final

from billing.statement import Row
from billing.usage import NANO
from respan import sheets

HEADER: Final = (
    "time_utc", "entry_id", "kind", "description", "amount_usd", "amount_nano_usd", "balance_usd", "balance_nano_usd",
    "log_id", "corrects_entry_id",
)  # fmt: skip


def lines(parts: Iterable[Sequence[Row]]) -> Iterator[str]:
    """Yield the header, then the lines of each part."""
    yield sheets.written([HEADER])
    for rows in parts:
        yield sheets.written([_cells(row) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.at.astimezone(UTC).isoformat(timespec="microseconds"),
        row.id,
        row.kind,
        sheets.cell(row.title),
        _decimal(row.change),
        str(row.change),
        _decimal(row.balance),
        str(row.balance),
        row.log_id or "",
        row.corrects or "",
    )


def _decimal(nano: int) -> str:
    """Write an amount as a plain decimal number with all its nine digits: `-0.000012345`."""
    whole, rest = divmod(abs(nano), NANO)
    return f"{'-' if nano < 0 else ''}{whole}.{rest:09d}"
