"use strict";
// One clip over time. The cursor is a range input: keyboard, touch and screen readers know it; charts only follow it.
const COLORS = ["#2f7ed8", "#e07b00", "#2e9e44", "#d03b3b", "#8a5cd0", "#8c6a4f", "#d156a8"];

function startTimeline() {
  if (!data.clips.length) return byId("clip-body").replaceChildren(make("p", "No clip was chosen, or none has a face."));
  data.clips.forEach((clip, i) => byId("clip-choice").append(make("option", clip.key, { value: i })));
  byId("clip-choice").addEventListener("input", showClip);
  byId("clip-person").addEventListener("input", showPerson);
  byId("clip-cursor").addEventListener("input", showCursor);
  window.addEventListener("resize", drawCharts);
  showClip();
}

const clipNow = () => data.clips[Number(byId("clip-choice").value)];
const personNow = () => clipNow().people[Number(byId("clip-person").value)];

function showClip() {
  const clip = clipNow();
  byId("clip-person").replaceChildren(...clip.people.map((person, i) =>
    make("option", `${person.name}, frames ${person.first} to ${person.last}`, { value: i })));
  byId("clip-about").textContent = `${clip.width} x ${clip.height}, ${say(clip.frames)} frames, ${say(clip.sampled)} annotated, ` +
    `${say(clip.faces)} faces in ${clip.tracks} tracks` + (clip.tracks > clip.people.length ? `; the ${clip.people.length} longest are here` : "") +
    (clip.problem ? `; not all pictures: ${clip.problem}` : "");
  byId("clip-cursor").max = Math.max(0, (clip.frames || 1) - 1);
  byId("clip-cursor").value = clip.people.length ? clip.people[0].first : 0;
  showPerson();
}

function showPerson() {
  const person = personNow();
  if (!person) return byId("clip-charts").replaceChildren(make("p", "This clip has no track."));
  const charts = ["who is on screen", ...Object.keys(person.series)].map((group) => {
    const box = make("div", null, { "data-chart": group });
    const label = group === "who is on screen" ? `Who is on screen in ${clipNow().key}`
      : `${group} of ${person.name} over the frames of ${clipNow().key}; the table below holds the numbers`;
    const canvas = make("canvas", null, { role: "img", "aria-label": label });
    canvas.addEventListener("pointerdown", (event) => follow(event, canvas));
    canvas.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") follow(event, canvas); });
    box.append(make("h3", group), canvas);
    return box;
  });
  byId("clip-charts").replaceChildren(...charts);
  const rows = Object.entries(person.series).flatMap(([group, lines]) => Object.entries(lines).map(([label, values]) => {
    const known = values.filter((v) => v !== null);
    const mean = known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
    return [group, label, known.length, known.length ? Math.min(...known) : null, mean, known.length ? Math.max(...known) : null];
  }));
  byId("clip-table").replaceChildren(
    table(`${person.name} in ${clipNow().key}`, ["group", "what", "values", "least", "mean", "most"], rows));
  showCursor();
}

function follow(event, canvas) {
  const box = canvas.getBoundingClientRect();
  const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
  byId("clip-cursor").value = Math.round(share * Number(byId("clip-cursor").max));
  showCursor();
}

function nearest(frames, frame) {
  let best = 0;
  frames.forEach((f, i) => { if (Math.abs(f - frame) < Math.abs(frames[best] - frame)) best = i; });
  return best;
}

function showCursor() {
  const clip = clipNow(), person = personNow(), frame = Number(byId("clip-cursor").value);
  const picture = byId("clip-frame");
  if (clip.thumbs.length) {
    const [index, source] = clip.thumbs[nearest(clip.thumbs.map((t) => t[0]), frame)];
    picture.hidden = false;
    if (picture.dataset.frame !== `${clip.clip_id} ${index}`) picture.src = source;
    picture.dataset.frame = `${clip.clip_id} ${index}`;
    picture.alt = `Frame ${index} of ${clip.key}`;
  } else picture.hidden = true;
  const here = clip.people.filter((p) => p.first <= frame && frame <= p.last).map((p) => p.name);
  let text = `frame ${frame}: ${here.length ? here.join(", ") : "nobody"}`;
  if (person && person.first <= frame && frame <= person.last) {
    const i = nearest(person.frames, frame);
    if (person.times[i] !== null) text += `; ${say(person.times[i])} s`;
    for (const [group, lines] of Object.entries(person.series)) {
      const values = Object.entries(lines).map(([label, all]) => [label, all[i]]).filter(([, v]) => v !== null);
      if (group === "emotions" || group === "action units") values.sort((a, b) => b[1] - a[1]).splice(3);
      if (values.length) text += `; ${group}: ${values.map(([label, v]) => `${label} ${say(v)}`).join(", ")}`;
    }
  }
  byId("clip-readout").textContent = text;
  byId("clip-cursor").setAttribute("aria-valuetext", text);
  drawCharts();
}

