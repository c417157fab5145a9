// The dense twin plays as the video beside it does: from the start together, then in step.
const LATE = 0.1; // seconds
const other = () => document.querySelector("#video video");
const follow = (event) => {
  const twin = element.querySelector("video"), video = other();
  if (!twin || !video) return;
  if (event.type === "loadeddata") video.currentTime = 0;
  const apart = Math.abs(twin.currentTime - video.currentTime);
  if (Math.min(apart, Math.abs(apart - video.duration)) > LATE) twin.currentTime = video.currentTime;
  if (video.paused !== twin.paused) video.paused ? twin.pause() : twin.play();
};
// media events do not bubble: they are caught on their way down
element.addEventListener("loadeddata", follow, true);
const stage = document.querySelector("#video");
for (const kind of ["timeupdate", "pause", "play", "seeked"]) stage.addEventListener(kind, follow, true);
