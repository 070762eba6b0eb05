"use strict";
// All images, sorted and filtered; only the rows in sight are in the page, so that thousands stay quick.

const gallery = { order: [], columns: 1, range: null, drawnFrom: -1, drawnTo: -1 };
const CARD = [10.5, 11.875]; // least width and height, in the page's letters, which grow on large screens

function numberOf(image, key) {
  if (key === "error") return image.labelled ? 1 - image.right / image.labelled : -1;
  return image.means && key in image.means ? image.means[key] : -1;
}

function setUpGallery() {
  const sort = $("sort");
  for (const measure of CONTENT.measures) sort.append(element("option", { value: measure.name, text: "most uncertain: " + measure.title }));
  if (CONTENT.labelled) sort.append(element("option", { value: "error", text: "most errors" }));
  sort.append(element("option", { value: "certain", text: "least uncertain" }), element("option", { value: "name", text: "name" }));
  const chosen = $("with-class");
  chosen.append(element("option", { value: "", text: "any class" }));
  CONTENT.classes.forEach((name, k) => chosen.append(element("option", { value: k, text: "with " + name })));
  $("decision-label").hidden = !IMAGES.some((image) => image.triage);
  for (const id of ["sort", "with-class", "decision", "search"]) $(id).addEventListener("input", arrange);
  $("clear-range").addEventListener("click", () => { gallery.range = null; arrange(); });
  $("cards").addEventListener("scroll", () => requestAnimationFrame(paintCards), { passive: true });
  new ResizeObserver(() => { gallery.drawnFrom = -1; paintCards(); }).observe($("cards"));
  for (const place of document.querySelectorAll(".card-scale")) {
    const measure = CONTENT.measures[0], scale = element("canvas", { width: 256, height: 1, "aria-hidden": "true" });
    place.hidden = !measure;
    if (!measure) continue;
    paintScale(scale, measure);
    place.append(`Colours over the grey image: ${measure.title}, from 0 `, scale, " to " + highOf(measure));
  }
  arrange();
}

function arrange() {
  const [key, k, words] = [$("sort").value, $("with-class").value, $("search").value.trim().toLowerCase()];
  const first = CONTENT.measures.length ? CONTENT.measures[0].name : "";
  let order = IMAGES.map((_, index) => index);
  if (words) order = order.filter((i) => IMAGES[i].id.toLowerCase().includes(words));
  if (k !== "") order = order.filter((i) => IMAGES[i].shares[k] > 0);
  const decision = $("decision").value;
  if (decision) order = order.filter((i) => IMAGES[i].triage && IMAGES[i].triage.decision === decision);
  if (gallery.range) order = order.filter((i) => { const u = numberOf(IMAGES[i], first); return u >= gallery.range.low && u < gallery.range.high; });
  if (key === "name") order.sort((a, b) => (IMAGES[a].id < IMAGES[b].id ? -1 : 1));
  else if (key === "certain") order.sort((a, b) => numberOf(IMAGES[a], first) - numberOf(IMAGES[b], first));
  else order.sort((a, b) => numberOf(IMAGES[b], key) - numberOf(IMAGES[a], key));
  gallery.order = order;
  $("range").hidden = !gallery.range;
  if (gallery.range) $("range-text").textContent = "only " + gallery.range.name;
  $("count").textContent = (order.length === IMAGES.length ? "" : `${order.length} of `) + imagesOf(IMAGES.length);
  gallery.drawnFrom = -1;
  $("cards").scrollTop = 0;
  paintCards();
}

function paintCards() {
  const box = $("cards"), wide = box.clientWidth;
  if (!wide) return;
  const letter = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const [least, tall] = CARD.map((size) => size * letter);
  const columns = Math.max(1, Math.floor(wide / least));
  const rows = Math.ceil(gallery.order.length / columns);
  $("all-rows").style.height = rows * tall + "px";
  const from = Math.max(0, Math.floor(box.scrollTop / tall) - 2);
  const to = Math.min(rows, Math.ceil((box.scrollTop + box.clientHeight) / tall) + 2);
  if (from === gallery.drawnFrom && to === gallery.drawnTo && columns === gallery.columns) return;
  Object.assign(gallery, { drawnFrom: from, drawnTo: to, columns });
  const cards = [];
  for (let at = from * columns; at < Math.min(to * columns, gallery.order.length); at++) cards.push(cardOf(gallery.order[at]));
  const rowsBox = $("rows");
  rowsBox.style.top = from * tall + "px";
  rowsBox.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
  rowsBox.replaceChildren(...cards);
}

// A long id in two parts, the first of which is cut: ids of one folder differ at their ends.
function partsOf(id) {
  const letters = [...id];
  return letters.length > 14 ? [letters.slice(0, -10), letters.slice(-10)].map((part) => element("span", { text: part.join("") })) : [id];
}

function cardOf(index) {
  const image = IMAGES[index];
  const key = $("sort").value, measure = measureOf(key) || CONTENT.measures[0];
  const numbers = [];
  if (measure) numbers.push(withUnit(numberText(numberOf(image, measure.name), measure), measure));
  if (image.labelled) numbers.push(percent(image.right / image.labelled) + " right");
  const review = image.triage && image.triage.decision === "review";
  const picture = element("img", { alt: "", width: 144, height: 96, src: thumbOf(index), decoding: "async" });
  const name = element("span", { class: "name", title: image.id }, ...partsOf(image.id));
  const open = element("button", { class: "card", type: "button", "aria-label": [image.id, ...numbers, ...(review ? ["for review"] : [])].join(", ") }, picture, ...(review ? [element("span", { class: "badge", text: "review" })] : []), name, element("span", { class: "numbers", text: numbers.join(" · ") }));
  open.addEventListener("click", () => goTo(index));
  return open;
}

// On paper: the first twenty of the present order, with their pictures, and how many there are.
addEventListener("beforeprint", () => {
  const first = gallery.order.slice(0, 20);
  $("print-cards").replaceChildren(...first.map(cardOf));
  const which = first.length < IMAGES.length ? `The first ${first.length} of ` : IMAGES.length > 1 ? "All " : "";
  $("print-count").textContent = `${which}${imagesOf(IMAGES.length)}, sorted by: ${$("sort").selectedOptions[0].textContent}.`;
});
