// Draws the page of a tape from its JSON block (lab/tape_page.h says what is in it).
const { nodes, output } = data;

const label = (i) => nodes[i].name || `${nodes[i].operation} ${i}`;
const shapeOf = (node) => `[${node.shape.join(", ")}]`;
const leaf = (node) => ["constant", "variable", "parameter"].includes(node.operation);
// How a node is made: "softmax(logits)"; where no gradient is wanted the tape has kept no inputs.
const formula = (i) => leaf(nodes[i]) ? nodes[i].operation
  : `${nodes[i].operation}(${nodes[i].inputs.map((k) => k < 0 ? "none" : label(k)).join(", ") || "…"})`;
const numbersIn = (tensor, most) => tensor === null ? "–"
  : tensor.numbers.slice(0, most).map((v) => text(v)).join(" ") + (tensor.of > most ? ` … of ${tensor.of}` : "");

// ---- steps ----

const backward = nodes.map((_, i) => i).filter((i) => nodes[i].gives.length > 0).reverse();
const steps = [...nodes.map((_, node) => ({ kind: "forward", node })),
  ...(nodes[output].adjoint === null ? [] : [{ kind: "start", node: output }]),
  ...backward.map((node) => ({ kind: "backward", node }))];
// Of each node the steps that change its adjoint, and what it is from then on.
const arrivals = nodes.map(() => []);
steps.forEach(({ kind, node }, at) => {
  if (kind === "start") arrivals[node].push({ at, sum: nodes[node].adjoint });
  if (kind === "backward") nodes[node].gives.forEach(({ to, sum }) => arrivals[to].push({ at, sum }));
});
// {sum, complete}; null before anything has come.
function adjointAt(i, at) {
  const come = arrivals[i].filter((a) => a.at <= at);
  return come.length === 0 ? null : { sum: come.at(-1).sum, complete: come.length === arrivals[i].length };
}

// ---- numbers ----

// A value as rows of its last axis, tinted by sign and size; of three axes and more a block for each of the others.
function grid(tensor, node) {
  const columns = node.shape.at(-1) ?? 1, rows = node.shape.at(-2) ?? 1;
  const largest = d3.max(tensor.numbers.filter(isNumber), Math.abs) || 1;
  const cell = (v) => {
    const td = el("td", isNumber(v) ? { class: v < 0 ? "down" : "up" } : {}, text(v));
    if (isNumber(v)) td.style.setProperty("--share", `${Math.round(45 * Math.abs(v) / largest)}%`);
    return td;
  };
  const blocks = [];
  tensor.numbers.forEach((v, i) => {
    if (i % (rows * columns) === 0) blocks.push(el("tbody"));
    if (i % columns === 0) blocks.at(-1).append(el("tr"));
    blocks.at(-1).lastChild.append(cell(v));
  });
  const all = el("div", { class: "grids" }, ...blocks.map((b) => el("table", { class: "grid" }, b)));
  if (tensor.of === 0) all.append("no elements");
  if (tensor.of > tensor.numbers.length) all.append(`the first ${tensor.numbers.length} of ${text(tensor.of)}`);
  return all;
}

function tell(at) {
  const { kind, node: i } = steps[at], node = nodes[i], parts = [];
  const show = (title, tensor, of) => parts.push(el("h4", {}, title), grid(tensor, of));
  if (kind === "forward") {
    parts.push(el("h3", {}, `Forward: ${label(i)} = ${formula(i)}`));
    if (node.stopped >= 0) parts.push(el("p", {}, `The value of ${label(node.stopped)}; no gradient passes.`));
    unique(node.inputs).filter((k) => k >= 0).forEach((k) => show(`${label(k)} ${shapeOf(nodes[k])}`, nodes[k].value, nodes[k]));
    show(leaf(node) ? `${node.type} ${shapeOf(node)}` : `gives ${label(i)} ${shapeOf(node)}`, node.value, node);
  } else if (kind === "start") {
    parts.push(el("h3", {}, `Backward: begin at ${label(i)}`), el("p", {}, "The adjoint of the output is given."));
    show(`adjoint of ${label(i)}`, node.adjoint, node);
  } else {
    parts.push(el("h3", {}, `Backward: ${formula(i)}`));
    show(`adjoint of ${label(i)}, complete`, node.adjoint, node);
    for (const { to, part: added, sum } of node.gives) {
      show(`adds to the adjoint of ${label(to)}`, added, nodes[to]);
      if (arrivals[to][0].at !== at) show(`which is then${adjointAt(to, at).complete ? "" : ", so far"}`, sum, nodes[to]);
    }
  }
  if (node.claim && kind !== "start") parts.push(el("p", { class: "soft" }, `Claim of ${node.operation}: ${node.claim}.`));
  part("now").replaceChildren(...parts);
}

// ---- the graph ----

const lines = (i) => [nodes[i].operation, `${i}${nodes[i].name ? ` ${nodes[i].name}` : ""} ${shapeOf(nodes[i])}`];
const ruler = document.createElement("canvas").getContext("2d");
const widthOf = (i) => Math.max(76, ...lines(i).map((line, k) => {
  ruler.font = k === 0 ? "600 12px system-ui, sans-serif" : "11px system-ui, sans-serif";
  return Math.ceil(ruler.measureText(line).width) + 16;
}));
const place = layout(nodes, widthOf);
const svg = d3.select("#drawing").append("svg").attr("width", place.width).attr("height", place.height)
  .attr("viewBox", `0 0 ${place.width} ${place.height}`);
svg.append("defs").append("marker").attr("id", "arrow").attr("viewBox", "0 0 8 8").attr("refX", 3).attr("refY", 4)
  .attr("markerWidth", 8).attr("markerHeight", 8).attr("markerUnits", "userSpaceOnUse").attr("orient", "auto")
  .append("path").attr("d", "M0,0L8,4L0,8z");
