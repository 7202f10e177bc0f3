// A map of perturbations and mechanisms, and perturbations in the plane of their shifts.
function maskMap() {
  const host = byId("mask-map");
  const whole = data.mask;
  if (!host || !whole.dimensions) return () => {};
  const among = byId("mask-rows");
  const all = [...whole.perturbations.keys()];
  const used = all.filter((r) => whole.probability[r].some((p) => p > 0.5));
  let mask = whole;
  let rows = all.length;
  const columns = whole.dimensions.length;
  const largest = mask.shift.flat().reduce((most, v) => Math.max(most, Math.abs(v || 0)), 1e-9);
  const canvas = make("canvas", { class: "map", role: "img", tabindex: 0, "aria-describedby": "mask-status" });
  const status = byId("mask-status");
  const mode = byId("mask-shows");
  const scale = byId("mask-scale");
  host.append(canvas);
  const key = byId("mask-key");
  let at = null;
  let size = null;

  const again = keepDrawn(host, (width) => {
    const longest = [...mask.perturbations].reduce((most, name) => Math.max(most, name.length), 0);
    const close = scale.value === "close";
    const named = close || rows <= 60;
    const left = named ? Math.min(14 + 7.4 * longest, width * 0.34) : 10;
    const cellWidth = Math.max(close ? 28 : 0, Math.min(48, (width - left - 4) / columns));
    const cellHeight = named ? 16 : Math.max(1, Math.min(6, 700 / rows));
    size = { left, top: 24, cellWidth, cellHeight };
    const [w, h] = [Math.ceil(left + cellWidth * columns + 4), Math.ceil(24 + cellHeight * rows + 4)];
    canvas.setAttribute("aria-label", `Shifts of ${rows} perturbations in ${columns} mechanisms. Arrow keys move, Enter opens the perturbation.`);
    // A canvas can be some 16,000 pixels high.
    const ratio = Math.min(devicePixelRatio || 1, 16000 / Math.max(w, h));
    [canvas.width, canvas.height] = [w * ratio, h * ratio];
    Object.assign(canvas.style, { width: `${w}px`, height: `${h}px`, maxWidth: close ? "none" : "100%" });
    key.replaceChildren(...(mode.value === "shift"
      ? [["up", `shifted up (full colour: ${shown(largest, 1)})`], ["down", "shifted down"]]
      : [["first", "probability (full colour: 1)"]]).map(([mark, text]) => make("li", {}, make("span", { class: `mark ${mark}`, "aria-hidden": "true" }), text)));
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.clearRect(0, 0, w, h);
    const [up, down, mark, text] = [colour("up"), colour("down"), colour("first"), colour("text")];
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    for (let r = 0; r < rows; r += 1) {
      const y = size.top + r * cellHeight;
      pen.fillStyle = text;
      if (named) {
        pen.textAlign = "right";
        pen.fillText(short(mask.perturbations[r], Math.floor((left - 10) / 7)), left - 6, y + cellHeight / 2);
      }
      for (let c = 0; c < columns; c += 1) {
        const [p, s] = [mask.probability[r][c] || 0, mask.shift[r][c] || 0];
        const strength = mode.value === "shift" ? Math.abs(s) / largest : p;
        pen.globalAlpha = strength < 0.005 ? 0 : 0.12 + 0.88 * strength;
        pen.fillStyle = mode.value === "shift" ? (s > 0 ? up : down) : mark;
        const gap = cellHeight > 4 ? 1 : 0;
        pen.fillRect(left + c * cellWidth, y, cellWidth - Math.min(1, gap), cellHeight - gap);
      }
      pen.globalAlpha = 1;
    }
    pen.fillStyle = text;
    pen.textAlign = "center";
    for (let c = 0; c < columns; c += 1) {
      if (cellWidth >= 24 || c % Math.ceil(24 / cellWidth) === 0) pen.fillText(mask.dimensions[c], left + (c + 0.5) * cellWidth, 12);
    }
    pen.strokeStyle = colour("line");
    pen.strokeRect(left - 0.5, size.top - 0.5, columns * cellWidth + 1, rows * cellHeight + 1);
    if (at) {
      pen.strokeStyle = text;
      pen.lineWidth = 2;
      pen.strokeRect(left + at.c * cellWidth, size.top + at.r * cellHeight, cellWidth, Math.max(cellHeight, 2));
    }
  });

  const tip = make("div", { class: "tip", "aria-hidden": "true", hidden: true });
  host.append(tip);

  function point(r, c, event = null) {
    at = { r: Math.max(0, Math.min(rows - 1, r)), c: Math.max(0, Math.min(columns - 1, c)) };
    const [p, s] = [mask.probability[at.r][at.c], mask.shift[at.r][at.c]];
    status.textContent = `${mask.perturbations[at.r]} in ${mask.dimensions[at.c]}: probability ${shown(p)}, shift ${signed(s)}`;
    tip.textContent = status.textContent;
    tip.hidden = event === null;
    if (event) {
      const right = event.clientX > innerWidth / 2;
      Object.assign(tip.style, { top: `${event.clientY + 16}px`, left: right ? "auto" : `${event.clientX + 12}px`, right: right ? `${innerWidth - event.clientX + 12}px` : "auto" });
    }
    again();
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const c = Math.floor((event.clientX - box.left - size.left) / size.cellWidth);
    const r = Math.floor((event.clientY - box.top - size.top) / size.cellHeight);
    return r >= 0 && r < rows && c < columns ? { r, c: Math.max(0, c) } : null;
  }

  // Into sight, where the map is larger than its frame.
  function reveal() {
    const [x, y] = [size.left + at.c * size.cellWidth, size.top + at.r * size.cellHeight];
    const into = (from, room, v, length) => (v < from || v + length > from + room ? v - room / 2 : from);
    host.scrollTop = into(host.scrollTop, host.clientHeight, y, size.cellHeight);
    if (x + size.cellWidth > host.scrollLeft + host.clientWidth) host.scrollLeft = x - host.clientWidth / 2;
    else if (x < host.scrollLeft + size.left) host.scrollLeft = 0;
  }

  canvas.addEventListener("pointermove", (event) => {
    const cell = under(event);
    if (cell && (!at || cell.r !== at.r || cell.c !== at.c || tip.hidden)) point(cell.r, cell.c, event);
    else if (!cell) tip.hidden = true;
  });
  canvas.addEventListener("pointerleave", () => {
    tip.hidden = true;
  });
  canvas.addEventListener("click", (event) => {
    const cell = under(event);
    if (cell) {
      point(cell.r, cell.c);
      choose(mask.perturbations[cell.r]);
    }
  });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Enter" && at) choose(mask.perturbations[at.r]);
    if (!(event.key in moves)) return;
    event.preventDefault();
    if (at) point(at.r + moves[event.key][0], at.c + moves[event.key][1]);
    else point(0, 0);
    reveal();
  });
  mode.addEventListener("change", again);
  scale.addEventListener("change", again);
  among.addEventListener("change", () => {
    const kept = among.value === "used" ? used : all;
    mask = {
      dimensions: whole.dimensions,
      perturbations: kept.map((r) => whole.perturbations[r]),
      probability: kept.map((r) => whole.probability[r]),
      shift: kept.map((r) => whole.shift[r]),
    };
    rows = kept.length;
    at = null;
    again();
  });

  return (name) => {
    const r = mask.perturbations.indexOf(name);
    if (r < 0) return;
    const size_ = (c) => Math.abs(mask.shift[r][c] || 0);
    scale.value = "close";
    again();
    point(r, [...mask.dimensions.keys()].reduce((best, c) => (size_(c) > size_(best) ? c : best), 0));
    reveal();
  };
}

function shiftMap() {
  const host = byId("shift-map");
  const map = data.map;
  if (!host || !map.name) return () => {};
  const axis = (i) => `principal component ${i + 1} (${(100 * map.share[i]).toFixed(0)} % of the shifts)`;
  return scatter(host, {
    points: map.name.map((name, i) => ({ name, x: map.x[i], y: map.y[i], weight: Math.hypot(map.x[i], map.y[i]) })),
    xLabel: axis(0), yLabel: axis(1), label: "Perturbations in the plane of the principal components of their shifts", onpick: choose,
  });
}
const leads = [maskMap(), shiftMap()];
const wanted = byId("mask-find");
if (wanted) {
  const names = data.map.name || data.mask.perturbations || [];
  byId("mask-names").append(...names.map((name) => make("option", { value: name })));
  wanted.addEventListener("change", () => {
    const name = wanted.value;
    tell(name && !names.includes(name) ? `No perturbation in these maps is named ${name}.` : "");
    leads.forEach((lead) => lead(name));
  });
}
document.querySelectorAll("[data-condition]").forEach((node) => {
  const name = node.dataset.condition;
  if (conditionPlace.has(name)) node.replaceChildren(chooser(name));
});
