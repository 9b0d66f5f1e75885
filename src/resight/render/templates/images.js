"use strict";
// Pictures from a sprite sheet, with Grad-CAM maps as overlays.

const RAMP_STOPS = [
  // inferno: its lightness rises evenly, so it can be read without colour
  [0, 0, 4],
  [22, 11, 57],
  [66, 10, 104],
  [106, 23, 110],
  [147, 38, 103],
  [188, 55, 84],
  [221, 81, 58],
  [243, 120, 25],
  [252, 165, 10],
  [246, 215, 70],
  [252, 255, 164],
];
const RAMP = Array.from({ length: 256 }, (_, value) => {
  const at = (value / 255) * (RAMP_STOPS.length - 1);
  const below = Math.min(Math.floor(at), RAMP_STOPS.length - 2);
  return RAMP_STOPS[below].map((c, k) =>
    Math.round(c + (RAMP_STOPS[below + 1][k] - c) * (at - below)),
  );
});

const RAMP_PIXELS = Uint32Array.from(RAMP, ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r);
const SMOOTH_PX = 64; // a map is interpolated to about this many pixels; the browser does the rest

/** A sheet to draw from: `picture(i, label)` is a canvas that fills once the sheet is decoded, or
    photo i if there is one. */
function openSheet(sheet, photos = []) {
  const image = new Image();
  image.src = sheet.src;
  const decoded = image.decode();
  const side = sheet.cell_px;
  return {
    decoded,
    picture(i, label) {
      if (photos[i]) return el("img", { class: "photo", src: photos[i], alt: label });
      const canvas = el("canvas", {
        class: side <= 128 ? "pixels enlarged" : "pixels",
        width: side,
        height: side,
        role: "img",
        "aria-label": label,
      });
      const [row, column] = [Math.floor(i / sheet.columns), i % sheet.columns];
      decoded.then(() => {
        canvas
          .getContext("2d")
          .drawImage(image, column * side, row * side, side, side, 0, 0, side, side);
      });
      return canvas;
    },
  };
}

/** The maps of a gallery, decoded when one is first needed. */
function openMaps(maps) {
  const bytes = {};
  const size = maps.height * maps.width;
  return {
    empty: (kind, i) => maps[`${kind}_empty`][i],
    /** Map i for the "predicted" or the "true" class, smooth and coloured. */
    overlay(kind, i) {
      bytes[kind] ??= Uint8Array.from(atob(maps[kind]), (character) => character.charCodeAt(0));
      const cells = bytes[kind].subarray(i * size, (i + 1) * size);
      const half = Math.floor(SMOOTH_PX / 2 / Math.max(maps.height, maps.width));
      const times = 2 * half + 1; // odd, so that a cell's exact value appears at its centre
      const canvas = el("canvas", {
        class: "map",
        width: maps.width * times,
        height: maps.height * times,
        "aria-hidden": "true",
      });
      paint(canvas, enlarged(cells, maps.height, maps.width, times));
      return canvas;
    },
  };
}

/** `cells` (height × width) enlarged `times` times, bilinearly: values are mixed, not colours. */
function enlarged(cells, height, width, times) {
  const result = new Uint8Array(height * width * times * times);
  const between = (size) =>
    Array.from({ length: size * times }, (_, i) => {
      const at = Math.min(size - 1, Math.max(0, (i + 0.5) / times - 0.5));
      const low = Math.floor(at);
      return [low, Math.min(size - 1, low + 1), at - low];
    });
  const columns = between(width);
  between(height).forEach(([top, bottom, down], y) => {
    columns.forEach(([left, right, along], x) => {
      const above = cells[top * width + left] * (1 - along) + cells[top * width + right] * along;
      const below =
        cells[bottom * width + left] * (1 - along) + cells[bottom * width + right] * along;
      result[y * columns.length + x] = Math.round(above * (1 - down) + below * down);
    });
  });
  return result;
}

/** Paints values 0 … 255 on a canvas, in the colours of the ramp. */
function paint(canvas, values) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const words = new Uint32Array(pixels.data.buffer);
  values.forEach((value, i) => {
    words[i] = RAMP_PIXELS[value];
  });
  context.putImageData(pixels, 0, 0);
}

function paintRampKeys() {
  for (const canvas of document.querySelectorAll("canvas.ramp")) {
    canvas.width = 64;
    canvas.height = 1;
    paint(
      canvas,
      Uint8Array.from({ length: 64 }, (_, i) => Math.round((i * 255) / 63)),
    );
  }
}
