// Play: one speech, everybody's reply to it.
import { ask, fail, get, say } from "/static/page.js";

const columns = {};
for (const column of document.querySelectorAll("[data-who]")) columns[column.dataset.who] = column;
let talk = [];         // [speaker, text] of what was said before
let asked = {};        // what the replies that are shown answer
let request = 0;       // a later one makes the replies of an earlier one void

const part = (column, name) => column.querySelector(name);
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });

async function replies() {
  const mine = ++request, said = [...talk, [get("speaker").value, get("text").value]];
  const told = [...document.querySelectorAll(".asked")].filter((field) => field.value.trim());
  asked = { speakers: said.map(([who]) => who), texts: said.map(([, text]) => text), answerer: get("answerer").value,
    asked: told.map((field) => (field.dataset.text ?? "{}").replace("{}", () => field.value.trim())).join(", ") };
  const set = ["temperature", "top_k", "top_p", "length", "seed"].filter((id) => get(id).value);
  const sampling = Object.fromEntries(set.map((id) => [id, Number(get(id).value)]));
  fail(""), say("");
  for (const column of Object.values(columns)) {
    part(column, ".text").textContent = "…";
    part(column, ".text").classList.remove("cut");
    part(column, ".judged").replaceChildren();
    part(column, "button").hidden = true;
  }
  for await (const event of lines("/play/answer", { ...asked, ...sampling, whom: Object.keys(columns) })) {
    if (mine !== request) return;
    const column = columns[event.who];
    part(column, ".text").textContent = event.error || event.text || (event.ids ? "(says nothing)" : "…");
    if (!event.ids) continue;
    column.reply = event;
    part(column, ".text").classList.toggle("cut", !event.stopped);
    part(column, "button").hidden = !event.text.trim();
    if (get("judged").checked) judge(column, mine).catch(failed);
  }
  if (mine === request) say("All have answered.");
}

// The objects that `path` answers, one per line.
async function* lines(path, body) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error((await answer.json()).error);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", read = await reader.read(); !read.done; read = await reader.read()) {
    const whole = (rest + read.value).split("\n");
    rest = whole.pop();
    for (const line of whole) yield JSON.parse(line);
  }
}

async function judge(column, mine) {
  const found = await ask("/play/judge", { ...asked, who: column.dataset.who, ids: column.reply.ids });
  if (mine !== request) return;
  const scores = Object.entries(found.scores).map(([name, score]) => `${name} ${signed(score)}`);
  const terms = Object.entries(found.terms).map(([name, value]) => `${name} ${value.toFixed(2)}`);
  const most = found.tokens.filter(([, ratio]) => Math.abs(ratio) > 0.5);
  most.sort(([, a], [, b]) => Math.abs(b) - Math.abs(a));
  const changed = most.slice(0, 4).map(([text, ratio]) => `“${text.trim() || "↵"}” ${signed(ratio)}`);
  part(column, ".text").replaceChildren(...found.tokens.map(([text, ratio]) => {
    const token = make("mark", text);
    [token.title, token.className] = [`${signed(ratio)} nats`, ratio < 0 ? "less" : "more"];
    token.style.setProperty("--share", `${Math.min(45, Math.abs(ratio) * 20)}%`);
    return token;
  }));
  part(column, ".judged").replaceChildren(make("b", [...scores, `gold ${found.gold.toFixed(2)}`].join(" · ")),
    make("p", terms.join(" · ")), make("p", changed.length ? `Changed most: ${changed.join(", ")}` : ""));
}

function tell(said) {
  talk = said;
  get("talk").replaceChildren(...talk.map(([who, text]) => make("p", `${who}:\n${text}`)));
}

const failed = (error) => fail(error.message), go = () => replies().catch(failed);
get("form").onsubmit = (event) => { event.preventDefault(); go(); };
get("again").onclick = () => { get("seed").value = Number(get("seed").value) + 1; go(); };
get("restart").onclick = () => { tell([]); go(); };
get("judged").onchange = () => { get("legend").hidden = !get("judged").checked; go(); };
get("cue").onclick = () => ask("/play/cue").then((cue) => {
  for (const [id, value] of Object.entries(cue)) get(id).value = value;
  go();
}).catch(failed);
for (const column of Object.values(columns)) {
  part(column, "button").onclick = () => {
    tell([...asked.speakers.map((who, i) => [who, asked.texts[i]]), [asked.answerer, column.reply.text]]);
    get("text").value = "";
    get("text").focus();
  };
}
go();
