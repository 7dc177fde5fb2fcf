"use strict";
// The plane of both objectives: the frontier, clean training as the line to beat, and one checkpoint in detail.

const INTERVALS = 60; // checkpoints up to which all have their intervals; else the frontier alone
const PALE = 0.35; // opacity of points by whose values the frontier was chosen
const RING = 0; // the trace around the selected point
const REACH = 20, LEAD = 4; // pixels from the pointer to the point that it means, at most; less for the frontier's
const plane = document.getElementById("plane");
const names = data.measures ?? { fidelity: "fidelity", memorization: "memorization" };
const points = rowsOf(data.points); // candidates first, then the search's values on fewer samples
const once = points.filter((p) => p.once), onceName = `measured once, on ${samplesOf(once)} samples`;
const compared = points.filter((p) => p.samples === points[0].samples);
const front = (data.front ?? []).map(({ place, measures }, i) =>
  Object.assign(pointAt(place), { measures, picture: data.pictures[i] })); // by rising memorization
let selected = data.chosen ? pointAt(data.chosen) : undefined;

function samplesOf(rows) {
  return [...new Set(rows.map((p) => number(p.samples)))].join(" or ");
}

function pointAt([trial, images, endpoint]) {
  return points.find((p) => p.trial_id === trial && p.images === images && p.endpoint === endpoint);
}

/** Memorization as it is drawn: linear around 0, logarithmic far from it. */
const across = (memorization) => Math.asinh(memorization / data.linear_below);

function hoverText(p) {
  const ends = (name) => interval(p[`${name}_low`], p[`${name}_high`]);
  const value = (name) => `${plain(names[name])} ${measured(p[name])} (${ends(name)})`;
  return [
    `<b>${plain(short(p.trial_id))}</b> ${plain(p.role)}, ${plain(p["objective.kind"])}`,
    `noise level ${number(p["observed.sigma"])}, ${endpointText(p.endpoint)}`,
    `${number(p.images)} images (${percent(p.fraction)})`, value("fidelity"), value("memorization"),
    `on ${number(p.samples)} samples${p.choosing ? ", by which the frontier was chosen" : p.once ? ", once" : ""}`,
  ].join("<br>");
}

points.forEach((p, index) => {
  const arm = (scale, name, end) => Math.abs(scale(p[`${name}_${end}`] ?? p[name]) - scale(p[name]));
  const arms = (end) => [arm(across, "memorization", end), arm((value) => value, "fidelity", end)];
  const symbol = p.role === "baseline" ? "diamond" : { zero: "circle", observed: "triangle-up", distilled: "square" }[p.endpoint];
  Object.assign(p, { index, symbol, x: across(p.memorization), y: p.fidelity, low: arms("low"), high: arms("high") });
  Object.assign(p, { sigma: p["observed.sigma"], text: hoverText(p) });
});

/** The points that the switches leave; the frontier's are always shown. */
function shown() {
  const choice = document.querySelector("input[name=shown]:checked").value;
  const some = document.getElementById("once")?.checked ? [...compared, ...once] : compared;
  if (choice === "all") return some;
  if (choice === "full") return some.filter((p) => p.fraction === 1 || p.on_front);
  const rising = [...some].sort((a, b) => a.images - b.images || a.main_endpoint - b.main_endpoint);
  const last = new Map(rising.map((p) => [p.trial_id, p]));
  return some.filter((p) => p.on_front || last.get(p.trial_id) === p);
}

/** Labels of memorization that do not overlap, those near 0 first. */
function ticksWithin([left, right], width) {
  const kept = [], apart = (46 * (right - left)) / width;
  for (const tick of [...data.ticks].sort((a, b) => Math.abs(a) - Math.abs(b))) {
    const x = across(tick);
    if (x >= left && x <= right && kept.every((each) => Math.abs(x - across(each)) > apart)) kept.push(tick);
  }
  return kept;
}

