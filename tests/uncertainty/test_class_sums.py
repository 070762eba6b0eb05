"""The sums on the device are those of the scores."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from segment.scores.functional import expected
from segment.uncertainty.class_sums import class_sums


@pytest.mark.parametrize("head", ["softmax", "multilabel"])
def test_sums_by_class_are_those_that_scores_are_computed_from(head: Literal["softmax", "multilabel"]) -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(2, 3, 7, 5, generator=generator)
    if head == "multilabel":
        mean = raw.sigmoid()
        prediction = (mean >= 0.5).long()
        both = torch.stack([1 - mean, mean], dim=2)  # N K 2 H W
        tasks = [list(zip(p, mask, strict=True)) for p, mask in zip(both, prediction, strict=True)]
    else:
        mean = raw.softmax(dim=1)
        prediction = mean.argmax(dim=1)
        tasks = [[(p, m)] for p, m in zip(mean, prediction, strict=True)]
    made = class_sums(mean, prediction, head).numpy()
    plain = np.array([[expected.class_sums(p.numpy(), m.numpy()) for p, m in of_image] for of_image in tasks])
    np.testing.assert_allclose(made, plain, rtol=1e-6)
