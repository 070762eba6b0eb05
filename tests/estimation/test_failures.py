"""What stands in the place of an image that failed, and what a log keeps of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from segment.errors import ImageUnreadable
from segment.estimation.failures import estimates_or_reasons, reason_of


class Image:
    """What has a size."""

    def __init__(self, width: int) -> None:
        self.size = (4, width)


def test_a_refusal_stands_as_it_is_and_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert reason_of(ImageUnreadable("'a.png' does not decode.")) == "'a.png' does not decode."
    assert not caplog.records


def test_any_other_error_names_its_class_and_the_log_says_where_it_was_raised(caplog: pytest.LogCaptureFixture) -> None:
    def not_four_wide(images: Sequence[Image]) -> list[int]:
        widths = [image.size[1] for image in images]
        return [len(str(width)[width - 4]) for width in widths]

    caplog.set_level(logging.INFO)
    images = [Image(4), Image(9)]
    assert estimates_or_reasons(images, not_four_wide) == [1, "4 x 9 image: IndexError: string index out of range"]
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "in not_four_wide" in record.getMessage()