/** A trace of points; `bars`: the colour of their intervals, if they have any. */
function scatter(rows, { marker, bars, ...more }) {
  const of = (name) => rows.map((p) => p[name]);
  const error = (i) => ({ type: "data", symmetric: false, thickness: 1, width: 0, color: bars, visible: Boolean(bars),
    array: rows.map((p) => p.high[i]), arrayminus: rows.map((p) => p.low[i]) });
  return {
    mode: "markers", x: of("x"), y: of("y"), text: of("text"), customdata: of("index"), showlegend: false,
    hovertemplate: "%{text}<extra></extra>",
    marker: { symbol: of("symbol"), opacity: rows.map((p) => (p.choosing ? PALE : 1)), ...marker },
    error_x: error(0), error_y: error(1), ...more,
  };
}

function drawPlane(node, c) {
  const rows = shown(), [left, right] = data.window.memorization.map(across), [bottom, top] = data.window.fidelity;
  const isWithin = (p) => p.x >= left && p.x <= right && p.y >= bottom && p.y <= top;
  const within = rows.filter((p) => isWithin(p) && !p.on_front), beyond = rows.filter((p) => !isWithin(p));
  const few = within.filter((p) => !p.once).length <= INTERVALS, narrow = node.clientWidth < 560 && !printing;
  const colour = (some) => ({
    color: some.map((p) => p.sigma), colorscale: c.scale, cmin: 0, cmax: Math.max(...points.map((p) => p.sigma)) || 1,
  });
  const line = (x, y, more) => ({ mode: "lines", x, y, hoverinfo: "skip", showlegend: x.length > 0, ...more });
  const many = within.filter((p) => !p.once), faint = within.filter((p) => p.once);
  const clean = many.filter((p) => p.role === "baseline"), others = many.filter((p) => p.role !== "baseline");
  const edge = beyond.map((p) => ({ ...p, symbol: p.y > top ? "triangle-up-open" : "triangle-right-open",
    x: Math.min(Math.max(p.x, left), right), y: Math.min(Math.max(p.y, bottom), top) }));
  let best = top; // of the values that are stated, which did not choose the frontier
  const steps = front.map((p) => [p.x, best = Math.min(best, p.y)]);
  const stairs = front.length ? [[front[0].x, top], ...steps, [right, best]] : [];
  const bar = narrow ? { orientation: "h", y: -0.22, yanchor: "top" } : {};
  const title = { text: "noise level (observed.sigma)", side: narrow ? "bottom" : "right", font: titleFont(c) };
  const traces = [
    line([], [], { mode: "markers", zorder: 4,
      marker: { size: 24, symbol: "circle-open", color: c.accent, line: { width: 2.5 } } }),
    scatter(faint, { name: onceName, showlegend: faint.length > 0,
      marker: { ...colour(faint), symbol: faint.map((p) => p.symbol), size: 7, opacity: 0.25 } }),
    scatter(others, { bars: few && c.line,
      marker: { ...colour(others), size: 9, line: { color: c.paper, width: 1 } } }),
    scatter(edge, { marker: { ...colour(edge), size: 8 }, cliponaxis: false }),
    line(data.clean.map(([, memorization]) => across(memorization)), data.clean.map(([fidelity]) => fidelity),
      { name: "clean training, mean over seeds", line: { color: c.bad, width: 2, dash: "dash" } }),
    scatter(clean, { marker: { color: c.paper, size: 8, line: { color: c.bad, width: 1.5 } }, bars: few && c.line,
      name: "clean training", showlegend: clean.length > 0 }),
    line(stairs.map(([x]) => x), stairs.map(([, y]) => y),
      { name: "frontier", line: { color: c.ink, width: 2, shape: "hv" } }),
    scatter(front, { bars: c.muted, zorder: 3, marker: { ...colour(front), size: 13, line: { color: c.ink, width: 2 },
      colorbar: { title, thickness: 10, outlinewidth: 0, ...bar } } }),
  ];
  const ticks = ticksWithin([left, right], node.clientWidth - 80);
  plot(node, traces, {
    xaxis: { title: `memorization (${plain(names.memorization)}), lower is better`, range: [left, right],
      zeroline: false, tickvals: ticks.map(across), ticktext: ticks.map(number) },
    yaxis: { title: `fidelity (${plain(names.fidelity)}), lower is better`, range: [bottom, top], zeroline: false },
    showlegend: true, margin: { l: 64, r: 8, t: 40, b: narrow ? 120 : 56 },
  }, c);
  document.getElementById("caption").textContent = caption(rows, beyond.length, few);
  ring();
}

