// The charts of the overview, the filters, and the list of all rows.
"use strict";

// Colours and symbols of the splits, the same in all charts.
const SPLITS = ["train", "val", "test"];
const splitColors = { domain: SPLITS, range: ["var(--train)", "var(--val)", "var(--test)"] };
const present = (data) => SPLITS.filter((split) => data.some((one) => one.split === split));

figures.define("durations", (data, width) =>
  Plot.plot({
    width,
    height: 200,
    marginLeft: 44,
    x: { label: "seconds" },
    y: { label: "rows", grid: true, ticks: 5, tickFormat: (count) => (Number.isInteger(count) ? count.toLocaleString("en") : "") },
    color: { ...splitColors, domain: present(data.bars), range: present(data.bars).map((split) => `var(--${split})`), legend: true },
    marks: [
      Plot.rectY(data.bars, { x1: "from", x2: "to", y: "rows", fill: "split", order: SPLITS, insetLeft: 0.5, insetRight: 0.5 }),
      Plot.ruleY([0]),
    ],
  }),
);

figures.define("missing", (data, width) => {
  const bars = data.bars.map((bar) => ({ ...bar, name: `${bar.split}, ${bar.modality}` }));
  return Plot.plot({
    width,
    height: 44 + 24 * bars.length,
    marginLeft: 82,
    marginRight: 50,
    x: { label: "% of the split's rows", grid: true, ticks: Math.max(3, width / 90), zero: true },
    y: { label: null, domain: bars.map((bar) => bar.name) },
    color: { type: "identity" },
    marks: [
      Plot.barX(bars, { x: "share", y: "name", fill: "colour", insetTop: 1, insetBottom: 1 }),
      Plot.text(bars, { x: "share", y: "name", text: (bar) => `${bar.share.toFixed(1)} %`, textAnchor: "start", dx: 4 }),
      Plot.ruleX([0]),
    ],
  });
});

figures.define("class-balance", (data, width) => {
  const longest = Math.max(...data.classes.map((name) => name.length));
  const marginLeft = Math.min(width * 0.38, 16 + 6.2 * longest);
  const fits = Math.floor((marginLeft - 14) / 6.2);
  return Plot.plot({
    width,
    height: 60 + 17 * data.classes.length,
    marginLeft,
    marginTop: 34,
    x: { label: "% of the split's rows", axis: "top", grid: true, zero: true, ticks: Math.max(3, width / 110) },
    y: { label: null, domain: data.classes, tickFormat: (name) => (name.length > fits ? name.slice(0, fits - 1) + "…" : name) },
    color: { domain: data.splits, range: data.splits.map((split) => `var(--${split})`) },
    symbol: { domain: data.splits, legend: true },
    marks: [
      Plot.ruleY(data.dots, Plot.groupY({ x1: "min", x2: "max" }, { x: "share", y: "class", stroke: "currentColor", strokeOpacity: 0.3 })),
      Plot.dot(data.dots, {
        x: "share", y: "class", fill: "split", symbol: "split", r: 4,
        title: (dot) => `${dot.class}, ${dot.split}: ${dot.rows.toLocaleString("en")} rows, ${dot.share.toFixed(1)} %`,
      }),
    ],
  });
});

// What the filters ask of a row: { split, labels, bits, id }. Bits: 1 has the first modality, 2 the second, 4 a problem.
const TESTS = {
  "": () => true,
  complete: (bits) => (bits & 3) === 3,
  no0: (bits) => !(bits & 1),
  no1: (bits) => !(bits & 2),
  problem: (bits) => (bits & 4) !== 0,
};

function reader(form) {
  const { split, class: label, has, id } = Object.fromEntries(new FormData(form));
  const number = label === "" ? -1 : Number(label);
  const part = id.trim().toLowerCase();
  const test = TESTS[has] ?? TESTS[""];
  return (row) =>
    (!split || row.split === split) &&
    (number < 0 || row.labels.includes(number)) &&
    test(row.bits) &&
    (!part || row.id.toLowerCase().includes(part));
}

const form = document.querySelector("form.filters");
const list = document.querySelector(".list");
const count = (shown, all) => `${shown.toLocaleString("en")} of ${all.toLocaleString("en")} samples`;

function filterCards() {
  const rows = [...document.querySelectorAll("article.sample")].map((card) => ({
    card,
    split: card.dataset.split,
    labels: card.dataset.labels.split(" ").filter(Boolean).map(Number),
    bits: Number(card.dataset.bits),
    id: card.dataset.id,
  }));
  return () => {
    const matches = reader(form);
    let shown = 0;
    for (const row of rows) {
      row.card.hidden = !matches(row);
      if (!row.card.hidden) shown += 1;
    }
    form.querySelector("output").textContent = count(shown, rows.length);
  };
}

// The rows that the list shows at once.
const LIST_SIZE = 50;

function filterList() {
  const data = JSON.parse(list.querySelector("script").textContent);
  const rows = data.rows.map(([id, split, number, labels, bits, page]) => ({ id, split: data.splits[split], number, labels, bits, page }));
  const items = document.createElement("ol");
  const place = document.createElement("span");
  const button = (text, step) => {
    const element = document.createElement("button");
    element.type = "button";
    element.textContent = text;
    element.addEventListener("click", () => show(start + step * LIST_SIZE));
    return element;
  };
  const back = button("‹ previous", -1);
  const on = button("next ›", 1);
  const steps = document.createElement("p");
  steps.className = "steps";
  steps.append(back, place, on);
  list.append(items, steps);
  let found = rows;
  let start = 0;

  function item(row) {
    const element = document.createElement("li");
    const link = document.createElement("a");
    link.textContent = row.id;
    link.href = `${data.folder}/${row.split}-${String(row.page).padStart(4, "0")}.html#${row.split}-${row.number}`;
    const about = document.createElement("span");
    about.className = "note";
    about.textContent = [row.split, row.labels.map((label) => data.classes[label]).join(", ")].filter(Boolean).join(" · ");
    element.append(link, about);
    data.modalities.forEach((modality, i) => {
      if (row.bits & (1 << i)) return;
      const badge = document.createElement("span");
      badge.className = "badge missing";
      badge.dataset.modality = modality;
      badge.textContent = `no ${modality}`;
      element.append(badge);
    });
    return element;
  }

  function show(from) {
    start = Math.max(0, Math.min(from, Math.floor((found.length - 1) / LIST_SIZE) * LIST_SIZE));
    const end = Math.min(start + LIST_SIZE, found.length);
    items.replaceChildren(...found.slice(start, end).map(item));
    items.start = start + 1;
    back.disabled = start === 0;
    on.disabled = end === found.length;
    place.textContent = found.length ? `${(start + 1).toLocaleString("en")} to ${end.toLocaleString("en")}` : "no sample";
  }

  return () => {
    found = rows.filter(reader(form));
    form.querySelector("output").textContent = count(found.length, rows.length);
    show(0);
  };
}

const filter = list ? filterList() : filterCards();
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", filter);
filter();
