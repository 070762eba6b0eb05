"""A card's training pipeline: albumentations transforms by name and arguments.

It augments an image as training did, so that the statistics of a mini-batch come from the training distribution.
Every argument is checked when the pipeline is made: albumentations itself only warns of an unknown argument, and
replaces some invalid values by defaults.

Must not know which images make a mini-batch, nor what the network wants after the pipeline (`prepare.py`).
"""

from __future__ import annotations

import copy
import inspect
import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from segment.errors import WrongUse, near, one_line

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import asks a server for its latest version
import albumentations as A
from albumentations.augmentations.crops.transforms import CropSizeError

from segment.images.transforms.imagenet_c import TRANSFORM, ImageNetC

log = logging.getLogger(__name__)

_GROUPS = {"OneOf": A.OneOf, "RandomOrder": A.RandomOrder, "Sequential": A.Sequential, "SomeOf": A.SomeOf}
_LATER = frozenset({"FromFloat", "Normalize", "ToFloat", "ToTensor3D", "ToTensorV2"})  # what `input:` does
_ABSTRACT = frozenset({"BasicTransform", "DualTransform", "ImageOnlyTransform", "Lambda"})
_BOXES = frozenset({"AtLeastOneBBoxRandomCrop", "BBoxSafeRandomCrop", "RandomSizedBBoxSafeCrop"})
_MASKS = frozenset({"ConstrainedCoarseDropout", "CropNonEmptyMaskIfExists"})  # not in their `targets_as_params`
_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, cv2.error, CropSizeError)


@dataclass(frozen=True)
class Pipeline:
    """Transforms in order, on H W C. Stateless: an image and a seed give the same result in any order or thread.

    transforms: as written in the card
    """

    transforms: tuple[Mapping[str, Any], ...]
    _compose: Any = field(repr=False, compare=False)  # a template, only ever copied

    def __call__(self, image: NDArray[Any], seed: int) -> NDArray[Any]:  # H W C -> H' W' C
        """One random augmentation of the image, in the units and of the type that `taken` gives.

        seed: an integer from 0 up, another for each augmentation; no global generator is read or advanced
        """
        image = self.taken(image)
        try:
            result = _result(_seeded(self._compose, seed), image)
        except _ERRORS as error:
            advice = "Leave out or correct the transform that asks for more"
            if isinstance(error, CropSizeError):
                advice = "Give larger images, or the crop `pad_if_needed: true` if the network was trained so"
            raise WrongUse(
                f"The transforms do not take an image of {_described(image)}: "
                f"{self._failing(image, seed)}: {_error_message(error)}. {advice}."
            ) from None
        if not _alike(result, image):
            raise WrongUse(
                f"The transforms give {_described(result)} for an image of {_described(image)}: "
                f"{self._failing(image, seed)} changes its channels or type. Leave it out: both are `input:`'s job."
            )
        return np.ascontiguousarray(result)

    def taken(self, image: NDArray[Any]) -> NDArray[Any]:  # H W C
        """The image as the transforms take it: whole values in 0..255 as uint8, others as they are, in float32.

        A transform that computes with values takes 8 bits only: others in 0..255 are rounded, with a warning.
        Errors: WrongUse for values outside, which such a transform would cut off.
        """
        if image.dtype == np.uint8:
            return image
        low, high = image.min(), image.max()
        inside, rounded = bool(low >= 0 and high <= 255), np.rint(image)
        whole = inside and np.array_equal(rounded, image)
        names = self.values_of_8_bits
        if not names and not (whole and all(map(_fills_with_8_bits, _single(self._compose)))):
            return image.astype(np.float32, copy=False)
        if not inside:
            raise WrongUse(
                f"Transform {names[0]!r} is defined on 8-bit pixels, and these are {low:g} to {high:g}. Leave it "
                "out, or give values in 0..255: by the card's `white`, or a window of the units."
            )
        if not whole:
            _warn_of_rounding(", ".join(names))
        return rounded.astype(np.uint8)

    @property
    def values_of_8_bits(self) -> tuple[str, ...]:
        """Names of the transforms that depend on the scale of pixel values, also of those in groups."""
        names = (type(each).__name__ for each in _single(self._compose) if _computes_with_values(each))
        return tuple(dict.fromkeys(names))

    def _failing(self, image: NDArray[Any], seed: int) -> str:
        """The name of the first transform that raises an error, or changes the image's channels or type."""
        for number, transform in enumerate(self._compose.transforms):
            compose = _seeded(self._compose, seed)
            compose.transforms = compose.transforms[: number + 1]
            try:
                fails = not _alike(_result(compose, image), image)
            except _ERRORS:
                fails = True
            if fails:
                return type(transform).__name__
        return type(self._compose).__name__


def pipeline(transforms: tuple[Mapping[str, Any], ...]) -> Pipeline:
    """The pipeline of a card's `training: {transforms: [...]}`, checked.

    Errors: WrongUse for the first entry that cannot be built.

    >>> pipeline(({"name": "HorizontalFlip", "p": 1},))(np.eye(2, dtype=np.uint8)[..., None].repeat(3, 2), 0)[..., 0]
    array([[0, 1],
           [1, 0]], dtype=uint8)
    """
    compose = A.Compose([_built(entry) for entry in transforms])
    compose.set_random_state(np.random.default_rng(0), random.Random(0))
    return Pipeline(tuple(transforms), compose)


