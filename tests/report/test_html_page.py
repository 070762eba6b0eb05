"""How the pages of a report behave in print, under a finger, with long names, and of one image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain import noise
from small_networks import network_of

import segment
from segment.files.writing import write_png
from segment.jobs.report import report

SIZE = (32, 48)
NAME = "drive_0042_sync_camera_front_frame_000017"
UNBREAKABLE = "c" * 120


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one image with a long name, classes with long names, and a label map that is all void."""
    top = tmp_path_factory.mktemp("page")
    network = network_of()
    classes = tuple(f"{letter}{UNBREAKABLE}" for letter in "abcd")
    network = replace(network, card=replace(network.card, classes=classes, void=255))
    bank = segment.fit_bank(network, noise(4, 3, *SIZE, seed=3), batch=2, draws=3)
    generator = np.random.default_rng(0)
    write_png(top / "images" / f"{NAME}.png", generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    write_png(top / "labels" / f"{NAME}.png", np.full(SIZE, 255, np.uint8))
    segment.predict(network, top / "images", bank, top / "run")
    report([top / "run"], top / "r.html", labels=top / "labels")
    return top / "r.html"


@pytest.fixture
def page(made: Path, browser: Any) -> Iterator[Any]:
    context = browser.new_context(
        viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True, device_scale_factor=2
    )
    opened = context.new_page()
    opened.goto(made.as_uri())
    opened.wait_for_selector("html[data-ready]")
    yield opened
    context.close()


def to_image(page: Any) -> None:
    page.evaluate("location.hash = '#image'")
    page.wait_for_function("() => view.detail && !$('image').hidden")


@pytest.mark.parametrize("how", ["button", "system"])
def test_a_page_in_dark_colours_is_printed_in_light_ones(page: Any, how: str) -> None:
    read = "() => ['--paper', '--ink', '--link', '--bar', '--notice'].map((n) => {const s = getComputedStyle"
    read += "(document.documentElement); return s.getPropertyValue(n).trim(); })"
    page.emulate_media(media="print", color_scheme="light")
    light = page.evaluate(read)
    page.emulate_media(media="screen", color_scheme="light" if how == "button" else "dark")
    if how == "button":
        page.tap("#theme")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(236, 238, 242)"
    page.emulate_media(media="print", color_scheme="light" if how == "button" else "dark")
    assert page.evaluate(read) == light
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert page.evaluate("getComputedStyle(document.querySelector('.chart .tick')).fill") == "rgb(0, 0, 0)"


def test_a_finger_moves_an_enlarged_image_either_way(page: Any) -> None:
    to_image(page)
    touch = page.context.new_cdp_session(page)

    def drag(right: int, down: int) -> list[float]:
        box = page.locator("#stage").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.evaluate("scrollTo(0, 0)")
        for kind, share in (("touchStart", 0.0), *(("touchMove", 0.1 * step) for step in range(1, 11))):
            place = {"x": x + share * right, "y": y + share * down}
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [place]})
            page.wait_for_timeout(16)
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_timeout(300)  # a tap that follows at once is no click
        return list(page.evaluate("[view.x, view.y]"))

    for _ in range(3):
        page.tap("#zoom-in")
    page.evaluate("scrollTo(0, 0)")
    assert drag(60, 0) == pytest.approx([120, 0], abs=2)
    assert drag(0, -60) == pytest.approx([120, -120], abs=2)
    page.tap("#zoom-reset")
    page.wait_for_function("() => getComputedStyle($('stage')).touchAction === 'pan-y'")  # the page scrolls again


def test_the_thumb_of_the_threshold_stands_below_its_line_on_the_scale(page: Any) -> None:
    to_image(page)
    scale, slider = page.locator("#scale").bounding_box(), page.locator("#threshold").bounding_box()
    level, last = page.evaluate("() => [Number($('threshold').value), Number($('threshold').max)]")
    line = page.evaluate(
        "() => { const d = $('scale').getContext('2d').getImageData(0, 0, 256, 1).data;"
        " const at = [...Array(256).keys()].filter((i) => d[4 * i] === 0 && d[4 * i + 1] === 229);"
        " return at.reduce((a, b) => a + b, 0) / at.length; }"
    )
    thumb = slider["x"] + 8 + (slider["width"] - 16) * level / last
    assert scale["x"] + scale["width"] * line / 255 == pytest.approx(thumb, abs=3)


def test_the_end_of_a_long_name_is_seen_on_its_card(page: Any) -> None:
    name = page.locator("#first-cards .name")
    assert name.text_content() == NAME
    whole, head, tail = (part.bounding_box() for part in (name, name.locator("span").first, name.locator("span").last))
    assert name.locator("span").last.text_content() == NAME[-10:]
    assert tail["x"] + tail["width"] <= whole["x"] + whole["width"] + 1
    assert head["width"] > 20


def test_a_name_without_a_break_is_no_wider_than_the_window(page: Any) -> None:
    to_image(page)
    assert UNBREAKABLE in page.locator("#classes").text_content()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("location.hash = '#overview'")
    page.locator("#overview").wait_for()
    page.evaluate("id => { $('finding').firstChild.textContent = id; }", f"Begin with '{NAME}{NAME}'")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_sentences_are_of_one_image_and_it_has_no_label(page: Any, made: Path) -> None:
    shown = page.locator("#finding").inner_text()
    assert re.fullmatch(r"The report holds 1 image; its mean predictive entropy is \d\.\d+ nats\.", shown)
    assert page.evaluate("CONTENT.labelled") == 0
    assert re.search(r"\d s for 1 image on cpu", page.locator("#settings").inner_text())
    assert page.locator("#count").text_content() == "1 image"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#print-count").text_content().startswith("1 image, sorted by")
    size = page.evaluate("CONTENT.size")
    assert size == f"1 image, {made.stat().st_size / 1e6:.1f} MB"


def test_a_plot_says_what_its_bands_are_and_draws_few(page: Any) -> None:
    def lines(count: int) -> str:
        curve = {"x": [1, 2], "y": [0.1, 0.2], "low": [0.05, 0.1], "high": [0.2, 0.3]}
        return json.dumps([{"name": f"line {number}", **curve} for number in range(count)])

    for count, bands, text in ((3, 3, "A band is the 95 % interval."), (4, 0, "95 % intervals are in the table")):
        page.evaluate(f"() => {{ $('charts').replaceChildren(); lineChart($('charts'), {lines(count)}, "
                      "{ title: 't', x: 'x', y: 'y' }); }")  # fmt: skip
        assert page.locator("#charts polygon").count() == bands
        assert page.locator("#charts .left-out").text_content().startswith(text)
    page.evaluate("() => { document.querySelector('#charts details').open = true; }")
    page.wait_for_selector("#charts table", state="attached")
    assert "0.0500 to 0.200" in page.locator("#charts table").text_content()
