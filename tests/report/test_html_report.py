"""The HTML report in a real Chromium: what a person sees and presses, against maps.npz and scores.json."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from console import segment as command
from PIL import Image
from plain import noise
from small_networks import network_of

import segment
from segment.errors import WrongUse
from segment.files.triages import save_triage
from segment.files.writing import write_png
from segment.guarantees.triage import Decision, Reference
from segment.jobs.report import report
from segment.pictures.overlays import uncertainty_overlay
from segment.pictures.palettes import no_class_colour
from segment.report.html import build, charts, details
from segment.report.html.page import in_script
from segment.report.html.streams import packed
from segment.report.html.tables import in_short

SIZE = (32, 48)
HOSTILE = "</script><script>document.title='taken'</script>"
VOID = 255


@dataclass(frozen=True)
class Made:
    """A run with labels, its evaluation, and the report of both."""

    run: segment.SavedRun
    scores: segment.SavedRun
    labels: dict[str, np.ndarray]
    page: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    top = tmp_path_factory.mktemp("report")
    network = network_of()
    classes = ("sky", "road", f"car {HOSTILE}", "tree <b>")
    network = replace(network, card=replace(network.card, classes=classes, void=VOID))
    bank = segment.fit_bank(network, noise(6, 3, *SIZE, seed=3), batch=2, draws=3)
    generator = np.random.default_rng(0)
    labels = {}
    for name in ("a b", "straße 道", "c&d'<e>", "sub/f"):
        low = generator.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        write_png(top / "images" / f"{name}.png", np.repeat(np.repeat(low, 8, axis=0), 8, axis=1))
        label = np.repeat(np.repeat(generator.integers(0, 4, (4, 6)), 8, axis=0), 8, axis=1).astype(np.uint8)
        label[:3] = VOID
        write_png(top / "labels" / f"{name}.png", label)
        labels[name] = label.astype(np.int64)
    (top / "images" / "broken.png").write_bytes(b"none")
    maps = ("prediction", "predictive_entropy", "mutual_information", "variance", "probability")
    plan = segment.PredictPlan(maps=maps, precision="fp32")
    segment.predict(network, top / "images", bank, top / "run", plan)
    (top / "images" / "broken.png").unlink()
    data = segment.Labels(top / "images", top / "labels")
    methods = segment.EvaluatePlan(
        methods=replace(segment.EvaluatePlan().methods, methods=("deterministic", "mcbn"), precision="fp32")
    )
    segment.evaluate(network, data, bank=bank, output=top / "scores", plan=methods)
    run, scores = segment.load_run(top / "run"), segment.load_run(top / "scores")
    report(
        [top / "run", top / "scores"],
        top / "out" / "report.html",
        title=f"Title {HOSTILE}",
        flip_book=["a b"],
        network=network,
        bank=bank,
    )
    by_id = {
        id: labels[Path(str(image.source)).relative_to(top / "images").with_suffix("").as_posix()]
        for id, image in run.items()
        if image.status == "done"
    }
    return Made(run, scores, by_id, top / "out" / "report.html")


@pytest.fixture
def page(browser: Any, made: Made) -> Iterator[Any]:
    """The open report; at the end its console must be free of errors, and nothing may have been asked for."""
    context = browser.new_context(viewport={"width": 1000, "height": 640})
    opened = context.new_page()
    problems: list[str] = []
    requests: list[str] = []
    opened.on(
        "console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None
    )
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(made.page.as_uri())
    opened.wait_for_selector("html[data-ready]")
    yield opened
    assert problems == []
    assert {url for url in requests if not url.startswith(("data:", "blob:"))} == {made.page.as_uri()}
    context.close()


def look_at(page: Any, made: Made, id: str) -> None:
    page.evaluate("id => { location.hash = '#image=' + encodeURIComponent(id); }", id)
    page.wait_for_function(
        "id => view.detail && view.index >= 0 && IMAGES[view.index].id === id && !$('image').hidden", arg=id
    )
    page.wait_for_timeout(50)


def pixels(page: Any) -> np.ndarray:
    data = page.evaluate("$('stage').toDataURL('image/png').split(',')[1]")
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGBA"))


def point(page: Any, row: int, column: int) -> None:
    """Move the pointer onto a pixel of the image."""
    x, y = page.evaluate(
        "([row, column]) => { const [left, top, scale] = placeNow(), box = $('stage').getBoundingClientRect();"
        " const r = $('stage').width / box.width;"
        " return [box.left + (left + (column + .5) * scale) / r,"
        " box.top + (top + (row + .5) * scale) / r]; }",
        [row, column],
    )
    page.mouse.move(x, y)


def test_hostile_names_and_titles_stay_text(page: Any, made: Made) -> None:
    assert page.title() == f"Title {HOSTILE}"
    assert page.locator("#title").inner_text() == f"Title {HOSTILE}"
    assert page.locator("#with-class option").all_inner_texts()[3] == f"with car {HOSTILE}"
    names = page.evaluate("IMAGES.map((image) => image.source)")
    assert sorted(names) == sorted(image.source.name for image in made.run.values() if image.status == "done")
    assert "broken" in page.locator("#failed").inner_text()
    assert in_script({"a": "</script>\u2028"}) == '{"a":"\\u003c/script>\\u2028"}'


@pytest.fixture
def quiet_page(browser: Any, made: Made) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1000, "height": 640})
    opened = context.new_page()
    opened.goto(made.page.as_uri())
    opened.wait_for_selector("html[data-ready]")
    yield opened
    context.close()


def test_the_policy_lets_nothing_in(quiet_page: Any) -> None:
    policy = quiet_page.locator("meta[http-equiv]").get_attribute("content")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    blocked = quiet_page.evaluate(
        "async () => { const tries = []; const script = document.createElement('script');"
        " script.textContent = 'window.taken = 1'; document.body.append(script);"
        " tries.push(window.taken === undefined);"
        " const image = new Image(); tries.push(await new Promise((done) => { image.onload = () => done(false);"
        " image.onerror = () => done(true); image.src = 'https://example.org/x.png'; }));"
        " tries.push(await fetch('https://example.org').then(() => false, () => true)); return tries; }"
    )
    assert blocked == [True, True, True]


def test_the_numbers_under_the_pointer_are_those_of_the_maps(page: Any, made: Made) -> None:
    look_at(page, made, "sub/f")
    maps, label = made.run["sub/f"].maps, made.labels["sub/f"]
    names = made.run.classes
    for row, column in ((0, 0), (9, 17), (20, 40), (31, 47)):
        point(page, row, column)
        text = page.locator("#numbers").inner_text()
        assert f"row {row}, column {column} " in text
        assert f"predictive entropy {maps['predictive_entropy'][row, column]:.2f} nats" in text
        p = maps["probability"][:, row, column]
        order = np.argsort(-p, kind="stable")[:3]
        shown = [
            f"{names[k]} {round(100 * p[k])} %" for number, k in enumerate(order) if number == 0 or round(100 * p[k])
        ]
        assert ", ".join(shown) in text
        right = "right" if label[row, column] == maps["prediction"][row, column] else "wrong"
        wanted = "not labelled" if label[row, column] == VOID else f"label {names[label[row, column]]} ({right})"
        assert text.endswith(wanted)
    for name, digits in (("mutual_information", 3), ("variance", 4)):
        page.select_option("#measure", name)
        point(page, 9, 17)
        assert f"{maps[name][9, 17]:.{digits}f}" in page.locator("#numbers").inner_text()
    page.keyboard.press("Shift+ArrowRight")
    assert "row 9, column 18 " in page.locator("#numbers").inner_text()
    assert page.locator("#image-name").inner_text() == "sub/f"


def shown_percent(share: float) -> str:
    """As JavaScript rounds: halves go up."""
    return f"{Decimal(100 * share).quantize(Decimal('0.1'), ROUND_HALF_UP)} %"


def test_pixels_without_data_are_hidden_and_counted_nowhere(browser: Any, tmp_path: Path) -> None:
    network = network_of()
    bank = segment.fit_bank(network, noise(4, 3, *SIZE, seed=3), batch=2, draws=3)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    inside = (rows - 16) ** 2 + (columns - 24) ** 2 < 15**2
    label = (columns // 12).astype(np.uint8)
    pixels_of_image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    for name, content in (("images", pixels_of_image), ("masks", inside.astype(np.uint8)), ("labels", label)):
        (tmp_path / name).mkdir()
        Image.fromarray(content).save(tmp_path / name / "eye.png")
    plan = segment.PredictPlan(maps=("prediction", "variance", "predictive_entropy", "probability"), border=2)
    masks = tmp_path / "masks"
    segment.predict(network, tmp_path / "images", bank, tmp_path / "run", plan, masks=masks)
    data = segment.Labels(tmp_path / "images", tmp_path / "labels", masks=masks)
    evaluated = segment.evaluate(network, data, bank=bank, output=tmp_path / "scores")
    report([tmp_path / "run", tmp_path / "scores"], tmp_path / "report.html")
    opened = browser.new_context(viewport={"width": 1000, "height": 640}).new_page()
    opened.goto((tmp_path / "report.html").as_uri() + "#image=eye")
    opened.wait_for_function("view.detail && !$('image').hidden")
    point(opened, 0, 0)
    text = opened.locator("#numbers").inner_text()
    assert text.endswith("predictive entropy hidden · no data · not labelled")
    assert f"no data {shown_percent((~inside).mean())}" in opened.locator("#classes").inner_text()
    (row,) = opened.evaluate("IMAGES")
    scores = evaluated.scores["methods"]["mcbn"]["scores"]
    assert row["labelled"] == evaluated.scores["pixels"] == inside.sum()
    assert row["right"] / row["labelled"] == pytest.approx(scores["accuracy"]["value"])
    shown = np.isfinite(segment.load_run(tmp_path / "run")["eye"].maps["variance"])
    assert shown.sum() < inside.sum(), "the border is hidden too"
    assert sum(opened.evaluate("Array.from(view.detail.counts.variance)")[::3]) == shown.sum()
    opened.uncheck("#mark")
    opened.select_option("#layer-a", "measure")
    opened.select_option("#layer-b", "measure")
    left, top, scale = opened.evaluate("placeNow()")
    assert pixels(opened)[round(top + 1.5 * scale), round(left + 1.5 * scale)].tolist() == [128, 128, 128, 255]


def test_the_threshold_tells_exact_shares_and_marks_pixels(page: Any, made: Made) -> None:
    look_at(page, made, "a b")
    entropy = made.run["a b"].maps["predictive_entropy"].astype(np.float64)
    wrong_known = made.labels["a b"] != VOID
    right = made.run["a b"].prediction == made.labels["a b"]
    seen = set()
    for level in (20, 60, 90, 110):
        page.evaluate("l => { $('threshold').value = l; $('threshold').dispatchEvent(new Event('input')); }", level)
        threshold = float(page.locator("#threshold-value").inner_text().split()[0])
        assert threshold == pytest.approx((level + 0.5) / 100)
        kept = entropy <= threshold
        assert page.locator("#untrusted").inner_text() == shown_percent((~kept).mean())
        trusted = kept & wrong_known
        expected = shown_percent(right[trusted].mean()) if trusted.any() else "none kept"
        assert page.locator("#kept").inner_text() == expected
        assert page.locator("#accuracy").inner_text() == shown_percent(right[wrong_known].mean())
        seen.add(pixels(page).tobytes())
    assert len(seen) > 1


def test_untrusted_pixels_are_outlined_and_the_uncertainty_keeps_its_colours(page: Any, made: Made) -> None:
    look_at(page, made, "a b")
    entropy = np.rint(made.run["a b"].maps["predictive_entropy"].astype(np.float64) * 100)
    level = int(np.median(entropy))
    page.evaluate("l => { $('threshold').value = l; $('threshold').dispatchEvent(new Event('input')); }", level)
    page.evaluate("() => { $('split').value = 0; $('split').dispatchEvent(new Event('input')); }")
    above = np.pad(entropy > level, 1, mode="edge")
    enclosed = above[:-2, 1:-1] & above[2:, 1:-1] & above[1:-1, :-2] & above[1:-1, 2:]
    outline = (entropy > level) & ~enclosed
    assert outline.any()
    assert (enclosed & (entropy > level)).any()
    left, top, scale = page.evaluate("placeNow()")
    rows, columns = (np.rint(start + (np.arange(size) + 0.5) * scale).astype(int) for start, size in zip(
        (top, left), SIZE, strict=True
    ))  # fmt: skip
    for layer in ("mask", "measure"):
        page.select_option("#layer-b", layer)
        page.uncheck("#mark")
        plain = pixels(page)[np.ix_(rows, columns)]
        page.check("#mark")
        marked = pixels(page)[np.ix_(rows, columns)]
        expected = np.where(outline[..., None], [0, 229, 255, 255], plain) if layer == "mask" else plain
        assert (marked == expected).all()


def test_the_draws_turn_over_like_a_flip_book(page: Any, made: Made) -> None:
    look_at(page, made, "a b")
    page.uncheck("#mark")
    page.select_option("#layer-a", "image")
    page.select_option("#layer-b", "measure")
    page.evaluate("() => { $('draw-number').value = 1; $('draw-number').dispatchEvent(new Event('input')); }")
    assert page.locator("#layer-b").input_value() == "draw"
    assert page.locator("#draw-name").inner_text() == "draw 2 of 3"
    left, top, scale = page.evaluate("placeNow()")
    classes = page.evaluate("[...view.detail.planes['draw 1']]")
    colour = page.evaluate("CONTENT.palette")[classes[20 * 48 + 40]]
    assert pixels(page)[round(top + 20.5 * scale), round(left + 40.5 * scale), :3].tolist() == colour
    page.click("#play")
    page.wait_for_function("() => $('draw-name').textContent === 'draw 1 of 3'")
    page.click("#play")
    assert page.locator("#play").inner_text() == "Play"
    page.wait_for_timeout(700)
    assert page.locator("#draw-name").inner_text() == "draw 1 of 3"


def test_layers_modes_and_zoom_change_what_is_seen(page: Any, made: Made) -> None:
    look_at(page, made, "a b")
    page.uncheck("#mark")
    shown = {}
    for name in ("image", "mask", "measure", "error", "label", "draw"):
        page.select_option("#layer-a", name)
        page.select_option("#layer-b", name)
        shown[name] = pixels(page)
    assert len({value.tobytes() for name, value in shown.items() if name != "draw"}) == 5
    left, top, scale = page.evaluate("placeNow()")
    y, x = round(top + 20.5 * scale), round(left + 30.5 * scale)
    mask, label = made.run["a b"].prediction, made.labels["a b"]
    colours = np.array(page.evaluate("CONTENT.palette"))
    assert shown["mask"][y, x, :3].tolist() == colours[mask[20, 30]].tolist()
    assert shown["label"][y, x, :3].tolist() == colours[label[20, 30]].tolist()
    unlabelled = shown["label"][round(top + 1.5 * scale), round(left + 30.5 * scale), :3].tolist()
    assert unlabelled == list(no_class_colour(colours.astype(np.uint8)))
    page.select_option("#layer-a", "error")
    page.select_option("#layer-b", "label")
    legends = page.locator("#layer-colours").inner_text().split("\n")
    assert legends[:4] == ["Errors", "wrong", "right (lighter)", "not labelled (darker)"]
    there = [made.run.classes[k] for k in np.unique(label[label != VOID])]
    assert legends[4:] == ["Ground truth", *there, "not labelled"]
    chips = page.locator("#layer-colours .chip").evaluate_all("all => all.map((one) => one.style.backgroundColor)")
    assert chips[-1] == f"rgb({', '.join(map(str, unlabelled))})"
    draws = list(page.evaluate("Object.keys(view.detail.planes).filter((name) => name.startsWith('draw '))"))
    assert len(draws) == 3
    page.select_option("#layer-a", "image")
    page.select_option("#layer-b", "mask")
    page.evaluate("() => { $('split').value = 500; $('split').dispatchEvent(new Event('input')); }")
    swiped = pixels(page)
    middle = round(left + 24 * scale)
    rows = slice(round(top) + 4, round(top + 32 * scale) - 4)  # the rim of the image is blended with the paper
    before, behind = slice(round(left) + 4, middle - 4), slice(middle + 4, round(left + 48 * scale) - 4)
    assert (swiped[rows, before] == shown["image"][rows, before]).all()
    assert (swiped[rows, behind] == shown["mask"][rows, behind]).all()
    page.select_option("#mode", "blend")
    blended = pixels(page)[y, x, :3].astype(int)
    mean = (shown["image"][y, x, :3].astype(int) + shown["mask"][y, x, :3]) / 2
    assert np.abs(blended - mean).max() <= 2
    page.click("#zoom-in")
    assert page.locator("#zoom-level").inner_text() == "150 %"
    assert (pixels(page) != blended.max()).any()
    page.click("#zoom-reset")
    assert page.locator("#zoom-level").inner_text() == "100 %"


def test_the_gallery_sorts_filters_and_opens(page: Any, made: Made) -> None:
    page.click("nav a[href='#gallery']")
    assert page.locator("#decision-label").is_hidden()
    done = {id: image for id, image in made.run.items() if image.status == "done"}
    by_entropy = sorted(done, key=lambda id: -done[id].measures["predictive_entropy"]["mean"])
    assert page.locator("#cards .card .name").all_inner_texts() == by_entropy
    page.select_option("#sort", "error")
    errors = {
        id: float(((done[id].prediction != label) & (label != VOID)).sum() / (label != VOID).sum())
        for id, label in made.labels.items()
    }
    assert page.locator("#cards .card .name").all_inner_texts() == sorted(done, key=lambda id: -errors[id])
    page.fill("#search", "SUB")
    assert page.locator("#cards .card .name").all_inner_texts() == ["sub/f"]
    assert page.locator("#count").inner_text() == "1 of 4 images"
    page.fill("#search", "")
    there = [id for id in done if (done[id].prediction == 0).any()]
    page.select_option("#with-class", "0")
    assert sorted(page.locator("#cards .card .name").all_inner_texts()) == sorted(there)
    page.select_option("#with-class", "")
    page.locator("#cards .card").first.click()
    first = page.locator("#image-name")
    first.wait_for()
    order = page.evaluate("gallery.order.map((i) => IMAGES[i].id)")
    page.wait_for_function("id => $('image-name').textContent === id", arg=order[0])
    page.keyboard.press("ArrowRight")
    page.wait_for_function("id => $('image-name').textContent === id", arg=order[1])
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("id => $('image-name').textContent === id", arg=order[0])
    page.click("nav a[href='#overview']")
    page.locator("#histogram rect.bar[tabindex='0']").last.click()
    page.locator("#gallery").wait_for()  # the address changes first, the section after it
    assert "only" in page.locator("#range-text").inner_text()


def test_cards_show_the_uncertainty_over_the_image(page: Any, made: Made) -> None:
    high = page.evaluate("CONTENT.measures[0].high")
    id, data = page.evaluate("[IMAGES[0].id, THUMBS[0]]")
    image = made.run[id]
    card = np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    whole = uncertainty_overlay(image.image, image.maps["predictive_entropy"], high=high)
    enlarged = np.repeat(np.repeat(whole, 3, axis=0), 3, axis=1).astype(int)
    assert card.shape == enlarged.shape == (96, 144, 3)
    assert np.abs(card - enlarged).mean() < 0.5 * np.abs(card - card.mean(axis=(0, 1))).mean()
    assert "predictive entropy, from 0 " in page.locator("#overview .card-scale").inner_text()


def test_a_printed_report_says_which_images_it_shows(page: Any) -> None:
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    chosen = page.locator("#sort option:checked").text_content()
    assert page.locator("#print-count").inner_text() == f"All 4 images, sorted by: {chosen}."
    assert page.locator("#print-cards .card").count() == 4
    assert page.get_by_role("heading", name="How it was made").is_visible()
    assert page.locator("#first-name").is_visible()
    assert page.locator("#first-cards .card").count() == 4
    assert page.locator("#gallery .card-scale").is_visible()
    page.evaluate("gallery.order = gallery.order.slice(0, 3); dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#print-count").inner_text() == f"The first 3 of 4 images, sorted by: {chosen}."
    page.emulate_media(media="screen")


def test_plots_carry_the_scores_and_the_thresholds(page: Any, made: Made) -> None:
    page.click("nav a[href='#scores']")
    scores = (made.scores.scores or {})["methods"]["mcbn"]["scores"]
    legend = page.locator("#charts").inner_text()
    for name, title in (("predictive_entropy", "predictive entropy"), ("variance", "variance")):
        values = [scores[f"{kind}.{name}"]["value"] for kind in ("aurc", "ause")]
        assert f"{title}, AURC {values[0]:.4f}, AUSE {values[1]:.4f}" in legend
    assert f"ECE {scores['ece']['value']:.4f}" in legend
    chart = page.evaluate("CONTENT.charts[0]")
    line = next(line for line in chart["lines"] if line["name"] == "predictive entropy")
    entropy: list[Any] = []
    right: list[Any] = []
    for id, label in made.labels.items():
        known = label != VOID
        entropy.append(made.run[id].maps["predictive_entropy"][known])
        right.append((made.run[id].prediction == label)[known])
    every, hits = np.concatenate(entropy).astype(np.float64), np.concatenate(right)
    for at in (len(line["x"]) // 3, len(line["x"]) // 2, len(line["x"]) - 1):
        threshold = float(line["notes"][at].split()[1])
        kept = every <= threshold
        assert line["x"][at] == pytest.approx(kept.mean(), abs=2e-6)
        assert line["y"][at] == pytest.approx(1 - hits[kept].mean(), abs=2e-6)
    svg = page.locator("#charts svg[role=img]").first
    box = svg.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert "threshold" in page.locator("#charts .readout").first.inner_text()
    reliability = page.evaluate("CONTENT.charts[1].lines")
    assert {"this run", "mcbn"} <= {line["name"] for line in reliability}
    for of_run_or_method in reliability:
        pixels = [int(note.split()[0].replace(",", "")) for note in of_run_or_method["notes"]]
        assert sum(pixels) == sum(int((label != VOID).sum()) for label in made.labels.values())
    (row,) = page.locator("table[aria-label^='Scores in'] tr:has(th:text-is('mcbn'))").all()
    for cell, name in ((2, "nll"), (3, "miou")):
        value, low, high = (f"{scores[name][key]:.3f}" for key in ("value", "low", "high"))
        assert row.locator("td").nth(cell - 1).inner_text() == f"{value}\n{low} to {high}"
    ranked = {name: entry for name, entry in scores.items() if name.startswith("error_auroc.")}
    best = max(ranked, key=lambda name: ranked[name]["value"])
    lines = row.locator("td").nth(6).inner_text().split("\n")
    assert lines[0] == f"{ranked[best]['value']:.3f}"
    assert lines[-1] == best.partition(".")[2].replace("_", " ")
    (gain,) = (gain for gain in (made.scores.comparisons or {})["gains"] if gain["rival"] == "deterministic")
    table = page.locator("table[aria-label^='mcbn minus deterministic']")
    names, verdicts = (table.locator(f"tbody {cell}").all_inner_texts() for cell in ("th", "td:last-child"))
    assert verdicts[names.index("NLL ↓")] == in_short("nll", gain["differences"]["nll"])
    assert "mIoU ↑" in names
    assert page.locator("table[aria-label^='Scores in'] th:text-is('mIoU ↑')").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(quiet_page: Any, made: Made, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.base")
    quiet_page.emulate_media(color_scheme=scheme)
    quiet_page.evaluate(axe.AXE_SCRIPT)
    for section in ("overview", "gallery", "scores", "image"):
        quiet_page.evaluate("section => { location.hash = '#' + section; }", section)
        quiet_page.wait_for_timeout(250)
        violations = quiet_page.evaluate("async () => (await axe.run()).violations")
        assert [one["id"] for one in violations if one["impact"] in ("serious", "critical")] == [], json.dumps(
            violations
        )[:3000]


@pytest.mark.parametrize("width", [390, 1366, 3840])
def test_nothing_is_wider_than_the_window(quiet_page: Any, made: Made, width: int) -> None:
    quiet_page.set_viewport_size({"width": width, "height": round(width * 0.6)})
    for section in ("overview", "gallery", "scores", "image"):
        quiet_page.evaluate("section => { location.hash = '#' + section; }", section)
        quiet_page.wait_for_timeout(150)
        assert quiet_page.evaluate("document.documentElement.scrollWidth <= innerWidth"), section


def test_a_large_report_is_split_into_pages_that_lead_to_each_other(
    made: Made, browser: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "MOST", 0.01)
    written = report([made.run.folder], tmp_path / "r.html", labels=made.run.folder.parent / "labels")
    assert len(written.files) > 1
    assert {path.name for path in written.files} == {path.name for path in tmp_path.iterdir()}
    opened = browser.new_page()
    opened.goto(written.files[0].as_uri() + "#gallery")
    opened.wait_for_selector("html[data-ready]")
    last = opened.locator("#cards .card").last
    name = last.locator(".name").inner_text()
    last.click()
    opened.wait_for_function(
        "id => location.pathname.endsWith('-' + CONTENT.pages.length + '.html') && $('image-name').textContent === id",
        arg=name,
    )
    opened.close()


def test_a_run_without_labels_or_probabilities_is_shown(made: Made, tmp_path: Path, browser: Any) -> None:
    shutil.copytree(made.run.folder, tmp_path / "run")
    for path in (tmp_path / "run").rglob("maps.npz"):
        path.unlink()
    manifest = tmp_path / "run" / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["files"] = [name for name in line["files"] if not name.endswith("maps.npz")]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    ended = command("report", tmp_path / "run", "-o", tmp_path / "r.html", "--json")
    assert ended.code == 0, ended.err
    assert (ended.json["images"], ended.json["failed"]) == (4, 1)
    opened = browser.new_page()
    opened.goto((tmp_path / "r.html").as_uri() + "#image")
    opened.wait_for_function("view.detail")
    assert opened.locator("#kept-row").is_hidden()
    assert opened.locator("#layer-a option").count() == 3
    assert "predict with probability among --maps" in opened.evaluate("$('settings').textContent")
    opened.close()


def test_a_triage_is_told_filtered_by_and_shown(made: Made, tmp_path: Path, browser: Any) -> None:
    shutil.copytree(made.run.folder, tmp_path / "run")
    manifest = tmp_path / "run" / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    done = [line for line in lines if line["status"] == "done"]
    accepted = np.random.default_rng(0).choice(np.array([0, 128, 255], np.uint8), SIZE)
    for number, line in enumerate(done):
        line["triage"] = {"decision": "review" if number else "accept", "accepted": 0.25 * number}
        line["files"].append(f"{line['id']}/accepted.png")
        write_png(tmp_path / "run" / line["id"] / "accepted.png", accepted)
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "run" / "triaged.json").write_text(json.dumps({"text": ["1 of 4 images are accepted whole."]}))
    report([tmp_path / "run"], tmp_path / "r.html")
    opened = browser.new_page()
    opened.goto((tmp_path / "r.html").as_uri())
    assert "1 of 4 images are accepted whole." in opened.locator("#triage").inner_text()
    opened.evaluate("location.hash = '#gallery'")
    opened.select_option("#decision", "accept")
    assert opened.locator("#cards .card .name").all_inner_texts() == [done[0]["id"]]
    assert opened.locator("#cards .badge").count() == 0
    opened.select_option("#decision", "review")
    assert opened.locator("#cards .badge").all_inner_texts() == ["review"] * 3
    numbers = "[...document.querySelectorAll('#cards .numbers')]"
    assert opened.evaluate(f"{numbers}.every((one) => one.scrollWidth <= one.parentNode.clientWidth)"), "none is cut"
    look_at(opened, made, done[1]["id"])
    assert opened.locator("#decision-of").inner_text() == "review"
    assert opened.locator("#accepted-of").inner_text() == "25.0 %"
    assert opened.locator("#untrusted-name").inner_text() == "Pixels above the threshold"
    assert "trust" not in opened.locator("aside").inner_text()
    opened.select_option("#layer-b", "accepted")
    assert opened.locator("#layer-colours li").first.inner_text() == "for review"
    painted = opened.evaluate("[...layer('accepted').getContext('2d').getImageData(0, 0, 48, 32).data]")
    marked = np.reshape(painted, (*SIZE, 4))[..., :3] == opened.evaluate("FOR_REVIEW")
    assert (marked.all(axis=2) == (accepted == 255)).all()
    opened.close()


def test_triages_and_comparisons_are_tables_with_their_sentences(made: Made, tmp_path: Path, browser: Any) -> None:
    decision = Decision(
        unit="pixel", measure="one_minus_max", threshold=0.125, why="", images=24, groups=24, loss=0.01, accepted=0.781
    )
    plan, reference = segment.TriagePlan(max_error=0.05), Reference(measure="", values=())
    triage = segment.Triage(plan=plan, decisions={"pixel": decision}, reference=reference, source={})
    save_triage(triage, tmp_path / "triage.json", text="Pixels below 0.125 may be accepted by `segment predict`.")
    compared = segment.compare(made.scores.folder, made.scores.folder)
    written = {"compare": compared.as_dict(), "other": {"a": {"b": None}}, "damaged": {"sentences": 1}}
    for name, content in written.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = [tmp_path / f"{name}.json" for name in ("triage", "compare", "other", "damaged")]
    report([made.run.folder, *files], tmp_path / "r.html")
    opened = browser.new_page()
    opened.goto((tmp_path / "r.html").as_uri() + "#scores")
    shown = opened.locator("#tables")
    assert "Accept or review, limit 5 % (triage.json)" in shown.inner_text()
    assert "Pixels below 0.125 may be accepted by segment predict." in shown.inner_text()
    assert shown.locator("code").first.inner_text() == "segment predict"
    first = shown.locator("table").first
    assert first.locator("tbody th, tbody td").all_inner_texts() == [
        "pixel", "one minus max", "0.125", "78.1 %", "1.00 %", "24"
    ]  # fmt: skip
    for sentence in compared.as_dict()["sentences"]:
        assert sentence in shown.inner_text()
    assert shown.locator("table").nth(2).locator("tbody th, tbody td").all_inner_texts() == ["a.b", "none"]
    opened.close()


def test_of_a_large_image_some_rows_are_kept_and_the_numbers_are_theirs(
    made: Made, tmp_path: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(details, "LONGEST", 16)
    report([made.run.folder], tmp_path / "r.html", labels=made.run.folder.parent / "labels")
    opened = browser.new_page()
    opened.goto((tmp_path / "r.html").as_uri())
    look_at(opened, made, "sub/f")
    assert opened.evaluate("[IMAGES[view.index].h, IMAGES[view.index].w]") == [11, 16]
    point(opened, 5, 9)  # of what is kept
    maps = made.run["sub/f"].maps
    text = opened.locator("#numbers").inner_text()
    assert f"row 15, column 27 · predictive entropy {maps['predictive_entropy'][15, 27]:.2f} nats" in text
    assert f"{made.run.classes[maps['prediction'][15, 27]]} " in text
    level = int(opened.locator("#threshold").input_value())
    whole = np.concatenate([image.maps["predictive_entropy"].ravel() for image in made.run.values() if image.maps])
    begins = f"The report begins at {(level + 0.5) / 100:.3f} nats: above it lie "
    share = shown_percent((whole.astype(np.float64) > (level + 0.5) / 100).mean())
    assert opened.locator("#start").inner_text() == f"{begins}{share} of all pixels of this run."
    assert f"is above {(level + 0.5) / 100:.3f} nats," in opened.locator("#finding").text_content()
    above = (maps["predictive_entropy"].astype(np.float64) > (level + 0.5) / 100).mean()
    assert opened.locator("#untrusted").inner_text() == shown_percent(above)  # of all pixels
    opened.close()


def test_scores_alone_are_shown_without_images(
    made: Made, tmp_path: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "MOST", 1)
    report([made.scores.folder], tmp_path / "r.html")
    opened = browser.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.goto((tmp_path / "r.html").as_uri() + "#image")
    opened.wait_for_selector("html[data-ready]")
    assert opened.locator("nav a:visible").all_inner_texts() == ["Overview", "Scores"]
    gain = next(gain for gain in (made.scores.comparisons or {})["gains"] if gain["rival"] == "deterministic")
    assert f"NLL by {gain['differences']['nll']['value']:+.4f}" in opened.locator("#finding").inner_text()
    opened.click("nav a[href='#scores']")
    assert opened.locator("#charts figure").count() == 1
    assert opened.locator("#charts .chart-legend li").count() == 1
    assert opened.locator("#charts .left-out").last.inner_text().startswith("Not shown: mcbn (1 of 2 methods).")
    assert problems == []
    opened.close()


def test_what_cannot_be_shown_is_refused_in_one_line(made: Made, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="add the suffix"):
        report([made.run.folder], tmp_path / "report")
    with pytest.raises(WrongUse, match="2 of them are"):
        report([made.run.folder, made.run.folder], tmp_path / "r.html")
    with pytest.raises(WrongUse, match="name the network and the bank"):
        report([made.run.folder], tmp_path / "r.html", flip_book=["a b"])
    (tmp_path / "other").mkdir()
    write_png(tmp_path / "other" / "else.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(WrongUse, match="None of the label maps"):
        report([made.run.folder], tmp_path / "r.html", labels=tmp_path / "other")
    assert "holds no run" in command("report", tmp_path, "-o", tmp_path / "r.html").error
    assert not (tmp_path / "r.html").exists()


def test_planes_are_packed_without_loss() -> None:
    import zlib

    generator = np.random.default_rng(1)
    for high, width in ((256, 1), (4000, 2)):
        plane = generator.integers(0, high, (7, 5))
        data, taken = packed(plane)
        assert taken == width
        raw = np.frombuffer(zlib.decompress(data), np.uint8).reshape(width, 7, 5)
        out = np.zeros((7, 5), np.int64)
        for part, residual in enumerate(raw):  # the decoder, as slow and plain as can be
            got = np.zeros((8, 6), np.int64)
            for y in range(7):
                for x in range(5):
                    left, above, corner = got[y + 1, x], got[y, x + 1], got[y, x]
                    guess = sorted((left, above, left + above - corner))[1]
                    got[y + 1, x + 1] = (residual[y, x] + guess) % 256
            out += got[1:, 1:] << 8 * part
        assert (out == plane).all()


def test_the_file_asks_for_nothing(made: Made) -> None:
    text = made.page.read_text(encoding="utf-8")
    bare = re.sub(r'<script id="(?:content|thumbs|block-\d+)".*?</script>', "", text, flags=re.DOTALL)
    addresses = set(re.findall(r"https?://[^\s\"'`]+", bare))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a vocabulary, never fetched
    assert not re.search(r"<(?:link|iframe|object|embed|img)\b|\bsrc=", bare)
