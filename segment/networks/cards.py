"""What a network expects of its images and what its outputs mean: the model card, read from YAML.

Must not know how a network is built or loaded.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from segment.axes import Head
from segment.errors import UnknownNetwork, WrongUse, near, one_line
from segment.images.specs import CHANNEL_ORDERS, Channels, InputSpec, TrainingSpec, planes_of
from segment.networks.uris import parse_uri

CHECKOUT = Path(__file__).parents[2] / "configs" / "models"
SHIPPED = Path(__file__).parent / "shipped"
"""Cards (and weights) that an installed package brings along; the repository's own cards are in `configs/models/`."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One network, ready to be built: how, from which weights, for which images, with which classes.

    name: the network's name in messages and files
    network: a URI, see `segment.networks.builders`
    weights: the weights file; None: those of the URI, or random ones
    sha256: of the weights file, checked before loading; None: not checked
    head: what the output channels are; never guessed from their number
    input: how an image becomes the network's input
    classes: names of the K classes, in the order of the outputs that are kept; empty: not stated
    palette: RGB, 0..255, one a class; empty: not stated
    void: the label that is not scored
    labels: value in a label file -> the label id that it stands for, as {255: 1} where white is class 1; others stay
    unseen: labels of classes that training never saw
    drop_outputs: channels that are removed before the softmax
    batchnorm_eps: epsilon by glob over layer names, where a network was trained with another than its builder sets
    training: how training made a mini-batch; None: not stated
    images: the training images (folder, glob or list), which must not be tested on; or a description of them
    """

    name: str
    network: str
    weights: Path | None = None
    sha256: str | None = None
    head: Head = "softmax"
    input: InputSpec = field(default_factory=InputSpec)
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    void: int | None = None
    labels: Mapping[int, int] = field(default_factory=dict)
    unseen: tuple[int, ...] = ()
    drop_outputs: tuple[int, ...] = ()
    batchnorm_eps: Mapping[str, float] = field(default_factory=dict)
    training: TrainingSpec | None = None
    images: str | None = None

    def settings(self) -> dict[str, Any]:
        """All that changes the results or how they are shown, as JSON values: neither the name nor the weights file."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "weights", "sha256")}


def card_folders() -> tuple[Path, ...]:
    return (Path("configs/models"), CHECKOUT, SHIPPED)


def known_cards() -> dict[str, Path]:
    """Every card by its name; the working folder's cards come before the repository's and the package's."""
    return {path.stem: path for folder in reversed(card_folders()) for path in sorted(folder.glob("*.yaml"))}


def read_card(card: str | Path) -> Card:
    """The card in that YAML file, or of that name.

    Errors: WrongUse with a line for each error in the card, naming file and key; UnknownNetwork where no card has that
    name.
    """
    path = Path(card)
    if path.suffix not in (".yaml", ".yml"):
        known = known_cards()
        if str(card) not in known:
            raise UnknownNetwork(f"No card is called {str(card)!r}.{near(str(card), known)} Known: {', '.join(known)}.")
        path = known[str(card)]
    contents = _read_yaml(path)
    try:
        return _CardFile.model_validate(contents).card(path)
    except ValidationError as error:
        raise WrongUse("\n".join(_error_message(path, dict(entry)) for entry in error.errors())) from None


def default_card(uri: str) -> Card:
    """The card of a network that has none: RGB / 255, and the usual mean and std of its library.

    The head is softmax unless the URI says `head=sigmoid` or `head=multilabel`.

    >>> default_card("smp:Unet?classes=11").input.stride, default_card("py:net:make?head=sigmoid").head
    (32, 'sigmoid')
    """
    parsed = parse_uri(uri)
    usual = parsed.scheme in ("smp", "smp-dir", "torchvision")
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if usual else ((), ())
    stride = {"smp": 32, "smp-dir": 32, "segment": 8}.get(parsed.scheme, 1)
    return Card(
        name=uri, network=uri, head=parsed.head or "softmax", input=InputSpec(mean=mean, std=std, stride=stride)
    )


def relative_to(folder: Path, uri: str) -> str:
    """The URI, with its folder, where it names one, relative to `folder` instead of to the working folder.

    >>> relative_to(Path("cards"), "smp-dir:saved"), relative_to(Path("cards"), "segment:tiny")
    ('smp-dir:cards/saved', 'segment:tiny')
    """
    scheme, _, rest = uri.partition(":")
    return f"{scheme}:{folder / rest}" if scheme == "smp-dir" else uri


