// Small charts as SVG: axes with units, lines, points with intervals.
function ticks(low, high, count = 5) {
  const span = high - low || Math.abs(high) || 1;
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const factor = [1, 2, 2.5, 5, 10].find((one) => one * power >= raw * (1 - 1e-9));
  const step = factor * power;
  const values = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step / 1e6; v += step) {
    values.push(Math.abs(v) < step / 1e6 ? 0 : v);
  }
  return { values, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (factor === 2.5 ? 1 : 0)) };
}

function extent(values, { zero = false, margin = 0.04 } = {}) {
  const present = values.filter((one) => one !== null && one !== undefined);
  if (zero) present.push(0);
  if (!present.length) return [0, 1];
  let low = present.reduce((a, b) => Math.min(a, b));
  let high = present.reduce((a, b) => Math.max(a, b));
  if (low === high) [low, high] = [low - (Math.abs(low) / 20 || 0.5), high + (Math.abs(low) / 20 || 0.5)];
  const room = (high - low) * margin;
  return [low - room, high + room];
}

function tickTexts(range) {
  const t = ticks(range[0], range[1], 5);
  return t.values.map((v) => v.toFixed(t.digits).replace("-", "−"));
}

// A frame with axes; returns functions that place points in it.
function frame(width, height, { x, y, xLabel, yLabel, label, left = null, xAxis = true }) {
  const longest = yLabel ? Math.max(...tickTexts(y).map((one) => one.length)) : 0;
  const box = { left: left === null ? 34 + 7 * longest : left, right: width - 14, top: 12, bottom: height - 42 };
  const px = (v) => box.left + ((v - x[0]) / (x[1] - x[0])) * (box.right - box.left);
  const py = (v) => box.bottom - ((v - y[0]) / (y[1] - y[0])) * (box.bottom - box.top);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  if (xAxis) {
    const t = ticks(x[0], x[1], width < NARROW ? 4 : 7);
    for (const v of t.values) {
      svg.append(
        draw("line", { class: "grid", x1: px(v), x2: px(v), y1: box.top, y2: box.bottom }),
        draw("text", { class: "tick", x: px(v), y: box.bottom + 16, "text-anchor": "middle" }, v.toFixed(t.digits).replace("-", "−")),
      );
    }
  }
  if (yLabel) {
    const t = ticks(y[0], y[1], 5);
    for (const v of t.values) {
      svg.append(
        draw("line", { class: "grid", x1: box.left, x2: box.right, y1: py(v), y2: py(v) }),
        draw("text", { class: "tick", x: box.left - 6, y: py(v) + 4, "text-anchor": "end" }, v.toFixed(t.digits).replace("-", "−")),
      );
    }
    const middle = (box.top + box.bottom) / 2;
    svg.append(draw("text", { class: "axis", transform: `translate(14 ${middle}) rotate(-90)`, "text-anchor": "middle" }, yLabel));
  }
  svg.append(draw("text", { class: "axis", x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, xLabel));
  return { svg, px, py, box };
}

function legend(entries) {
  return make(
    "ul",
    { class: "legend" },
    ...entries.map(([mark, text]) => make("li", {}, make("span", { class: `mark ${mark}`, "aria-hidden": "true" }), text)),
  );
}

function lineChart(container, { series, xLabel, yLabel, label, turns = [], height = 260, most = Infinity }) {
  const place = make("div", { class: "chart" });
  container.append(place);
  if (series.length > 1) container.append(legend(series.map((one) => [`line ${one.mark}`, one.name])));
  keepDrawn(place, (width) => {
    const x = extent(series.flatMap((one) => one.x), { margin: 0.01 });
    const y = extent(series.flatMap((one) => one.y));
    y[1] = Math.min(y[1], most);
    const f = frame(width, height, { x, y, xLabel, yLabel, label });
    for (const turn of turns) {
      f.svg.append(
        draw("line", { class: "turn", x1: f.px(turn.x), x2: f.px(turn.x), y1: f.box.top, y2: f.box.bottom }),
        draw("text", { class: "tick", x: f.px(turn.x) + 4, y: f.box.bottom - 5 }, turn.text),
      );
    }
    for (const one of series) {
      const points = one.x.map((v, i) => [v, one.y[i]]).filter((p) => p[1] !== null);
      if (!points.length) continue;
      const path = points.map(([a, b], i) => `${i ? "L" : "M"}${f.px(a).toFixed(1)} ${f.py(b).toFixed(1)}`).join("");
      f.svg.append(draw("path", { class: `line ${one.mark}`, d: path }));
      for (const [a, b] of points) {
        f.svg.append(draw("circle", { class: `dot ${one.mark}`, cx: f.px(a), cy: f.py(b), r: 2.5 }, draw("title", {}, `${one.name}, step ${a}: ${shown(b)}`)));
      }
    }
    place.replaceChildren(f.svg);
  });
}

// Rows of names, each with marks along one axis, and an interval.
// rows: [{name, marks: [{value, mark, text}], interval: [low, high]}]
function rowChart(place, { rows, xLabel, label, zero = true }) {
  keepDrawn(place, (width) => {
    const values = rows.flatMap((row) => [...row.marks.map((one) => one.value), ...(row.interval || [])]);
    const x = extent(values, { zero });
    const longest = rows.reduce((most, row) => Math.max(most, row.name.length), 0);
    const left = Math.min(Math.max(60, 12 + 8 * longest), width * 0.4);
    const step = 20;
    const height = rows.length * step + 56;
    const f = frame(width, height, { x, y: [rows.length, 0], xLabel, label, left });
    if (zero) f.svg.append(draw("line", { class: "zero", x1: f.px(0), x2: f.px(0), y1: f.box.top, y2: f.box.bottom }));
    const most = Math.floor((left - 8) / 7.6);
    rows.forEach((row, i) => {
      const at = f.box.top + ((i + 0.5) * (f.box.bottom - f.box.top)) / rows.length;
      const name = row.name.length > most ? `${row.name.slice(0, Math.max(1, most - 1))}…` : row.name;
      f.svg.append(draw("text", { class: "name", x: left - 6, y: at + 4, "text-anchor": "end" }, name, draw("title", {}, row.name)));
      if (row.interval && row.interval[0] !== null && row.interval[0] !== undefined) {
        f.svg.append(draw("line", { class: "interval", x1: f.px(row.interval[0]), x2: f.px(row.interval[1]), y1: at, y2: at }));
      }
      for (const one of row.marks) {
        if (one.value === null || one.value === undefined) continue;
        f.svg.append(symbol(one.mark, f.px(one.value), at, `${row.name}: ${one.text} ${signed(one.value, 3)}`));
      }
    });
    place.replaceChildren(f.svg);
  });
}

function symbol(mark, x, y, title) {
  const named = draw("title", {}, title);
  if (mark.includes("diamond")) {
    return draw("path", { class: `dot ${mark}`, d: `M${x} ${y - 6}L${x + 6} ${y}L${x} ${y + 6}L${x - 6} ${y}Z` }, named);
  }
  if (mark.includes("cross")) {
    return draw("path", { class: `stroke ${mark}`, d: `M${x - 4} ${y - 4}L${x + 4} ${y + 4}M${x - 4} ${y + 4}L${x + 4} ${y - 4}` }, named);
  }
  return draw("circle", { class: `dot ${mark}`, cx: x, cy: y, r: 4.5 }, named);
}

// Points with names, zoomed and moved by buttons, dragging, a double click, + - 0 and arrow keys.
// Returns a function that selects a point by its name.
function scatter(host, { points, xLabel, yLabel, label, onpick }) {
  // Both axes have the same unit: an axis that spans very little is not enlarged.
  const whole = {
    x: extent(points.map((one) => one.x), { zero: true }),
    y: extent(points.map((one) => one.y), { zero: true }),
  };
  const least = Math.max(whole.x[1] - whole.x[0], whole.y[1] - whole.y[0]) / 4;
  for (const [axis, [low, high]] of Object.entries(whole)) {
    const room = Math.max(0, least - (high - low)) / 2;
    whole[axis] = [low - room, high + room];
  }
  let view = whole;
  let selected = null;
  let f = null;
  const place = make("div", { class: "chart" });
  const zoom = (factor, at = null) => {
    const centre = at || { x: (view.x[0] + view.x[1]) / 2, y: (view.y[0] + view.y[1]) / 2 };
    const within = (range, whole_, c) => {
      const size = Math.min((range[1] - range[0]) * factor, whole_[1] - whole_[0]);
      const low = Math.max(whole_[0], Math.min(whole_[1] - size, c - size * ((c - range[0]) / (range[1] - range[0]))));
      return [low, low + size];
    };
    view = { x: within(view.x, whole.x, centre.x), y: within(view.y, whole.y, centre.y) };
    again();
  };
  const move = (dx, dy) => {
    const by = (range, whole_, d) => {
      const size = range[1] - range[0];
      const low = Math.max(whole_[0], Math.min(whole_[1] - size, range[0] + d * size));
      return [low, low + size];
    };
    view = { x: by(view.x, whole.x, dx), y: by(view.y, whole.y, dy) };
    again();
  };
  const reset = () => {
    view = whole;
    again();
  };
  const button = (text, act) => make("button", { type: "button", onclick: act }, text);
  host.append(
    make("div", { class: "controls" }, button("Zoom in", () => zoom(0.6)), button("Zoom out", () => zoom(1 / 0.6)), button("Whole map", reset)),
    place,
  );

  const again = keepDrawn(place, (width) => {
    const { x, y } = view;
    f = frame(width, Math.min(480, Math.max(300, width * 0.65)), { x, y, xLabel, yLabel, label });
    fill(f.svg, { tabindex: 0, class: "zooms", onkeydown: pressed, onpointerdown: grabbed, ondblclick: (event) => zoom(0.5, where(event)) }, []);
    const inside = points.filter((one) => one.x >= x[0] && one.x <= x[1] && one.y >= y[0] && one.y <= y[1]);
    if (x[0] <= 0 && x[1] >= 0) f.svg.append(draw("line", { class: "zero", x1: f.px(0), x2: f.px(0), y1: f.box.top, y2: f.box.bottom }));
    if (y[0] <= 0 && y[1] >= 0) f.svg.append(draw("line", { class: "zero", y1: f.py(0), y2: f.py(0), x1: f.box.left, x2: f.box.right }));
    const taken = [];
    for (const one of inside) {
      const dot = draw("circle", { class: "dot first", cx: f.px(one.x), cy: f.py(one.y), r: one.name === selected ? 7 : 4 }, draw("title", {}, one.name));
      if (onpick) dot.addEventListener("click", () => onpick(one.name));
      f.svg.append(dot);
    }
    // Names are drawn for the outermost points, as long as there is room; the selected one first.
    const rank = (one) => (one.name === selected ? Infinity : one.weight);
    for (const one of inside.sort((p, q) => rank(q) - rank(p)).slice(0, 250)) {
      if (rank(one) <= 0) break;
      const w = 6.6 * Math.min(one.name.length, 18) + 6;
      let [a, b] = [f.px(one.x) + 7, f.py(one.y) + 4];
      if (a + w > f.box.right) a -= w + 10;
      const box = [a, b - 11, a + w, b + 3];
      if (taken.some((t) => box[0] < t[2] && box[2] > t[0] && box[1] < t[3] && box[3] > t[1])) continue;
      taken.push(box);
      f.svg.append(draw("text", { class: one.name === selected ? "tick selected" : "tick", x: a, y: b }, short(one.name, 18)));
    }
    const focused = place.contains(document.activeElement);
    place.replaceChildren(f.svg);
    if (focused) f.svg.focus({ preventScroll: true });
  });

  function where(event) {
    const box = f.svg.getBoundingClientRect();
    const share = (v, low, high) => (v - low) / (high - low);
    const at = { x: share(event.clientX - box.left, f.box.left, f.box.right), y: share(event.clientY - box.top, f.box.bottom, f.box.top) };
    return { x: view.x[0] + at.x * (view.x[1] - view.x[0]), y: view.y[0] + at.y * (view.y[1] - view.y[0]) };
  }

  function pressed(event) {
    const acts = {
      "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), 0: reset,
      ArrowLeft: () => move(-0.15, 0), ArrowRight: () => move(0.15, 0), ArrowUp: () => move(0, 0.15), ArrowDown: () => move(0, -0.15),
    };
    if (!(event.key in acts) || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    acts[event.key]();
  }

  function grabbed(event) {
    if (event.pointerType === "touch") return; // a finger scrolls the page
    let from = { x: event.clientX, y: event.clientY };
    const dragged = (later) => {
      const [dx, dy] = [later.clientX - from.x, later.clientY - from.y];
      if (Math.hypot(dx, dy) < 3) return;
      from = { x: later.clientX, y: later.clientY };
      move(-dx / (f.box.right - f.box.left), dy / (f.box.bottom - f.box.top));
    };
    addEventListener("pointermove", dragged);
    addEventListener("pointerup", () => removeEventListener("pointermove", dragged), { once: true });
  }

  return (name) => {
    const one = points.find((point) => point.name === name);
    selected = one ? name : null;
    const outside = one && !(one.x >= view.x[0] && one.x <= view.x[1] && one.y >= view.y[0] && one.y <= view.y[1]);
    if (outside) view = whole;
    again();
  };
}