function drawCharts() {
  const clip = clipNow(), person = personNow();
  if (!person) return;
  for (const box of byId("clip-charts").children) {
    const canvas = box.querySelector("canvas"), group = box.dataset.chart;
    if (!canvas) continue;
    const lines = person.series[group];
    const rows = group === "who is on screen" ? clip.people.length : Object.keys(lines).length;
    const heat = group === "emotions" || group === "action units";
    const tall = group === "who is on screen" || heat ? Math.max(40, rows * 15) : 110;
    const scale = window.devicePixelRatio || 1, wide = canvas.clientWidth;
    canvas.width = wide * scale;
    canvas.height = tall * scale;
    canvas.style.height = `${tall}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.ink = getComputedStyle(document.body).color;
    const x = (frame) => wide * frame / Math.max(1, Number(byId("clip-cursor").max));
    if (group === "who is on screen") drawPresence(pen, clip, person, x, tall);
    else if (heat) drawHeat(pen, person, lines, x, tall);
    else drawLines(pen, person, lines, x, tall);
    const at = x(Number(byId("clip-cursor").value));
    pen.fillStyle = pen.ink;
    pen.fillRect(Math.min(at, wide - 1), 0, 1, tall);
  }
}

function drawPresence(pen, clip, person, x, tall) {
  const high = tall / clip.people.length;
  clip.people.forEach((one, row) => {
    pen.fillStyle = COLORS[row % COLORS.length];
    pen.globalAlpha = one === person ? 0.9 : 0.45;
    pen.fillRect(x(one.first), row * high + 1, Math.max(2, x(one.last) - x(one.first)), high - 2);
    label(pen, one.name, row * high, high);
  });
}

function label(pen, text, top, high) {
  pen.globalAlpha = 1;
  pen.fillStyle = pen.ink;
  pen.font = "11px system-ui, sans-serif";
  pen.fillText(text, 3, top + high / 2 + 4);
}

function drawHeat(pen, person, lines, x, tall) {
  const names = Object.keys(lines), high = tall / names.length;
  const step = person.frames.length > 1 ? person.frames[1] - person.frames[0] : 1;
  names.forEach((name, row) => {
    pen.fillStyle = COLORS[row % COLORS.length];
    lines[name].forEach((value, i) => {
      if (value === null) return;
      pen.globalAlpha = Math.min(Math.max(value, 0), 1);
      pen.fillRect(x(person.frames[i]), row * high + 1, Math.max(1, x(step)), high - 2);
    });
    label(pen, name, row * high, high);
  });
}

function drawLines(pen, person, lines, x, tall) {
  const all = Object.values(lines).flat().filter((v) => v !== null);
  const most = Math.max(30, ...all.map(Math.abs));
  const y = (value) => tall / 2 - value / most * (tall / 2 - 4);
  pen.fillStyle = pen.ink;
  pen.globalAlpha = 0.3;
  pen.fillRect(0, tall / 2, x(1e9), 1);
  Object.entries(lines).forEach(([name, values], row) => {
    pen.globalAlpha = 1;
    pen.strokeStyle = pen.fillStyle = COLORS[row % COLORS.length];
    pen.beginPath();
    let joined = false;
    values.forEach((value, i) => {
      if (value !== null) pen[joined ? "lineTo" : "moveTo"](x(person.frames[i]), y(value));
      joined = value !== null;
    });
    pen.stroke();
    pen.font = "11px system-ui, sans-serif";
    pen.fillText(name, 3 + 70 * row, 11);
  });
}
