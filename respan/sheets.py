"""CSV that spreadsheets read as it was meant: what people wrote is text, never a formula. Pure.

Neighbours: whoever exports: `billing.export`, `accounts.history`, `traces.download`.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, Final

# What makes a spreadsheet take a cell for a formula, the full-width forms too (OWASP ASVS 5.0, 1.2.10).
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def cell(text: str) -> str:
    """Return what people wrote as a cell that is only text: an apostrophe before what would start a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def written(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as lines of CSV (RFC 4180: CRLF, quotes where they are needed). Cells are written as they are."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()
