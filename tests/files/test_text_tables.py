"""Tables as text are what the standard library's writers give, byte for byte."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment.files.text_tables import csv_text

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
