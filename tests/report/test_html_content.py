"""What the HTML report says and draws, before a browser shows it."""

from __future__ import annotations

import numpy as np

from segment.report.html.details import Sums
from segment.report.html.words import finding


def test_the_first_sentence_is_about_the_threshold_that_the_page_begins_with() -> None:
    sums = Sums(images=3)
    sums.add_ranked("margin", np.array([0.01, 0.02, 0.3, 0.4]), np.array([False, False, True, True]))
    sums.add_levels("margin", np.array([[10, 0, 0], [80, 2, 0], [5, 0, 1], [5, 0, 1]]))
    rows = [{"id": name, "means": {"margin": mean}} for name, mean in (("a", 0.1), ("b", 0.2))]
    measure = {"name": "margin", "title": "margin", "unit": "", "decimals": 1}
    assert sums.start("margin") == (1, 0.1)
    assert finding(rows, measure, sums)[0] == (
        "Of the labelled pixels of 3 images, 50.0 % are right; without the 50 % whose margin is above 0.15, "
        "100.0 % are."
    )
