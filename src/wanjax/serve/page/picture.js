// The picture stays in the page until it is sent, as a data URL: the server keeps no upload.
const read = (file) => {
  if (!file) return;
  const hint = element.querySelector(".hint");
  if (!file.type.startsWith("image/")) return void (hint.textContent = "this is no picture");
  if (file.size * 4 / 3 > props.most * 2 ** 20)
    return void (hint.textContent = `more than the ${props.most} MiB that are read`);
  const reader = new FileReader();
  reader.onload = () => { props.value = reader.result; trigger("picked"); };
  reader.readAsDataURL(file);
};
element.addEventListener("change", (event) => read(event.target.files?.[0]));
element.addEventListener("dragover", (event) => event.preventDefault());
element.addEventListener("drop", (event) => {
  event.preventDefault();
  read(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => read(event.clipboardData?.files?.[0]));
element.addEventListener("click", (event) => {
  if (!event.target.closest("button")) return;
  props.value = "";
  trigger("picked");
});
