"""Sums of the mean probability over the pixels of each class, from which the quality of a mask is estimated.

Must not know a label.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segment.axes import Head


def class_sums(mean: Tensor, prediction: Tensor, head: Head) -> Tensor:  # N K H W, N H W -> N S 3 K, float64
    """By class k: the pixels predicted as k, the sum of p_k over all pixels, and its sum over those predicted as k.

    As `segment.scores.functional.expected.class_sums`, on the device of the probabilities.

    Args:
        mean: N K H W, the mean probability over draws.
        prediction: N H W, class indices; multi-label N K H W of 0 and 1.
        head: Of the network. S is 1; multi-label, S is K, each a problem of two classes.

    Returns:
        N S 3 K; multi-label N K 3 2.


    >>> mean = torch.tensor([[[[0.75, 0.5]], [[0.25, 0.5]]]])
    >>> class_sums(mean, torch.tensor([[[0, 0]]]), "softmax").tolist()
    [[[[2.0, 0.0], [1.25, 0.75], [1.25, 0.0]]]]

    """
    if head == "multilabel":
        p, mask = torch.stack([1 - mean, mean], dim=2).flatten(0, 1), prediction.flatten(0, 1)
    else:
        p, mask = mean, prediction
    p, mask = p.flatten(2), mask.long().flatten(1)  # n K P, n P
    classes = p.shape[1]
    within = p.gather(1, mask[:, None])[:, 0]  # n P
    counted = torch.zeros(len(p), classes, dtype=torch.float64, device=p.device)
    parts = (torch.ones_like(within), within)
    predicted, inside = (counted.scatter_add(1, mask, part.double()) for part in parts)
    sums = torch.stack([predicted, p.sum(dim=2, dtype=torch.float64), inside], dim=1)  # n 3 K
    return sums.reshape(len(mean), -1, *sums.shape[1:])
