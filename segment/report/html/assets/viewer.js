"use strict";
// One image: two layers swiped or blended, untrusted pixels above a threshold, numbers under the pointer, zoom and pan.

const view = { index: -1, detail: null, layers: {}, zoom: 1, x: 0, y: 0, split: 0.5, levels: {}, probe: null, ticket: 0, overlay: null, playing: null };

function setUpViewer() {
  const stage = $("stage");
  if (IMAGES.some((image) => image.triage)) { // the triage decides what is trusted
    for (const [id, text] of [["threshold-name", "Threshold:"], ["mark-name", "Outline pixels above it"], ["untrusted-name", "Pixels above the threshold"], ["kept-name", "Accuracy of pixels below it"]]) $(id).textContent = text;
  }
  for (const measure of CONTENT.measures) $("measure").append(element("option", { value: measure.name, text: measure.title }));
  $("measure").addEventListener("input", () => { view.layers = {}; setThreshold(); showModes(); draw(); probeAgain(); });
  for (const id of ["layer-a", "layer-b", "mode"]) $(id).addEventListener("input", () => { showModes(); draw(); });
  $("split").addEventListener("input", () => { view.split = $("split").value / 1000; draw(); });
  $("threshold").addEventListener("input", () => { view.levels[measureNow().name] = +$("threshold").value; markUntrusted(); draw(); });
  $("mark").addEventListener("input", draw);
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("zoom-in").addEventListener("click", () => zoomBy(1.5));
  $("zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
  $("zoom-reset").addEventListener("click", resetZoom);
  $("draw-number").addEventListener("input", showDraw);
  $("play").addEventListener("click", () => play(!view.playing));
  stage.addEventListener("wheel", (event) => { event.preventDefault(); zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2, at(event)); }, { passive: false });
  let grabbed = null;
  stage.addEventListener("pointerdown", (event) => { grabbed = { x: event.clientX, y: event.clientY, vx: view.x, vy: view.y }; stage.setPointerCapture(event.pointerId); });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { grabbed = null; });
  stage.addEventListener("pointermove", (event) => {
    if (grabbed && view.zoom > 1) {
      const ratio = devicePixelRatio || 1;
      view.x = grabbed.vx + (event.clientX - grabbed.x) * ratio;
      view.y = grabbed.vy + (event.clientY - grabbed.y) * ratio;
      draw();
    } else if (grabbed && $("mode").value === "swipe") {
      const box = stage.getBoundingClientRect();
      view.split = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      $("split").value = Math.round(1000 * view.split);
      draw();
    }
    probe(pixelAt(at(event)));
  });
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  addEventListener("keydown", (event) => {
    if ($("image").hidden || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = event.shiftKey && moves[event.key] ? () => movePoint(moves[event.key]) : { ArrowLeft: () => step(-1), ArrowRight: () => step(1), "+": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: resetZoom, Escape: () => { location.hash = "#gallery"; } }[event.key];
    if (act) { act(); event.preventDefault(); }
  });
  new ResizeObserver(fit).observe(stage);
}

const measureNow = () => measureOf($("measure").value);

function movePoint([down, right]) {
  if (!view.detail) return;
  const stride = CONTENT.stride, [y, x] = view.probe || [0, 0], { h, w } = IMAGES[view.index];
  probe([Math.min(h - 1, Math.max(0, y + down * stride)), Math.min(w - 1, Math.max(0, x + right * stride))]);
  draw();
}

async function showImage(index) {
  const image = IMAGES[index], ticket = ++view.ticket;
  view.index = index;
  $("image-name").textContent = image.id;
  const place = gallery.order.indexOf(index);
  $("image-place").textContent = place < 0 ? "" : `${place + 1} of ${gallery.order.length}`;
  const detail = await detailOf(index);
  if (ticket !== view.ticket) return;
  Object.assign(view, { detail, layers: {}, probe: null });
  play(false);
  const options = [["image", "image"], ["mask", "prediction"]];
  if (CONTENT.measures.length) options.push(["measure", "uncertainty"]);
  if (detail.planes.label) options.push(["error", "errors"], ["label", "ground truth"]);
  if (detail.planes.accepted) options.push(["accepted", "accepted pixels"]);
  if (detail.planes["draw 0"]) options.push(["draw", "one draw"]);
  for (const [id, usual] of [["layer-a", "image"], ["layer-b", CONTENT.measures.length ? "measure" : "mask"]]) {
    const before = $(id).value || usual;
    $(id).replaceChildren(...options.map(([value, text]) => element("option", { value, text })));
    $(id).value = options.some(([value]) => value === before) ? before : usual;
  }
  const draws = Object.keys(detail.planes).filter((name) => name.startsWith("draw ")).length;
  $("draws").hidden = !draws;
  $("draw-number").max = Math.max(0, draws - 1);
  $("draw-number").value = 0;
  showDrawNumber();
  showModes();
  setThreshold();
  legendOf(image, detail);
  resetZoom();
  probe(null);
  if (place >= 0 && gallery.order[place + 1] !== undefined) ahead(gallery.order[place + 1]);
}

