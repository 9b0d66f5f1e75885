"use strict";
// The page of a comparison: its tables, the runs' curves in common charts, disagreements.

const IMAGES_AT_ONCE = 60;
const SPLITS = { val: "validation", test: "test", train: "training" };
const facts = JSON.parse(byId("facts").textContent);
const { names } = facts;

/** A run's own colour and dash, the same in every chart and next to its name. */
function runLine(i) {
  return {
    color: `var(--series-${(i % CHART_COLOURS) + 1})`,
    dash: DASHES[(i + Math.floor(i / CHART_COLOURS)) % DASHES.length],
  };
}

function runKey(i) {
  const { color, dash } = runLine(i);
  const place = { class: "chart-line", x1: 1, x2: 29, y1: 6, y2: 6, "stroke-dasharray": dash };
  const line = svg("line", place);
  line.style.stroke = color;
  return svg("svg", { width: 30, height: 12, "aria-hidden": "true" }, line);
}

/** A name on one line, cut if it is too long; hovering shows it in full. */
function cut(name, tag = "span") {
  return el(tag, { class: "name", title: name }, name);
}

function headed(id, heading, ...children) {
  return el(
    "section",
    { id, "aria-labelledby": `${id}-heading` },
    el("h2", { id: `${id}-heading`, tabindex: "-1" }, heading),
    ...children,
  );
}

function bullets(lines, look) {
  return lines.length ? el("ul", look, lines.map((line) => el("li", {}, line))) : null;
}

/** A section of facts.sections: its table, whose first row is the column names, and its lines. */
function drawSection({ heading, table: [columns = [], ...rows], lines }) {
  const id = heading.split(" ")[0].toLowerCase();
  const key = { display: "flex", gap: "8px", "align-items": "center" };
  const shown = columns.map((name, k) => {
    const numeric = rows.every((row) => /^[-+<–\d]/.test(row[k]));
    const longest = Math.max(...rows.map((row) => row[k].length));
    const wide = { display: "inline-block", "min-width": `${Math.min(longest, 24)}ch` };
    return {
      name: cut(name),
      numeric,
      cell: ({ row, i }) => {
        const text = el("span", { style: numeric ? {} : wide }, row[k]);
        return id === "accuracy" && k === 0 ? el("span", { style: key }, runKey(i), text) : text;
      },
    };
  });
  const numbered = rows.map((row, i) => ({ row, i }));
  const drawn = columns.length ? table(numbered, shown, { caption: heading }) : null;
  return headed(id, heading, drawn, bullets(lines, { class: "notes muted" }));
}

/** Four charts: accuracy and loss, on the monitored split and on training. */
function drawCurves() {
  const measured = (run, split) => run[`${split}_loss`].some(known);
  const watched = ["val", "test"].filter((split) => facts.curves.some((run) => measured(run, split)));
  const row = el("div", { class: "columns" });
  const draw = [];
  for (const splits of [watched, ["train"]]) {
    for (const what of ["accuracy", "loss"]) {
      const series = facts.curves.flatMap((run, i) => {
        const split = splits.find((one) => measured(run, one));
        if (!split) return [];
        const name = splits.length > 1 ? `${names[i]} (${SPLITS[split]})` : names[i];
        return [{ name, x: run.epoch, y: run[`${split}_${what}`], ...runLine(i) }];
      });
      if (!series.length) continue;
      const heading = `${splits.map((split) => SPLITS[split]).join(" or ")} ${what}`;
      const box = el("div", { id: `${splits[0]}-${what}`, class: "chart-box" });
      const title = el("h3", {}, heading[0].toUpperCase() + heading.slice(1));
      row.append(el("div", { class: "chart-column" }, title, box));
      const yFormat = what === "accuracy" ? (value) => percent(value, 2) : plainNumber;
      draw.push(() => lineChart(box, { series, xLabel: "epoch", yLabel: what, yFormat }));
    }
  }
  return { section: draw.length ? headed("curves", "Curves", row) : null, draw };
}

function drawPage() {
  byId("title").textContent = facts.title;
  byId("about").textContent = facts.about;
  byId("made-by").textContent = `Made by Resight ${facts.resight}.`;
  const large = { "font-size": "16px", "margin-top": "10px" };
  byId("verdict").replaceChildren(
    ...facts.verdict.map((sentence) => el("p", { style: large }, sentence)),
    bullets(facts.notes, { class: "notes", style: { "margin-top": "10px" } }) ?? "",
  );
  const curves = drawCurves();
  const [first, ...rest] = facts.sections.map(drawSection);
  byId("sections").replaceWith(...[first, curves.section, ...rest].filter(known));
  curves.draw.forEach((draw) => draw()); // only now: a chart has to know its width
  startViewer();
  const sections = [...document.querySelectorAll("main > section:not([hidden])")];
  byId("contents").replaceChildren(
    ...sections.map((one) => el("a", { href: `#${one.id}` }, one.querySelector("h2").textContent)),
  );
}

const viewer = {
  pairs: facts.disagreements.flatMap((group, g) => group.pairs.map((pair) => ({ ...pair, g }))),
  sheets: [], // one per group of images, null if they could not be loaded
  shown: [], // the chosen images, in their order
  total: 0, // how many there are of the chosen kind, whether kept on the page or not
};

