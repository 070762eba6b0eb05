"""Generated scenes: exact, repeatable, and what the embedded default was trained on."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import load_file

from segment.errors import WrongUse
from segment.experiments.segmentation.scenes_training import BATCH, NETWORK, TRANSFORMS, score, train_scenes
from segment.images.specs import TrainingSpec
from segment.images.transforms.augment import pipeline
from segment.networks.architectures.tiny import TinyUNet
from segment.networks.cards import SHIPPED, read_card
from segment.scenes.classes import CLASSES, PALETTE, UNSEEN
from segment.scenes.painting import Camera, Canvas, Light
from segment.scenes.scene import SIZE, TEST, TRAIN, VALIDATION, scene

CAMERA = Camera(height=96, width=144, horizon=40.3, centre=70.2, focal=130, eye=2.2, bend=0.0006)
NOON = Light(sky=((90, 150, 210), (200, 220, 230)), tint=(1, 1, 1), haze=0.0, sides=(1, 1, 1))


def test_the_same_seed_draws_the_same_bytes_and_another_seed_does_not() -> None:
    first, again, other = scene(11), scene(11), scene(12)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.label.tobytes() == again.label.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


def test_a_scene_neither_reads_nor_moves_the_global_generator() -> None:
    np.random.seed(1)  # noqa: NPY002
    first = scene(5, unseen=True).image
    after = np.random.random(3)  # noqa: NPY002
    np.testing.assert_array_equal(first, scene(5, unseen=True).image)
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(after, np.random.random(3))  # noqa: NPY002


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (96, 160), (160, 96)])
def test_a_scene_has_the_size_asked_for(size: tuple[int, int]) -> None:
    drawn = scene(3, size=size, unseen=True)
    assert drawn.image.shape == (*size, 3)
    assert drawn.label.shape == size
    assert drawn.image.dtype == drawn.label.dtype == np.uint8
    assert drawn.label.max() <= UNSEEN


def test_every_class_occurs_and_the_unseen_one_only_where_asked() -> None:
    pixels = np.bincount(np.concatenate([scene(seed).label.ravel() for seed in TRAIN[:50]]), minlength=7)
    assert (pixels[: len(CLASSES)] > 1000).all()
    assert pixels[UNSEEN] == 0


def test_an_unseen_thing_is_clearly_there_and_changes_nothing_outside_itself() -> None:
    for seed in TEST[:30]:
        plain, strange = scene(seed), scene(seed, unseen=True)
        there = strange.label == UNSEEN
        assert 0.01 < there.mean() < 0.05, seed
        np.testing.assert_array_equal(plain.image[~there], strange.image[~there])
        np.testing.assert_array_equal(plain.label[~there], strange.label[~there])
        changed = (plain.image != strange.image).any(axis=-1)[there]
        assert changed.mean() > 0.9, seed  # it is painted, not only labelled


def test_training_validation_and_test_share_no_scene() -> None:
    assert not set(TRAIN) & set(VALIDATION)
    assert not set(TRAIN) & set(TEST)
    assert not set(VALIDATION) & set(TEST)


@pytest.mark.parametrize(("seed", "size"), [(-1, SIZE), (0, (31, 192)), (0, (128, 0))])
def test_a_scene_that_cannot_be_is_refused(seed: int, size: tuple[int, int]) -> None:
    with pytest.raises(WrongUse, match="at least 32 x 32"):
        scene(seed, size=size)


def test_colour_and_label_of_a_polygon_cover_the_same_pixels_and_those_that_pillow_fills() -> None:
    outline = np.array([[20.0, 10.0], [110.0, 30.0], [90.0, 80.0], [35.0, 70.0]])
    canvas = Canvas(CAMERA, NOON)
    canvas.polygon(outline, (10, 20, 30), 5)
    painted = (canvas.image == (10, 20, 30)).all(axis=-1)
    np.testing.assert_array_equal(painted, canvas.label == 5)
    reference = Image.new("L", (CAMERA.width, CAMERA.height))
    ImageDraw.Draw(reference).polygon([tuple(point) for point in outline.tolist()], fill=1)
    assert (painted != np.asarray(reference).astype(bool)).mean() < 0.01  # the two differ on the outline at most


def test_a_colour_painted_without_a_label_leaves_the_labels() -> None:
    canvas = Canvas(CAMERA, NOON)
    canvas.label[:] = 2
    canvas.polygon(np.array([[0.0, 0.0], [60.0, 0.0], [60.0, 60.0]]), (9, 9, 9), None)
    assert (canvas.label == 2).all()
    assert (canvas.image == 9).any()


def test_the_ground_under_a_pixel_is_seen_at_that_pixel() -> None:
    top, x, z = CAMERA.ground()
    rows, columns = np.array([0, 5, 20, 40]), np.array([3, 70, 100, 140])
    metres = np.stack([x[rows, columns], np.zeros(4), z[rows, 0]], axis=1).astype(float)
    seen = CAMERA.project(metres)
    np.testing.assert_allclose(seen[:, 0], columns + 0.5, atol=0.01)
    np.testing.assert_allclose(seen[:, 1], rows + top + 0.8, atol=0.01)


def test_far_colours_fade_into_the_horizon() -> None:
    hazy = Light(sky=NOON.sky, tint=(0.5, 0.5, 0.5), haze=0.02, sides=(1, 1, 1))
    assert NOON.shade((10, 20, 30), 80) == (10, 20, 30)
    assert hazy.shade((10, 20, 30), 0) == (5, 10, 15)
    assert hazy.shade((10, 20, 30), 0, shining=True) == (10, 20, 30)
    np.testing.assert_allclose(hazy.shade((10, 20, 30), 1e4), NOON.sky[1])


def test_only_the_faces_of_a_block_that_face_the_camera_are_drawn() -> None:
    straight = Camera(height=96, width=144, horizon=40, centre=72, focal=130, eye=2.2, bend=0)
    ahead = Canvas(straight, NOON).block((-1, 1), (0, 1.5), (10, 14), (9, 9, 9), 4)
    assert len(ahead) == 2  # its front, and its top below the eye
    right = Canvas(straight, NOON).block((4, 6), (0, 9), (10, 14), (9, 9, 9), 4)
    assert len(right) == 2  # its front, and the side that faces left; the top is above the eye


def test_the_small_network_takes_any_size_and_moves_no_global_generator() -> None:
    before = torch.random.get_rng_state()
    network = TinyUNet(classes=5, width=4, generator=torch.Generator().manual_seed(3)).eval()
    torch.testing.assert_close(torch.random.get_rng_state(), before, rtol=0, atol=0)
    again = TinyUNet(classes=5, width=4, generator=torch.Generator().manual_seed(3))
    for parameter, repeated in zip(network.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(parameter, repeated, rtol=0, atol=0)
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 37, 50)).shape == (2, 5, 37, 50)


def test_the_shipped_card_is_true_to_the_shipped_weights() -> None:
    card = read_card("scenes")
    assert card.weights is not None
    assert card.weights == SHIPPED / "scenes.safetensors"
    content = card.weights.read_bytes()
    assert hashlib.sha256(content).hexdigest() == card.sha256
    assert len(content) < 2_000_000
    assert card.network == NETWORK
    assert (card.classes, card.palette, card.unseen) == (CLASSES, PALETTE, (UNSEEN,))
    TinyUNet(len(CLASSES)).load_state_dict(load_file(card.weights), strict=True)
    with safe_open(card.weights, "pt") as opened:
        training = json.loads(opened.metadata()["training"])
    assert {"command", "seed", "steps", "scenes", "versions"} <= set(training)
    assert training["batch"] == BATCH


def test_the_shipped_card_repeats_what_training_does_to_a_scene() -> None:
    training = read_card("scenes").training
    assert isinstance(training, TrainingSpec)
    assert training.batch == BATCH
    written, done = pipeline(training.transforms), pipeline(TRANSFORMS)
    shown = scene(0).image
    views = [written(shown, seed) for seed in range(8)]
    for seed, view in enumerate(views):
        assert view.shape == (*SIZE, 3)
        np.testing.assert_array_equal(view, done(shown, seed))
    assert len({view.tobytes() for view in views}) > 4


def test_the_shipped_network_segments_scenes_it_has_not_seen_though_not_without_errors() -> None:
    card = read_card("scenes")
    assert card.weights is not None
    network = TinyUNet(len(CLASSES))
    network.load_state_dict(load_file(card.weights))
    scenes = [scene(seed) for seed in TEST[:20]]
    scores = score(network, scenes, card.input.mean, card.input.std)
    assert 0.90 < scores["accuracy"] < 0.99
    assert 0.60 < scores["miou"] < 0.95
    assert scores["nll"] < 0.35


def test_the_scores_of_training_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, jaccard_score, log_loss

    network = TinyUNet(len(CLASSES), width=4)
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(1))
    scenes = [scene(seed, size=(48, 64), unseen=True) for seed in (0, 1)]
    scores = score(network, scenes, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    label, probability = [], []
    for drawn in scenes:
        x = (torch.from_numpy(drawn.image).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
        with torch.inference_mode():
            p = network(x)[0].softmax(dim=0).numpy()
        known = drawn.label != UNSEEN
        label.append(drawn.label[known])
        probability.append(p[:, known].T)
    truth, p = np.concatenate(label), np.concatenate(probability).astype(np.float64)
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, p.argmax(axis=1)))
    assert scores["miou"] == pytest.approx(jaccard_score(truth, p.argmax(axis=1), average="macro"))
    assert scores["nll"] == pytest.approx(log_loss(truth, p / p.sum(axis=1, keepdims=True)), rel=1e-5)


def test_training_is_repeatable_lowers_the_loss_and_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    losses: list[float] = []
    small = partial(train_scenes, steps=12, batch=4, scenes=12, test=2, threads=1)
    first = small(tmp_path / "a", progress=lambda done, steps, loss: losses.append(loss))
    again = small(tmp_path / "b")
    other = small(tmp_path / "c", seed=1)
    assert first == again
    assert first != other
    weights = [(tmp_path / name / "scenes.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.05
    assert torch.get_num_threads() == threads
    torch.testing.assert_close(torch.random.get_rng_state(), state, rtol=0, atol=0)
    card = read_card(tmp_path / "a" / "scenes.yaml")
    assert card.sha256 == hashlib.sha256(weights[0]).hexdigest()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["scenes.safetensors", "scenes.yaml"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 0},
        {"scenes": 1},
        {"scenes": len(TRAIN) + 1},
        {"test": 0},
        {"threads": 0},
        {"seed": -1},
    ],
)
def test_a_training_that_cannot_be_is_refused_before_anything_is_written(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="Training needs"):
        train_scenes(tmp_path / "out", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
