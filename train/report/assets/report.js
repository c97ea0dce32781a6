// Draws the figures of a report with Observable Plot. Colours are CSS variables, so that nothing
// has to be drawn again when a page turns dark.
"use strict";

// The number of colours of series; those after them have dashes.
const COLOURS = 6;
const DASHES = [null, "7 3", "2 3", "9 3 2 3", "4 2", "12 4"];
const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "wye"];
// The series after the last colour have the next dash and symbol of their colour.
const style = (series) => (series + Math.floor(series / COLOURS)) % DASHES.length;
const dash = (series) => DASHES[style(series)];
const percent = (value) => (100 * value).toFixed(1);

// Three significant digits, without an exponent where that is short.
function threeDigits(value) {
  const size = Math.abs(value);
  const plain = size === 0 || (size >= 1e-4 && size < 1e5);
  const short = Number(value.toPrecision(3));
  return plain ? String(short) : short.toExponential();
}

// A mean and its standard deviation, if it has one.
function average(text, mean, sd) {
  return sd === null ? text(mean) : `${text(mean)} \u00b1 ${text(sd)}`;
}

// The ends of an axis; where all values are equal it goes from zero to twice that value.
function ends(low, high) {
  if (low < high) return [low, high];
  return low === 0 ? [0, 1] : [Math.min(0, 2 * low), Math.max(0, 2 * low)];
}

// Draws a plot; `options` are Plot's.
function plot(width, options) {
  return Plot.plot({ width, style: { fontSize: "12px" }, ...options });
}

// The space for labels of about 7 pixels a character, but not more than a share of the width.
function labelSpace(labels, width, share) {
  const longest = Math.max(...labels.map((label) => label.length));
  return Math.ceil(Math.min(7 * longest + 14, share * width));
}

// Draws a line of points (x, mean, standard deviation) that differs from others by its colour and
// its dash.
function line(points, { x, y, colour, series }) {
  return Plot.line(points, { x, y, stroke: colour, strokeWidth: 1.8, strokeDasharray: dash(series) });
}

// Draws a band of one standard deviation to each side of such points.
function band(points, { x, scale, colour }) {
  return Plot.areaY(points.filter((d) => d[2] !== null), {
    x,
    y1: (d) => scale * (d[1] - d[2]),
    y2: (d) => scale * (d[1] + d[2]),
    fill: colour,
    fillOpacity: 0.14,
    clip: true,
  });
}

// Curves over the steps of training: a mean with its band, and the raw values behind.
figures.define("curves", ({ percent: inPercent, dots, curves }, width) => {
  const scale = inPercent ? 100 : 1;
  const text = inPercent ? percent : threeDigits;
  const x = (d) => d[0];
  const y = (d) => scale * d[1];

  const values = curves.flatMap(({ points, raw }) => [...points, ...raw].map(y));
  const bands = curves.flatMap(({ points }) =>
    points.flatMap(([, mean, sd]) => [scale * (mean - (sd ?? 0)), scale * (mean + (sd ?? 0))]));
  const low = d3.min(values);
  const top = Math.max(d3.max(values), d3.max(bands));
  // A band may reach below zero, where no loss can be.
  const least = Math.min(low, low >= 0 ? Math.max(0, d3.min(bands)) : d3.min(bands));

  const marks = [
    ...curves.map(({ raw, colour }) =>
      Plot.line(raw, { x, y, stroke: colour, strokeOpacity: 0.35, strokeWidth: 0.8 })),
    ...curves.map(({ points, colour }) => band(points, { x, scale, colour })),
    // Dashes are hard to tell apart on a wavy line: they are for colours that come again.
    ...curves.map(({ points, colour, series }) =>
      line(points, { x, y, colour, series: Math.floor(series / COLOURS) })),
  ];
  // A line of a single point would not be seen.
  const dotted = curves.filter(({ points }) => dots || points.length === 1);
  marks.push(...dotted.map(({ points, colour: fill }) => Plot.dot(points, { x, y, r: 3, fill })));
  const tips = curves.flatMap(({ label, points }) => points.map((d) => ({ label, d })));
  const lastStep = d3.max(curves, ({ points }) => d3.max(points, x));
  // From zero, unless all values lie far above it.
  const domain = d3.scaleLinear()
    .domain(ends(0 < least && least < top / 2 ? 0 : least, top))
    .nice(5);
  marks.push(Plot.tip(tips, Plot.pointer({
    x: (t) => x(t.d),
    y: (t) => y(t.d),
    title: ({ label, d }) =>
      [label, `step ${d[0]}`, average(text, d[1], d[2])].filter(Boolean).join("\n"),
  })));
  return plot(width, {
    height: 226,
    marginLeft: Math.max(40, labelSpace(domain.ticks(5).map(threeDigits), width, 0.4)),
    marginRight: 14,
    marginTop: 10,
    marginBottom: 38,
    x: {
      label: "step",
      labelArrow: "none",
      labelAnchor: "center",
      domain: ends(0, lastStep),
      nice: true,
      ticks: Math.min(lastStep, Math.max(3, Math.floor(width / 90))),
    },
    y: { label: null, ticks: 5, tickFormat: threeDigits, grid: true, domain: domain.domain() },
    marks,
  });
});

