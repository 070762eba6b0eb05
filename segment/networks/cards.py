"""What a network expects of its images and what its outputs mean: the model card, read from YAML.

Must not know how a network is built or loaded.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segment.axes import Head, size_text
from segment.errors import UnknownNetwork, WrongUse, near, one_line
from segment.images.specs import Channels, InputSpec, TrainingSpec, planes_of
from segment.networks.building.hf import hf_input
from segment.networks.building.smp import arguments_of, pretrained_numbers, trained_head
from segment.networks.building.uris import parse_uri
from segment.networks.card_file import CardFile, card_error_messages
from segment.safe_yaml import read_yaml
from segment.stores.urls import beside, is_url

SHIPPED = Path(__file__).parent / "shipped"
"""Cards that the package brings along, and the weights of one of them."""

IN_CHANNELS = "in_channels"
"""smp's argument for C."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

UNSTATED = InputSpec()
"""The input of a card that states none; known by its identity, for another card may state the same values."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Card:
    """One network, ready to be built: how, from which weights, for which images, with which classes.

    name: the network's name in messages and files
    network: a URI, see `segment.networks.building.builders`
    weights: the weights file; None: those of the URI, or random ones
    sha256: of the weights file, checked before loading; None: not checked
    head: what the output channels are; never guessed from their number
    input: how an image becomes the network's input
    classes: names of the K classes, in the order of the outputs that are kept; empty: not stated
    palette: RGB, 0..255, one a class, no two alike; empty: not stated
    void: the label that is not scored
    labels: value in a label file -> the label id that it stands for, as {255: 1} where white is class 1, or {-1: 255};
        others stay; also a colour ("#000000") or a shape's name
    unseen: labels of classes that training never saw
    drop_outputs: channels of the output that are removed before the softmax or the sigmoid
    batchnorm_eps: epsilon by glob over layer names, where a network was trained with another than its builder sets
    training: how training made a mini-batch; None: not stated
    images: the training images (folder, glob or list), which must not be tested on; or a description of them
    folder: of the card's file, where a `py:` factory is looked for too
    assumed: whether nobody stated the preprocessing, which is then a plain division by 255
    """

    name: str
    network: str
    weights: str | Path | None = None
    sha256: str | None = None
    head: Head = "softmax"
    input: InputSpec = UNSTATED
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    void: int | None = None
    labels: Mapping[int | str, int] = field(default_factory=dict)
    unseen: tuple[int, ...] = ()
    drop_outputs: tuple[int, ...] = ()
    batchnorm_eps: Mapping[str, float] = field(default_factory=dict)
    training: TrainingSpec | None = None
    images: str | None = None
    assumed: bool = False
    folder: Path | None = None

    def __post_init__(self) -> None:
        """Held against the same checks as a card's file; lists become tuples. Errors: WrongUse."""
        for key, kind in (("input", InputSpec), ("training", TrainingSpec)):
            entry = getattr(self, key)
            if not isinstance(entry, kind) and (entry is not None or key == "input"):
                needed = f"{kind.__module__}.{kind.__name__}"
                raise WrongUse(f"Card {self.name!r}: {key}: it is a {needed}, not {one_line(repr(entry), 60)}.")
        values = {key: getattr(self, key) for key in CardFile.model_fields if key != "weights"}
        values["input"] = vars(self.input)
        values["training"] = None if self.training is None else vars(self.training)
        values["head"] = str(self.head)  # a file may leave it out: None
        try:
            checked = CardFile.model_validate(values)
        except ValidationError as error:
            raise WrongUse(card_error_messages(self.name, error)) from None
        for key in ("classes", "palette", "unseen", "drop_outputs"):
            object.__setattr__(self, key, getattr(checked, key))
        if vars(self.input) != vars(checked.input):
            object.__setattr__(self, "input", replace(self.input, **vars(checked.input)))
        object.__setattr__(self, "input", _unpadded(self.input, self.name))

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:4]) + (", ..." if len(self.classes) > 4 else "")
        lines = [
            f"Card {self.name}: {self.network}",
            f"weights: {self.weights or 'of the URI'}{'' if self.sha256 is None else ', sum checked'}",
            f"head: {self.head}, {f'{len(self.classes)} classes ({names})' if names else 'classes not named'}",
            f"input: {self.input.sentence}",
            f"training: {'not stated' if self.training is None else self.training.in_words}",
        ]
        return "\n  ".join(lines)

    @property
    def outputs(self) -> int | None:
        """How many channels the network's output has, those of `drop_outputs` too; None: not stated."""
        kept = 1 if self.head == "sigmoid" else len(self.classes)
        return kept + len(self.drop_outputs) if kept else None

    def settings(self) -> dict[str, Any]:
        """All that changes the results or how they are shown, as JSON values: neither the name nor the weights file."""
        apart = ("name", "weights", "sha256", "assumed", "folder")
        settings = {key: value for key, value in asdict(self).items() if key not in apart}
        del settings["input"]["max_pixels"]  # which images are read, not what comes of them
        return settings


