// One condition: its effects with intervals, its sgRNAs, its mechanisms, similar conditions.
function conditionPart() {
  const host = byId("condition-part");
  if (!host || !data.conditions.length) return;
  const field = byId("condition-name");
  const names = byId("condition-names");
  names.append(...data.conditions.map((one) => make("option", { value: one.name })));
  const title = byId("condition-title");
  const status = byId("condition-status");

  function show(c) {
    const own = data.conditions[c];
    field.value = own.name;
    title.textContent = own.name;
    const facts = [own.nCells ? `${whole(own.nCells)} cells` : "no cells in the data"];
    if (!own.isTrained) facts.push("never seen in training: its effects are predictions of the model");
    if (!own.isEstimable) facts.push("confounded with its batches");
    if (data.hasRates) facts.push(`${own.nUp} genes up and ${own.nDown} down at q below 0.05`);
    status.textContent = `${facts.join("; ")}.`;
    host.replaceChildren();
    effects(c);
    sgrnas(c);
    mechanisms(own.name);
    similar(c);
  }

  function effects(c) {
    const own = data.effects[c];
    const likely = [...own.gene.keys()].filter((i) => !data.hasRates || own.lfsr[i] < 0.5).slice(0, 20);
    const n = likely.length;
    const order = likely.sort((a, b) => own.estimate[b] - own.estimate[a]);
    const rows = order.map((i) => ({
      name: geneName(own.gene[i]),
      interval: [own.lower[i], own.upper[i]],
      marks: [
        { value: own.observed[i], mark: "third cross", text: "observed" },
        { value: own.estimate[i], mark: "first", text: "estimate" },
      ],
    }));
    const place = make("div", { class: "chart" });
    if (!n) host.append(make("p", { class: "missing" }, "No gene is more likely changed than not: the condition does nothing that can be seen, or has too few cells (column informative of the table)."));
    else host.append(make("h4", {}, data.hasRates ? `The ${n} effects of smallest lfsr` : `The ${n} largest effects`), place,
      legend([["first", "estimate, with its 90 % interval"], ["third cross", "observed difference from control"]]));
    if (n) rowChart(place, { rows, xLabel: `effect, ${UNIT}`, label: `Effects of ${conditionName(c)} on its first genes` });
    const head = ["gene", "estimate", "90 % interval", "model", "observed"];
    if (data.hasRates) head.push("lfsr", "q");
    const body = [...own.gene.keys()].map((i) => {
      const row = [geneName(own.gene[i]), signed(own.estimate[i], 3), own.lower[i] === null ? "–" : `${signed(own.lower[i])} to ${signed(own.upper[i])}`, signed(own.model[i], 3), signed(own.observed[i], 3)];
      return data.hasRates ? [...row, rate(own.lfsr[i]), rate(own.q_value[i])] : row;
    });
    host.append(make("details", {}, make("summary", {}, `As a table: ${own.gene.length} genes`), plainTable(`Effects of ${conditionName(c)}, ${UNIT}`, head, body)));
  }

  function sgrnas(c) {
    const own = data.sgrnas[c];
    host.append(make("h4", {}, "Its sgRNAs"));
    if (!own.length) {
      host.append(make("p", { class: "missing" }, "The screen has no sgRNAs: read it with sgrna_key."));
      return;
    }
    const place = make("div", { class: "chart" });
    host.append(make("p", {}, "The effect of each sgRNA as a multiple of the effect of the others together: 0 is like control, 1 like the others. It is missing if the others change no gene with confidence. Bars: 90 % intervals of the sampling error."), place);
    rowChart(place, {
      rows: own.map(([name, n, value, se, flag]) => ({
        name: flag ? `${name} (${n}, ${flag})` : `${name} (${n})`,
        interval: value === null || se === null ? null : [value - 1.645 * se, value + 1.645 * se],
        marks: [{ value, mark: "first", text: `${n} cells, strength` }],
      })),
      xLabel: "strength, multiple of the others' effect", label: `Strength of the sgRNAs of ${conditionName(c)}`,
    });
  }

  function mechanisms(name) {
    const mask = data.mask;
    const row = mask.perturbations ? mask.perturbations.indexOf(name) : -1;
    if (row < 0) {
      if (mask.perturbations && mask.n > mask.perturbations.length) {
        host.append(make("h4", {}, "Its mechanisms"), make("p", {}, "It is not among the perturbations with the largest shifts, which this page shows: see the complete tables."));
      }
      return;
    }
    const used = mask.dimensions.map((one, i) => [one, mask.probability[row][i], mask.shift[row][i]]).filter((one) => one[1] > 0.5);
    host.append(make("h4", {}, "Its mechanisms"));
    host.append(used.length
      ? plainTable("Mechanisms that it shifts", ["mechanism", "probability", "shift"], used.map(([one, p, s]) => [make("a", { href: `#mechanism-${one}` }, p > 0.9 ? one : `${one} (candidate)`), shown(p), signed(s)]))
      : make("p", {}, "It shifts none with a probability above 1/2."));
  }

  function similar(c) {
    const own = data.similar[c];
    if (!data.hasRates || data.conditions.length < 2) return;
    host.append(make("h4", {}, "Conditions that act alike"));
    if (!own.length) {
      host.append(make("p", {}, `None: with no other condition does it change a gene in the same direction (lfsr below 0.05) and have effects whose correlation is above what chance gives (${signed(data.similarAbove)}: genes permuted, 5 % over all pairs of conditions).`));
      return;
    }
    host.append(make("p", {}, `They change a gene in the same direction (lfsr below 0.05), and the correlation of their effects is above what chance gives (${signed(data.similarAbove)}: genes permuted, 5 % over all pairs of conditions).`),
      plainTable("Correlation over genes of effects in units of their errors, on a log scale, so that no single gene dominates", ["condition", "correlation"], own.map(([other, r]) => [chooser(conditionName(other)), signed(r)])));
  }

  field.addEventListener("change", () => choose(field.value, { scroll: false }));
  listeners.push(show);
  const strongest = data.conditions.reduce((best, one, i) => (one.nUp + one.nDown > data.conditions[best].nUp + data.conditions[best].nDown ? i : best), 0);
  show(strongest);
}
conditionPart();
