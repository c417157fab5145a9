// What all parts of the page share: the data, and how to build elements.

const data = JSON.parse(document.getElementById("data").textContent);
const names = Object.keys(data.variants);
const colorOf = (name) => `--of: var(--v${names.indexOf(name) % 10})`;

/** An element with attributes and children (texts or elements); `svg` ones in their namespace. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "path", "circle", "text", "title", "rect"].includes(tag);
  const node = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const by = (id) => document.getElementById(id);

/** A metric's value as it is stored: a number, or "inf". */
const numeric = (value) => (value === "inf" ? Infinity : value);

function show(value, digits) {
  const number = numeric(value);
  return number === Infinity ? "∞" : number.toFixed(digits);
}

/** Text with `names` in backquotes, as elements in the variants' colours. */
function marked(text) {
  return text.split("`").map((part, i) =>
    i % 2 ? make("code", names.includes(part) ? { style: colorOf(part) } : {}, part) : part,
  );
}

/** A number with about three digits: 12.3, 1.23, 0.0123. */
function brief(value) {
  if (value === 0) return "0";
  if (value >= 100) return value.toFixed(0);
  return String(Number(value.toPrecision(3)));
}
