"use strict";
// Planes of numbers to pictures, in the pixels of the mask.

const UNTRUSTED = [0, 229, 255]; // no colour of the heat scale
const WRONG = [213, 94, 0];
const FOR_REVIEW = [204, 121, 167];
const [REVIEW, NO_DATA] = [255, 128]; // values of accepted.png
const HIDDEN_GREY = [128, 128, 128]; // no colour of the heat scale
const SHADES = bytesOf(CONTENT.shades); // 256 x RGB, least first

const colourOf = (k) => CONTENT.palette[k] || CONTENT.no_class_colour;

// Layers are painted once, in the pixels of the mask.
function layer(name) {
  if (view.layers[name]) return view.layers[name];
  const { h, w } = IMAGES[view.index], detail = view.detail;
  const canvas = new OffscreenCanvas(w, h), context = canvas.getContext("2d");
  if (name === "image") context.drawImage(detail.picture, 0, 0, w, h);
  else if (name === "measure") {
    const measure = measureNow(), plane = detail.planes["measure " + measure.name];
    if (plane) {
      const scale = 255 / (measure.high * 10 ** measure.decimals);
      const small = painted(detail.sizes["measure " + measure.name], (at, out) => {
        const shade = 3 * Math.min(255, Math.round(plane[at] * scale)), hidden = plane[at] === CONTENT.hidden;
        for (let part = 0; part < 3; part++) out[part] = hidden ? HIDDEN_GREY[part] : SHADES[shade + part];
        out[3] = 255;
      });
      context.imageSmoothingQuality = "high";
      context.drawImage(small, 0, 0, small.width * CONTENT.stride, small.height * CONTENT.stride);
    }
  } else {
    const mask = detail.planes.mask, label = detail.planes.label, K = CONTENT.classes.length;
    if (name === "error" || name === "accepted") {
      context.filter = "grayscale(1)";
      context.drawImage(detail.picture, 0, 0, w, h);
      context.filter = "none";
    }
    const source = name === "label" ? label : name === "draw" ? detail.planes["draw " + $("draw-number").value] : mask;
    const colours = painted([h, w], (at, out) => {
      if (name === "error" || name === "accepted") {
        const accepted = detail.planes.accepted;
        const known = name === "error" ? label[at] < K : accepted[at] !== NO_DATA;
        const marked = name === "error" ? known && label[at] !== mask[at] : accepted[at] === REVIEW;
        [out[0], out[1], out[2]] = marked ? (name === "error" ? WRONG : FOR_REVIEW) : known ? [255, 255, 255] : [0, 0, 0];
        out[3] = marked ? 255 : known ? 110 : 150;
      } else {
        const colour = colourOf(source[at]);
        out[0] = colour[0]; out[1] = colour[1]; out[2] = colour[2]; out[3] = 255;
      }
    });
    context.drawImage(colours, 0, 0);
  }
  view.layers[name] = canvas;
  return canvas;
}

function painted([rows, columns], colour) {
  const canvas = new OffscreenCanvas(columns, rows), context = canvas.getContext("2d");
  const data = context.createImageData(columns, rows), out = [0, 0, 0, 0];
  for (let at = 0; at < rows * columns; at++) {
    colour(at, out);
    data.data.set(out, 4 * at);
  }
  context.putImageData(data, 0, 0);
  return canvas;
}

// The pixels above a level that have a neighbour at or below it: what they enclose keeps its colours.
function outlined(plane, [rows, columns], level) {
  const above = (at) => plane[at] > level && plane[at] !== CONTENT.hidden;
  return painted([rows, columns], (at, out) => {
    out[3] = 0;
    if (!above(at)) return;
    const x = at % columns;
    const enclosed = (!x || above(at - 1)) && (x === columns - 1 || above(at + 1)) && (at < columns || above(at - columns)) && (at + columns >= plane.length || above(at + columns));
    if (!enclosed) [out[0], out[1], out[2], out[3]] = [...UNTRUSTED, 255];
  });
}

// The colours of a measure up to a level, with a line at the threshold.
function paintScale(canvas, measure, reach = levelOf(measure, measure.high), level = NaN) {
  const context = canvas.getContext("2d"), threshold = Math.round((255 * (level + 0.5)) / reach);
  const steps = reach / (measure.high * 10 ** measure.decimals), data = context.createImageData(256, 1);
  for (let i = 0; i < 256; i++) {
    const shade = 3 * Math.min(255, Math.round(i * steps));
    data.data.set([...(Math.abs(i - threshold) < 2 ? UNTRUSTED : SHADES.subarray(shade, shade + 3)), 255], 4 * i);
  }
  context.putImageData(data, 0, 0);
}

function legendOf(image) {
  $("triage-row").hidden = !image.triage;
  if (image.triage) [$("decision-of").textContent, $("accepted-of").textContent] = [image.triage.decision, percent(image.triage.accepted)];
  $("classes-name").textContent = CONTENT.several ? "Predicted labels" : "Predicted classes";
  $("classes-note").hidden = !CONTENT.several;
  const shares = Object.entries(image.shares).sort((a, b) => b[1] - a[1]);
  $("classes").replaceChildren(...shares.map(([k, share]) => chipOf(`${CONTENT.classes[k] || CONTENT.no_class} ${percent(share)}`, colourOf(k))));
}

function chipOf(text, colour) {
  const chip = element("span", { class: "chip" });
  chip.style.backgroundColor = `rgb(${colour.join(",")})`;
  return element("li", {}, chip, element("span", { text }));
}

// What the colours of a layer mean where the predicted classes do not say it: a heading and a list, or nothing.
function coloursOf(name) {
  let title = "", colours = [];
  if (name === "error") [title, colours] = ["Errors", [["wrong", WRONG], ["right (lighter)", [183, 183, 183]], ["not labelled (darker)", [53, 53, 53]]]];
  if (name === "accepted") [title, colours] = ["Triage", [["for review", FOR_REVIEW], ["accepted (lighter)", [183, 183, 183]], ["no data (darker)", [53, 53, 53]]]];
  if (name === "label") {
    const there = [...new Set(view.detail.planes.label)].sort((a, b) => a - b);
    [title, colours] = ["Ground truth", there.map((k) => [CONTENT.classes[k] || "not labelled", colourOf(k)])];
  }
  if (name === "measure" && view.detail.planes["measure " + measureNow().name]?.includes(CONTENT.hidden)) [title, colours] = ["Uncertainty", [["no value", HIDDEN_GREY]]];
  return colours.length ? [element("h3", { text: title }), element("ul", { class: "classes" }, ...colours.map((pair) => chipOf(...pair)))] : [];
}
