// Videos side by side, in step, and how far each is from the reference.

const LABELS = { "#": "computed", ".": "skipped", "+": "in_part" };
const state = { clip: 0, frame: 0, reference: data.references[0] };
const scrubber = by("scrubber");
let cards = []; // { name, video, canvas, now }
let moveCursor = () => {};

/** Files inside the page become blobs: every browser can seek in those. */
function source(name, clip) {
  const file = data.videos[name][clip.name];
  if (!file.base64) return file.url;
  if (!file.blob) {
    const bytes = Uint8Array.from(atob(file.base64), (letter) => letter.charCodeAt(0));
    file.blob = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
  }
  return file.blob;
}

function strip(marks) {
  if (!marks) return null;
  const cells = [...marks].map((mark) =>
    mark === "|" ? make("b") : make("i", { class: LABELS[mark] }),
  );
  const computed = [...marks].filter((mark) => mark === "#").length;
  const total = marks.replace("|", "").length;
  const label = `plan: ${computed} of ${total} steps computed`;
  return make("div", { class: "strip", role: "img", "aria-label": label, title: label }, ...cells);
}

function stepsOf(marks) {
  if (!marks) return "";
  const steps = marks.replace("|", "");
  const skipped = [...steps].filter((mark) => mark === ".").length;
  return skipped ? `${steps.length - skipped} of ${steps.length} steps` : `${steps.length} steps`;
}

/** The picture that the video was to start from, where there is one. */
function pictureCard(clip) {
  const content = data.pictures[clip.name];
  if (!content) return null;
  const image = make("img", { src: content, alt: "the given picture" });
  return make("figure", { class: "card given" }, make("figcaption", {}, make("span", {}, "given picture")),
    make("div", { class: "screen" }, image), make("div", { class: "now muted" }, "cut to the video's shape"));
}

function makeCard(name, clip) {
  const run = clip.runs[name];
  const video = make("video", { muted: "", playsinline: "", preload: "auto", src: source(name, clip) });
  video.muted = true;
  const canvas = make("canvas", { "aria-hidden": "true" });
  const screen = make("div", { class: "screen" }, video, canvas);
  const now = make("div", { class: "now muted" }, make("span"), make("span", {}, task(run)));
  const caption = make("figcaption", {}, make("span", {}, make("span", { class: "swatch" }), name),
    make("span", { class: "muted" }, stepsOf(run.strip)));
  const node = make("figure", { class: "card", style: colorOf(name) }, caption, screen, now, strip(run.strip));
  video.addEventListener("loadedmetadata", () => {
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    by("cards").style.setProperty("--shape", `${video.videoWidth} / ${video.videoHeight}`);
    by("cards").classList.toggle("small", video.videoWidth < 240);
    video.currentTime = middle(state.frame);
  });
  video.addEventListener("seeked", draw);
  return { name, node, video, canvas, now: now.firstChild };
}

function task(run) {
  if (!run.right) return "";
  const wrong = Object.keys(run.right).filter((attribute) => !run.right[attribute]);
  return wrong.length ? `wrong: ${wrong.join(", ")}` : "shows the prompt";
}

const clipNow = () => data.clips[state.clip];
const middle = (frame) => (frame + 0.5) / data.fps;
const master = () => cards[0].video;
const playing = () => cards.length > 0 && !master().paused;

function lengthOf(clip) {
  const measured = Object.values(clip.runs).flatMap((run) => Object.values(run.against));
  return measured.length ? measured[0].psnr.length : Math.round(master().duration * data.fps);
}

function openClip(index) {
  const resume = playing();
  cards.forEach((card) => card.video.pause());
  state.clip = (index + data.clips.length) % data.clips.length;
  state.frame = 0;
  const clip = clipNow();
  cards = names.map((name) => makeCard(name, clip));
  by("cards").replaceChildren(...[pictureCard(clip), ...cards.map((card) => card.node)].filter(Boolean));
  by("clip").value = state.clip;
  scrubber.max = lengthOf(clip) - 1;
  moveCursor = drawCurves(by("curves"), clip, state.reference, seek);
  nameGain();
  showFrame();
  if (resume) play();
}

/** Show one frame of all videos. */
function seek(frame) {
  pause();
  state.frame = Math.min(Math.max(frame, 0), Number(scrubber.max));
  cards.forEach((card) => (card.video.currentTime = middle(state.frame)));
  showFrame();
}

function showFrame() {
  scrubber.value = state.frame;
  by("frame").value = `frame ${state.frame + 1} of ${Number(scrubber.max) + 1}`;
  moveCursor(state.frame);
  for (const card of cards) {
    const found = clipNow().runs[card.name].against[state.reference];
    card.now.textContent = found ? `PSNR ${show(found.psnr[state.frame], 1)} dB` : "reference";
    card.now.title = found ? `of this frame, against ${state.reference}` : "";
  }
}

function play() {
  const speed = Number(by("speed").value);
  if (state.frame >= Number(scrubber.max)) cards.forEach((card) => (card.video.currentTime = 0));
  for (const { video } of cards) {
    video.playbackRate = speed;
    video.play().catch(() => {}); // a clip that was left before it started
  }
  showPlay(true);
  requestAnimationFrame(follow);
}

