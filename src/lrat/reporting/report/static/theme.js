// Light or dark: what the system prefers until the reader chooses; the choice is remembered.
const lratTheme = (() => {
  "use strict";
  const root = document.documentElement;
  const key = "lrat-report-theme";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const listeners = [];

  root.classList.remove("no-script");
  // Browsers may deny storage to files: the choice then lasts as long as the page.
  const remembered = () => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  };
  const remember = (theme) => {
    try {
      localStorage.setItem(key, theme);
    } catch {
      return;
    }
  };
  const current = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const tell = () => listeners.forEach((listener) => listener());
  const choose = (theme) => {
    root.dataset.theme = theme;
    remember(theme);
    tell();
  };

  const before = remembered();
  if (before === "dark" || before === "light") root.dataset.theme = before;
  dark.addEventListener("change", tell);

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(current() === "dark"));
    button.addEventListener("click", () => choose(current() === "dark" ? "light" : "dark"));
    listeners.push(show);
    show();
  });

  // The colour that a variable of the style sheet stands for now, as rgb(...).
  const colour = (name) => {
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };

  return {
    colour,
    onChange: (listener) => listeners.push(listener),
    // Paper is white and narrow, whatever the screen is.
    print: (on) => root.classList.toggle("printing", on),
  };
})();
