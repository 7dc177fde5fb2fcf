"use strict";
// What the scripts of the page share. All text of the sweep is set as text; never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const paper = matchMedia("print");
const PRINTED_WIDTH = 680, FONT = "system-ui, sans-serif"; // of charts, in pixels
const PAGE = 20, MOST_PRINTED = 500; // rows of a table: on the screen at once, and on paper
const charts = new Map(); // element -> function that draws into it; filled as sections are opened
let printing = false;

/** Columns as an array of objects, one for each row. */
function rowsOf(columns) {
  const lists = Object.entries(columns);
  return lists[0][1].map((_, i) => Object.fromEntries(lists.map(([name, values]) => [name, values[i]])));
}

const trials = rowsOf(data.trials).map((trial, i) => ({ ...trial, place: i + 1 }));

/** A new element with text or children; `attributes` are properties of it. */
function element(tag, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
}

/** Text for Plotly, which reads a few tags and entities. */
function plain(value) {
  const text = String(value).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  return text.replace(/\s+/g, " ");
}

function short(value, length = 28) {
  const text = String(value);
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

/** A count or a setting as text, with four digits or all of a whole number; exact halves away from 0, as everywhere. */
function number(value) {
  if (typeof value !== "number") return value === null || value === undefined ? "–" : String(value);
  const rounded = Number.isInteger(value) ? value : Number(value.toPrecision(4));
  return rounded.toLocaleString("en", { maximumSignificantDigits: 17 }).replace("-", "−");
}

/** A measured value as text, with three decimals below 1, else four digits. */
function measured(value) {
  if (value === null) return "–";
  const size = Math.abs(value);
  const decimals = size < 10 ? 3 : size < 100 ? 2 : size < 1000 ? 1 : 0;
  const digits = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  return Number(value.toFixed(decimals)).toLocaleString("en", digits).replace("-", "−"); // as `number` of page.py rounds
}

const percent = (share) => `${number(Math.round(1000 * share) / 10)}\u00a0%`;
const interval = (low, high) => (low === null || high === null ? "–" : `${measured(low)} to ${measured(high)}`);
const ENDPOINTS = { zero: "sampled down to 0", observed: "sampling stopped at the noise level", distilled: "sampled in one step" };
const endpointText = (endpoint) => ENDPOINTS[endpoint];
const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** A word for the shell. */
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}

function muted(textContent) {
  return element("p", { className: "muted", textContent });
}

function commandBlock(text) {
  return element("div", { className: "command" }, element("pre", {}, element("code", { textContent: text })),
    element("button", { type: "button", className: "copy", textContent: "Copy" }));
}

document.addEventListener("click", ({ target }) => {
  if (!target.matches("button.copy")) return;
  const code = target.previousElementSibling;
  getSelection().selectAllChildren(code); // for browsers that refuse the clipboard
  navigator.clipboard?.writeText(code.textContent).then(() => { target.textContent = "Copied"; }, () => {});
});