function pause() {
  cards.forEach((card) => card.video.pause());
  showPlay(false);
}

/** While playing: all videos in step with the first, again from the start when it ends. */
function follow() {
  if (!by("play").classList.contains("playing")) return;
  const time = master().currentTime;
  if (master().ended) {
    cards.forEach(({ video }) => (video.currentTime = 0));
    cards.forEach(({ video }) => video.play().catch(() => {}));
  } else {
    for (const { video } of cards) {
      if (Math.abs(video.currentTime - time) > 0.6 / data.fps) video.currentTime = time;
    }
    state.frame = Math.min(Math.floor(time * data.fps + 0.01), Number(scrubber.max));
    showFrame();
    draw();
  }
  requestAnimationFrame(follow);
}

function showPlay(on) {
  const button = by("play");
  button.classList.toggle("playing", on);
  button.setAttribute("aria-label", on ? "Pause" : "Play");
  const shape = on ? "M3 2h4v12H3zM9 2h4v12H9z" : "M4 2l10 6-10 6z";
  button.replaceChildren(make("svg", { width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true" },
    make("path", { d: shape, fill: "currentColor" })));
}

const SEEN = 0.2, MOST = 6; // how bright a typical difference is to be; doublings

/** How often the difference is doubled: as chosen, or until the median variant's can be seen. */
function doublings() {
  const chosen = by("gain").value;
  if (chosen !== "auto") return Number(chosen);
  const errors = Object.values(clipNow().runs)
    .map((run) => numeric(run.against[state.reference]?.mean.psnr))
    .filter(Number.isFinite)
    .map((psnr) => 10 ** (-psnr / 20)) // the root mean square
    .sort((a, b) => a - b);
  if (!errors.length) return 2;
  const typical = errors[Math.floor((errors.length - 1) / 2)];
  return Math.min(Math.max(Math.round(Math.log2(SEEN / typical)), 0), MOST);
}

function nameGain() {
  by("gain").options[0].textContent = `auto, ×${2 ** doublings()}`;
}

/** |video - reference| times the gain, by blending: no pixel is read back. */
function draw() {
  if (!by("cards").classList.contains("differing")) return;
  const reference = cards.find((card) => card.name === state.reference).video;
  const times = doublings();
  for (const { video, canvas } of cards) {
    const { width, height } = canvas;
    if (!width) continue;
    const context = canvas.getContext("2d");
    context.globalCompositeOperation = "copy";
    context.drawImage(video, 0, 0, width, height);
    context.globalCompositeOperation = "difference";
    context.drawImage(reference, 0, 0, width, height);
    context.globalCompositeOperation = "lighter";
    for (let doubled = 0; doubled < times; doubled++) {
      context.drawImage(canvas, 0, 0);
    }
  }
}

function toggleDifference() {
  const on = by("cards").classList.toggle("differing");
  by("difference").setAttribute("aria-pressed", on);
  by("gain").hidden = !on;
  draw();
}

/** Choose the next option of a select, as its key does. */
function advance(select) {
  select.selectedIndex = (select.selectedIndex + 1) % select.length;
  select.dispatchEvent(new Event("change"));
}

const KEYS = {
  " ": () => (playing() ? pause() : play()),
  ArrowLeft: () => seek(state.frame - 1),
  ArrowRight: () => seek(state.frame + 1),
  Home: () => seek(0),
  End: () => seek(Number(scrubber.max)),
  n: () => openClip(state.clip + 1),
  p: () => openClip(state.clip - 1),
  d: toggleDifference,
  g: () => advance(by("gain")),
  s: () => advance(by("speed")),
  r: () => advance(by("reference")),
};

function setUpViewer() {
  by("clip").append(...data.clips.map((clip, i) => make("option", { value: i },
    `${i + 1}. ${clip.prompt}${clip.seed === null ? "" : `, seed ${clip.seed}`}`)));
  by("reference").append(...data.references.map((name) => make("option", { value: name }, `against ${name}`)));
  by("reference").hidden = data.references.length < 2;
  by("previous").hidden = by("next").hidden = data.clips.length < 2;
  by("gain").hidden = true;
  by("clip").addEventListener("change", (event) => openClip(Number(event.target.value)));
  by("previous").addEventListener("click", KEYS.p);
  by("next").addEventListener("click", KEYS.n);
  by("play").addEventListener("click", KEYS[" "]);
  by("difference").addEventListener("click", toggleDifference);
  by("gain").addEventListener("change", draw);
  by("speed").addEventListener("change", () => playing() && play());
  scrubber.addEventListener("input", () => seek(Number(scrubber.value)));
  by("reference").addEventListener("change", (event) => {
    state.reference = event.target.value;
    moveCursor = drawCurves(by("curves"), clipNow(), state.reference, seek);
    nameGain();
    showFrame();
    draw();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("select, input") && event.target !== scrubber;
    const pressing = event.target.matches("button") && event.key === " ";
    const scrolling = event.target.matches(".scroll") && event.key.startsWith("Arrow");
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || typing || pressing || scrolling || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  openClip(0);
  showPlay(false);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) play();
}
