// The course of training.
function training() {
  const host = byId("training-charts");
  const history = data.history;
  if (!host || !history.step) return;
  const step = history.step;
  const turns = [];
  const aligned = history.is_aligned ? history.is_aligned.indexOf(true) : -1;
  if (aligned > 0) turns.push({ x: (step[aligned - 1] + step[aligned]) / 2, text: "aligned: masks" });
  const elbo = [{ name: "training cells", mark: "first", x: step, y: history.elbo }];
  if (history.valid_elbo && history.valid_elbo.some((one) => one !== null)) {
    elbo.push({ name: "validation cells, predictive", mark: "second", x: step, y: history.valid_elbo });
  }
  // The ELBO of the first steps is far lower: they are left out, to show where it ends.
  const from = Math.min(step.length - 2, Math.floor(step.length * 0.15));
  if (from > 0) elbo.forEach((one) => { one.x = one.x.slice(from); one.y = one.y.slice(from); });
  const place = (title) => {
    const part = make("figure", {}, make("figcaption", {}, title));
    host.append(part);
    return part;
  };
  const skipped = from > 0 ? `, from step ${step[from]} on` : "";
  lineChart(place(`ELBO${skipped}`), {
    series: elbo, turns: turns.filter((one) => one.x > elbo[0].x[0]), xLabel: "step", yLabel: "nats per cell",
    label: "ELBO of training and validation cells against the step",
  });
  const terms = [["likelihood", "first"], ["basal", "second"], ["mask", "third"], ["embedding", "fourth"]].filter(([name]) => history[name]);
  for (const [name, mark] of terms) {
    const row = { name: `${name}`, mark, x: step.slice(from), y: history[name].slice(from) };
    if (row.y.every((one) => one === null || one === 0)) continue;
    lineChart(place(`Term of the ELBO: ${name}`), { series: [row], xLabel: "step", yLabel: "nats per cell", label: `${name} against the step`, height: 180 });
  }
  if (history.mask_sparsity && history.mask_sparsity.some((one) => one !== null)) {
    lineChart(place("Mask entries that are not in use"), {
      series: [{ name: "share", mark: "first", x: step, y: history.mask_sparsity }], turns, xLabel: "step", yLabel: "share",
      label: "Share of mask entries of a probability of at most one half, against the step", height: 180, most: 1.002,
    });
  }
}
training();
