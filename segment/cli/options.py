"""Options that several commands share, and their texts turned into values.

Must not know what a job does with a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from segment.axes import size_in
from segment.cli.option_groups import OptionGroup
from segment.errors import WrongUse, near
from segment.stores.urls import is_url, url_of

if TYPE_CHECKING:
    from segment.images.listing.parts import Listing
    from segment.networks.load import Network


Name = TypeVar("Name", bound=str)
AUTO: tuple[Literal["auto"], ...] = ("auto",)
AUTO_OR_OFF: tuple[Literal["auto", "off"], ...] = ("auto", "off")


def here_only(path: Path | None) -> Path | None:
    """An output that cannot be a URL. Errors: WrongUse."""
    if path is not None and is_url(path):
        raise WrongUse(f"--output {url_of(path)}: this command writes to a folder here. Copy it to the store then.")
    return path


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Model card, its name, or a URI such as smp:Unet?encoder=resnet34&classes=11."
    ),
]
Weights = Annotated[Path | None, typer.Option(help="Weights: safetensors, or a state dict (never unpickled).")]
Every = Annotated[int, typer.Option(help="Take every N-th frame of a video.")]
Axis = Annotated[int, typer.Option(help="Cut a NIfTI volume into slices along this voxel axis (0, 1, 2).")]
Mask = Annotated[
    str | None, typer.Option("--mask", help="Region masks; where they are 0, nothing is shown or counted.")
]
LabelSuffix = Annotated[str, typer.Option(help="What a label map's name adds to its image's, as _manual1.")]
Prefix = Annotated[
    str | None,
    typer.Option(help="Prefix of the weights' names, as ema_model.; default: the one that fits most of them."),
]
ExtraKeys = Annotated[
    str, typer.Option(help="Weights under the prefix that the network does not have: refuse, or ignore.")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run code that a card's file names, as py:package.module:factory.")
]
GroupsOver = Annotated[
    str | None,
    typer.Option(
        "--groups",
        help="Intervals and tests over groups of images: folder, sequence, or a column of the list or --groups-table.",
    ),
]
GroupsTable = Annotated[Path | None, typer.Option(help="CSV with a column `id` and that of the groups.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Memory = Annotated[
    str | None, typer.Option(help="Memory that this process may take, as 4GiB; default: 80 % of what is free.")
]
EngineName = Annotated[
    str,
    typer.Option("--engine", help="What runs the passes: torch; or openvino, on a processor (docs/how-to/deploy.md)."),
]
Workers = Annotated[
    int,
    typer.Option(help="Threads that decode images and write results beside the network; 0: one step after the other."),
]
ImagesPerPass = Annotated[
    str,
    typer.Option(
        "--batch",
        metavar="N|auto",
        rich_help_panel="Speed, memory and machines",
        help="Images of one size in a pass; auto: as many as are measured to be fastest. Small images gain most.",
    ),
]
Out = Annotated[Path, typer.Option("--output", "-o", help="Where to write: a path, or a URL as s3://bucket/run.")]
OutHere = Annotated[Path, typer.Option("--output", "-o", help="Where to write.", callback=here_only)]

Images = Annotated[
    str,
    typer.Option(help="Test images: a folder, a glob, or a text list with an image, or an image and a label, a line."),
]
LabelMaps = Annotated[str | None, typer.Option(help="Label maps of --images, of the same names; none for a list.")]
ValidationImagesOption = Annotated[str | None, typer.Option(help="Images to fit temperatures and thresholds on.")]
ValidationLabels = Annotated[str | None, typer.Option(help="Label maps of the validation images.")]
ValidationMask = Annotated[str | None, typer.Option(help="Region masks of the validation images, as --mask.")]
Void = Annotated[int | None, typer.Option(help="Label id that no score counts; default: the card's.")]
InsertDropout = Annotated[
    float | None,
    typer.Option(
        help="MC dropout for a network without: Dropout2d(P) after each decoder stage, else before the last layer.",
    ),
]
Unseen = Annotated[str, typer.Option(help="Label ids of objects of no trained class, with commas.")]
TunedFolder = Annotated[
    Path | None, typer.Option("--tuned", help="Folder of `segment tune`: its setting, in place of --bank.")
]
TriageFile = Annotated[
    Path | None,
    typer.Option("--triage", help="What `segment triage` wrote: also accept or review, and test for shift."),
]
Batches = Annotated[str, typer.Option(help="Values of M, with commas.")]
Transforms = Annotated[str, typer.Option(help="How statistics images are transformed: training, plain, crop:HxW.")]
Alphas = Annotated[str, typer.Option(help="Share of the draw in the statistics; the rest are the trained ones.")]
Title = Annotated[str, typer.Option(help="Heading in the report; default: MODEL.")]
Report = Annotated[Path | None, typer.Option(help="Markdown page to write the tables into, as docs/results.md.")]


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(OptionGroup):
    """How MODEL is loaded."""

    weights: Weights = None
    prefix: Prefix = None
    extra_keys: ExtraKeys = "refuse"
    trust: Trust = False

    def load(self, model: str, device: str, weights: Path | None = None) -> Network:
        """The network of a command line, on its device. weights: others than the option's."""
        from segment.estimation.memory_budget import keep_freed_pages
        from segment.networks.load import load_network

        keep_freed_pages()
        return load_network(
            model,
            weights=self.weights if weights is None else weights,
            device=device,
            prefix=self.prefix,
            extra_keys=choice("--extra-keys", self.extra_keys, ("refuse", "ignore")),
            trust=self.trust,
        )

    def load_if_named(self, model: str | None, device: str) -> Network | None:
        """The network of a command that may have none. Errors: WrongUse for options that would load it."""
        if model is not None:
            return self.load(model, device)
        refuse_unused({"--weights": self.weights, "--prefix": self.prefix, "--extra-keys": self._extra_keys}, "--model")
        return None

    def given(self) -> dict[str, object]:
        """The options for the next command; None where they are not given."""
        options = {"weights": self.weights, "prefix": self.prefix, "extra_keys": self._extra_keys}
        return {**options, "trust": self.trust}

    @property
    def _extra_keys(self) -> str | None:
        return None if self.extra_keys == "refuse" else self.extra_keys


