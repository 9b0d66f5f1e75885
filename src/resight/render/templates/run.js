"use strict";
// The page of a run. render() draws all of it from the facts, and may be called again.

const drawn = new Map(); // section id → the part of the facts that it shows

/** Draws a section if its part of the facts has changed; null hides the section. */
function section(id, part, draw) {
  const host = byId(id);
  host.hidden = part === null;
  const body = host.querySelector(".body");
  const old = drawn.get(id) ?? null;
  drawn.set(id, part);
  if (part === null) {
    body.replaceChildren();
    return;
  }
  if (old !== null && JSON.stringify(old) === JSON.stringify(part)) return;
  const open = [...body.querySelectorAll("details[open]")].map((one) => one.dataset.key);
  draw(body, part);
  for (const one of body.querySelectorAll("details")) one.open = open.includes(one.dataset.key);
}

function filled(list) {
  return known(list) && list.length ? list : null;
}

function render(facts) {
  keepingPlace(() => {
    document.title = `${facts.title} · Resight`;
    byId("title").textContent = facts.title;
    byId("run").textContent = facts.run;
    byId("made-by").textContent = `Made by Resight ${facts.resight}.`;
    const { classes } = facts;
    const hasGallery = known(facts.gallery);
    const pairs = filled(facts.most_confused);
    const tooMany = classes.length > 100 && known(facts.headline?.accuracy);
    const wantsMatrix = known(facts.confusion) || pairs || tooMany;
    const duplicates =
      filled(facts.duplicates) ??
      (facts.duplicates_total?.exact + facts.duplicates_total?.near > 0 ? [] : null);
    section("live", facts.live ?? null, drawLive);
    section("headline", facts.headline ?? null, drawHeadline);
    const judged = facts.diagnosed || filled(facts.findings);
    section(
      "findings",
      judged ? { findings: facts.findings ?? [], diagnosed: facts.diagnosed } : null,
      drawFindings,
    );
    section(
      "confusion",
      wantsMatrix
        ? { classes, confusion: facts.confusion ?? null, most_confused: pairs, gallery: hasGallery }
        : null,
      drawConfusion,
    );
    renderGallery(facts);
    section("curves", filled(facts.metrics), drawCurves);
    section("lr-test", filled(facts.lr_test?.lrs) && facts.lr_test, drawLrTest);
    section("schedule", facts.schedule ?? null, drawSchedule);
    section("per-class", filled(facts.per_class), drawPerClass);
    section("calibration", facts.calibration ?? null, drawCalibration);
    section(
      "augmented",
      known(facts.augmented) ? { classes, augmented: facts.augmented } : null,
      drawAugmented,
    );
    section(
      "duplicates",
      duplicates && { classes, duplicates, total: facts.duplicates_total ?? null },
      drawDuplicates,
    );
    section("summary", facts.summary ?? null, drawSummary);
    section("notes", filled(facts.notes), drawNotes);
    drawContents();
  });
}

/** Keeps what the reader is looking at in its place on the screen, and keeps the focus. */
function keepingPlace(change) {
  const key = document.activeElement?.dataset.key;
  const seen =
    scrollY > 0
      ? [...document.querySelectorAll("main section:not([hidden])")].find(
          (one) => one.getBoundingClientRect().bottom > 60,
        )
      : null;
  const top = seen?.getBoundingClientRect().top;
  change();
  if (seen && !seen.hidden) {
    const moved = seen.getBoundingClientRect().top - top;
    if (Math.abs(moved) >= 1) scrollBy({ top: moved, behavior: "instant" });
  }
  if (key && document.activeElement?.dataset.key !== key) {
    [...document.querySelectorAll("[data-key]")]
      .find((one) => one.dataset.key === key)
      ?.focus({ preventScroll: true });
  }
}

function drawContents() {
  const sections = [...document.querySelectorAll("main section:not([hidden])")].filter((one) =>
    one.querySelector("h2"),
  );
  const wanted = sections.map((one) => one.id).join(" ");
  const contents = byId("contents");
  if (contents.dataset.shown === wanted) return;
  contents.dataset.shown = wanted;
  contents.replaceChildren(
    ...sections.map((one) =>
      el(
        "a",
        { href: `#${one.id}`, "data-key": `to-${one.id}` },
        one.querySelector("h2").textContent,
      ),
    ),
  );
}

