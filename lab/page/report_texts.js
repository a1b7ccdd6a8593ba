// Where the text of language runs goes (lab/text_routing.h): expert by domain as a map, and examples in the colours of
// the chosen experts.

// An expert's colour; of many experts neighbours differ little, and the tip tells them apart.
const expertColor = (e, experts) => experts <= 7 ? `var(--c${e})` : d3.interpolateSinebow((e + 0.5) / experts);
// The bytes of a piece of text as they can be read: in a line by themselves, and in the text.
const byteName = (b) => b === 10 ? "line feed" : b === 32 ? "space" : b > 32 && b < 127 ? String.fromCharCode(b) : `byte ${b}`;
const pieceText = (piece) => piece.map((b) => b === 10 ? "↵\n" : b >= 32 && b < 127 ? String.fromCharCode(b) : "·").join("");
const pieceName = (piece) => piece.length === 1 ? byteName(piece[0]) : `"${pieceText(piece).replaceAll("\n", "")}"`;

function domainMap(parent, name, domains, shares) {
  const experts = shares[0].length, top = d3.max(shares, (row) => d3.max(row));
  const color = d3.scaleSequential(d3.interpolateViridis).domain([0, top]);
  const m = { left: 86, right: 16, top: 6, bottom: 26 }, row = 26, height = m.top + m.bottom + row * domains.length;
  const draw = (svg, width) => {
    svg.attr("viewBox", `0 0 ${width} ${height}`);
    const cell = (width - m.left - m.right) / experts;
    const x = (e) => m.left + e * cell, y = (d) => m.top + d * row;
    const label = (x, y, anchor, s) => svg.append("text").attr("x", x).attr("y", y).attr("text-anchor", anchor).text(s);
    domains.forEach((domain, d) => {
      label(m.left - 6, y(d) + row / 2 + 4, "end", domain);
      shares[d].forEach((share, e) => svg.append("rect").attr("class", "cell").attr("x", x(e)).attr("y", y(d))
        .attr("width", cell - 1).attr("height", row - 1).attr("fill", color(share)));
    });
    const every = Math.ceil(experts / Math.max(2, Math.floor((width - m.left) / 30)));
    label(m.left - 6, height - 8, "end", "expert");
    for (let e = 0; e < experts; e += every) label(x(e) + cell / 2, height - 8, "middle", e);
    return {
      at: (px, py) => [within(Math.floor((px - m.left) / cell), experts), within(Math.floor((py - m.top) / row), domains.length)],
      moved: (p, key) => p === null ? [0, 0] : [within(step(key, p[0], experts), experts),
        within(p[1] + (key === "ArrowDown") - (key === "ArrowUp"), domains.length)],
      show: ([e, d]) => {
        svg.append("rect").attr("class", "cursor").attr("x", x(e)).attr("y", y(d)).attr("width", cell - 1).attr("height", row - 1);
        return [x(e) + cell, y(d) + row / 2, [[null, `${domains[d]}, expert ${e}`],
          [null, "share of the domain's choices", text(shares[d][e])], [null, "times the even share", text(shares[d][e] * experts)]]];
      },
    };
  };
  figure(parent, name, `Share of a domain's choices: 0 dark, ${text(top)} bright. Even would be ${text(1 / experts)}.`, draw,
    () => table([{ title: "domain", value: (d) => domains[d] },
      ...d3.range(experts).map((e) => ({ title: `expert ${e}`, value: (d) => shares[d][e] }))], d3.range(domains.length), false));
}

