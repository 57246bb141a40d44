// What remains: switches between tables or charts, copying, printing, links into closed parts.
(() => {
  "use strict";
  const said = document.getElementById("said");

  for (const select of document.querySelectorAll("select[data-switch]")) {
    const options = document.querySelectorAll(`#${select.dataset.switch} > [data-option]`);
    const choose = () =>
      options.forEach((option) => {
        option.hidden = option.dataset.option !== select.value;
      });
    select.addEventListener("input", choose);
    // A browser keeps the choice when the page is loaded again.
    choose();
  }

  // Files may be denied the clipboard: the text is then selected, ready to be copied.
  const copy = async (code) => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      return "Copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(code);
      const selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      return document.execCommand("copy") ? "Copied" : "Selected";
    }
  };
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const done = await copy(button.parentElement.querySelector("code"));
      button.textContent = done;
      said.textContent = done;
      setTimeout(() => {
        button.textContent = "Copy";
      }, 1600);
    });
  }

  // A link to something inside closed details opens them.
  const reveal = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let place = target; place; place = place.parentElement) {
      if (place.tagName === "DETAILS") place.open = true;
    }
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", reveal);
  reveal();

  // A table that is wider than the paper is made smaller: paper cannot be scrolled.
  const fit = () => {
    for (const table of document.querySelectorAll(".scroll > table")) {
      const room = table.parentElement.clientWidth;
      if (room && table.offsetWidth > room) table.style.zoom = String(room / table.offsetWidth);
    }
  };

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open]):not(.numbers)")];
    opened.forEach((details) => {
      details.open = true;
    });
    lratTheme.print(true);
    lratCharts.drawAll();
    fit();
  });
  window.addEventListener("afterprint", () => {
    opened.forEach((details) => {
      details.open = false;
    });
    lratTheme.print(false);
    for (const table of document.querySelectorAll(".scroll > table")) table.style.zoom = "";
    lratCharts.refresh();
  });
  document.getElementById("print").addEventListener("click", () => window.print());

  const links = new Map(
    [...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]),
  );
  const visible = new Set();
  const strip = document.querySelector(".contents");
  // On narrow screens the contents are a strip: the current section's name is kept in view.
  const center = (link) => {
    strip.scrollLeft = link.offsetLeft - (strip.clientWidth - link.offsetWidth) / 2;
  };
  const mark = () => {
    const first = [...links.keys()].find((id) => visible.has(id));
    links.forEach((link, id) => {
      if (id !== first) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        center(link);
      }
    });
  };
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) visible.add(target.id);
        else visible.delete(target.id);
      }
      mark();
    },
    { rootMargin: "-15% 0px -60% 0px" },
  );
  document.querySelectorAll("main > section").forEach((section) => watcher.observe(section));
})();