function ahead(index) {
  if ($("block-" + index)) setTimeout(() => detailOf(index), 50);
}

function step(by) {
  const next = gallery.order[gallery.order.indexOf(view.index) + by];
  if (next !== undefined) goTo(next);
}

function showModes() {
  const swipe = $("mode").value === "swipe";
  $("split-name").textContent = swipe ? "swipe" : "blend";
  if (view.detail) $("layer-colours").replaceChildren(...[...new Set([$("layer-a").value, $("layer-b").value])].flatMap(coloursOf));
}

// The draw of the slider, which takes the right layer's place where none is in sight.
function showDraw() {
  if ($("layer-a").value !== "draw" && $("layer-b").value !== "draw") $("layer-b").value = "draw";
  view.layers = { ...view.layers, draw: null };
  showDrawNumber();
  draw();
}

function play(on) {
  clearInterval(view.playing);
  view.playing = on ? setInterval(() => { $("draw-number").value = (+$("draw-number").value + 1) % (+$("draw-number").max + 1); showDraw(); }, 500) : null;
  $("play").textContent = on ? "Stop" : "Play";
}

function showDrawNumber() {
  $("draw-name").textContent = `draw ${+$("draw-number").value + 1} of ${+$("draw-number").max + 1}`;
}

function setThreshold() {
  const measure = measureNow();
  $("uncertainty").hidden = !measure || !view.detail || !view.detail.counts[measure.name];
  if ($("uncertainty").hidden) { view.overlay = null; return; }
  const slider = $("threshold");
  const reach = reachOf(measure);
  slider.max = reach;
  if (!(measure.name in view.levels)) view.levels[measure.name] = measure.start;
  slider.value = view.levels[measure.name];
  $("scale-low").textContent = withUnit("0", measure);
  $("scale-high").textContent = reach > levelOf(measure, measure.high) ? withUnit(valueOf(measure, reach), measure) : highOf(measure);
  $("scale-name").textContent = measure.title;
  $("start").textContent = `The report begins at ${withUnit(thresholdOf(measure, measure.start), measure)}: above it lie ${percent(measure.above)} of all pixels of this run.`;
  markUntrusted();
}

function markUntrusted() {
  const measure = measureNow(), level = view.levels[measure.name], detail = view.detail;
  const plane = detail.planes["measure " + measure.name];
  view.overlay = outlined(plane, detail.sizes["measure " + measure.name], level);
  paintScale($("scale"), measure, reachOf(measure), level);
  const shares = sharesAt(detail.counts[measure.name], level);
  const text = withUnit(thresholdOf(measure, level), measure);
  $("threshold-value").textContent = text;
  $("threshold").setAttribute("aria-valuetext", text);
  $("untrusted").textContent = percent(shares.untrusted);
  $("kept-row").hidden = shares.accuracy === null;
  $("kept").textContent = shares.kept === null ? "none kept" : percent(shares.kept);
  $("accuracy").textContent = shares.accuracy === null ? "" : percent(shares.accuracy);
}

// As high as the image needs at this width, within what the window leaves.
function fit() {
  const stage = $("stage"), ratio = devicePixelRatio || 1;
  if (view.index >= 0) {
    const { h, w } = IMAGES[view.index], room = Math.max(260, innerHeight - (innerWidth > 900 ? 330 : 280));
    const tall = Math.round(Math.max(160, Math.min(room, (stage.clientWidth * h) / w))) + "px";
    if (stage.style.height !== tall) stage.style.height = tall;
  }
  const [wide, tall] = [Math.round(stage.clientWidth * ratio), Math.round(stage.clientHeight * ratio)];
  if (!wide || !tall) return;
  if (stage.width !== wide || stage.height !== tall) [stage.width, stage.height] = [wide, tall];
  draw();
}

// Pixels of the canvas for one of the image.
function scaleNow() {
  const { h, w } = IMAGES[view.index];
  return Math.min($("stage").width / w, $("stage").height / h) * view.zoom;
}

function placeNow() {
  const { h, w } = IMAGES[view.index], scale = scaleNow(), stage = $("stage");
  return [(stage.width - w * scale) / 2 + view.x, (stage.height - h * scale) / 2 + view.y, scale];
}

