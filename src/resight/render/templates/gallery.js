"use strict";
// The images of a run: which are shown, and in which order.

const PAGE = 60;
const METHODS = { gradcam: "Grad-CAM", "gradcam++": "Grad-CAM++" };
const gallery = {
  data: null, // facts.gallery
  facts: null,
  sheet: null,
  maps: null,
  indices: [], // of the images that pass the filters, in their order
  shown: 0, // how many of them have a thumbnail
  drawn: "", // the filters with which the thumbnails were drawn
};

function renderGallery(facts) {
  gallery.facts = facts;
  const data = facts.gallery ?? null;
  byId("gallery").hidden = data === null;
  if (data === gallery.data) return;
  const same =
    gallery.data !== null && data !== null && JSON.stringify(data) === JSON.stringify(gallery.data);
  gallery.data = data;
  if (same) return;
  gallery.drawn = "";
  if (data === null) {
    gallery.indices = [];
    byId("thumbs").replaceChildren();
    if (byId("detail").open) byId("detail").close();
    return;
  }
  gallery.sheet = openSheet(data.sheet, data.photos);
  gallery.maps = known(data.maps) ? openMaps(data.maps) : null;
  byId("cam-controls").hidden = gallery.maps === null;
  byId("detail-controls").hidden = gallery.maps === null;
  if (gallery.maps) {
    const method = METHODS[data.maps.method] ?? data.maps.method;
    byId("cam-name").textContent = `Show what it looked at (${method}, ${data.maps.layer})`;
  }
  fillFilters(facts);
  byId("gallery-about").replaceChildren(...aboutGallery(facts));
  applyFilters();
}

function isMistake(i) {
  return gallery.data.true[i] !== gallery.data.predicted[i];
}

/** The selects offer what the data has; the reader's choices are kept. */
function fillFilters({ classes }) {
  const { data } = gallery;
  const all = data.id.map((_, i) => i);
  const kinds = [
    ["mistakes", "mistakes", all.filter(isMistake).length],
    ["right", "correct", all.filter((i) => !isMistake(i)).length],
    ["suspects", "probable label errors", data.suspect.filter(Boolean).length],
    ["all", "all", all.length],
  ];
  const fresh = byId("filter-kind").options.length === 0;
  fillSelect(
    "filter-kind",
    kinds.map(([value, name, total]) => [value, `${name} (${count(total)})`]),
  );
  if (fresh && kinds[0][2] === 0) byId("filter-kind").value = "all";
  for (const id of ["filter-true", "filter-predicted"]) {
    fillSelect(id, [["", "any"], ...classes.map((name, k) => [String(k), name])]);
  }
}

function fillSelect(id, options) {
  const select = byId(id);
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, name]) => el("option", { value }, name)));
  if (chosen && options.some(([value]) => value === chosen)) select.value = chosen;
}

function aboutGallery({ gallery: data, suspects_total: suspects }) {
  const { total_mistakes: total, shown_mistakes: shown } = data;
  const right = data.id.length - shown;
  const mistakes =
    shown < total
      ? `The ${count(shown)} of ${counted(total, "mistake")} with the highest loss`
      : total === 1
        ? "The only mistake"
        : total
          ? `All ${count(total)} mistakes`
          : "No mistakes";
  const parts = [
    mistakes + (right ? `, and a sample of ${counted(right, "correct prediction")}.` : "."),
  ];
  if (suspects) {
    parts.push(
      " ",
      el(
        "button",
        {
          type: "button",
          class: "link",
          "data-key": "suspects",
          onclick: () => setFilters({ kind: "suspects" }),
        },
        counted(suspects, "probable label error"),
      ),
      ".",
    );
  }
  return parts;
}

function filters() {
  return {
    kind: byId("filter-kind").value,
    true: byId("filter-true").value,
    predicted: byId("filter-predicted").value,
    sort: byId("sort").value,
    search: byId("search").value.trim().toLowerCase(),
  };
}

