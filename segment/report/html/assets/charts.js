"use strict";
// Line plots and histograms as SVG: nearest point on hover, values in a table for those who do not see them.

const SVG = "http://www.w3.org/2000/svg";
const LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#a35fd0"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];

const BANDS = 3; // lines with a band, at most: more would cover each other

const narrow = () => innerWidth < 600; // a phone: fewer units, so that letters stay readable

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Of the nth line: no two of 32 have the same colour and dashes.
function strokeOf(number) {
  return { stroke: LINES[number % LINES.length], "stroke-dasharray": DASHES[(number + Math.floor(number / LINES.length)) % DASHES.length] };
}

function niceTicks(low, high, most = 6) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / most));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => span / s <= most);
  const ticks = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-6; t += step) ticks.push(t);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) + (Math.abs((step / power) % 1) > 1e-9 ? 1 : 0);
  return ticks.map((t) => [t, (Math.abs(t) < step * 1e-6 ? 0 : t).toFixed(Math.min(decimals, 6))]);
}

// lines: {name, x, y, low, high, notes}; limits by the data
// options: title, x, y, left_out (a sentence), diagonal, zero, ticks (of x, where not round numbers), logarithmic (x)
function lineChart(place, lines, options) {
  const [W, H, left, right, top, bottom] = [...(narrow() ? [400, 300] : [640, 400]), 74, 14, 12, 46];
  const known = lines.filter((line) => line.x.length);
  if (!known.length) return;
  const intervals = known.filter(hasInterval).length, banded = intervals <= BANDS;
  const xs = known.flatMap((line) => line.x), ys = known.flatMap((line) => [...line.y, ...((banded && line.low) || []), ...((banded && line.high) || [])]).filter((y) => y !== null);
  let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  if (options.diagonal) [x0, x1, y0, y1] = [0, 1, 0, 1];
  if (options.zero) [y0, y1] = [Math.min(0, y0), Math.max(0, y1)];
  if (x0 === x1) [x0, x1] = options.logarithmic ? [x0 / 2, x1 * 2] : [x0 - 0.5, x1 + 0.5];
  if (y0 === y1) [y0, y1] = [y0 - 0.5, y1 + 0.5];
  const along = (x) => (options.logarithmic ? Math.log2(x) : x);
  const px = (x) => left + ((along(x) - along(x0)) / (along(x1) - along(x0))) * (W - left - right);
  const py = (y) => H - bottom - ((y - y0) / (y1 - y0)) * (H - top - bottom);
  const svg = drawn("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": options.title + ". The values are in the table below the plot." });
  for (const [t, text] of options.ticks ? options.ticks.map((t) => [t, String(t)]) : niceTicks(x0, x1, narrow() ? 4 : 6)) {
    svg.append(drawn("line", { class: "grid", x1: px(t), x2: px(t), y1: top, y2: H - bottom }), label(text, px(t), H - bottom + 17, "middle"));
  }
  for (const [t, text] of niceTicks(y0, y1)) {
    svg.append(drawn("line", { class: "grid", x1: left, x2: W - right, y1: py(t), y2: py(t) }), label(text, left - 7, py(t) + 4, "end"));
  }
  svg.append(label(options.x, (left + W - right) / 2, H - 6, "middle"));
  const side = label(options.y, 0, 0, "middle");
  side.setAttribute("transform", `translate(14 ${(top + H - bottom) / 2}) rotate(-90)`);
  svg.append(side);
  if (options.diagonal) svg.append(drawn("line", { class: "ideal", x1: px(0), y1: py(0), x2: px(1), y2: py(1) }));
  if (options.zero) svg.append(drawn("line", { class: "ideal", x1: left, y1: py(0), x2: W - right, y2: py(0) }));
  const legend = element("ul", { class: "chart-legend" });
  const notes = options.left_out ? [options.left_out] : [];
  if (intervals) notes.unshift(banded ? "A band is the 95 % interval." : "95 % intervals are in the table, and beside the value of a point.");
  known.forEach((line, number) => {
    const stroke = strokeOf(number), colour = stroke.stroke;
    if (hasInterval(line) && banded) {
      const at = line.x.map((x, i) => [x, line.low[i], line.high[i]]).filter(([, l, h]) => l !== null && h !== null);
      const band = [...at.map(([x, l]) => `${px(x)},${py(l)}`), ...at.reverse().map(([x, , h]) => `${px(x)},${py(h)}`)];
      svg.append(drawn("polygon", { points: band.join(" "), fill: colour, opacity: 0.14 }));
    }
    const points = line.x.map((x, i) => `${px(x)},${py(line.y[i])}`).join(" ");
    svg.append(drawn("polyline", { points, fill: "none", "stroke-width": 2.2, ...stroke }));
    if (options.points) line.x.forEach((x, i) => svg.append(drawn("circle", { cx: px(x), cy: py(line.y[i]), r: 3.4, fill: colour })));
    const key = drawn("svg", { class: "key", viewBox: "0 0 28 8", "aria-hidden": "true" }, drawn("line", { x1: 0, x2: 28, y1: 4, y2: 4, "stroke-width": 2.5, ...stroke }));
    legend.append(element("li", {}, key, element("span", { text: line.legend || line.name })));
  });
  const marker = drawn("circle", { class: "marker", r: 5, cx: -20, cy: -20 });
  svg.append(marker);
  const told = element("output", { class: "readout", text: options.hint || "Point at the plot to read a value." });
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const [mx, my] = [((event.clientX - box.left) / box.width) * W, ((event.clientY - box.top) / box.height) * H];
    let best = null;
    for (const line of known) {
      line.x.forEach((x, i) => {
        const away = (px(x) - mx) ** 2 + (py(line.y[i]) - my) ** 2;
        if (!best || away < best.away) best = { away, line, i };
      });
    }
    marker.classList.add("on");
    marker.setAttribute("cx", px(best.line.x[best.i]));
    marker.setAttribute("cy", py(best.line.y[best.i]));
    told.textContent = pointText(best.line, best.i, options);
  });
  const figure = element("figure", { class: "chart" }, element("figcaption", { text: options.title }), svg, legend, ...notes.map((text) => element("p", { class: "left-out", text })), told, tableOf(known, options));
  place.append(figure);
}

