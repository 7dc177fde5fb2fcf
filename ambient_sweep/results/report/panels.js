"use strict";
// The folded sections below the frontier; each is drawn when it is opened first.

const STATUS_COLOURS = { completed: "good", stopped: "mid", failed: "bad", running: "muted" };

whenOpen("progress", (section) => {
  for (const [name, title] of [["images", "images trained"], ["hours", "device hours"]]) {
    drawn(section.querySelector(`.${name}`), (node, c) => plot(node, [{
      x: data.hypervolume[name], y: data.hypervolume.share, mode: "lines",
      line: { color: c.accent, width: 2, shape: "hv" }, hovertemplate: `%{y:.1%}, %{x:,.4~g} ${title}<extra></extra>`,
    }], {
      xaxis: { title, rangemode: "tozero" },
      yaxis: { title: "share of the final hypervolume", tickformat: ".0%", range: [0, 1.05] },
    }, c));
  }
});

/** An axis of the parallel coordinates: numbers, logarithmic where they span more than a decade, else words. */
function dimension(name, values) {
  const label = plain(short(name, 16));
  if (values.some((value) => typeof value !== "number")) {
    const words = [...new Set(values.map(String))].sort(), shown = words.slice(0, 20);
    return { label, values: values.map((value) => words.indexOf(String(value))), range: [-0.2, words.length - 0.8],
      tickvals: shown.map((_, i) => i), ticktext: shown.map((word) => short(word, 14)) };
  }
  const low = Math.min(...values), high = Math.max(...values), ticks = [];
  if (low <= 0 || high < 15 * low) return { label, values };
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade += 1) {
    ticks.push(...[1, 3].map((step) => step * 10 ** decade).filter((tick) => tick >= low && tick <= high));
  }
  return { label, values: values.map(Math.log10), tickvals: ticks.map(Math.log10), ticktext: ticks.map(number) };
}

whenOpen("parallel", (section) => {
  const node = section.querySelector(".lines"), told = section.querySelector(".told");
  const ids = data.last.trial_id, keys = [...data.searched, "fidelity", "memorization"];
  if (ids.length < 2) {
    section.querySelector(".body").replaceChildren(muted("It takes two searched trials with measured values."));
    return;
  }
  const last = keys.map((key) => names[key] ?? key.split(".").at(-1)); // of each key, where that is unique
  const labels = new Set(last).size === last.length ? last : keys;
  const dimensions = keys.map((key, i) => dimension(labels[i], data.last[key]));
  node.style.minWidth = `${110 * keys.length}px`;
  drawn(node, (_, c) => plot(node, [{
    type: "parcoords", dimensions, labelfont: { size: 12, color: c.ink }, tickfont: { size: 11, color: c.muted },
    rangefont: { size: 1, color: "transparent" }, unselected: { line: { color: c.line, opacity: 0.25 } },
    line: { color: data.last["observed.sigma"], colorscale: c.scale, cmin: 0 },
  }], { margin: { l: 60, r: 60, t: 48, b: 24 } }, c));
  const selects = ({ values, constraintrange }, i) => {
    const ends = [constraintrange ?? []].flat(2); // low, high, low, high ...
    return !ends.length || ends.some((low, j) => j % 2 === 0 && values[i] >= low && values[i] <= ends[j + 1]);
  };
  node.on("plotly_restyle", () => {
    const left = ids.filter((_, i) => node.data[0].dimensions.every((each) => selects(each, i)));
    const listed = left.length && left.length < 9 ? ` (${left.map((id) => short(id, 16)).join(", ")})` : "";
    const counts = `${number(left.length)} of ${number(ids.length)}`;
    told.textContent = left.length === ids.length ? "" : `Selected: ${counts}${listed}.`;
  });
});

