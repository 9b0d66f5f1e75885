"use strict";
// The confusion matrix, as a table of counts or, for many classes, a heat map; the worst pairs.

const MAX_CLASSES_AS_TABLE = 20;
const confusionView = { cells: null, mark: null, row: 0, column: 0 };

function drawConfusion(body, { classes, confusion, most_confused: pairs, gallery: hasGallery }) {
  Object.assign(confusionView, { cells: null, mark: null });
  const parts = [];
  if (known(confusion)) {
    const size = classes.length;
    confusionView.row = Math.min(confusionView.row, size - 1);
    confusionView.column = Math.min(confusionView.column, size - 1);
    const draw = size <= MAX_CLASSES_AS_TABLE ? matrixTable : matrixMap;
    parts.push(
      el(
        "div",
        { class: "matrix" },
        el(
          "p",
          { class: "muted" },
          hasGallery
            ? "Rows are true classes, columns are predictions. Select a cell to see its images."
            : "Rows are true classes, columns are predictions.",
        ),
        draw(classes, confusion),
      ),
    );
  } else {
    parts.push(
      el(
        "p",
        { class: "muted" },
        `No matrix: ${counted(classes.length, "class", "classes")} would be too many to read.`,
      ),
    );
  }
  if (pairs?.length)
    parts.push(
      el("div", { class: "confused" }, el("h3", {}, "Most confused"), pairList(classes, pairs)),
    );
  body.replaceChildren(el("div", { class: "confusion-row" }, parts));
}

function pairList(classes, pairs) {
  const most = Math.max(...pairs.map((pair) => pair.share));
  return el(
    "ol",
    { class: "pairs-list" },
    pairs.map((pair, k) => {
      const text = `${classes[pair.true]} → ${classes[pair.predicted]}`;
      return el(
        "li",
        {},
        el(
          "button",
          {
            type: "button",
            class: "pair",
            title: text,
            "data-key": `pair-${k}`,
            "aria-label": `${classes[pair.true]} predicted as ${classes[pair.predicted]}: ${count(pair.count)} images, ${percent(pair.share)} of the class`,
            onclick: (event) =>
              showInGallery(pair.true, pair.predicted, { focus: event.detail === 0 }),
          },
          el("span", { class: "pair-name" }, text),
          el("span", { class: "pair-count" }, count(pair.count)),
          meter(pair.share / most, percent(pair.share, 1, true), "wrong"),
        ),
      );
    }),
  );
}

function cellLines(classes, confusion, t, p) {
  const total = confusion[t].reduce((a, b) => a + b, 0);
  const value = confusion[t][p];
  return [
    t === p ? `${classes[t]}, correct` : `${classes[t]} predicted as ${classes[p]}`,
    total
      ? `${count(value)} of ${counted(total, "image")}, ${percent(value / total)}`
      : "no images of this class",
  ];
}

/** A cell's colour strength, 0 … 1, by its share of the row; a square root lifts rare mistakes. */
function strength(value, total, right) {
  if (!value) return 0;
  const share = value / total;
  return right ? share : Math.min(1, 2.2 * Math.sqrt(share));
}

function matrixTable(classes, confusion) {
  const cells = [];
  const rows = confusion.map((counts, t) => {
    const total = counts.reduce((a, b) => a + b, 0);
    const row = counts.map((value, p) => {
      const lines = cellLines(classes, confusion, t, p);
      const cell = el(
        "td",
        {
          role: "gridcell",
          tabindex: "-1",
          class: t === p ? "cell right" : "cell",
          "data-true": t,
          "data-predicted": p,
          "data-key": `cell-${t}-${p}`,
          "aria-label": lines.join(", "),
          title: lines.join("\n"),
          style: { "--strength": `${(100 * strength(value, total, t === p)).toFixed(1)}%` },
        },
        value ? count(value) : el("span", { class: "zero" }, "·"),
      );
      cells.push(cell);
      return cell;
    });
    return el(
      "tr",
      { role: "row" },
      el("th", { scope: "row", role: "rowheader", title: classes[t] }, classes[t]),
      row,
    );
  });
  const head = el(
    "tr",
    { role: "row" },
    el("td", { class: "corner", role: "gridcell" }, "true ╲ predicted"),
    classes.map((name) =>
      el("th", { scope: "col", role: "columnheader", title: name }, el("span", {}, name)),
    ),
  );
  const size = classes.length;
  confusionView.cells = cells;
  const stand = (row, column, focus) => {
    cells[confusionView.row * size + confusionView.column].tabIndex = -1;
    Object.assign(confusionView, { row, column });
    const cell = cells[row * size + column];
    cell.tabIndex = 0;
    if (focus) cell.focus();
  };
  stand(confusionView.row, confusionView.column, false);
  confusionView.mark = (t, p) => {
    for (const cell of cells) cell.removeAttribute("aria-selected");
    if (t !== null) cells[t * size + p].setAttribute("aria-selected", "true");
  };
  const grid = el(
    "table",
    {
      class: "confusion-table",
      role: "grid",
      "aria-label": "Confusion matrix",
      onclick: (event) => {
        const cell = event.target.closest("td.cell");
        if (!cell) return;
        stand(Number(cell.dataset.true), Number(cell.dataset.predicted), false);
        showInGallery(confusionView.row, confusionView.column);
      },
      onkeydown: (event) => moveInMatrix(event, size, (row, column) => stand(row, column, true)),
    },
    el("thead", {}, head),
    el("tbody", {}, rows),
  );
  return el("div", { class: "scroll" }, grid);
}

