"""A card's training pipeline: albumentations transforms by name and arguments.

It augments an image as training did, so that the statistics of a mini-batch come from the training distribution.
Every argument is checked when the pipeline is made: albumentations itself only warns of an unknown argument, and
replaces some invalid values by defaults.

Must not know which images make a mini-batch, nor what the network wants after the pipeline (`prepare.py`).
"""

from __future__ import annotations

import copy
import inspect
import os
import random
from collections.abc import Callable, Mapping
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

_GROUPS = {"OneOf": A.OneOf, "RandomOrder": A.RandomOrder, "Sequential": A.Sequential, "SomeOf": A.SomeOf}
_LATER = frozenset({"FromFloat", "Normalize", "ToFloat", "ToTensor3D", "ToTensorV2"})  # what `input:` does
_ABSTRACT = frozenset({"BasicTransform", "DualTransform", "ImageOnlyTransform", "Lambda"})
_BOXES = frozenset({"AtLeastOneBBoxRandomCrop", "BBoxSafeRandomCrop", "RandomSizedBBoxSafeCrop"})
_MASKS = frozenset({"ConstrainedCoarseDropout", "CropNonEmptyMaskIfExists"})  # not in their `targets_as_params`
_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, cv2.error, CropSizeError)


@dataclass(frozen=True)
class Pipeline:
    """Transforms in order, on H W 3 uint8. Stateless: an image and a seed give the same result in any order or thread.

    transforms: as written in the card
    """

    transforms: tuple[Mapping[str, Any], ...]
    _compose: Any = field(repr=False, compare=False)  # a template, only ever copied

    def __call__(self, image: NDArray[Any], seed: int) -> NDArray[np.uint8]:  # H W 3 -> H' W' 3
        """One random augmentation of the image. A float image (a 16-bit file, 0..255) is rounded to uint8 first.

        seed: an integer from 0 up, another for each augmentation; no global generator is read or advanced
        """
        if image.dtype != np.uint8:
            image = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
        compose = _seeded(self._compose, seed)
        try:
            result = compose(image=image)["image"]
        except _ERRORS as error:
            advice = "Leave out or correct the transform that asks for more"
            if isinstance(error, CropSizeError):
                advice = "Give larger images, or the crop `pad_if_needed: true` if the network was trained so"
            raise WrongUse(
                f"The training pipeline does not take an image of {image.shape[0]} x {image.shape[1]}: "
                f"{_error_message(error)}. {advice}."
            ) from None
        if not isinstance(result, np.ndarray) or result.dtype != np.uint8 or result.shape[2:] != (3,):
            description = f"{getattr(result, 'dtype', type(result).__name__)} {getattr(result, 'shape', '')}".strip()
            raise WrongUse(
                f"The training pipeline gives {description}, not H W 3 uint8. Scaling and axes are `input:`'s job."
            )
        return np.ascontiguousarray(result)


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
