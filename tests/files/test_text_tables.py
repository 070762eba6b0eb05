"""Tables as text are what the standard library's writers give, byte for byte."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment.errors import WrongUse
from segment.files.text_tables import csv_text, read_csv

COLUMNS = ["id", "mean.variance", "a column, quoted"]
CELLS = st.one_of(
    st.none(), st.text(), st.integers(), st.floats(), st.floats().map(np.float64), st.booleans(), st.just("")
)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS)))
def test_rows_of_values_are_written_as_the_csv_writer_does(rows: list[tuple[Any, Any, Any]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    assert csv_text(COLUMNS, rows) == stream.getvalue()


@given(st.lists(st.dictionaries(st.sampled_from(COLUMNS), CELLS)))
def test_rows_by_column_are_written_as_the_dict_writer_does(rows: list[dict[str, Any]]) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    assert csv_text(COLUMNS, rows) == stream.getvalue()


@pytest.mark.parametrize("row", [["a", 1], ["a", 1, 2, 3], {"id": "a", "other": 1}])
def test_a_row_that_does_not_fit_is_refused(row: Any) -> None:
    with pytest.raises(ValueError, match="does not fit the columns"):
        csv_text(COLUMNS, [row])


def test_a_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(csv_text(COLUMNS, [["a", 0.5, 'x, "y"\nz'], ["b", None, ""]]), encoding="utf-8", newline="")
    cells = [["a", "0.5", 'x, "y"\nz'], ["b", "", ""]]
    assert read_csv(path, advice="") == [dict(zip(COLUMNS, row, strict=True)) for row in cells]


@pytest.mark.parametrize("data", [b"id,dice\na,0.5", b"id,dice\na\n", b"id,dice\na,1,2\n", b"id,dice\na,\xff\n", None])
def test_a_table_that_is_damaged_is_one_refusal(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "table.csv").write_bytes(data)
    with pytest.raises(WrongUse, match=r"table.csv' does not read: .*\. Make it again\.$") as refusal:
        read_csv(tmp_path / "table.csv", advice="Make it again.")
    assert "\n" not in str(refusal.value)