@dataclass(frozen=True, kw_only=True)
class ListingOptions(OptionGroup):
    """Which frames and slices of its files a command takes."""

    every: Every = 1
    axis: Axis = 2

    def listing(self) -> Listing:
        from segment.images.listing.parts import Listing

        return Listing(every=self.every, axis=self.axis)


def size_of(text: str | None) -> tuple[int, int] | None:
    """HxW to (H, W).

    >>> size_of("360x480")
    (360, 480)
    """
    if text is None:
        return None
    size = size_in(text)
    if size is None:
        raise WrongUse(f"--size {text!r} is not HxW; write rows x columns, as 360x480.")
    return size


def choice(option: str, text: str, known: tuple[Name, ...]) -> Name:
    """The known name that an option gives. Errors: WrongUse.

    >>> choice("--engine", "openvino", ("torch", "openvino"))
    'openvino'
    """
    for name in known:
        if name == text:
            return name
    raise WrongUse(f"{option} is {' or '.join(known)}, not {text!r}.{near(text, known)}")


def refuse_unused(given: Mapping[str, object], add: str) -> None:
    """Errors: WrongUse where an option is given that changes nothing without another.

    given: options by their names, None or "" where they are not given. add: what they need, as it is written
    """
    unused = [option for option, value in given.items() if value is not None and value != ""]
    if unused:
        them = "it" if len(unused) == 1 else "them"
        raise WrongUse(f"{' and '.join(unused)} would change nothing here: add {add}, or leave {them} out.")


def listed(text: str) -> tuple[str, ...]:
    """Names with commas between.

    >>> listed("png, npz")
    ('png', 'npz')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def number_or(option: str, text: str, words: tuple[Name, ...], what: str) -> Name | int:
    """One of the words, or the number of what is counted, whose least the plan that takes it checks.

    >>> number_or("--tile", "auto", AUTO_OR_OFF, "pixels"), number_or("--tile", "512", AUTO_OR_OFF, "pixels")
    ('auto', 512)
    """
    for word in words:
        if word == text:
            return word
    try:
        return int(text)
    except ValueError:
        raise WrongUse(f"{option} is {', '.join(words)} or a number of {what}, not {text!r}.") from None


def counts(text: str, option: str, *, empty: bool = False) -> tuple[int, ...]:
    """Integers with commas between. empty: whether there may be none.

    >>> counts("4,8", "--batches"), counts("", "--unseen", empty=True)
    ((4, 8), ())
    """
    parts = listed(text)
    if not (parts or empty) or not all(part.isdecimal() for part in parts):
        raise WrongUse(f"{option} {text!r} is no list of integers; write them with commas, as 4,8,16.")
    return tuple(int(part) for part in parts)


def shares(text: str) -> tuple[float, ...]:
    """Numbers with commas between.

    >>> shares("0,0.5,1")
    (0.0, 0.5, 1.0)
    """
    try:
        return tuple(float(part) for part in listed(text))
    except ValueError:
        raise WrongUse(f"--alphas {text!r} is no list of numbers; write them with commas, as 0,0.5,1.") from None


def shift_in(text: str) -> tuple[str, int] | None:
    """NAME:SEVERITY; None where nothing was named.

    >>> shift_in("fog:3"), shift_in("")
    (('fog', 3), None)
    """
    if not text:
        return None
    name, _, severity = text.partition(":")
    if not severity.isdecimal():
        raise WrongUse(f"--shift {text!r} is no corruption with its severity; write it as fog:3.")
    return name, int(severity)
