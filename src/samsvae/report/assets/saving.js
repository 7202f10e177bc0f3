// Tables are saved as CSV, charts as SVG (maps as PNG), all of them by the page alone.
function save(name, content) {
  const address = URL.createObjectURL(content);
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function fileName(title) {
  const words = title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return words.slice(0, 80) || "samsvae";
}

function csv(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return `${rows.map((row) => row.map(cell).join(",")).join("\n")}\n`;
}

function csvButton(title, rows) {
  const act = () => save(`${fileName(title)}.csv`, new Blob([csv(rows())], { type: "text/csv" }));
  return make("button", { type: "button", class: "save", "aria-label": `Save as CSV: ${title}`, onclick: act }, "Save as CSV");
}

function textsOf(table) {
  const text = (cell) => cell.innerText.replace(/\s+/g, " ").trim().replace(/^−(?=[\d.])/, "-").replace(/^–$/, "");
  return [...table.rows].map((row) => [...row.cells].map(text));
}

// What a table's region says of itself: that there is more to the right, and how to keep it.
function equip(region, rows = null) {
  const table = region.querySelector("table");
  const more = make("p", { class: "small more", hidden: true }, "There are more columns to the right: scroll the table sideways.");
  region.before(more);
  const watch = new ResizeObserver(() => {
    more.hidden = region.scrollWidth <= region.clientWidth + 1;
  });
  watch.observe(region);
  watch.observe(table);
  region.after(csvButton(region.getAttribute("aria-label"), rows || (() => textsOf(table))));
}

const STYLES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight"];

function chartFile(svg) {
  const copy = svg.cloneNode(true);
  const [from, to] = [svg, copy].map((one) => [one, ...one.querySelectorAll("*")]);
  from.forEach((one, i) => {
    const style = getComputedStyle(one);
    to[i].setAttribute("style", STYLES.map((name) => `${name}: ${style.getPropertyValue(name)}`).join("; "));
    to[i].removeAttribute("class");
  });
  copy.setAttribute("xmlns", SVG);
  copy.prepend(draw("rect", { width: "100%", height: "100%", fill: colour("paper") }));
  return new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
}

// A button after a chart that saves what is drawn when it is pressed.
function chartButton(place) {
  const titled = () => place.querySelector("[aria-label]");
  const act = () => {
    const [one, name] = [titled(), fileName(titled().getAttribute("aria-label"))];
    if (one instanceof SVGElement) save(`${name}.svg`, chartFile(one));
    else one.toBlob((content) => save(`${name}.png`, content));
  };
  const kind = titled() instanceof SVGElement ? "SVG" : "PNG";
  return make("button", { type: "button", class: "save", "aria-label": `Save as ${kind}: ${titled().getAttribute("aria-label")}`, onclick: act }, `Save as ${kind}`);
}

document.querySelectorAll(".scroll[role=region]").forEach((region) => equip(region));
