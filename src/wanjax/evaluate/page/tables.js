// The numbers as tables, and how they came about.

const METRICS = {
  psnr: ["PSNR, dB", 1, true],
  ssim: ["SSIM", 4, true],
  temporal_ssim: ["temporal SSIM", 4, true],
  lpips: ["LPIPS", 4, false],
  added_flicker: ["added flicker", 2, false],
  flicker: ["flicker", 2, null],
  score: ["task score", 3, true],
};
const KINDS = { reference: "Reference", exact: "Exact: the same to rounding", lossy: "Lossy" };

function nameCell(name, note) {
  return make("th", { scope: "row" }, make("span", { class: "swatch", style: colorOf(name) }), name,
    note ? make("small", {}, note) : null);
}

/** Rows under titles (null: none). Each cell knows its head, which narrow windows show beside it. */
function fill(table, heads, sections) {
  const bodies = sections.filter(({ rows }) => rows.length).map(({ title, rows }) => make("tbody", {},
    title && make("tr", { class: "kind" }, make("th", { colspan: heads.length, scope: "rowgroup" }, title)),
    ...rows.map((row) => {
      row.forEach((cell, i) => i && cell.setAttribute("data-head", heads[i]));
      return make("tr", {}, ...row);
    })));
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  table.replaceChildren(make("thead", {}, head), ...bodies);
}

/** The variants in sections by their kind, if there is more than one kind beside the reference. */
function inKinds(shown, rowOf) {
  const apart = shown.some((name) => kindOf(name) === "exact");
  return Object.keys(KINDS).map((kind) => ({
    title: apart && kind !== "reference" ? KINDS[kind] : null,
    rows: shown.filter((name) => kindOf(name) === kind).map(rowOf),
  }));
}

function statCell(stat, digits, best) {
  if (!stat) return make("td", {}, "–");
  const more = [];
  if (stat.spread) more.push(`± ${stat.spread.toFixed(digits)}`);
  if (stat.worst !== null && stat.worst !== stat.mean) more.push(`worst ${show(stat.worst, digits)}`);
  return make("td", best ? { class: "best" } : {}, make("span", {}, show(stat.mean, digits)),
    ...more.map((text) => make("small", {}, text)));
}

const ORDERS = {
  "as given": () => 0,
  "closest first": (stat) => -numeric(stat("psnr")?.mean ?? "inf"),
  "worst video first": (stat) => numeric(stat("psnr")?.worst ?? "inf"),
  "fastest first": (stat, name) => -(data.variants[name].time?.speedup ?? 0),
};

function drawQuality(reference) {
  const statOf = (name, metric) => data.variants[name].against[reference]?.[metric] ?? data.variants[name].alone[metric];
  const metrics = Object.keys(METRICS).filter((metric) => names.some((name) => statOf(name, metric)));
  const compared = names.filter((name) => kindOf(name) === "lossy");
  const bestOf = (metric) => {
    const better = METRICS[metric][2];
    const means = compared.map((name) => numeric(statOf(name, metric)?.mean)).filter((mean) => mean !== undefined);
    if (better === null || means.length < 2 || new Set(means).size < 2) return undefined;
    return better ? Math.max(...means) : Math.min(...means);
  };
  const rank = (name) => ORDERS[by("order").value]((metric) => statOf(name, metric), name);
  const sorted = names.map((name) => [rank(name), name]).sort((a, b) => a[0] - b[0]).map(([, name]) => name);
  const sections = inKinds(sorted, (name) => [
    nameCell(name, name === reference ? "reference" : data.variants[name].changes),
    ...metrics.map((metric) => {
      const stat = statOf(name, metric);
      const best = stat && compared.includes(name) && numeric(stat.mean) === bestOf(metric);
      return statCell(stat, METRICS[metric][1], best);
    }),
  ]);
  fill(document.querySelector("#quality table"), ["variant", ...metrics.map((metric) => METRICS[metric][0])], sections);
  const count = data.clips.length;
  document.querySelector("#quality .caption").textContent =
    `Against ${reference}, over ${count} video${count > 1 ? "s" : ""}: mean, ± standard deviation, worst. The best of the lossy variants stands out.`;
}

