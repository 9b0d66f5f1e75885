"use strict";
// Line and bar charts. They redraw when their width changes; their values can be read with the
// mouse, by touch and with the arrow keys.

const CHART_COLOURS = 7; // --series-1 … --series-7 in style.css
const DASHES = ["", "7 4", "2 3", "9 3 2 3", "12 4", "4 2", "1 4"];
const MAX_MARKERS = 40; // a line with more points has no markers
let chartCount = 0;

/**
 * Lines over x. `series`: {name, x, y, color?, dash?, faint?}, a null in y is a gap; `marks`:
 * {x, name, strong?}, vertical lines. Options: xLabel, yLabel, xLog, xFormat, yFormat, yMin, yMax,
 * height, label (in words, what the chart shows).
 */
function lineChart(container, options) {
  const given = {
    xLabel: "",
    yLabel: "",
    xLog: false,
    xFormat: plainNumber,
    yFormat: plainNumber,
    ...options,
  };
  const { xLog, xLabel, xFormat, yFormat } = given;
  const lines = given.series.map((one, index) => chartLine(one, index, xLog));
  const xs = [...new Set(lines.flatMap((one) => one.points.map(([x]) => x)))].sort((a, b) => a - b);
  if (!xs.length) {
    container.replaceChildren();
    return;
  }
  const marks = (given.marks ?? []).filter((mark) => !xLog || mark.x > 0).sort((a, b) => a.x - b.x);
  const xRange = chartSpan([...xs, ...marks.map((mark) => mark.x)], xLog);
  const yRange = chartRange(
    lines.flatMap((one) => one.points.map(([, y]) => y)),
    given,
  );
  const readings = chartReadings(lines, xs, xLog, xRange);
  const height = (given.height ?? 240) + 14 * marks.length; // room for their names
  const wholeX = xs.every(Number.isInteger);
  const legend = lines.length > 1 ? chartLegend(lines) : null;
  mountChart(container, given.label ?? lineLabel(lines, marks, given), legend, height, (width) => {
    const rows = markRows(marks, width, xRange, xLog);
    const above = marks.length ? 14 * (Math.max(...rows) + 1) : 0;
    const frame = chartFrame(width, { ...given, height, xRange, yRange, wholeX, above });
    drawMarks(frame, marks, rows, width);
    drawLines(frame, lines);
    const stops = readings.map(({ x, at }) => ({
      px: frame.x(x),
      py: Math.max(frame.top, Math.min(...at.map(({ y }) => frame.y(y)))),
      lines: [`${xLabel} ${xFormat(x)}`, ...at.map(({ name, y }) => `${name} ${yFormat(y)}`)],
    }));
    return { ...frame, stops };
  });
}

/** A series ready to draw: its look, its points, and its stretches between gaps (`runs`). */
function chartLine(one, index, xLog) {
  const runs = [[]];
  one.x.forEach((x, i) => {
    const y = one.y[i];
    if (y === null || y === undefined || (xLog && x <= 0)) runs.push([]);
    else runs.at(-1).push([x, y]);
  });
  const points = runs.flat();
  return {
    ...one,
    index,
    points,
    runs,
    colour: one.color ?? `var(--series-${(index % CHART_COLOURS) + 1})`,
    dash: one.dash ?? DASHES[index % DASHES.length],
    marker: points.length <= MAX_MARKERS,
  };
}

/** The readings at each x: the point of each line at or very close to it. */
function chartReadings(lines, xs, xLog, xRange) {
  const scale = xLog ? Math.log10 : (value) => value;
  const near = (scale(xRange[1]) - scale(xRange[0])) / 200;
  const cursors = lines.map(() => 0); // xs are ascending, so one pass over each line is enough
  const sorted = lines.map((one) => [...one.points].sort((a, b) => a[0] - b[0]));
  return xs.map((x) => {
    const at = [];
    lines.forEach((one, k) => {
      const points = sorted[k];
      const away = (i) => Math.abs(scale(points[i][0]) - scale(x));
      while (cursors[k] + 1 < points.length && away(cursors[k] + 1) <= away(cursors[k]))
        cursors[k]++;
      if (points.length && away(cursors[k]) <= near)
        at.push({ name: one.name, y: points[cursors[k]][1] });
    });
    return { x, at };
  });
}

/** From the lowest to the highest; a single value gets some room around it. */
function chartSpan(values, xLog) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (low < high) return [low, high];
  return xLog ? [low / 2, low * 2] : [low - 1, low + 1];
}

function lineLabel(lines, marks, { xLabel, yLabel, xFormat, yFormat }) {
  const said = lines
    .filter((one) => one.points.length)
    .map((one) => {
      const ys = one.points.map(([, y]) => y);
      const ends = `from ${yFormat(ys[0])} to ${yFormat(ys.at(-1))}`;
      return `${one.name}: ${ends}, lowest ${yFormat(Math.min(...ys))}, highest ${yFormat(Math.max(...ys))}.`;
    });
  return [
    `${yLabel} by ${xLabel}.`,
    ...said,
    ...marks.map((mark) => `${mark.name} at ${xFormat(mark.x)}.`),
  ].join(" ");
}

