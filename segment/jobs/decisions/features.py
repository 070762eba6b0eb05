"""An image → the features that a network sees at its smallest map, averaged over the image.

Must not know which images are compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from segment.batch_norm.network import bn_network_of
from segment.images.find import Source
from segment.images.prepare import prepare
from segment.images.read import few_pixels
from segment.networks.load import Network
from segment.networks.modules import module_named
from segment.scores.functional.binning import Floats


class BottleneckFeatures:
    """Called with an image, gives a number for each channel of the last BN layer at the network's smallest map.

    The network runs once, in eval mode, and is left as it was. layer: the layer's name
    """

    def __init__(self, network: Network) -> None:
        """Errors: NoBatchNorm, ModelRefused as in `bn_network_of`."""
        layers = bn_network_of(network).stochastic
        smallest = min(layer.values for layer in layers)
        self.network = network
        self.layer = [layer.name for layer in layers if layer.values == smallest][-1].partition("#")[0]

    def __call__(self, source: Source) -> Floats:  # -> C
        """Errors: ImageUnreadable; what the network raises."""
        network, outputs = self.network, list[Tensor]()

        def keep(_: Any, __: Any, output: Any) -> None:
            outputs.append(output if isinstance(output, Tensor) else next(iter(output)))

        pixels, _ = few_pixels(source, network.input)
        hook = module_named(network.module, self.layer).register_forward_hook(keep)
        try:
            with torch.inference_mode():
                network(prepare(pixels, network.input)[None].to(network.device))
        finally:
            hook.remove()
        return np.asarray(outputs[-1][0].flatten(1).double().mean(dim=1).cpu())