function draw() {
  if (!view.detail || $("image").hidden) return;
  const stage = $("stage"), context = stage.getContext("2d"), { h, w } = IMAGES[view.index];
  const [left, top, scale] = placeNow();
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, stage.width, stage.height);
  context.setTransform(scale, 0, 0, scale, left, top);
  context.imageSmoothingEnabled = scale < 2;
  drawLayer(context, $("layer-a").value);
  const swipe = $("mode").value === "swipe", edge = w * view.split;
  context.save();
  if (swipe) {
    context.beginPath();
    context.rect(edge, 0, w - edge, h);
    context.clip();
  } else context.globalAlpha = view.split;
  drawLayer(context, $("layer-b").value);
  context.restore();
  if (swipe && view.split > 0 && view.split < 1) {
    context.fillStyle = "#fff";
    context.fillRect(edge - 1.5 / scale, 0, 3 / scale, h);
    context.fillStyle = "#000";
    context.fillRect(edge - 0.5 / scale, 0, 1 / scale, h);
  }
  if (view.probe) {
    const [y, x] = view.probe, size = CONTENT.stride;
    context.lineWidth = 2 / scale;
    context.strokeStyle = "#fff";
    context.strokeRect(x - 1 / scale, y - 1 / scale, size + 2 / scale, size + 2 / scale);
  }
}

// A layer with the outline of untrusted pixels; on the uncertainty it would cover the colours that it is about.
function drawLayer(context, name) {
  const { h, w } = IMAGES[view.index];
  context.drawImage(layer(name), 0, 0);
  if (!view.overlay || !$("mark").checked || name === "measure") return;
  context.save();
  context.imageSmoothingEnabled = scaleNow() * CONTENT.stride < 1; // else lines of a pixel would have gaps
  context.beginPath();
  context.rect(0, 0, w, h);
  context.clip();
  context.drawImage(view.overlay, 0, 0, view.overlay.width * CONTENT.stride, view.overlay.height * CONTENT.stride);
  context.restore();
}

function at(event) {
  const box = $("stage").getBoundingClientRect(), ratio = $("stage").width / box.width;
  return [(event.clientY - box.top) * ratio, (event.clientX - box.left) * ratio];
}

function pixelAt([y, x]) {
  if (!view.detail) return null;
  const [left, top, scale] = placeNow();
  return [Math.floor((y - top) / scale), Math.floor((x - left) / scale)];
}

function zoomBy(factor, centre = [$("stage").height / 2, $("stage").width / 2]) {
  if (!view.detail) return;
  const before = placeNow(), zoom = Math.min(40, Math.max(1, view.zoom * factor));
  const [iy, ix] = [(centre[0] - before[1]) / before[2], (centre[1] - before[0]) / before[2]];
  view.zoom = zoom;
  if (zoom === 1) [view.x, view.y] = [0, 0];
  else {
    const after = placeNow();
    view.y += centre[0] - (after[1] + iy * after[2]);
    view.x += centre[1] - (after[0] + ix * after[2]);
  }
  showZoom();
  draw();
}

function resetZoom() {
  Object.assign(view, { zoom: 1, x: 0, y: 0 });
  showZoom();
  fit();
}

// A finger moves an enlarged image, and else scrolls the page.
function showZoom() {
  $("zoom-level").textContent = Math.round(100 * view.zoom) + " %";
  $("stage").style.touchAction = view.zoom > 1 ? "none" : "";
}

// The numbers of the nearest pixel above and left whose values are kept.
function probe(place) {
  const told = $("numbers"), detail = view.detail, image = IMAGES[view.index];
  if (!place || !detail || place[0] < 0 || place[1] < 0 || place[0] >= image.h || place[1] >= image.w) {
    told.textContent = "Point at the image for its numbers; Shift and arrow keys move the point.";
    return;
  }
  const stride = CONTENT.stride, row = Math.floor(place[0] / stride), column = Math.floor(place[1] / stride);
  view.probe = [row * stride, column * stride];
  const parts = [`row ${row * stride * image.factor}, column ${column * stride * image.factor}`];
  for (const measure of CONTENT.measures) {
    const plane = detail.planes["measure " + measure.name];
    if (plane && measure.name === measureNow().name) {
      const columns = detail.sizes["measure " + measure.name][1];
      const level = plane[row * columns + column];
      parts.push(`${measure.title} ${level === CONTENT.hidden ? "hidden" : (level === LAST ? "≥ " : "") + withUnit(valueOf(measure, level), measure)}`);
    }
  }
  const pixel = row * stride * image.w + column * stride, K = CONTENT.classes.length;
  const nameOf = (k) => CONTENT.classes[k] || CONTENT.no_class;
  if (detail.planes["percent 0"] && (detail.planes.mask[pixel] < K || CONTENT.several)) {
    const columns = detail.sizes["percent 0"][1], tops = [];
    for (let place = 0; detail.planes["percent " + place] && place < 3; place++) {
      const share = detail.planes["percent " + place][row * columns + column];
      if (place === 0 || share > 0) tops.push(`${nameOf(detail.planes["class " + place][row * columns + column])} ${share} %`);
    }
    parts.push(tops.join(", "));
  } else parts.push(nameOf(detail.planes.mask[pixel]));
  if (detail.planes.label) {
    const truth = detail.planes.label[pixel];
    parts.push(truth >= K ? "not labelled" : `label ${nameOf(truth)} (${truth === detail.planes.mask[pixel] ? "right" : "wrong"})`);
  }
  told.textContent = parts.join(" · ");
}

function probeAgain() {
  if (view.probe) probe(view.probe);
}
