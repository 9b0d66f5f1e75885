"use strict";
// The parts of the charts in charts.js: axes, legends, a cursor. SVG, without a library; colours are
// CSS variables, so that a chart follows the theme.

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function html(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

/** Round numbers that cover low … high in about `about` steps. */
function linearTicks(low, high, about) {
  const rough = (high - low || 1) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
    ticks.push(Number((k * step).toPrecision(12)));
  }
  return ticks;
}

/** Powers of ten, with 2 and 5 between them where the range is short. */
function logTicks(low, high) {
  const factors = Math.log10(high / low) < 2 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const factor of factors) {
      const tick = Number((factor * 10 ** e).toPrecision(3));
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks;
}

function plainNumber(value) {
  return Math.abs(value) >= 1000 || (value !== 0 && Math.abs(value) < 1e-3)
    ? String(Number(value.toPrecision(3)))
    : String(Number(value.toPrecision(4)));
}

/** A tooltip by the pointer, its first line in bold. `hideTip` removes it. */
function showTip(clientX, clientY, lines) {
  const tip = document.getElementById("tip");
  tip.replaceChildren(...lines.map((line, i) => html("div", i === 0 ? "tip-first" : "", line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = clientX + 14 + width > innerWidth ? clientX - 14 - width : clientX + 14;
  const top = clientY - height - 12 < 0 ? clientY + 18 : clientY - height - 12;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${top}px`;
}

function hideTip() {
  document.getElementById("tip").hidden = true;
}

/**
 * Puts a chart into `container`. `draw(width)` returns {node, stops}: the SVG and the places for the
 * cursor, each {px, py, lines}. `label` describes the chart in words. It is drawn once the page has
 * been laid out, so that many charts cost one layout.
 */
function mountChart(container, label, legend, height, draw) {
  const plot = html("div", "chart-plot");
  const said = html("div", "hidden-text");
  plot.style.height = `${height}px`;
  plot.tabIndex = 0;
  plot.setAttribute("role", "group");
  plot.setAttribute("aria-roledescription", "chart");
  plot.setAttribute("aria-label", `${label} The left and right arrow keys read its values.`);
  if (container.id) plot.dataset.key = `${container.id}-plot`;
  said.setAttribute("aria-live", "polite");
  container.replaceChildren(...(legend ? [legend] : []), plot, said);
  let stops = [];
  let at = -1;
  let drawnWidth = 0;
  const cursor = svg("line", { class: "chart-cursor", visibility: "hidden" });
  const redraw = () => {
    const width = Math.floor(plot.clientWidth);
    if (width < 40 || width === drawnWidth) return;
    drawnWidth = width;
    const drawing = draw(width);
    stops = drawing.stops;
    cursor.setAttribute("y1", drawing.top);
    cursor.setAttribute("y2", drawing.bottom);
    drawing.node.append(cursor);
    plot.replaceChildren(drawing.node);
  };
  const leave = () => {
    cursor.setAttribute("visibility", "hidden");
    hideTip();
  };
  const stand = (index) => {
    at = index;
    const stop = stops[index];
    const box = plot.getBoundingClientRect();
    cursor.setAttribute("x1", stop.px);
    cursor.setAttribute("x2", stop.px);
    cursor.setAttribute("visibility", "visible");
    showTip(box.left + stop.px, box.top + stop.py, stop.lines);
  };
  plot.addEventListener("pointermove", (event) => {
    if (!stops.length) return;
    const px = event.clientX - plot.getBoundingClientRect().left;
    const away = stops.map((stop) => Math.abs(stop.px - px));
    stand(away.indexOf(Math.min(...away)));
  });
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const to = {
      ArrowLeft: Math.max(0, at - 1),
      ArrowRight: Math.min(stops.length - 1, at + 1),
      Home: 0,
      End: stops.length - 1,
    }[event.key];
    if (to === undefined || !stops.length) return;
    event.preventDefault();
    stand(to);
    said.textContent = stops[to].lines.join(", ");
  });
  new ResizeObserver(redraw).observe(plot);
}

/** Axes and grid: {node, x(value), y(value), top, bottom, left, right}. */
function chartFrame(
  width,
  {
    height,
    xRange,
    yRange,
    xLog = false,
    wholeX = false,
    xLabel,
    yLabel,
    xFormat,
    yFormat,
    above = 0,
  },
) {
  const yTicks = linearTicks(yRange[0], yRange[1], 5);
  const yTexts = yTicks.map(yFormat);
  const left = 12 + 7 * Math.max(...yTexts.map((text) => text.length), 2);
  const right = width - 14;
  const top = 22 + above;
  const bottom = height - 38;
  const scale = xLog ? Math.log10 : (value) => value;
  const [low, high] = xRange.map(scale);
  const x = (value) => left + ((scale(value) - low) / (high - low || 1)) * (right - left);
  const y = (value) =>
    bottom - ((value - yRange[0]) / (yRange[1] - yRange[0] || 1)) * (bottom - top);
  const node = svg("svg", {
    class: "chart",
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    "aria-hidden": "true",
  });
  const text = (content, attributes) => {
    const item = svg("text", attributes);
    item.textContent = content;
    node.append(item);
  };
  yTicks.forEach((tick, i) => {
    node.append(
      svg("line", { class: "chart-grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
    );
    text(yTexts[i], { class: "chart-tick", x: left - 7, y: y(tick) + 4, "text-anchor": "end" });
  });
  let free = -Infinity; // where the next label of the x axis may start
  const xTicks = xLog ? logTicks(...xRange) : linearTicks(...xRange, Math.max(2, width / 75));
  for (const tick of wholeX ? xTicks.filter(Number.isInteger) : xTicks) {
    const label = xFormat(tick);
    const half = label.length * 3.6 + 3;
    node.append(
      svg("line", { class: "chart-axis", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 4 }),
    );
    if (x(tick) - half < free) continue;
    free = x(tick) + half;
    text(label, { class: "chart-tick", x: x(tick), y: bottom + 17, "text-anchor": "middle" });
  }
  node.append(svg("line", { class: "chart-axis", x1: left, x2: right, y1: bottom, y2: bottom }));
  text(yLabel, { class: "chart-label", x: 2, y: 11 });
  text(xLabel, {
    class: "chart-label",
    x: (left + right) / 2,
    y: height - 4,
    "text-anchor": "middle",
  });
  return { node, x, y, top, bottom, left, right };
}

function chartMarker(index, x, y, colour) {
  const shapes = [
    () => svg("circle", { cx: x, cy: y, r: 3.2 }),
    () => svg("rect", { x: x - 3, y: y - 3, width: 6, height: 6 }),
    () => svg("path", { d: `M${x} ${y - 4}l4 7h-8z` }),
    () => svg("path", { d: `M${x} ${y - 4.4}l4.4 4.4l-4.4 4.4l-4.4 -4.4z` }),
  ];
  const node = shapes[index % shapes.length]();
  node.style.fill = colour;
  return node;
}

/** Names with a sample of each line or area. `items`: {name, colour, dash, index, area}. */
function chartLegend(items) {
  const list = html("ul", "legend");
  for (const item of items) {
    const sample = svg("svg", { width: 30, height: 12, "aria-hidden": "true" });
    if (item.area) {
      const box = svg("rect", { class: item.area, x: 4, y: 0, width: 20, height: 12 });
      sample.append(box);
    } else {
      const line = svg("line", {
        class: item.faint ? "chart-line faint" : "chart-line",
        x1: 1,
        x2: 29,
        y1: 6,
        y2: 6,
        "stroke-dasharray": item.dash,
      });
      line.style.stroke = item.colour;
      if (item.dash !== null) sample.append(line);
      if (item.marker) sample.append(chartMarker(item.index, 15, 6, item.colour));
    }
    const entry = html("li", "");
    entry.append(sample, html("span", "", item.name));
    list.append(entry);
  }
  return list;
}

function chartRange(values, { yMin, yMax }) {
  const low = yMin ?? Math.min(...values);
  const high = yMax ?? Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [yMin ?? Math.max(low - room, low >= 0 ? 0 : -Infinity), yMax ?? high + room];
}
