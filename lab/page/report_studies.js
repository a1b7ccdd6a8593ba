// The part of the page of runs that shows studies (lab/study_report.h).

// Of every label a row, of every series a dot in it; series called low and high are an interval.
function dotChart(parent, name, note, labels, series) {
  const ends = ["low", "high"].map((end) => series.find((s) => s.name === end));
  const dots = series.filter((s) => !ends.includes(s)).map((s, i) => ({ ...s, ...look(i) }));
  const between = ends.every((s) => s);
  const row = 22, m = { left: 16 + 6.6 * Math.min(32, d3.max(labels, (l) => l.length)), right: 20, top: 6, bottom: 26 };
  const height = m.top + m.bottom + row * labels.length;
  const all = series.flatMap((s) => s.values).filter(isNumber);
  const draw = (svg, width) => {
    svg.attr("viewBox", `0 0 ${width} ${height}`);
    const left = Math.min(m.left, width / 2);
    const x = d3.scaleLinear().domain(d3.extent([...all, ...(between ? [0] : [])])).nice().range([left, width - m.right]);
    const y = (i) => m.top + row * (i + 0.5);
    svg.append("g").attr("class", "grid").attr("transform", `translate(0,${height - m.bottom})`)
      .call(d3.axisBottom(x).ticks(Math.max(2, Math.floor((width - left) / 80))).tickSize(-(height - m.top - m.bottom)).tickPadding(8));
    if (between) svg.append("line").attr("class", "rule").attr("x1", x(0)).attr("x2", x(0)).attr("y1", m.top).attr("y2", height - m.bottom);
    labels.forEach((label, i) => {
      const most = Math.floor(left / 6.6);
      svg.append("text").attr("x", left - 8).attr("y", y(i) + 4).attr("text-anchor", "end")
        .text(label.length > most ? `${label.slice(0, most - 1)}…` : label);
      if (between && ends.every((s) => isNumber(s.values[i]))) {
        svg.append("line").attr("x1", x(ends[0].values[i])).attr("x2", x(ends[1].values[i])).attr("y1", y(i)).attr("y2", y(i))
          .attr("stroke-width", 2).style("stroke", dots[0].color);
      }
      for (const s of dots) {
        if (isNumber(s.values[i])) svg.append("circle").attr("r", 4).attr("cx", x(s.values[i])).attr("cy", y(i)).style("fill", s.color);
      }
    });
    return {
      at: (px, py) => within(Math.floor((py - m.top) / row), labels.length),
      moved: (i, key) => within({ ArrowUp: i - 1, ArrowDown: i + 1 }[key] ?? step(key, i ?? 0, labels.length), labels.length),
      show: (i) => {
        svg.append("rect").attr("class", "cursor").attr("x", left).attr("y", y(i) - row / 2).attr("width", width - m.right - left).attr("height", row);
        return [width - m.right, y(i), [[null, labels[i]], ...dots.map((s) => [s, s.name, text(s.values[i])]),
          ...(between ? [[null, "interval", `${text(ends[0].values[i])} to ${text(ends[1].values[i])}`]] : [])]];
      },
    };
  };
  figure(parent, name, note, draw, () => table([{ title: "", value: (i) => labels[i] },
    ...series.map((s) => ({ title: s.name, value: (i) => s.values[i] }))], d3.range(labels.length), false));
}

function studyChart(parent, chart) {
  const series = chart.series.filter((s) => s.values.some(isNumber));
  if (series.length === 0) return;
  const name = chart.axis ? `${chart.title} (${chart.axis})` : chart.title;
  const numbers = chart.labels.map((l) => parseFloat(l.replace(/^.*=/, "")));
  const key = (all) => all.length < 2 ? null
    : el("p", { class: "key" }, ...all.map((s, i) => el("span", {}, swatch(look(i)), ` ${s.name}`)));
  if (!chart.lines || numbers.some((v) => !Number.isFinite(v)) || unique(numbers).length < numbers.length) {
    dotChart(parent, name, key(series.filter((s) => !["low", "high"].includes(s.name))), chart.labels, series);
    return;
  }
  const across = /^(.*)=/.exec(chart.labels[0])?.[1] ?? "";
  lineChart(parent, name, key(series), series.map((s, i) => ({ name: s.name, ...look(i),
    points: s.values.map((y, k) => ({ x: numbers[k], y })).filter((p) => isNumber(p.y)).sort((a, b) => a.x - b.x) })),
    new Set(), across);
}

function studyParts() {
  for (const s of studies) {
    const charts = el("div", { class: "charts" });
    part("studies").append(el("h3", {}, s.study), el("pre", { tabindex: 0 }, s.command));
    for (const [head, ...rows] of s.tables) {
      const value = (cell) => cell === "-" || cell === undefined ? null : cell !== "" && Number.isFinite(+cell) ? +cell : cell;
      part("studies").append(table(head.map((title, c) => ({ title, value: (r) => value(r[c]), show: (r) => r[c] ?? "" })), rows, true));
    }
    for (const line of s.legend.split("\n")) if (line) part("studies").append(el("p", { class: "soft" }, line));
    part("studies").append(charts, el("p", { class: "soft" },
      [`moegrad ${s.version}`, s.machine, `on the ${s.device} device`, s.data].filter((t) => t).join("; ")));
    s.charts.forEach((chart) => studyChart(charts, chart));
  }
}
