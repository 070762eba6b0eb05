"""Labelled images: listed with their label maps, read, and the file's values turned into label ids.

Must not know a score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segment.errors import ImageUnreadable, SegmentError, WrongUse, error_message
from segment.images.find import Source, find_images, find_pairs
from segment.images.listing.samples import as_array
from segment.images.prepare import normalise
from segment.images.read import read_label, read_source, sha256_of
from segment.networks.load import Network

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Labelled:
    """A labelled image, read, or why it cannot be used.

    image: pixels H W C; a normalised tensor C H W where a caller gave one. label: ids, H W; multi-label K H W
    contents: SHA-256 of the image's file and of its label maps'
    """

    source: Source
    image: Pixels | Tensor
    label: NDArray[np.int64]
    error: str = ""
    contents: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """H and W."""
        height, width = self.image.shape[-2:] if isinstance(self.image, Tensor) else self.image.shape[:2]
        return int(height), int(width)

    def normalised(self, network: Network) -> Tensor:  # -> C H W
        """The image as the network's input, not padded."""
        return self.image if isinstance(self.image, Tensor) else normalise(self.image, network.input)


def labelled(images: str | Path, labels: str | Path | None) -> tuple[Source, ...]:
    """The images with their label maps; one without keeps None, and is refused when its turn comes.

    Errors: WrongUse where no image has a label.
    """
    sources = find_images(images)
    if labels is not None:
        maps = {source.id: source.label or source.path for source in find_images(labels)}
        sources = tuple(replace(source, label=maps.get(source.id)) for source in sources)
    if all(source.label is None for source in sources):
        find_pairs(images, labels)  # its refusal names where label maps were expected
    return sources


def multilabels(images: str | Path, labels: str | Path, classes: Sequence[str]) -> tuple[Source, ...]:
    """The images of a multi-label head, whose label maps lie in a folder a label: LABELS/<label>/<id>.png, 0 and 1."""
    missing = [name for name in classes if not (Path(labels) / name).is_dir()]
    if missing:
        raise WrongUse(
            f"A multi-label head needs one folder of label maps (0 and 1) a label below {str(labels)!r}, named "
            f"{', '.join(classes)}; missing: {', '.join(missing)}."
        )
    return tuple(
        replace(source, label=Path(labels), masks=tuple(Path(labels) / name / f"{source.id}.png" for name in classes))
        for source in find_images(images)
    )


def contents_of(source: Source) -> tuple[str, ...]:
    """SHA-256 of the image's file and of its label maps'."""
    if source.sample is not None:
        return (source.id,)
    labels = source.masks or ((source.label,) if source.label is not None else ())
    return tuple(sha256_of(path) for path in (source.path, *labels))


def read_labelled(sources: Iterable[Source], network: Network) -> Iterator[Labelled]:
    """Labelled images one after another."""
    return (read_labelled_image(source, network) for source in sources)


def read_labelled_image(source: Source, network: Network) -> Labelled:
    nothing = np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.int64)
    if source.label is None:
        return Labelled(source, *nothing, error="It has no label map: no file of its name was found.")
    if source.sample is not None:
        return _sampled(source, source.sample, network)
    try:
        image = read_source(source, network.input).pixels
        label = _stacked(source) if source.masks else read_label(source.label, source.label_part, source.axis)
    except (ImageUnreadable, OSError, MemoryError) as error:
        return Labelled(source, *nothing, error=error_message(error))
    if label.shape[-2:] != image.shape[:2]:
        rows, columns = label.shape[-2:]
        return Labelled(
            source,
            *nothing,
            error=(
                f"The label map is {rows}x{columns}, its image {image.shape[0]}x{image.shape[1]}. Labels are compared "
                "pixel by pixel: give the label at the image's size."
            ),
        )
    return Labelled(source, image, _mapped(label, network.card.labels), contents=contents_of(source))


def _sampled(source: Source, sample: Callable[[], tuple[Any, Any]], network: Network) -> Labelled:
    """An image and a label map that a caller holds."""
    nothing = np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.int64)
    try:
        given_image, given_label = sample()
        image = network.accept.image(given_image)
        label = index_map(given_label)
    except (SegmentError, TypeError, ValueError, LookupError, OSError) as error:
        return Labelled(source, *nothing, error=error_message(error))
    size = tuple(image.shape[-2:] if isinstance(image, Tensor) else image.shape[:2])
    if label.shape[-2:] != size:
        why = f"The label map is {'x'.join(map(str, label.shape))}, its image {size[0]}x{size[1]}."
        return Labelled(source, *nothing, error=why)
    sums = tuple(hashlib.sha256(np.ascontiguousarray(as_array(each)).tobytes()).hexdigest() for each in (image, label))
    return Labelled(source, image, _mapped(label, network.card.labels), contents=sums)


def index_map(given: Any) -> NDArray[np.int64]:  # H W (K H W)
    """Class indices from an array, a tensor or a grey or palette picture. Errors: WrongUse for anything else."""
    label = np.asarray(given if not isinstance(given, Tensor) else given.detach().cpu().numpy())
    if label.ndim == 3 and 1 in (label.shape[0], label.shape[2]):
        label = label.squeeze(0 if label.shape[0] == 1 else 2)
    whole = label.dtype.kind in "iub" or (label.dtype.kind == "f" and bool((label == np.rint(label)).all()))
    if label.ndim not in (2, 3) or not whole:
        raise WrongUse(f"A label map is H W of class indices; this one is {label.dtype}, shape {label.shape}.")
    return label.astype(np.int64)


def _mapped(label: NDArray[np.int64], labels: Mapping[int, int]) -> NDArray[np.int64]:
    """The label ids that the values of a file stand for.

    >>> _mapped(np.array([[0, 255]]), {255: 1}).tolist()
    [[0, 1]]
    """
    if not labels:
        return label
    ids = label.copy()
    for value, id in labels.items():
        ids[label == value] = id
    return ids


def _stacked(source: Source) -> NDArray[np.int64]:  # -> K H W
    masks = [read_label(path) for path in source.masks]
    if len({mask.shape for mask in masks}) > 1:
        raise ImageUnreadable(f"The label maps of {source.id!r} differ in size: {[mask.shape for mask in masks]}.")
    return np.stack(masks)