function setFilters({ kind = "mistakes", true: trueClass = "", predicted = "" }) {
  byId("filter-kind").value = kind;
  byId("filter-true").value = String(trueClass);
  byId("filter-predicted").value = String(predicted);
  byId("search").value = "";
  applyFilters();
}

/** From elsewhere on the page: the images of class `t` predicted as `p`. */
function showInGallery(t, p, { focus = false } = {}) {
  if (!gallery.data) return;
  setFilters({ kind: t === p ? "right" : "mistakes", true: t, predicted: p });
  byId("gallery").scrollIntoView({ block: "start" });
  if (focus) byId("gallery-heading").focus({ preventScroll: true });
}

function applyFilters() {
  const { data } = gallery;
  if (!data) return;
  const chosen = filters();
  const wanted = JSON.stringify(chosen);
  if (wanted === gallery.drawn) return;
  gallery.drawn = wanted;
  const passes = (i) =>
    (chosen.kind === "all" ||
      (chosen.kind === "suspects"
        ? data.suspect[i]
        : isMistake(i) === (chosen.kind === "mistakes"))) &&
    (chosen.true === "" || data.true[i] === Number(chosen.true)) &&
    (chosen.predicted === "" || data.predicted[i] === Number(chosen.predicted)) &&
    (chosen.search === "" || data.id[i].toLowerCase().includes(chosen.search));
  const [by, direction] = chosen.sort.split("-");
  const sign = direction === "asc" ? 1 : -1;
  gallery.indices = data.id
    .map((_, i) => i)
    .filter(passes)
    .sort((a, b) => sign * (data[by][a] - data[by][b]) || a - b);
  byId("thumbs").replaceChildren();
  gallery.shown = 0;
  showMore();
  markConfusionCell(chosen);
}

function showMore() {
  const from = gallery.shown;
  gallery.shown = Math.min(gallery.indices.length, from + PAGE);
  byId("thumbs").append(
    ...gallery.indices.slice(from, gallery.shown).map((i, k) => thumbnail(i, from + k)),
  );
  const more = byId("more");
  const left = gallery.indices.length - gallery.shown;
  more.hidden = left === 0;
  more.textContent = `Show ${count(Math.min(PAGE, left))} more of ${count(left)}`;
  byId("gallery-count").textContent = galleryCount();
}

/** `Showing 60 of 118 images: cat predicted as dog, of 120 in the whole split.` */
function galleryCount() {
  const { facts, indices, shown } = gallery;
  const chosen = filters();
  if (!indices.length) return "No images match.";
  const start =
    shown < indices.length
      ? `Showing ${count(shown)} of ${counted(indices.length, "image")}`
      : counted(indices.length, "image");
  if (chosen.true === "" || chosen.predicted === "") return start + ".";
  const [t, p] = [Number(chosen.true), Number(chosen.predicted)];
  const pair =
    t === p
      ? `${facts.classes[t]}, correctly classified`
      : `${facts.classes[t]} predicted as ${facts.classes[p]}`;
  const total = facts.confusion?.[t]?.[p];
  const kept =
    chosen.kind === "suspects" || chosen.search || !known(total) || total <= indices.length;
  return `${start}: ${pair}${kept ? "" : `, of ${count(total)} in the whole split`}.`;
}

function wireGallery() {
  const controls = byId("gallery-controls");
  controls.addEventListener("input", applyFilters);
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("reset", (event) => {
    event.preventDefault();
    byId("sort").value = "loss-desc";
    setFilters({ kind: byId("filter-kind").options[0].text.endsWith("(0)") ? "all" : "mistakes" });
  });
  byId("more").addEventListener("click", () => {
    const from = gallery.shown;
    showMore();
    focusThumbnail(from);
  });
  byId("thumbs").addEventListener("keydown", moveInThumbs);
  byId("cam-toggle").addEventListener("change", toggleMaps);
  for (const id of ["cam-opacity", "detail-opacity"]) {
    byId(id).addEventListener("input", (event) => {
      document.documentElement.style.setProperty("--cam-opacity", event.target.value);
      byId("cam-opacity").value = event.target.value;
      byId("detail-opacity").value = event.target.value;
    });
  }
  paintRampKeys();
}
