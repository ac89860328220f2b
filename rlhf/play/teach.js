// Teach: the button below the labelling page, and what is seen of the model while it learns.
import { ask, fail, get } from "/static/page.js";

const STAGES = { reward: "the reward model learns from the rankings", rlhf: "the model learns from the reward model",
  compare: "the report is being written", "": "begins" };
const CHARTS = [["Pairs that the reward model orders as you", "reward", 1], ["Score of the replies, SFT: 0", "rlhf", 1],
  ["Distance from SFT in nats", "rlhf", 2]];  // title, and a column of the state's rows over their first
let state = { tastes: {} }, timer = 0;

const make = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
const boxes = () => [...get("annotators").querySelectorAll("input")];

function chart([title, key, column]) {
  const rows = state[key], svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = svg.appendChild(document.createElementNS(svg.namespaceURI, "polyline"));
  const ys = rows.map((row) => row[column]), low = Math.min(0, ...ys), high = Math.max(low + 0.01, ...ys);
  const said = `${title}: ${rows.length ? ys.at(-1).toFixed(2) : "–"}`;
  const points = rows.map(([x], i) => [300 * x / rows.at(-1)[0], 86 - 82 * (ys[i] - low) / (high - low)]);
  line.setAttribute("points", points.join(" "));
  const attributes = { viewBox: "0 0 300 90", role: "img", "aria-label": said };
  for (const [name, value] of Object.entries(attributes)) svg.setAttribute(name, value);
  return make("figure", {}, svg, make("figcaption", {}, said));
}

function watched(texts) {
  const text = (said) => make("p", { className: "text" }, said || "–");
  const cell = (name, at) => make("div", {}, make("small", {}, name), text(texts[at]));
  return make("div", { className: "columns" }, ...["line", "before", "now"].map(cell));
}

function show(next) {
  const { name, running, error, stage, episodes, seconds, rlhf } = state = next;
  const left = boxes().filter((box) => !box.checked).map((box) => box.value);
  for (const label of get("annotators").querySelectorAll("label")) label.remove();
  get("annotators").append(...Object.entries(next.annotators).map(([who, count]) => make("label", {},
    make("input", { type: "checkbox", value: who, checked: !left.includes(who) }), ` ${who} (${count}) `)));
  for (const control of get("teaching").elements) control.disabled = running && control.id !== "stop";
  get("stop").hidden = !running;
  offer();
  get("progress").hidden = !name;
  if (!name) return;
  const done = error || "done. It answers on the page Play, and can be compared on the page Blind.";
  get("stage").textContent = `${name}: ${running ? `${STAGES[stage]}, ${seconds} s` : done}`;
  get("taught").value = running && stage !== "compare" ? (rlhf.at(-1)?.[0] ?? 0) / (episodes ?? 1e9) : 1;
  get("charts").replaceChildren(...CHARTS.map(chart));
  get("watched").replaceChildren(...next.watched.map(watched));
}

// What the button does depends on whether there is a taste of that name, and whether it is finished.
function offer() {
  const finished = state.tastes[get("taste").value];
  [get("go").textContent, get("go").value] = { undefined: ["Teach", "new"], true: ["Teach it further", "again"],
    false: ["Continue where it stopped", "resume"] }[finished];
  get("afresh").hidden = finished !== false || state.running;
  if (state.running) get("go").textContent = "Teaching…";
}

function start(mode) {
  const annotators = boxes().filter((box) => box.checked).map((box) => box.value);
  const watch = [...get("teaching").querySelectorAll("textarea")].map((area) => area.value).filter((text) => text);
  const craft = get("craft").value === "" ? null : Number(get("craft").value);
  update("/teach/start", { name: get("taste").value, mode, annotators, craft, watch });
}

async function update(path = "/teach/state", body = undefined) {
  clearTimeout(timer);
  await ask(path, body).then(show).then(() => body && fail("")).catch((error) => fail(error.message));
  timer = setTimeout(update, state.running ? 700 : 3000);
}

get("teaching").onsubmit = (event) => { event.preventDefault(); start(get("go").value); };
get("afresh").onclick = () => start("overwrite");
get("stop").onclick = () => update("/teach/stop", {});
get("taste").oninput = offer;
update();