const curve = d3.line().curve(d3.curveMonotoneY);
const arrows = svg.append("g").selectAll("path").data(place.links).join("path").attr("class", "link")
  .classed("stopped", (l) => l.stopped).attr("marker-end", "url(#arrow)").attr("d", (l) => curve(l.points));
const boxes = svg.append("g").selectAll("g").data(place.boxes).join("g").attr("class", "node")
  .classed("fixed", (_, i) => !nodes[i].learns).attr("transform", (b) => `translate(${b.x},${b.y})`)
  .classed("inexact", (_, i) => nodes[i].claim !== null && nodes[i].claim !== "exact");
boxes.append("rect").attr("x", (b) => -b.width / 2).attr("y", -BOX / 2).attr("width", (b) => b.width).attr("height", BOX)
  .attr("rx", 4);
boxes.append("text").attr("class", "what").attr("y", -4).text((_, i) => lines(i)[0]);
boxes.append("text").attr("class", "which").attr("y", 13).text((_, i) => lines(i)[1]);

let step = 0;
boxes.on("pointermove pointerdown", (_, i) => {
  const node = nodes[i], come = adjointAt(i, step);
  const rows = [[null, formula(i), ""], [null, "type", `${node.type} ${shapeOf(node)}`], [null, "saved bytes", text(node.saved)]];
  if (node.claim) rows.push([null, "claim", node.claim]);
  rows.push([null, "value", step < i ? "not yet" : numbersIn(node.value, 6)]);
  const adjoint = come ? numbersIn(come.sum, 6) + (come.complete ? "" : ", so far")
    : node.adjoint ? "not yet" : "none: no gradient comes here";
  rows.push([null, "adjoint", adjoint]);
  showTip({ x: d3.event.clientX, y: d3.event.clientY }, rows);
});
boxes.on("pointerleave", () => { tip.hidden = true; });
boxes.on("click", (_, i) => {
  const back = steps.findIndex((s) => s.kind === "backward" && s.node === i);
  go(steps[step].kind !== "forward" && back >= 0 ? back : i);
});

// ---- the controls ----

const button = (name, to) => {
  const b = el("button", { type: "button" }, name);
  b.onclick = () => go(to());
  return b;
};
const first = button("First", () => 0), back = button("Back", () => step - 1);
const next = button("Next", () => step + 1), last = button("Last", () => steps.length - 1);
const slider = el("input", { type: "range", min: 0, max: steps.length - 1, value: 0, "aria-label": "Step" });
slider.oninput = () => go(+slider.value);
const where = el("output");
const fit = el("input", { type: "checkbox" });
fit.onchange = () => part("drawing").classList.toggle("fit", fit.checked);
part("controls").append(first, back, next, last, slider, where, el("label", {}, fit, " whole graph"));

function go(to) {
  step = Math.max(0, Math.min(steps.length - 1, to));
  const { kind, node } = steps[step], now = nodes[node];
  const used = new Set(kind === "forward" ? now.inputs : kind === "backward" ? now.gives.map((g) => g.to) : []);
  boxes.classed("current", (_, i) => i === node).classed("future", (_, i) => i > step)
    .classed("complete", (_, i) => adjointAt(i, step)?.complete ?? false)
    .classed("partial", (_, i) => adjointAt(i, step)?.complete === false);
  arrows.classed("future", (l) => l.to > step).classed("flow", (l) => l.to === node && used.has(l.from));
  tell(step);
  where.textContent = `step ${step + 1} of ${steps.length}, ${kind === "forward" ? "forward" : "backward"}`;
  slider.value = step;
  slider.setAttribute("aria-valuetext", where.textContent);
  first.disabled = back.disabled = step === 0;
  next.disabled = last.disabled = step === steps.length - 1;
  const box = place.boxes[node], view = part("drawing"), inset = svg.node().getBoundingClientRect().left
    - view.getBoundingClientRect().left + view.scrollLeft;
  view.scrollTo({ left: inset + box.x - view.clientWidth / 2, top: box.y - view.clientHeight / 2 });
  tip.hidden = true;
}
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, .scroll, summary")) return;
  const to = { ArrowRight: step + 1, ArrowLeft: step - 1, Home: 0, End: steps.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  go(to);
});

// ---- the rest ----

for (const paragraph of data.text.split("\n").filter((p) => p)) part("about").append(el("p", {}, paragraph));
part("key").append(...[["wanted", "a gradient is wanted"], ["fixed", "none is"], ["inexact", "the claim is not exact"],
  ["partial", "a part of the adjoint has come"], ["complete", "the adjoint is complete"], ["current", "this step"]]
  .map(([name, what]) => el("span", { class: name }, what)));
part("table").append(table([
  { title: "node", value: (i) => i }, { title: "operation", value: (i) => nodes[i].operation },
  { title: "name", value: (i) => nodes[i].name || null },
  { title: "inputs", value: (i) => nodes[i].inputs.map((k) => k < 0 ? "-" : k).join(" ") || null },
  { title: "type", value: (i) => nodes[i].type }, { title: "shape", value: (i) => shapeOf(nodes[i]) },
  { title: "saved bytes", value: (i) => nodes[i].saved }, { title: "claim", value: (i) => nodes[i].claim },
  { title: "value", value: (i) => numbersIn(nodes[i].value, 8) },
  { title: "adjoint", value: (i) => numbersIn(nodes[i].adjoint, 8) }], d3.range(nodes.length), true));
go(0);
// On paper nothing can be stepped through.
addEventListener("beforeprint", () => go(steps.length - 1));
