// Charts: drawn when they come into view, in the page's colours and at its width.
const lratCharts = (() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("chart-data").textContent);
  const places = [...document.querySelectorAll(".plot")];
  const seen = new Set();
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const touch = window.matchMedia("(pointer: coarse)");
  const SMALL = 480;
  const LEGEND_ROW = 21;

  const merged = (base, more) => {
    const result = { ...base };
    for (const [key, value] of Object.entries(more)) {
      const both = value && typeof value === "object" && !Array.isArray(value) && result[key];
      result[key] = both ? merged(result[key], value) : value;
    }
    return result;
  };

  // How many rows a legend below the chart takes: Plotly gives every entry the widest one's width.
  const legendRows = (figure, width) => {
    const names = figure.data.filter((trace) => trace.showlegend !== false && trace.name);
    if (names.length < 2) return 0;
    const widest = Math.max(...names.map((trace) => trace.name.length)) * 7 + 52;
    return Math.ceil(names.length / Math.max(1, Math.floor(width / widest)));
  };

  const layoutOf = (figure, width) => {
    const [ink, muted, line, surface] = ["--ink", "--muted", "--line", "--surface"].map(
      lratTheme.colour,
    );
    const rows = legendRows(figure, width);
    const small = width < SMALL;
    const bottom = 50 + (rows ? 10 + rows * LEGEND_ROW : 0);
    const top = (figure.layout.margin && figure.layout.margin.t) || 24;
    const height = figure.height + rows * LEGEND_ROW;
    const axis = {
      gridcolor: line,
      linecolor: line,
      zerolinecolor: line,
      tickfont: { color: muted, size: small ? 11 : 12 },
      title: { font: { color: ink, size: 13 }, standoff: 8 },
      automargin: true,
      zeroline: false,
      fixedrange: touch.matches,
    };
    const base = {
      font: { family: getComputedStyle(document.body).fontFamily, color: ink, size: 13 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 50, r: 12, t: top, b: bottom },
      xaxis: axis,
      yaxis: axis,
      hoverlabel: { bgcolor: surface, bordercolor: line, font: { color: ink }, namelength: -1 },
      showlegend: rows > 0,
      legend: {
        orientation: "h",
        x: 0,
        xanchor: "left",
        y: -58 / (height - top - bottom),
        yanchor: "top",
        font: { size: small ? 11 : 12 },
      },
      dragmode: touch.matches ? false : "zoom",
      width,
      height,
    };
    const layout = merged(base, figure.layout);
    layout.annotations = (layout.annotations || []).map((each) => ({
      ...each,
      font: { ...each.font, color: muted },
    }));
    return layout;
  };

  const draw = (place, width) => {
    const figure = figures[Number(place.dataset.chart)];
    const layout = layoutOf(figure, width);
    place.style.height = `${layout.height}px`;
    Plotly.react(place, structuredClone(figure.data), layout, {
      displaylogo: false,
      displayModeBar: false,
      doubleClick: still.matches ? "reset" : "reset+autosize",
    });
    place.dataset.drawn = "yes";
  };

  const refresh = (place) => {
    const width = Math.floor(place.clientWidth);
    if (width > 0) draw(place, width);
  };
  const refreshSeen = () => seen.forEach(refresh);

  const start = () => {
    if (!places.length || !window.Plotly) return;
    const state = new Map();
    const watcher = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          if (!isIntersecting) {
            seen.delete(target);
            continue;
          }
          seen.add(target);
          const now = `${target.clientWidth} ${lratTheme.colour("--ink")}`;
          if (state.get(target) !== now) refresh(target);
          state.set(target, now);
        }
      },
      { rootMargin: "400px 0px" },
    );
    places.forEach((place) => watcher.observe(place));
    lratTheme.onChange(refreshSeen);
    let waiting = 0;
    window.addEventListener("resize", () => {
      clearTimeout(waiting);
      waiting = setTimeout(refreshSeen, 120);
    });
  };

  // Names come escaped for Plotly, which reads tags; in a table they are plain text.
  const plain = (name) =>
    name.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

  const written = (value, ends) => {
    const text = value === null || value === undefined ? "–" : String(value);
    return ends ? `${text} [${ends[0]}, ${ends[1]}]` : text;
  };

  const fill = (details) => {
    if (details.dataset.filled) return;
    details.dataset.filled = "yes";
    const { data, layout } = figures[Number(details.dataset.numbers)];
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    const titles = ["", layout.xaxis.title.text, layout.yaxis.title ? layout.yaxis.title.text : "run"];
    for (const title of titles) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = plain(title) || "line";
      head.append(cell);
    }
    const body = table.createTBody();
    for (const trace of data.filter((each) => each.meta !== "band")) {
      trace.x.forEach((x, k) => {
        const row = body.insertRow();
        const ends = trace.customdata && trace.customdata[k];
        const across = typeof trace.y[k] === "string";
        const cells = [plain(trace.name), across ? written(x, ends) : String(x)];
        cells.push(across ? plain(trace.y[k]) : written(trace.y[k], ends));
        for (const text of cells) row.insertCell().textContent = text;
      });
    }
    const box = document.createElement("div");
    box.className = "scroll tall";
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    const about = document.querySelector(`.plot[data-chart="${details.dataset.numbers}"]`);
    box.setAttribute("aria-label", `Numbers: ${about.getAttribute("aria-label")}`);
    box.append(table);
    details.append(box);
  };

  document.querySelectorAll("details.numbers").forEach((details) => {
    details.addEventListener("toggle", () => details.open && fill(details));
  });
  document.addEventListener("DOMContentLoaded", start);

  return {
    // All charts that have a place, seen or not: for a sheet of paper.
    drawAll: () => window.Plotly && places.forEach(refresh),
    refresh: refreshSeen,
  };
})();
