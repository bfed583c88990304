// The chat: asks, shows the answer as it is written, and sends what the labeler thinks of it.

const root = document.getElementById("chat");
const turns = document.getElementById("turns");
const status = document.getElementById("status");
const form = document.getElementById("ask");
const content = document.getElementById("content");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const project = encodeURIComponent(root.dataset.project);
const isAttack = root.dataset.kind === "red_team";
const NAMES = { user: "You", assistant: "Model", system: "Instructions" };

let conversation = null;
let writing = null; // the AbortController of the answer that is being written

async function call(path, { method = "GET", body, keepalive = false } = {}) {
  const reply = await fetch(`/api/v1${path}`, {
    method,
    keepalive,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (reply.status === 401) location.assign("/login");
  const found = await reply.json();
  if (!reply.ok) throw new Error(found.error);
  return found;
}

function newUid() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function addTurn(role, text) {
  const item = document.createElement("li");
  item.className = role;
  const heading = document.createElement("h2");
  heading.textContent = NAMES[role];
  const body = document.createElement("div");
  body.dir = "auto";
  body.className = "writing";
  body.textContent = text;
  item.append(heading, body);
  turns.append(item);
  return { item, body };
}

// `html` comes from the server's renderer, which lets nothing through that runs or loads.
function showRendered(turn, html) {
  turn.body.className = "prose";
  turn.body.innerHTML = html;
}

function addJudge(turn, ticket, given) {
  const fields = document.getElementById(isAttack ? "attack" : "thumbs").content.cloneNode(true).firstElementChild;
  const choices = [...fields.querySelectorAll("button")];
  const reason = fields.querySelector("[data-reason]");
  const harm = fields.querySelector("[data-harm]");
  const saved = document.createElement("span");
  saved.className = "saved";
  saved.setAttribute("role", "status");
  fields.append(saved);
  const key = isAttack ? "broke" : "good";
  let chosen = given ? given[key] : null;
  let stored = Promise.resolve(); // one after another, or an older verdict could arrive last
  let last = null; // what was said last

  function showChoice() {
    for (const choice of choices) choice.setAttribute("aria-pressed", String(choice.dataset[key] === String(chosen)));
  }

  function store() {
    if (chosen === null) return;
    const answer = { [key]: chosen };
    if (reason.value.trim()) answer.reason = reason.value.trim();
    if (harm && harm.value !== "") answer.harm = Number(harm.value);
    const body = { uid: newUid(), answer };
    const tell = (sentence) => body === last && (saved.textContent = sentence);
    last = body;
    tell("saving…");
    stored = stored
      .then(() => call(`/tasks/${ticket}/label`, { method: "POST", body, keepalive: true })) // whoever leaves the page
      .then(() => tell("saved"))
      .catch((error) => tell(`not saved: ${error.message}`));
  }

  for (const choice of choices) {
    choice.addEventListener("click", () => {
      chosen = choice.dataset[key] === "true";
      showChoice();
      store();
    });
  }
  reason.addEventListener("change", store);
  if (harm) harm.addEventListener("change", store);
  if (given) {
    reason.value = given.reason ?? "";
    if (harm) harm.value = given.harm ?? "";
  }
  showChoice();
  turn.item.append(fields);
}

async function open(id) {
  const found = await call(`/conversations/${encodeURIComponent(id)}`);
  conversation = id;
  turns.replaceChildren();
  for (const one of found.turns) {
    const turn = addTurn(one.role, one.content);
    showRendered(turn, one.html);
    if (one.ticket) addJudge(turn, one.ticket, one.answer);
  }
  await listRecent();
  content.focus();
}

async function listRecent() {
  const found = await call(`/projects/${project}/conversations`);
  document.getElementById("recent").replaceChildren(
    ...found.conversations.map((one) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.dir = "auto";
      button.textContent = one.begins;
      button.setAttribute("aria-current", String(one.conversation === conversation));
      button.addEventListener("click", () => open(one.conversation).catch(report));
      item.append(button);
      return item;
    }),
  );
}

async function* linesOf(reply) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of reply.body) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop();
    yield* lines.filter(Boolean).map((line) => JSON.parse(line));
  }
}

async function ask(text) {
  const mine = addTurn("user", text);
  const turn = addTurn("assistant", "");
  try {
    if (conversation === null) {
      conversation = (await call(`/projects/${project}/conversations`, { method: "POST" })).conversation;
    }
    const reply = await fetch(`/api/v1/conversations/${conversation}/messages`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ content: text }),
      signal: writing.signal,
    });
    if (!reply.ok) throw new Error((await reply.json()).error);
    let finished = false;
    for await (const line of linesOf(reply)) {
      if (line.error) throw new Error(line.error);
      if (line.piece !== undefined) turn.body.textContent += line.piece;
      else {
        showRendered(turn, line.html);
        addJudge(turn, line.ticket, null);
        finished = true;
        status.scrollIntoView({ block: "nearest" }); // the buttons that judge it are in sight
        status.textContent = line.finished ? "The model has answered." : "The model was cut off: its answer is too long.";
      }
    }
    if (!finished) throw new Error("the answer broke off; send your message again");
  } catch (error) {
    turn.item.remove();
    mine.item.remove();
    content.value = content.value || text;
    throw error;
  }
}

function report(error) {
  status.textContent = error.name === "AbortError" ? "Stopped; nothing of the answer is kept." : error.message;
}

async function submit() {
  const text = content.value.trim();
  if (!text || writing) return;
  content.value = "";
  writing = new AbortController();
  send.disabled = true;
  stop.hidden = false;
  status.textContent = "The model is writing…";
  try {
    await ask(text);
  } catch (error) {
    report(error);
  } finally {
    writing = null;
    send.disabled = false;
    stop.hidden = true;
    content.focus();
  }
  listRecent().catch(report); // the next message need not wait for the list
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
content.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) submit();
});
stop.addEventListener("click", () => writing?.abort());
document.getElementById("begin").addEventListener("click", () => {
  writing?.abort();
  conversation = null;
  turns.replaceChildren();
  status.textContent = "";
  content.focus();
  listRecent().catch(report);
});
listRecent().catch(report);
