"use strict";
// All text reaches the page as text, never as HTML: names, keys and messages come from the corpus.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const PAGE = 60;

function make(tag, text, attributes) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  return element;
}

function say(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? value.toLocaleString("en") : value.toLocaleString("en", { maximumFractionDigits: 3 });
}

function table(caption, names, rows) {
  const box = make("div", null, { class: "scroll", tabindex: "0", role: "region", "aria-label": caption });
  const element = make("table");
  element.append(make("caption", caption));
  const head = make("tr");
  const number = (value) => typeof value === "number" ? { class: "number" } : {};
  names.forEach((name, i) => head.append(make("th", name, { scope: "col", ...number(rows.length ? rows[0][i] : null) })));
  element.append(make("thead"));
  element.tHead.append(head);
  const body = make("tbody");
  for (const row of rows) {
    const line = make("tr");
    for (const value of row) line.append(make("td", say(value), number(value)));
    body.append(line);
  }
  element.append(body);
  box.append(element);
  return box;
}

function more(shown, total, what) {
  return shown < total ? make("p", `${say(shown)} of ${say(total)} ${what} are listed; the tables hold all.`) : "";
}

// -- what was done ----------------------------------------------------------------------------------------------------

function fillDone() {
  byId("made").textContent = `${data.out}, made ${data.made}` + (data.with_faces ? "" : "; without pictures of people");
  const { clips, ...totals } = data.totals;
  const names = { done: "clips done", empty: "clips empty", quarantined: "clips in quarantine", hours: "hours of video",
    frames: "frames decoded", sampled: "frames annotated", faces: "faces", tracks: "tracks", identities: "people" };
  for (const [name, value] of Object.entries({ ...clips, ...totals })) {
    const tile = make("div");
    tile.append(make("dt", names[name]), make("dd", say(value)));
    byId("totals").append(tile);
  }
  const devices = (run) => run.cluster ? `${say(run.cluster.gpus)} GPUs, ${say(run.cluster.cpus)} CPUs, ` +
    run.cluster.pools.map((pool) => `${pool.actors} actors${pool.gpus ? " of " + pool.gpus + " GPU" : " on CPU"}`).join(", ") : null;
  byId("runs").append(table("Runs, latest first",
    ["run", "bundle", "frames", "faces", "devices", "frames/s", "seconds", "of which annotating"],
    data.runs.map((run) => [run.run, run.bundle, run.frames, run.faces, devices(run), run.frames_per_s,
      run.seconds.total, run.seconds.annotate])));
  const forecast = data.runs.find((run) => run.forecast);
  if (forecast) {
    byId("forecast").append(table(`Forecast against actual, run ${forecast.run}`,
      ["quantity", "forecast", "actual", "actual / forecast"], forecast.forecast.against.map((row) =>
        [row.quantity, row.forecast, row.actual, row.forecast && row.actual !== null ? row.actual / row.forecast : null])));
  } else {
    byId("forecast").append(make("p", "No run had a forecast; make one with faceatlas plan --measure --save.", { class: "soft" }));
  }
  if (data.runs.length) byId("models").append(table("Models of the latest run",
    ["slot", "model", "version", "license", "research only"],
    data.runs[0].models.map((row) => [...row.slice(0, 4), row[4] ? "yes" : "no"])));
}

function fillQuarantine() {
  const { total, counts, rows } = data.quarantine;
  if (!total) return byId("quarantine-body").append(make("p", "No clip is in quarantine."));
  byId("quarantine-body").append(
    table("Clips by reason", ["reason", "clips"], Object.entries(counts)),
    table("Clips", ["clip", "stage", "reason", "message", "attempts"], rows), more(rows.length, total, "clips"));
}

// -- people -----------------------------------------------------------------------------------------------------------

const people = data.people.rows.map((row) => Object.fromEntries(data.people.columns.map((name, i) => [name, row[i]])));
const nameOf = new Map(people.map((person) => [person.id, person.name]));
let page = 0;

function chosenPeople() {
  const words = byId("people-find").value.trim().toLowerCase();
  const order = byId("people-order").value;
  const found = people.filter((p) => !words || p.name.toLowerCase().includes(words) || p.id.startsWith(words));
  const sign = order === "faces" || order === "clips" ? -1 : 1;
  const key = (p) => p[order] === null ? Infinity : p[order];
  return order === "name" ? found.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }))
    : found.sort((a, b) => sign * (key(a) - key(b)));
}

