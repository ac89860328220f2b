// Blind: a vote between two unmarked replies, and how often who won.
import { ask, fail, get } from "/static/page.js";

const buttons = [...document.querySelectorAll("[data-choice]")];
let shown = null, draws = 0;  // what can be voted on: nothing while a vote is on its way, and only the last draw

const open = (drawn) => {
  shown = drawn;
  for (const button of buttons) button.disabled = !drawn;
};

async function draw() {
  const mine = ++draws;
  open(null);
  const drawn = await ask("/blind/draw", { pair: get("pair").value, heldout: !!get("heldout").value });
  if (mine !== draws) return;
  get("prompt").textContent = drawn.prompt;
  ["A", "B"].forEach((side, i) => { get(`reply${side}`).textContent = drawn.completions[i] || "(says nothing)"; });
  open(drawn);
}

async function vote(choice) {
  if (!shown) return;
  const drawn = shown, answer = { id: drawn.id, choice, annotator: get("annotator").value };
  open(null);
  const told = await ask("/blind/vote", answer).catch((error) => { open(drawn); throw error; });
  get("whose").textContent = `A was ${told.titles[0]}, B was ${told.titles[1]}. Here are the next two.`;
  rates(told.rates);
  await draw();
}

function rates(rows) {
  const share = (value) => Math.round(100 * value);
  get("rates").hidden = !rows.length;
  get("rates").tBodies[0].replaceChildren(...rows.map(({ first, second, rate, low, high, n, ties }) => {
    const cells = [first, second, `${share(rate)} % (${share(low)} to ${share(high)} %)`, n, ties];
    const row = document.createElement("tr");
    for (const cell of cells) row.insertCell().textContent = cell;
    return row;
  }));
}

const run = (action) => { fail(""); action.catch((error) => fail(error.message)); };
for (const button of buttons) button.onclick = () => run(vote(JSON.parse(button.dataset.choice)));
for (const id of ["pair", "heldout"]) get(id).onchange = () => run(draw());
addEventListener("keydown", (event) => {
  const choice = { a: 0, b: 1, t: null }[event.key.toLowerCase()];
  if (choice === undefined || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (!event.target.closest("input, select")) run(vote(choice));
});
run(ask("/blind/rates").then(rates).then(draw));
