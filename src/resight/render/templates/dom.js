"use strict";
// Elements and number formats for all parts of a page. Data enters the page as text, never as HTML.

/** An element: attributes (`onclick` etc. are listeners, `style` an object), then children. */
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") {
      for (const [key, setting] of Object.entries(value)) node.style.setProperty(key, setting);
    } else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function byId(id) {
  return document.getElementById(id);
}

function known(value) {
  return value !== null && value !== undefined;
}

const FIRST_ROWS = 200;
const numberFormats = new Map(); // creating one takes longer than using it a hundred times

function formatted(value, options) {
  const key = JSON.stringify(options);
  if (!numberFormats.has(key)) numberFormats.set(key, new Intl.NumberFormat("en-GB", options));
  return numberFormats.get(key).format(value);
}

function count(value) {
  return formatted(value, { maximumFractionDigits: 0 });
}

/** `1 image`, `1,935 images`. */
function counted(value, one, many = one + "s") {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** With `digits` decimals, rounded as Python does it for the terminal: the exact binary value, and a
 * tie, such as 65.625, to the even digit. `toFixed` rounds ties up; `Intl` rounds the shortest
 * decimal that reads as the value. */
function rounded(value, digits) {
  const text = value.toFixed(digits);
  const last = Number(text.at(-1));
  const tie = Math.abs(value * 2 ** (digits + 1)) % 2 === 1; // no other half is binary
  return tie && last % 2 === 1 ? text.slice(0, -1) + (last - 1) : text;
}

/** A fraction in per cent, with at most `digits` decimals (exactly `digits` if `fixed`). */
function percent(fraction, digits = 1, fixed = false) {
  const text = rounded(100 * fraction, digits);
  return `${fixed ? text : Number(text)}\u00a0%`;
}

/** Up to `digits` significant digits; in exponent notation where there would be many zeros. */
function number(value, digits = 4) {
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-4 || size >= 1e9)) {
    return String(Number(value.toPrecision(digits)).toExponential()).replace("e+", "e");
  }
  return size >= 1000 ? count(value) : formatted(value, { maximumSignificantDigits: digits });
}

/** A number of operations or parameters in thousands, millions and so on: `6.57 M`. */
function short(value) {
  for (const [unit, name] of [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (value >= unit) return `${number(value / unit, 3)}\u00a0${name}`;
  }
  return number(value, 3);
}

function duration(seconds) {
  if (seconds < 10) return `${number(seconds, 2)}\u00a0s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole}\u00a0s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}\u00a0min ${String(whole % 60).padStart(2, "0")}\u00a0s`;
  return `${Math.floor(minutes / 60)}\u00a0h ${String(minutes % 60).padStart(2, "0")}\u00a0min`;
}

/** A command with a button to copy it. */
function command(text, key) {
  const said = el("span", { class: "copied", role: "status" });
  const button = el(
    "button",
    {
      type: "button",
      class: "copy",
      "data-key": `copy-${key}`,
      "aria-label": `Copy: ${text}`,
      onclick: async () => {
        said.textContent = (await copied(text)) ? "Copied" : "Please copy by hand";
        setTimeout(() => {
          said.textContent = "";
        }, 2000);
      },
    },
    "Copy",
  );
  return el("div", { class: "command" }, el("code", {}, text), said, button);
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // browsers offer no clipboard to pages from another machine without TLS: the old way
    const area = el("textarea", { class: "hidden-text", "aria-hidden": "true" });
    area.value = text;
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus({ preventScroll: true });
    return done;
  }
}

/**
 * A table in its own scrolling box. `columns`: {name, numeric?, cell(row), sort?(row)}; columns with
 * `sort` have a button in their heading. `order`: {column, falling}, kept by the caller. A long
 * table shows its first rows, and a button for the others.
 */
function table(rows, columns, { caption, order = null, key = caption } = {}) {
  const body = el("tbody");
  let limit = FIRST_ROWS;
  const heads = columns.map((column, i) => {
    const inside =
      column.sort && order
        ? el(
            "button",
            {
              type: "button",
              class: "sort",
              "data-key": `${key}-sort-${i}`,
              onclick: () => sortBy(i),
            },
            column.name,
          )
        : column.name;
    return el("th", { scope: "col", class: column.numeric ? "numeric" : null }, inside);
  });
  const fill = () => {
    const sorted = [...rows];
    if (order) {
      const value = columns[order.column].sort;
      sorted.sort((a, b) => compare(value(a), value(b)) * (order.falling ? -1 : 1));
      heads.forEach((head, i) => {
        if (i === order.column)
          head.setAttribute("aria-sort", order.falling ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
    }
    body.replaceChildren(
      ...sorted.slice(0, limit).map((row) =>
        el(
          "tr",
          {},
          columns.map((column, i) =>
            el(
              i === 0 ? "th" : "td",
              { scope: i === 0 ? "row" : null, class: column.numeric ? "numeric" : null },
              column.cell(row),
            ),
          ),
        ),
      ),
    );
  };
  const sortBy = (i) => {
    order.falling = order.column === i ? !order.falling : Boolean(columns[i].numeric);
    order.column = i;
    fill();
  };
  fill();
  const head = el("thead", {}, el("tr", {}, heads));
  const all =
    rows.length > limit
      ? el(
          "button",
          {
            type: "button",
            class: "link",
            "data-key": `${key}-all`,
            onclick: (event) => {
              limit = rows.length;
              fill();
              event.currentTarget.remove();
            },
          },
          `Show all ${count(rows.length)}`,
        )
      : null;
  const box = el(
    "div",
    {
      class: "scroll boxed",
      tabindex: "0",
      role: "region",
      "aria-label": caption,
      "data-key": `${key}-box`,
    },
    el("table", {}, el("caption", { class: "hidden-text" }, caption), head, body),
  );
  return el("div", {}, box, all);
}

function compare(a, b) {
  if (typeof a === "string") return a.localeCompare(b, "en", { numeric: true });
  return (a ?? -1) - (b ?? -1);
}

/** A bar for a share in 0 … 1, and its value as text; screen readers read only the text. */
function meter(share, text, kind = "") {
  return el(
    "span",
    { class: "meter" },
    el(
      "span",
      { class: "meter-track", "aria-hidden": "true" },
      el("span", {
        class: `meter-fill ${kind}`,
        style: { width: `${Math.min(100, 100 * (share ?? 0))}%` },
      }),
    ),
    el("span", { class: "meter-value" }, text),
  );
}