function at(clip, time) { return clip === null ? "–" : time === null ? clip : `${clip} at ${say(time)} s`; }

function card(person) {
  const item = make("li", null, { class: "card" });
  const picture = data.people.faces[person.id];
  item.append(picture ? make("img", null, { src: picture, alt: `Face of ${person.name}`, width: 96, height: 96 })
    : make("div", "no picture", { class: "blank" }));
  item.append(make("h3", person.name));
  for (const line of [
    `${say(person.faces)} faces, ${say(person.tracks)} tracks, ${say(person.clips)} clips`,
    `first: ${at(person.first_clip, person.first_time)}`, `last: ${at(person.last_clip, person.last_time)}`,
    `cohesion ${say(person.cohesion)}, margin ${say(person.margin)}`]) item.append(make("p", line));
  item.append(make("p", person.id, { class: "soft" }));
  return item;
}

function fillPeople() {
  const found = chosenPeople();
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  byId("gallery").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(card));
  const left = data.people.total - people.length;
  byId("people-count").textContent = `${say(found.length)} of ${say(data.people.total)} people` +
    (left ? `; ${say(left)} with fewer faces are in the table only` : "") +
    Object.entries(data.picture_problems).map(([reason, n]) => `; no picture of ${n}: ${reason}`).join("");
  byId("people-page").textContent = `page ${page + 1} of ${pages}`;
  byId("people-back").disabled = page === 0;
  byId("people-next").disabled = page === pages - 1;
}

function listenToPeople() {
  const turn = (by) => () => { page += by; fillPeople(); byId("people-page").scrollIntoView({ block: "nearest" }); };
  byId("people-back").addEventListener("click", turn(-1));
  byId("people-next").addEventListener("click", turn(1));
  for (const id of ["people-find", "people-order"]) byId(id).addEventListener("input", () => { page = 0; fillPeople(); });
}

function fillPairs() {
  const { total, rows } = data.pairs;
  if (!total) return byId("pairs-body").append(make("p", "No ambiguous pairs."));
  const who = (id) => nameOf.has(id) ? `${nameOf.get(id)} (${id.slice(0, 8)})` : id;
  byId("pairs-body").append(
    table("Pairs to review", ["one", "other", "score", "threshold", "co-occurring", "reason", "tracks", "tracks"],
      rows.map(([a, b, ...rest]) => [who(a), who(b), ...rest])), more(rows.length, total, "pairs"));
}

// -- distributions ----------------------------------------------------------------------------------------------------

function histogram(of) {
  const box = make("div", null, { class: "card" });
  const sum = of.counts.reduce((a, b) => a + b, 0);
  const unit = of.unit ? ` ${of.unit}` : "";
  box.append(make("h3", of.name), make("p", `${of.about}; mean ${say(of.mean)}${unit}, ${say(of.missing)} missing`, { class: "soft" }));
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const most = Math.max(1, ...of.counts), wide = 300 / of.counts.length;
  const shape = (name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    svg.append(element);
  };
  svg.setAttribute("viewBox", "0 0 300 116");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Histogram of ${of.name}: ${say(sum)} values, mean ${say(of.mean)}${unit}`);
  of.counts.forEach((n, i) => {
    const tall = 96 * n / most;
    shape("rect", { x: i * wide + 0.5, y: 98 - tall, width: Math.max(wide - 1, 1), height: tall });
  });
  const last = of.edges.length - 1;
  [0, Math.floor(last / 2), last].forEach((i, n) => shape("text",
    { x: i * wide, y: 112, "text-anchor": ["start", "middle", "end"][n] }, `${say(of.edges[i])}${unit}`));
  const details = make("details");
  details.append(make("summary", "The same as a table"),
    table(of.name, ["from", "to", "count"], of.counts.map((n, i) => [of.edges[i], of.edges[i + 1], n])));
  box.append(svg, details);
  return box;
}

fillDone();
fillQuarantine();
listenToPeople();
fillPeople();
fillPairs();
byId("charts").append(...data.distributions.map(histogram));
startTimeline();
