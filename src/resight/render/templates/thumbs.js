"use strict";
// The gallery's images as thumbnails, with their maps; a single tab stop, and arrow keys.

function thumbnail(i, place) {
  const { data, facts, sheet } = gallery;
  const [t, p] = [facts.classes[data.true[i]], facts.classes[data.predicted[i]]];
  const right = !isMistake(i);
  const said = right ? `${t}, correct` : `${t} predicted as ${p}`;
  const value = filters().sort.startsWith("loss")
    ? `loss ${number(data.loss[i], 3)}`
    : `${percent(data.confidence[i])} sure`;
  const layers = [sheet.picture(i, "")];
  if (byId("cam-toggle").checked) layers.push(thumbnailMap(i));
  if (data.suspect[i])
    layers.push(el("span", { class: "suspect", title: "Probable label error" }, "label?"));
  return el(
    "li",
    {},
    el(
      "button",
      {
        type: "button",
        class: "thumb",
        tabindex: place === 0 ? "0" : "-1",
        "data-image": i,
        title: `${said}\n${data.id[i]}`,
        "aria-label": `${said}, ${percent(data.confidence[i])} sure, loss ${number(data.loss[i], 3)}, ${data.id[i]}`,
        onclick: () => openDetail(place),
      },
      el("span", { class: "stack" }, layers),
      el("span", { class: "verdict" }, t),
      el("span", { class: "verdict strong" }, right ? "✓ correct" : `→ ${p}`),
      el("span", { class: "value" }, value),
    ),
  );
}

function thumbnailMap(i) {
  return gallery.maps.empty("predicted", i)
    ? el(
        "span",
        { class: "map-empty", title: "The map is empty: no positive evidence" },
        "empty map",
      )
    : gallery.maps.overlay("predicted", i);
}

function toggleMaps() {
  const on = byId("cam-toggle").checked;
  for (const thumb of byId("thumbs").querySelectorAll(".thumb")) {
    const stack = thumb.querySelector(".stack");
    if (on) stack.append(thumbnailMap(Number(thumb.dataset.image)));
    else stack.querySelector(".map, .map-empty")?.remove();
  }
}

/** Gives thumbnail `place` the grid's only tab stop, and the focus. */
function focusThumbnail(place) {
  while (place >= gallery.shown && gallery.shown < gallery.indices.length) showMore();
  const items = byId("thumbs").children;
  if (!items[place]) return;
  byId("thumbs").querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
  items[place].firstChild.setAttribute("tabindex", "0");
  items[place].firstChild.focus();
}

function moveInThumbs(event) {
  const items = [...byId("thumbs").children];
  const at = items.findIndex((item) => item.contains(document.activeElement));
  const columns = Math.max(
    1,
    items.findIndex((item) => item.offsetTop > items[0].offsetTop),
  );
  const to = {
    ArrowLeft: at - 1,
    ArrowRight: at + 1,
    ArrowUp: at - columns,
    ArrowDown: at + columns,
    Home: 0,
    End: items.length - 1,
  }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  if (to >= 0 && to < items.length) focusThumbnail(to);
}