// A row for each class and a dot for each series; many classes take several columns where there is
// room.
figures.define("dots", ({ axis, percent: inPercent, from_zero, series, rows }, width) => {
  const scale = inPercent ? 100 : 1;
  const text = inPercent ? percent : threeDigits;
  const many = rows.length > 20;
  const gap = 24;
  const most = Math.min(3, Math.floor(width / 330), Math.ceil(rows.length / 12));
  const columns = many ? Math.max(1, most) : 1;
  const columnWidth = Math.floor((width - gap * (columns - 1)) / columns);
  const rowHeight = many ? 17 : 24;
  const marginLeft = labelSpace(rows.map((row) => row.class), columnWidth, 0.42);
  const ticks = Math.min(10, Math.max(3, Math.floor(columnWidth / 65)));
  const spread = Math.min(5, (rowHeight - 6) / series.length);

  const dots = rows.flatMap((row) => row.values.flatMap((value, s) => {
    if (value === null) return [];
    const { mean, sd } = value;
    return { class: row.class, s, value, x: scale * mean, sd: sd === null ? null : scale * sd };
  }));
  const reached = dots.flatMap(({ x, sd }) => [x - (sd ?? 0), x + (sd ?? 0)]);
  // A deviation may reach below zero or above 100 per cent, where no value can be.
  const low = dots.every((d) => d.x >= 0) ? Math.max(0, d3.min(reached)) : d3.min(reached);
  const high = inPercent ? Math.min(100, d3.max(reached)) : d3.max(reached);
  const domain = ends(...(from_zero ? d3.extent([0, low, high]) : [low, high]));

  function column(part) {
    const classes = part.map((row) => row.class);
    const inside = dots.filter((d) => classes.includes(d.class));
    const fontSize = many ? 11 : 12;
    const lineWidth = (marginLeft - 8) / fontSize;
    const marks = [
      Plot.axisY({ label: null, tickSize: 0, lineWidth, textOverflow: "ellipsis", fontSize }),
      Plot.gridX({ ticks }),
      Plot.gridY({ strokeOpacity: 0.07 }),
    ];
    // Of a long column both ends have ticks.
    const long = part.length > 40;
    if (long) {
      const axis = { ticks, tickFormat: threeDigits };
      marks.push(Plot.axisX(axis), Plot.axisX({ ...axis, anchor: "top", label: null }));
    }
    if (from_zero) marks.push(Plot.ruleX([0], { strokeOpacity: 0.6 }));
    series.forEach(({ colour: stroke, symbol }, s) => {
      const own = inside.filter((d) => d.s === s);
      const y = "class";
      const dy = (s - (series.length - 1) / 2) * spread;
      if (from_zero) {
        marks.push(Plot.ruleY(own, { y, x1: 0, x2: "x", stroke, strokeOpacity: 0.55, dy }));
      }
      const deviations = { x1: (d) => d.x - d.sd, x2: (d) => d.x + d.sd };
      marks.push(
        Plot.ruleY(own.filter((d) => d.sd !== null), {
          y, ...deviations, stroke, strokeWidth: 1.2, dy, clip: true,
        }),
        Plot.dot(own, { y, x: "x", fill: stroke, symbol: SYMBOLS[symbol], r: many ? 3 : 4, dy }),
      );
    });
    marks.push(Plot.tip(inside, Plot.pointer({
      y: "class",
      x: "x",
      title: ({ class: name, s, value }) =>
        `${name}\n${series[s].name}: ${average(text, value.mean, value.sd)}`,
    })));
    return plot(columnWidth, {
      height: rowHeight * part.length + (long ? 58 : 40),
      marginLeft,
      marginRight: 12,
      marginTop: long ? 22 : 4,
      marginBottom: 36,
      x: {
        label: axis,
        labelArrow: "none",
        labelAnchor: "right",
        domain,
        nice: true,
        ticks,
        tickFormat: threeDigits,
      },
      y: { domain: classes },
      marks,
    });
  }

  const perColumn = Math.ceil(rows.length / columns);
  const parts = d3.range(columns).map((c) => rows.slice(c * perColumn, (c + 1) * perColumn));
  const place = document.createElement("div");
  place.style = `display: flex; align-items: flex-start; gap: ${gap}px`;
  place.append(...parts.filter((part) => part.length > 0).map(column));
  return place;
});

