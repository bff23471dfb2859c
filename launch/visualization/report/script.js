"use strict";
// Everything shown here comes from names that may be anybody's: it is set as text, never as HTML.
const data = JSON.parse(document.getElementById("report-data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
let matrix = null;  // made at the end, by drawMatrix of matrix.js

function make(tag, text, onclick) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (onclick) { node.type = "button"; node.addEventListener("click", onclick); }
  return node;
}

function matching(names, text) {
  const wanted = text.trim().toLowerCase();
  return wanted ? names.map((name, number) => number).filter(number => names[number].toLowerCase().includes(wanted)) : [];
}

// Commands: a button that copies.
for (const box of all(".command")) {
  const button = make("button", "copy", async () => {
    const code = box.querySelector("code");
    try { await navigator.clipboard.writeText(code.textContent); } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
  box.append(button);
}

// Charts: the values under the pointer, in the legend.
all("figure.chart").forEach((figure, index) => {
  const chart = data.charts.filter(one => one.lines)[index], svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor"), values = all(".key b", figure);
  const clear = () => { cursor.setAttribute("visibility", "hidden"); values.forEach(node => { node.textContent = ""; }); };
  const show = event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * chart.width / box.width;
    const epoch = (x - chart.left) / (chart.right - chart.left) * chart.end;
    if (epoch < 0 || epoch > chart.end) return clear();
    let at = 0;
    chart.lines.forEach((line, number) => {
      let best = 0;
      line.x.forEach((value, place) => { if (Math.abs(value - epoch) < Math.abs(line.x[best] - epoch)) best = place; });
      values[number].textContent = `${Number(line.y[best].toPrecision(4))}${chart.unit}${number ? "" : ` at epoch ${Number(line.x[best].toPrecision(4))}`}`;
      if (!number) at = line.x[best];
    });
    const place = chart.left + at / chart.end * (chart.right - chart.left);
    cursor.setAttribute("x1", place); cursor.setAttribute("x2", place); cursor.setAttribute("visibility", "visible");
  };
  svg.addEventListener("pointermove", show); svg.addEventListener("pointerdown", show); svg.addEventListener("pointerleave", clear);
});

// The table of classes: sorted by a click on a title, searched by name, a row leads to the matrix.
const classTable = document.getElementById("classes");
if (classTable) {
  const body = classTable.tBodies[0], rows = [...body.rows], search = document.getElementById("find-class");
  const names = rows.map(row => row.cells[0].textContent.toLowerCase());
  const buttons = all("th button", classTable);
  const value = (row, key) => key === "name" ? row.cells[0].textContent : Number(row.dataset[key]);
  buttons.forEach(button => button.addEventListener("click", () => {
    const key = button.dataset.key, rising = button.getAttribute("aria-sort") !== "ascending";
    buttons.forEach(other => other.removeAttribute("aria-sort"));
    button.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const compare = (a, b) => key === "name" ? value(a, key).localeCompare(value(b, key)) : value(a, key) - value(b, key);
    body.append(...[...rows].sort((a, b) => rising ? compare(a, b) : compare(b, a)));
  }));
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    rows.forEach((row, number) => { row.hidden = !names[number].includes(wanted); });
  });
  body.addEventListener("click", event => {
    const row = event.target.closest("tr");
    if (row && matrix) { matrix.showClass(Number(row.dataset.class)); document.getElementById("confusion").scrollIntoView(); }
  });
}

if (data.confusion) matrix = drawMatrix(data.confusion);
