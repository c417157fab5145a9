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

function nameCell(name, note) {
  return make("th", { scope: "row" }, make("span", { class: "swatch", style: colorOf(name) }), name,
    note ? make("small", {}, note) : null);
}

function fill(table, heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row))));
}

function statCell(stat, digits, best) {
  if (!stat) return make("td", {}, "–");
  const more = [];
  if (stat.spread) more.push(`± ${stat.spread.toFixed(digits)}`);
  if (stat.worst !== null && stat.worst !== stat.mean) more.push(`worst ${show(stat.worst, digits)}`);
  return make("td", best ? { class: "best" } : {}, show(stat.mean, digits), more.length ? make("small", {}, more.join(", ")) : null);
}

function drawQuality(reference) {
  const statOf = (name, metric) => data.variants[name].against[reference]?.[metric] ?? data.variants[name].alone[metric];
  const metrics = Object.keys(METRICS).filter((metric) => names.some((name) => statOf(name, metric)));
  const compared = names.filter((name) => !data.references.includes(name));
  const bestOf = (metric) => {
    const better = METRICS[metric][2];
    const means = compared.map((name) => numeric(statOf(name, metric)?.mean)).filter((mean) => mean !== undefined);
    if (better === null || means.length < 2 || new Set(means).size < 2) return undefined;
    return better ? Math.max(...means) : Math.min(...means);
  };
  const rows = names.map((name) => [
    nameCell(name, name === reference ? "reference" : data.variants[name].changes),
    ...metrics.map((metric) => {
      const stat = statOf(name, metric);
      const best = stat && compared.includes(name) && numeric(stat.mean) === bestOf(metric);
      return statCell(stat, METRICS[metric][1], best);
    }),
  ]);
  fill(document.querySelector("#quality table"), ["variant", ...metrics.map((metric) => METRICS[metric][0])], rows);
  const count = data.clips.length;
  document.querySelector("#quality .caption").textContent =
    `Against ${reference}, over ${count} video${count > 1 ? "s" : ""}: mean, ± standard deviation, worst. The best of the variants stands out.`;
}

function drawCost() {
  const timed = names.filter((name) => data.variants[name].time);
  by("cost").hidden = !timed.length;
  if (!timed.length) return;
  const image = timed.some((name) => data.variants[name].time.seconds.condition > 0.001);
  const heads = ["variant", "steps computed", "denoising, s", "speedup", "a step", "text, s", image && "image, s", "decoding, s", "compiling, s", "step memory", "cache"];
  const stepTime = ([kind, seconds], i) =>
    make(i ? "small" : "span", {}, `${brief(1000 * seconds)} ms ${kind.replace("_", " ")}`);
  const megabytes = (bytes) => (bytes ? `${brief(bytes / 1e6)} MB` : "–");
  const rows = timed.map((name) => {
    const { time, plan, memory } = data.variants[name];
    const [fast, slow] = time.denoise_range;
    const cells = [
      `${plan.computed} of ${plan.steps}`,
      [brief(time.seconds.denoise), make("small", {}, `${brief(fast)} to ${brief(slow)}`)],
      time.speedup ? [`${time.speedup.toFixed(2)}×`, make("small", {}, `${Math.round(100 * time.realised)} % of ${time.ideal_speedup.toFixed(2)}×`)] : "–",
      Object.entries(time.step_seconds).map(stepTime),
      brief(time.seconds.text),
      image && brief(time.seconds.condition),
      brief(time.seconds.decode),
      brief(time.compile_seconds),
      megabytes(memory.step_memory_bytes),
      megabytes(memory.cache_bytes),
    ];
    return [nameCell(name), ...cells.filter(Boolean).map((cell) => make("td", {}, ...[cell].flat()))];
  });
  fill(document.querySelector("#cost table"), heads.filter(Boolean), rows);
  const runs = timed.map((name) => data.variants[name].time.runs);
  document.querySelector("#cost .caption").textContent =
    `Medians of at least ${Math.min(...runs)} warm runs, in turns; compiling is apart, and counted where a program was first needed. ` +
    `Peak memory of the whole comparison: ${megabytes(Math.max(...timed.map((name) => data.variants[name].memory.peak_memory_bytes)))}.`;
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
