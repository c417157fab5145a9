// Buttons in the gallery say what they do: {do: show | again | delete | page, id}.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button) return;
  if (button.dataset.do === "delete" && !confirm("Delete this video?")) return;
  // a video that is out of sight would not begin to play
  const goal = { show: "#stage", again: "#form" }[button.dataset.do];
  if (goal) document.querySelector(goal).scrollIntoView();
  trigger("picked", { do: button.dataset.do, id: button.dataset.id });
});
