"""CSV cells: whatever people wrote, no spreadsheet takes it for a formula, and nothing of it is lost."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respan import sheets


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "＋1", "－1", "＠1", "  =1", '=LINK("x")']
)
def test_what_would_start_a_formula_becomes_text(text: str) -> None:
    assert sheets.cell(text) == f"'{text}"


@given(st.text().filter(lambda text: "\x00" not in text))
def test_a_cell_reads_back_as_it_was_written(text: str) -> None:
    (row,) = csv.reader(io.StringIO(sheets.written([[sheets.cell(text), "end"]]), newline=""))
    assert row[0].removeprefix("'") == text.removeprefix("'") or row[0] == text
    assert not row[0].lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
