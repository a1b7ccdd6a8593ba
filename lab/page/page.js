// What the pages share: elements, numbers, tables, the tip. The data of a page is its JSON block; texts of it become
// text nodes alone, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const part = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

const isNumber = (v) => typeof v === "number";
function text(v, decimals = 4) {
  if (!isNumber(v)) return v ?? "–";
  const size = Math.abs(v);
  if (Number.isInteger(v)) return d3.format(",d")(v);
  return d3.format(size >= 100 ? ",.1f" : size >= 0.001 ? `,.${decimals}f` : ".2e")(v);
}
const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
const unique = (list) => [...new Set(list)];

function swatch({ color, dash }) {
  const svg = d3.create("svg").attr("class", "swatch").attr("aria-hidden", "true");
  svg.append("line").attr("x2", 26).attr("y1", 5).attr("y2", 5).attr("stroke-width", 3)
    .attr("stroke-dasharray", dash).style("stroke", color);
  return svg.node();
}

// ---- the tip ----

const tip = part("tip");
function showTip(box, lines) {
  tip.replaceChildren(...lines.map(([mark, name, value]) =>
    el("div", {}, ...(mark ? [swatch(mark)] : []), name, ...(value === undefined ? [] : [el("b", {}, value)]))));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = box.x + 14 + width > innerWidth ? box.x - 14 - width : box.x + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, Math.min(box.y - height / 2, innerHeight - height - 4))}px`;
}

// ---- tables ----

// columns: [{title, value(row), show(row)}]; a value is a number, a text or null, which is sorted last.
function table(columns, rows, sortable) {
  const numeric = columns.map((c) => rows.every((r) => c.value(r) === null || isNumber(c.value(r))));
  const body = el("tbody");
  const fill = () => body.replaceChildren(...rows.map((r) => el("tr", {}, ...columns.map((c, i) =>
    el("td", numeric[i] ? { class: "number" } : {}, c.show ? c.show(r) : text(c.value(r)))))));
  const heads = columns.map((c, i) => {
    const head = el("th", { scope: "col", ...(numeric[i] && { class: "number" }) }, sortable ? "" : c.title);
    if (!sortable) return head;
    const button = el("button", { type: "button" }, c.title);
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const h of heads) h.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows = [...rows].sort((a, b) => {
        const [x, y] = [c.value(a), c.value(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return down ? d3.descending(x, y) : d3.ascending(x, y);
      });
      fill();
    };
    head.append(button);
    return head;
  });
  fill();
  const all = el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body);
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" }, all);
}