/** Every cached variant against its row of equal cost and against MagCache. */
function drawPaired(reference) {
  const pairs = names.flatMap((name) => Object.entries(data.variants[name].paired)
    .map(([rival, found]) => ({ name, rival, found: found[reference] })))
    .filter(({ found }) => found?.psnr);
  by("paired").hidden = !pairs.length;
  if (!pairs.length) return;
  const metrics = Object.keys(METRICS).filter((metric) => pairs.some(({ found }) => found[metric]));
  const differenceCell = (found, digits) => {
    if (!found) return make("td", {}, "–");
    const decided = found.interval && (found.interval[0] > 0 || found.interval[1] < 0);
    return make("td", decided ? { class: "best" } : {}, make("span", {}, signed(found.difference, digits)),
      found.interval && make("small", {}, `${signed(found.interval[0], digits)} to ${signed(found.interval[1], digits)}`));
  };
  const rows = pairs.map(({ name, rival, found }) => {
    const { closer, tied, farther, sign_p } = found.psnr;
    return [
      nameCell(name),
      make("td", {}, make("span", {}, rival), make("small", {}, rival === data.variants[name].equal_cost ? "of equal cost" : "MagCache")),
      make("td", {}, [name, rival].map((n) => brief(data.variants[n].cost)).join(" / ")),
      ...metrics.map((metric) => differenceCell(found[metric], METRICS[metric][1])),
      make("td", {}, `${closer} of ${closer + tied + farther}`),
      make("td", {}, String(Number(sign_p.toPrecision(2)))),
    ];
  });
  const heads = ["variant", "against", "cost, dense steps", ...metrics.map((metric) => METRICS[metric][0]), "closer in PSNR", "sign test, p"];
  fill(document.querySelector("#paired table"), heads, [{ title: null, rows }]);
  document.querySelector("#paired .caption").textContent =
    `Closeness to ${reference}, video by video: mean of variant minus rival, and its 95 % interval by Student's t; bold where that holds no zero. Videos count as independent, which seeds of one prompt are not wholly.`;
}

function drawCost() {
  const timed = names.filter((name) => data.variants[name].time);
  by("cost").hidden = !timed.length;
  if (!timed.length) return;
  const image = timed.some((name) => data.variants[name].time.seconds.condition > 0.001);
  const heads = ["variant", "steps computed", "denoising, s", "speedup", "a step", image ? "text, s (image)" : "text, s", "decoding, s", "compiling, s", "step memory", "cache"];
  const stepTime = ([kind, seconds], i) =>
    make(i ? "small" : "span", {}, `${brief(1000 * seconds)} ms ${kind.replace("_", " ")}`);
  const megabytes = (bytes) => (bytes ? `${brief(bytes / 1e6)} MB` : "–");
  const sections = inKinds(timed, (name) => {
    const { time, plan, memory } = data.variants[name];
    const [fast, slow] = time.denoise_range;
    const before = [brief(time.seconds.text), image ? make("small", {}, brief(time.seconds.condition)) : ""];
    const cells = [
      `${plan.computed} of ${plan.steps}`,
      [brief(time.seconds.denoise), make("small", {}, `${brief(fast)} to ${brief(slow)}`)],
      time.speedup ? [`${time.speedup.toFixed(2)}×`, make("small", {}, `${Math.round(100 * time.realised)} % of ${time.ideal_speedup.toFixed(2)}×`)] : "–",
      Object.entries(time.step_seconds).map(stepTime),
      before,
      brief(time.seconds.decode),
      brief(time.compile_seconds),
      megabytes(memory.step_memory_bytes),
      megabytes(memory.cache_bytes),
    ];
    return [nameCell(name), ...cells.map((cell) => make("td", {}, ...[cell].flat()))];
  });
  fill(document.querySelector("#cost table"), heads, sections);
  const runs = timed.map((name) => data.variants[name].time.runs);
  document.querySelector("#cost .caption").textContent =
    `Medians of at least ${Math.min(...runs)} warm runs, in turns; compiling is apart, and counted where a program was first needed. ` +
    `Peak memory of the whole comparison: ${megabytes(Math.max(...timed.map((name) => data.variants[name].memory.peak_memory_bytes)))}.`;
}

const FIRST = 12; // rows, before all are asked for

