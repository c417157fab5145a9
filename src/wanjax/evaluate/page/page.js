// What all parts of the page share: the data, how variants look, and how to build elements.

const data = JSON.parse(document.getElementById("data").textContent);
const names = Object.keys(data.variants);
const kindOf = (name) => data.variants[name].kind;
const FEWER = "fewer-steps";

/** The variants that look alike: those of a sweep, and the rows of fewer steps. */
const groups = {};
for (const [line, members] of Object.entries(data.lines)) {
  for (const name of members) {
    if (!data.references.includes(name)) groups[name] ??= line;
  }
}
for (const name of names) groups[name] ??= name;
const groupNames = [...new Set(names.map((name) => groups[name]))].filter((group) => group !== FEWER);

const colorOfGroup = (group) => `--of: var(--v${group === FEWER ? "f" : groupNames.indexOf(group) % 10})`;
const colorOf = (name) => colorOfGroup(groups[name]);

/** Members of a group differ by their dashes. */
const DASHES = [null, "7 3", "2 3", "10 3 2 3", "4 2", "1 2", "12 4", "6 2 1 2"];
function dashOf(name) {
  const position = names.filter((other) => groups[other] === groups[name]).indexOf(name);
  return DASHES[position % DASHES.length];
}

/** An element with attributes and children (texts or elements); `svg` ones in their namespace. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "path", "circle", "text", "title", "rect"].includes(tag);
  const node = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const by = (id) => document.getElementById(id);

/** A metric's value as it is stored: a number, or "inf". */
const numeric = (value) => (value === "inf" ? Infinity : value);

function show(value, digits) {
  const number = numeric(value);
  return number === Infinity ? "∞" : number.toFixed(digits);
}

/** With its sign, but no sign of a zero. */
function signed(value, digits) {
  const text = value.toFixed(digits);
  return Number(text) > 0 ? `+${text}` : text.replace("-", Number(text) ? "−" : "");
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
