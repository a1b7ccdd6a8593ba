// Draws the page of runs from its JSON block (lab/page_data.h says what is in it).
const { studies, runs, groups } = data;
const thinned = (every) => every > 1 ? ` One of ${every} logged steps is shown.` : "";

// What the names of metrics.jsonl and result.json mean.
const titles = {
  loss: "Training loss", gradient_norm: "Gradient norm, before clipping",
  gradient_norm_clipped: "Gradient norm, after clipping", auxiliary: "Auxiliary losses, as added",
  dropped: "Dropped choices", learning_rate: "Learning rate", examples_per_second: "Examples per second",
  load_max_mean: "Load of the fullest expert over the mean",
};
function title(name) {
  if (name.startsWith("losses.")) return `Auxiliary loss: ${name.slice(7)}`;
  if (name.startsWith("test_")) return `Test ${name.slice(5).replaceAll("_", " ")}`;
  return titles[name] ?? name.replace(/^options\./, "").replaceAll("_", " ");
}
// Of objects, the keys that are measures: the loss first.
const measures = (objects) => unique(objects.flatMap((o) => Object.keys(o ?? {})))
  .filter((k) => k.startsWith("test_")).sort((a, b) => (b === "test_loss") - (a === "test_loss") || d3.ascending(a, b));

// Groups differ by colour, and each seven by dashes.
const look = (i) => ({ color: `var(--c${i % 7})`, dash: ["", "6 3", "2 2", "9 3 2 3"][Math.floor(i / 7) % 4] });

// A setting as a number where it is one, for sorting.
const setting = (run, key) => {
  const v = run.config[key] ?? "";
  return v === "" ? null : Number.isFinite(+v) ? +v : v;
};

function summary() {
  const states = unique(runs.map((r) => r.state)).map((s) => `${runs.filter((r) => r.state === s).length} ${s}`);
  const differ = data.differ.map((k) => title(k)).join(", ");
  const tasks = unique(runs.map((r) => r.config.task)).join(", ");
  part("summary").append(
    el("p", {}, `${count(runs.length, "run")} (${states.join(", ")}) of the task ` +
      `${tasks}, in ${count(groups.length, "group")}: runs that differ by their seed alone are one. ` +
      (differ ? `They differ in: ${differ}.` : "They do not differ.")));
  const finished = (g) => g.runs.map((i) => runs[i]).filter((r) => r.state === "finished");
  const columns = [
    { title: "group", value: (g) => g.name, show: (g) => groupName(g) },
    { title: "runs", value: (g) => g.runs.length },
    { title: "finished", value: (g) => finished(g).length }];
  const values = (g, key) => finished(g).map((r) => r.late[key]).filter(isNumber);
  for (const key of measures(runs.map((r) => r.late))) {
    columns.push({ title: title(key), value: (g) => d3.mean(values(g, key)) ?? null,
                   show: (g) => spread(d3.mean(values(g, key)), d3.deviation(values(g, key))) });
  }
  part("summary").append(table(columns, groups, true), el("p", { class: "soft" },
    "Of finished runs, each the mean over the last tenth of its evaluations; ± is the standard deviation over seeds."));
  const notes = runs.flatMap((r) => r.notes.map((n) => el("li", {}, `${r.name}: ${n}`)));
  if (notes.length > 0) part("summary").append(el("h3", {}, "Notes"), el("ul", { class: "notes" }, ...notes));
}
const spread = (mean, deviation) => isNumber(deviation) ? `${text(mean)} ± ${text(deviation)}` : text(mean);
const groupName = (g) => el("span", {}, swatch(look(groups.indexOf(g))), ` ${g.name}`);

