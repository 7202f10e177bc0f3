// The table of discoveries: searched, sorted, shown page by page.
function discoveries() {
  const host = byId("discoveries-table");
  if (!host || !data.conditions.length) return;
  const rows = [];
  data.effects.forEach((own, c) => {
    (own.gene || []).forEach((g, i) => {
      rows.push({
        condition: conditionName(c), gene: geneName(g), estimate: own.estimate[i], size: Math.abs(own.estimate[i]), lower: own.lower[i],
        upper: own.upper[i], lfsr: own.lfsr ? own.lfsr[i] : null, q_value: own.q_value ? own.q_value[i] : null,
        model: own.model[i], observed: own.observed[i], n_cells: data.conditions[c].nCells,
        text: `${conditionName(c)}\n${geneName(g)}`.toLowerCase(),
      });
    });
  });
  const columns = [
    ["condition", "condition", null], ["gene", "gene", null], ["estimate", `estimate, ${UNIT}`, (v) => signed(v, 3)],
    ["size", "size", (v) => shown(v, 3)], ["interval", "90 % interval", null], ["lfsr", "lfsr", rate], ["q_value", "q", rate],
    ["model", "model", (v) => signed(v, 3)], ["observed", "observed", (v) => signed(v, 3)], ["n_cells", "cells", (v) => whole(v)],
  ].filter(([name]) => data.hasRates || (name !== "lfsr" && name !== "q_value"));
  const SIZE = 25;
  let sorted = data.hasRates ? { by: "lfsr", down: false } : { by: "size", down: true };
  let matching = rows;
  let start = 0;

  const search = byId("discoveries-search");
  const below = byId("discoveries-rate");
  const count = byId("discoveries-count");
  const body = make("tbody");
  const heads = columns.map(([name, title]) => {
    const sortable = name !== "interval";
    const numeric = name !== "condition" && name !== "gene";
    const inside = sortable
      ? make("button", { type: "button", class: "sort", onclick: () => sortBy(name) }, title)
      : title;
    return make("th", { scope: "col", class: numeric ? "number" : null, "data-column": name }, inside);
  });
  const table = make("table", { id: "discoveries-rows" }, make("caption", { class: "unseen" }, "Effects of conditions on genes"), make("thead", {}, make("tr", {}, ...heads)), body);
  const before = make("button", { type: "button", onclick: () => move(-SIZE) }, "Previous");
  const after = make("button", { type: "button", onclick: () => move(SIZE) }, "Next");
  const region = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Discoveries" }, table);
  host.append(region, make("p", { class: "pager" }, before, " ", after));
  const saved = columns.flatMap(([name]) => (name === "interval" ? ["lower", "upper"] : [name]));
  equip(region, () => [saved, ...matching.map((row) => saved.map((name) => row[name]))]);

  function compare(a, b) {
    const [x, y] = [a[sorted.by], b[sorted.by]];
    if (x === null || y === null) return (x === null) - (y === null); // missing values last, in either order
    const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    if (order === 0) return b.size - a.size;
    return sorted.down ? -order : order;
  }

  function sortBy(name) {
    const words = name === "condition" || name === "gene";
    const rates = name === "lfsr" || name === "q_value";
    sorted = sorted.by === name ? { by: name, down: !sorted.down } : { by: name, down: !words && !rates };
    refresh();
  }

  function refresh() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const most = below && below.value ? Number(below.value) : null;
    matching = rows.filter((row) =>
      words.every((word) => row.text.includes(word)) && (most === null || (row.q_value !== null && row.q_value < most)));
    matching.sort(compare);
    start = 0;
    show();
  }

  function move(by) {
    start = Math.max(0, Math.min(start + by, Math.floor((matching.length - 1) / SIZE) * SIZE));
    show();
  }

  function show() {
    heads.forEach((head, i) => {
      const own = columns[i][0] === sorted.by;
      if (own) head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    body.replaceChildren(...matching.slice(start, start + SIZE).map((row) =>
      make("tr", {}, ...columns.map(([name, , format]) => {
        if (name === "condition") return make("th", { scope: "row" }, chooser(row.condition));
        if (name === "interval") return make("td", { class: "number" }, row.lower === null ? "–" : `${signed(row.lower)} to ${signed(row.upper)}`);
        return make("td", { class: format ? "number" : null }, format ? format(row[name]) : row[name]);
      }))));
    const end = Math.min(start + SIZE, matching.length);
    count.textContent = matching.length ? `Rows ${whole(start + 1)} to ${whole(end)} of ${whole(matching.length)}` : "No row matches";
    before.disabled = start === 0;
    after.disabled = end >= matching.length;
  }

  search.addEventListener("input", refresh);
  if (below) below.addEventListener("change", refresh);
  refresh();
}
discoveries();