// A confusion matrix as a heat map: each row is divided by its sum.
figures.define("confusion", ({ classes, counts }, width) => {
  const n = classes.length;
  const cells = counts.flatMap((row, truth) => {
    const total = d3.sum(row);
    const share = (count) => (total ? count / total : 0);
    return row.map((count, predicted) => ({ truth, predicted, count, total, share: share(count) }));
  });
  const some = cells.filter((d) => d.count > 0);
  const place = { x: "predicted", y: "truth" };

  // Names need cells of some size; without them the matrix takes the whole width.
  const space = labelSpace(classes, width, 0.3);
  const largest = n > 12 ? 900 : 420;
  const labelled = Math.min(width - space - 8, largest) / n >= 7;
  const margin = labelled ? space : 8;
  const side = Math.min(width - margin - 8, largest);
  const cell = side / n;

  const marks = [
    Plot.cell(some, {
      ...place,
      fill: "var(--accent)",
      fillOpacity: (d) => 0.06 + 0.94 * d.share,
      inset: cell > 12 ? 0.5 : 0,
    }),
    Plot.frame({ strokeOpacity: 0.3 }),
  ];
  if (labelled) {
    const fontSize = Math.min(12, cell * 0.95);
    const labels = {
      label: null,
      tickSize: 0,
      tickFormat: (i) => classes[i],
      lineWidth: (space - 8) / fontSize,
      textOverflow: "ellipsis",
      fontSize,
    };
    marks.push(Plot.axisY(labels), Plot.axisX({ ...labels, anchor: "bottom", tickRotate: -90 }));
  }
  if (cell >= 18) {
    marks.push(Plot.text(some, {
      ...place,
      text: "count",
      fontSize: Math.min(12, cell * 0.45),
      fill: (d) => (d.share > 0.55 ? "var(--ground)" : "var(--text)"),
    }));
  }
  marks.push(Plot.tip(cells, Plot.pointer({
    ...place,
    title: ({ truth, predicted, count, total, share }) =>
      `true: ${classes[truth]}\npredicted: ${classes[predicted]}\n` +
      `${count} of ${total} (${percent(share)} %)`,
  })));
  const scale = { domain: d3.range(n), padding: 0, axis: null };
  return plot(margin + side + 8, {
    height: side + margin + 4,
    marginLeft: margin,
    marginRight: 8,
    marginTop: 4,
    marginBottom: margin,
    x: scale,
    y: scale,
    opacity: { type: "identity" },
    color: { type: "identity" },
    marks,
  });
});

// Moves the positions of labels apart until neighbours have `least` pixels between them.
function apart(positions, least, low, high) {
  const order = d3.range(positions.length).sort((a, b) => positions[a] - positions[b]);
  const placed = [...positions];
  for (const [above, below] of d3.pairs(order)) {
    placed[below] = Math.max(placed[below], placed[above] + least);
  }
  let limit = high;
  for (const at of order.reverse()) {
    placed[at] = Math.max(low, Math.min(placed[at], limit));
    limit = placed[at] - least;
  }
  return placed;
}

// Scores by missing rate; lines differ in colour, dash and marker, and end in their names.
figures.define("rates", ({ metric, lines }, width) => {
  const height = 320;
  const marginTop = 26;
  const marginBottom = 38;
  const x = (d) => 100 * d[0];
  const y = (d) => 100 * d[1];

  const values = lines.flatMap(({ points }) =>
    points.flatMap(([, mean, sd]) => [100 * (mean - (sd ?? 0)), 100 * (mean + (sd ?? 0))]));
  const scale = d3.scaleLinear()
    .domain(ends(Math.max(0, d3.min(values)), Math.min(100, d3.max(values))))
    .nice(6)
    .range([height - marginBottom, marginTop]);
  const last = lines.map(({ points }) => points.at(-1));
  const end = d3.max(last, x);
  const heights = last.map((point) => scale(y(point)));
  const placed = apart(heights, 15, marginTop, height - marginBottom);

  const marks = lines.map(({ points, colour }) => band(points, { x, scale: 100, colour }));
  lines.forEach(({ label, points, colour, series }, i) => {
    const symbol = SYMBOLS[style(series)];
    marks.push(
      line(points, { x, y, colour, series }),
      Plot.dot(points, { x, y, symbol, fill: colour, r: 4 }),
    );
    // From a line that ends before the others, a thin one leads to its name.
    if (x(last[i]) < end) {
      const from = { x1: [x(last[i])], y1: [y(last[i])] };
      const to = { x2: [end], y2: [scale.invert(placed[i])] };
      const thin = { stroke: colour, strokeOpacity: 0.4, strokeWidth: 0.8 };
      marks.push(Plot.link([0], { ...from, ...to, ...thin }));
    }
    marks.push(Plot.text([label], {
      x: [end],
      y: [y(last[i])],
      fill: colour,
      fontWeight: 600,
      textAnchor: "start",
      dx: 10,
      dy: placed[i] - heights[i],
    }));
  });
  const tips = lines.flatMap(({ label, points }) => points.map((d) => ({ label, d })));
  marks.push(Plot.tip(tips, Plot.pointer({
    x: (t) => x(t.d),
    y: (t) => y(t.d),
    title: ({ label, d }) => `${label}, ${x(d)} % missing\n${average(percent, d[1], d[2])}`,
  })));
  return plot(width, {
    height,
    marginLeft: 40,
    marginRight: labelSpace(lines.map((one) => one.label), width, 0.36) + 8,
    marginTop,
    marginBottom,
    x: {
      label: "missing rate at test time, %",
      labelArrow: "none",
      labelAnchor: "center",
      ticks: width < 600 ? 5 : 10,
    },
    y: { label: metric, labelArrow: "none", domain: scale.domain(), ticks: 6, grid: true },
    marks,
  });
});
