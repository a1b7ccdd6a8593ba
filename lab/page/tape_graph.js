// Where the nodes of a tape go: levels from top to bottom, with few crossings, and arrows that pass between the boxes.

const BOX = 42, LEVEL = 78, GAP = 18, THREAD = 10;

// An arrow for each value that a node reads; `stopped` ones lead to a constant that has a node's value.
function linksOf(nodes) {
  return nodes.flatMap((node, to) => [
    ...unique(node.inputs).filter((from) => from >= 0).map((from) => ({ from, to, stopped: false })),
    ...(node.stopped >= 0 ? [{ from: node.stopped, to, stopped: true }] : [])]);
}

// Below all that it reads; what reads nothing is just above the first that reads it.
function levelsOf(nodes, links) {
  const levels = nodes.map(() => 0);
  for (const { from, to } of links) levels[to] = Math.max(levels[to], levels[from] + 1);
  nodes.forEach((_, i) => {
    const readers = links.filter((l) => l.from === i).map((l) => levels[l.to]);
    if (!links.some((l) => l.to === i) && readers.length > 0) levels[i] = Math.min(...readers) - 1;
  });
  return levels;
}

// The nearest places to the wished ones, in the sense of least squares, that keep order and widths: neighbours that
// are too close become a block, which goes where its members wish in the mean.
function spreadOut(items, wish) {
  let offset = 0;
  const offsets = items.map((item, i) => (offset += i === 0 ? 0 : (items[i - 1].width + item.width) / 2 + GAP));
  const blocks = [];
  items.forEach((_, i) => {
    blocks.push({ sum: wish[i] - offsets[i], size: 1 });
    while (blocks.length > 1 && blocks.at(-2).sum / blocks.at(-2).size > blocks.at(-1).sum / blocks.at(-1).size) {
      const last = blocks.pop();
      blocks.at(-1).sum += last.sum;
      blocks.at(-1).size += last.size;
    }
  });
  blocks.flatMap((b) => Array(b.size).fill(b.sum / b.size)).forEach((x, i) => { items[i].x = x + offsets[i]; });
}

// {width, height, boxes: [{x, y, width}], links: [{from, to, stopped, points}]}; x and y are those of the centre.
function layout(nodes, widthOf) {
  const links = linksOf(nodes), levels = levelsOf(nodes, links);
  const rows = Array.from({ length: d3.max(levels) + 1 }, () => []);
  const add = (level, width) => {
    const item = { level, width, above: [], below: [], x: 0 };
    rows[level].push(item);
    return item;
  };
  const items = nodes.map((_, i) => add(levels[i], widthOf(i)));
  const chains = links.map(({ from, to }) => {
    const chain = [items[from]];
    for (let level = levels[from] + 1; level < levels[to]; ++level) chain.push(add(level, THREAD));
    chain.push(items[to]);
    d3.pairs(chain).forEach(([a, b]) => { a.below.push(b); b.above.push(a); });
    return chain;
  });
  const numbered = (row) => row.forEach((item, i) => { item.x = i; });
  rows.forEach(numbered);
  const sweep = (row, side) => {
    const mean = new Map(row.map((item) => [item, d3.mean(item[side], (other) => other.x) ?? item.x]));
    row.sort((a, b) => mean.get(a) - mean.get(b));
    numbered(row);
  };
  for (let i = 0; i < 12; ++i) {
    rows.slice(1).forEach((row) => sweep(row, "above"));
    rows.slice(0, -1).reverse().forEach((row) => sweep(row, "below"));
  }
  rows.forEach((row) => spreadOut(row, row.map(() => 0)));
  for (let i = 0; i < 16; ++i) {
    for (const row of i % 2 === 0 ? rows : [...rows].reverse()) {
      spreadOut(row, row.map((item) => d3.mean([...item.above, ...item.below], (other) => other.x) ?? item.x));
    }
  }
  const all = rows.flat();
  const left = d3.min(all, (item) => item.x - item.width / 2) - GAP;
  const place = (item) => [item.x - left, GAP + BOX / 2 + item.level * LEVEL];
  return {
    width: d3.max(all, (item) => item.x + item.width / 2) + GAP - left,
    height: 2 * GAP + BOX + (rows.length - 1) * LEVEL,
    boxes: items.map((item) => ({ x: place(item)[0], y: place(item)[1], width: item.width })),
    links: links.map((link, i) => {
      const points = chains[i].map(place);
      points[0][1] += BOX / 2;
      points.at(-1)[1] -= BOX / 2 + 5;
      return { ...link, points };
    }),
  };
}

