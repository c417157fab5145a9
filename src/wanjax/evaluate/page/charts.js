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

/** Names at these heights, moved apart where they would overlap. */
function spread(labels, gap, bottom) {
  labels.sort((a, b) => a.y - b.y);
  labels.forEach((label, i) => {
    if (i) label.y = Math.max(label.y, labels[i - 1].y + gap);
  });
  const over = labels.length ? labels.at(-1).y - bottom : 0;
  if (over > 0) labels.forEach((label) => (label.y -= over));
  return labels;
}

/** Draws the curves into `figure`; returns a function which moves the cursor to a frame. */
function drawCurves(figure, clip, reference, seek) {
  const shown = names.filter((name) => clip.runs[name].against[reference]);
  const series = shown.map((name) => clip.runs[name].against[reference].psnr.map(numeric));
  figure.hidden = !shown.length;
  if (!shown.length) return () => {};
  const width = Math.max(320, figure.clientWidth), height = 180;
  const left = 34, right = width - 96, top = 16, bottom = height - 24;
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
    svg.append(make("path", { class: "line", d: path.join(""), style: colorOf(shown[i]) }));
    if (frames === 1) svg.append(make("circle", { class: "dot", cx: x(0), cy: y(values[0]), r: 4, style: colorOf(shown[i]) }));
  });
  const ends = shown.map((name, i) => ({ name, y: y(series[i].at(-1)) }));
  for (const end of spread(ends, 15, bottom)) {
    svg.append(make("text", { class: "name", x: right + 8, y: end.y + 4, style: colorOf(end.name) }, end.name));
  }
  const point = (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * width;
    seek(Math.floor(((place - left) / (right - left)) * frames));
  };
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointermove", (event) => event.buttons && point(event));
  figure.replaceChildren(make("figcaption", {}, `PSNR of each frame against ${reference}, dB`), svg);
  return (frame) => {
    cursor.setAttribute("x1", x(frame));
    cursor.setAttribute("x2", x(frame));
  };
}

/** Mean PSNR (down to the worst clip) against speedup; hollow where the plan's ideal is. */
function drawScatter(figure, reference) {
  const points = names.flatMap((name) => {
    const { time, against } = data.variants[name];
    const psnr = against[reference]?.psnr;
    if (!time?.speedup || !psnr) return [];
    return [{ name, mean: numeric(psnr.mean), worst: numeric(psnr.worst), speed: time.speedup, ideal: time.ideal_speedup }];
  });
  figure.hidden = !points.length;
  if (!points.length) return;
  const width = Math.max(320, figure.clientWidth), height = Math.min(310, width * 0.7);
  const left = 34, right = width - 90, top = 18, bottom = height - 26;
  const [slow, fast] = extent([1, ...points.flatMap((p) => [p.speed, p.ideal])]);
  const [low, high] = extent(points.flatMap((p) => [p.mean, p.worst]), 0.12);
  const x = (speed) => left + ((right - left) * (speed - slow)) / (fast - slow);
  const y = (value) => value === Infinity ? top - 8 : bottom - ((bottom - top) * (value - low)) / (high - low);
  const label = `Quality against speed: mean PSNR against ${reference}, and speedup`;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const tick of ticks(low, high, 5)) {
    svg.append(make("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
      make("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, brief(tick)));
  }
  for (const tick of ticks(slow, fast, 6)) {
    svg.append(make("text", { x: x(tick), y: bottom + 18, "text-anchor": "middle" }, `${brief(tick)}×`));
  }
  svg.append(make("g", { style: colorOf(data.references[0]) },
    make("line", { class: "dashed", x1: x(1), x2: x(1), y1: top, y2: bottom }),
    make("text", { class: "name", x: x(1) + 6, y: bottom - 6 }, data.references[0])));
  for (const p of points) {
    const title = `${p.name}: ${show(p.mean, 1)} dB, worst ${show(p.worst, 1)} dB, ${p.speed.toFixed(2)}× (ideal ${p.ideal.toFixed(2)}×)`;
    svg.append(make("g", { style: colorOf(p.name) }, make("title", {}, title),
      make("line", { class: "thin", x1: x(p.speed), x2: x(p.speed), y1: y(p.mean), y2: y(p.worst) }),
      make("line", { class: "dashed", x1: x(p.speed), x2: x(p.ideal), y1: y(p.mean), y2: y(p.mean) }),
      make("circle", { class: "hollow", cx: x(p.ideal), cy: y(p.mean), r: 4 }),
      make("circle", { class: "dot", cx: x(p.speed), cy: y(p.mean), r: 6 })));
  }
  const labels = points.map((p) => ({ ...p, x: Math.max(x(p.speed), x(p.ideal)), y: y(p.mean) }));
  for (const text of spread(labels, 15, bottom)) {
    svg.append(make("text", { class: "name", x: text.x + 12, y: text.y + 4, style: colorOf(text.name) }, text.name));
  }
  const caption = `Mean PSNR against ${reference} in dB, the line down to the worst video, over the speedup of denoising; hollow where the plan's ideal lies.`;
  figure.replaceChildren(make("figcaption", {}, caption), svg);
}
