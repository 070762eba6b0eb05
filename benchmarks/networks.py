"""Which networks the engine runs, and how: fast passes beside a plain loop, architecture by architecture.

`python -m benchmarks.networks -o docs/measured/networks.json` writes a row after each network, goes on where it was
stopped, and puts the table into docs/networks.md. Weights are random and nothing is downloaded; BN statistics are those
of a mini-batch of noise, so that activations stay in range. `--anew` measures all rows again.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.plain_loop import DRAWS, SIZES, largest, noise_images, plain, random_bank, settle
from segment.errors import SegmentError
from segment.networks.load import Network, load_network
from segment.passes.passes import Passes, PassPlan
from segment.tracing.bn_layers import BatchNormNetwork, survey
from segment.tracing.bn_network import drawable

DECODERS = (
    "Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "Linknet", "MAnet", "PAN", "UPerNet",
    "Segformer",
)  # fmt: skip
ENCODERS = (
    "resnet18", "dpn68", "vgg11_bn", "se_resnet50", "densenet121", "inceptionv4", "efficientnet-b0", "mobilenet_v2",
    "xception", "timm-skresnet18", "mit_b0", "mobileone_s0",
)  # fmt: skip
"""One small member of each of smp's own encoder families."""
TRANSFORMERS = ("tu-vit_tiny_patch16_224", "tu-deit_tiny_patch16_224", "tu-vit_small_patch32_224")
"""Encoders of smp's DPT, which takes no others."""
TORCHVISION = (
    "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50", "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
)  # fmt: skip
TIMM = (
    "cs3darknet_s", "cspdarknet53", "darknet53", "densenet121", "dla46_c", "ecaresnet26t",
    "efficientnet_lite0", "efficientvit_b0", "ese_vovnet19b_dw", "fastvit_t8", "fbnetc_100", "gcresnext26ts",
    "ghostnet_100", "hardcorenas_a", "hgnetv2_b0", "hrnet_w18_small", "lcnet_050", "mixnet_s", "mobilenetv3_small_100",
    "mobilenetv4_conv_small", "mobilevit_xxs", "nf_resnet26", "regnetx_002", "repvgg_a0", "repvit_m0_9",
    "res2net50_26w_4s", "resnest14d", "resnetblur50", "resnext50_32x4d", "rexnet_100", "selecsls42b", "swiftformer_xs",
    "tf_efficientnet_cc_b0_4e", "tresnet_m", "xception41",
)  # fmt: skip
"""Encoders of timm, each in smp.Unet."""

NETWORKS = (
    *(f"smp:{decoder}?encoder={encoder}&classes=5" for decoder in DECODERS for encoder in ENCODERS),
    *(f"smp:DPT?encoder={encoder}&classes=5&dynamic_img_size=true" for encoder in TRANSFORMERS),
    *(f"torchvision:{name}?num_classes=5" for name in TORCHVISION),
    *(f"smp:Unet?encoder=tu-{name}&classes=5" for name in TIMM),
)

ALLOWED, TIMES_NOISE = 1e-4, 4.0
"""Largest difference in probability that counts as none; or so many times what float32 costs, where that is more."""

NOISY = 1e-3
"""Float32's own cost in probability from which on a comparison shows little: dynamic weights amplify a draw's shift."""

BEGIN, END = "<!-- networks: begin -->", "<!-- networks: end -->"