def _result(compose: Any, image: NDArray[Any]) -> Any:  # H W C -> H' W' C
    result = compose(image=image)["image"]
    return result[..., None] if isinstance(result, np.ndarray) and result.ndim == 2 else result


def _alike(result: Any, image: NDArray[Any]) -> bool:
    return isinstance(result, np.ndarray) and result.dtype == image.dtype and result.shape[2:] == image.shape[2:]


def _described(image: Any) -> str:
    if not isinstance(image, np.ndarray):
        return type(image).__name__
    return f"{' x '.join(map(str, image.shape))} (H W C, {image.dtype})"


def _single(group: Any) -> Iterator[Any]:
    """The transforms of a group, and of the groups in it."""
    for each in group.transforms:
        yield from _single(each) if isinstance(each, A.BaseCompose) else (each,)


def _computes_with_values(transform: Any) -> bool:
    """Whether a transform depends on the scale of pixel values; those that only move pixels do not."""
    moves = isinstance(transform, A.DualTransform)
    return not moves or isinstance(_fill(transform), str) or _fill(transform) is None  # a random fill is of 8 bits


def _fills_with_8_bits(transform: Any) -> bool:
    fill = np.ravel(_fill(transform))
    return bool(((fill >= 0) & (fill <= 255)).all())


def _fill(transform: Any) -> Any:
    """What a transform puts where the image has no pixels; 0 for one that needs no such value."""
    return getattr(transform, "drop_value", getattr(transform, "fill", 0))


@cache
def _warn_of_rounding(names: str) -> None:
    """Once a process."""
    log.warning(
        "Images of more than 8 bits are rounded to whole numbers in 0..255 before the transforms, because these are "
        "defined on 8-bit pixels: %s.",
        names,
    )


def _seeded(compose: Any, seed: int) -> Any:
    """A copy with generators of its own: two threads that share one would change each other's numbers; .13 ms.

    set_random_seed would start every transform at the same number and so correlate them.
    """
    generator, python_random = np.random.default_rng(seed), random.Random(seed)
    return copy.deepcopy(compose, {id(compose.random_generator): generator, id(compose.py_random): python_random})


def _built(entry: object) -> Any:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise WrongUse(f"A transform is a mapping with a name, as {{name: HorizontalFlip, p: 0.5}}; not {entry!r}.")
    name = str(entry["name"])
    if name in _LATER:
        raise WrongUse(
            f"Transform {name!r} does not belong to `training:`: `input:` normalises after it. Leave it out."
        )
    if name in _BOXES | _MASKS:
        raise WrongUse(f"Transform {name!r} needs more than the image (boxes or a mask). Leave it out.")
    if name not in _transforms():
        raise WrongUse(
            f"No transform of albumentations {A.__version__} is called {name!r}.{near(name, _transforms())} "
            f"Known: {len(_transforms())}, among them HorizontalFlip, OneOf, RandomBrightnessContrast, RandomCrop."
        )
    make: Callable[..., Any] = _transforms()[name]
    arguments = _checked(name, make, {key: _frozen(value) for key, value in entry.items() if key != "name"})
    try:
        if "InitSchema" in vars(make):
            arguments["strict"] = True  # else an argument that fails to validate may fall back to its default
        transform = make(**arguments)
        needed = getattr(transform, "targets_as_params", [])
    except _ERRORS as error:
        raise WrongUse(
            f"Transform {name!r} cannot be made so: {_error_message(error)}. Correct it in the card."
        ) from None
    if needed:
        raise WrongUse(f"Transform {name!r} needs more than the image ({', '.join(needed)}). Leave it out.")
    return transform


def _checked(name: str, make: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    known = [argument for argument in inspect.signature(make).parameters if argument != "self"]
    for argument in arguments:
        if argument not in known:
            raise WrongUse(
                f"Transform {name!r} has no argument {argument!r}.{near(argument, known)} Known: {', '.join(known)}."
            )
    p = arguments.get("p", 0.5)
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise WrongUse(f"Transform {name!r} has p = {p!r}. A probability lies within [0, 1].")
    if name in _GROUPS:
        inner = arguments.get("transforms")
        if not isinstance(inner, tuple) or not inner:
            raise WrongUse(f"Transform {name!r} chooses among others: give it `transforms: [...]`, at least one.")
        arguments["transforms"] = [_built(entry) for entry in inner]
    return arguments


@cache
def _transforms() -> Mapping[str, Callable[..., Any]]:
    """Name → class of every transform that needs an image only and returns one."""
    flat = {
        name: kind
        for name, kind in vars(A).items()
        if inspect.isclass(kind) and issubclass(kind, A.BasicTransform) and not issubclass(kind, A.Transform3D)
    }
    flat |= {TRANSFORM: ImageNetC}
    return {name: kind for name, kind in (flat | _GROUPS).items() if name not in _LATER | _ABSTRACT | _BOXES | _MASKS}


def _frozen(value: Any) -> Any:
    """YAML's lists as the tuples that albumentations asks for."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _error_message(error: Exception) -> str:
    if isinstance(error.__cause__, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.__cause__.errors())
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(".")
