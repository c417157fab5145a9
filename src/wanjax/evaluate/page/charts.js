// Per-frame PSNR of one clip, and speed against quality of all.

/** Round numbers from `low` to `high`, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((size) => size >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) {
    found.push(Number(tick.toPrecision(8)));
  }
  return found;
}

/** Lowest and highest of the finite values, with some room. */
function extent(values, room = 0.08) {
  const finite = values.filter(Number.isFinite);
  if (!finite.length) return [0, 1];
  const low = Math.min(...finite), high = Math.max(...finite);
  const space = (high - low || 1) * room;
  return [low - space, high + space];
}

const pen = document.createElement("canvas").getContext("2d");

/** How wide a text of the charts is. */
function widthOf(text, bold = true) {
  pen.font = `${bold ? 600 : 400} 12px system-ui, "DejaVu Sans", sans-serif`;
  return pen.measureText(text).width;
}

/** Names at these heights, moved apart where they would overlap. */
function spread(labels, gap, top, bottom) {
  labels.sort((a, b) => a.y - b.y);
  labels.forEach((label, i) => (label.y = Math.max(label.y, i ? labels[i - 1].y + gap : top)));
  for (let i = labels.length - 1, limit = bottom; i >= 0; i--, limit -= gap) {
    labels[i].y = Math.min(labels[i].y, limit);
  }
  return labels;
}

const overlap = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

/** A free place for `text` near a point, inside `box`, away from `taken`; the nearest that there is. */
function placeFor(text, x, y, box, taken, farthest) {
  const w = widthOf(text), h = 14;
  for (let reach = 9; reach <= farthest; reach += 5) {
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, -1], [0, 1], [1, -1], [1, 1], [-1, -1], [-1, 1]]) {
      const place = { x: x + dx * reach - (w * (1 - dx)) / 2, y: y + dy * reach - h / 2, w, h };
      const inside = place.x >= box.left && place.x + w <= box.right && place.y >= box.top && place.y + h <= box.bottom;
      if (inside && !taken.some((other) => overlap(place, other))) return place;
    }
  }
  return null;
}

/** The variants of the curves, beside or above them. */
function legend(shown) {
  const sample = (name) => make("svg", { width: 22, height: 8, "aria-hidden": "true" },
    make("line", { class: "line", x1: 0, x2: 22, y1: 4, y2: 4, "stroke-dasharray": dashOf(name) }));
  return make("div", { class: "legend" }, ...shown.map((name) => make("span", { style: colorOf(name) }, sample(name), name)));
}