function drawHeadline(body, result) {
  const tile = (name, value, note) =>
    value === null
      ? null
      : el("div", {}, el("dt", {}, name), el("dd", {}, value, note ? el("small", {}, note) : null));
  const shown = (value, format = String) => (known(value) ? format(value) : null);
  const weights = known(result.weights) ? `, weights of the ${result.weights}` : "";
  const measured = known(result.accuracy)
    ? el(
        "div",
        { class: "result" },
        el("p", { class: "accuracy" }, percent(result.accuracy, 2, true)),
        el(
          "p",
          {},
          `accuracy on ${known(result.images) ? counted(result.images, `${result.split ?? ""} image`.trim()) : result.split}${weights}`,
        ),
        known(result.low) && known(result.high)
          ? el(
              "p",
              { class: "muted" },
              `95\u00a0% interval ${rounded(100 * result.low, 2)} to ${percent(result.high, 2, true)}`,
            )
          : null,
        known(result.beside) ? el("p", { class: "muted" }, result.beside) : null,
      )
    : null;
  const tiles = [
    tile(
      "Training time",
      shown(result.train_seconds, duration),
      known(result.wall_seconds)
        ? `${duration(result.wall_seconds)} from ${result.resumed ? "the resume" : "start"} to result`
        : null,
    ),
    tile(
      "Images/s",
      shown(result.images_per_second, (value) => number(value, 4)),
    ),
    tile("Device", shown(result.device), shown(result.precision)),
    tile(
      "Recipe",
      shown(result.recipe),
      known(result.epochs) ? counted(result.epochs, "epoch") : null,
    ),
    tile("Data", shown(result.data), known(result.seed) ? `seed ${result.seed}` : null),
    tile("Parameters", shown(result.parameters, count)),
    tile(
      "Train accuracy",
      shown(result.train_accuracy, (value) => percent(value, 2, true)),
    ),
    tile(known(result.split) ? `Loss on ${result.split}` : "Loss", shown(result.loss, number)),
  ];
  body.replaceChildren(
    el(
      "div",
      { class: "headline-row" },
      measured,
      el("dl", { class: "tiles" }, tiles.filter(Boolean)),
    ),
    known(result.command)
      ? el(
          "div",
          { class: "repeat" },
          el("p", { class: "muted" }, "Repeat this run with"),
          command(result.command, "repeat"),
        )
      : "",
  );
}

function drawFindings(body, { findings, diagnosed }) {
  const parts = [];
  const problems = findings.filter((one) => one.severity === "problem");
  if (diagnosed && !problems.length)
    parts.push(
      el("p", { class: "fine" }, el("span", { "aria-hidden": "true" }, "✓ "), "No problem found."),
    );
  const sorted = [...problems, ...findings.filter((one) => one.severity !== "problem")];
  if (sorted.length) {
    parts.push(
      el(
        "ul",
        { class: "findings" },
        sorted.map((one) => {
          const problem = one.severity === "problem";
          return el(
            "li",
            { class: problem ? "finding problem" : "finding note", "data-name": one.name },
            el(
              "p",
              { class: "severity" },
              el("span", { "aria-hidden": "true" }, problem ? "▲ " : "● "),
              problem ? "Problem" : "Note",
            ),
            el("h3", {}, one.title),
            el(
              "dl",
              { class: "pairs" },
              known(one.evidence) ? pair("Evidence", one.evidence) : [],
              known(one.threshold) ? pair("Threshold", one.threshold) : [],
              known(one.advice) ? pair("Advice", one.advice) : [],
            ),
            known(one.command) ? command(one.command, `finding-${one.name}`) : null,
          );
        }),
      ),
    );
  }
  body.replaceChildren(...parts);
}

function drawLive(body, live) {
  const state =
    { training: "Training", finished: "Finished", stopped: "Stopped" }[live.state] ?? live.state;
  const running = live.state === "training";
  const epochs = live.epochs ?? 1;
  const reached =
    live.state === "finished"
      ? epochs
      : Math.max(0, (live.epoch ?? 1) - 1) + (live.total ? (live.done ?? 0) / live.total : 0);
  const texts = [
    known(live.epoch) && known(live.epochs) ? `epoch ${live.epoch} of ${live.epochs}` : null,
    running && known(live.done) && known(live.total)
      ? `step ${count(live.done)} of ${count(live.total)}`
      : null,
    known(live.loss) ? `loss ${number(live.loss, 3)}` : null,
    known(live.accuracy) ? `accuracy ${percent(live.accuracy)}` : null,
    known(live.lr) ? `LR ${number(live.lr, 3)}` : null,
    known(live.images_per_second) ? `${number(live.images_per_second, 3)} images/s` : null,
    running && known(live.seconds_left) ? `${duration(live.seconds_left)} left` : null,
  ];
  body.replaceChildren(
    el(
      "p",
      { class: "live-line" },
      el("strong", {}, state),
      texts.filter(Boolean).map((text) => el("span", {}, text)),
      el("span", { id: "connection", role: "status" }),
    ),
    el("progress", { max: epochs, value: reached, "aria-label": "Training progress" }),
  );
}

const POLL_MS = 2000;

/** While the run trains and a server is there, the page polls the facts and redraws what changed. */
async function follow(last) {
  let facts = null;
  let said = "";
  try {
    const answer = await fetch("facts.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    const text = await answer.text();
    if (text !== last) facts = JSON.parse(text);
    last = text;
  } catch {
    said = "connection lost, retrying";
  }
  if (facts) {
    render(facts);
    if (!following(facts)) return;
  }
  const connection = byId("connection");
  if (connection && connection.textContent !== said) connection.textContent = said;
  setTimeout(follow, POLL_MS, last);
}

function following(facts) {
  return (
    known(facts.live) && facts.live.state === "training" && location.protocol.startsWith("http")
  );
}

wireGallery();
wireDetail();
const firstFacts = JSON.parse(byId("facts").textContent);
render(firstFacts);
if (following(firstFacts)) setTimeout(follow, POLL_MS, "");