/** A row for each video of each lossy variant, the worst first. */
function drawVideos(reference) {
  const chosen = by("of-variant").value, metric = by("by-metric").value;
  const found = data.clips.flatMap((clip, i) => names.map((name) => ({ clip, i, name, run: clip.runs[name] })))
    .filter(({ name, run }) => (chosen ? name === chosen : kindOf(name) === "lossy") && run.against[reference]);
  by("videos").hidden = !data.clips.some((clip) => names.some((name) => clip.runs[name].against[reference]));
  const valueOf = ({ run }, m) => run.against[reference].mean[m] ?? run[m];
  const metrics = Object.keys(METRICS).filter((m) => found.some((one) => valueOf(one, m) !== undefined && valueOf(one, m) !== null));
  const sense = METRICS[metric]?.[2] === false ? -1 : 1;
  if (metric) found.sort((a, b) => sense * (numeric(valueOf(a, metric)) - numeric(valueOf(b, metric))));
  const all = by("all-videos");
  const shown = all.getAttribute("aria-pressed") === "true" ? found : found.slice(0, FIRST);
  all.hidden = found.length <= FIRST;
  all.textContent = shown.length < found.length ? `Show all ${found.length}` : `Show ${FIRST}`;
  const rows = shown.map((one) => {
    const open = make("button", { type: "button", class: "link", title: "Show it above" }, one.clip.prompt);
    open.addEventListener("click", () => {
      openClip(one.i);
      by("viewer").scrollIntoView();
    });
    const seed = one.clip.seed === null ? null : make("small", {}, `seed ${one.clip.seed}`);
    return [
      make("th", { scope: "row" }, open, seed),
      make("td", { class: "text" }, make("span", {}, make("span", { class: "swatch", style: colorOf(one.name) }), one.name)),
      ...metrics.map((m) => make("td", m === metric ? { class: "best" } : {}, show(valueOf(one, m), METRICS[m][1]))),
    ];
  });
  fill(document.querySelector("#videos table"), ["video", "variant", ...metrics.map((m) => METRICS[m][0])], [{ title: null, rows }]);
}

function setUpTables() {
  by("order").append(...Object.keys(ORDERS).map((name) => make("option", {}, name)));
  by("order").addEventListener("change", () => drawQuality(state.reference));
  by("of-variant").append(make("option", { value: "" }, "all lossy variants"),
    ...names.filter((name) => !data.references.slice(0, 1).includes(name)).map((name) => make("option", { value: name }, name)));
  const measured = Object.keys(METRICS).filter((m) => METRICS[m][2] !== null && names.some((n) => Object.values(data.variants[n].against).some((a) => a[m]) || data.variants[n].alone[m]));
  by("by-metric").append(...measured.map((m) => make("option", { value: m }, `worst ${METRICS[m][0].replace(", dB", "")} first`)),
    make("option", { value: "" }, "in order"));
  const draw = () => drawVideos(state.reference);
  by("of-variant").addEventListener("change", draw);
  by("by-metric").addEventListener("change", draw);
  by("all-videos").addEventListener("click", (event) => {
    const on = event.currentTarget.getAttribute("aria-pressed") === "true";
    event.currentTarget.setAttribute("aria-pressed", String(!on));
    draw();
  });
}

function drawAbout() {
  document.querySelector("#about code").textContent = data.command;
  const { device, host, packages, commit } = data.environment;
  const facts = {
    ...data.settings,
    device: device && `${device.count} × ${device.kind} (${device.platform}); Python ${host.python} on ${host.machine}`,
    processor: host?.cpu && [host.cpu, host.cores && `${host.cores} cores`, host.memory_bytes && `${brief(host.memory_bytes / 2 ** 30)} GiB`].filter(Boolean).join(", "),
    commit,
    packages: packages && Object.entries(packages).map((pair) => pair.join(" ")).join(", "),
    created: data.created,
  };
  const metrics = Object.keys(METRICS).filter((m) => names.some((n) => data.variants[n].alone[m] || Object.values(data.variants[n].against).some((a) => a[m])));
  for (const metric of metrics) facts[METRICS[metric][0].replace(", dB", "")] = data.definitions[metric];
  if (data.environment.device) {
    facts.speedup = data.definitions.speedup;
    facts["step memory"] = data.definitions.step_memory_bytes;
  }
  data.notes.forEach((note, i) => (facts[i ? `note ${i + 1}` : "note"] = note));
  const entries = Object.entries(facts).filter(([, value]) => value);
  document.querySelector("#about dl").append(...entries.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)]));
}