Outcome = Literal["equal", "different", "refused", "not built", "failed"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one network did.

    outcome: fast passes equal the plain loop, or not; the engine refuses the network; its library does not build it; or
    something else was raised
    stochastic, fixed, refused: BN layers
    way: how passes ran in the end, see `segment.passes.passes.Passes.way`
    difference: largest in probability, fast passes against the plain loop; noise: that loop against float64
    seconds, plain_seconds: of a pass
    message: what was refused, raised or logged
    """

    network: str
    outcome: Outcome
    stochastic: int = 0
    fixed: int = 0
    refused: int = 0
    way: str = ""
    difference: float | None = None
    noise: float | None = None
    seconds: float | None = None
    plain_seconds: float | None = None
    message: str = ""


def examine(uri: str) -> Row:
    """Build the network with random weights, and hold its fast passes against a plain loop."""
    logged: list[str] = []
    try:
        with _logged(logged):
            network = _built(uri)
            settle(network)
    except SegmentError as error:
        return Row(network=uri, outcome="not built", message=_line(error))
    except Exception as error:  # a survey goes on whatever a library raises
        return Row(network=uri, outcome="not built", message=f"{type(error).__name__}: {_line(error)}")
    logged.clear()
    try:
        with _logged(logged):
            row = compare(network)
            if (row.noise or 0) > NOISY:
                row = compare(_built(uri))
                logged.append("With the running statistics it is built with: under others float32 costs too much.")
            return replace(row, network=uri, message=" ".join(dict.fromkeys(logged)))
    except SegmentError as error:
        return replace(_counted(network), network=uri, outcome="refused", message=_line(error))
    except Exception as error:
        where = _last_line_of_ours(error)
        return replace(
            _counted(network),
            network=uri,
            outcome="failed",
            message=f"{type(error).__name__} at {where}: {_line(error)}",
        )


def _built(uri: str) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # libraries draw initial weights from the process's generator
        return load_network(uri)


def compare(network: Network) -> Row:
    """Fast passes and a plain loop over the same images and draws."""
    drawn = drawable(network)
    bank = random_bank(drawn)
    images = noise_images()
    passes = Passes(drawn, bank, PassPlan(channels_last=True, fuse=True))
    found = [[output.clone() for output in passes(image)] for image in images]
    fast, _ = _timed(lambda: passes(images[0]))
    slow, first = _timed(lambda: plain(network, bank, images[0]))
    expected = [first, *(list(plain(network, bank, image)) for image in images[1:])]
    exact = [list(plain(network, bank, images[-1], torch.float64))]
    turned = [list(plain(network, bank, images[-1].contiguous(memory_format=torch.channels_last)))]
    difference = largest(found, expected)
    noise = max(largest(other, exact) for other in (expected[-1:], turned))  # float32 in the kernels of either layout
    equal = difference <= max(ALLOWED, TIMES_NOISE * noise)  # False for a NaN
    return replace(
        _counts(drawn), outcome="equal" if equal else "different", way=passes.way, difference=_digits(difference),
        noise=_digits(noise), seconds=_digits(fast), plain_seconds=_digits(slow),
    )  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: how many networks ended how, then one line a network."""
    outcomes = Counter(row["outcome"] for row in rows)
    ways = Counter(row["way"] for row in rows if row["way"])
    lines = [
        f"{len(rows)} networks: " + ", ".join(f"{count} {name}" for name, count in outcomes.most_common()) + ". "
        "Passes ran " + ", ".join(f"{name} in {count}" for name, count in ways.most_common()) + ".",
        "",
        "| network | stochastic | fixed | refused | passes | difference | float32's own | ms a pass | ms plain | |",
        "|---|--:|--:|--:|---|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        counts = [str(row[name]) for name in ("stochastic", "fixed", "refused")]
        numbers = ["" if row[name] is None else f"{row[name]:.1e}" for name in ("difference", "noise")]
        times = ["" if row[name] is None else f"{1000 * row[name]:.0f}" for name in ("seconds", "plain_seconds")]
        message = str(row["message"]).replace("|", "\\|")
        said = message if row["outcome"] == "equal" else f"{row['outcome']}: {message}".rstrip(": ")
        cells = [f"`{row['network']}`", *counts, row["way"], *numbers, *times, said]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def put_table(page: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The table into a page, between its two marks."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main(out: Path, page: Path | None, networks: Sequence[str], *, anew: bool) -> None:
    versions = _versions()
    rows: dict[str, dict[str, Any]] = {}
    if out.is_file() and not anew:
        kept = json.loads(out.read_text(encoding="utf-8"))
        if kept["versions"] == versions:
            rows = {row["network"]: row for row in kept["networks"]}
    for uri in networks:
        if uri in rows:
            continue
        begun = time.perf_counter()
        row = rows[uri] = asdict(examine(uri))
        took = time.perf_counter() - begun
        sys.stdout.write(
            f"{took:5.1f} s  {row['outcome']:9} {row['way']:6} {uri}  {row['difference']}  {row['message']}\n"
        )
        sys.stdout.flush()
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = out.with_suffix(".part")
        ordered = [rows[name] for name in NETWORKS if name in rows]
        beside.write_text(json.dumps({"versions": versions, "networks": ordered}, indent=1) + "\n", encoding="utf-8")
        beside.replace(out)
        gc.collect()
    if page is not None:
        put_table(page, [rows[uri] for uri in networks])


@contextmanager
def _logged(lines: list[str]) -> Iterator[None]:
    """What the engine logs in this block, warnings and the reasons behind them."""

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("segment.passes"), Kept()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _counts(network: BatchNormNetwork) -> Row:
    count = Counter(layer.status for layer in network.layers)
    return Row(
        network="", outcome="equal", stochastic=count["stochastic"], fixed=count["fixed"], refused=count["refused"]
    )


def _counted(network: Network) -> Row:
    try:
        return _counts(survey(network.module, network, torch.zeros((1, 3, *SIZES[0]))))
    except Exception:  # it was refused before its layers could be listed
        return Row(network="", outcome="refused")


def _timed(run: Callable[[], Iterator[Tensor]]) -> tuple[float, list[Tensor]]:
    """Seconds a pass, and the outputs."""
    begun = time.perf_counter()
    outputs = [output.clone() for output in run()]
    return (time.perf_counter() - begun) / DRAWS, outputs


def _digits(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "torchvision", "timm", "segmentation-models-pytorch")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _last_line_of_ours(error: BaseException) -> str:
    import traceback

    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/segment/" in frame.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "another library"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/measured/networks.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/networks.md"))
    parser.add_argument("--only", default="", help="networks whose URI holds this; the page stays as it is")
    parser.add_argument("--anew", action="store_true", help="measure again what has a row already")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    chosen = [uri for uri in NETWORKS if asked.only in uri]
    main(asked.out, None if asked.only else asked.page, chosen, anew=asked.anew)
