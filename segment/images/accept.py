"""Arrays and tensors that a caller passes to `fit_bank` or `MCBN` → pixels or normalised tensors.

Must not know a network; files are only refused or allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segment.errors import WrongUse
from segment.images.prepare import normalise, pad
from segment.images.read import from_sixteen_bit
from segment.images.specs import InputSpec

PILLOW_MODES = ("L", "RGB", "I;16")
"""Modes of a Pillow image whose array holds its pixel values."""


@dataclass(frozen=True, kw_only=True)
class Accept:
    """The arrays and tensors that one network accepts from Python code.

    uint8 arrays H W C (H W where C = 1; H W 3, RGB, where the card says grey) and uint16 arrays with the card's `white`
    are normalised as the card says. A float tensor (C H W, or N C H W for several) is taken as normalised: it is only
    padded.

    spec: the card's input
    channels: C, the number of channels that the network takes
    takes: whether the network takes another number of channels
    name: the network's, for messages
    Errors: WrongUse, in one line, with the type and shape given and what to give instead
    """

    spec: InputSpec
    channels: int
    takes: Callable[[int], bool]
    name: str

    def image(self, given: Any) -> NDArray[Any] | Tensor:
        """One image: pixels H W C (uint8, or float32 in 0..255 where it was uint16), or a normalised tensor C H W."""
        if isinstance(given, Tensor):
            if given.ndim != 3:
                raise self._refused(given)
            return self._normalised(given)
        return self._pixels(given)

    def images(self, given: Any) -> Sequence[Any]:
        """Several images, each to be passed to `image`: a tensor N C H W, an array N H W C, or a sequence."""
        if isinstance(given, Tensor | np.ndarray):
            if given.ndim != 4 and not self._several_grey(given):
                raise self._refused(given, "several images are a list, an array (N H W C) or a tensor (N C H W).")
        elif isinstance(given, Mapping) or not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
            raise WrongUse(
                f"Images are a folder, a glob or a text list, or a list of arrays or tensors, not a "
                f"{type(given).__name__}."
            )
        if not len(given):
            raise WrongUse("There are no images: the list is empty. Give one image at least.")
        return cast(Sequence[Any], given)

    def batch(self, given: Any) -> tuple[Tensor, bool]:
        """Normalised images N C H W, and whether `given` was a single image."""
        if isinstance(given, Tensor):
            if given.ndim not in (3, 4):
                raise self._refused(given)
            tensor = self._normalised(given)
            return tensor.reshape(-1, *tensor.shape[-3:]), tensor.ndim == 3
        single = not isinstance(given, list | tuple) and not _is_stack(given)
        images = [self.image(image) for image in ([given] if single else self.images(given))]
        if len({(type(image), tuple(image.shape)) for image in images}) > 1:
            shapes = ", ".join(dict.fromkeys(_type_and_shape(image) for image in images))
            raise WrongUse(f"Images of one call share one type and shape; these are {shapes}. Call it for each.")
        return torch.stack([self.normalised(image) for image in images]), single

    def prepared(self, image: NDArray[Any] | Tensor) -> Tensor:  # -> C H+ W+
        """The result of `image`, or of the training pipeline on it, normalised and padded to the stride."""
        return pad(self.normalised(image), self.spec)

    def normalised(self, image: NDArray[Any] | Tensor) -> Tensor:  # -> C H W
        """As `prepared`, without the padding."""
        if isinstance(image, Tensor):
            return image
        if image.ndim == 2:
            image = image[..., None]
        from_rgb = self._takes_rgb and image.shape[2] == 3
        return normalise(image, self.spec if from_rgb else replace(self.spec, channels=self.channels))

    def check_files(self) -> None:
        """Errors: WrongUse where the network cannot take decoded files, which are RGB."""
        if not self._takes_rgb and not self.spec.channels == self.channels == 3:
            raise WrongUse(
                f"{self.name!r} takes {self.channels} channel{'s' * (self.channels != 1)}, and image files are decoded "
                f"to RGB: {self._advice()}."
            )

    @property
    def planes(self) -> int:
        """C of the pixel arrays (H W C) that are accepted: 3 where RGB is converted to what the network takes."""
        return 3 if self._takes_rgb else self.channels

    @property
    def _takes_rgb(self) -> bool:
        """Whether RGB pixels are converted to what the network takes."""
        return not isinstance(self.spec.channels, int) and self.takes(self.spec.planes)

    def _advice(self) -> str:
        python = "give arrays (H W C) or normalised tensors (C H W) from Python, by segment.fit_bank and segment.MCBN"
        return f"say `input: {{channels: grey}}` in its card, or {python}" if self.channels == 1 else python

    def _pixels(self, given: Any) -> NDArray[Any]:  # -> H W C
        if isinstance(given, Image.Image):
            if given.mode not in PILLOW_MODES:
                raise WrongUse(f"A Pillow image of mode {given.mode!r} is not taken; give image.convert('RGB').")
            given = np.asarray(given)
        if not isinstance(given, np.ndarray):
            raise WrongUse(
                f"An image is an array, a tensor or a Pillow image, not a {type(given).__name__}. Files are named by "
                "one folder, glob or text list."
            )
        if given.dtype.kind == "f":
            raise self._refused(
                given,
                "whether it is scaled or normalised cannot be seen. Give uint8 (H W C), which goes through the "
                "card, or a normalised float tensor (C H W).",
            )
        if given.dtype not in (np.uint8, np.uint16):
            raise self._refused(given)
        image = given[..., None] if given.ndim == 2 and self.channels == 1 else given
        wanted = {3} if self._takes_rgb else {self.channels}
        if self.channels == 1:
            wanted.add(1)
        if image.ndim != 3 or image.shape[2] not in wanted or 0 in image.shape:
            raise self._refused(given)
        if given.dtype == np.uint8:
            return image
        if self.spec.white is None:
            raise self._refused(given, "nothing says which value is white. Set `input: {white: 65535}` in the card.")
        return from_sixteen_bit(image, self.spec.white)

    def _normalised(self, given: Tensor) -> Tensor:
        if not given.is_floating_point() or 0 in given.shape:
            raise self._refused(given)
        if not self.takes(given.shape[-3]):
            raise self._refused(given)
        if not bool(torch.isfinite(given).all()):
            count = int((~torch.isfinite(given)).sum())
            raise self._refused(given, f"{count} of its values are not finite (NaN or infinity). Mend the image.")
        return given

    def _several_grey(self, given: NDArray[Any] | Tensor) -> bool:  # N H W
        return isinstance(given, np.ndarray) and given.ndim == 3 and self.channels == 1 and given.shape[-1] != 1

    def _refused(self, given: NDArray[Any] | Tensor, reason: str = "") -> WrongUse:
        count = self.channels
        shape = "H W or H W 1" if count == 1 else f"H W {count}"
        shape += " (RGB)" if self._takes_rgb and count == 3 else ""
        usual = (
            f"{self.name!r} takes {count} channel{'s' * (count != 1)}: give a uint8 {shape} array, or a normalised "
            f"float tensor (C H W) or (N C H W) with C = {count}."
        )
        return WrongUse(f"This image is {_type_and_shape(given)}, and {reason or usual}")


def _is_stack(given: Any) -> bool:
    return isinstance(given, np.ndarray) and given.ndim == 4


def _type_and_shape(given: NDArray[Any] | Tensor) -> str:
    kind = "a tensor of" if isinstance(given, Tensor) else "an array of"
    return f"{kind} {str(given.dtype).removeprefix('torch.')}, shape {'x'.join(map(str, given.shape)) or '()'}"
