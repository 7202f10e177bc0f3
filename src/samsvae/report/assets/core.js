// Used by all parts of the page. Names from the data are only ever written as text.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const NARROW = 560; // pixels below which labels get less room

function byId(id) {
  return document.getElementById(id);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") Object.assign(node.style, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  for (const child of children) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function shown(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && Math.abs(value) < 10 ** -digits) return value.toExponential(1).replace("-", "−");
  return value.toFixed(digits).replace("-", "−");
}

function signed(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  return (value > 0 ? "+" : "") + value.toFixed(digits).replace("-", "−");
}

function rate(value) {
  return value !== null && value < 5e-5 ? "< 0.0001" : shown(value, 4);
}

function whole(value) {
  return value.toLocaleString("en");
}

function short(name, most) {
  return name.length > most ? `${name.slice(0, Math.max(1, most - 1))}…` : name;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Names by position.
const geneName = (i) => data.genes[i];
const conditionName = (i) => data.conditions[i].name;
const conditionPlace = new Map(data.conditions.map((one, i) => [one.name, i]));
const UNIT = { lfc: "log2 fold change", log: "log2", normalized: "counts per 10,000", mean: "units of the data" }[data.scale];

// Charts are drawn to fit the width, and again when it changes.
const drawn = [];
function keepDrawn(container, render) {
  let [width, button] = [0, null];
  const again = (force) => {
    if (!force && container.clientWidth === width) return;
    width = container.clientWidth;
    if (width === 0) return;
    render(width);
    if (!button) container.after((button = chartButton(container)));
  };
  drawn.push(again);
  again(true);
  return () => again(true);
}
let waiting = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => drawn.forEach((again) => again(false)));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  drawn.forEach((again) => again(true));
});

// A message where a search or a click finds nothing; it goes away by itself.
let forgotten = 0;
function tell(text) {
  const place = byId("message");
  place.textContent = text;
  place.hidden = !text;
  clearTimeout(forgotten);
  if (text) forgotten = setTimeout(() => tell(""), 8000);
}

// Parts of the page that follow the chosen condition.
const listeners = [];
function choose(name, { scroll = true } = {}) {
  if (!conditionPlace.has(name)) {
    tell(name ? `There are no effects of ${name} in this report.` : "");
    return;
  }
  tell("");
  listeners.forEach((listener) => listener(conditionPlace.get(name)));
  if (scroll) {
    const heading = byId("condition-title");
    heading.scrollIntoView({ block: "start" });
    heading.focus({ preventScroll: true });
  }
}

function chooser(name) {
  if (!conditionPlace.has(name)) return make("span", {}, name);
  return make("button", { type: "button", class: "link", onclick: () => choose(name) }, name);
}

// A table of few rows.
function plainTable(caption, head, rows) {
  const numeric = head.map((_, i) => rows.every((row) => typeof row[i] === "string" && /^[+−–<\d.,e ]*$/.test(row[i])));
  const region = make(
    "div",
    { class: rows.length > 12 ? "scroll tall" : "scroll", tabindex: 0, role: "region", "aria-label": caption },
    make(
      "table",
      {},
      make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...head.map((one, i) => make("th", { scope: "col", class: numeric[i] ? "number" : null }, one)))),
      make(
        "tbody",
        {},
        ...rows.map((row) =>
          make("tr", {}, ...row.map((one, i) =>
            i === 0 ? make("th", { scope: "row" }, one) : make("td", { class: numeric[i] ? "number" : null }, one))),
        ),
      ),
    ),
  );
  const whole = make("div", {}, region);
  equip(region);
  return whole;
}