function chosenPair() {
  const pair = viewer.pairs[Number(byId("pair").value)];
  return { ...pair, group: facts.disagreements[pair.g], sheet: viewer.sheets[pair.g] };
}

function startViewer() {
  const { pairs } = viewer;
  if (!pairs.length) return;
  byId("disagreements").hidden = false;
  viewer.sheets = facts.disagreements.map(({ sheet }) => (sheet ? openSheet(sheet) : null));
  byId("pair-label").hidden = pairs.length === 1;
  byId("pair").replaceChildren(
    ...pairs.map(({ a, b }, k) => el("option", { value: k }, `A ${names[a]}, B ${names[b]}`)),
  );
  for (const id of ["pair", "kind"]) byId(id).style.maxWidth = "min(100%, 460px)";
  byId("thumbs").style.gridTemplateColumns = "repeat(auto-fill, minmax(min(46%, 150px), 1fr))";
  byId("disagreements-controls").addEventListener("submit", (event) => event.preventDefault());
  byId("pair").addEventListener("input", choosePair);
  byId("kind").addEventListener("input", chooseKind);
  byId("more").addEventListener("click", () => showMore({ focus: true }));
  choosePair();
}

function choosePair() {
  const { a, b, totals, group } = chosenPair();
  const kinds = ["correct only in A", "correct only in B", "wrong in both, with different answers"];
  const kind = byId("kind").value || "all";
  byId("kind").replaceChildren(
    el("option", { value: "all" }, `all (${count(sum(totals))})`),
    ...kinds.map((name, k) => el("option", { value: k }, `${name} (${count(totals[k])})`)),
  );
  byId("kind").value = kind;
  byId("disagreements-about").replaceChildren(
    "A is ",
    el("strong", {}, names[a]),
    ", B is ",
    el("strong", {}, names[b]),
    ". Each image is shown with its true class and with the predictions of A and B and their ",
    "confidence; images on which the losses differ most come first.",
    group.reason ? el("span", { class: "flag" }, ` The images can't be shown: ${group.reason}`) : "",
  );
  chooseKind();
}

function chooseKind() {
  const { shown, totals, ...pair } = chosenPair();
  const kind = byId("kind").value;
  viewer.shown = kind === "all" ? mostApartFirst(shown.flat(), pair) : shown[Number(kind)];
  viewer.total = kind === "all" ? sum(totals) : totals[Number(kind)];
  byId("thumbs").replaceChildren();
  showMore();
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

function mostApartFirst(images, { a, b, group }) {
  const [first, second] = [a, b].map((run) => group.said.find((one) => one.run === run).loss);
  const apart = (i) => Math.abs(first[i] - second[i]);
  return images.sort((i, j) => apart(j) - apart(i));
}

function showMore({ focus = false } = {}) {
  const host = byId("thumbs");
  const from = host.children.length;
  const kept = viewer.shown.length;
  const pair = chosenPair();
  host.append(...viewer.shown.slice(from, from + IMAGES_AT_ONCE).map((i) => card(i, pair)));
  const left = kept - host.children.length;
  byId("more").hidden = left === 0;
  byId("more").textContent = `Show ${count(Math.min(IMAGES_AT_ONCE, left))} more of ${count(left)}`;
  const rest = `; of ${count(viewer.total)} the page keeps those on which the losses differ most`;
  byId("disagreements-count").textContent = kept
    ? `Showing ${count(host.children.length)} of ${counted(kept, "image")}${kept < viewer.total ? rest : ""}.`
    : "No such images.";
  if (!focus) return;
  host.children[from].tabIndex = -1; // the button may be gone: continue at the first new image
  host.children[from].focus();
}

function card(i, { a, b, group, sheet }) {
  const truth = group.classes[group.true[i]];
  const row = { display: "flex", gap: "5px" };
  const line = (...parts) => el("span", { class: "verdict", style: row }, ...parts);
  const answer = (letter, run) => {
    const said = group.said.find((one) => one.run === run);
    const right = said.predicted[i] === group.true[i];
    const mark = el("span", { class: "hidden-text" }, right ? " correct:" : " wrong:");
    const end = { "margin-left": "auto", "white-space": "nowrap" };
    return line(
      el("span", { class: right ? "fine" : "flag" }, right ? "✓" : "✗", mark),
      el("span", { class: "muted" }, letter),
      cut(group.classes[said.predicted[i]]),
      el("span", { class: "muted", style: end }, percent(said.confidence[i], 0)),
    );
  };
  const box = { background: "var(--surface)", border: "1px solid var(--line)", "border-radius": "6px" };
  const id = { class: "verdict mono muted", title: group.id[i], style: { "font-size": "11px" } };
  return el("li", {}, el("div", { class: "thumb", style: box },
    sheet ? el("span", { class: "stack" }, sheet.picture(i, `Image of ${truth}`)) : null,
    line(cut(truth, "strong")),
    answer("A", a),
    answer("B", b),
    el("span", id, group.id[i])));
}

drawPage();
