"use strict";
// The charts of a training. Each function fills `body` with its part of the facts.

const asPercent = (value) => percent(value);

function chartBox(body, id, heading) {
  const box = el("div", { id, class: "chart-box" });
  body.append(el("div", { class: "chart-column" }, heading ? el("h3", {}, heading) : null, box));
  return box;
}

function drawCurves(body, metrics) {
  const row = el("div", { class: "columns" });
  body.replaceChildren(row);
  const splits = [
    ["train", "train"],
    ["val", "validation"],
    ["test", "test"],
  ];
  const lines = (what) =>
    splits
      .map(([key, name]) => {
        // an epoch that was not evaluated leaves no gap: the line continues at the next one
        const rows = metrics.filter((one) => known(one[`${key}_${what}`]));
        return {
          name,
          x: rows.map((one) => one.epoch),
          y: rows.map((one) => one[`${key}_${what}`]),
        };
      })
      .filter((one) => one.y.length);
  const loss = lines("loss");
  const accuracy = lines("accuracy");
  if (loss.length) {
    lineChart(chartBox(row, "loss-chart", "Loss"), {
      series: loss,
      xLabel: "epoch",
      yLabel: "loss",
    });
  }
  if (accuracy.length) {
    lineChart(chartBox(row, "accuracy-chart", "Accuracy"), {
      series: accuracy,
      xLabel: "epoch",
      yLabel: "accuracy",
      yFormat: asPercent,
    });
  }
  const maybe = (key, name, format) =>
    metrics.some((one) => known(one[key]))
      ? [{ name, numeric: true, cell: (one) => (known(one[key]) ? format(one[key]) : "–") }]
      : [];
  const columns = [
    { name: "Epoch", numeric: true, cell: (one) => count(one.epoch) },
    ...maybe("lr", "LR", (value) => number(value, 3)),
    ...splits.flatMap(([key, name]) => [
      ...maybe(`${key}_loss`, `${name} loss`, number),
      ...maybe(`${key}_accuracy`, `${name} accuracy`, (value) => percent(value, 2, true)),
    ]),
    ...maybe("images_per_second", "images/s", (value) => number(value, 4)),
    ...maybe("train_seconds", "training", duration),
    ...maybe("evaluate_seconds", "evaluation", duration),
  ];
  body.append(
    el(
      "details",
      { "data-key": "epochs" },
      el("summary", { "data-key": "epochs-summary" }, "Numbers by epoch"),
      table(metrics, columns, { caption: "Numbers by epoch" }),
    ),
  );
}

function drawLrTest(body, test) {
  const box = el("div", { id: "lr-chart", class: "chart-box" });
  const start = test.smoothed[0];
  const low = Math.min(...test.smoothed);
  const marks = Object.entries(test.suggestions).map(([name, x]) => ({ name, x }));
  const chosen = known(test.used);
  if (chosen) marks.push({ name: "used", x: test.used, strong: true });
  const said = [];
  if (chosen) said.push(["Used", number(test.used, 3)]);
  for (const [name, x] of Object.entries(test.suggestions))
    said.push([name === test.method ? `${name} (chosen)` : name, number(x, 3)]);
  body.replaceChildren(
    known(test.refused) ? el("p", { class: "flag" }, `⚑ No suggestion: ${test.refused}`) : "",
    box,
    el(
      "dl",
      { class: "inline-pairs" },
      said.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    ),
    known(test.stop) ? el("p", { class: "muted" }, `The test ended: ${test.stop}.`) : "",
  );
  lineChart(box, {
    series: [
      { name: "loss", x: test.lrs, y: test.losses, dash: "", faint: true },
      { name: "smoothed", x: test.lrs, y: test.smoothed, dash: "" },
    ],
    xLog: true,
    xLabel: "learning rate",
    yLabel: "loss",
    marks,
    xFormat: (value) => number(value, 3),
    height: 260,
    // a high loss at the end would flatten the fall, which is what the curve is read for
    yMax: Math.min(Math.max(...test.smoothed), start + 0.35 * (start - low || start)),
  });
}

function drawSchedule(body, schedule) {
  const box = el("div", { id: "schedule-chart", class: "chart-box" });
  body.replaceChildren(el("p", { class: "muted" }, `Shape: ${schedule.shape}`), box);
  lineChart(box, {
    series: [{ name: "LR", x: schedule.epoch, y: schedule.lr }],
    xLabel: "epoch",
    yLabel: "learning rate",
    xFormat: (value) => number(value, 3),
    yFormat: (value) => number(value, 3),
    yMin: 0,
    height: 260,
  });
}

function drawCalibration(body, { bins, ece, temperature, temperature_reason: reason }) {
  const row = el("div", { class: "columns" });
  const scaled = known(temperature)
    ? `A temperature of ${number(temperature.value, 3)}, fitted on ${temperature.split}, changes it to ${percent(temperature.ece_after, 2)}.`
    : known(reason)
      ? `No temperature: ${reason}`
      : "";
  body.replaceChildren(
    el("p", {}, "Expected calibration error ", el("strong", {}, percent(ece, 2)), ". ", scaled),
    row,
  );
  const total = bins.reduce((sum, bin) => sum + bin.count, 0);
  const heading = (bin) => `confidence ${percent(bin.low, 0)} to ${percent(bin.high, 0)}`;
  const filled = bins.filter((bin) => bin.count);
  barChart(chartBox(row, "reliability-chart", "Reliability"), {
    bars: bins.map((bin) => ({
      low: bin.low,
      high: bin.high,
      parts: [bin.accuracy ?? 0],
      point: bin.count ? { x: bin.confidence, y: bin.accuracy } : null,
      lines: bin.count
        ? [
            heading(bin),
            `accuracy ${percent(bin.accuracy)}`,
            `mean confidence ${percent(bin.confidence)}`,
            counted(bin.count, "image"),
          ]
        : [heading(bin), "no images"],
    })),
    areas: [{ name: "accuracy", area: "area-right" }],
    extra: [
      { name: "mean confidence", colour: "var(--ink)", dash: null, marker: true, index: 3 },
      { name: "perfectly calibrated", colour: "var(--ink)", dash: "5 4" },
    ],
    xLabel: "confidence",
    yLabel: "accuracy",
    xFormat: (value) => percent(value, 0),
    yFormat: (value) => percent(value, 0),
    yMax: 1,
    diagonal: true,
    label: `Reliability diagram. ${filled.map((bin) => `${heading(bin)}: accuracy ${percent(bin.accuracy)}.`).join(" ")}`,
  });
  barChart(chartBox(row, "confidence-chart", "Confidence"), {
    bars: bins.map((bin) => ({
      low: bin.low,
      high: bin.high,
      parts: [bin.correct, bin.count - bin.correct],
      lines: [
        heading(bin),
        `${count(bin.correct)} correct`,
        `${count(bin.count - bin.correct)} wrong`,
        `${percent(total ? bin.count / total : 0)} of all images`,
      ],
    })),
    areas: [
      { name: "correct", area: "area-right" },
      { name: "wrong", area: "area-wrong" },
    ],
    xLabel: "confidence",
    yLabel: "images",
    xFormat: (value) => percent(value, 0),
    yFormat: short,
    label: `Histogram of confidence. ${filled.map((bin) => `${heading(bin)}: ${count(bin.correct)} correct, ${count(bin.count - bin.correct)} wrong.`).join(" ")}`,
  });
}