function runTable() {
  const last = (r, key) => r.steps[key]?.at(-1) ?? null;
  const columns = [
    { title: "run", value: (r) => r.name, show: (r) => {
      const link = el("a", { href: `#run-${runs.indexOf(r)}` }, r.name);
      link.onclick = () => { part(`run-${runs.indexOf(r)}`).open = true; };
      return link;
    } },
    { title: "state", value: (r) => r.state },
    ...data.differ.map((key) => ({ title: title(key), value: (r) => setting(r, key) })),
    { title: "step", value: (r) => r.step },
    ...measures(runs.map((r) => r.result)).map((key) => ({ title: title(key), value: (r) => r.result?.[key] ?? null })),
    { title: "load max/mean", value: (r) => last(r, "load_max_mean") },
    { title: "dropped", value: (r) => last(r, "dropped") },
    { title: "seconds", value: (r) => last(r, "seconds"), show: (r) => text(last(r, "seconds"), 1) },
    { title: "parameters", value: (r) => r.result?.parameters ?? null },
    ...(runs.some((r) => r.maths && r.maths !== "exact") ? [{ title: "maths", value: (r) => r.maths || null }] : []),
    { title: "examples/s", value: (r) => Math.round(d3.median(r.steps.examples_per_second ?? [])) || null }];
  part("runs").append(table(columns, runs, true), el("p", { class: "soft" },
    "Measures are those of result.json. A heading sorts."));
}

// ---- charts ----

const redraws = [];
// A figure with a title, an SVG that can be inspected by pointer and keyboard, and a table below it.
//   draw(svg, width) gives {at(x, y), moved(place, key), show(place)}: the place below the pointer, the one that a
//   key leads to, and what marks a place and gives [x, y, lines] of the tip.
function figure(parent, name, note, draw, rows) {
  const svg = d3.create("svg").attr("tabindex", 0).attr("role", "img")
    .attr("aria-label", `${name}. Arrow keys show values; the table below has them all.`);
  const details = el("details", {}, el("summary", {}, "Table"));
  details.addEventListener("toggle", () => { if (details.children.length === 1) details.append(rows()); });
  const caption = el("figcaption", {}, el("h3", {}, name), ...(note ? [note] : []));
  const all = el("figure", {}, caption, svg.node(), details);
  parent.append(all);
  let drawn, place = null, width = 0;
  const select = (p) => {
    place = p;
    svg.selectAll(".rule, .cursor").remove();
    if (p === null) { tip.hidden = true; return; }
    const [x, y, lines] = drawn.show(p);
    const box = svg.node().getBoundingClientRect();
    const scale = box.width / width;
    showTip({ x: box.x + x * scale, y: box.y + y * scale }, lines);
  };
  const redraw = () => {
    width = Math.max(240, Math.round(all.clientWidth));
    svg.selectAll("*").remove();
    place = null;
    drawn = draw(svg, width);
  };
  svg.on("pointermove pointerdown", () => {
    const [x, y] = d3.mouse(svg.node());
    select(drawn.at(x, y));
  });
  svg.on("pointerleave blur", () => select(null));
  svg.on("focus", () => { if (svg.node().matches(":focus-visible")) select(drawn.moved(null, "Home")); });
  svg.on("keydown", () => {
    const key = d3.event.key;
    if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "Escape"].includes(key)) return;
    d3.event.preventDefault();
    select(key === "Escape" ? null : drawn.moved(place, key));
  });
  redraw();
  redraws.push(redraw);
  new ResizeObserver(() => requestAnimationFrame(() => {
    if (all.clientWidth >= 240 && Math.abs(all.clientWidth - width) > 1) redraw();
  })).observe(all);
  return all;
}

const step = (key, i, n) => ({ ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: n - 1 })[key] ?? i;
const within = (i, n) => Math.max(0, Math.min(n - 1, i));

