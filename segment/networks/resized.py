"""A network that sees every image at one size, and whose logits come back at the image's.

Must not know a card.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from segment.networks.modules import Wrapper
from segment.networks.outputs import logits_in


class Resized(Wrapper):
    """A network that sees every image at `size`, (H, W), and whose logits come back at the image's size.

    outputs: how many channels the logits have, as `logits_in` takes it
    Both resizings are bilinear; images are antialiased where they become smaller, logits never.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int], outputs: int | None = None) -> None:
        super().__init__()
        self.network, self.size, self.outputs = network, size, outputs

    def forward(self, x: Tensor) -> Tensor:  # N C H W -> N K' H W
        logits = logits_in(self.network(resized(x, self.size)), type(self.network).__name__, self.outputs)
        if logits is None:
            raise TypeError("its output holds no logits")
        return functional.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:  # N C H W -> N C size
    """Images at that size; unchanged where they have it."""
    if tuple(images.shape[-2:]) == size:
        return images
    return functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
