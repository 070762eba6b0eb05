"use strict";
// What the page holds: the content as JSON, and a block of bytes for each image, unpacked when it is looked at.

const CONTENT = JSON.parse(document.getElementById("content").textContent);
const IMAGES = CONTENT.images;
const KEPT = 6; // unpacked images in memory

const $ = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// What is there, or is not all, is never rounded to nothing or to all.
const percent = (share) => (share > 0 && share < 0.0005 ? "< 0.1 %" : share < 1 && share >= 0.9995 ? "> 99.9 %" : (100 * share).toFixed(1) + " %");
const measureOf = (name) => CONTENT.measures.find((measure) => measure.name === name);
const valueOf = (measure, level) => (level / 10 ** measure.decimals).toFixed(measure.decimals);
const imagesOf = (count) => `${count} image${count === 1 ? "" : "s"}`;
const LAST = CONTENT.hidden - 1; // the level of every larger value
// A value with two digits that are not 0, and no fewer decimals than the measure's usual ones.
const numberText = (value, measure) => {
  const digits = value > 0 ? Math.max(measure.digits, 1 - Math.floor(Math.log10(value))) : measure.digits;
  return digits > 7 ? value.toExponential(1) : value.toFixed(digits);
};
const withUnit = (text, measure) => text + (measure.unit ? " " + measure.unit : "");
const highOf = (measure) => withUnit((measure.bound > measure.high * 1.000001 ? "≥ " : "") + Number(measure.high.toPrecision(3)), measure);
const levelOf = (measure, value) => Math.round(value * 10 ** measure.decimals);
// The last level of the slider and of the scale above it: the scale's end, or what a threshold beyond it needs.
const reachOf = (measure) => Math.max(1, levelOf(measure, measure.high), Math.min(measure.top, 2 * measure.start));
const thresholdOf = (measure, level) => ((level + 0.5) / 10 ** measure.decimals).toFixed(measure.decimals + 1);

// Text with each `command` of it as code.
function coded(text) {
  const parts = text.split("`");
  return parts.length % 2 ? parts.map((part, i) => (i % 2 ? element("code", { text: part }) : part)) : [text];
}

function bytesOf(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The inverse of streams.predicted: each value is the difference to the median of its neighbours.
function unpredicted(data, rows, columns, width) {
  const size = rows * columns;
  const out = new Uint16Array(size);
  const plane = new Uint8Array(size);
  for (let part = 0; part < width; part++) {
    const start = part * size;
    for (let y = 0, at = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++, at++) {
        const left = x ? plane[at - 1] : 0;
        const above = y ? plane[at - columns] : 0;
        const corner = x && y ? plane[at - columns - 1] : 0;
        const low = left < above ? left : above;
        const high = left < above ? above : left;
        const guess = corner >= high ? low : corner <= low ? high : left + above - corner;
        plane[at] = data[start + at] + guess;
      }
    }
    for (let at = 0; at < size; at++) out[at] |= plane[at] << (8 * part);
  }
  return out;
}

const THUMBS = ($("thumbs").textContent || "").split("\n");
const thumbOf = (index) => (THUMBS[index] ? "data:image/webp;base64," + THUMBS[index] : "");

const unpacked = new Map();

// Everything of one image: picture (ImageBitmap), planes by name, counts by measure. Kept for the last few images.
function detailOf(index) {
  if (unpacked.has(index)) {
    const known = unpacked.get(index);
    unpacked.delete(index);
    unpacked.set(index, known);
    return known;
  }
  const made = unpack(index);
  unpacked.set(index, made);
  if (unpacked.size > KEPT) unpacked.delete(unpacked.keys().next().value);
  return made;
}

async function unpack(index) {
  const image = IMAGES[index];
  const block = bytesOf($("block-" + index).textContent);
  const detail = { planes: {}, counts: {}, sizes: {} };
  const parts = Object.entries(image.streams).map(async ([name, [offset, length, rows, columns, width]]) => {
    const bytes = block.subarray(offset, offset + length);
    if (name === "picture") {
      detail.picture = await createImageBitmap(new Blob([bytes], { type: "image/webp" }));
    } else if (name.startsWith("counts ")) {
      const data = await inflated(bytes);
      detail.counts[name.slice(7)] = new Uint32Array(data.buffer, 0, rows * 3);
    } else {
      detail.planes[name] = unpredicted(await inflated(bytes), rows, columns, width);
      detail.sizes[name] = [rows, columns];
    }
  });
  await Promise.all(parts);
  return detail;
}

// Shares at a threshold, exact over all pixels of the image: untrusted, and right ones of those that are kept.
function sharesAt(counts, level) {
  let all = 0, above = 0, right = 0, labelled = 0, rightAll = 0, labelledAll = 0;
  for (let l = 0; l * 3 < counts.length; l++) {
    const [pixels, good, bad] = [counts[3 * l], counts[3 * l + 1], counts[3 * l + 2]];
    all += pixels;
    labelledAll += good + bad;
    rightAll += good;
    if (l > level) above += pixels;
    else {
      labelled += good + bad;
      right += good;
    }
  }
  return {
    untrusted: all ? above / all : 0,
    kept: labelled ? right / labelled : null,
    accuracy: labelledAll ? rightAll / labelledAll : null,
  };
}
