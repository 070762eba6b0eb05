"use strict";
// The whole page: overview, scores, and which part is in sight.

const SECTIONS = ["overview", "gallery", "image", "scores"];

function goTo(index) {
  const image = IMAGES[index];
  if (image.page !== CONTENT.page) location.href = CONTENT.pages[image.page] + "#image=" + encodeURIComponent(image.id);
  else location.hash = "#image=" + encodeURIComponent(image.id);
}

function route() {
  const hash = location.hash.slice(1);
  const [name, id] = hash.startsWith("image=") ? ["image", decodeURIComponent(hash.slice(6))] : [hash, ""];
  let section = SECTIONS.includes(name) ? name : "overview";
  const index = section === "image" ? (id ? IMAGES.findIndex((image) => image.id === id) : gallery.order.find((i) => IMAGES[i].page === CONTENT.page)) : -1;
  if (section === "image" && (index === undefined || index < 0)) section = "overview";
  if (section === "image" && IMAGES[index].page !== CONTENT.page) return goTo(index);
  for (const each of SECTIONS) $(each).hidden = each !== section;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === "#" + section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (section === "gallery") { gallery.drawnFrom = -1; paintCards(); }
  if (section === "image") showImage(index);
  else play(false);
}

function overview() {
  for (const sentence of CONTENT.finding) $("finding").append(element("p", { text: sentence }));
  for (const [name, value] of CONTENT.settings) $("settings").append(element("dt", { text: name }), element("dd", { text: value }));
  const measure = CONTENT.measures[0];
  if (measure && IMAGES.length) {
    const known = IMAGES.filter((image) => image.means).map((image) => numberOf(image, measure.name)).filter((u) => u >= 0);
    histogram($("histogram"), known, {
      title: `Mean ${measure.title} of the images`,
      x: measure.title + (measure.unit ? ", " + measure.unit : ""),
      unit: measure.unit,
      chosen: (low, high, name) => { gallery.range = { low, high, name }; arrange(); location.hash = "#gallery"; },
    });
  }
  for (const part of ["#gallery", "#image"]) document.querySelector(`nav a[href='${part}']`).hidden = !IMAGES.length;
  $("first-name").hidden = !IMAGES.length;
  const first = gallery.order.slice(0, 8);
  $("first-cards").replaceChildren(...first.map(cardOf));
  for (const sentence of CONTENT.triage) $("triage").append(element("li", {}, ...coded(sentence)));
  $("triage-box").hidden = !CONTENT.triage.length;
  for (const warning of CONTENT.warnings) $("warnings").append(element("li", {}, ...coded(warning)));
  $("warnings-box").hidden = !CONTENT.warnings.length;
  $("failed-box").hidden = !CONTENT.failed.length;
  for (const [id, why] of CONTENT.failed) $("failed").append(element("li", {}, element("strong", { text: id }), ": ", ...coded(why)));
}

// What follows the first line is paler: the interval, and by which measure.
function cellOf(text) {
  const [first, ...rest] = text.split("\n");
  return element("td", { class: text.length > 40 && !rest.length && "words" }, first, ...rest.map((line) => element("span", { class: "below", text: line })));
}

function scoreTable(place, table) {
  const head = element("tr", {}, ...table.columns.map((text) => element("th", { scope: "col", text })));
  const rows = table.rows.map((row) => element("tr", {}, element("th", { scope: "row", text: row[0] }), ...row.slice(1).map(cellOf)));
  const name = element("h3", { text: table.title });
  const lines = (table.text || []).map(coded);
  const sentences = lines.length > 1 ? [element("ul", { class: "sentence" }, ...lines.map((line) => element("li", {}, ...line)))] : lines.map((line) => element("p", { class: "sentence" }, ...line));
  const shown = element("table", { "aria-label": table.title }, element("thead", {}, head), element("tbody", {}, ...rows));
  place.append(name, ...sentences, element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": table.title }, shown));
}

function scores() {
  const share = (x) => percent(x);
  const place = $("charts");
  for (const chart of CONTENT.charts) {
    const texts = chart.shares ? { xText: (x) => `${share(x)} ${chart.xWord}`, yText: (y) => `${share(y)} ${chart.yWord}` } : {};
    lineChart(place, chart.lines, { ...chart, ...texts });
  }
  for (const table of CONTENT.tables) scoreTable($("tables"), table);
  $("no-scores").hidden = CONTENT.charts.length + CONTENT.tables.length > 0;
  document.querySelector("nav a[href='#scores']").hidden = !(CONTENT.charts.length + CONTENT.tables.length);
}

function theme() {
  const root = document.documentElement, button = $("theme");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const show = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", dark() ? "Light colours" : "Dark colours"); };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; show(); });
  show();
}

document.title = CONTENT.title;
$("title").textContent = CONTENT.title;
$("size").textContent = CONTENT.size;
setUpGallery();
setUpViewer();
overview();
scores();
theme();
addEventListener("hashchange", route);
route();
document.documentElement.dataset.ready = "yes";
