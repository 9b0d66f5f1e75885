"use strict";
// The theme follows the system until the reader chooses one. Runs before the first paint.

const systemDark = matchMedia("(prefers-color-scheme: dark)");

function storedTheme() {
  try {
    return localStorage.getItem("resight-theme");
  } catch {
    return null; // storage is off: a choice then lasts as long as the page
  }
}

function storeTheme(theme) {
  try {
    localStorage.setItem("resight-theme", theme);
  } catch {
    // as above
  }
}

function applyTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const toggle = document.getElementById("theme-toggle");
  if (toggle) toggle.setAttribute("aria-pressed", String(theme === "dark"));
}

applyTheme(storedTheme() ?? (systemDark.matches ? "dark" : "light"));

systemDark.addEventListener("change", () => {
  if (storedTheme() === null) applyTheme(systemDark.matches ? "dark" : "light");
});

addEventListener("DOMContentLoaded", () => {
  applyTheme(document.documentElement.dataset.theme);
  document.getElementById("theme-toggle")?.addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    storeTheme(theme);
    applyTheme(theme);
  });
});
