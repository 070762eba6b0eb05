"""Logits → class probabilities, by the card's head.

Must not know which network computed the logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segment.axes import HEADS, Head
from segment.errors import ModelRefused, PredictionFailed


def probabilities(logits: Tensor, head: Head) -> Tensor:  # N K' ... -> N K ..., float32 or better
    """Softmax over K channels; sigmoid: one channel p enters as two classes (1 - p, p); multi-label: K sigmoids.

    Errors: ModelRefused where the channels do not fit the head, or nothing is called so.

    >>> probabilities(torch.tensor([[0.0]]), "sigmoid")
    tensor([[0.5000, 0.5000]])
    """
    logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    channels = logits.shape[1]
    if head == "softmax":
        if channels < 2:
            raise ModelRefused("A softmax over one channel is always 1; say `head: sigmoid` in the model card.")
        return logits.softmax(dim=1)
    if head == "sigmoid":
        if channels != 1:
            raise ModelRefused(
                f"A sigmoid head has one channel, this network gives {channels}; "
                "say `head: softmax` or `head: multilabel` in the model card."
            )
        return torch.cat([(-logits).sigmoid(), logits.sigmoid()], dim=1)  # 1 - sigmoid(x) loses small probabilities
    if head == "multilabel":
        return logits.sigmoid()
    raise ModelRefused(f"No head is called {head!r}. Known: {', '.join(HEADS)}.")


def refuse_not_finite(values: Tensor) -> None:
    """Refuse probabilities, or what is made of them, that hold NaN or infinity.

    Args:
        values: Of any shape.

    Raises:
        PredictionFailed: They do; the message gives the share.

    """
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        raise PredictionFailed(
            f"The network's output is not finite for {float((~finite).float().mean()):.1%} of the values (NaN or "
            "infinity): try --precision fp32, and check the weights and the bank."
        )


def refuse_unusable(logits: Tensor, head: Head) -> None:  # N K' ...
    """Refuse logits whose probabilities are not finite; a class that a network rules out by minus infinity is fine.

    Args:
        logits: N K' ..., as `probabilities` takes them.
        head: What they mean.

    Raises:
        PredictionFailed: As `refuse_not_finite`.
        ModelRefused: As `probabilities`.

    >>> refuse_unusable(torch.tensor([[0.0, -torch.inf]]), "softmax")

    """
    if not bool(torch.isfinite(logits).all()):
        refuse_not_finite(probabilities(logits, head))


def of_truth(p: Tensor, truth: Tensor, head: Head) -> Tensor:  # N K ..., ... -> N ...; multi-label K ... -> N K ...
    """The probability that each pixel's label has.

    truth: class indices (...); multi-label: 0 or 1 for each label (K ...)

    >>> of_truth(torch.tensor([[[0.2, 0.7], [0.8, 0.3]]]), torch.tensor([1, 1]), "softmax")
    tensor([[0.8000, 0.3000]])
    """
    if head == "multilabel":
        return torch.where(truth == 1, p, 1 - p)
    return p.gather(1, truth.expand(len(p), 1, *truth.shape)).squeeze(1)
