"use strict";
// The tables and lists below the charts. Each function fills `body` with its part of the facts.

const perClassOrder = { column: 2, falling: false };

function drawPerClass(body, rows) {
  const share = (key) => (row) =>
    known(row[key]) ? meter(row[key], percent(row[key], 1, true), key) : "–";
  const name = (row) => el("span", { class: "name", title: row.class }, row.class);
  body.replaceChildren(
    table(
      rows,
      [
        { name: "Class", cell: name, sort: (row) => row.class },
        {
          name: "Images",
          numeric: true,
          cell: (row) => count(row.support),
          sort: (row) => row.support,
        },
        { name: "Recall", numeric: true, cell: share("recall"), sort: (row) => row.recall },
        {
          name: "Precision",
          numeric: true,
          cell: share("precision"),
          sort: (row) => row.precision,
        },
        { name: "F1", numeric: true, cell: share("f1"), sort: (row) => row.f1 },
      ],
      { caption: "Classes", order: perClassOrder, key: "per-class" },
    ),
    el(
      "p",
      { class: "muted" },
      "Recall: the share of the class's images that are predicted correctly. Precision: the share of the predictions of the class that are correct.",
    ),
  );
}

function drawAugmented(body, { classes, augmented }) {
  const sheet = openSheet(augmented.sheet);
  const share = (value) => percent(value, 0);
  const names = augmented.label.map((label, i) => {
    if (!known(augmented.mixed)) return [classes[label]];
    const mixture = augmented.mixed[i];
    return [
      `${share(mixture.share)} ${classes[label]}`,
      `${share(1 - mixture.share)} ${classes[mixture.other]}`,
    ];
  });
  body.replaceChildren(
    el(
      "p",
      { class: "muted" },
      "What the net was trained on: training images after augmentation.",
    ),
    el(
      "ul",
      { class: "samples" },
      names.map((both, i) =>
        el(
          "li",
          {},
          sheet.picture(i, `An augmented image of ${both.join(", ")}`),
          both.map((name) => el("span", { class: "verdict", title: name }, name)),
        ),
      ),
    ),
  );
}

function drawDuplicates(body, { classes, duplicates, total }) {
  const shown = duplicates.length;
  const all = known(total) ? total.exact + total.near : shown;
  const counts = known(total)
    ? `${counted(total.exact, "exact duplicate")} and ${counted(total.near, "near duplicate")}`
    : counted(shown, "duplicate");
  const name = (label) => el("span", { class: "name", title: classes[label] }, classes[label]);
  const listed = shown < all ? `; ${shown === 1 ? "one is" : `${count(shown)} are`} listed` : "";
  const parts = [el("p", {}, `${counts} of test images among the training images${listed}.`)];
  if (shown) {
    parts.push(
      table(
        duplicates,
        [
          { name: "Test image", cell: (row) => el("span", { class: "mono id" }, row.test) },
          { name: "Training image", cell: (row) => el("span", { class: "mono id" }, row.train) },
          { name: "Kind", cell: (row) => row.kind },
          { name: "Distance", numeric: true, cell: (row) => number(row.distance, 3) },
          {
            name: "Labels",
            cell: (row) =>
              row.test_label === row.train_label
                ? name(row.test_label)
                : el(
                    "span",
                    { class: "flag" },
                    "⚑ ",
                    name(row.test_label),
                    " in test, ",
                    name(row.train_label),
                    " in training",
                  ),
          },
        ],
        { caption: "Duplicates of test images among the training images" },
      ),
    );
  }
  body.replaceChildren(...parts);
}

function drawSummary(body, summary) {
  const shape = (sizes) => sizes.filter((size) => size >= 0).join(" × ") || "–";
  const megabytes = (value) => `${number(value, 3)}\u00a0MB`;
  const fields = known(summary.rows.find((row) => known(row.receptive_field)));
  const totals = [
    ["Parameters", count(summary.total_params)],
    ["Trainable", count(summary.trainable_params)],
    ["Frozen", count(summary.non_trainable_params)],
    ["Multiply-adds per image", short(summary.total_macs)],
    ["Input", megabytes(summary.input_mb)],
    ["Forward and backward", megabytes(summary.forward_backward_mb)],
    ["Weights", megabytes(summary.params_mb)],
    ["Total", megabytes(summary.total_mb)],
  ];
  body.replaceChildren(
    el(
      "dl",
      { class: "inline-pairs" },
      totals.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    ),
    el(
      "details",
      { "data-key": "layers" },
      el("summary", { "data-key": "layers-summary" }, counted(summary.rows.length, "layer")),
      table(
        summary.rows,
        [
          { name: "Layer", cell: (row) => row.label },
          { name: "Name", cell: (row) => el("span", { class: "mono" }, row.name) },
          { name: "Output", numeric: true, cell: (row) => shape(row.output_shape) },
          { name: "Parameters", numeric: true, cell: (row) => count(row.params) },
          {
            name: "Multiply-adds",
            numeric: true,
            cell: (row) => (known(row.macs) ? short(row.macs) : "–"),
          },
          ...(fields
            ? [
                {
                  name: "Receptive field",
                  numeric: true,
                  cell: (row) =>
                    known(row.receptive_field) ? `${count(row.receptive_field)} px` : "–",
                },
              ]
            : []),
        ],
        { caption: "Layers of the model" },
      ),
    ),
  );
}

function drawNotes(body, notes) {
  body.replaceChildren(
    el(
      "ul",
      { class: "notes" },
      notes.map((note) => el("li", {}, note)),
    ),
  );
}