def card_folders() -> tuple[Path, ...]:
    return (Path("configs/models"), SHIPPED)


def known_cards() -> dict[str, Path]:
    """Every card by its name; those of the working folder's `configs/models` come before the package's."""
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
        return _card_of(CardFile.model_validate(contents), path)
    except ValidationError as error:
        raise WrongUse(card_error_messages(path, error)) from None


def card_schema() -> dict[str, Any]:
    """The JSON schema of a card."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **CardFile.model_json_schema()}


def default_card(uri: str) -> Card:
    """The card of a network that has none: RGB / 255, and the usual mean and std of its library; bands without these.

    The head is what the URI says (`head=sigmoid`, `head=multilabel`), else that of the activation that an smp network
    is made with, else softmax.

    >>> default_card("smp:Unet?classes=11").input.stride, default_card("py:net:make?head=sigmoid").head
    (32, 'sigmoid')
    """
    parsed = parse_uri(uri)
    usual = parsed.scheme in ("smp", "smp-dir", "torchvision", "hf")
    bands = arguments_of(parsed).get(IN_CHANNELS, 3) if parsed.scheme in ("smp", "smp-dir") else 3
    channels: Channels = bands if isinstance(bands, int) and bands > 0 and bands != 3 else "RGB"
    mean: tuple[float, ...] = IMAGENET_MEAN if usual and channels == "RGB" else ()
    std: tuple[float, ...] = IMAGENET_STD if mean else ()
    assumed = parsed.scheme == "py" or (usual and channels != "RGB")  # ImageNet's numbers are for three channels
    numbers = pretrained_numbers(parsed) if mean and parsed.scheme in ("smp", "smp-dir") else None
    if numbers is not None and numbers != (mean, std):
        (mean, std), assumed = numbers, True  # whoever trained it may have taken ImageNet's numbers all the same
    stride = {"smp": 32, "smp-dir": 32, "hf": 32, "segment": 8}.get(parsed.scheme, 1)
    spec = InputSpec(mean=mean, std=std, stride=stride, channels=channels)
    if parsed.scheme == "hf":
        settings = hf_input(parsed)
        spec, assumed = replace(spec, **(settings or {})), settings is None
    head = parsed.head or (trained_head(parsed) if parsed.scheme in ("smp", "smp-dir") else None) or "softmax"
    return Card(name=uri, network=uri, head=head, input=spec, assumed=assumed)


def completed(card: Card, uri: str) -> Card:
    """A card that is given beside a URI: where it states no input or no head, it has those of `default_card`.

    Errors: WrongUse where both state a head, or a number of channels, and they differ.
    """
    usual, stated, head = default_card(uri), card.input is not UNSTATED, card.head
    if head != usual.head and (usual.head != "softmax" or parse_uri(uri).head):
        if head != "softmax" or card.folder is not None:  # a card's file says it, or is about another network
            raise WrongUse(f"The head is {head} in the card {card.name!r}, and {usual.head} by {uri!r}: correct one.")
        head = usual.head
    if not stated:
        return replace(card, network=uri, head=head, input=usual.input, assumed=usual.assumed)
    if card.input.channels not in ("RGB", "BGR"):
        uri = with_channels(uri, card.input.planes, f"Card {card.name!r}")
    return replace(card, network=uri, head=head)


def with_channels(uri: str, count: int, where: str) -> str:
    """An smp URI whose network takes `count` channels; any other as it is.

    >>> with_channels("smp:Unet?classes=2", 4, ""), with_channels("py:net:make", 4, "")
    ('smp:Unet?classes=2&in_channels=4', 'py:net:make')
    """
    parsed = parse_uri(uri)
    stated = parsed.arguments.get(IN_CHANNELS)
    if parsed.scheme != "smp" or stated == count or (stated is None and count == 3):
        return uri
    if stated is not None:
        raise WrongUse(f"{where}: input.channels are {count}, and the network's URI says {IN_CHANNELS}={stated}.")
    return f"{uri}{'&' if '?' in uri else '?'}{IN_CHANNELS}={count}"


def relative_to(folder: Path, uri: str) -> str:
    """The URI, with its folder, where it names one, relative to `folder` instead of to the working folder.

    >>> relative_to(Path("cards"), "smp-dir:saved"), relative_to(Path("cards"), "segment:tiny")
    ('smp-dir:cards/saved', 'segment:tiny')
    """
    scheme, _, rest = uri.partition(":")
    if scheme == "hf":
        return f"hf:{folder / rest}" if (folder / rest.partition("?")[0]).is_dir() else uri
    return f"{scheme}:{folder / rest}" if scheme == "smp-dir" else uri


def _images_from(folder: Path, images: str) -> str:
    """The path relative to the card's folder; a URL, or a text that is no path, stays as it is."""
    if is_url(images):
        return images
    there = folder / images
    return str(there) if glob.has_magic(images) or there.exists() else images