function caption(rows, beyond, few) {
  const many = rows.filter((p) => !p.once), faint = rows.length - many.length;
  const said = [`${counted(many.length, "checkpoint")} on ${samplesOf(many)} samples each,`
    + ` with 95\u00a0% intervals${few ? "" : " on the frontier"}.`];
  if (data.once) {
    said.push(`${number(data.once)} more were ${onceName}, and do not compare with these: `
      + (faint ? `${faint < data.once ? `${number(faint)} of them ` : ""}shown faint.` : "not shown."));
  }
  if (compared.length < data.candidates) said.push(`Thinned from ${number(data.candidates)}, but for the frontier.`);
  if (points.some((p) => p.symbol === "triangle-up")) said.push("Triangles: sampling stopped at the noise level.");
  if (points.some((p) => p.choosing)) {
    said.push("Pale: values by which the frontier was chosen, lucky ones among them; the frontier was then measured anew.");
  }
  if (beyond) said.push(`${number(beyond)} beyond the axes, drawn hollow on the edge.`);
  return [...said, "Hover to see a trial's other checkpoints; click for its config and samples."].join(" ");
}

/** Joins the checkpoints of a point's trial and endpoint by length, as measured on as many samples; without a point, none. */
function trail(p) {
  const alike = (each) => ["trial_id", "endpoint", "samples"].every((name) => each[name] === p[name]);
  const own = p ? points.filter(alike) : [];
  own.sort((a, b) => a.images - b.images);
  const path = `M${own.map(({ x, y }) => `${x},${y}`).join("L")}`; // a trace would take the label under the pointer away
  Plotly.relayout(plane, { shapes: own.length > 1 ? [{ path, line: { color: colours().accent, width: 2 } }] : [] });
}

/** The drawn point nearest to a pointer, within REACH, as Plotly names it; the frontier's, drawn last, has a lead. */
function nearest({ clientX, clientY }) {
  const box = plane.querySelector(".nsewdrag").getBoundingClientRect(), { xaxis, yaxis } = plane.layout;
  const share = (value, [low, high]) => (value - low) / (high - low);
  let found, least = REACH;
  plane.data.forEach(({ customdata = [], x, y, visible }, curveNumber) => customdata.forEach((index, pointNumber) => {
    const across = box.left + box.width * share(x[pointNumber], xaxis.range) - clientX;
    const distance = Math.hypot(across, box.bottom - box.height * share(y[pointNumber], yaxis.range) - clientY);
    const behind = distance - (curveNumber === plane.data.length - 1 ? LEAD : 0);
    if (visible !== "legendonly" && behind <= least) [found, least] = [{ curveNumber, pointNumber, index }, behind];
  }));
  return found;
}

function ring() {
  if (selected) Plotly.restyle(plane, { x: [[selected.x]], y: [[selected.y]] }, [RING]);
}

function measureTable(measures) {
  const node = element("div");
  pagedTable(node, measures, [
    { name: "measure", value: (m) => m.name },
    { name: "value", value: (m) => m.value, text: (m) => measured(m.value) },
    { name: "95\u00a0% interval", value: (m) => m.low, text: (m) => interval(m.low, m.high) },
    { name: "samples", value: (m) => m.n },
  ]);
  for (const { name, value, null: chance } of measures.filter((m) => m.null !== null)) {
    node.append(muted(`${name}: ${percent(value + chance)} of the samples are as near to a training image as the `
      + `nearest ${percent(chance)} of held-out images; by chance it would be ${percent(chance)}.`));
  }
  return node;
}