/** Colours of the page in its present mode. */
function colours() {
  const style = getComputedStyle(document.documentElement);
  const variables = ["ink", "muted", "line", "paper", "panel", "accent", "low", "mid", "high", "bad", "good"];
  const found = Object.fromEntries(variables.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  return { ...found, scale: [[0, found.low], [0.5, found.mid], [1, found.high]] };
}

/** Draws, and draws again when the colours or the width change. */
function drawn(node, draw) {
  charts.set(node, draw);
  draw(node, colours());
}

const titleFont = (c) => ({ size: 13, color: c.muted });

function plot(node, traces, layout, c) {
  const width = PRINTED_WIDTH * (node.closest(".pair") ? 0.48 : 1);
  const size = printing ? { width, height: node.clientHeight } : {};
  const axis = { gridcolor: c.line, zerolinecolor: c.line, linecolor: c.line, tickcolor: c.line, automargin: true };
  const base = {
    autosize: true, ...size, font: { family: FONT, size: 13, color: c.ink }, hovermode: "closest",
    paper_bgcolor: c.paper, plot_bgcolor: c.paper, showlegend: false,
    margin: { l: 64, r: 16, t: layout.showlegend ? 40 : 16, b: 56 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal" },
    hoverlabel: { bgcolor: c.panel, bordercolor: c.line, font: { family: FONT, color: c.ink }, align: "left" },
  };
  const whole = { ...base, ...layout };
  for (const name of ["xaxis", "yaxis"]) {
    whole[name] = { ...axis, ...layout[name], title: { text: layout[name]?.title, font: titleFont(c) } };
  }
  return Plotly.react(node, traces, whole, { responsive: true, displayModeBar: false });
}

const redraw = () => charts.forEach((draw, node) => node.offsetParent && draw(node, colours()));

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

/** Lays the whole page out for paper, before the browser counts pages, or for the screen again. */
function setPrinting(wanted) {
  if (wanted === printing) return;
  printing = wanted;
  document.documentElement.classList.toggle("printing", printing);
  if (printing) document.querySelectorAll("details").forEach(open);
  redraw();
  for (const table of document.querySelectorAll(".scroll")) { // a wide one shrinks
    table.style.zoom = "";
    if (printing) table.style.zoom = Math.min(1, table.clientWidth / table.scrollWidth);
  }
}
addEventListener("beforeprint", () => setPrinting(true));
addEventListener("afterprint", () => setPrinting(paper.matches));
paper.addEventListener("change", () => setPrinting(paper.matches));

/** Fills a folded section when it is opened first. */
const fillers = new Map();
function whenOpen(id, fill) {
  const section = document.getElementById(id);
  if (!section) return;
  fillers.set(section, fill);
  section.addEventListener("toggle", () => section.open && open(section));
}
function open(section) {
  section.open = true;
  const fill = fillers.get(section);
  fillers.delete(section);
  if (fill) fill(section);
}

/** A table of `rows` in pages; on paper whole, or with a line on the `file` that holds all.
 *
 * columns: {name, value(row), text(row), press(row)}; numbers are aligned right. */
function pagedTable(node, rows, columns, file) {
  let page = 0, order = null, wanted = "";
  const text = (column, row) => (column.text ? column.text(row) : short(number(column.value(row)), 160));
  const numeric = columns.map((column) => rows.some((row) => typeof column.value(row) === "number"));
  const filter = element("input", { type: "search", placeholder: "Filter", ariaLabel: "Filter the rows" });
  const status = element("span"), left = muted("");
  const [before, after] = ["Previous", "Next"].map((name) => element("button", { type: "button", textContent: name }));
  const head = element("tr"), body = element("tbody");
  columns.forEach((column, i) => {
    const button = element("button", { type: "button", title: "Sort" }, column.name.replaceAll(".", ".\u200b"));
    button.onclick = () => { order = { i, down: order?.i === i && !order.down }; page = 0; show(); };
    head.append(element("th", { className: numeric[i] ? "n" : "" }, button));
  });
  function compare(a, b) {
    const [x, y] = [a, b].map((row) => columns[order.i].value(row));
    if (x === null || y === null) return (x === null) - (y === null);
    const sign = order.down ? -1 : 1;
    return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
  }
  function show() {
    const has = (row) => columns.some((column) => text(column, row).toLowerCase().includes(wanted));
    const found = wanted ? rows.filter(has) : [...rows];
    if (order) found.sort(compare);
    const first = printing ? 0 : page * PAGE, pageRows = found.slice(first, first + (printing ? MOST_PRINTED : PAGE));
    left.textContent = printing && pageRows.length < rows.length
      ? `${number(pageRows.length)} of ${number(rows.length)} rows; all are in ${file}.` : "";
    body.replaceChildren(...pageRows.map((row) => element("tr", {}, ...columns.map((column, i) => {
      const content = text(column, row);
      const cell = element("td", { className: numeric[i] ? "n" : content.length > 24 ? "long" : "" });
      if (!column.press) return Object.assign(cell, { textContent: content });
      const button = element("button", { type: "button", textContent: content });
      button.onclick = () => column.press(row);
      cell.append(button);
      return cell;
    }))));
    const range = `${number(first + 1)}–${number(first + pageRows.length)}`;
    status.textContent = found.length ? `${range} of ${number(found.length)}` : "none";
    before.disabled = page === 0;
    after.disabled = first + PAGE >= found.length;
  }
  filter.oninput = () => { wanted = filter.value.toLowerCase(); page = 0; show(); };
  before.onclick = () => { page -= 1; show(); };
  after.onclick = () => { page += 1; show(); };
  const pager = element("div", { className: "pager" }, filter, before, status, after);
  node.replaceChildren(...(rows.length > PAGE ? [pager] : []),
    element("div", { className: "scroll" }, element("table", {}, element("thead", {}, head), body)), left);
  show();
  if (rows.length > PAGE) charts.set(node, show);
}