// series: [{name, color, dash, points: [{x, y, deviation}]}], hidden ones by name.
function lineChart(parent, name, note, series, hidden = new Set(), across = "step") {
  const height = 240, m = { left: 58, right: 20, top: 10, bottom: 26 };
  const xs = unique(series.flatMap((s) => s.points.map((p) => p.x))).sort(d3.ascending);
  const byStep = series.map((s) => new Map(s.points.map((p) => [p.x, p])));
  const low = (p) => p.y - (p.deviation ?? 0), high = (p) => p.y + (p.deviation ?? 0);
  const draw = (svg, width) => {
    svg.attr("viewBox", `0 0 ${width} ${height}`);
    const seen = series.filter((s) => !hidden.has(s.name));
    const points = (seen.length > 0 ? seen : series).flatMap((s) => s.points);
    const x = d3.scaleLinear().domain(d3.extent(xs)).range([m.left, width - m.right]);
    const y = d3.scaleLinear().domain([d3.min(points, low), d3.max(points, high)]).nice()
      .range([height - m.bottom, m.top]);
    const places = y.ticks(5);
    const label = places.length > 1 && Math.max(...places.map(Math.abs)) < 1e-3 ? d3.format("~e")
      : d3.max(places, Math.abs) >= 1e4 ? d3.format("~s") : y.tickFormat(5);
    svg.append("g").attr("class", "grid").attr("transform", `translate(${m.left},0)`)
      .call(d3.axisLeft(y).ticks(5).tickSize(-(width - m.left - m.right)).tickFormat(label).tickPadding(6));
    svg.append("g").attr("class", "axis").attr("transform", `translate(0,${height - m.bottom})`)
      .call(d3.axisBottom(x).ticks(Math.max(2, Math.floor(width / 90))).tickFormat(d3.format(",")))
      .append("text").attr("x", m.left - 8).attr("y", 18).attr("text-anchor", "end").text(across);
    for (const s of seen) {
      if (s.points.some((p) => p.deviation > 0)) {
        svg.append("path").attr("class", "band").style("fill", s.color)
          .attr("d", d3.area().x((p) => x(p.x)).y0((p) => y(low(p))).y1((p) => y(high(p)))(s.points));
      }
      svg.append("path").attr("class", "line").style("stroke", s.color).attr("stroke-dasharray", s.dash)
        .attr("d", d3.line().x((p) => x(p.x)).y((p) => y(p.y))(s.points));
      if (s.points.length > 25) continue;
      svg.append("g").style("fill", s.color).selectAll("circle").data(s.points).join("circle")
        .attr("class", "dot").attr("r", 2.5).attr("cx", (p) => x(p.x)).attr("cy", (p) => y(p.y));
    }
    return {
      at: (px) => within(d3.bisect(d3.pairs(xs).map(([a, b]) => (a + b) / 2), x.invert(px)), xs.length),
      moved: (i, key) => within(step(key, i ?? 0, xs.length), xs.length),
      show: (i) => {
        svg.append("line").attr("class", "rule").attr("x1", x(xs[i])).attr("x2", x(xs[i]))
          .attr("y1", m.top).attr("y2", height - m.bottom);
        const lines = [[null, `${across} ${text(xs[i])}`]];
        series.forEach((s, k) => {
          const p = byStep[k].get(xs[i]);
          if (!p || hidden.has(s.name)) return;
          svg.append("circle").attr("class", "cursor").attr("r", 4).attr("cx", x(p.x)).attr("cy", y(p.y));
          lines.push([s, s.name, spread(p.y, p.deviation)]);
        });
        return [x(xs[i]), height / 2, lines];
      },
    };
  };
  const rows = () => table([{ title: across || "at", value: (i) => xs[i] },
    ...series.map((s, k) => ({ title: s.name, value: (i) => byStep[k].get(xs[i])?.y ?? null,
      show: (i) => { const p = byStep[k].get(xs[i]); return p ? spread(p.y, p.deviation) : "–"; } }))],
    d3.range(xs.length), false);
  figure(parent, name, note, draw, rows);
}

// What clipping leaves of the norm, where it did anything in any run.
const clipOf = (r) => +r.config.clip || Infinity;
if (runs.some((r) => r.steps.gradient_norm?.some((v) => v > clipOf(r)))) {
  for (const r of runs) {
    r.steps.gradient_norm_clipped = r.steps.gradient_norm?.map((v) => isNumber(v) ? Math.min(v, clipOf(r)) : v);
  }
}

// Of each group the mean of a column over its runs, and the deviation where a step has several.
function series(kind, name) {
  return groups.map((g, i) => {
    const steps = new Map();
    for (const run of g.runs.map((k) => runs[k][kind])) {
      (run[name] ?? []).forEach((v, k) => {
        if (!isNumber(v)) return;
        if (!steps.has(run.step[k])) steps.set(run.step[k], []);
        steps.get(run.step[k]).push(v);
      });
    }
    const points = [...steps].map(([x, v]) => ({ x, y: d3.mean(v), deviation: d3.deviation(v) }));
    return { name: g.name, ...look(i), points: points.sort((a, b) => a.x - b.x) };
  }).filter((s) => s.points.length > 0);
}