function moveInMatrix(event, size, stand) {
  const { row, column } = confusionView;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    showInGallery(row, column, { focus: true });
    return;
  }
  const to = {
    ArrowUp: [row - 1, column],
    ArrowDown: [row + 1, column],
    ArrowLeft: [row, column - 1],
    ArrowRight: [row, column + 1],
    Home: [row, 0],
    End: [row, size - 1],
    PageUp: [0, column],
    PageDown: [size - 1, column],
  }[event.key];
  if (!to) return;
  event.preventDefault();
  stand(...to.map((value) => Math.max(0, Math.min(size - 1, value))));
}

/** Cells of a few pixels on a canvas, read by hovering or with a cursor and the arrow keys. */
function matrixMap(classes, confusion) {
  const size = classes.length;
  const canvas = el("canvas", { width: size, height: size, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const box = el(
    "div",
    {
      class: "heat",
      tabindex: "0",
      role: "application",
      "aria-roledescription": "confusion matrix",
      "data-key": "heat",
      "aria-label": `Confusion matrix of ${size} classes. Arrow keys move between cells, Enter shows a cell's images.`,
      style: { "--classes": size },
    },
    canvas,
  );
  const cursor = el("span", { class: "heat-cursor", hidden: true, "aria-hidden": "true" });
  const chosen = el("span", { class: "heat-cursor chosen", hidden: true, "aria-hidden": "true" });
  const said = el("p", { class: "hidden-text", "aria-live": "polite" });
  box.append(chosen, cursor);
  confusion.forEach((counts, t) => {
    const total = counts.reduce((a, b) => a + b, 0);
    counts.forEach((value, p) => {
      if (!value) return;
      context.fillStyle = t === p ? "rgb(0 114 178)" : "rgb(230 120 0)";
      context.globalAlpha = strength(value, total, t === p);
      context.fillRect(p, t, 1, 1);
    });
  });
  const put = (mark, row, column) => {
    mark.hidden = false;
    mark.style.left = `${(100 * column) / size}%`;
    mark.style.top = `${(100 * row) / size}%`;
  };
  const stand = (row, column) => {
    Object.assign(confusionView, { row, column });
    put(cursor, row, column);
    const area = box.getBoundingClientRect();
    const lines = cellLines(classes, confusion, row, column);
    showTip(
      area.left + ((column + 1) / size) * area.width,
      area.top + (row / size) * area.height,
      lines,
    );
    return lines;
  };
  const leave = () => {
    cursor.hidden = true;
    hideTip();
  };
  const under = (event) => {
    const area = canvas.getBoundingClientRect();
    return [(event.clientY - area.top) / area.height, (event.clientX - area.left) / area.width].map(
      (part) => Math.max(0, Math.min(size - 1, Math.floor(part * size))),
    );
  };
  box.addEventListener("pointermove", (event) => stand(...under(event)));
  box.addEventListener("pointerleave", leave);
  box.addEventListener("blur", leave);
  box.addEventListener("click", (event) => {
    stand(...under(event));
    showInGallery(confusionView.row, confusionView.column);
  });
  box.addEventListener("keydown", (event) =>
    moveInMatrix(event, size, (row, column) => {
      said.textContent = stand(row, column).join(", ");
    }),
  );
  confusionView.mark = (t, p) => {
    if (t === null) chosen.hidden = true;
    else put(chosen, t, p);
  };
  return el("div", { class: "scroll" }, el("p", { class: "heat-axis" }, "predicted →"), box, said);
}

/** Marks the cell whose images the gallery shows, if they are those of a single cell. */
function markConfusionCell(chosen) {
  const one = chosen.true !== "" && chosen.predicted !== "";
  confusionView.mark?.(one ? Number(chosen.true) : null, one ? Number(chosen.predicted) : null);
}