// Each piece in its expert's colour. Hover, or the arrow keys in the text, show its scores.
function colouredText(parent, name, { pieces, chosen, scores }) {
  const experts = scores[0].length;
  const spans = pieces.map((piece, t) => {
    const span = el("span", {}, pieceText(piece));
    if (chosen[t] >= 0) span.style.setProperty("--expert", expertColor(chosen[t], experts));
    return span;
  });
  const all = el("pre", { class: "routed", tabindex: 0, role: "img",
    "aria-label": `${name}. Arrow keys show the scores of a piece; the table below has them all.` }, ...spans);
  let place = null;
  const select = (t) => {
    if (place !== null) spans[place].classList.remove("at");
    place = t;
    if (t === null) { tip.hidden = true; return; }
    spans[t].classList.add("at");
    const box = spans[t].getBoundingClientRect();
    const best = d3.range(experts).sort((a, b) => scores[t][b] - scores[t][a]).slice(0, 8);
    showTip({ x: box.right, y: box.bottom }, [[null, pieceName(pieces[t]), chosen[t] < 0 ? "no expert had room" : `expert ${chosen[t]}`],
      ...best.map((e) => [{ color: expertColor(e, experts), dash: "" }, `expert ${e}`, text(scores[t][e])])]);
  };
  all.onpointermove = all.onpointerdown = (event) => {
    const t = spans.indexOf(event.target);
    if (t >= 0) select(t);
  };
  all.onpointerleave = all.onblur = () => select(null);
  all.onfocus = () => { if (all.matches(":focus-visible")) select(0); };
  all.onkeydown = (event) => {
    if (!["ArrowLeft", "ArrowRight", "Home", "End", "Escape"].includes(event.key)) return;
    event.preventDefault();
    select(event.key === "Escape" ? null : within(step(event.key, place ?? 0, pieces.length), pieces.length));
  };
  const details = el("details", {}, el("summary", {}, "Table"));
  details.addEventListener("toggle", () => {
    if (details.children.length > 1) return;
    details.append(table([{ title: "place", value: (t) => t }, { title: "piece", value: (t) => pieceName(pieces[t]) },
      { title: "chosen", value: (t) => chosen[t] < 0 ? null : chosen[t] },
      ...d3.range(experts).map((e) => ({ title: `score ${e}`, value: (t) => scores[t][e] }))], d3.range(pieces.length), false));
  });
  parent.append(el("figure", {}, el("figcaption", {}, el("h3", {}, name)), all, details));
}

function texts() {
  const known = runs.filter((r) => r.texts);
  if (known.length === 0) return;
  part("texts").hidden = document.querySelector("nav a[href='#texts']").hidden = false;
  const runChoice = el("select", { id: "text-run" }, ...known.map((r) => el("option", { value: runs.indexOf(r) }, r.name)));
  const layerChoice = el("select", { id: "text-layer" });
  const charts = el("div", { class: "charts" });
  part("texts").append(el("p", {}, el("label", { for: "text-run" }, "Of the run "), runChoice, " ",
    el("label", { for: "text-layer" }, "the mixture layer "), layerChoice), el("p", { class: "soft" },
    "Validation text at inference, by the newest checkpoint. A piece (a byte, or more) has the colour of the selected expert of the largest weight."), charts);
  const draw = () => {
    const { domains, windows, shares, texts } = runs[runChoice.value].texts, layer = +layerChoice.value;
    const experts = shares[layer][0].length;
    charts.replaceChildren();
    domainMap(charts, `Expert by domain, of ${count(d3.sum(windows), "window")}`, domains, shares[layer]);
    if (experts <= 16) {
      charts.firstChild.append(el("p", { class: "key" }, "Colours of the experts: ", ...d3.range(experts).map((e) =>
        el("span", {}, swatch({ color: expertColor(e, experts), dash: "" }), ` ${e}`))));
    }
    domains.forEach((domain, d) => colouredText(charts, `A text of ${domain}`, { pieces: texts[d].pieces,
      chosen: texts[d].chosen[layer], scores: texts[d].scores[layer] }));
  };
  runChoice.onchange = () => {
    const layers = runs[runChoice.value].texts.shares.length;
    layerChoice.replaceChildren(...d3.range(layers).map((l) => el("option", { value: l }, `${l + 1} of ${layers}`)));
    draw();
  };
  layerChoice.onchange = draw;
  runChoice.onchange();
}

