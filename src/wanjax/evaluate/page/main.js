// Puts the page together.

by("title").textContent = data.title;
by("settings").textContent = [
  data.settings.size,
  data.settings.sampling,
  `${data.clips.length} video${data.clips.length > 1 ? "s" : ""} under each of ${names.length} variants`,
].filter(Boolean).join(" · ");
document.querySelector("#findings ul").append(...data.findings.map((text) => make("li", {}, ...marked(text))));
by("findings").hidden = !data.findings.length;

function drawAll() {
  drawQuality(state.reference);
  drawPaired(state.reference);
  drawVideos(state.reference);
  drawScatter(by("scatter"), state.reference);
  moveCursor = drawCurves(by("curves"), clipNow(), state.reference, seek);
  moveCursor(state.frame);
}

setUpTables();
setUpViewer();
drawCost();
drawAbout();
drawAll();
by("reference").addEventListener("change", drawAll);
by("speed-of").addEventListener("change", () => drawScatter(by("scatter"), state.reference));
addEventListener("resize", drawAll);