const hasInterval = (line) => Boolean(line.low && line.low.some((v) => v !== null));

function intervalText(line, i) {
  return hasInterval(line) && line.low[i] !== null ? `${line.low[i].toPrecision(3)} to ${line.high[i].toPrecision(3)}` : "";
}

function pointText(line, i, options) {
  const x = options.xText ? options.xText(line.x[i]) : `${options.x} ${Number(line.x[i].toPrecision(4))}`;
  const y = options.yText ? options.yText(line.y[i]) : `${options.y} ${line.y[i].toPrecision(4)}`;
  const ends = intervalText(line, i) && ` (95 %: ${intervalText(line, i)})`;
  return `${line.name}: ${x}, ${y}${ends}${line.notes ? ", " + line.notes[i] : ""}`;
}

function label(text, x, y, anchor) {
  return drawn("text", { x, y, "text-anchor": anchor, class: "tick" }, document.createTextNode(text));
}

function tableOf(lines, options) {
  const details = element("details", { class: "values" }, element("summary", { text: "Values as a table" }));
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("table")) return;
    const body = element("tbody"), intervals = lines.some(hasInterval), notes = lines.some((line) => line.notes);
    for (const line of lines) {
      const step = Math.max(1, Math.floor(line.x.length / 40));
      for (let i = 0; i < line.x.length; i += step) {
        body.append(element("tr", {}, element("th", { scope: "row", text: line.name }), element("td", { text: line.x[i].toPrecision(4) }), element("td", { text: line.y[i].toPrecision(4) }), ...(intervals ? [element("td", { text: intervalText(line, i) })] : []), ...(notes ? [element("td", { text: line.notes ? line.notes[i] : "" })] : [])));
      }
    }
    const head = element("tr", {}, ...["line", options.x, options.y, ...(intervals ? ["95 %"] : []), ...(notes ? ["note"] : [])].map((text) => element("th", { scope: "col", text })));
    details.append(element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": options.title }, element("table", {}, element("thead", {}, head), body)));
  });
  return details;
}

// Counts of values in equal bins; chosen(low, high) is called when a bar is pressed.
function histogram(place, values, options) {
  const high = Math.max(...values, 1e-9), bins = Math.min(30, Math.max(5, Math.ceil(Math.sqrt(values.length))));
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor((value / high) * bins))]++;
  const [W, H, left, bottom, top] = [...(narrow() ? [400, 180] : [640, 220]), 46, 44, 10];
  const most = Math.max(...counts), wide = (W - left - 10) / bins;
  const svg = drawn("svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": options.title });
  for (const [t, text] of niceTicks(0, most, 4)) {
    const y = H - bottom - (t / most) * (H - bottom - top);
    svg.append(drawn("line", { class: "grid", x1: left, x2: W - 10, y1: y, y2: y }), label(text, left - 6, y + 4, "end"));
  }
  counts.forEach((count, bin) => {
    const tall = (count / most) * (H - bottom - top);
    const [from, to] = [(bin / bins) * high, ((bin + 1) / bins) * high];
    const name = `${imagesOf(count)} from ${from.toPrecision(3)} to ${to.toPrecision(3)}${options.unit ? " " + options.unit : ""}`;
    const bar = drawn("rect", { class: "bar", x: left + bin * wide + 1, y: H - bottom - tall, width: Math.max(1, wide - 2), height: tall, tabindex: count ? 0 : -1, role: "button", "aria-label": name + ": show them" }, drawn("title", {}, document.createTextNode(name)));
    const choose = () => count && options.chosen(from, bin === bins - 1 ? Infinity : to, name);
    bar.addEventListener("click", choose);
    bar.addEventListener("keydown", (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), choose()));
    svg.append(bar);
  });
  for (const [t, text] of niceTicks(0, high)) svg.append(label(text, left + (t / high) * (W - left - 10), H - bottom + 17, "middle"));
  svg.append(label(options.x, (left + W) / 2, H - 6, "middle"));
  place.append(element("figure", { class: "chart" }, element("figcaption", { text: options.title }), svg));
}
