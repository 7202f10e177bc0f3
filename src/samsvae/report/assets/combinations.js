// Combinations: the model's prediction, the sum of the singles, and what was observed.
function combinations() {
  const host = byId("combination-part");
  const list = byId("combination-name");
  if (!host || !list || !data.combinations.length) return;
  data.combinations.forEach((one, i) => {
    const c = data.conditions[one.condition];
    const kind = c.isTrained ? "" : c.nCells ? " (not in training)" : " (not measured)";
    list.append(make("option", { value: i }, c.name + kind));
  });

  function show(i) {
    const own = data.combinations[i];
    const name = conditionName(own.condition);
    const c = data.conditions[own.condition];
    host.replaceChildren();
    const fit = own.fit;
    const measured = fit.predicted !== undefined && fit.predicted !== null;
    host.append(make("p", {}, measured
      ? `${whole(c.nCells)} cells. Over all genes, the root mean square error of the prediction is ${shown(fit.predicted)} ${UNIT}, that of the sum of the singles ${shown(fit.sum)}; correlations with the observed effects: ${shown(fit.predicted_r, 2)} and ${shown(fit.sum_r, 2)}.`
      : c.nCells ? "Its singles were not observed, so there is no sum to compare with." : "No cell of the data received it: what is predicted is the sum of its parts, given the model and their cells, as in the table of discoveries."));
    const n = Math.min(20, own.gene.length);
    const order = [...Array(n).keys()].sort((a, b) => (own.predicted[b] || 0) - (own.predicted[a] || 0));
    const place = make("div", { class: "chart" });
    host.append(place, legend([["first", c.nCells ? "predicted by the model" : "sum of the parts, estimated"], ["second diamond", "sum of the singles as observed"], ["third cross", "observed"]]));
    rowChart(place, {
      rows: order.map((k) => ({
        name: geneName(own.gene[k]),
        marks: [
          { value: own.sum[k], mark: "second diamond", text: "sum of singles" },
          { value: own.observed[k], mark: "third cross", text: "observed" },
          { value: own.predicted[k], mark: "first", text: "predicted" },
        ],
      })),
      xLabel: `effect, ${UNIT}`, label: `Predicted, added and observed effects of ${name}`,
    });
    const head = ["gene", "predicted", "sum of singles", "observed", ...own.parts];
    const body = own.gene.map((g, k) => [geneName(g), signed(own.predicted[k], 3), signed(own.sum[k], 3), signed(own.observed[k], 3), ...own.singles.map((one) => signed(one[k], 3))]);
    const table = plainTable(`Effects of ${name}, ${UNIT}; singles as observed`, head, body);
    table.id = "combination-rows";
    host.append(make("details", { open: "" }, make("summary", {}, `As a table: ${own.gene.length} genes`), table));
    host.append(make("p", {}, "More on ", chooser(name), "."));
  }

  list.addEventListener("change", () => show(Number(list.value)));
  show(0);
}
combinations();