def _read_yaml(path: Path) -> Any:
    try:
        return read_yaml(path, f"Card {str(path)!r}")
    except FileNotFoundError:
        raise WrongUse(f"Card {str(path)!r} is not there. Known by name: {', '.join(known_cards())}.") from None


def _unpadded(spec: InputSpec, card: str) -> InputSpec:
    """An image that is resized is not padded. Errors: WrongUse for a size that the network's stride does not divide."""
    if spec.size is None or spec.stride == 1:
        return spec
    if any(side % spec.stride for side in spec.size):
        size = size_text(spec.size)
        raise WrongUse(f"Card {card!r}: input: size {size} is no multiple of the stride, {spec.stride}.")
    return replace(spec, stride=1)


def _card_of(file: CardFile, path: Path) -> Card:
    given = {} if file.input is None else file.input.model_dump(exclude_unset=True)
    network = file.network
    if "channels" in given:
        network = with_channels(network, planes_of(given["channels"]), f"Card {str(path)!r}")
    network = relative_to(path.parent, network)
    usual = default_card(network)
    if "channels" in given and not (isinstance(given["channels"], str) and given["channels"] != "grey"):
        given = {"mean": (), "std": ()} | given  # the usual three numbers are for RGB
    if given.get("channels") == "BGR" and usual.input.channels == "RGB":
        given = {"mean": usual.input.mean[::-1], "std": usual.input.std[::-1]} | given
    if usual.head != "softmax" and file.head not in (None, usual.head):
        where = "in the network's URI" if parse_uri(network).head else "by the activation that the network is made with"
        raise WrongUse(f"Card {str(path)!r}: head is {file.head}, and {usual.head} {where}.")
    return Card(
        name=path.stem,
        network=network,
        weights=None if file.weights is None else beside(path.parent, file.weights.file),
        sha256=None if file.weights is None else file.weights.sha256,
        head=file.head or usual.head,
        input=_unpadded(InputSpec(**{**vars(usual.input), **given}), str(path)),
        classes=file.classes,
        palette=file.palette,
        void=file.void,
        labels=file.labels,
        assumed=usual.assumed and file.input is None,
        folder=path.parent,
        unseen=file.unseen,
        drop_outputs=file.drop_outputs,
        batchnorm_eps=file.batchnorm_eps,
        training=None if file.training is None else TrainingSpec(**file.training.model_dump()),
        images=None if file.images is None else _images_from(path.parent, file.images),
    )