/** Draws the curves into `figure`; returns a function which moves the cursor to a frame. */
function drawCurves(figure, clip, reference, seek) {
  const shown = names.filter((name) => clip.runs[name].against[reference]);
  const series = shown.map((name) => clip.runs[name].against[reference].psnr.map(numeric));
  figure.hidden = !shown.length;
  if (!shown.length) return () => {};
  const width = Math.max(300, figure.clientWidth), narrow = width < 620;
  const height = Math.max(190, narrow ? 0 : 15 * shown.length + 44);
  const left = 34, right = width - (narrow ? 10 : 20 + Math.max(...shown.map((name) => widthOf(name))));
  const top = 16, bottom = height - 24;
  const frames = series[0].length;
  const [low, high] = extent(series.flat());
  const infinite = series.flat().some((value) => value === Infinity);
  const x = (frame) => left + ((right - left) * (frame + 0.5)) / frames;
  const y = (value) => value === Infinity ? top - 8 : bottom - ((bottom - top) * (value - low)) / (high - low);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `PSNR of each frame against ${reference}` });
  for (const tick of ticks(low, high, 4)) {
    svg.append(make("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
      make("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, brief(tick)));
  }
  if (infinite) svg.append(make("text", { x: left - 8, y: y(Infinity) + 4, "text-anchor": "end" }, "∞"));
  for (const frame of ticks(1, frames, Math.min(8, frames))) {
    if (Number.isInteger(frame)) svg.append(make("text", { x: x(frame - 1), y: height - 6, "text-anchor": "middle" }, String(frame)));
  }
  const cursor = make("line", { class: "cursor", y1: top - 10, y2: bottom });
  svg.append(cursor);
  series.forEach((values, i) => {
    const path = values.map((value, frame) => `${frame ? "L" : "M"}${x(frame).toFixed(1)} ${y(value).toFixed(1)}`);
    svg.append(make("path", { class: "line", d: path.join(""), style: colorOf(shown[i]), "stroke-dasharray": dashOf(shown[i]) }));
    if (frames === 1) svg.append(make("circle", { class: "dot", cx: x(0), cy: y(values[0]), r: 4, style: colorOf(shown[i]) }));
  });
  const ends = shown.map((name, i) => ({ name, end: y(series[i].at(-1)), y: y(series[i].at(-1)) }));
  for (const label of narrow ? [] : spread(ends, 15, top, bottom)) {
    svg.append(make("line", { class: "leader", x1: x(frames - 1), y1: label.end, x2: right + 10, y2: label.y, style: colorOf(label.name) }),
      make("text", { class: "name", x: right + 13, y: label.y + 4, style: colorOf(label.name) }, label.name));
  }
  const point = (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * width;
    seek(Math.floor(((place - left) / (right - left)) * frames));
  };
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointermove", (event) => event.buttons && point(event));
  figure.replaceChildren(make("figcaption", {}, `PSNR of each frame against ${reference}, dB`), ...(narrow ? [legend(shown)] : []), svg);
  return (frame) => {
    cursor.setAttribute("x1", x(frame));
    cursor.setAttribute("x2", x(frame));
  };
}

/** The lines of the figure: sweeps, fewer steps, and each variant that is on none; by speed. */
function frontier(reference) {
  const ideal = by("speed-of").value === "ideal";
  const joined = new Set(Object.values(data.lines).flat());
  const alone = names.filter((name) => !joined.has(name) && !data.references.includes(name));
  const pointOf = (name) => {
    const { time, against, kind } = data.variants[name];
    const psnr = against[reference]?.psnr;
    if (!time?.speedup || !psnr || kind === "exact") return [];
    return [{ name, speed: ideal ? time.ideal_speedup : time.speedup, ideal: time.ideal_speedup, mean: Math.min(numeric(psnr.mean), 100), worst: numeric(psnr.worst), interval: psnr.interval }];
  };
  const lines = [...Object.entries(data.lines), ...alone.map((name) => [name, [name]])];
  return lines
    .map(([line, members]) => ({ line, points: members.flatMap(pointOf).sort((a, b) => a.speed - b.speed) }))
    .filter(({ points }) => points.length);
}

/** Mean PSNR with its interval against speedup: a line for each sweep, one through fewer steps. */
function drawScatter(figure, reference) {
  const lines = frontier(reference);
  const points = lines.flatMap(({ points }) => points);
  by("frontier").hidden = !points.length;
  if (!points.length) return;
  const width = Math.max(300, figure.clientWidth), height = Math.min(430, Math.max(300, width * 0.5));
  const left = 34, right = width - 14, top = 18, bottom = height - 26;
  const room = Math.min(0.3, 110 / width); // for names to the right
  const speeds = [1, ...points.map((p) => p.speed)];
  const [slow, fast] = [Math.min(...speeds) - 0.04, Math.max(...speeds) + (Math.max(...speeds) - Math.min(...speeds) || 1) * room];
  const [low, high] = extent(points.flatMap((p) => [p.mean, ...(p.interval ?? [])]), 0.1);
  const x = (speed) => left + ((right - left) * (speed - slow)) / (fast - slow);
  const y = (value) => bottom - ((bottom - top) * (value - low)) / (high - low);
  const label = `Closeness against speed: mean PSNR against ${reference}, and speedup`;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const tick of ticks(low, high, 5)) {
    svg.append(make("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
      make("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, brief(tick)));
  }
  for (const tick of ticks(slow, fast, Math.min(8, width / 60))) {
    svg.append(make("text", { x: x(tick), y: bottom + 18, "text-anchor": "middle" }, `${brief(tick)}×`));
  }
  const main = data.references[0];
  const taken = points.map((p) => ({ x: x(p.speed) - 7, y: y(p.mean) - 7, w: 14, h: 14 }));
  svg.append(make("g", { style: colorOf(main) }, make("line", { class: "dashed", x1: x(1), x2: x(1), y1: top, y2: bottom })));
  for (const { line, points } of lines) {
    const drawn = make("g", { style: colorOfGroup(groups[points.at(-1).name]), "data-line": line });
    const path = points.map((p, i) => `${i ? "L" : "M"}${x(p.speed).toFixed(1)} ${y(p.mean).toFixed(1)}`);
    if (points.length > 1) drawn.append(make("path", { class: "line", d: path.join(""), "stroke-dasharray": line === FEWER ? "5 4" : null }));
    for (const p of points) {
      const between = p.interval ? `, interval ${show(p.interval[0], 1)} to ${show(p.interval[1], 1)}` : "";
      const title = `${p.name}: ${show(p.mean, 1)} dB${between}, worst ${show(p.worst, 1)} dB, ${p.speed.toFixed(2)}× (ideal ${p.ideal.toFixed(2)}×)`;
      drawn.append(make("g", {}, make("title", {}, title),
        p.interval && make("line", { class: "thin", x1: x(p.speed), x2: x(p.speed), y1: y(p.interval[0]), y2: y(p.interval[1]) }),
        make("circle", { class: line === FEWER ? "hollow" : "dot", cx: x(p.speed), cy: y(p.mean), r: 5 })));
    }
    svg.append(drawn);
  }
  const box = { left: left + 2, right, top: 2, bottom };
  const write = (text, kind, style, px, py, farthest) => {
    const place = placeFor(text, px, py, box, taken, farthest);
    if (!place) return false;
    taken.push(place);
    const far = Math.hypot(place.x + place.w / 2 - px, place.y + 7 - py) > place.w / 2 + 22;
    const near = place.x + place.w < px ? place.x + place.w : place.x > px ? place.x : place.x + place.w / 2;
    if (far) svg.append(make("line", { class: "leader", x1: px, y1: py, x2: near, y2: place.y + 8, style }));
    svg.append(make("text", { class: kind, x: place.x, y: place.y + 11, style }, text));
    return true;
  };
  write(main, "name", colorOf(main), x(1), bottom - 8, 40);
  const titled = lines.map(({ line, points }) => ({ line, point: points.at(-1) })).sort((a, b) => b.point.speed - a.point.speed);
  for (const { line, point } of titled) {
    const texts = line === FEWER ? ["fewer steps"] : [line, line.split(",")[0]]; // the long one first
    texts.some((text) => write(text, "name", colorOf(point.name), x(point.speed), y(point.mean), 220));
  }
  for (const { line, points } of lines) {
    if (line === FEWER || points.length < 2) continue;
    for (const p of points) { // the swept values, where there is room
      const value = p.name.startsWith(`${line.split(",")[0]}-`) ? p.name.slice(p.name.lastIndexOf("-") + 1) : "";
      if (value) write(value, "value", colorOf(p.name), x(p.speed), y(p.mean), 14);
    }
  }
  const caption = `Mean PSNR against ${reference} in dB, with its 95 % interval over the videos, against ${by("speed-of").value === "ideal" ? "the speedup that counting transformer blocks promises" : "the measured speedup of denoising"}. A line for each sweep, a dashed one through dense runs of fewer steps: above it, caching is worth it. Exact variants are left out.`;
  figure.replaceChildren(make("figcaption", {}, caption), svg);
}
