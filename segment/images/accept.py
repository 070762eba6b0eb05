"""Arrays, tensors, Pillow images and paths that a caller passes to `fit_bank` or `MCBN` → pixels or normalised tensors.

Must not know a network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segment.axes import size_text
from segment.errors import WrongUse, count_of, warn_once
from segment.images.bands import channels_in, filled, in_255
from segment.images.find import Source
from segment.images.formats.pictures import planes_of_pillow
from segment.images.formats.raster import Raster
from segment.images.listing.samples import images_in, is_lazy, paths_listed
from segment.images.prepare import normalise, pad
from segment.images.read import read_source
from segment.images.specs import InputSpec

log = logging.getLogger(__name__)

SCALED = (
    "%s was given a float tensor whose values all lie within [0, 1], and its input has mean and std: normalised "
    "tensors are expected. Give uint8 pixels, or normalise them: %s."
)
PIXELS = (
    "%s was given a float tensor without a negative value and up to %g, far above what a white pixel is once it is "
    "normalised: it looks like pixel values, and normalised tensors are expected. Give uint8 pixels, or normalise "
    "them: %s."
)
BEYOND = 4
"""Times a white pixel: values of deeper files, and those that an augmentation has made brighter, lie below."""
CONTRAST = 0.5
"""Contrast of an image in 0..1: normalised ones that lie within [0, 1] have less, unless they are bright and flat."""


def _nothing() -> None: ...


@dataclass(frozen=True, kw_only=True)
class Accept:
    """What one network accepts from Python code.

    uint8 arrays H W C (H W where C = 1; also H W 3, RGB, where the card says grey), uint8 tensors C H W, and arrays of
    other types with the card's `white` are normalised as the card says; so are Pillow images and files, named by a
    path. A float tensor (C H W, or N C H W for several) is taken as normalised: it is only padded.

    spec: the card's input
    channels: C, the number of channels that the network takes
    takes: whether the network takes another number of channels
    name: the network's, for messages
    before_pixels: called when pixels are about to be normalised
    Errors: WrongUse, in one line, with the type and shape given and what to give instead
    """

    spec: InputSpec
    channels: int
    takes: Callable[[int], bool]
    name: str
    before_pixels: Callable[[], None] = _nothing

    def image(self, given: Any) -> NDArray[Any] | Tensor:
        """One image: pixels H W C (uint8, or float32 in 0..255 where it was uint16), or a normalised tensor C H W."""
        if isinstance(given, Tensor):
            if given.ndim != 3:
                raise self._refused(given)
            if given.dtype == torch.uint8 and given.shape[0] in self._wanted:
                return self._pixels(given.permute(1, 2, 0).cpu().numpy())
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
        given = paths_listed(given)
        if isinstance(given, list | tuple) and is_lazy(given):
            given = images_in(given)
        if isinstance(given, Tensor):
            if given.ndim not in (3, 4):
                raise self._refused(given)
            if given.ndim == 4:
                self.images(given)
            if given.dtype == torch.uint8:
                every = given if given.ndim == 4 else given[None]
                return torch.stack([self.normalised(self.image(image)) for image in every]), given.ndim == 3
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
        """The image normalised as `prepared` does it, without the padding."""
        if isinstance(image, Tensor):
            return image
        if image.ndim == 2:
            image = image[..., None]
        from_rgb = self._takes_rgb and image.shape[2] == 3
        return normalise(image, self.spec if from_rgb else self.file_spec)

    @property
    def file_spec(self) -> InputSpec:
        """The card's input; as many bands as the network takes where nobody stated other channels than RGB.

        Errors: WrongUse where it says other channels, and the network does not take so many.
        """
        stated = self.spec.channels
        if self._takes_rgb or (not self.spec.colours and self.spec.planes == self.channels):
            return self.spec
        if stated == "RGB":
            return replace(self.spec, channels=self.channels)
        words = ", ".join(stated) if isinstance(stated, tuple) else stated
        advice = {1: "grey", 3: "RGB` (a grey file is then three equal ones) or `3"}.get(self.channels, self.channels)
        raise WrongUse(
            f"The input of {self.name!r} has channels {words}, and the network takes {self.channels}. Say `channels: "
            f"{advice}`, or name a network that takes {self.spec.planes}."
        )

    @property
    def planes(self) -> int:
        """C of the pixel arrays (H W C) that are accepted: 3 where RGB is converted to what the network takes."""
        return 3 if self._takes_rgb else self.channels

    @property
    def _takes_rgb(self) -> bool:
        """Whether RGB pixels are converted to what the network takes."""
        return self.spec.colours and self.takes(self.spec.planes)

    @property
    def _wanted(self) -> set[int]:
        """Numbers of planes of an array."""
        return ({3} if self._takes_rgb else {self.channels}) | ({1} if self.channels == 1 else set())

    def _pixels(self, given: Any) -> NDArray[Any]:  # -> H W C
        self.before_pixels()
        if isinstance(given, str | Path):
            return read_source(Source("", Path(given)), self.file_spec).pixels
        if isinstance(given, Image.Image):
            raster = planes_of_pillow(given)
            planes = channels_in(raster, self.file_spec.channels, "the Pillow image").raw
            return in_255(planes, self.spec.white, "the Pillow image", self.spec.channels)
        if not isinstance(given, np.ndarray):
            raise WrongUse(f"An image is an array, a tensor, a Pillow image or a path, not a {type(given).__name__}.")
        if given.dtype.kind == "f" and self.spec.white is None:
            raise self._refused(
                given,
                "whether it is scaled or normalised cannot be seen. Give uint8 (H W C), which goes through the "
                "card, or a normalised float tensor (C H W).",
            )
        deep = given.dtype.kind in "iuf" and self.spec.white is not None
        if given.dtype not in (np.uint8, np.uint16) and not deep:
            raise self._refused(given)
        image = given[..., None] if given.ndim == 2 and self.channels == 1 else given
        if image.ndim != 3 or image.shape[2] not in self._wanted or 0 in image.shape:
            raise self._refused(given)
        if given.dtype != np.uint8 and self.spec.white is None:
            raise self._refused(given, "nothing says which value is white. Set `input: {white: 65535}` in the card.")
        held = np.any(~np.ma.getmaskarray(image), axis=2) if np.ma.isMaskedArray(image) else None
        image = np.ma.getdata(image)
        if image.shape[2] == 1 and self._takes_rgb:  # of a card's grey, as of a file
            image = np.repeat(image, 3, axis=2)
        valid = Raster(image, mask=held).valid()
        return in_255(filled(image, valid), self.spec.white, "the array", self.spec.channels)

    def _normalised(self, given: Tensor) -> Tensor:
        if not given.is_floating_point() or 0 in given.shape:
            raise self._refused(given)
        if given.layout != torch.strided:
            raise self._refused(given, "it is sparse: give `image.to_dense()`.")
        if not self.takes(given.shape[-3]):
            raise self._refused(given)
        if not bool(torch.isfinite(given).all()):
            count = int((~torch.isfinite(given)).sum())
            raise self._refused(given, f"{count} of its values are not finite (NaN or infinity). Mend the image.")
        given = given.detach().as_subclass(Tensor).float()
        low, high = float(given.min()), float(given.max())
        if (self.spec.mean or self.spec.std) and low >= 0 and high <= 1 and high - low > CONTRAST:
            warn_once(log, SCALED, self.name, self.spec.sentence)
        if low >= 0 and high > BEYOND * self.spec.normalised_white:
            warn_once(log, PIXELS, self.name, high, self.spec.sentence)
        return given

    def _several_grey(self, given: NDArray[Any] | Tensor) -> bool:  # N H W
        return isinstance(given, np.ndarray) and given.ndim == 3 and self.channels == 1 and given.shape[-1] != 1

    def _refused(self, given: NDArray[Any] | Tensor, reason: str = "") -> WrongUse:
        count = self.channels
        shape = "H W or H W 1" if count == 1 else f"H W {count}"
        shape += " (RGB)" if self._takes_rgb and count == 3 else ""
        usual = (
            f"{self.name!r} takes {count_of(count, 'channel')}: give a uint8 {shape} array, or a normalised "
            f"float tensor (C H W) or (N C H W) with C = {count}."
        )
        return WrongUse(f"This image is {_type_and_shape(given)}, and {reason or usual}")


def _is_stack(given: Any) -> bool:
    return isinstance(given, np.ndarray) and given.ndim == 4


def _type_and_shape(given: NDArray[Any] | Tensor) -> str:
    kind = "a tensor of" if isinstance(given, Tensor) else "an array of"
    return f"{kind} {str(given.dtype).removeprefix('torch.')}, shape {size_text(given.shape) or '()'}"
