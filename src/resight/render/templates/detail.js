"use strict";
// One image in detail: both maps, the probabilities, buttons to the next and previous image.

let detailPlace = -1; // in gallery.indices

function openDetail(place) {
  showDetail(place);
  if (!byId("detail").open) byId("detail").showModal();
}

function showDetail(place) {
  const { data, facts, indices, sheet, maps } = gallery;
  if (place < 0 || place >= indices.length) return;
  detailPlace = place;
  const i = indices[place];
  const names = { true: facts.classes[data.true[i]], predicted: facts.classes[data.predicted[i]] };
  byId("detail-title").textContent = isMistake(i)
    ? `${names.true} predicted as ${names.predicted}`
    : `${names.true}, correctly classified`;
  byId("detail-place").textContent = `${count(place + 1)} of ${count(indices.length)}`;
  // aria-disabled: a disabled button would lose the focus, and the dialog its arrow keys
  byId("detail-previous").setAttribute("aria-disabled", String(place === 0));
  byId("detail-next").setAttribute("aria-disabled", String(place === indices.length - 1));
  const pictures = [figure("The image", [sheet.picture(i, `Image ${data.id[i]}`)])];
  if (maps) {
    const kinds = isMistake(i) ? ["predicted", "true"] : ["predicted"];
    for (const kind of kinds) pictures.push(mapFigure(kind, names[kind], i));
  }
  byId("detail-body").replaceChildren(
    el("div", { class: "pictures" }, pictures),
    el(
      "div",
      { class: "detail-facts" },
      el(
        "dl",
        { class: "pairs" },
        pair("True class", names.true),
        pair("Predicted", `${isMistake(i) ? "✗" : "✓"} ${names.predicted}`),
        pair("Confidence", percent(data.confidence[i], 2)),
        pair("Loss", number(data.loss[i])),
        pair("Id", linked(data, i), "mono"),
      ),
      data.suspect[i]
        ? el(
            "p",
            { class: "flag" },
            "⚑ The label may be wrong: the net is confident in another class.",
          )
        : null,
      probabilities(i),
    ),
  );
}

function pair(name, value, kind = null) {
  return [el("dt", {}, name), el("dd", { class: kind }, value)];
}

/** The id of image i; where it is a file on this disk, as a link to it. */
function linked({ folder, id }, i) {
  if (!known(folder)) return id[i];
  const path = id[i].split("/").map(encodeURIComponent).join("/");
  return el("a", { href: `${folder}/${path}`, target: "_blank", rel: "noopener" }, id[i]);
}

function figure(caption, layers) {
  return el("figure", {}, el("div", { class: "stack" }, layers), el("figcaption", {}, caption));
}

function mapFigure(kind, name, i) {
  const { sheet, maps } = gallery;
  const what = `Evidence for ${name} (${kind})`;
  if (maps.empty(kind, i)) {
    return figure(`${what}: the map is empty, no positive evidence`, [
      sheet.picture(i, `${what}: empty`),
    ]);
  }
  return figure(what, [sheet.picture(i, what), maps.overlay(kind, i)]);
}

function probabilities(i) {
  const { data, facts } = gallery;
  const rows = data.top[i].map(([k, probability]) => {
    const mark =
      k === data.true[i]
        ? isMistake(i)
          ? "true"
          : "correct"
        : k === data.predicted[i]
          ? "predicted"
          : "other";
    return el(
      "li",
      { class: mark },
      el("span", { class: "probability-name", title: facts.classes[k] }, facts.classes[k]),
      el("span", { class: "probability-mark" }, mark === "other" ? "" : mark),
      meter(probability, percent(probability, 1, true), mark),
    );
  });
  return el("ol", { class: "probabilities", "aria-label": "Probabilities" }, rows);
}

function wireDetail() {
  const dialog = byId("detail");
  byId("detail-previous").addEventListener("click", () => showDetail(detailPlace - 1));
  byId("detail-next").addEventListener("click", () => showDetail(detailPlace + 1));
  byId("detail-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => focusThumbnail(detailPlace));
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.target.type === "range") return;
    event.preventDefault();
    showDetail(detailPlace + step);
  });
}