whenOpen("importance", (section) => {
  const { shares, note } = data.importance, node = section.querySelector(".chart");
  const sum = (key) => shares[key][0] + shares[key][1], keys = Object.keys(shares).sort((a, b) => sum(a) - sum(b));
  section.querySelector("p").textContent = note;
  node.hidden = !keys.length;
  if (node.hidden) return;
  node.style.height = `${110 + 46 * keys.length}px`;
  drawn(node, (_, c) => plot(node, [names.fidelity, names.memorization].map((name, i) => ({
    type: "bar", orientation: "h", name: plain(name), x: keys.map((key) => shares[key][i]), y: keys.map((_, j) => j),
    marker: { color: [c.accent, c.bad][i] }, hovertemplate: `%{x:.0%}<extra>${plain(name)}</extra>`,
  })), {
    xaxis: { title: "importance", tickformat: ".0%", rangemode: "tozero" },
    yaxis: { tickvals: keys.map((_, j) => j), ticktext: keys.map((key) => plain(short(key, 34))) },
    showlegend: true,
  }, c));
});

function trialText(t) {
  const rung = t.rung === null ? "" : `, rung ${t.rung}`, reason = t.reason ? `<br>${plain(short(t.reason, 90))}` : "";
  return `<b>${plain(short(t.trial_id))}</b> ${plain(t.role)}, ${t.status}${rung}<br>`
    + `${number(t.images_done)} of ${number(t.images_asked)} images${reason}`;
}

whenOpen("trials", (section) => {
  const now = trials.reduce((latest, t) => Math.max(latest, t.started, t.finished ?? 0), 0), many = trials.length > 200;
  const traces = (c) => Object.entries(STATUS_COLOURS).map(([status, colour]) => {
    const own = trials.filter((t) => t.status === status);
    return {
      name: status, showlegend: own.length > 0, mode: "lines+markers", hovertemplate: "%{text}<extra></extra>",
      x: own.flatMap((t) => [t.started, t.finished ?? now, null]), y: own.flatMap((t) => [t.place, t.place, null]),
      text: own.flatMap((t) => [trialText(t), trialText(t), null]),
      line: { color: c[colour], width: many ? 1 : 3 }, marker: { size: many ? 3 : 6 },
    };
  });
  const whole = { tickformat: ",d", ...(trials.length < 10 ? { dtick: 1 } : {}) };
  drawn(section.querySelector(".chart"), (node, c) => plot(node, traces(c), {
    xaxis: { title: "hours since the start", rangemode: "tozero" },
    yaxis: { title: "trial, by start", autorange: "reversed", ...whole },
    showlegend: true,
  }, c));
  const keys = new Set(["observed.sigma", "objective.kind", ...data.searched]);
  pagedTable(section.querySelector(".table"), trials, [
    ...["trial_id", "role", "status", "rung", "reason"].map((name) => ({ name, value: (t) => t[name] })),
    { name: "images", value: (t) => t.images_done },
    { name: "trained here", value: (t) => t.images_executed },
    { name: "minutes", value: (t) => t.device_seconds / 60 },
    ...[...keys].map((key) => ({ name: short(key, 40), value: (t) => t[key] })),
  ], "trials.parquet");
});

whenOpen("savings", (section) => {
  const { asked, trained, stopped, shared, failed, running } = data.images, saved = stopped + shared;
  section.querySelector("p").textContent = `At full length all trials would have trained ${number(asked)} images; `
    + `${number(trained)} were. Stopping and stages saved ${number(saved)} (${percent(asked && saved / asked)}).`;
  const parts = Object.entries({ trained, "saved by stopping early": stopped, "saved by sharing stages": shared,
    "lost to failures": failed, "not trained yet": running }).filter(([, images]) => images > 0);
  pagedTable(section.querySelector(".table"), parts, [
    { name: "images", value: ([name]) => name },
    { name: "count", value: ([, images]) => images },
    { name: "share", value: ([, images]) => images / asked, text: ([, images]) => percent(images / asked) },
  ]);
});

whenOpen("failures", (section) => {
  pagedTable(section.querySelector(".table"), data.failures, [
    { name: "trials", value: (f) => f.count },
    { name: "reason (numbers as N)", value: (f) => f.reason },
    { name: "for example", value: (f) => f.trials.map((id) => short(id, 24)).join(", ") },
  ], "trials.parquet");
});
