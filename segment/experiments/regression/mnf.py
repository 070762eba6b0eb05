"""Multiplicative normalizing flows: Gaussian weights, rows scaled by a z whose density is a flow.

Source: Louizos & Welling, *Multiplicative Normalizing Flows for Variational Bayesian Neural Networks*, ICML 2017.
A weight matrix here has rows that share one z each: the inputs of a dense layer, the filters of a convolution.
Parameters may carry leading stack axes: that many networks at once. The prior of every weight is N(0, 1).
Must not know what the layers are built into.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Stack = tuple[int, ...]
LOG_2_PI = math.log(2 * math.pi)
FLOW_STEPS = 2


class MaskedFlow(nn.Module):
    """Masked real-NVP steps over vectors of one width, each: units under the mask steer those outside it.

    h = tanh(F(m z)), gate s = sigmoid(K h), z' = m z + (1 - m)(s z + (1 - s) G h), log-determinant sum (1 - m) log s.
    """

    def __init__(self, width: int, *, steps: int, hidden: int, generator: torch.Generator, stack: Stack = ()) -> None:
        super().__init__()
        self.steps = steps

        def weights(inner: int, out: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*stack, steps, inner, out, generator=generator) / math.sqrt(inner))

        self.enter, self.leave = weights(width, hidden), weights(hidden, 2 * width)
        self.enter_bias = nn.Parameter(torch.zeros(*stack, steps, 1, hidden))
        self.leave_bias = nn.Parameter(torch.zeros(*stack, steps, 1, 2 * width))
        with torch.no_grad():
            self.leave_bias[..., :width] = 2.0  # open gates: the flow starts near the identity

    def masks(self, z: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """A fair coin for each unit at each step, as the paper draws them."""
        return torch.rand((self.steps, *z.shape), generator=generator, dtype=z.dtype).lt(0.5).to(z).unbind()

    def _layers(self) -> list[tuple[Tensor, ...]]:
        parts = (self.enter, self.enter_bias, self.leave, self.leave_bias)
        return list(zip(*(part.unbind(-3) for part in parts), strict=True))

    def forward(self, z: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:  # ... G width -> the same, ... G
        """The flow's image of z, and log |det dz'/dz|."""
        logdet = torch.zeros(())
        for layer, mask in zip(self._layers(), masks, strict=True):
            logit, shift = _steered(mask * z, layer)
            moved = 1 - mask
            z = torch.addcmul(z, moved * (-logit).sigmoid(), shift - z)
            logdet = logdet + (moved * functional.logsigmoid(logit)).sum(dim=-1)
        return z, logdet


def _steered(kept: Tensor, layer: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Gate logits and shifts that the units under the mask ask for."""
    enter, enter_bias, leave, leave_bias = layer
    logit, shift = ((kept @ enter + enter_bias).tanh() @ leave + leave_bias).chunk(2, dim=-1)
    return logit, shift


class Multipliers(NamedTuple):
    """z: (..., G, rows), one vector for each of G groups; log_density: (..., G), log q(z)."""

    z: Tensor
    log_density: Tensor