function curves() {
  const hidden = new Set();
  const legend = el("div", { class: "legend", role: "group", "aria-label": "Groups to show" });
  groups.forEach((g, i) => {
    const box = el("input", { type: "checkbox" });
    box.checked = true;
    box.onchange = () => {
      if (box.checked) hidden.delete(g.name); else hidden.add(g.name);
      redraws.forEach((redraw) => redraw());
    };
    legend.append(el("label", {}, box, swatch(look(i)), `${g.name} (${count(g.runs.length, "run")})`));
  });
  const charts = el("div", { class: "charts" });
  part("curves").append(legend, el("p", { class: "soft" },
    `Lines are means over the seeds of a group, bands one standard deviation to each side.${thinned(data.every.steps)}`), charts);
  const named = (prefix) => unique(runs.flatMap((r) => Object.keys(r.steps))).filter((k) => k.startsWith(prefix)).sort();
  const list = [["steps", "loss"], ...measures(runs.map((r) => r.evaluations)).map((k) => ["evaluations", k]),
    ["steps", "load_max_mean"], ["steps", "gradient_norm"], ["steps", "gradient_norm_clipped"],
    ["steps", "auxiliary"],
    ...named("losses.").map((k) => ["steps", k]), ["steps", "dropped"], ["steps", "learning_rate"],
    ["steps", "examples_per_second"]];
  const mayBeZero = (name) => name === "auxiliary" || name === "dropped" || name.startsWith("losses.");
  for (const [kind, name] of list) {
    const lines = series(kind, name);
    if (lines.length === 0) continue;
    if (mayBeZero(name) && lines.every((s) => s.points.every((p) => p.y === 0))) continue;
    lineChart(charts, title(name), null, lines, hidden);
  }
  if (charts.children.length === 0) charts.append(el("p", {}, "No run has logged a step yet."));
}

// ---- loads ----

function heatMap(parent, name, run, layer, top) {
  const shares = run.loads.layers[layer], experts = shares.length, steps = run.loads.step;
  const color = d3.scaleSequential(d3.interpolateViridis).domain([0, top]);
  const m = { left: 40, right: 20, top: 6, bottom: 26 };
  const row = Math.max(4, Math.min(24, 208 / experts)), height = m.top + m.bottom + row * experts;
  const draw = (svg, width) => {
    svg.attr("viewBox", `0 0 ${width} ${height}`);
    const cell = (width - m.left - m.right) / steps.length;
    const x = (i) => m.left + i * cell, y = (e) => m.top + e * row;
    shares.forEach((list, e) => list.forEach((share, i) => {
      svg.append("rect").attr("class", "cell").attr("x", x(i)).attr("y", y(e)).attr("width", cell + 0.3)
        .attr("height", row - (row > 8 ? 1 : 0)).attr("fill", share === null ? "none" : color(share * experts));
    }));
    const every = Math.ceil(experts / 8), wide = Math.ceil(steps.length / Math.max(2, Math.floor(width / 90)));
    const label = (x, y, anchor, s) => svg.append("text").attr("x", x).attr("y", y).attr("text-anchor", anchor).text(s);
    for (let e = 0; e < experts; e += every) label(m.left - 6, y(e) + row / 2 + 4, "end", e);
    label(m.left - 6, height - 8, "end", "step");
    for (let i = 0; i < steps.length; i += wide) label(x(i) + cell / 2, height - 8, i === 0 ? "start" : "middle", text(steps[i]));
    return {
      at: (px, py) => [within(Math.floor((px - m.left) / cell), steps.length), within(Math.floor((py - m.top) / row), experts)],
      moved: (p, key) => p === null ? [0, 0] : [within(step(key, p[0], steps.length), steps.length),
        within(p[1] + (key === "ArrowDown") - (key === "ArrowUp"), experts)],
      show: ([i, e]) => {
        svg.append("rect").attr("class", "cursor").attr("x", x(i)).attr("y", y(e)).attr("width", cell).attr("height", row);
        return [x(i) + cell, y(e) + row / 2, [[null, `step ${text(steps[i])}, expert ${e}`],
          [null, "share of the choices", text(shares[e][i])], [null, "times the even share", text(shares[e][i] * experts)]]];
      },
    };
  };
  const scale = el("span", { class: "scale", "aria-hidden": "true" });
  scale.style.background = `linear-gradient(90deg, ${d3.range(0, 1.01, 0.1).map(d3.interpolateViridis).join(",")})`;
  const note = el("p", {}, "Rows are experts. ", el("span", { class: "nowrap" }, "Times the even share: 0", scale,
    d3.format(".3~g")(top)));
  figure(parent, name, note, draw, () => table([{ title: "step", value: (i) => steps[i] },
    ...shares.map((list, e) => ({ title: `expert ${e}`, value: (i) => list[i] }))], d3.range(steps.length), false));
}