/** Shows a checkpoint: its config as a command, samples beside their nearest training images, and all measures. */
function select(p) {
  selected = p;
  const trial = trials.find((each) => each.trial_id === p.trial_id), folder = `${data.root}/${trial.folder}`;
  const words = ["ambient-sweep", "train", `${folder}/config.yaml`];
  if (p.endpoint !== "distilled") words.push(`evaluation.endpoints=[${p.endpoint}]`);
  if (p.fraction < 1) words.push(`training.stop=${p.fraction}`);
  words.push(`evaluation.samples=${p.samples}`, `evaluation.seed=${p.evaluation_seed}`);
  words.push("--name", `${p.trial_id}-${p.images}-${p.endpoint}-seed-${p.evaluation_seed}`);
  const keys = data.searched.filter((key) => trial[key] !== null).map((key) => `${key}=${short(number(trial[key]), 60)}`);
  const file = `${folder}/evaluations/images-${String(p.images).padStart(9, "0")}-${p.endpoint}.png`;
  const others = `The samples are the trial's own, of seed ${p["evaluation.seed"]}; the values were measured on `
    + `${number(p.samples)} others, of seed ${p.evaluation_seed}.`;
  const picture = p.picture
    ? element("figure", {}, element("img", { src: p.picture.url, alt: p.picture.caption }), element("figcaption", {},
      muted(p.picture.caption), muted(p.evaluation_seed === p["evaluation.seed"] ? "" : others)))
    : muted(`${p.on_front ? "Not in this page" : "Pictures are shown for the frontier; this one is"}: ${file}`);
  const objectives = ["fidelity", "memorization"].map((name) =>
    ({ name: names[name], value: p[name], low: p[`${name}_low`], high: p[`${name}_high`], n: p.samples, null: null }));
  const mean = (name) => `${names[name]} ${measured(p[`${name}_mean`])} ± ${measured(p[`${name}_error`])}`;
  const recipe = `Mean of ${number(p.runs)} trainings ± standard error: ${mean("fidelity")}, ${mean("memorization")}.`;
  const chosen = data.chosen && pointAt(data.chosen) === p ? "Chosen: trial" : "Trial";
  const heading = `${chosen} ${short(p.trial_id, 60)}, noise level ${number(p.sigma)}, ${number(p.images)} images, `;
  document.getElementById("detail").replaceChildren(
    element("h3", { textContent: heading + endpointText(p.endpoint) }),
    muted([p["objective.kind"], ...keys].join(", ")),
    commandBlock(words.map(quoted).join(" ")),
    element("div", { className: "columns" }, picture, measureTable(p.measures ?? objectives)),
    muted(p.runs > 1 ? recipe : ""));
  ring();
}

if (points.length) {
  drawn(plane, drawPlane);
  let hovered;
  plane.on("plotly_beforehover", (event) => { // Plotly itself takes a small point for nearer than the large one in it
    const found = nearest(event);
    if (found?.index === hovered) return false;
    trail(points[hovered = found?.index]);
    if (found) Plotly.Fx.hover(plane, [found]);
    else Plotly.Fx.unhover(plane);
    return false;
  });
  plane.on("plotly_unhover", () => trail(points[hovered = undefined]));
  plane.on("plotly_click", (event) => select(points[event.points[0].customdata]));
  document.querySelector("#once + span").textContent = `${counted(data.once, "checkpoint")} ${onceName}`;
  document.querySelector(".switch").addEventListener("change", () => drawPlane(plane, colours()));
  if (selected) select(selected);
}

whenOpen("numbers", (section) => pagedTable(section.querySelector(".table"), front, [
  { name: "trial", value: (p) => p.trial_id, press: (p) => { select(p); plane.scrollIntoView(); } },
  { name: "noise level", value: (p) => p.sigma },
  { name: "objective", value: (p) => p["objective.kind"] },
  { name: "images", value: (p) => p.images },
  { name: "endpoint", value: (p) => p.endpoint },
  ...["fidelity", "memorization"].flatMap((name) => [
    { name: names[name], value: (p) => p[name], text: (p) => measured(p[name]) },
    { name: "95\u00a0% interval", value: (p) => p[`${name}_low`],
      text: (p) => interval(p[`${name}_low`], p[`${name}_high`]) },
  ]),
  { name: "runs", value: (p) => p.runs },
], "evaluations.parquet"));
