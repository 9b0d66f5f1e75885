"use strict";
// The page of images before a training: counts, findings with their images, some of each class.

const facts = JSON.parse(byId("facts").textContent);
const SQUARES = {
  crop: "The net sees the square in the frame; what is dark beside it is cut off.",
  pad: "The net sees the whole square, grey borders included.",
  squash: "The net sees each image as it is here: squashed to a square.",
};

/** The whole image i of `group`, with what the net sees of it. */
function whole(group, i, sheet) {
  const [width, height] = group.size[i];
  const longer = Math.max(width, height);
  const [across, down] = [width / longer, height / longer]; // of the cell
  const label = `${group.id[i]}, ${group.class[i]}, ${width}×${height} px`;
  const picture = sheet.picture(i, label);
  const box = el("span", { class: "whole" }, picture);
  const edge = (share) => `${50 * (1 - share)}%`;
  if (facts.fit === "crop" && width !== height) {
    const side = Math.min(across, down);
    const look = { inset: edge(side) }; // of the same share on all sides: a square in the middle
    box.append(el("span", { class: "seen", style: look, "aria-hidden": "true" }));
    box.style.clipPath = `inset(${edge(down)} ${edge(across)})`;
  } else if (facts.fit === "squash") {
    picture.style.transform = `scale(${1 / across}, ${1 / down})`;
  }
  return el("span", { class: "stack" }, box);
}

/** A card: the image, then lines of text; the file's name in full when hovered over. */
function card(group, i, sheet, ...lines) {
  const id = { class: "verdict mono muted", title: group.id[i] };
  return el("div", { class: "card" }, whole(group, i, sheet), ...lines, el("span", id, group.id[i]));
}

function sizeOf(group, i) {
  return el("span", { class: "value" }, `${group.size[i][0]}×${group.size[i][1]}`);
}

function drawFinding(finding, sheet) {
  const { named } = facts;
  const shown = finding.cases.filter((one) => one.shown.length);
  const listed = finding.cases.filter((one) => !one.shown.length);
  const cards = shown.map((one) =>
    el(
      "li",
      { class: one.shown.length > 1 ? "twins" : null },
      el(
        "div",
        { class: "twin-row" },
        one.shown.map((i) =>
          card(named, i, sheet, el("span", { class: "verdict strong" }, named.class[i])),
        ),
      ),
      el("span", { class: "verdict muted what", title: one.what }, one.what),
    ),
  );
  const names = listed.map((one) =>
    el("li", {}, el("span", { class: "mono" }, one.images.join(" and ")), one.what ? ` (${one.what})` : ""),
  );
  const left = finding.total - finding.cases.length;
  if (left > 0) names.push(el("li", {}, `and ${count(left)} more: resight data … --json has all`));
  const heading = shown.length ? `${counted(listed.length, "other")}` : counted(finding.total, "file");
  return el(
    "article",
    { class: `finding ${finding.severity}`, id: `finding-${finding.name}` },
    el("span", { class: "severity" }, finding.severity),
    el("h3", {}, finding.title),
    el(
      "dl",
      { class: "pairs" },
      el("dt", {}, "Evidence"),
      el("dd", {}, finding.evidence),
      el("dt", {}, "Threshold"),
      el("dd", {}, finding.threshold),
      el("dt", {}, "Advice"),
      el("dd", {}, finding.advice),
    ),
    cards.length ? el("ul", { class: "thumbs cards" }, cards) : null,
    names.length
      ? el("details", { open: !shown.length && names.length <= 12 }, el("summary", {}, heading), el("ul", { class: "notes names" }, names))
      : null,
  );
}

function drawClass(group, k) {
  const sheet = group.sheet && openSheet(group.sheet);
  const cards = group.id.map((_, i) => el("li", {}, card(group, i, sheet, sizeOf(group, i))));
  const about =
    group.id.length < group.count
      ? `${count(group.id.length)} of ${counted(group.count, "image")}`
      : counted(group.count, "image");
  return el(
    "div",
    { class: "class-group", id: `class-${k}` },
    el("h3", {}, el("span", { class: "name", title: group.name }, group.name), el("span", { class: "muted" }, ` ${about}`)),
    el("ul", { class: "thumbs cards" }, cards),
  );
}

function drawPage() {
  byId("title").textContent = facts.title;
  byId("about").textContent = facts.about;
  byId("made-by").textContent = `Made by Resight ${facts.resight}.`;
  const [head, ...rows] = facts.counts;
  const columns = head.map((name, k) => ({ name, numeric: k > 0, cell: (row) => el("span", { class: k ? null : "name", title: row[k] }, row[k]) }));
  byId("counts").replaceChildren(table(rows, columns, { caption: "Images per class" }));
  byId("facts-list").replaceChildren(
    ...facts.facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
  );
  const notes = facts.notes.map((note) => el("li", {}, note));
  byId("why").replaceChildren(
    ...(notes.length ? [el("ul", { class: "notes muted" }, notes)] : []),
    ...facts.why.map((line) => el("p", {}, line)),
    el("div", { class: "repeat" }, el("p", {}, "Next"), command(facts.next, "next")),
  );
  const sheet = facts.named.sheet && openSheet(facts.named.sheet);
  byId("found").replaceChildren(
    ...(facts.findings.length
      ? facts.findings.map((finding) => drawFinding(finding, sheet))
      : [el("p", { class: "fine" }, "Nothing odd was found.")]),
  );
  const more = facts.hidden_classes ? ` Of ${count(facts.hidden_classes)} more classes none is shown.` : "";
  byId("classes-about").textContent = `${SQUARES[facts.fit]} Evenly spaced among the training images.${more}`;
  byId("class-list").replaceChildren(...facts.classes.map(drawClass));
  byId("contents").replaceChildren(
    ...[...document.querySelectorAll("main > section")].map((one) =>
      el("a", { href: `#${one.id}` }, one.querySelector("h2").textContent),
    ),
  );
}

drawPage();