class MultiplicativeWeights(nn.Module):
    """q(W, z): z by a flow from a Gaussian, W_ij ~ N(z_i mean_ij, std_ij^2); and its divergence from the prior."""

    def __init__(
        self,
        rows: int,
        columns: int,
        *,
        fan_in: int,
        biases: int,
        generator: torch.Generator,
        stack: Stack = (),
        flow_hidden: int = 50,
    ) -> None:
        super().__init__()

        def drawn(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*stack, *shape, generator=generator) * scale)

        self.mean = drawn(rows, columns, scale=math.sqrt(2 / fan_in))  # ReLU nets: He
        self.log_var = nn.Parameter(torch.full((*stack, rows, columns), -9.0))  # the paper's start, close to certain
        self.bias_mean = nn.Parameter(torch.zeros(*stack, 1, biases))
        self.bias_log_var = nn.Parameter(torch.full((*stack, 1, biases), -9.0))
        self.z_mean = nn.Parameter(torch.ones(*stack, 1, rows))
        self.z_log_var = nn.Parameter(torch.full((*stack, 1, rows), math.log(0.1)))
        self.r_weights = drawn(1, rows, scale=1 / math.sqrt(rows))  # c: what r(z | W) sees of the weights is tanh(c W)
        self.r_mean, self.r_log_precision = drawn(1, rows, scale=0.01), drawn(1, rows, scale=0.01)
        self.flow_q = MaskedFlow(rows, steps=FLOW_STEPS, hidden=flow_hidden, generator=generator, stack=stack)
        self.flow_r = MaskedFlow(rows, steps=FLOW_STEPS, hidden=flow_hidden, generator=generator, stack=stack)

    def multipliers(self, groups: int, generator: torch.Generator) -> Multipliers:
        """G draws of z from its flow, with their log density."""
        noise = _noise((*self.z_mean.shape[:-2], groups, self.z_mean.shape[-1]), self.z_mean, generator)
        start = self.z_mean + noise * (0.5 * self.z_log_var).exp()
        log_density = -0.5 * (noise.square() + self.z_log_var + LOG_2_PI).sum(dim=-1)
        z, logdet = self.flow_q(start, self.flow_q.masks(start, generator))
        return Multipliers(z, log_density - logdet)

    def divergence(self, drawn: Multipliers, generator: torch.Generator) -> Tensor:  # stack
        """Upper bound of KL(q(W) || p(W)) in nats, its expectation over z estimated by the G given draws.

        E_q(z) [KL(q(W | z) || p(W)) + log q(z) - log r(z | W)], Louizos & Welling 2017, section 3.2: never below the
        true divergence in expectation.
        """
        z, variance = drawn.z, self.log_var.exp()
        weights = 0.5 * (variance - self.log_var - 1).sum(dim=(-2, -1))[..., None]
        weights = weights + 0.5 * (z.square() @ self.mean.square().sum(dim=-1, keepdim=True))[..., 0]
        biases = self.bias_log_var.exp() + self.bias_mean.square() - self.bias_log_var - 1
        seen = (z * self.r_weights) @ self.mean  # ... G columns: c W, drawn from its Gaussian
        spread = (self.r_weights.square() @ variance).sqrt()
        seen = (seen + spread * _noise(seen.shape, seen, generator)).tanh().mean(dim=-1, keepdim=True)
        image, logdet = self.flow_r(z, self.flow_r.masks(z, generator))
        log_precision = self.r_log_precision * seen
        residual = image - self.r_mean * seen
        log_r = logdet - 0.5 * (residual.square() * log_precision.exp() - log_precision + LOG_2_PI).sum(dim=-1)
        return (weights + drawn.log_density - log_r).mean(dim=-1) + 0.5 * biases.sum(dim=(-2, -1))


class DenseMNF(MultiplicativeWeights):
    """A dense layer; z scales its inputs."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        generator: torch.Generator,
        stack: Stack = (),
        flow_hidden: int = 50,
    ) -> None:
        super().__init__(
            inputs,
            outputs,
            fan_in=inputs,
            biases=outputs,
            generator=generator,
            stack=stack,
            flow_hidden=flow_hidden,
        )

    def forward(self, x: Tensor, drawn: Multipliers, generator: torch.Generator) -> Tensor:
        """Outputs (..., G, B, out) of inputs (..., G, B, in): one z a group, fresh weight noise a row.

        The local reparameterization trick: the Gaussian of the outputs is drawn, not the weights.
        """
        mean = (x * drawn.z[..., None, :]) @ self.mean[..., None, :, :] + self.bias_mean[..., None, :, :]
        variance = x.square() @ self.log_var.exp()[..., None, :, :] + self.bias_log_var.exp()[..., None, :, :]
        return mean + variance.sqrt() * _noise(mean.shape, mean, generator)


class ConvMNF(MultiplicativeWeights):
    """A convolution of NCHW maps; z scales its filters, one z an image."""

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int,
        *,
        generator: torch.Generator,
        stride: int = 1,
        padding: int = 0,
        flow_hidden: int = 50,
    ) -> None:
        fan_in = channels * kernel**2
        super().__init__(
            filters,
            fan_in,
            fan_in=fan_in,
            biases=filters,
            generator=generator,
            flow_hidden=flow_hidden,
        )
        self.shape, self.stride, self.padding = (filters, channels, kernel, kernel), stride, padding

    def forward(self, x: Tensor, drawn: Multipliers, generator: torch.Generator) -> Tensor:  # N C H W -> N K H' W'
        """Outputs whose Gaussian (given z, for each position on its own) is drawn, not the weights."""
        mean = functional.conv2d(x, self.mean.view(self.shape), stride=self.stride, padding=self.padding)
        variance = functional.conv2d(
            x.square(), self.log_var.exp().view(self.shape), self.bias_log_var.exp()[0], self.stride, self.padding
        )
        mean = mean * drawn.z[:, :, None, None] + self.bias_mean[0, :, None, None]
        return mean + variance.sqrt() * _noise(mean.shape, mean, generator)


def _noise(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype)
