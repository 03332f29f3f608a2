// The page: its settings, its conversation, and what its buttons do.

const $ = (id) => document.getElementById(id);

const SETTINGS = ["system", "temperature", "max_tokens", "key", "more"];
const EXAMPLES = ["Write a haiku about Ray Serve.", "What is scale to zero?", "What is a replica?"];

/** Of messages and their answers, oldest first. */
let turns = [];
/** Ends the answer that is coming. */
let controller = null;
/** Models that go on with plain text, as they have no chat template. */
const plain = new Set();

async function loadModels() {
  try {
    const { data } = await (await ask("v1/models", { key: $("key").value })).json();
    const chosen = $("model").value || sessionStorage.getItem("model");
    $("model").replaceChildren(...data.map(({ id }) => el("option", { value: id, selected: id === chosen }, id)));
    note(data.length ? "" : "No model is deployed. Deploy one with `tyndall deploy FILE`, and come back to this page.");
  } catch (error) {
    note(`The models are not known: ${error.message}. ${error.cure ?? ""}`);
    if (error.action === "settings") showSettings(true, "key");
  }
}

function note(text) {
  $("note").textContent = text;
}

/** The request, or a `Failure` when a setting is no JSON. */
function requestOf(turn) {
  let more = {};
  try {
    more = JSON.parse($("more").value.trim() || "{}");
  } catch (error) {
    throw new Failure(`more parameters are not JSON: ${error.message}`, "Correct them in the settings.", { action: "settings", param: "more" });
  }
  const model = $("model").value;
  const body = { stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
  if (model) body.model = model;
  for (const name of ["temperature", "max_tokens"]) {
    if ($(name).value !== "") body[name] = Number($(name).value);
  }
  const before = turns.slice(0, turns.indexOf(turn)).filter(({ answer }) => answer?.text);
  const system = $("system").value;
  if (plain.has(model)) {
    const texts = [system, ...before.flatMap(({ text, answer }) => [text + answer.text]), turn.text];
    return ["v1/completions", { ...body, prompt: texts.filter(Boolean).join("\n"), ...more }];
  }
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const { text, answer } of before) {
    messages.push({ role: "user", content: text }, { role: "assistant", content: answer.text });
  }
  messages.push({ role: "user", content: turn.text });
  return ["v1/chat/completions", { ...body, messages, ...more }];
}

function send(text) {
  const question = el("article", { className: "question" }, text);
  question.setAttribute("aria-label", "Message");
  const turn = { text, answer: null, element: el("section", {}, question) };
  turns.push(turn);
  $("welcome").hidden = true;
  $("log").append(turn.element);
  return answerTo(turn);
}

/** Gets a turn answered, anew when it was before. */
async function answerTo(turn) {
  turn.answer?.element.remove();
  const answer = (turn.answer = new Answer(plain.has($("model").value)));
  turn.element.append(answer.element);
  const own = (controller = new AbortController());
  busy(true);
  scrollDown(true);
  const frames = drawing(answer);
  try {
    await receive(answer, requestOf(turn), own.signal);
  } catch (error) {
    if (error.name === "AbortError") answer.finish = "stopped";
    else answer.fail(asFailure(error), (action) => act(action, turn, error.param));
  }
  frames.end();
  // A new chat may have begun meanwhile.
  if (controller === own) finish(turn);
}

async function receive(answer, [path, body], signal) {
  const response = await ask(path, { key: $("key").value, body, signal });
  answer.timing = timings(response.headers.get("server-timing"));
  const requestId = response.headers.get("x-request-id") ?? "";
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) {
      const { message = String(event.error), code = 0 } = event.error;
      throw new Failure(message, "What has come so far stays; try again for a whole answer.", { status: code, requestId });
    }
    answer.add(pieceOf(event));
  }
  throw new Failure("the connection ended before the answer did", "Try again.", { requestId });
}

function asFailure(error) {
  if (error instanceof Failure) return error;
  const isCut = error instanceof TypeError;
  return new Failure(isCut ? "the connection to the server broke" : String(error), "Try again.");
}

/** Draws an answer once per frame until its end. */
function drawing(answer) {
  let id = 0;
  const frame = () => {
    answer.draw();
    scrollDown();
    id = requestAnimationFrame(frame);
  };
  frame();
  const end = () => {
    cancelAnimationFrame(id);
    answer.draw();
    scrollDown();
  };
  return { end };
}

function finish(turn) {
  controller = null;
  busy(false);
  const { answer } = turn;
  const copy = el("button", { type: "button" }, "Copy");
  copy.onclick = async () => {
    copy.textContent = (await copyText(answer.text)) ? "Copied" : "Not allowed here";
  };
  const again = el("button", { type: "button", className: "again" }, "Regenerate");
  again.onclick = () => regenerate(turn);
  answer.tools.replaceChildren(...(answer.text ? [copy] : []), again);
  answer.tools.hidden = Boolean(answer.failure) && !answer.text;
  scrollDown();
}

/** Gets a turn answered once more; what came after it goes. */
function regenerate(turn) {
  if (controller) return;
  turns.splice(turns.indexOf(turn) + 1).forEach(({ element }) => element.remove());
  answerTo(turn);
}

/** What a button beside an error does. */
async function act(action, turn, param) {
  if (action === "settings") return showSettings(true, param);
  if (action === "models") {
    await loadModels();
    return $("model").focus();
  }
  if (action === "plain") plain.add($("model").value);
  regenerate(turn);
}

function busy(isBusy) {
  $("log").setAttribute("aria-busy", String(isBusy));
  $("send").hidden = isBusy;
  $("stop").hidden = !isBusy;
  if (isBusy) note("");
}

function newChat() {
  controller?.abort();
  controller = null;
  turns = [];
  $("log").replaceChildren();
  $("welcome").hidden = false;
  busy(false);
  $("prompt").focus();
}

function showSettings(isShown, name) {
  $("settings").hidden = !isShown;
  $("toggle").setAttribute("aria-expanded", String(isShown));
  if (isShown) $(SETTINGS.includes(name) ? name : "system").focus();
}

/** Keeps the end in sight, unless the reader has scrolled away from it. */
function scrollDown(always = false) {
  const { scrollHeight, clientHeight, scrollTop } = document.documentElement;
  if (always || scrollHeight - clientHeight - scrollTop < 120) window.scrollTo(0, scrollHeight);
}

/** Also where the page is not from a safe origin, which has no clipboard. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { value: text, className: "unseen" });
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}

function submit() {
  const text = $("prompt").value.trim();
  if (!text || controller) return;
  $("prompt").value = "";
  grow($("prompt"));
  send(text);
}

function grow(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}

function listen() {
  $("composer").onsubmit = (event) => {
    event.preventDefault();
    submit();
  };
  $("prompt").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  };
  $("prompt").oninput = () => grow($("prompt"));
  $("stop").onclick = () => controller?.abort();
  $("new").onclick = newChat;
  $("toggle").onclick = () => showSettings($("settings").hidden);
  document.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    if (controller) controller.abort();
    else showSettings(false);
  };
  $("model").onchange = () => sessionStorage.setItem("model", $("model").value);
  $("key").onchange = loadModels;
  window.onfocus = () => controller || loadModels();
  for (const name of SETTINGS) {
    $(name).value = sessionStorage.getItem(name) ?? "";
    $(name).addEventListener("input", () => sessionStorage.setItem(name, $(name).value));
  }
  const example = (text) => el("button", { type: "button", onclick: () => send(text) }, text);
  $("examples").append(...EXAMPLES.map(example));
}

listen();
loadModels();
