"""A card says what a network expects; an error in it is reported by file and key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from segment.errors import UnknownNetwork, WrongUse, warn_once
from segment.images.specs import InputSpec, TrainingSpec
from segment.images.transforms.augment import pipeline
from segment.networks.building.uris import parse_uri
from segment.networks.cards import SHIPPED, Card, card_folders, default_card, known_cards, read_card
from segment.networks.load import load_network

CAMVID = ("enet_camvid", "unet_lite0_camvid")
FULL = {
    "network": "smp:Unet?classes=3",
    "weights": {"file": "sub/unet.safetensors", "sha256": "0" * 64},
    "head": "softmax",
    "input": {"scale": 1, "mean": [1, 2, 3], "std": [4, 5, 6], "channels": "BGR", "stride": 16, "pad": "edge"},
    "classes": ["sky", "road", "car"],
    "palette": [[0, 0, 255], [10, 20, 30], [255, 0, 0]],
    "void": 255,
    "unseen": [7, 8],
    "drop_outputs": [3],
    "batchnorm_eps": {"encoder.*": 0.001},
    "training": {"batch": 4, "transforms": [{"name": "HorizontalFlip", "p": 0.5}]},
    "images": "street scenes",
}


def written(folder: Path, text: object) -> Path:
    path = folder / "made.yaml"
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("stated", "why"),
    [
        ({"head": "Softmax"}, "head: it is 'softmax', 'sigmoid' or 'multilabel', not 'Softmax'"),
        ({"head": None}, "head: it is 'softmax'"),
        ({"drop_outputs": (-1,)}, "drop_outputs.0: it is greater than or equal to 0, not -1"),
        ({"classes": 5}, "classes: it is a list"),
        ({"classes": ("a", "a")}, "two classes have the same name"),
        ({"palette": [(0, 0, 0)] * 2}, "two classes have the same colour"),
        ({"input": {}}, "input: it is a segment.images.specs.InputSpec, not {}"),
        ({"input": InputSpec(pad="constant")}, "input.pad: it is 'reflect', 'edge' or 'zero', not 'constant'"),  # type: ignore[arg-type]
        ({"input": InputSpec(stride=0)}, "input.stride"),
        ({"input": InputSpec(mean=(0.5,))}, "mean has 1 numbers where RGB needs 3"),
        ({"input": InputSpec(channels="rgb")}, "input.channels: it is RGB, BGR, grey"),  # type: ignore[arg-type]
        ({"training": {"batch": 4}}, "training: it is a segment.images.specs.TrainingSpec"),
        ({"training": TrainingSpec(batch=0)}, "training.batch"),
    ],
)
def test_a_card_made_in_python_is_held_against_the_checks_of_a_file(stated: dict[str, Any], why: str) -> None:
    with pytest.raises(WrongUse, match=f"^Card 'made': .*{re.escape(why)}"):
        Card(name="made", network="py:made:here", **stated)


def test_a_card_made_in_python_does_not_pad_what_it_resizes_either() -> None:
    assert Card(name="own", network="", input=InputSpec(size=(64, 96), stride=32)).input == InputSpec(size=(64, 96))
    with pytest.raises(WrongUse, match="Card 'own': input: size 64x90 is no multiple of the stride, 32"):
        Card(name="own", network="", input=InputSpec(size=(64, 90), stride=32))


def test_lists_of_a_card_made_in_python_become_tuples() -> None:
    spec = InputSpec(mean=[1.0, 2.0, 3.0], scale=[255.0, 255.0, 1.0], size=(64, 32))  # type: ignore[arg-type]
    card = Card(name="made", network="", classes=["a", "b"], drop_outputs=[2], input=spec)  # type: ignore[arg-type]
    assert (card.classes, card.drop_outputs) == (("a", "b"), (2,))
    assert card.input == InputSpec(mean=(1.0, 2.0, 3.0), scale=(255.0, 255.0, 1.0), size=(64, 32))


def test_every_key_of_a_card_arrives_where_it_belongs(tmp_path: Path) -> None:
    assert read_card(written(tmp_path, FULL)) == Card(
        folder=tmp_path,
        name="made",
        network="smp:Unet?classes=3",
        weights=tmp_path / "sub" / "unet.safetensors",
        sha256="0" * 64,
        head="softmax",
        input=InputSpec(scale=1, mean=(1, 2, 3), std=(4, 5, 6), channels="BGR", stride=16, pad="edge"),
        classes=("sky", "road", "car"),
        palette=((0, 0, 255), (10, 20, 30), (255, 0, 0)),
        void=255,
        unseen=(7, 8),
        drop_outputs=(3,),
        batchnorm_eps={"encoder.*": 0.001},
        training=TrainingSpec(batch=4, transforms=({"name": "HorizontalFlip", "p": 0.5},)),
        images="street scenes",
    )


@pytest.mark.parametrize(
    ("uri", "mean", "stride"),
    [
        ("smp:Unet?classes=3", (0.485, 0.456, 0.406), 32),
        ("smp-dir:saved", (0.485, 0.456, 0.406), 32),
        ("torchvision:lraspp_mobilenet_v3_large", (0.485, 0.456, 0.406), 1),
        ("py:package.module:factory", (), 1),
    ],
)
def test_a_network_without_a_card_gets_its_librarys_usual_input(
    uri: str, mean: tuple[float, ...], stride: int, tmp_path: Path
) -> None:
    usual = default_card(uri)
    assert (usual.input.scale, usual.input.mean, usual.input.stride, usual.head) == (255, mean, stride, "softmax")
    assert len(usual.input.std) == len(mean)
    assert read_card(written(tmp_path, {"network": uri})).input == usual.input


def test_a_grey_network_does_not_inherit_three_numbers_of_rgb(tmp_path: Path) -> None:
    card = read_card(written(tmp_path, {"network": "smp:Unet?in_channels=1", "input": {"channels": "grey"}}))
    assert (card.input.mean, card.input.std) == ((), ())


def test_the_usual_numbers_follow_the_order_of_the_channels(tmp_path: Path) -> None:
    usual = default_card("smp:Unet?classes=3").input
    read = read_card(written(tmp_path, {"network": "smp:Unet?classes=3", "input": {"channels": "BGR"}})).input
    assert read.mean == usual.mean[::-1] != usual.mean
    assert read.std == usual.std[::-1]
    stated = {"channels": "BGR", "mean": [0.1, 0.2, 0.3]}
    read = read_card(written(tmp_path, {"network": "smp:Unet?classes=3", "input": stated})).input
    assert (read.mean, read.std) == ((0.1, 0.2, 0.3), usual.std[::-1])


def test_a_url_in_a_card_is_not_taken_for_a_path_beside_it(tmp_path: Path) -> None:
    entries = {"network": "segment:tiny", "weights": {"file": "s3://bucket/w.pt"}, "images": "s3://bucket/train/*.png"}
    card = read_card(written(tmp_path, entries))
    assert (card.weights, card.images) == (Path("s3://bucket/w.pt"), "s3://bucket/train/*.png")


def test_a_saved_folder_in_a_card_is_searched_beside_the_card(tmp_path: Path) -> None:
    assert read_card(written(tmp_path, {"network": "smp-dir:saved"})).network == f"smp-dir:{tmp_path / 'saved'}"


def test_the_head_may_be_said_by_the_uri_but_not_against_the_card(tmp_path: Path) -> None:
    assert read_card(written(tmp_path, {"network": "smp:Unet?head=sigmoid"})).head == "sigmoid"
    with pytest.raises(WrongUse, match=r"made\.yaml.*head is multilabel, and sigmoid in the network's URI"):
        read_card(written(tmp_path, {"network": "smp:Unet?head=sigmoid", "head": "multilabel"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clases": ["a"]}, r"clases is not a key of a card\. Near: 'classes'"),
        ({"input": {"means": [0]}}, r"input\.means is not a key of a card\. Near: 'mean'"),
        ({"weights": {"path": "x"}}, r"weights\.path is not a key .* Known: file, sha256"),
        ({"training": {"batches": 3}}, r"training\.batches is not a key .* Near: 'batch'"),
        ({"input": {"mean": [0.5]}}, r"input: mean has 1 numbers where RGB needs 3"),
        ({"input": {"std": [1, 0, 1]}}, r"input\.std\.1: .*greater than 0"),
        ({"input": {"stride": 0}}, r"input\.stride: "),
        ({"input": {"scale": float("nan")}}, r"input\.scale: "),
        ({"input": {"scale": [1, 2]}}, r"input: scale has 2 numbers where RGB needs 3, or one for all"),
        ({"input": {"white": [1, 0, 1]}}, r"input\.white: it is a number above 0"),
        ({"input": {"channels": ["a", "a"]}}, r"input\.channels: two channels have the same name"),
        ({"input": {"channels": 4, "display": [5]}}, r"input: display: there is no band 5\. Bands are 1 to 4"),
        ({"input": {"channels": 4, "display": [1, 2]}}, r"input: display names 2 bands: three .* or one"),
        ({"input": {"display": [1]}}, r"input: display picks from several bands, and RGB is shown as it is"),
        ({"head": "softmaks"}, r"head: .*'softmax', 'sigmoid' or 'multilabel'"),
        ({"palette": [[0, 0, 256]]}, r"palette\.0\.2: "),
        ({"palette": [[0, 0, 0, 0]]}, r"palette\.0: it is a list of three, not \[0, 0, 0, 0\]\.$"),
        ({"palette": [[0, 9]]}, r"palette\.0: it is a list of three, not \[0, 9\]\.$"),
        (
            {"input": {"channels": ["a"], "display": [1.5]}},
            r"^Card [^\n]* input\.display\.0: it is a whole number[^\n]*$",
        ),
        ({"palette": [[0, 0, 0]]}, r"the palette has 1 colours for 3 classes"),
        ({"palette": [[1, 2, 3], [0, 0, 0], [1, 2, 3]]}, r"two classes have the same colour in the palette"),
        ({"labels": {True: 1}}, r"labels\..*: it is a whole number, a colour '#rrggbb' or a name, not True"),
        ({"classes": ["sky", "sky", "car"]}, r"two classes have the same name"),
        ({"classes": ["sky", True, "car"]}, r"classes\.1: it is text, not true: put it in quotes, for YAML reads yes"),
        ({"classes": ["sky", 1, "car"]}, r"classes\.1: it is text, not 1: put it in quotes\.$"),
        ({"classes": 3}, r"classes: it is a list, \[a, b\], not 3\.$"),
        ({"weights": "unet.pth"}, r"weights: it is a mapping, .* not 'unet\.pth': write \{file: unet\.pth\}\.$"),
        ({"training": {}}, r"training\.batch is missing\.$"),
        ({"training": {"batch": 2, "transforms": ["Flip"]}}, r"transforms\.0: it is a mapping, .*, not 'Flip'"),
        ({"head": "sigmoid"}, r"a sigmoid head has two classes, \(1 - p, p\), and 3 are named"),
        ({"drop_outputs": [-1]}, r"drop_outputs\.0: "),
        ({"void": True}, r"void: it is a whole number, not true\.$"),
        ({"weights": {"file": "x", "sha256": "abc"}}, r"weights\.sha256: "),
        ({"training": {"batch": 0}}, r"training\.batch: "),
        ({"training": {"batch": 2, "transforms": [{"p": 1}]}}, r"training: every transform needs a name"),
        ({"network": None}, r"network: it is text, not empty\.$"),
    ],
)
def test_a_wrong_key_or_value_is_reported_with_file_and_key(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(WrongUse, match=message) as refused:
        read_card(written(tmp_path, FULL | change))
    lines = str(refused.value).splitlines()
    assert all("made.yaml" in line for line in lines)


def test_a_card_says_what_a_negative_value_of_a_label_stands_for(tmp_path: Path) -> None:
    assert read_card(written(tmp_path, FULL | {"labels": {-1: 2}})).labels == {-1: 2}


def test_all_errors_of_a_card_are_reported_at_once_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(WrongUse) as refused:
        read_card(written(tmp_path, FULL | {"clases": [], "void": "no", "input": {"stride": -1}}))
    assert [line.split(": ")[1].split(" ")[0] for line in str(refused.value).splitlines()] == [
        "input.stride",
        "void",
        "clases",
    ]


@pytest.mark.parametrize("text", ["network: [", "- a list", "plain text", "", "network: !!python/object:os.system {}"])
def test_a_file_that_is_no_card_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"made\.yaml") as refused:
        read_card(written(tmp_path, text))
    assert "\n" not in str(refused.value)
    assert "CardFile" not in str(refused.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "made.yaml").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(WrongUse, match="not a readable YAML file"):
        read_card(tmp_path / "made.yaml")


def test_a_missing_card_is_reported_with_what_is_near() -> None:
    with pytest.raises(UnknownNetwork, match=r"'enet_camvd'\. Near: 'enet_camvid'"):
        read_card("enet_camvd")
    with pytest.raises(WrongUse, match=r"'nowhere\.yaml' is not there"):
        read_card("nowhere.yaml")


def test_cards_go_by_name_and_the_working_folders_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert known_cards()["enet_camvid"] == SHIPPED / "enet_camvid.yaml"
    monkeypatch.chdir(tmp_path)
    assert read_card("enet_camvid").void == 11
    own = tmp_path / "configs" / "models"
    own.mkdir(parents=True)
    (own / "enet_camvid.yaml").write_text("network: segment:enet?classes=2\n", encoding="utf-8")
    assert read_card("enet_camvid").network == "segment:enet?classes=2"


def test_every_card_of_the_repository_reads() -> None:
    paths = [path for folder in card_folders() for path in folder.glob("*.yaml")]
    assert {path.stem for path in paths} >= set(CAMVID)
    for path in paths:
        card = read_card(path)
        assert len(card.palette) in (0, len(card.classes)), path
        parse_uri(card.network)


def test_the_unets_training_views_are_the_crops_it_was_trained_on() -> None:
    training = read_card("unet_lite0_camvid").training
    assert training is not None
    frame = np.full((360, 480, 3), 128, np.uint8)
    views = [pipeline(training.transforms)(frame, seed) for seed in range(40)]
    assert {view.shape for view in views} == {(320, 320, 3)}
    levels = [int(view[0, 0, 0]) for view in views]
    assert 128 * 0.75 - 20 <= min(levels) < 110 < 146 < max(levels) <= 128 * 1.25 + 20


def test_enets_training_views_are_the_images_themselves() -> None:
    training = read_card("enet_camvid").training
    assert training == TrainingSpec(batch=10)
    frame = np.arange(360 * 480 * 3).reshape(360, 480, 3).astype(np.uint8)
    np.testing.assert_array_equal(pipeline(training.transforms)(frame, 0), frame)


@pytest.mark.parametrize("name", CAMVID)
def test_the_two_camvid_cards_state_eleven_classes_and_the_void(name: str) -> None:
    card = read_card(name)
    assert (len(card.classes), len(set(card.palette)), card.void) == (11, 11, 11)
    assert card.classes[0] == "sky"
    assert card.classes[10] == "bicyclist"


def test_a_card_of_bands_builds_the_network_with_as_many_channels(tmp_path: Path) -> None:
    network = "smp:Unet?encoder=resnet18&classes=2"
    spec = {"channels": ["blue", "green", "red", "nir"], "white": [1, 2, 3, 4], "display": ["red", 2, 1]}
    card = read_card(written(tmp_path, {"network": network, "input": spec}))
    assert card.network == network + "&in_channels=4"
    assert (card.input.planes, card.input.mean, card.input.white) == (4, (), (1.0, 2.0, 3.0, 4.0))
    assert card.input.display == ("red", 2, 1)
    assert read_card(written(tmp_path, {"network": network, "input": {"channels": "grey"}})).network.endswith("=1")
    with pytest.raises(WrongUse, match=r"input\.channels are 4, and the network's URI says in_channels=5"):
        read_card(written(tmp_path, {"network": network + "&in_channels=5", "input": spec}))


def test_a_uri_of_other_channels_has_a_card_of_them_without_imagenets_numbers() -> None:
    card = default_card("smp:Unet?in_channels=4")
    assert (card.input.channels, card.input.mean) == (4, ())
    assert default_card("smp:Unet").input.channels == "RGB"


def test_a_saved_folder_of_other_channels_has_a_card_of_them_too(tmp_path: Path) -> None:
    config = {"_model_class": "Unet", "encoder_name": "resnet18", "in_channels": 4, "classes": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    card = default_card(f"smp-dir:{tmp_path}")
    assert (card.input.channels, card.input.mean, card.assumed) == (4, (), True)


def test_a_card_beside_a_uri_has_the_head_and_the_usual_input_that_it_does_not_state() -> None:
    uri = "smp:Unet?encoder=resnet18&classes=3&head=multilabel"
    named = load_network(uri, card=Card(name="own", network="", classes=("a", "b", "c"))).card
    usual = default_card(uri)
    assert (named.name, named.network, named.head, named.input) == ("own", uri, "multilabel", usual.input)
    stated = load_network(uri, card=Card(name="own", network="", input=InputSpec())).card
    assert (stated.head, stated.input) == ("multilabel", InputSpec())
    assert load_network("segment:tiny?classes=3", card=Card(name="own", network="")).card.input.stride == 8
    bands = Card(name="own", network="", input=InputSpec(channels=4, stride=32))
    assert load_network("smp:Unet?encoder=resnet18&classes=3", card=bands).channels == 4


def test_a_card_that_states_another_head_than_the_uri_beside_it_is_refused(tmp_path: Path) -> None:
    read = read_card(written(tmp_path, {"network": "segment:tiny?classes=3"}))
    for card, head in ((Card(name="own", network="", head="sigmoid"), "multilabel"), (read, "multilabel")):
        with pytest.raises(WrongUse, match=f"The head is {card.head} in the card .*, and {head} by 'segment:tiny"):
            load_network(f"segment:tiny?classes=3&head={head}", card=card)
    with pytest.raises(WrongUse, match="The head is sigmoid in the card 'own', and softmax by"):
        load_network("segment:tiny?head=softmax", card=Card(name="own", network="", head="sigmoid"))


@pytest.mark.parametrize(("count", "bands"), [(1, "1 band"), (4, "4 bands"), (3, "")])
def test_bands_of_smp_are_divided_by_255_with_a_warning(
    count: int, bands: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    network = load_network(f"smp:Unet?encoder=resnet18&classes=2&in_channels={count}")
    network.log_preprocessing()
    warned = f"They are taken as {bands} divided by 255, neither mean nor std, padded to multiples of 32"
    assert (warned in caplog.text) == (count != 3)
    assert ("how the images of" in caplog.text) == (count != 3)


@pytest.mark.parametrize(
    ("encoder", "mean"),
    [
        ("tu-xception65", 0.5),
        ("tu-resnet18", 0.485),
        ("tu-nowhere", 0.485),
        ("timm-mobilenetv3_large_100", 0.5),
        ("timm-tf_efficientnet_lite0", 0.5),
        ("timm-efficientnet-b0", 0.485),
        ("timm-efficientnet-b0&encoder_weights=advprop", 0.5),
        ("xception", 0.5),
        ("inceptionresnetv2", 0.5),
        ("dpn68b", 124 / 255),
        ("densenet121", 0.485),
    ],
)
def test_an_encoder_has_the_numbers_of_its_pretraining_with_a_warning_where_they_are_not_imagenets(
    encoder: str, mean: float, tmp_path: Path
) -> None:
    card = default_card(f"smp:Unet?encoder={encoder}&classes=2")
    assert (card.input.mean[0], card.assumed) == (mean, mean != 0.485)
    stated = read_card(written(tmp_path, {"network": card.network, "input": {"mean": [0.1] * 3, "std": [0.2] * 3}}))
    assert (stated.input.mean, stated.assumed) == ((0.1,) * 3, False)
