// What every page needs: requests to this server, and lines for the reader.
export const get = (id) => document.getElementById(id);
export const say = (line) => { get("said").textContent = line; };    // at the foot, read aloud when it is convenient
export const fail = (line) => { get("error").textContent = line; };  // at the top, read aloud at once; "" removes it

// The JSON that `path` answers, to `body` (posted) where there is one. An Error has the server's reason and its status.
export async function ask(path, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, body && post).catch(() => {
    throw Object.assign(new Error("the server does not answer"), { status: 0 });
  });
  const answer = await response.json().catch(() => ({ error: `the server answers with ${response.status}` }));
  if (!response.ok) throw Object.assign(new Error(answer.error), { status: response.status });
  return answer;
}

const address = new URL(location.href);
if (address.searchParams.has("token")) {  // it is in a cookie now, and need not stay in the history
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}