def _images_from(folder: Path, images: str) -> str:
    """The path relative to the card's folder; a text that is no path stays as it is."""
    there = folder / images
    return str(there) if glob.has_magic(images) or there.exists() else images


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WrongUse(f"Card {str(path)!r} is not there. Known by name: {', '.join(known_cards())}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WrongUse(f"Card {str(path)!r} is not a readable YAML file: {one_line(error)}.") from None


def _error_message(path: Path, entry: dict[str, Any]) -> str:
    place: tuple[Any, ...] = entry["loc"]
    key = ".".join(str(part) for part in place) or "the card"
    if entry["type"] != "extra_forbidden":
        return f"Card {str(path)!r}: {key}: {entry['msg'].removeprefix('Value error, ')}."
    inner: dict[Any, type[BaseModel]] = {"weights": _Weights, "input": _Input, "training": _Training}
    known = sorted(inner.get(place[0] if len(place) > 1 else None, _CardFile).model_fields)
    return f"Card {str(path)!r}: {key} is not a key of a card.{near(str(place[-1]), known)} Known: {', '.join(known)}."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Weights(_Strict):
    file: StrictStr
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


def _channels(value: object) -> Channels:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    for order in CHANNEL_ORDERS:
        if value == order:
            return order
    raise ValueError(f"it is {', '.join(CHANNEL_ORDERS)}, or a number of planes from 1 up, not {value!r}")


class _Input(_Strict):
    scale: Annotated[float, Field(gt=0)] = 255.0
    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()
    channels: Annotated[Channels, PlainValidator(_channels)] = "RGB"
    stride: Annotated[StrictInt, Field(ge=1)] = 1
    pad: Literal["reflect", "edge", "zero"] = "reflect"
    white: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def one_number_a_channel(self) -> Self:
        wanted = planes_of(self.channels)
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (0, wanted):
                raise ValueError(f"{name} has {len(numbers)} numbers where {self.channels} needs {wanted}, or none")
        return self


class _Training(_Strict):
    batch: Annotated[StrictInt, Field(ge=1)]
    transforms: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def transforms_have_names(self) -> Self:
        if any(not isinstance(transform.get("name"), str) for transform in self.transforms):
            raise ValueError("every transform needs a name, as in {name: HorizontalFlip, p: 0.5}")
        return self


Byte = Annotated[StrictInt, Field(ge=0, le=255)]
Index = Annotated[StrictInt, Field(ge=0)]


class _CardFile(_Strict):
    network: StrictStr
    weights: _Weights | None = None
    head: Head | None = None
    input: _Input | None = None
    classes: tuple[StrictStr, ...] = ()
    palette: tuple[tuple[Byte, Byte, Byte], ...] = ()
    void: Index | None = None
    labels: dict[Index, Index] = Field(default_factory=dict)
    unseen: tuple[Index, ...] = ()
    drop_outputs: tuple[Index, ...] = ()
    batchnorm_eps: dict[StrictStr, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    training: _Training | None = None
    images: StrictStr | None = None

    @model_validator(mode="after")
    def parts_fit(self) -> Self:
        if self.palette and self.classes and len(self.palette) != len(self.classes):
            raise ValueError(f"the palette has {len(self.palette)} colours for {len(self.classes)} classes")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")
        if self.head == "sigmoid" and len(self.classes) not in (0, 2):
            raise ValueError(f"a sigmoid head has two classes, (1 - p, p), and {len(self.classes)} are named")
        return self

    @model_validator(mode="after")
    def labels_lead_to_ids(self) -> Self:
        if self.void in self.labels:
            raise ValueError(f"labels says what {self.void} stands for, and void says that it is not scored")
        classes = 2 if self.head in ("sigmoid", "multilabel") else len(self.classes)
        known = {*range(classes), *self.unseen, self.void}
        if classes and (strange := sorted(set(self.labels.values()) - known)):
            raise ValueError(f"labels leads to {strange[0]}, which is none of 0..{classes - 1}, void or unseen")
        return self

    def card(self, path: Path) -> Card:
        usual = default_card(self.network)
        given = {} if self.input is None else self.input.model_dump(exclude_unset=True)
        if planes_of(given.get("channels", "RGB")) != len(IMAGENET_MEAN):
            given = {"mean": (), "std": ()} | given  # the usual three numbers are for RGB
        if usual.head != "softmax" and self.head not in (None, usual.head):
            raise WrongUse(f"Card {str(path)!r}: head is {self.head}, and {usual.head} in the network's URI.")
        return Card(
            name=path.stem,
            network=relative_to(path.parent, self.network),
            weights=None if self.weights is None else path.parent / self.weights.file,
            sha256=None if self.weights is None else self.weights.sha256,
            head=self.head or usual.head,
            input=InputSpec(**{**vars(usual.input), **given}),
            classes=self.classes,
            palette=self.palette,
            void=self.void,
            labels=self.labels,
            unseen=self.unseen,
            drop_outputs=self.drop_outputs,
            batchnorm_eps=self.batchnorm_eps,
            training=None if self.training is None else TrainingSpec(**self.training.model_dump()),
            images=None if self.images is None else _images_from(path.parent, self.images),
        )