function loads() {
  const known = runs.filter((r) => r.loads.step.length > 0);
  if (known.length === 0) {
    part("loads").append(el("p", {}, "No run has logged the load of its experts."));
    return;
  }
  const choice = el("select", { id: "run" }, ...known.map((r) => el("option", { value: runs.indexOf(r) }, r.name)));
  const charts = el("div", { class: "charts" });
  part("loads").append(el("p", {}, el("label", { for: "run" }, "Of the run "), choice), el("p", { class: "soft" },
    `The share of a layer's choices that falls on each expert, in training.${thinned(data.every.loads)}`), charts);
  const own = redraws.length;
  const top = d3.max(known, (r) => d3.max(r.loads.layers, (layer) => d3.max(layer, (e) => d3.max(e)) * layer.length));
  choice.onchange = () => {
    const run = runs[choice.value], layers = run.loads.layers;
    charts.replaceChildren();
    redraws.length = own;
    layers.forEach((layer, l) => {
      const name = layers.length === 1 ? "Load per expert" : `Load per expert, mixture layer ${l + 1} of ${layers.length}`;
      const color = (e) => layer.length <= 7 ? look(e).color : d3.interpolateTurbo((e + 0.5) / layer.length);
      const experts = layer.map((list, e) => ({ name: `expert ${e}`, color: color(e), dash: "",
        points: list.map((y, i) => ({ x: run.loads.step[i], y })).filter((p) => isNumber(p.y)) }));
      const key = el("p", { class: "key" }, ...experts.slice(0, 16).map((s, e) => el("span", {}, swatch(s), ` ${e}`)));
      lineChart(charts, name, key, experts);
      heatMap(charts, `${name}, as a map`, run, l, Math.max(2, top));
    });
  };
  choice.onchange();
}

function configurations() {
  runs.forEach((r, i) => {
    const set = new Set(r.set);
    const rows = Object.entries(r.config).map(([key, value]) => el("tr", {}, el("td", set.has(key) ? { class: "set" } : {}, key),
      el("td", { class: set.has(key) ? "set value" : "value" }, value)));
    const body = el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "setting"),
      el("th", { scope: "col" }, "value"))), el("tbody", {}, ...rows));
    part("configurations").append(el("details", { class: "run", id: `run-${i}` }, el("summary", {}, r.name),
      el("p", {}, r.state === "finished" ? "Finished" : r.state === "going on" ? "Still going on" : "Stopped before its end",
        ` at step ${text(r.step)}. The command that makes it:`),
      el("pre", { tabindex: 0 }, r.command), el("p", { class: "soft" }, "Bold: not as by default."),
      el("div", { class: "scroll" }, body)));
  });
}

const leaveOut = (ids) => ids.forEach((id) => { part(id).remove(); document.querySelector(`nav a[href="#${id}"]`).remove(); });
if (studies.length === 0) leaveOut(["studies"]); else studyParts();
if (runs.length === 0) {
  leaveOut(["summary", "runs", "curves", "loads", "texts", "configurations"]);
} else {
  summary();
  runTable();
  curves();
  loads();
  texts();
  configurations();
}
// On paper nothing can be opened.
addEventListener("beforeprint", () => document.querySelectorAll("details.run").forEach((d) => { d.open = true; }));
