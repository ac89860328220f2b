// Ranks the replies of one screen after the other; a screen is left when its judgement is on the server's disk.
import { ask, fail, get } from "/static/page.js";

const field = get("who").elements.annotator;
const annotator = field.value = new URL(location.href).searchParams.get("annotator") || field.value;
const query = `?annotator=${encodeURIComponent(annotator)}`, present = "/label/state" + query;
const unsent = `unsent ${annotator}`;  // what the server may not have yet; it survives a reload
let state = { order: [] }, groups = [], tie = false, busy = true, since = 0;

// Ask until there is an answer, and show it. A judgement that is sent again counts once, by its id.
async function send(path, body) {
  let answer, wait = 100;
  busy = true;
  if (body) localStorage.setItem(unsent, JSON.stringify([path, body]));
  while ((answer = await ask(path, body).catch((error) => error)) instanceof Error && answer.status !== 400) {
    fail(`${answer.message}: nothing is lost, trying again`);
    await new Promise((resolve) => setTimeout(resolve, wait = Math.min(2 * wait, 4000)));
  }
  if (body) localStorage.removeItem(unsent);
  if (!(answer instanceof Error)) return show(answer);
  if (body) await send(present);
  fail(answer.message);
}

function judge(ranking, all_bad = false) {
  const hex = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0"));
  const said = { id: hex.join(""), screen: state.screen.id, seconds: (performance.now() - since) / 1000 };
  send("/label/judge", { annotator, ...said, ranking, all_bad });
}

const ordinal = (place) => ["1st", "2nd", "3rd"][place] ?? `${place + 1}th`;
const cite = ([agreed, pairs], whom) => pairs && `with ${whom} ${Math.round(100 * agreed / pairs)} % (n = ${pairs})`;

function show(next) {
  const { screen, order, done, goal } = state = next, waiting = !screen && done < goal;
  [groups, tie, busy, since] = [next.restored || [], false, false, performance.now()];
  [get("done").value, get("done").max, get("count").textContent] = [done, goal, `${done} of ${goal}`];
  const agreement = [cite(next.with_self, "yourself"), cite(next.with_others, "others")].filter(Boolean).join(", ");
  get("agreement").textContent = agreement && `agreement on pairs: ${agreement}`;
  get("prompt").textContent = screen?.prompt ?? (waiting ? "The next replies are coming…" : "All done. Thank you!");
  get("replies").replaceChildren(...order.map((index, at) => {
    const row = get("reply").content.cloneNode(true), text = row.querySelector(".text");
    row.querySelector("kbd").textContent = at + 1;
    row.querySelector("button").onclick = () => press(at + 1);
    text.textContent = screen.completions[index];
    text.classList.toggle("cut", !screen.stopped[index]);
    return row;
  }));
  fail(next.problem);
  mark();
  if (waiting) return setTimeout(() => state === next && !busy && send(present), 300);
  scrollTo(0, 0);
  get("prompt").focus({ preventScroll: true });
}

// Show the place of each reply, and what the next key does.
function mark() {
  state.order.forEach((index, at) => {
    const place = groups.findIndex((group) => group.includes(index)), reply = get("replies").children[at].firstChild;
    reply.setAttribute("aria-pressed", place >= 0);
    reply.lastChild.textContent = place < 0 ? "" : ordinal(place) + (groups[place].length > 1 ? " =" : "");
  });
  const placed = groups.flat().length, count = groups.length;
  get("tie").setAttribute("aria-pressed", tie);
  const asked = tie ? `shares the ${ordinal(count - 1)} place` : count ? `is ${ordinal(count)}` : "is best";
  get("hint").textContent = placed === state.order.length ? "" : `Which reply ${asked}?`;
  for (const button of document.querySelectorAll(".keys button")) button.disabled = !state.screen;
  get("submit").disabled = placed < 2;
  get("undo").disabled = !state.last;
}

// One step; false for a key that means nothing here.
function press(key) {
  const index = state.order[key - 1], placed = groups.flat();
  if (busy) return false;
  if (key === "u" && state.last) send("/label/undo", { annotator, id: state.last });
  else if (key === "b" && state.screen) judge([], true);
  else if (key === "s" && state.screen) judge([]);
  else if (key === "enter" && placed.length > 1) judge(groups);
  else if (key === "t" && placed.length) tie = !tie;
  else if (index === undefined) return false;
  else if (placed.includes(index)) groups = groups.map((group) => group.filter((each) => each !== index));
  else if (tie) groups.at(-1).push(index);
  else groups.push([index]);
  groups = groups.filter((group) => group.length);
  tie = tie && key === "t";
  mark();
  return true;
}

addEventListener("keydown", (event) => {
  const key = /^(Digit|Numpad)\d$/.test(event.code) ? event.code.at(-1) : event.key.toLowerCase();
  const typing = event.target.closest("input, textarea, select"), other = event.target.closest("a, button:not(.reply)");
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || typing || (other && key === "enter")) return;
  if (press(key)) event.preventDefault();
});
for (const button of document.querySelectorAll("[data-key]")) button.onclick = () => press(button.dataset.key);
get("delete").onclick = () => confirm(`Delete all that ${annotator} said?`) && send("/label/delete", { annotator });
get("export").href += query;
const kept = JSON.parse(localStorage.getItem(unsent));
await send(present);
if (kept) send(...kept);
