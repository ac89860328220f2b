// Ranks the replies of one screen after the other; a screen is left when its judgement is on the server's disk.
import { ask, fail, get } from "/static/page.js";

const field = get("who").elements.annotator;
const annotator = field.value = new URL(location.href).searchParams.get("annotator") || field.value;
const query = `?annotator=${encodeURIComponent(annotator)}`;
const unsent = `unsent ${annotator}`;  // what the server may not have yet; it survives a reload
let state = { order: [] }, groups = [], tie = false, busy = true, since = 0;

// Ask until there is an answer; a judgement that is sent again counts once, by its id.
async function send(path, body) {
  busy = true;
  localStorage.setItem(unsent, JSON.stringify([path, body]));
  for (let wait = 250, done = false; !done; wait = Math.min(2 * wait, 4000)) {
    const answer = await ask(path, body).catch((error) => error);
    done = !(answer instanceof Error) || answer.status === 400;
    if (done) localStorage.removeItem(unsent);
    if (answer.status === 400) await load();
    if (!(answer instanceof Error)) show(answer);
    else fail(answer.message + (done ? "" : ": nothing is lost, trying again"));
    if (!done) await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

function judge(ranking, all_bad = false) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const seconds = (performance.now() - since) / 1000;
  send("/label/judge", { annotator, id, screen: state.screen.id, seconds, ranking, all_bad });
}

const ordinal = (place) => ["1st", "2nd", "3rd"][place] ?? `${place + 1}th`;
const load = () => ask("/label/state" + query).then(show, (error) => fail(error.message));
const cite = ([agreed, pairs], whom) => pairs && `${Math.round(100 * agreed / pairs)} % of ${pairs} pairs as ${whom}`;

function show(next) {
  const { screen, order, done, goal, problem } = next, waiting = !screen && done < goal;
  if (waiting && !problem) setTimeout(load, 300);
  [state, groups, tie, busy] = [next, next.restored || [], false, false];
  fail(problem);
  [get("done").value, get("done").max, get("count").textContent] = [done, goal, `${done} of ${goal}`];
  get("agreement").textContent =
    [cite(next.with_self, "yourself"), cite(next.with_others, "others")].filter(Boolean).join(", ");
  get("prompt").textContent = screen?.prompt ?? (waiting ? "The next replies are on their way…" : "All done. Thank you!");
  get("replies").replaceChildren(...order.map((index, at) => {
    const row = get("reply").content.cloneNode(true), text = row.querySelector(".text");
    row.querySelector("kbd").textContent = at + 1;
    text.textContent = screen.completions[index];
    text.classList.toggle("cut", !screen.stopped[index]);
    row.querySelector("button").onclick = () => press(at + 1);
    return row;
  }));
  mark();
  document.dispatchEvent(new CustomEvent("judged", { detail: next }));
  if (waiting) return;
  since = performance.now();
  scrollTo(0, 0);
  get("prompt").focus({ preventScroll: true });
}

// Show the place of each reply, and what the next key does.
function mark() {
  state.order.forEach((index, at) => {
    const place = groups.findIndex((group) => group.includes(index)), reply = get("replies").children[at];
    reply.querySelector("button").setAttribute("aria-pressed", place >= 0);
    reply.querySelector(".place").textContent = place < 0 ? "" : ordinal(place) + (groups[place].length > 1 ? " =" : "");
  });
  const placed = groups.flat().length, left = state.order.length - placed;
  get("tie").setAttribute("aria-pressed", tie);
  get("hint").textContent = !left ? "" : tie ? `Which reply shares the ${ordinal(groups.length - 1)} place?`
    : placed ? `Which reply is ${ordinal(groups.length)}?` : "Which reply is best?";
  for (const button of document.querySelectorAll(".keys button")) {
    const undo = button.dataset.key === "u";
    button.disabled = undo ? !state.last : !state.screen || (button.dataset.key === "enter" && placed < 2);
  }
}

// One step; false for a key that means nothing here.
function press(key) {
  const index = state.order[key - 1], placed = groups.flat();
  if (busy) return false;
  if (key === "u" && state.last) send("/label/undo", { annotator, id: state.last });
  else if (!state.screen) return false;
  else if (key === "b") judge([], true);
  else if (key === "s") judge([]);
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
await load();
if (kept) send(...kept);
