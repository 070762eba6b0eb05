"""`segment experiment train-scenes`: the embedded default, trained from nothing on generated scenes.

Must not know how draws are made: what it trains is an ordinary network with batch normalisation.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from segment.errors import WrongUse
from segment.files.writing import check_writable, write_bytes
from segment.networks.architectures.tiny import TinyUNet
from segment.runners.process import torch_threads
from segment.scenes.scene import CLASSES, PALETTE, SIZE, TEST, TRAIN, UNSEEN, Scene, scene

log = logging.getLogger(__name__)

NETWORK = f"segment:tiny?classes={len(CLASSES)}"
BATCH = 4
"""M: scenes in a training mini-batch, and behind a draw."""
STEPS = 2400
TRANSFORMS: tuple[Mapping[str, Any], ...] = (
    {"name": "HorizontalFlip", "p": 0.5},
    {"name": "RandomResizedCrop", "size": SIZE, "scale": (0.5, 1.0), "ratio": (1.5, 1.5), "p": 0.5},
    {"name": "RandomBrightnessContrast", "brightness_limit": 0.15, "contrast_limit": 0.15, "p": 0.5},
)
"""What training does to a scene, and so what a bank's mini-batches must repeat: the card's `training:` entry."""

Progress = Callable[[int, int, float], None]
"""Called after each step with steps done, steps in all, and the mean cross-entropy of late, in nats a pixel."""


def train_scenes(
    out: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    batch: int = BATCH,
    scenes: int = len(TRAIN),
    test: int = 100,
    threads: int = 2,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Write `scenes.safetensors` and `scenes.yaml` into the folder `out`; the same seed gives the same weights.

    seed: of the first weights, the order of the scenes and what is done to them
    steps: mini-batches; batch: M, scenes in one
    scenes: how many of TRAIN are used; test: how many of TEST are scored
    threads: of torch, for the time of the training; other counts may give other last bits

    Returns accuracy, miou, nll (nats) on test scenes without unseen things, and the last training loss.

    Errors: WrongUse where a count is too small or too large, or the folder cannot be written.
    """
    if steps < 1 or not 1 <= batch <= scenes <= len(TRAIN) or not 1 <= test <= len(TEST):
        raise WrongUse(
            f"Training needs 1 step or more, a batch no larger than its scenes, at most {len(TRAIN)} scenes and 1 to "
            f"{len(TEST)} test scenes; got {steps} steps, batch {batch}, {scenes} scenes, {test} test scenes."
        )
    if seed < 0 or threads < 1:
        raise WrongUse(f"Training needs 1 thread or more and a seed from 0 up; got {threads} threads, seed {seed}.")
    check_writable(out / "scenes.yaml")
    with torch_threads(threads), _opencv_threads(threads):
        shown = [scene(number) for number in TRAIN[:scenes]]
        mean, std = _colours(shown)
        network, loss = _trained(shown, mean, std, seed=seed, steps=steps, batch=batch, progress=progress)
        scores = score(network, [scene(number) for number in TEST[:test]], mean, std)
    _write(
        out,
        network,
        mean,
        std,
        batch=batch,
        settings={"seed": seed, "steps": steps, "scenes": scenes, "threads": threads},
    )
    return scores | {"loss": loss}


def score(network: TinyUNet, scenes: Sequence[Scene], mean: Sequence[float], std: Sequence[float]) -> dict[str, float]:
    """Pixel accuracy, mean IoU over CLASSES and negative log-likelihood (nats) in eval mode; unseen things left out."""
    confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    surprise, pixels = 0.0, 0
    for drawn in scenes:
        with torch.inference_mode():
            logits = network.eval()(_normalised(drawn.image[None], mean, std))  # 1 K H W
        known = torch.from_numpy(drawn.label != UNSEEN)
        label = torch.from_numpy(drawn.label).long()[known]
        log_p = logits[0].movedim(0, -1)[known].log_softmax(dim=-1)  # pixels K
        surprise -= float(log_p.gather(1, label[:, None]).double().sum())
        pixels += len(label)
        pairs = (label * len(CLASSES) + log_p.argmax(dim=-1)).numpy()
        confusion += np.bincount(pairs, minlength=confusion.size).reshape(confusion.shape)
    hit = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hit
    miou = float(np.mean(hit[union > 0] / union[union > 0]))
    return {"accuracy": float(hit.sum() / pixels), "miou": miou, "nll": surprise / pixels}