function drawLines(frame, lines) {
  const clip = `chart-clip-${++chartCount}`;
  const [width, height] = [frame.right - frame.left + 10, frame.bottom - frame.top + 10];
  const box = svg("rect", { x: frame.left - 5, y: frame.top - 5, width, height });
  const inside = svg("g", { "clip-path": `url(#${clip})` });
  for (const one of lines) {
    const place = ([x, y]) => `${frame.x(x).toFixed(1)} ${frame.y(y).toFixed(1)}`;
    const path = one.runs
      .filter((run) => run.length)
      .map((run) => `M${run.map(place).join("L")}`)
      .join("");
    const line = svg("path", {
      class: one.faint ? "chart-line faint" : "chart-line",
      d: path,
      "stroke-dasharray": one.dash,
    });
    line.style.stroke = one.colour;
    inside.append(line);
    if (one.marker)
      inside.append(
        ...one.points.map(([x, y]) => chartMarker(one.index, frame.x(x), frame.y(y), one.colour)),
      );
  }
  frame.node.append(svg("clipPath", { id: clip }, box), inside);
}

function drawMarks(frame, marks, rows, width) {
  marks.forEach((mark, k) => {
    const x = frame.x(mark.x);
    const y = 22 + 14 * rows[k];
    const flipped = x + mark.name.length * 6.6 + 6 > width;
    const strong = mark.strong ? " strong" : "";
    const name = svg("text", {
      class: `chart-mark-name${strong}`,
      x: x + (flipped ? -4 : 4),
      y: y + 4,
      "text-anchor": flipped ? "end" : "start",
    });
    name.textContent = mark.name;
    frame.node.append(
      svg("line", { class: `chart-mark${strong}`, x1: x, x2: x, y1: y - 6, y2: frame.bottom }),
      name,
    );
  });
}

/** The row for the name of each vertical line, so that names do not overlap. */
function markRows(marks, width, xRange, xLog) {
  const scale = xLog ? Math.log10 : (value) => value;
  const ends = []; // where the free part of each row begins
  return marks.map((mark) => {
    let from =
      ((scale(mark.x) - scale(xRange[0])) / (scale(xRange[1]) - scale(xRange[0]))) * (width - 60) +
      46;
    const long = mark.name.length * 6.6 + 10;
    if (from + long > width) from -= long;
    let row = ends.findIndex((end) => end <= from);
    if (row < 0) row = ends.length;
    ends[row] = from + long;
    return row;
  });
}

/**
 * Stacked bars over a numeric axis. `bars`: {low, high, parts: [number], lines: [string], point?: {x, y}};
 * `areas`: {name, area} for each part, `area` a class of style.css. `diagonal` draws y = x.
 */
function barChart(
  container,
  {
    bars,
    areas,
    xLabel,
    yLabel,
    xFormat = plainNumber,
    yFormat = plainNumber,
    yMax,
    diagonal = false,
    extra = [],
    height = 240,
    label,
  },
) {
  const xRange = [
    Math.min(...bars.map((bar) => bar.low)),
    Math.max(...bars.map((bar) => bar.high)),
  ];
  const top =
    yMax ?? (Math.max(...bars.map((bar) => bar.parts.reduce((a, b) => a + b, 0))) * 1.06 || 1);
  mountChart(container, label, chartLegend([...areas, ...extra]), height, (width) => {
    const frame = chartFrame(width, {
      height,
      xRange,
      yRange: [0, top],
      xLabel,
      yLabel,
      xFormat,
      yFormat,
    });
    const stops = bars.map((bar) => {
      let from = 0;
      bar.parts.forEach((part, k) => {
        const y = frame.y(from + part);
        const size = {
          x: frame.x(bar.low) + 1,
          y,
          width: Math.max(1, frame.x(bar.high) - frame.x(bar.low) - 2),
          height: Math.max(0, frame.y(from) - y),
        };
        frame.node.append(svg("rect", { class: areas[k].area, ...size }));
        from += part;
      });
      return {
        px: (frame.x(bar.low) + frame.x(bar.high)) / 2,
        py: frame.y(from),
        lines: bar.lines,
      };
    });
    if (diagonal) {
      const to = Math.min(xRange[1], top);
      frame.node.append(
        svg("line", {
          class: "chart-diagonal",
          x1: frame.x(xRange[0]),
          y1: frame.y(xRange[0]),
          x2: frame.x(to),
          y2: frame.y(to),
        }),
      );
    }
    for (const { point } of bars) {
      if (point)
        frame.node.append(chartMarker(3, frame.x(point.x), frame.y(point.y), "var(--ink)"));
    }
    return { ...frame, stops };
  });
}
