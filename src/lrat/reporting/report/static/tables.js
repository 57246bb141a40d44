// Tables: sorting by the buttons of the head, filtering by text, method and data.
(() => {
  "use strict";
  const said = document.getElementById("said");
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort === undefined ? cell.textContent.trim() : cell.dataset.sort;
  };
  const numeric = (texts) => texts.some(Boolean) && texts.every((text) => !Number.isNaN(Number(text)));

  const sort = (table, head, words) => {
    const column = head.cellIndex;
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const numbers = numeric(rows.map((row) => value(row, column)));
    const before = head.getAttribute("aria-sort");
    // Numbers start with the largest, words with the first; the next press turns them around.
    const first = numbers ? "descending" : "ascending";
    const other = numbers ? "ascending" : "descending";
    const order = before === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    rows.sort((a, b) => {
      const [left, right] = [value(a, column), value(b, column)];
      // What is unknown is last in either order.
      if (!left || !right) return Number(!left) - Number(!right);
      return sign * (numbers ? Number(left) - Number(right) : collator.compare(left, right));
    });
    body.append(...rows);
    for (const cell of table.tHead.rows[0].cells) {
      if (cell.hasAttribute("aria-sort")) cell.setAttribute("aria-sort", "none");
    }
    head.setAttribute("aria-sort", order);
    said.textContent = `Sorted by ${words}, ${order}`;
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const button of table.querySelectorAll("thead button")) {
      button.addEventListener("click", () =>
        sort(table, button.closest("th"), button.textContent.trim()),
      );
    }
  }

  const [text, method, data, count] = ["text", "method", "data", "count"].map((name) =>
    document.getElementById(`filter-${name}`),
  );
  if (!text) return;
  const rows = [...document.querySelectorAll("tr[data-text]")];

  const filter = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const about = row.dataset.text.toLowerCase();
      row.hidden =
        (method.value !== "" && row.dataset.method !== method.value) ||
        (data.value !== "" && row.dataset.data !== data.value) ||
        !words.every((word) => about.includes(word));
      shown += Number(!row.hidden);
    }
    for (const group of document.querySelectorAll("[data-group]")) {
      group.hidden = ![...group.querySelectorAll("tr[data-text]")].some((row) => !row.hidden);
    }
    count.textContent = `${shown} of ${rows.length} shown`;
  };
  [text, method, data].forEach((control) => control.addEventListener("input", filter));
  filter();
})();