@contextmanager
def _opencv_threads(count: int) -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _colours(scenes: Sequence[Scene]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the channels, in units of 255, to three decimals, as in the card."""
    pixels = np.stack([drawn.image for drawn in scenes]).reshape(-1, 3) / np.float32(255)
    mean, std = pixels.mean(axis=0, dtype=np.float64), pixels.std(axis=0, dtype=np.float64)
    return tuple(round(float(value), 3) for value in mean), tuple(round(float(value), 3) for value in std)


def _normalised(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:  # N H W 3
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255  # N 3 H W
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def _trained(
    scenes: Sequence[Scene],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    seed: int,
    steps: int,
    batch: int,
    progress: Progress | None,
) -> tuple[TinyUNet, float]:
    """AdamW with a one-cycle learning rate on the cross-entropy; and the mean loss of late."""
    network = TinyUNet(len(CLASSES), generator=torch.Generator().manual_seed(seed)).train()
    network = network.to(memory_format=torch.channels_last)  # a quarter faster here
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=8e-3, total_steps=steps + 1)
    late = float(np.log(len(CLASSES)))
    for step, (images, labels) in enumerate(_minibatches(scenes, batch, seed, steps), start=1):
        x = _normalised(images, mean, std).contiguous(memory_format=torch.channels_last)
        loss = functional.cross_entropy(network(x), torch.from_numpy(labels).long())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        late += 0.05 * (float(loss.detach()) - late)
        if progress is not None:
            progress(step, steps, late)
    return network.to(memory_format=torch.contiguous_format).eval(), late


def _minibatches(
    scenes: Sequence[Scene], batch: int, seed: int, steps: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:  # M H W 3, M H W
    """Epochs in random order, the rest of an epoch that fills no mini-batch left out; each scene transformed anew."""
    rng = np.random.default_rng([seed, 2])
    pipeline = albumentations.Compose([_transform(**transform) for transform in TRANSFORMS])
    # not Compose(seed=...), which starts every transform at the same number, so that a large scale comes with a gain
    pipeline.set_random_state(np.random.default_rng([seed, 3]), random.Random(seed))
    order: list[int] = []
    for _ in range(steps):
        if len(order) < batch:
            order = rng.permutation(len(scenes)).tolist()
        chosen, order = order[:batch], order[batch:]
        pairs = [pipeline(image=scenes[n].image, mask=scenes[n].label) for n in chosen]
        yield np.stack([pair["image"] for pair in pairs]), np.stack([pair["mask"] for pair in pairs])


def _transform(name: str, **arguments: Any) -> Any:
    return getattr(albumentations, name)(**arguments)


def _plain(transform: Mapping[str, Any]) -> dict[str, Any]:
    """YAML has no tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in transform.items()}


def _write(
    out: Path,
    network: TinyUNet,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    batch: int,
    settings: Mapping[str, int],
) -> None:
    versions = {module.__name__: module.__version__ for module in (torch, np, cv2, albumentations)}
    provenance = {"command": "segment experiment train-scenes", "batch": batch, **settings, "versions": versions}
    weights = save(
        dict(network.state_dict()), {"training": json.dumps(provenance)}
    )  # one key: safetensors shuffles several
    card = {
        "network": NETWORK,
        "weights": {"file": "scenes.safetensors", "sha256": hashlib.sha256(weights).hexdigest()},
        "head": "softmax",
        "input": {"scale": 255, "mean": list(mean), "std": list(std), "channels": "RGB", "stride": 16},
        "classes": list(CLASSES),
        "palette": [list(colour) for colour in PALETTE],
        "unseen": [UNSEEN],
        "training": {"batch": batch, "transforms": [_plain(transform) for transform in TRANSFORMS]},
        "images": "scenes",
    }
    head = "# A small U-Net for generated street scenes. Written by `segment experiment train-scenes`.\n"
    text = head + yaml.safe_dump(card, sort_keys=False, default_flow_style=None, width=120)
    for name, content in (("scenes.safetensors", weights), ("scenes.yaml", text.encode())):
        write_bytes(out / name, content)
    log.info("Wrote %s and %s.", out / "scenes.safetensors", out / "scenes.yaml")
